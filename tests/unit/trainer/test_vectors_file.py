"""Vectors and labels are read from each kind of file, and what is wrong is said by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InvalidInputError
from engine.trainer import vectors_file
from engine.trainer.vectors_file import as_labels, read_vectors


@pytest.fixture
def labels_path(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("Ann,a/Ann_0001.jpg\nBob\nAnn , a/Ann,Junior.jpg\n")
    return path


VECTORS = np.array([[1.0, 0.5], [0.0, 0.0], [-2.0, 3.25]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npy_with_labels_and_keys(tmp_path: Path, labels_path: Path, dtype: type[np.floating]) -> None:
    np.save(tmp_path / "v.npy", VECTORS.astype(dtype))
    read = read_vectors(tmp_path / "v.npy", labels_path)
    assert read.vectors.tolist() == VECTORS.tolist()
    assert read.labels.tolist() == ["Ann", "Bob", "Ann"]
    assert read.keys == ("a/Ann_0001.jpg", "", "a/Ann,Junior.jpg")
    assert read.num_not_detected == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_with_any_end_of_line(tmp_path: Path, labels_path: Path, end: str) -> None:
    lines = [",".join(str(value) for value in row) for row in VECTORS]
    (tmp_path / "v.csv").write_bytes(end.join([*lines, ""]).encode())
    labels_path.write_bytes(end.join(["7,x", "10", "7", ""]).encode())
    read = read_vectors(tmp_path / "v.csv", labels_path)
    assert read.vectors.tolist() == VECTORS.tolist()
    assert read.labels.dtype == np.int64
    assert read.labels.tolist() == [7, 10, 7]


def test_parquet_as_export_writes_it(tmp_path: Path) -> None:
    table = pa.table(
        {
            "identity_id": ["ann", "bob", "ann"],
            "vector": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32())),
            "source": ["a.jpg", None, None],
            "quality": [1.0, None, 0.5],
        }
    )
    pq.write_table(table, tmp_path / "g.parquet")
    read = read_vectors(tmp_path / "g.parquet")
    assert read.vectors.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert read.labels.tolist() == ["ann", "ann"]
    assert read.keys == ("a.jpg", "")


@pytest.mark.parametrize(
    ("names", "is_number"),
    [(["1", "20"], True), (["01", "2"], False), (["1", "x"], False), (["-1"], False), ([str(2**63)], False)],
)
def test_labels_are_numbers_only_where_all_are_plainly(names: list[str], is_number: bool) -> None:
    assert (as_labels(names).dtype.kind == "i") == is_number
    assert [str(label) for label in as_labels(names)] == names


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.csv", b"1,2\n3\n5,6\n", "line 2: 1 numbers, the first line has 2"),
        ("v.csv", b"a,b\n1,2\n3,4\n", "line 1: expected numbers"),
        ("v.csv", b"", "holds no vector"),
        ("v.csv", b"1,2\n3,4\n", "3 labels, .* 2 vectors"),
        ("v.csv", b"1,2\n3,nan\n5,6\n", "row 2: a value is NaN"),
        ("v.csv", b"1\n2\n3\n", "d from 2 to"),
        ("v.csv", b"\xff\xfe1,2", "no readable CSV"),
        ("v.npy", b"no numpy", "no readable .npy"),
        ("v.txt", b"", "no file of vectors: give one of .npy"),
    ],
)
def test_wrong_files_are_refused(
    tmp_path: Path, labels_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=message):
        read_vectors(tmp_path / name, labels_path)


def test_whole_numbers_and_pickles_are_refused(tmp_path: Path, labels_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((3, 4), dtype=np.int64))
    with pytest.raises(InvalidInputError, match="floating-point"):
        read_vectors(tmp_path / "v.npy", labels_path)
    np.save(tmp_path / "v.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InvalidInputError, match=r"no readable \.npy"):
        read_vectors(tmp_path / "v.npy", labels_path)


def test_labels_go_with_what_has_none(tmp_path: Path, labels_path: Path) -> None:
    np.save(tmp_path / "v.npy", VECTORS)
    with pytest.raises(InvalidInputError, match="holds no labels"):
        read_vectors(tmp_path / "v.npy")
    with pytest.raises(InvalidInputError, match="holds its labels itself"):
        read_vectors(tmp_path / "g.parquet", labels_path)
    with pytest.raises(InvalidInputError, match=r"cannot read .*gone"):
        read_vectors(tmp_path / "gone.npy", labels_path)
    labels_path.write_text("Ann\n\nBob\n")
    with pytest.raises(InvalidInputError, match="line 2: expected a label"):
        read_vectors(tmp_path / "v.npy", labels_path)


def test_wrong_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.parquet"
    pq.write_table(pa.table({"identity_id": ["a"], "other": [1]}), path)
    with pytest.raises(
        InvalidInputError, match="no columns identity_id and vector: it has identity_id, other"
    ):
        read_vectors(path)
    pq.write_table(pa.table({"identity_id": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]}), path)
    with pytest.raises(InvalidInputError, match="all with as many values"):
        read_vectors(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(InvalidInputError, match="no readable Parquet"):
        read_vectors(path)


def test_a_file_too_large_is_not_read(
    tmp_path: Path, labels_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "v.npy", VECTORS)
    monkeypatch.setattr(vectors_file, "VECTORS_FILE_BYTES_MAX", 10)
    with pytest.raises(InvalidInputError, match="more than 10"):
        read_vectors(tmp_path / "v.npy", labels_path)
