"""Vectors in Parquet: types of columns, optional columns, bad rows, and reading a part without the whole."""

from __future__ import annotations

import dataclasses
import json
import pickle
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InvalidInputError
from engine.types import EmbeddingContract, Vectors
from indexer.items import Reason
from indexer.sources.parquet import CONTRACT_KEY, ParquetSource

NUM_ROWS = 60
CONTRACT = EmbeddingContract("dlib-resnet", "ab" * 32, "dlib-150", mirror=True, dimension=8, threshold=0.9)


@pytest.fixture
def vectors(rng: np.random.Generator) -> Vectors:
    """float32[60, 8]"""
    return rng.standard_normal((NUM_ROWS, 8), np.float32)


def write(
    folder: Path, columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None, **how: Any
) -> Path:
    path = folder / "v.parquet"
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, **how)
    return path


def ids(num_rows: int = NUM_ROWS) -> list[str]:
    return [f"p{row}" for row in range(num_rows)]


def column_of(vectors: Vectors, kind: str) -> pa.Array:
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(vectors.ravel(), 8)
    if kind == "fixed double":
        return pa.FixedSizeListArray.from_arrays(vectors.ravel().astype(np.float64), 8)
    if kind == "bytes":
        return pa.array([row.astype("<f4").tobytes() for row in vectors], pa.binary(32))
    types = {"list": pa.list_(pa.float32()), "large list": pa.large_list(pa.float64())}
    return pa.array(vectors.tolist(), types[kind])


@pytest.mark.parametrize("kind", ["fixed", "fixed double", "bytes", "list", "large list"])
@pytest.mark.parametrize("row_group_size", [7, 1000])
def test_vectors_of_each_type_are_read_in_any_part(
    tmp_path: Path, vectors: Vectors, kind: str, row_group_size: int
) -> None:
    path = write(
        tmp_path, {"identity_id": ids(), "vector": column_of(vectors, kind)}, row_group_size=row_group_size
    )
    source = ParquetSource(path)
    assert (source.num_rows, source.dimension, source.contract) == (NUM_ROWS, 8, None)
    for start, stop in ((0, 10), (10, 35), (35, 35), (35, 60), (3, 5), (59, 60), (0, 60), (7, 14)):
        block = source.read(start, stop)
        assert block.vectors.dtype == np.float32
        assert (block.vectors == vectors[start:stop]).all()
        assert list(block.identity_ids) == ids()[start:stop]
        assert list(block.keys) == [f"v.parquet:{row}" for row in range(start, stop)]
        assert (block.attributes, block.refusals) == ((), ())
    again = pickle.loads(pickle.dumps(source))
    assert (again.read(20, 30).vectors == vectors[20:30]).all()
    assert again.fingerprint() == source.fingerprint()


def test_small_batches_are_put_together(
    tmp_path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.sources.parquet.BATCH_ROWS_MAX", 4)
    maps = [[("row", str(row))] if row % 3 else None for row in range(NUM_ROWS)]
    path = write(
        tmp_path,
        {
            "identity_id": ids(),
            "vector": column_of(vectors, "list"),
            "attributes": pa.array(maps, pa.map_(pa.string(), pa.string())),
        },
        row_group_size=13,
    )
    source = ParquetSource(path)
    for start, stop in ((0, 11), (11, 30), (30, 60), (17, 25)):
        block = source.read(start, stop)
        assert (block.vectors == vectors[start:stop]).all()
        assert [dict(one) for one in block.attributes] == [
            {"row": str(row)} if row % 3 else {} for row in range(start, stop)
        ]


def test_optional_columns_are_read(tmp_path: Path, vectors: Vectors) -> None:
    map_type = pa.map_(pa.string(), pa.string())
    columns = {
        "identity_id": pa.array(["a", "b", "c"]).dictionary_encode(),
        "vector": column_of(vectors[:3], "fixed"),
        "source": ["s1", None, "x" * 300],
        "attributes": pa.array([[("city", "Rome")], None, [("a", None), ("b", "2")]], map_type),
        "quality": pa.array([0.25, None, 1.0], pa.float32()),
        "expire_time": pa.array([2e9, None, 3e9]),
        "other": [[1], [2], [3]],
    }
    block = ParquetSource(write(tmp_path, columns)).read(0, 3)
    assert list(block.keys[:2]) == ["s1", "v.parquet:1"]
    assert len(block.keys[2].encode()) == 255
    assert [dict(one) for one in block.attributes] == [{"city": "Rome"}, {}, {"b": "2"}]
    assert list(block.qualities) == [0.25, 0.0, 1.0]
    assert list(block.expire_times) == [2e9, None, 3e9]
    when = datetime(2030, 1, 2, 3, 4, 5, 500_000, UTC)
    columns["expire_time"] = pa.array([when, None, None], pa.timestamp("ns", "UTC"))
    block = ParquetSource(write(tmp_path, columns)).read(0, 3)
    assert list(block.expire_times) == [when.timestamp(), None, None]


def test_the_contract_is_read_from_the_metadata(tmp_path: Path, vectors: Vectors) -> None:
    columns = {"identity_id": ids(), "vector": column_of(vectors, "list")}
    fields = dataclasses.asdict(CONTRACT)
    source = ParquetSource(write(tmp_path, columns, {CONTRACT_KEY: json.dumps(fields).encode()}))
    assert source.contract == CONTRACT
    for bad in (b"no", b"{}", b"[]", json.dumps({**fields, "normalisation": "l1"}).encode()):
        with pytest.raises(InvalidInputError, match="no embedding contract"):
            ParquetSource(write(tmp_path, columns, {CONTRACT_KEY: bad}))
    columns["vector"] = column_of(vectors, "fixed")
    other = json.dumps({**fields, "dimension": 9}).encode()
    with pytest.raises(InvalidInputError, match="its contract says 9"):
        ParquetSource(write(tmp_path, columns, {CONTRACT_KEY: other}))


def test_rows_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    lists = [
        [1.0, 2.0],
        [3.0, 4.0],
        None,
        [5.0],
        [6.0, None],
        [7.0, 8.0],
        [9.0, 9.0],
        [1.0, 1.0],
        [],
        [0.0, 0.5],
    ]
    names = [b"a", b"\xff", b"c", b"d", b"e", b"f", b"g", b"h", b"i", b"j"]
    columns = {
        "identity_id": pa.array(names).view(pa.string()),
        "vector": pa.array(lists, pa.list_(pa.float32())),
        "quality": [0.5] * 5 + [2.0] + [0.5] * 4,
        "expire_time": [None] * 6 + [-5.0] + [None] * 3,
        "attributes": pa.array(
            [None] * 7 + [[("k", "x" * 2000)]] + [None] * 2, pa.map_(pa.string(), pa.string())
        ),
    }
    block = ParquetSource(write(tmp_path, columns)).read(0, 10)
    assert list(block.identity_ids) == ["a", "e", "j"]
    assert np.array_equal(block.vectors, np.array([[1, 2], [6, np.nan], [0, 0.5]]), equal_nan=True)
    assert list(block.keys) == ["v.parquet:0", "v.parquet:4", "v.parquet:9"]
    assert list(block.qualities) == [0.5] * 3
    assert [(one.key[-1], one.reason) for one in block.refusals] == [
        ("1", Reason.BAD_IDENTITY),
        ("2", Reason.BAD_VECTOR),
        ("3", Reason.BAD_VECTOR),
        ("5", Reason.BAD_ROW),
        ("6", Reason.BAD_ROW),
        ("7", Reason.BAD_ROW),
        ("8", Reason.BAD_VECTOR),
    ]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 2), pa.binary(8)])
def test_null_among_vectors_of_fixed_size_is_refused(tmp_path: Path, kind: pa.DataType) -> None:
    values = [[1.0, 2.0], None, [3.0, 4.0]]
    if pa.types.is_fixed_size_binary(kind):
        values = [np.array(one, "<f4").tobytes() if one else None for one in values]  # type: ignore[misc]
    source = ParquetSource(write(tmp_path, {"identity_id": ids(3), "vector": pa.array(values, kind)}))
    assert (source.read(0, 3).vectors == [[1, 2], [3, 4]]).all()
    assert len(source.read(1, 2).keys) == 0
    assert (source.read(2, 3).vectors == [[3, 4]]).all()


def test_the_dimension_of_lists_is_that_of_most(tmp_path: Path) -> None:
    lists = [[1.0], [1.0, 2.0], [3.0, 4.0]]
    assert ParquetSource(write(tmp_path, {"identity_id": ids(3), "vector": lists})).dimension == 2


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"vector": [[1.0, 2.0]]}, "0 columns 'identity_id'"),
        ({"identity_id": ["a"], "vector": [[1, 2]]}, "'vector' is of type list<.*int64"),
        ({"identity_id": ["a"], "vector": ["1 2"]}, "'vector' is of type string"),
        ({"identity_id": ["a"], "vector": pa.array([b"12345"], pa.binary(5))}, "'vector' is of type"),
        ({"identity_id": [1.5], "vector": [[1.0, 2.0]]}, "'identity_id' is of type double"),
        ({"identity_id": ["a"], "vector": [[1.0, 2.0]], "quality": ["x"]}, "'quality' is of type"),
        ({"identity_id": ["a"], "vector": [[1.0, 2.0]], "attributes": ["x"]}, "'attributes' is of type"),
        ({"identity_id": ["a"], "vector": [[1.0]]}, "vectors of 1 numbers"),
        ({"identity_id": ["a"], "vector": pa.array([None], pa.list_(pa.float32()))}, "does not say how long"),
        (
            {"identity_id": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))},
            "how long",
        ),
    ],
)
def test_other_columns_are_an_error(tmp_path: Path, columns: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        ParquetSource(write(tmp_path, columns))


def test_no_rows_are_no_error_where_the_length_is_known(tmp_path: Path) -> None:
    columns = {"identity_id": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32(), 8))}
    source = ParquetSource(write(tmp_path, columns))
    assert (source.num_rows, source.read(0, 0).vectors.shape) == (0, (0, 8))


def test_damage_is_an_os_error_and_what_is_whole_still_read(tmp_path: Path, vectors: Vectors) -> None:
    path = write(
        tmp_path,
        {"identity_id": ids(), "vector": column_of(vectors, "fixed")},
        row_group_size=20,
        compression="zstd",
    )
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    source = ParquetSource(path)
    assert len(source.read(0, 20).keys) == 20
    for _ in range(2):
        with pytest.raises(OSError, match=r"."):
            source.read(20, 40)
    assert (source.read(40, 60).vectors == vectors[40:]).all()
    path.unlink()
    with pytest.raises(OSError, match="No such file"):
        source.read(0, 20)


def test_a_part_is_read_without_the_whole(tmp_path: Path) -> None:
    num_rows = 200_000
    vectors = np.random.default_rng(1).standard_normal((num_rows, 64), np.float32)
    column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), 64)
    path = write(tmp_path, {"identity_id": ids(num_rows), "vector": column}, row_group_size=num_rows)
    del column
    source = ParquetSource(path)
    before = pa.total_allocated_bytes()
    # One row group of 51 MB: what is held between two readings must be far less.
    block = source.read(0, 1000)
    assert (block.vectors == vectors[:1000]).all()
    assert pa.total_allocated_bytes() - before < 25_000_000
    assert (source.read(1000, 60_000).vectors == vectors[1000:60_000]).all()
    assert (source.read(150_000, 150_010).vectors == vectors[150_000:150_010]).all()


def test_threads_may_read_at_once(tmp_path: Path, vectors: Vectors) -> None:
    source = ParquetSource(write(tmp_path, {"identity_id": ids(), "vector": column_of(vectors, "fixed")}))
    wrong: list[int] = []

    def read(start: int) -> None:
        for _ in range(20):
            if not (source.read(start, start + 10).vectors == vectors[start : start + 10]).all():
                wrong.append(start)  # noqa: PERF401

    threads = [threading.Thread(target=read, args=(start,)) for start in range(0, 50, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
