"""Which kind a source is taken for, and what is said of one that is none."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InvalidInputError
from indexer.items import Item
from indexer.sources import KINDS, open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a source of each kind."""
    (tmp_path / "folder/ann").mkdir(parents=True)
    (tmp_path / "folder/ann/1.jpg").write_bytes(b"x")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/a.tar").write_bytes(bytes(10_240))
    (tmp_path / "m.csv").write_text("path,identity_id\n")
    (tmp_path / "M.TSV").write_text("path\tidentity_id\n")
    pq.write_table(pa.table({"path": ["a"], "identity_id": ["b"]}), tmp_path / "m.parquet")
    pq.write_table(pa.table({"vector": [[1.0, 2.0]], "identity_id": ["b"]}), tmp_path / "v.parquet")
    for name in ("d.h5", "d.hdf5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["images"], file["labels"] = np.zeros((1, 4, 4), np.uint8), [1]
    np.save(tmp_path / "v.npy", np.zeros((1, 4), np.float32))
    (tmp_path / "ids.txt").write_text("ann\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("folder", "folder"),
        ("tars", "tar"),
        ("tars/a.tar", "tar"),
        ("m.csv", "manifest"),
        ("M.TSV", "manifest"),
        ("m.parquet", "manifest"),
        ("v.parquet", "parquet"),
        ("d.h5", "hdf5"),
        ("d.hdf5", "hdf5"),
        ("v.npy", "npy"),
    ],
)
def test_the_kind_is_recognised(folder: Path, name: str, kind: str) -> None:
    assert open_source(folder / name, folder / "ids.txt" if kind == "npy" else None).kind == kind


@pytest.mark.parametrize("name", ["gone", "ids.txt", "pipe.csv"])
def test_what_is_no_source_is_told_what_is_one(folder: Path, name: str) -> None:
    os.mkfifo(folder / "pipe.csv")
    with pytest.raises(InvalidInputError) as caught:
        open_source(folder / name)
    assert all(kind in caught.value.hint for kind in KINDS)


def test_a_file_that_no_key_can_name_is_refused(folder: Path) -> None:
    for name in (b"\xff.csv", b"a\nb.tar"):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        path.touch()
        with pytest.raises(InvalidInputError, match="cannot be part of a key"):
            open_source(path)


def test_a_packed_tar_is_to_be_unpacked(folder: Path) -> None:
    (folder / "a.tar.gz").touch()
    with pytest.raises(InvalidInputError) as caught:
        open_source(folder / "a.tar.gz")
    assert "Unpack it" in caught.value.hint


def test_a_folder_without_pictures_is_told_at_once(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="no picture"):
        open_source(folder / "empty")


def test_what_goes_with_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="says itself"):
        open_source(folder / "v.parquet", folder / "ids.txt")
    with pytest.raises(InvalidInputError, match="no HDF5"):
        open_source(folder / "m.csv", images="x")
    with pytest.raises(InvalidInputError, match="without identities"):
        open_source(folder / "v.npy")


@pytest.mark.data
def test_real_pictures_are_listed_and_read(data_folder: Path) -> None:
    source = open_source(data_folder / "lfw/images")
    assert source.kind == "folder"
    assert not hasattr(source, "num_rows")
    found = list(source.items())
    assert len(found) == 10_054
    assert all(isinstance(one, Item) for one in found)
    first = found[0]
    assert isinstance(first, Item)
    assert source.read(first)[:2] == b"\xff\xd8"
