"""The scan of codes in C: finds and compares a probe's nearest rows in one pass. Optional.

It is compiled when Identiface is installed where there is a C compiler, and used on x86-64 processors with
AVX2; elsewhere FAISS does the same work, and takes longer. Knows nothing of files or generations.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.index.alive import Alive
from engine.index.faiss_library import library
from engine.index.fine_codes import KERNEL_LEVELS, KERNEL_SQUARES, LEVEL_STEP, SQUARE_STEP
from engine.types import Vector, Vectors

SWITCH = "IDENTIFACE_KERNEL"
"""Environment variable: 0 leaves the work to FAISS."""


CODES_IN_BLOCK = 32
"""Rows that FastScan packs together."""


class _Codes(ctypes.Structure):
    _fields_ = (("packed", ctypes.c_void_p), ("ids", ctypes.c_void_p), ("num_rows", ctypes.c_int64))


class _Gallery(ctypes.Structure):
    _fields_ = (
        ("all", _Codes),
        ("sample", _Codes),
        ("centroids", ctypes.c_void_p),
        ("fine", ctypes.c_void_p),
        ("levels", ctypes.c_void_p),
        ("squares", ctypes.c_void_p),
        ("spreads", ctypes.c_void_p),
        ("vectors", ctypes.c_void_p),
        ("num_subquantisers", ctypes.c_int64),
        ("axes", ctypes.c_int64),
        ("dimension", ctypes.c_int64),
        ("fine_bytes", ctypes.c_int64),
        ("level_step", ctypes.c_float),
        ("square_step", ctypes.c_float),
    )


class _Question(ctypes.Structure):
    _fields_ = (
        ("probes", ctypes.c_void_p),
        ("rotated", ctypes.c_void_p),
        ("alive", ctypes.c_void_p),
        ("num_probes", ctypes.c_int64),
        ("num_alive_bytes", ctypes.c_int64),
        ("rank", ctypes.c_int64),
        ("num_found", ctypes.c_int64),
        ("num_compared", ctypes.c_int64),
        ("num_rows", ctypes.c_int64),
    )


def _load() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("engine.index._kernel")
    if spec is None or spec.origin is None or os.environ.get(SWITCH) == "0":
        return None
    found = ctypes.CDLL(spec.origin)
    pointer = ctypes.c_void_p
    found.identiface_nearest.argtypes = [
        ctypes.POINTER(_Gallery), ctypes.POINTER(_Question), ctypes.c_int, pointer, pointer, pointer
    ]  # fmt: skip
    count = ctypes.c_int64
    found.identiface_within.argtypes = [
        ctypes.POINTER(_Codes), pointer, count, count, pointer, ctypes.c_int, pointer, count
    ]  # fmt: skip
    found.identiface_within.restype = count
    found.identiface_around.argtypes = [
        ctypes.POINTER(_Gallery), ctypes.POINTER(_Codes), pointer, ctypes.c_float, ctypes.c_int,
        pointer, count,
    ]  # fmt: skip
    found.identiface_around.restype = count
    found.identiface_products.argtypes = [
        pointer, count, pointer, pointer, count, ctypes.c_int, pointer
    ]  # fmt: skip
    return found


_library = _load()


def best_level() -> int:
    """2: AVX-512BW, 1: AVX2, 0: none."""
    return _library.identiface_level() if _library else 0


def is_available() -> bool:
    """Whether it was compiled, and runs on this processor."""
    return _level > 0


_level = best_level()


@dataclass(frozen=True)
class PackedCodes:
    """4-bit codes as FastScan packs them, 32 rows in a block."""

    packed: NDArray[np.uint8]
    ids: NDArray[np.int64] | None
    """int64[n]; None: a row's number."""
    num_rows: int

    @classmethod
    def of_list(cls, index: Any, number: int, *, has_ids: bool) -> PackedCodes:
        """One list of a FAISS IVF FastScan index, as long as the index is there."""
        faiss = library()
        lists = faiss.downcast_InvertedLists(index.invlists)
        num_rows = lists.list_size(number)
        if not num_rows:
            return cls(np.empty(0, np.uint8), np.empty(0, np.int64) if has_ids else None, 0)
        num_bytes = -(-num_rows // CODES_IN_BLOCK) * CODES_IN_BLOCK * index.code_size
        codes = faiss.rev_swig_ptr(lists.get_codes(number), num_bytes)
        return cls(codes, faiss.rev_swig_ptr(lists.get_ids(number), num_rows) if has_ids else None, num_rows)

    def as_c(self) -> _Codes:
        """Only pointers: these arrays must live as long."""
        ids = None if self.ids is None else self.ids.ctypes.data
        return _Codes(self.packed.ctypes.data, ids, self.num_rows)


@dataclass(frozen=True)
class Extent:
    """How much of a gallery is looked at for each probe."""

    rank: int
    """Rows within the distance of the sample's living row of this rank are found; 0: at any distance."""
    num_found: int
    """Of these the nearest by the codes are looked at by their fine codes ..."""
    num_compared: int
    """... and the nearest by these are compared ..."""
    num_rows: int
    """... to find so many."""


class Kernel:
    """The codes and vectors of one generation, ready to be searched. Read-only and thread-safe."""

    def __init__(
        self,
        *,
        every: PackedCodes,
        sample: PackedCodes,
        centroids: NDArray[np.float32],
        fine: NDArray[np.uint8],
        spreads: NDArray[np.float32],
        vectors: Vectors,
    ):
        """`centroids` float32[sub-quantisers, 16, axes] and `spreads` float32[d] are of the codes' axes.

        `vectors` float32[n, d] may be unaligned; `fine` is uint8[n, bytes].
        """
        self._kept = (every, sample, centroids, fine, spreads, vectors)
        self._gallery = _Gallery(
            all=every.as_c(),
            sample=sample.as_c(),
            centroids=centroids.ctypes.data,
            fine=fine.ctypes.data,
            levels=KERNEL_LEVELS.ctypes.data,
            squares=KERNEL_SQUARES.ctypes.data,
            spreads=spreads.ctypes.data,
            vectors=vectors.ctypes.data,
            num_subquantisers=len(centroids),
            axes=centroids.shape[2],
            dimension=vectors.shape[1],
            fine_bytes=fine.shape[1],
            level_step=LEVEL_STEP,
            square_step=SQUARE_STEP,
        )

    def nearest(
        self, probes: Vectors, coordinates: Vectors, alive: Alive, extent: Extent
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Similarities and rows float32[n, num_rows], int64, best first; -inf and -1 where there are no more.

        And the distance float32[n] by the codes within which they were found. `coordinates` are the probes'
        float32[n, d] along the codes' axes.
        """
        probes, coordinates = np.ascontiguousarray(probes), np.ascontiguousarray(coordinates)
        num = len(probes)
        similarities = np.full((num, extent.num_rows), -np.inf, np.float32)
        rows = np.full((num, extent.num_rows), -1, np.int64)
        radii = np.empty(num, np.float32)
        question = _Question(
            probes=probes.ctypes.data,
            rotated=coordinates.ctypes.data,
            alive=None if alive is None else alive.ctypes.data,
            num_probes=num,
            num_alive_bytes=0 if alive is None else alive.size,
            rank=extent.rank,
            num_found=extent.num_found,
            num_compared=extent.num_compared,
            num_rows=extent.num_rows,
        )
        assert _library is not None, "ask is_available() first"
        if _library.identiface_nearest(
            self._gallery, question, _level, rows.ctypes.data, similarities.ctypes.data, radii.ctypes.data
        ):
            raise MemoryError(f"no memory to search for {num} probes at once")
        return similarities, rows, radii

    def around(self, coordinates: Vectors, those: PackedCodes, radius: float) -> NDArray[np.int64]:
        """Rows int64[r] of other codes of the same kind within a distance that `nearest` told.

        `coordinates` float32[1, d] are those of the probe.
        """
        rows = np.empty(those.num_rows + CODES_IN_BLOCK, np.int64)
        coordinates = np.ascontiguousarray(coordinates)
        assert _library is not None, "ask is_available() first"
        count = _library.identiface_around(
            self._gallery, those.as_c(), coordinates.ctypes.data, radius, _level, rows.ctypes.data, len(rows)
        )
        return rows[:count]


class Lists:
    """Codes in several lists, to be scanned by tables of one's own. Read-only and thread-safe."""

    def __init__(self, lists: Sequence[PackedCodes], num_slots: int):
        """Each list has its rows' ids; `num_slots`, even, are nibbles of a code."""
        self._kept = lists
        self._lists = (_Codes * len(lists))(*(one.as_c() for one in lists))
        self._num_slots = num_slots

    def within(
        self, tables: NDArray[np.uint8], limits: NDArray[np.int32], num_rows_max: int
    ) -> NDArray[np.int64]:
        """Ids int64[r] of the rows whose entries of `tables` uint8[slots, 16] sum up to their list's limit.

        Or to less. `limits` int32[lists]: below 0 none of a list, from 65,535 on all. The largest entries of
        all slots sum up to 65,535 at most. `num_rows_max`: of all lists.
        """
        rows = np.empty(num_rows_max + CODES_IN_BLOCK, np.int64)
        tables, limits = np.ascontiguousarray(tables, np.uint8), np.ascontiguousarray(limits, np.int32)
        assert _library is not None, "ask is_available() first"
        count = _library.identiface_within(
            self._lists, limits.ctypes.data, len(self._lists), self._num_slots,
            tables.ctypes.data, _level, rows.ctypes.data, len(rows),
        )  # fmt: skip
        assert count >= 0, "more rows were found than there are"
        found: NDArray[np.int64] = rows[:count]
        return found


def products(vectors: Vectors, probe: Vector, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Inner products float32[r] of float32[d] with rows int64[r] of float32[n, d], which may be unaligned."""
    found = np.empty(len(rows), np.float32)
    probe, rows = np.ascontiguousarray(probe, np.float32), np.ascontiguousarray(rows)
    assert _library is not None, "ask is_available() first"
    _library.identiface_products(
        vectors.ctypes.data, vectors.shape[1], probe.ctypes.data,
        rows.ctypes.data, len(rows), _level, found.ctypes.data,
    )  # fmt: skip
    return found
