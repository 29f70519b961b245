"""Vectors in one .npy file and their identities in another.

Rows are read by file calls, not mapped: a mapped file that shrinks, or a bad block of the disk, would kill
the process instead of raising OSError.
"""

from __future__ import annotations

import errno
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError
from engine.types import EmbeddingContract, Vectors
from indexer.items import Block, Refusal
from indexer.sources.identity_lists import HINT, load_array, read_identity_ids
from indexer.sources.names import bad_identity, identity_problems, row_prefix
from indexer.sources.vector_rows import check_dimension, check_range, fingerprint_of, without

FLOAT_BYTES = (2, 4, 8)
"""Sizes of the floating-point numbers that are read."""


class NpySource:
    """Rows of float16, float32 or float64 of either byte order, in C or Fortran order."""

    kind = "npy"
    contract: EmbeddingContract | None = None

    def __init__(self, path: Path, ids: Path | None):
        """Raises InvalidInputError for another array, or unless there is one id for each row."""
        if ids is None:
            raise InvalidInputError(f"{path} holds vectors without identities", hint=HINT)
        self._path = path
        self._ids = ids
        self._read_header()
        self._identity_ids = read_identity_ids(ids)
        if len(self._identity_ids) != self.num_rows:
            raise InvalidInputError(
                f"{path} holds {self.num_rows:,} vectors, {ids} has {len(self._identity_ids):,} ids",
                hint=HINT,
            )

    def fingerprint(self) -> str:
        """Of both files' names, sizes and times. Raises InvalidInputError where one is gone."""
        return fingerprint_of((self._path, self._ids))

    def read(self, start: int, stop: int) -> Block:
        """Rows start to stop - 1. Raises OSError."""
        check_range(start, stop, self.num_rows)
        with FileIO(self._path) as file:
            vectors = self._read_rows(file, start, stop)
        prefix = row_prefix(self._path.name)
        keys = [f"{prefix}{row}" for row in range(start, stop)]
        identity_ids = self._identity_ids[start:stop]
        block = Block(start, vectors, identity_ids, keys)
        problems = identity_problems(identity_ids)
        if not problems:
            return block
        refused: list[Refusal | None] = [
            bad_identity(key, identity_id, problems[identity_id]) if identity_id in problems else None
            for key, identity_id in zip(keys, identity_ids, strict=True)
        ]
        return without(block, refused)

    def _read_header(self) -> None:
        path = self._path
        try:
            array = load_array(path)
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"cannot read {path} as an array: {error}", hint="Save it by numpy.save, without objects."
            ) from error
        if array.ndim != 2 or array.dtype.kind != "f" or array.dtype.itemsize not in FLOAT_BYTES:
            raise InvalidInputError(
                f"{path} holds {array.dtype}{list(array.shape)}, not floating-point vectors[n, d]",
                hint="Save float32[n, d], one vector a row.",
            )
        assert isinstance(array, np.memmap)
        self.num_rows, self.dimension = array.shape
        check_dimension(path, self.dimension)
        self._dtype: np.dtype[Any] = array.dtype
        self._offset = array.offset
        self._is_fortran = not array.flags.c_contiguous

    def _read_rows(self, file: FileIO, start: int, stop: int) -> Vectors:
        size = self._dtype.itemsize
        raw: NDArray[Any] = np.empty((stop - start, self.dimension), self._dtype)
        if not self._is_fortran:
            _fill(file, self._offset + start * self.dimension * size, raw)
        else:
            column: NDArray[Any] = np.empty(stop - start, self._dtype)
            for place in range(self.dimension):
                _fill(file, self._offset + (place * self.num_rows + start) * size, column)
                raw[:, place] = column
        with np.errstate(over="ignore"):
            # What float32 cannot hold becomes infinite, and is refused as such.
            return raw.astype(np.float32, copy=False)


def _fill(file: FileIO, offset: int, array: NDArray[Any]) -> None:
    """Fill an array from a place in a file. Raises OSError where the file ends before."""
    file.seek(offset)
    rest = array.reshape(-1).view(np.uint8).data
    while len(rest):
        count = file.readinto(rest)
        if not count:
            raise OSError(errno.EIO, f"the file ends {len(rest):,} bytes too early")
        rest = rest[count:]
