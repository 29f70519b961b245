"""Crops in one small file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.embedding.degrade import jpeg_round_trip
from engine.errors import CorruptDataError, InvalidInputError, InvalidPictureError
from engine.trainer.crop_files import keep_crops
from engine.trainer.crop_set import CropRows, CropSet
from engine.trainer.crops import open_crops
from engine.trainer.pack import main, pack, unpack


@pytest.fixture
def crops(rng: np.random.Generator) -> CropSet:
    """Five crops of two people, smooth as pictures are."""
    coarse = rng.integers(0, 256, (5, 4, 4, 3))
    pixels = np.kron(coarse, np.ones((1, 28, 28, 1))).astype(np.uint8)
    labels = np.array([1, 0, 1, 1, 0])
    return CropSet(CropRows(pixels), labels, ("Ann", "José"), tuple("abcde"), "arcface-112")


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
    assert not (tmp_path / "cache" / "arcface-112").exists()


def test_other_crops_in_the_folder_are_left_alone(tmp_path: Path, crops: CropSet) -> None:
    keep_crops(tmp_path / "cache", crops.subset(np.array([0, 1])))
    pack(crops, tmp_path / "crops.npz")
    with pytest.raises(InvalidInputError, match="other crops"):
        unpack(tmp_path / "crops.npz", tmp_path / "cache")
    path = tmp_path / "cache" / "arcface-112" / "crops.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptDataError):
        unpack(tmp_path / "crops.npz", tmp_path / "cache")


def test_the_command_packs_and_unpacks(
    tmp_path: Path, crops: CropSet, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_crops(tmp_path / "cache", crops)
    pack_path, other = str(tmp_path / "p.npz"), str(tmp_path / "other")
    assert main(["--crops", str(tmp_path / "cache"), "--to", pack_path]) == 0
    assert "5 crops arcface-112 of 2 identities" in capsys.readouterr().err
    assert main(["--crops", other, "--from", pack_path]) == 0
    assert open_crops(tmp_path / "other", "arcface-112").keys == crops.keys
    assert main(["--crops", other, "--to", pack_path, "--alignment", "dlib-150"]) == 1
    assert "error: " in capsys.readouterr().err
