"""Aligned crops of labelled people: what a network is trained on and judged by.

Knows nothing of pictures, detection, networks or where the crops came from.

Letters: n crops, s side of a crop in pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError, PreconditionError

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]

HASHED_BYTES = 32 * 2**20
"""Crops that are read at once while their digests are made."""
NAMED_MAX = 5
"""How many wrong things an error names; all are counted."""


class CropRows:
    """Rows of an array uint8[m, s, s, 3] of crops, in an order of their own; read where they are indexed.

    A file is mapped, read-only, and again in each process that this is sent to: only path and row numbers
    travel. A process that finds another file there, made by another run, reads nothing of it. Nothing is
    copied until it is indexed.
    """

    def __init__(self, source: Path | Pixels, rows: Rows | None = None):
        """`rows` are int64[n], each below m; None: all, in their order. Raises as `_open_npy`."""
        self._path = source if isinstance(source, Path) else None
        self._stamp = _stamp_of(source) if isinstance(source, Path) else None
        self._pixels: Pixels | None = None if isinstance(source, Path) else source
        pixels = self._source()
        num = len(pixels)
        self._rows: Rows = np.arange(num) if rows is None else np.asarray(rows, np.int64)
        if self._rows.ndim != 1 or (len(self._rows) and not 0 <= self._rows.min() <= self._rows.max() < num):
            raise InvalidInputError(f"rows must be int64[n] of 0 to {num - 1}: that many crops there are")
        self.shape = (len(self._rows), *pixels.shape[1:])

    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def nbytes(self) -> int:
        """Bytes of all of them as one array."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places: int | slice | Sequence[int] | NDArray[Any]) -> Pixels:
        """Copy out a crop uint8[s, s, 3], or crops uint8[k, s, s, 3], as NumPy would index them.

        Raises PreconditionError where the file is another one than when this was made.
        """
        pixels: Pixels = np.array(self._source()[self._rows[places]])
        return pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them as one array, for np.asarray."""
        if copy is False:
            raise ValueError("crops on disk cannot be an array without being read")
        return self[:] if dtype is None else self[:].astype(dtype)

    def take(self, rows: Rows) -> CropRows:
        """Give those rows of these rows, without reading them."""
        taken = CropRows.__new__(CropRows)
        taken.__dict__.update(self.__dict__)
        taken._rows = self._rows[rows]
        taken.shape = (len(taken._rows), *self.shape[1:])
        return taken

    def __getstate__(self) -> dict[str, Any]:
        if self._path is not None:
            return {**self.__dict__, "_pixels": None}
        # Of an array in memory only these rows are of use elsewhere.
        return {**self.__dict__, "_pixels": self[:], "_rows": np.arange(len(self))}

    def _source(self) -> Pixels:
        if self._pixels is None:
            assert self._path is not None
            pixels = _open_npy(self._path) if _stamp_of(self._path) == self._stamp else None
            # Looked at again: it may have been replaced before it was mapped.
            if pixels is None or _stamp_of(self._path) != self._stamp:
                raise PreconditionError(
                    f"the crops in {self._path.parent.parent} were made anew by another run",
                    hint="Run the same command again, or give each run a folder of its own with --crops.",
                )
            self._pixels = pixels
        return self._pixels


@dataclass(frozen=True, eq=False)
class CropSet:
    """Crops with the identity of each."""

    crops: CropRows
    """uint8[n, s, s, 3], RGB: CropRows(path) or CropRows(array)."""
    labels: Rows
    """int64[n]; label i means identities[i]."""
    identities: tuple[str, ...]
    """Sorted; each has at least one crop."""
    keys: tuple[str, ...]
    """Of each crop: names its picture in its source."""
    alignment: str
    """Name of the crop, see engine.embedding.align.ALIGNMENTS."""
    row_digests: NDArray[np.uint8] | None = field(default=None, repr=False)
    """uint8[n, 32], sha256 of each crop's bytes; made here where they are not given."""

    def __post_init__(self) -> None:
        """Raise InvalidInputError where labels, identities, keys and crops do not fit together."""
        set_ = object.__setattr__
        given: object = self.crops
        if isinstance(given, np.ndarray):
            set_(self, "crops", CropRows(given))
        set_(self, "labels", np.ascontiguousarray(self.labels, np.int64))
        _check(self)
        if self.row_digests is None:
            set_(self, "row_digests", digest_rows(self.crops))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_identities(self) -> int:
        """People."""
        return len(self.identities)

    @property
    def side_px(self) -> int:
        """Side of each crop."""
        return int(self.crops.shape[1])

    @property
    def counts(self) -> Rows:
        """int64[num_identities]: crops of each identity, at least 1."""
        return np.bincount(self.labels, minlength=self.num_identities).astype(np.int64, copy=False)

    @property
    def digest(self) -> str:
        """Hex sha256 over keys, identities, alignment and content of all crops, in their order."""
        assert self.row_digests is not None
        hashed = hashlib.sha256(f"{self.alignment}\n{self.side_px}\n".encode())
        for label, key in zip(self.labels.tolist(), self.keys, strict=True):
            # Texts are measured, so that no two sets of them run together alike.
            name = self.identities[label]
            hashed.update(f"{len(name)} {name} {len(key)} {key}\n".encode("utf-8", "surrogateescape"))
        hashed.update(self.row_digests.tobytes())
        return hashed.hexdigest()

    def rows_of(self, identities: Collection[str]) -> Rows:
        """Rows of those identities, ascending; names that are not here are passed over."""
        names = frozenset(identities)
        is_wanted = np.array([name in names for name in self.identities], bool)
        return np.flatnonzero(is_wanted[self.labels])

    def subset(self, rows: Rows) -> CropSet:
        """Give those rows as a set of their own, labels renumbered from 0; no crop is read.

        Raises InvalidInputError where there is none, or a row that is not here.
        """
        rows = np.asarray(rows, np.int64)
        if rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= len(self):
            raise InvalidInputError(f"a subset needs rows int64[n], n >= 1, of 0 to {len(self) - 1}")
        kept, labels = np.unique(self.labels[rows], return_inverse=True)
        assert self.row_digests is not None
        return CropSet(
            self.crops.take(rows),
            labels.astype(np.int64),
            tuple(self.identities[label] for label in kept.tolist()),
            tuple(self.keys[row] for row in rows.tolist()),
            self.alignment,
            self.row_digests[rows],
        )


def digest_rows(crops: CropRows) -> NDArray[np.uint8]:
    """Sha256 of each crop's bytes, uint8[n, 32]."""
    digests = np.empty((len(crops), 32), np.uint8)
    num_at_once = max(1, HASHED_BYTES * len(crops) // max(1, crops.nbytes))
    for start in range(0, len(crops), num_at_once):
        for row, crop in enumerate(crops[start : start + num_at_once], start):
            digests[row] = np.frombuffer(hashlib.sha256(crop).digest(), np.uint8)
    return digests


def number_identities(names: Sequence[str]) -> tuple[Rows, tuple[str, ...]]:
    """Labels int64[n] from 0 without gaps for the name of each crop, and the sorted names."""
    identities = tuple(sorted(set(names)))
    label_of = {name: label for label, name in enumerate(identities)}
    return np.array([label_of[name] for name in names], np.int64), identities


def _check(crops: CropSet) -> None:
    shape, num = crops.crops.shape, len(crops.labels)
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or not shape[1]:
        raise InvalidInputError(f"crops must be uint8[n, s, s, 3], not {list(shape)}")
    if not num or shape[0] != num or len(crops.keys) != num or crops.labels.ndim != 1:
        raise InvalidInputError(
            f"there are {shape[0]} crops, {num} labels and {len(crops.keys)} keys: one each is needed,"
            " and at least one"
        )
    found = np.unique(crops.labels)
    if not np.array_equal(found, np.arange(len(crops.identities))):
        raise InvalidInputError(
            f"labels go from {found[0]} to {found[-1]} with {len(found)} different ones, but must be 0 to"
            f" {len(crops.identities) - 1}, each of them, for {len(crops.identities)} identities",
            hint="Renumber them: number_identities() does, and CropSet.subset() for a part.",
        )
    if any(a >= b for a, b in zip(crops.identities, crops.identities[1:], strict=False)):
        raise InvalidInputError("identities must be sorted and each there once")


def _stamp_of(path: Path) -> tuple[int, ...]:
    """What tells a file from the one that takes its place; empty where there is none.

    A file that is still mapped somewhere keeps its number, so that no other has it.
    """
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _open_npy(path: Path) -> Pixels:
    """Map a .npy file of crops. Raises InvalidInputError where it is none."""
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInputError(
            f"cannot read crops {path}: {error}", hint="Remove the folder of crops: it is made anew."
        ) from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise InvalidInputError(
            f"{path} holds {pixels.dtype}{list(pixels.shape)}, no crops uint8[n, s, s, 3]"
        )
    return np.asarray(pixels)
