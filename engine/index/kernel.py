"""The scan of codes in C: finds and compares a probe's nearest rows in one pass. Optional.

It is compiled when Identiface is installed where there is a C compiler, and used on x86-64 processors with
AVX2; elsewhere FAISS does the same work, and takes longer. Knows nothing of files or generations.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.index.alive import Alive
from engine.index.fine_codes import KERNEL_LEVELS, KERNEL_SQUARES, LEVEL_STEP, SQUARE_STEP
from engine.types import Vectors

SWITCH = "IDENTIFACE_KERNEL"
"""Environment variable: 0 leaves the work to FAISS."""


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
