"""Columns of Parquet files as plain values. Knows nothing of what they mean."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import InvalidInputError
from engine.types import NO_ATTRIBUTES, Vectors

READ_AHEAD_BYTES = 1 << 20
"""Of each column. Without it the reader takes a whole column of a row group into memory."""

_DAMAGE = (pa.ArrowException, ValueError, LookupError, ArithmeticError, TypeError)
"""What pyarrow raises of damaged and hostile files, beside OSError."""
FLOAT_BYTES = 4
"""Of a number in a vector stored as bytes: little-endian float32."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file; only its footer is read. Raises InvalidInputError where it is no Parquet file."""
    try:
        return parquet_file(path)
    except (*_DAMAGE, OSError) as error:
        raise InvalidInputError(
            f"cannot read {path} as Parquet: {error}", hint="Check that the file is whole, and readable."
        ) from error


def parquet_file(path: Path) -> pq.ParquetFile:
    """Open a file as `open_parquet`, with what pyarrow raises: ArrowException, OSError."""
    return pq.ParquetFile(path, buffer_size=READ_AHEAD_BYTES, pre_buffer=False)


def batches_of(
    file: pq.ParquetFile, batch_rows: int, groups: Iterable[int], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Decode row groups one after the other: damage in one does not spoil what is before it."""
    for group in groups:
        yield from file.iter_batches(batch_rows, row_groups=[group], columns=columns)


@contextmanager
def damage_as_os_error(path: Path) -> Iterator[None]:
    """Raise what pyarrow raises of damaged data as OSError."""
    try:
        yield
    except _DAMAGE as error:
        raise OSError(errno.EIO, f"damaged Parquet file: {error}", str(path)) from error


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type can be told as text: text, numbers, truth values, times."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    if is_bytes(kind):
        return True
    try:
        pa.nulls(0, kind).cast(pa.large_string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def is_name(kind: pa.DataType) -> bool:
    """Whether values of this type can name something: text or integers."""
    if pa.types.is_dictionary(kind):
        return is_name(kind.value_type)
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return bool(is_string or is_bytes(kind) or pa.types.is_integer(kind))


def is_text_map(kind: pa.DataType) -> bool:
    """Whether values of this type map text to text."""
    return bool(pa.types.is_map(kind) and is_text(kind.key_type) and is_text(kind.item_type))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes of any length."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def texts(column: pa.Array) -> list[str | None]:
    """Values as text. What is not UTF-8 holds surrogates, as Python's "surrogateescape" has it."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not is_bytes(column.type):
        column = column.cast(pa.large_string())
        try:
            values: list[str | None] = column.to_numpy(zero_copy_only=False).tolist()
        except (UnicodeDecodeError, pa.ArrowException):  # the latter of bytes that are not UTF-8, too
            pass
        else:
            return values
    return [
        None if value is None else value.decode("utf-8", "surrogateescape")
        for value in column.cast(pa.large_binary()).to_pylist()
    ]


def text_maps(column: pa.MapArray) -> list[dict[str, str]]:
    """Maps of text to text; values that are null are left out."""
    num_rows = len(column)
    offsets = np.asarray(column.offsets)
    if num_rows == 0 or offsets[0] == offsets[-1]:
        return [dict(NO_ATTRIBUTES)] * num_rows
    keys, values = texts(column.keys), texts(column.items)
    # The children of a slice are those of the whole array.
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    return [
        {}
        if null
        else {
            key: value
            for key, value in zip(keys[start:stop], values[start:stop], strict=True)
            if key is not None and value is not None
        }
        for null, start, stop in zip(is_null, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]


def floats(column: pa.Array) -> NDArray[np.float64]:
    """Numbers as float64[n]; null is NaN."""
    values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def times(column: pa.Array) -> list[float | None]:
    """Times as unix seconds. A time without a zone is taken to be UTC."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
        return [None if value is None else value / 1e6 for value in column.to_pylist()]
    return [None if value is None else float(value) for value in column.to_pylist()]


def is_vectors(kind: pa.DataType) -> bool:
    """Whether values of this type are vectors: lists of float32 or float64, or bytes of float32."""
    if pa.types.is_fixed_size_binary(kind):
        return bool(kind.byte_width % FLOAT_BYTES == 0)
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list and (pa.types.is_float32(kind.value_type) or pa.types.is_float64(kind.value_type)))


def fixed_dimension(kind: pa.DataType) -> int | None:
    """Numbers in each vector of a column; None where its type does not say so."""
    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width // FLOAT_BYTES)
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None


def lengths(column: pa.Array) -> NDArray[np.int64]:
    """Numbers in each vector, int64[n]; -1 for null."""
    if pa.types.is_fixed_size_binary(column.type):
        is_null = column.is_null().to_numpy(zero_copy_only=False)
        return np.where(is_null, -1, column.type.byte_width // FLOAT_BYTES)
    told = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    return np.asarray(told, np.int64)


def fill_vectors(column: pa.Array, out: Vectors) -> NDArray[np.int64]:
    """Copy vectors as native float32 to out[n, d]; answers `lengths`. Those of another length become zeros.

    A number that is null becomes NaN, one that float32 cannot hold infinite.
    """
    dimension = out.shape[1]
    told = lengths(column)
    is_fine = told == dimension
    if not is_fine.all():
        column = column.filter(pa.array(is_fine))
    if pa.types.is_fixed_size_binary(column.type):
        data = column.buffers()[1]
        start = column.offset * dimension * FLOAT_BYTES
        flat = np.frombuffer(data, "<f4", len(column) * dimension, start) if len(column) else np.empty(0)
    else:
        flat = column.flatten().to_numpy(zero_copy_only=False)
    rows = flat.reshape(-1, dimension)
    with np.errstate(over="ignore"):
        if is_fine.all():
            out[:] = rows
        else:
            out[:] = 0.0
            out[is_fine] = rows
    return told
