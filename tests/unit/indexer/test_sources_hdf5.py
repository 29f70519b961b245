"""HDF5 of images and labels: the layouts that are read, and those that are refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.embedding.images import decode, encode_png
from engine.errors import InvalidInputError
from indexer.items import Item, Reason, Refusal
from indexer.sources.hdf5 import Hdf5Source


@pytest.fixture
def pictures(rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8[3, 8, 6, 3]"""
    return rng.integers(0, 256, (3, 8, 6, 3), np.uint8)


def write(folder: Path, **data_sets: Any) -> Path:
    path = folder / "d.h5"
    with h5py.File(path, "w") as file:
        for name, data in data_sets.items():
            file[name] = data
    return path


def read_all(source: Hdf5Source) -> NDArray[np.uint8]:
    return np.stack([decode(source.read(item)) for item in source.items() if isinstance(item, Item)])


@pytest.mark.parametrize("layout", ["last", "first", "float", "grey", "one", "first one", "compressed"])
def test_pixels_of_each_layout_come_out_as_they_went_in(
    tmp_path: Path, pictures: NDArray[np.uint8], layout: str
) -> None:
    grey = pictures[..., :1]
    layouts: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
        "last": (pictures, pictures),
        "compressed": (pictures, pictures),
        "first": (pictures.transpose(0, 3, 1, 2), pictures),
        "float": (pictures / np.float32(255), pictures),
        "grey": (grey[..., 0], grey.repeat(3, axis=3)),
        "one": (grey, grey.repeat(3, axis=3)),
        "first one": (grey.transpose(0, 3, 1, 2), grey.repeat(3, axis=3)),
    }
    stored, expected = layouts[layout]
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        more = {"chunks": (2, *stored.shape[1:]), "compression": "gzip"} if layout == "compressed" else {}
        file.create_dataset("images", data=stored, **more)
        file["labels"] = [5, 6, 5]
    source = Hdf5Source(path)
    found = list(source.items())
    assert [(one.key, one.identity_id) for one in found] == [
        ("d.h5:0", "5"),
        ("d.h5:1", "6"),
        ("d.h5:2", "5"),
    ]
    assert (read_all(source) == expected).all()
    assert (read_all(pickle.loads(pickle.dumps(source))) == expected).all()


def test_encoded_files_are_handed_out_as_they_are(tmp_path: Path, pictures: NDArray[np.uint8]) -> None:
    files = [encode_png(picture) for picture in pictures]
    with h5py.File(tmp_path / "d.h5", "w") as file:
        encoded = file.create_dataset("X", (3,), h5py.vlen_dtype(np.uint8))
        for row, data in enumerate(files):
            encoded[row] = np.frombuffer(data, np.uint8)
        file["Y"] = np.array(["ann", "José", "a\nb"], h5py.string_dtype())
    source = Hdf5Source(tmp_path / "d.h5")
    ann, jose, bad = source.items()
    assert isinstance(ann, Item)
    assert isinstance(jose, Item)
    assert (ann.identity_id, jose.identity_id) == ("ann", "José")
    assert [source.read(ann), source.read(jose)] == files[:2]
    assert isinstance(bad, Refusal)
    assert bad.reason == Reason.BAD_IDENTITY


def test_data_sets_may_be_named(tmp_path: Path, pictures: NDArray[np.uint8]) -> None:
    path = write(tmp_path, **{"train/pixels": pictures, "train/who": np.array([b"a", b"b", b"\xff"])})
    with pytest.raises(InvalidInputError, match="it has train/pixels, train/who"):
        Hdf5Source(path)
    a, b, bad = Hdf5Source(path, "train/pixels", "/train/who").items()
    assert (a.identity_id, b.identity_id) == ("a", "b")
    assert isinstance(bad, Refusal)
    with pytest.raises(InvalidInputError, match="no data set 'gone'"):
        Hdf5Source(path, "gone", "train/who")
    with pytest.raises(InvalidInputError, match="is no data set of rows"):
        Hdf5Source(path, "train", "train/who")


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((3, 8, 6, 4), np.uint8), [1, 2, 3], "images are"),
        (np.zeros((3, 8, 6, 3), np.uint16), [1, 2, 3], "images are"),
        (np.zeros((3, 8), np.uint8), [1, 2, 3], "images are"),
        (np.zeros((3, 0, 6, 3), np.uint8), [1, 2, 3], "hold nothing"),
        (np.full((3, 8, 6, 3), 255.0), [1, 2, 3], "pixels from 255 to 255"),
        (np.full((3, 8, 6, 3), np.nan), [1, 2, 3], "pixels from nan"),
        (np.zeros((3, 8, 6, 3), np.uint8), [1, 2], "3 rows, 'labels' 2"),
        (np.zeros((0, 8, 6, 3), np.uint8), np.zeros(0, int), "0 rows"),
        (np.zeros((3, 8, 6, 3), np.uint8), [1.5, 2, 3], "labels are float64"),
        (np.zeros((3, 8, 6, 3), np.uint8), np.eye(3, dtype=int), "labels are int64"),
    ],
)
def test_other_data_is_an_error(tmp_path: Path, images: Any, labels: Any, match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        Hdf5Source(write(tmp_path, images=images, labels=labels))


def test_a_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    with pytest.raises(InvalidInputError, match="cannot read"):
        Hdf5Source(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\nno")
    with pytest.raises(InvalidInputError, match="cannot read"):
        Hdf5Source(path)


def test_numbers_that_are_no_pixels_refuse_one_picture(tmp_path: Path) -> None:
    images = np.zeros((40, 4, 4))
    images[1] = 7.0
    source = Hdf5Source(write(tmp_path, images=images, labels=np.arange(40)))
    items = [item for item in source.items() if isinstance(item, Item)]
    assert decode(source.read(items[0])).max() == 0
    with pytest.raises(OSError, match="not 0 to 1"):
        source.read(items[1])


def test_data_in_other_files_is_not_read(tmp_path: Path, pictures: NDArray[np.uint8]) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["images"] = pictures
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["labels"] = [1, 2, 3]
        file["images"] = h5py.ExternalLink("other.h5", "/images")
        file["soft"] = h5py.SoftLink("/images")
        file.create_dataset(
            "raw", (3, 2, 2), np.uint8, external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        )
        layout = h5py.VirtualLayout((3, 8, 6, 3), np.uint8)
        layout[:] = h5py.VirtualSource(other, "images", (3, 8, 6, 3))
        file.create_virtual_dataset("virtual", layout)
    for name in ("images", "soft", "raw", "virtual"):
        with pytest.raises(InvalidInputError, match="other file"):
            Hdf5Source(tmp_path / "d.h5", name)


def test_pieces_too_large_for_memory_are_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("images", (2000, 512, 512), np.uint8, chunks=(2000, 512, 512))
        file["labels"] = np.zeros(2000, int)
    with pytest.raises(InvalidInputError, match="stored in pieces"):
        Hdf5Source(tmp_path / "d.h5")


def test_a_damaged_piece_is_an_os_error(tmp_path: Path, pictures: NDArray[np.uint8]) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=pictures, chunks=(1, 8, 6, 3), compression="gzip")
        file["labels"] = [1, 2, 3]
        place = file["images"].id.get_chunk_info(1).byte_offset
    data = bytearray(path.read_bytes())
    data[place : place + 30] = b"\xff" * 30
    path.write_bytes(data)
    source = Hdf5Source(path)
    one, two, three = source.items()
    assert isinstance(one, Item)
    assert isinstance(two, Item)
    assert isinstance(three, Item)
    with pytest.raises(OSError, match=r"."):
        source.read(two)
    assert (decode(source.read(three)) == pictures[2]).all()
    for item in (Item("k", "1", file="other.h5"), Item("k", "1", file="d.h5", offset=3)):
        with pytest.raises(FileNotFoundError):
            source.read(item)
