"""Vectors in .npy with ids beside them: types and byte orders read, files refused."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidInputError
from engine.types import Vectors
from indexer.items import Reason
from indexer.sources.npy import NpySource

NUM_ROWS = 50


@pytest.fixture
def vectors(rng: np.random.Generator) -> Vectors:
    """float32[50, 8]"""
    return rng.standard_normal((NUM_ROWS, 8), np.float32)


def write_ids(folder: Path, num_rows: int = NUM_ROWS) -> Path:
    path = folder / "ids.txt"
    path.write_text("".join(f"p{row}\n" for row in range(num_rows)))
    return path


def open_npy(folder: Path, array: Any) -> NpySource:
    np.save(folder / "v.npy", array)
    return NpySource(folder / "v.npy", write_ids(folder, len(array)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2"])
def test_all_floats_come_out_as_native_float32(
    tmp_path: Path, vectors: Vectors, kind: str, order: Any
) -> None:
    source = open_npy(tmp_path, vectors.astype(kind, order=order))
    assert (source.num_rows, source.dimension, source.contract) == (NUM_ROWS, 8, None)
    expected = vectors.astype(kind).astype(np.float32)
    for start, stop in ((0, NUM_ROWS), (0, 1), (7, 31), (NUM_ROWS - 1, NUM_ROWS), (5, 5)):
        block = pickle.loads(pickle.dumps(source)).read(start, stop)
        assert block.vectors.dtype == np.dtype(np.float32)
        assert block.vectors.dtype.isnative
        assert block.vectors.flags.c_contiguous
        assert (block.vectors == expected[start:stop]).all()
        assert list(block.identity_ids) == [f"p{row}" for row in range(start, stop)]
        assert list(block.keys) == [f"v.npy:{row}" for row in range(start, stop)]
        assert block.first_row == start


def test_vectors_are_neither_checked_nor_normalised(tmp_path: Path) -> None:
    source = open_npy(tmp_path, np.array([[0.0, 0.0], [np.nan, 1e300], [3.0, 4.0]]))
    block = source.read(0, 3)
    assert np.array_equal(block.vectors, np.array([[0, 0], [np.nan, np.inf], [3, 4]]), equal_nan=True)
    assert block.refusals == ()


def test_no_rows_are_no_error(tmp_path: Path) -> None:
    source = open_npy(tmp_path, np.zeros((0, 128), np.float32))
    assert source.num_rows == 0
    assert source.read(0, 0).vectors.shape == (0, 128)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((3, 8), np.int32), "int32"),
        (np.zeros((3, 8), np.complex64), "complex64"),
        (np.zeros((3, 8), np.longdouble), "longdouble|float128"),
        (np.zeros(3, np.float32), "floating-point"),
        (np.zeros((3, 2, 4), np.float32), "floating-point"),
        (np.zeros((3, 1), np.float32), "vectors of 1 numbers"),
        (np.zeros((3, 1025), np.float32), "vectors of 1025 numbers"),
        (np.array([[{}]] * 3, object), "cannot read"),
    ],
)
def test_other_arrays_are_an_error(tmp_path: Path, array: Any, match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        open_npy(tmp_path, array)


def test_files_that_are_no_array_or_cut_short_are_an_error(tmp_path: Path, vectors: Vectors) -> None:
    path, ids = tmp_path / "v.npy", write_ids(tmp_path)
    np.save(path, vectors)
    whole = path.read_bytes()
    np.savez(tmp_path / "a.npz", vectors)
    for data in (
        b"",
        b"\x93NUMPY",
        whole[:60],
        whole[:-1],
        (tmp_path / "a.npz").read_bytes(),
        pickle.dumps([]),
    ):
        path.write_bytes(data)
        with pytest.raises(InvalidInputError, match="cannot read"):
            NpySource(path, ids)


def test_a_file_that_shrinks_later_is_an_os_error(tmp_path: Path, vectors: Vectors) -> None:
    source = open_npy(tmp_path, vectors)
    with (tmp_path / "v.npy").open("r+b") as file:
        file.truncate(300)
    with pytest.raises(OSError, match="too early"):
        source.read(0, NUM_ROWS)


def test_ids_are_needed_one_for_each_row(tmp_path: Path, vectors: Vectors) -> None:
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(InvalidInputError, match="without identities") as caught:
        NpySource(tmp_path / "v.npy", None)
    assert "--ids FILE" in caught.value.hint
    with pytest.raises(InvalidInputError, match=r"50 vectors, .* has 49 ids"):
        NpySource(tmp_path / "v.npy", write_ids(tmp_path, 49))
    (tmp_path / "ids.json").touch()
    for gone in ("gone.txt", "gone.npy", "gone.csv", "ids.json"):
        with pytest.raises(InvalidInputError, match="ids"):
            NpySource(tmp_path / "v.npy", tmp_path / gone)


@pytest.mark.parametrize("kind", ["lf.txt", "crlf.txt", "U.npy", "S.npy", "i.npy", "a.csv"])
def test_ids_of_each_kind_are_read(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "v.npy", np.zeros((3, 2), np.float32))
    path, expected = tmp_path / kind, ["ann", "José", "=1+1"]
    if kind == "lf.txt":
        path.write_text("\n".join(expected), encoding="utf-8-sig")
    elif kind == "crlf.txt":
        path.write_bytes("\r\n".join([*expected, ""]).encode())
    elif kind == "a.csv":
        path.write_text('row,identity_id\n1,ann\n2,"José"\n3,=1+1\n')
    elif kind == "i.npy":
        expected = ["3", "-1", "900"]
        np.save(path, np.array([3, -1, 900]))
    else:
        np.save(path, np.array([name.encode() for name in expected] if kind == "S.npy" else expected))
    assert list(NpySource(tmp_path / "v.npy", path).read(0, 3).identity_ids) == expected


@pytest.mark.parametrize("ids", [np.zeros(3), np.zeros((3, 1), int), np.array(["a", None, "b"], object)])
def test_ids_of_other_types_are_an_error(tmp_path: Path, ids: Any) -> None:
    np.save(tmp_path / "v.npy", np.zeros((3, 2), np.float32))
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(InvalidInputError, match="cannot read ids"):
        NpySource(tmp_path / "v.npy", tmp_path / "ids.npy")
    (tmp_path / "ids.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInputError, match="'a', 'b'"):
        NpySource(tmp_path / "v.npy", tmp_path / "ids.csv")


def test_rows_of_bad_identities_are_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    (tmp_path / "ids.txt").write_bytes(b"ann\n\xff\n\n bob\ncleo\n")
    block = NpySource(tmp_path / "v.npy", tmp_path / "ids.txt").read(0, 5)
    assert (list(block.identity_ids), list(block.keys)) == (["ann", "cleo"], ["v.npy:0", "v.npy:4"])
    assert (block.vectors == [[0, 1], [8, 9]]).all()
    assert [(one.key, one.reason) for one in block.refusals] == [
        (f"v.npy:{row}", Reason.BAD_IDENTITY) for row in (1, 2, 3)
    ]
    assert block.refusals[0].identity_id.encode()


def test_the_fingerprint_changes_with_either_file(tmp_path: Path, vectors: Vectors) -> None:
    source = open_npy(tmp_path, vectors)
    seen = [source.fingerprint(), source.fingerprint()]
    (tmp_path / "ids.txt").write_text("other")
    seen.append(source.fingerprint())
    np.save(tmp_path / "v.npy", vectors[:9])
    seen.append(source.fingerprint())
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
    (tmp_path / "v.npy").unlink()
    with pytest.raises(InvalidInputError, match="cannot read"):
        source.fingerprint()


def test_a_million_ids_are_read_within_two_seconds(tmp_path: Path) -> None:
    with (tmp_path / "v.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (1_000_000, 8)}
        )
        file.truncate(file.tell() + 32_000_000)
    ids = write_ids(tmp_path, 1_000_000)
    start = time.process_time()
    source = NpySource(tmp_path / "v.npy", ids)
    assert time.process_time() - start < 2.0
    assert source.read(999_999, 1_000_000).identity_ids == ["p999999"]
