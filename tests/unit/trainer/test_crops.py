"""Labelled pictures to aligned crops, kept in a folder."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.embedding.align import ARCFACE, DLIB, align
from engine.embedding.detect import Detector
from engine.embedding.images import decode, encode_png
from engine.embedding.pipeline import choose
from engine.errors import CorruptDataError, DeviceError, InvalidInputError, PreconditionError
from engine.trainer import crops as crops_module
from engine.trainer.crop_files import FORMAT, Recipe, keep_only
from engine.trainer.crop_set import CropRows, CropSet
from engine.trainer.crops import CropSettings, build_crops, describe, open_crops, refusals_of
from engine.types import FaceChoice
from indexer.items import Item, Refusal
from indexer.sources import open_source
from indexer.sources.folder import FolderSource
from tests.unit.trainer.faces import keep_crops

PEOPLE = {"Aaron_Peirsol": (1, 2), "Abdullah": (1, 2), "Adam_Sandler": (1,)}
Pixels = NDArray[np.uint8]


@pytest.fixture
def pixels(rng: np.random.Generator) -> Pixels:
    return rng.integers(0, 256, (6, 4, 4, 3), np.uint8)


def set_of(pixels: Pixels) -> CropSet:
    labels = np.array([2, 0, 1, 0, 2, 2])
    return CropSet(CropRows(pixels), labels, ("ann", "bob", "cy"), tuple("abcdef"), "arcface-112")


@pytest.fixture
def folder(tmp_path: Path, data_folder: Path) -> Iterator[Path]:
    """Five pictures of three people of LFW in its own layout."""
    for name, numbers in PEOPLE.items():
        place = tmp_path / "pictures" / name
        place.mkdir(parents=True)
        for number in numbers:
            shutil.copy(data_folder / "lfw" / "images" / name / f"{name}_{number:04d}.jpg", place)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "pictures"
    torch.set_num_threads(num_threads)


class Interrupted(FolderSource):
    """Breaks off after so many pictures, as Ctrl-C would."""

    num_left = 10**9
    num_read = 0

    def read(self, item: Item) -> bytes:
        if self.num_read >= self.num_left:
            raise KeyboardInterrupt
        self.num_read += 1
        return super().read(item)


def test_a_subset_is_numbered_anew_and_reads_nothing(pixels: Pixels) -> None:
    part = set_of(pixels).subset(np.array([5, 1, 3]))
    assert part.identities == ("ann", "cy")
    assert part.labels.tolist() == [1, 0, 0]
    assert part.keys == ("f", "b", "d")
    assert part.counts.tolist() == [2, 1]
    assert np.array_equal(part.crops[:], pixels[[5, 1, 3]])
    assert np.array_equal(part.crops[1], pixels[1])
    assert np.array_equal(part.crops[part.labels == 0], pixels[[1, 3]])
    assert np.array_equal(np.asarray(part.crops), pixels[[5, 1, 3]])
    assert np.array_equal(part.subset(np.array([2])).crops[:], pixels[[3]])
    for rows in ([], [6], [-1], [[0]]):
        with pytest.raises(InvalidInputError, match="subset"):
            set_of(pixels).subset(np.array(rows, np.int64))


def test_the_digest_tells_pixels_people_keys_and_order_apart(pixels: Pixels) -> None:
    crops = set_of(pixels)
    changed = pixels.copy()
    changed[3, 0, 0, 0] ^= 1
    one = {"labels": np.array([2, 0, 1, 1, 2, 2])}, {"keys": tuple("abcdeg")}, {"alignment": "dlib-150"}
    fields = {name: getattr(crops, name) for name in ("crops", "labels", "identities", "keys", "alignment")}
    others = [CropSet(**{**fields, **other}) for other in one]
    others += [set_of(changed), crops.subset(np.arange(5)), crops.subset(np.array([1, 0, 2, 3, 4, 5]))]
    assert len({crops.digest, *(other.digest for other in others)}) == 7
    assert crops.subset(np.arange(6)).digest == crops.digest == set_of(pixels.copy()).digest


def test_parts_that_do_not_fit_are_refused(pixels: Pixels) -> None:
    rows, keys = CropRows(pixels), tuple("abcdef")
    for labels, identities, message in (
        ([0, 0, 2, 2, 3, 3], ("a", "b", "c", "d"), "3 different ones, but must be 0 to 3"),
        ([0, 0, 1, 1, 2, 7], ("a", "b", "c"), "labels go from 0 to 7"),
        ([0, 0, 1, 1, 1, 1], ("b", "a"), "sorted"),
        ([0, 0, 1, 1, 1], ("a", "b"), "6 crops, 5 labels and 6 keys"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            CropSet(rows, np.array(labels), identities, keys, "arcface-112")
    with pytest.raises(InvalidInputError, match="at least one"):
        CropSet(CropRows(pixels[:0]), np.array([], np.int64), (), (), "arcface-112")
    with pytest.raises(InvalidInputError, match=r"uint8\[n, s, s, 3\]"):
        CropSet(CropRows(pixels[:, 1:]), np.zeros(6, np.int64), ("a",), keys, "arcface-112")


def test_kept_crops_come_back_and_travel_as_a_path(tmp_path: Path, pixels: Pixels) -> None:
    crops = set_of(pixels)
    kept = keep_crops(tmp_path, crops)
    again = open_crops(tmp_path, "arcface-112")
    assert kept.digest == again.digest == crops.digest
    assert (again.identities, again.keys) == (crops.identities, crops.keys)
    sent = pickle.dumps(again.crops.take(np.array([4, 0])))
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent)[:], pixels[[4, 0]])
    assert np.array_equal(pickle.loads(pickle.dumps(crops.crops.take(np.array([3]))))[:], pixels[[3]])
    with pytest.raises(InvalidInputError, match="no finished crops dlib-150") as raised:
        open_crops(tmp_path, "dlib-150")
    assert "identiface train run" in raised.value.hint


@pytest.mark.parametrize("is_gone", [False, True])
def test_crops_that_travelled_are_not_read_from_a_file_that_took_their_place(
    tmp_path: Path, pixels: Pixels, is_gone: bool
) -> None:
    mine = keep_crops(tmp_path, set_of(pixels))
    sent = pickle.dumps(mine.crops)
    assert np.array_equal(pickle.loads(sent)[0], pixels[0])
    if is_gone:
        shutil.rmtree(tmp_path / "arcface-112")
    else:
        keep_crops(tmp_path, set_of(255 - pixels))
    with pytest.raises(PreconditionError, match="made anew by another run"):
        pickle.loads(sent)[0]
    # Who has them open still reads their own.
    assert np.array_equal(mine.crops[:], pixels)


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "gone"])
def test_torn_crops_are_found(tmp_path: Path, pixels: Pixels, damage: str) -> None:
    keep_crops(tmp_path, set_of(pixels))
    path = tmp_path / "arcface-112" / "crops.npy"
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        data[-20] ^= 1
        path.write_bytes(data)
        open_crops(tmp_path, "arcface-112", is_checked=False)
    else:
        path.write_bytes(data[:-20] if damage == "short" else b"")
    with pytest.raises(CorruptDataError, match="damaged"):
        open_crops(tmp_path, "arcface-112")


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80"])
def test_a_torn_index_is_found(tmp_path: Path, pixels: Pixels, data: bytes) -> None:
    keep_crops(tmp_path, set_of(pixels))
    (tmp_path / "arcface-112" / "index").write_bytes(data)
    with pytest.raises(CorruptDataError, match="damaged"):
        open_crops(tmp_path, "arcface-112")


@pytest.mark.data
def test_crops_are_those_of_our_pipeline(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(folder)
    crops = build_crops(source, tmp_path / "cache", ARCFACE)  # type: ignore[arg-type]
    assert list(crops.identities) == sorted(place.name for place in folder.iterdir())
    detector = Detector()
    for row, key in enumerate(crops.keys):
        picture = decode((folder / key).read_bytes())
        (faces,) = detector.detect([picture], 70)
        (face,) = choose(faces, FaceChoice.CENTRE, *picture.shape[1::-1])
        assert np.array_equal(crops.crops[row], align(picture, face.keypoints, ARCFACE))
        assert crops.identities[crops.labels[row]] == Path(key).parent.name
    assert "with one picture only, of use as negatives alone" in capsys.readouterr().err
    assert not (tmp_path / "cache" / ARCFACE.name / "parts").exists()


@pytest.mark.data
def test_a_second_run_opens_and_a_second_alignment_detects_nothing(tmp_path: Path, folder: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(DeviceError):
        build_crops(FolderSource(folder), cache, ARCFACE, device="nowhere")
    first = build_crops(FolderSource(folder), cache, ARCFACE)
    written = (cache / ARCFACE.name / "crops.npy").stat().st_mtime_ns
    # A detector cannot be made on that device: it was not needed.
    again = build_crops(FolderSource(folder), cache, ARCFACE, device="nowhere")
    assert again.digest == first.digest
    assert (cache / ARCFACE.name / "crops.npy").stat().st_mtime_ns == written
    second = build_crops(FolderSource(folder), cache, DLIB, device="nowhere")
    anew = build_crops(FolderSource(folder), tmp_path / "other", DLIB)
    assert second.digest == anew.digest
    assert second.keys == first.keys


@pytest.mark.data
def test_torn_crops_are_made_anew_from_known_faces(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    first = build_crops(FolderSource(folder), cache, ARCFACE)
    digest = first.digest
    path = cache / ARCFACE.name / "crops.npy"
    path.write_bytes(path.read_bytes()[:-1000])
    assert build_crops(FolderSource(folder), cache, ARCFACE, device="nowhere").digest == digest
    assert "made anew" in capsys.readouterr().err


@pytest.mark.data
def test_a_changed_source_is_made_anew(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    first = build_crops(FolderSource(folder), cache, ARCFACE)
    (folder / "Adam_Sandler").rename(folder / "Zoe")
    second = build_crops(FolderSource(folder), cache, ARCFACE)
    assert second.identities == (*first.identities[:2], "Zoe")
    assert "the source has changed" in capsys.readouterr().err
    build_crops(FolderSource(folder), cache, ARCFACE, CropSettings(min_face_px=60))
    assert "the settings have changed" in capsys.readouterr().err


@pytest.mark.data
def test_faces_are_looked_for_anew_where_settings_or_source_changed(tmp_path: Path, folder: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(InvalidInputError, match="none of 5 pictures"):
        build_crops(FolderSource(folder), cache, ARCFACE, CropSettings(min_face_px=400))
    assert len(build_crops(FolderSource(folder), cache, ARCFACE)) == 5
    wall = encode_png(np.full((99, 99, 3), 90, np.uint8))
    (folder / "Abdullah" / "Abdullah_0001.jpg").write_bytes(wall)
    changed = build_crops(FolderSource(folder), cache, ARCFACE)
    assert len(changed) == 4
    assert changed.digest == build_crops(FolderSource(folder), tmp_path / "other", ARCFACE).digest


def test_only_what_the_same_recipe_made_is_kept(tmp_path: Path) -> None:
    recipe = Recipe(FORMAT, "digest", {"min_face_px": 70})
    keep_only(tmp_path, recipe)
    made = [tmp_path / "faces" / "00000", tmp_path / "a" / "parts" / "00000", tmp_path / "b" / "index"]
    # Broken off before its index was there.
    made.append(tmp_path / "c" / "crops.npy")
    theirs = tmp_path / "notes" / "mine"
    for others in (
        Recipe(FORMAT, "other", recipe.settings),
        Recipe(FORMAT, "digest", {"min_face_px": 60}),
        Recipe(FORMAT + 1, "digest", recipe.settings),
    ):
        for path in (*made, theirs):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        keep_only(tmp_path, recipe)
        assert all(path.exists() for path in made)
        keep_only(tmp_path, others)
        assert {path.name for path in tmp_path.iterdir()} == {"recipe", "notes"}
        assert theirs.exists()
        keep_only(tmp_path, recipe)


@pytest.mark.data
def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops_module, "SHARD_PICTURES", 2)
    cache = tmp_path / "cache"
    source = Interrupted(folder)
    source.num_left = 3
    with pytest.raises(KeyboardInterrupt):
        build_crops(source, cache, ARCFACE)
    with pytest.raises(InvalidInputError, match="no finished crops"):
        open_crops(cache, ARCFACE.name)
    num_pictures = sum(isinstance(one, Item) for one in source.items())
    source.num_left, source.num_read = 10**9, 0
    crops = build_crops(source, cache, ARCFACE)
    assert source.num_read == num_pictures - 2
    assert crops.digest == build_crops(FolderSource(folder), tmp_path / "other", ARCFACE).digest


@pytest.mark.data
def test_pictures_without_a_crop_are_refused_counted_and_stop_nothing(tmp_path: Path, folder: Path) -> None:
    (folder / "Aaron_Peirsol" / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    (folder / "Broken").mkdir()
    (folder / "Broken" / "a.png").write_bytes(b"")
    (folder / "Broken" / "wall.png").write_bytes(encode_png(np.full((99, 99, 3), 90, np.uint8)))
    (folder / "stray.jpg").write_bytes(b"of nobody")
    (folder / "Aaron_Peirsol" / "gone.jpg").symlink_to(folder / "Aaron_Peirsol" / "nowhere.jpg")
    big = folder / "Broken" / "big.jpg"
    big.write_bytes(bytes(2**20))
    limits = CropSettings().limits
    settings = CropSettings(limits=type(limits)(bytes_max=2**19))
    crops = build_crops(FolderSource(folder), tmp_path / "cache", ARCFACE, settings)
    refused = {one.key: one.reason for one in refusals_of(tmp_path / "cache", ARCFACE.name)}
    assert refused == {
        "Aaron_Peirsol/gone.jpg": "bad_path",
        "Aaron_Peirsol/torn.jpg": "undecodable",
        "Broken/a.png": "undecodable",
        "Broken/big.jpg": "too_large",
        "Broken/wall.png": "no_face",
        "stray.jpg": "bad_identity",
    }
    assert "Broken" not in crops.identities
    text = describe(crops, refusals_of(tmp_path / "cache", ARCFACE.name))
    assert "6 pictures refused: 1 bad_identity, 1 bad_path, 1 no_face, 1 too_large, 2 undecodable" in text


def test_a_source_without_faces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s" / "Wall").mkdir(parents=True)
    (tmp_path / "s" / "Wall" / "a.png").write_bytes(encode_png(np.full((99, 99, 3), 90, np.uint8)))
    with pytest.raises(InvalidInputError, match=r"none of 1 pictures gives a crop.*Wall/a.png: no face"):
        build_crops(FolderSource(tmp_path / "s"), tmp_path / "cache", ARCFACE)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "stray.png").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="no picture that can be used, 1 were refused"):
        build_crops(FolderSource(tmp_path / "t"), tmp_path / "cache", ARCFACE)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s" / "Wall").mkdir(parents=True)
    (tmp_path / "s" / "Wall" / "a.png").write_bytes(b"x")
    (tmp_path / "home" / "faces").mkdir(parents=True)
    (tmp_path / "home" / "faces" / "mine").write_text("mine")
    with pytest.raises(InvalidInputError, match="other things"):
        build_crops(FolderSource(tmp_path / "s"), tmp_path / "home", ARCFACE)
    assert (tmp_path / "home" / "faces" / "mine").read_text() == "mine"


def items_of(source: FolderSource) -> Iterator[tuple[Item, bytes]]:
    for one in source.items():
        assert not isinstance(one, Refusal)
        yield one, source.read(one)


@pytest.mark.data
def test_hdf5_and_tar_give_the_crops_of_the_folder(tmp_path: Path, folder: Path) -> None:
    by_folder = build_crops(FolderSource(folder), tmp_path / "folder-cache", ARCFACE)
    listed = list(items_of(FolderSource(folder)))
    # Labels with gaps, as data sets come, in the order of the names.
    numbers = {name: 10 + 7 * place for place, name in enumerate(by_folder.identities)}
    with h5py.File(tmp_path / "d.h5", "w") as file:
        rows = file.create_dataset("images", len(listed), h5py.vlen_dtype(np.uint8))
        for row, (_, data) in enumerate(listed):
            rows[row] = np.frombuffer(data, np.uint8)
        file["labels"] = [numbers[item.identity_id] for item, _ in listed]
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        for row, (item, data) in enumerate(listed):
            for suffix, content in (
                ("jpg", data),
                ("json", json.dumps({"identity_id": item.identity_id}).encode()),
            ):
                member = tarfile.TarInfo(f"{row:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for name in ("d.h5", "d.tar"):
        crops = build_crops(open_source(tmp_path / name), tmp_path / f"{name}-cache", ARCFACE)  # type: ignore[arg-type]
        assert np.array_equal(crops.labels, by_folder.labels)
        assert np.array_equal(crops.crops[:], by_folder.crops[:])
