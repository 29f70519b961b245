"""Crops in one small file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.embedding.degrade import encode_jpeg, jpeg_round_trip
from engine.errors import InvalidInputError, InvalidPictureError
from engine.trainer.crop_files import is_kept
from engine.trainer.crop_set import CropRows, CropSet
from engine.trainer.crops import open_crops
from engine.trainer.pack import main, pack
from engine.trainer.pack import unpack as unpack_of
from tests.unit.trainer.faces import keep_crops, made_up_crops


@pytest.fixture
def crops(rng: np.random.Generator) -> CropSet:
    """Five crops of two people, smooth as pictures are."""
    coarse = rng.integers(0, 256, (5, 4, 4, 3))
    pixels = np.kron(coarse, np.ones((1, 28, 28, 1))).astype(np.uint8)
    labels = np.array([1, 0, 1, 1, 0])
    return CropSet(CropRows(pixels), labels, ("Ann", "José"), tuple("abcde"), "arcface-112")


def unpack(path: Path, folder: Path) -> CropSet:
    return unpack_of(path, folder, "arcface-112")


def test_what_is_packed_comes_back_as_jpeg_leaves_it(tmp_path: Path, crops: CropSet) -> None:
    size_bytes = pack(crops, tmp_path / "crops.npz")
    assert size_bytes == (tmp_path / "crops.npz").stat().st_size < crops.crops.nbytes / 5
    back = unpack(tmp_path / "crops.npz", tmp_path / "cache")
    assert (back.identities, back.keys, back.alignment) == (crops.identities, crops.keys, crops.alignment)
    assert np.array_equal(back.labels, crops.labels)
    for before, after in zip(crops.crops[:], back.crops[:], strict=True):
        # Two decoders: no more than a rounding apart.
        assert np.abs(after.astype(int) - jpeg_round_trip(before, 90)).max() <= 6
    assert np.abs(back.crops[:].astype(int) - crops.crops[:]).mean() < 4.0
    assert unpack(tmp_path / "crops.npz", tmp_path / "cache").digest == back.digest
    assert open_crops(tmp_path / "cache", "arcface-112").digest == back.digest


def test_a_pack_is_the_same_bytes_each_time(tmp_path: Path, crops: CropSet) -> None:
    sizes = [pack(crops, tmp_path / name, quality) for name, quality in (("a", 90), ("b", 90), ("c", 40))]
    first, second = ((tmp_path / name).read_bytes() for name in "ab")
    assert len(first) == len(second)
    assert sizes[2] < sizes[0]
    assert unpack(tmp_path / "a", tmp_path / "x").digest == unpack(tmp_path / "b", tmp_path / "y").digest


def test_a_pack_too_large_is_not_written(tmp_path: Path, crops: CropSet) -> None:
    with pytest.raises(InvalidInputError, match="at most 3,000 are allowed"):
        pack(crops, tmp_path / "crops.npz", size_bytes_max=3000)
    with pytest.raises(InvalidPictureError, match="quality"):
        pack(crops, tmp_path / "crops.npz", quality=0)
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_pack_are_refused(tmp_path: Path, crops: CropSet) -> None:
    path = tmp_path / "crops.npz"
    with pytest.raises(InvalidInputError, match="cannot read"):
        unpack(path, tmp_path / "cache")
    pack(crops, path)
    data = path.read_bytes()
    for damaged in (b"", b"no pack", data[:-30], data[: len(data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInputError, match=r"no whole pack|cannot read"):
            unpack(path, tmp_path / "cache")
    np.savez(path, names=np.zeros(3, np.uint8))
    with pytest.raises(InvalidInputError, match="no whole pack"):
        unpack(path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ends", np.array([1, 2, 3, 4, 5])),
        ("ends", np.array([100, 50, 200, 300, 400])),
        ("ends", np.array([0.5])),
        ("labels", np.array([0, 1])),
        ("labels", np.array([0, 1, 2, 5, 5])),
        ("jpegs", np.zeros(40, np.int64)),
        ("names", np.frombuffer(b"[]", np.uint8)),
        (
            "names",
            np.frombuffer(
                b'{"keys":["1","2","3","4","5"],"identities":["a","b"],"alignment":"x/../..","side_px":112}',
                np.uint8,
            ),
        ),
    ],
)
def test_parts_of_a_pack_that_do_not_fit_are_refused(
    tmp_path: Path, crops: CropSet, name: str, wrong: Any
) -> None:
    pack(crops, tmp_path / "crops.npz")
    with np.load(tmp_path / "crops.npz") as arrays:
        parts = {key: arrays[key] for key in arrays.files}
    np.savez(tmp_path / "wrong.npz", **{**parts, name: wrong})
    with pytest.raises(InvalidInputError):
        unpack(tmp_path / "wrong.npz", tmp_path / "cache")
    assert not is_kept(tmp_path / "cache", "arcface-112")


def test_a_crop_of_another_side_is_refused(tmp_path: Path, crops: CropSet) -> None:
    pack(crops, tmp_path / "crops.npz")
    with np.load(tmp_path / "crops.npz") as arrays:
        parts = {key: arrays[key] for key in arrays.files}
    # One that NumPy would spread over the whole crop.
    small = np.frombuffer(encode_jpeg(np.zeros((1, 1, 3), np.uint8), 90), np.uint8)
    parts["jpegs"] = np.concatenate([parts["jpegs"][: parts["ends"][3]], small])
    parts["ends"] = np.append(parts["ends"][:4], len(parts["jpegs"]))
    np.savez(tmp_path / "wrong.npz", **parts)
    with pytest.raises(InvalidInputError, match=r"crop 4, e, is \[1, 1, 3\], not of side 112"):
        unpack(tmp_path / "wrong.npz", tmp_path / "cache")
    assert not is_kept(tmp_path / "cache", "arcface-112")


def test_crops_of_another_alignment_are_refused_before_anything_is_written(
    tmp_path: Path, crops: CropSet
) -> None:
    pack(crops, tmp_path / "crops.npz")
    with pytest.raises(InvalidInputError, match="holds crops arcface-112; the network takes dlib-150"):
        unpack_of(tmp_path / "crops.npz", tmp_path / "cache", "dlib-150")
    assert not (tmp_path / "cache").exists()


def test_crops_of_other_making_in_the_folder_are_left_alone(tmp_path: Path, crops: CropSet) -> None:
    before = keep_crops(tmp_path / "cache", crops.subset(np.array([0, 1])))
    pack(crops, tmp_path / "crops.npz")
    with pytest.raises(InvalidInputError, match="other things"):
        unpack(tmp_path / "crops.npz", tmp_path / "cache")
    assert open_crops(tmp_path / "cache", "arcface-112").digest == before.digest


def test_a_pack_is_unpacked_once_and_anew_where_it_or_the_folder_changed(
    tmp_path: Path, crops: CropSet, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(crops, tmp_path / "crops.npz")
    kept = tmp_path / "cache" / "arcface-112" / "crops.npy"
    first = unpack(tmp_path / "crops.npz", tmp_path / "cache")
    digest, number = first.digest, kept.stat().st_ino
    assert unpack(tmp_path / "crops.npz", tmp_path / "cache").digest == digest
    assert kept.stat().st_ino == number
    # As a disk would tear it, and as a run killed before the index would leave it.
    for is_torn in (True, False):
        if is_torn:
            kept.write_bytes(kept.read_bytes()[:-1] + b"?")
        else:
            (kept.parent / "index").unlink()
        assert unpack(tmp_path / "crops.npz", tmp_path / "cache").digest == digest
        assert ("damaged" in capsys.readouterr().err) == is_torn
    pack(crops.subset(np.array([0, 1, 2])), tmp_path / "crops.npz")
    assert len(unpack(tmp_path / "crops.npz", tmp_path / "cache")) == 3
    assert "the source has changed" in capsys.readouterr().err


def test_the_command_packs_the_crops_that_are_there(
    tmp_path: Path, crops: CropSet, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, pack_path = str(tmp_path / "cache"), str(tmp_path / "p.npz")
    assert main(["--crops", cache, "--to", pack_path]) == 1
    assert "error: " in capsys.readouterr().err
    keep_crops(tmp_path / "cache", made_up_crops([2, 1]))
    assert main(["--crops", cache, "--to", pack_path]) == 0
    told = capsys.readouterr().err
    assert "3 crops dlib-150 of 2 identities" in told
    assert "identiface train run RUN --data p.npz" in told
    keep_crops(tmp_path / "cache", crops)
    assert main(["--crops", cache, "--to", pack_path]) == 1
    assert "crops arcface-112 and dlib-150" in capsys.readouterr().err
    assert main(["--crops", cache, "--to", pack_path, "--alignment", "arcface-112"]) == 0
    assert unpack(tmp_path / "p.npz", tmp_path / "other").keys == crops.keys
    with pytest.raises(SystemExit):
        main(["--crops", cache, "--to", str(tmp_path / "p.zip")])
    assert "must end in .npz" in capsys.readouterr().err
