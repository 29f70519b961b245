"""Vectors in one Parquet file: identity_id and vector, perhaps source, attributes, quality, expire_time.

Batches are decoded one after the other, whatever the size of the file and of its row groups.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import InvalidInputError
from engine.rules import check_contract, check_expire_time
from engine.types import NO_ATTRIBUTES, EmbeddingContract, Vectors
from indexer.items import Bare, Block, Reason, Refusal
from indexer.sources.names import (
    attributes_problem,
    bad_identity,
    identity_problems,
    row_prefix,
    source_key,
)
from indexer.sources.parquet_columns import (
    batches_of,
    damage_as_os_error,
    fill_vectors,
    fixed_dimension,
    floats,
    is_name,
    is_text_map,
    is_vectors,
    lengths,
    open_parquet,
    parquet_file,
    text_maps,
    texts,
    times,
)
from indexer.sources.vector_rows import check_dimension, check_range, fingerprint_of, without

CONTRACT_KEY = b"identiface.contract"
"""Of the file's metadata: the fields of an EmbeddingContract as JSON."""
FORMAT_KEY = b"identiface.format"
"""Of the metadata of what `identiface export` wrote. A row without vector is an identity without templates
there, and a template may have no source."""
BATCH_BYTES = 16 * 2**20
"""Of vectors decoded at once."""
BATCH_ROWS_MAX = 16_384
PROBED_ROWS = 1024
"""Looked at to tell how long vectors are."""
VECTOR_COLUMN = "vector"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or _is_number(kind))


COLUMNS: Mapping[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "identity_id": (is_name, "text"),
    VECTOR_COLUMN: (is_vectors, "lists of float32, or fixed-size bytes of little-endian float32"),
    "source": (is_name, "text"),
    "attributes": (is_text_map, "maps of text to text"),
    "quality": (_is_number, "numbers from 0 to 1"),
    "expire_time": (_is_time, "unix seconds or timestamps"),
}
"""Columns that are read, what they may be, and how that is told."""


class ParquetSource:
    """Rows of vectors; those of another length, and null, are refused."""

    kind = "parquet"

    def __init__(self, path: Path):
        """Raises InvalidInputError for a file of another kind or other columns, OSError for damage."""
        self._path = path
        with open_parquet(path) as file, damage_as_os_error(path):
            schema = file.schema_arrow
            _check_schema(path, schema)
            self.num_rows: int = file.metadata.num_rows
            metadata = file.metadata.metadata or {}
            self.contract = _read_contract(path, metadata)
            self._is_export = FORMAT_KEY in metadata
            self.dimension = (
                fixed_dimension(schema.field(VECTOR_COLUMN).type)
                or (self.contract.dimension if self.contract else 0)
                or _dimension_of_lists(path, file)
            )
            self._columns = [name for name in COLUMNS if name in schema.names]
        check_dimension(path, self.dimension)
        if self.contract and self.contract.dimension != self.dimension:
            raise InvalidInputError(
                f"{path} holds vectors of {self.dimension} numbers,"
                f" its contract says {self.contract.dimension}"
            )
        self._batch_rows = max(1, min(BATCH_ROWS_MAX, BATCH_BYTES // (8 * self.dimension)))
        self._cursor: _Cursor | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process."""
        return {**self.__dict__, "_cursor": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def fingerprint(self) -> str:
        """Of the file's name, size and time. Raises InvalidInputError where it is gone."""
        return fingerprint_of((self._path,))

    def read(self, start: int, stop: int) -> Block:
        """Rows start to stop - 1; cheapest in ascending order. Raises OSError."""
        check_range(start, stop, self.num_rows)
        rows = _Rows(
            start, stop - start, self.dimension, row_prefix(self._path.name), is_export=self._is_export
        )
        if start < stop:
            with damage_as_os_error(self._path):
                with self._lock:
                    batches = self._take(start, stop)
                for batch in batches:
                    rows.add(batch)
        return rows.block()

    def _take(self, start: int, stop: int) -> list[pa.RecordBatch]:
        """Go on where the last reading ended, or begin anew."""
        cursor = self._cursor
        # Not kept while it is used: after an error it would be somewhere in between.
        self._cursor = None
        if cursor is None or cursor.row != start:
            if cursor is not None:
                cursor.close()
            cursor = _Cursor(self._path, start, self._columns, self._batch_rows)
        try:
            batches = cursor.take(stop - start)
        except BaseException:
            cursor.close()
            raise
        if stop < self.num_rows:
            self._cursor = cursor
        else:
            cursor.close()
        return batches


class _Cursor:
    """A place in a file that is read in ascending order."""

    def __init__(self, path: Path, row: int, columns: list[str], batch_rows: int):
        """Begins at the row group that holds the row, and decodes what is before it in vain."""
        self.row = row
        self._path = path
        self._file = parquet_file(path)
        skipped = row
        groups = list(range(self._file.num_row_groups))
        while groups and skipped >= (size := self._file.metadata.row_group(groups[0]).num_rows):
            skipped -= size
            del groups[0]
        self._batches = batches_of(self._file, batch_rows, groups, columns)
        self._rest: pa.RecordBatch | None = None
        while skipped:
            batch = self._next()
            passed = min(skipped, batch.num_rows)
            self._rest = batch.slice(passed)
            skipped -= passed

    def take(self, num_rows: int) -> list[pa.RecordBatch]:
        """Read so many rows on. Raises OSError."""
        taken: list[pa.RecordBatch] = []
        wanted = num_rows
        while wanted:
            batch = self._next()
            taken.append(batch.slice(0, wanted))
            self._rest = batch.slice(wanted) if batch.num_rows > wanted else None
            wanted -= taken[-1].num_rows
        self.row += num_rows
        return taken

    def close(self) -> None:
        """Close the file."""
        self._rest = None
        self._file.close()

    def _next(self) -> pa.RecordBatch:
        batch = self._rest
        self._rest = None
        while batch is None or not batch.num_rows:
            batch = next(self._batches, None)
            if batch is None:
                raise OSError(errno.EIO, "the file has fewer rows than when it was opened", str(self._path))
        return batch


class _Rows:
    """Rows of a block as they come in batches."""

    def __init__(self, first_row: int, num_rows: int, dimension: int, prefix: str, *, is_export: bool):
        self._is_export = is_export
        self._sources: list[str] = []
        self._bare: set[int] = set()
        self._first_row = first_row
        self._num_rows = num_rows
        self._prefix = prefix
        self._vectors: Vectors = np.empty((num_rows, dimension), np.float32)
        self._identity_ids: list[str] = []
        self._keys: list[str] = []
        self._attributes: list[Mapping[str, str]] = []
        self._qualities: list[float] = []
        self._expire_times: list[float | None] = []
        self._problems: dict[int, tuple[Reason, str]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Append a batch."""
        place = len(self._keys)
        row = self._first_row + place
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        names = texts(columns["source"]) if "source" in columns else [None] * batch.num_rows
        self._keys += [
            source_key(name) if name else f"{self._prefix}{number}" for number, name in enumerate(names, row)
        ]
        if self._is_export:
            self._sources += [name or "" for name in names]
        self._identity_ids += [name or "" for name in texts(columns["identity_id"])]
        if "attributes" in columns:
            self._attributes += text_maps(columns["attributes"])
        if "quality" in columns:
            self._qualities += np.nan_to_num(floats(columns["quality"]), nan=0.0).tolist()
        if "expire_time" in columns:
            self._expire_times += times(columns["expire_time"])
        dimension = self._vectors.shape[1]
        told = fill_vectors(columns["vector"], self._vectors[place : place + batch.num_rows])
        for other in np.flatnonzero(told != dimension).tolist():
            length = int(told[other])
            if length < 0 and self._is_export:
                self._bare.add(place + other)
                continue
            detail = f"{length} numbers, the file's have {dimension}" if length >= 0 else "there is no vector"
            self._problems[place + other] = (Reason.BAD_VECTOR, detail)

    def block(self) -> Block:
        """Give all rows but those that no gallery can hold."""
        self._check_rows()
        block = Block(
            self._first_row,
            self._vectors,
            self._identity_ids,
            self._keys,
            self._attributes if any(self._attributes) else (),
            self._qualities,
            self._expire_times if any(time is not None for time in self._expire_times) else (),
            sources=self._sources,
        )
        identities = identity_problems(self._identity_ids)
        if not identities and not self._problems and not self._bare:
            return block
        refused: list[Refusal | None] = []
        for place, (key, identity_id) in enumerate(zip(self._keys, self._identity_ids, strict=True)):
            if identity_id in identities:
                refused.append(bad_identity(key, identity_id, identities[identity_id]))
            elif place in self._problems:
                reason, detail = self._problems[place]
                refused.append(Refusal(key, reason, identity_id, detail))
            else:
                refused.append(None)
        return without(block, refused, {place: self._bare_at(place) for place in sorted(self._bare)})

    def _bare_at(self, place: int) -> Bare:
        return Bare(
            self._identity_ids[place],
            self._attributes[place] if self._attributes else NO_ATTRIBUTES,
            self._expire_times[place] if self._expire_times else None,
        )

    def _check_rows(self) -> None:
        """Note what is wrong beside vectors and identities."""
        for place, attributes in enumerate(self._attributes):
            if problem := attributes_problem(attributes):
                self._problems[place] = (Reason.BAD_ROW, problem)
        for place, quality in enumerate(self._qualities):
            if not 0.0 <= quality <= 1.0:
                self._problems[place] = (Reason.BAD_ROW, f"quality is {quality:g}, it must be 0 to 1")
        for place, time in enumerate(self._expire_times):
            if time is not None:
                try:
                    check_expire_time(time)
                except InvalidInputError as error:
                    self._problems[place] = (Reason.BAD_ROW, error.message)


def has_vectors(path: Path) -> bool:
    """Whether a Parquet file has a column of vectors. Raises as `ParquetSource`."""
    with open_parquet(path) as file, damage_as_os_error(path):
        return VECTOR_COLUMN in file.schema_arrow.names


def _check_schema(path: Path, schema: pa.Schema) -> None:
    for name, (is_fine, wanted) in COLUMNS.items():
        found = [column for column in schema if column.name == name]
        if len(found) > 1 or (not found and name in {"identity_id", VECTOR_COLUMN}):
            raise InvalidInputError(
                f"{path} has {len(found)} columns {name!r}; its columns: {', '.join(schema.names[:20])}",
                hint=f"Give one column identity_id and one column {VECTOR_COLUMN}.",
            )
        if found and not is_fine(found[0].type):
            raise InvalidInputError(
                f"{path}: column {name!r} is of type {found[0].type}", hint=f"Store it as {wanted}."
            )


def _read_contract(path: Path, metadata: Mapping[bytes, bytes]) -> EmbeddingContract | None:
    if CONTRACT_KEY not in metadata:
        return None
    try:
        contract = msgspec.json.decode(metadata[CONTRACT_KEY], type=EmbeddingContract)
        check_contract(contract)
    except (msgspec.DecodeError, InvalidInputError) as error:
        raise InvalidInputError(
            f"{path}: the metadata {CONTRACT_KEY.decode()} is no embedding contract: {error}",
            hint="Write the fields of the contract as a JSON object, or leave it out.",
        ) from error
    return contract


def _dimension_of_lists(path: Path, file: pq.ParquetFile) -> int:
    """Tell the length that most vectors at the beginning of a file have."""
    batch = next(file.iter_batches(PROBED_ROWS, columns=[VECTOR_COLUMN]), None)
    told = lengths(batch.column(0)) if batch is not None else np.empty(0, np.int64)
    if not (told > 0).any():
        raise InvalidInputError(
            f"{path} does not say how long its vectors are",
            hint="Store them as lists of a fixed size, or give the file an embedding contract.",
        )
    sizes, counts = np.unique(told[told > 0], return_counts=True)
    return int(sizes[counts.argmax()])
