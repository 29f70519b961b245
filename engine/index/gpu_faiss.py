"""A generation's rows in a FAISS flat index on a GPU, float16, re-ranked in float32 on the host, exactly.

For builds of FAISS with GPU support; they bring CUDA themselves, so no torch is needed. Not thread-safe, not
even for reading: the owner thread alone uses it.

FAISS on a GPU takes no selector and gives at most 2048 rows. Removed rows are dropped from what it finds;
where too few are left, or more are wanted, or ``half_precision`` cannot prove the answer, the host answers by
a float32 scan.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import DeviceError
from engine.index.faiss_library import FAISS_VERSION, library
from engine.index.gpu import Answer, Limits, MemoryPlan
from engine.index.half_precision import RowPrecision
from engine.types import Vectors

_RESULTS_MAX = 2048
"""Of FAISS's GPU selection."""
_CANDIDATES_MORE = 64
_HOST_ROWS = 65_536


class FaissScan:
    """Rows in a flat float16 index of FAISS. Not thread-safe."""

    def __init__(self, vectors: Vectors, index: Any, name: str):
        """`index` is an inner-product index of FAISS that holds `vectors` in float16, in their order."""
        self.name = name
        self._host = vectors
        self._index = index
        self._num_rows: int = vectors.shape[0]
        self._precision = RowPrecision(vectors.shape[1])
        for start in range(0, self._num_rows, _HOST_ROWS):
            self._precision.add(*_measured(vectors[start : start + _HOST_ROWS]))
        self._alive: tuple[NDArray[np.uint8], NDArray[np.bool_]] | None = None

    @classmethod
    def on_gpu(cls, vectors: Vectors, device: str, limits: Limits, free_bytes: int | None) -> FaissScan:
        """Copy `vectors` to a GPU. Raises DeviceError where its memory does not suffice.

        FAISS does not say how much is free: unless `free_bytes` is given, it is asked by allocating.
        """
        faiss = library()
        plan = MemoryPlan.of_faiss(vectors.shape[0], vectors.shape[1], limits)
        if free_bytes is not None:
            plan.refuse_beyond(free_bytes)
        name = f"{device} by FAISS {FAISS_VERSION}, {plan}"
        try:
            resources = faiss.StandardGpuResources()
            resources.setTempMemory(limits.scores_bytes_max)
            config = faiss.GpuIndexFlatConfig()
            config.useFloat16 = True
            config.device = int(device.partition(":")[2] or 0)
            # FAISS's Python layer keeps the resources alive as long as the index.
            index = faiss.GpuIndexFlat(resources, vectors.shape[1], faiss.METRIC_INNER_PRODUCT, config)
            index.add(np.ascontiguousarray(vectors))
        except RuntimeError as error:
            raise DeviceError(
                f"{name} could not be set up: {error}",
                hint="Free memory on the device, or set galleries.index.search_device to cpu.",
            ) from error
        return cls(vectors, index, name)

    def search(self, probes: Vectors, num_rows: int, alive: NDArray[np.uint8] | None) -> Answer:
        """As `GpuSearcher.search`."""
        similarities = np.full((len(probes), num_rows), -np.inf, np.float32)
        rows = np.full((len(probes), num_rows), -1, np.int64)
        wanted = min(num_rows, self._num_rows)
        count = min(self._num_rows, _RESULTS_MAX, max(wanted + _CANDIDATES_MORE, 2 * wanted))
        if not wanted:
            return similarities, rows
        is_alive = self._unpacked(alive)
        scores, candidates = self._index.search(probes, count)
        for probe, vector in enumerate(probes):
            found = candidates[probe]
            living = found if is_alive is None else found[is_alive[found]]
            best, best_rows = self._ranked(vector, living, wanted)
            reach = scores[probe, -1] + self._bound(vector)
            if count < self._num_rows and not (len(best) == wanted and reach <= best[-1]):
                best, best_rows = self._scanned(vector, wanted, is_alive)
            similarities[probe, : len(best)] = best
            rows[probe, : len(best)] = best_rows
        return similarities, rows

    def close(self) -> None:
        """Let go of the index, and its resources with it."""
        del self._index

    def _bound(self, probe: NDArray[np.float32]) -> float:
        return self._precision.bound(*_measured(probe[None]))

    def _ranked(
        self, probe: NDArray[np.float32], rows: NDArray[np.int64], wanted: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        similarities = self._host[rows] @ probe
        order = np.argsort(-similarities, kind="stable")[:wanted]
        return similarities[order], rows[order]

    def _scanned(
        self, probe: NDArray[np.float32], wanted: int, is_alive: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The same from all living rows, on the host."""
        best = np.empty(0, np.float32)
        best_rows = np.empty(0, np.int64)
        for start in range(0, self._num_rows, _HOST_ROWS):
            similarities = self._host[start : start + _HOST_ROWS] @ probe
            rows = np.arange(start, start + len(similarities))
            if is_alive is not None:
                living = is_alive[rows]
                similarities, rows = similarities[living], rows[living]
            best = np.concatenate([best, similarities])
            best_rows = np.concatenate([best_rows, rows])
            order = np.argsort(-best, kind="stable")[:wanted]
            best, best_rows = best[order], best_rows[order]
        return best, best_rows

    def _unpacked(self, alive: NDArray[np.uint8] | None) -> NDArray[np.bool_] | None:
        if alive is None:
            return None
        if self._alive is None or self._alive[0] is not alive:
            is_alive = np.zeros(self._num_rows, np.bool_)
            bits = np.unpackbits(alive, bitorder="little")[: self._num_rows]
            is_alive[: len(bits)] = bits
            self._alive = (alive, is_alive)
        return self._alive[1]


def _measured(vectors: Vectors) -> tuple[float, float]:
    """Longest vector, and longest difference of one from its float16."""
    rounding = vectors - vectors.astype(np.float16).astype(np.float32)
    return float(np.linalg.norm(vectors, axis=1).max()), float(np.linalg.norm(rounding, axis=1).max())
