"""Exact search on a GPU: one thread owns the device's copy of a generation and works off what many ask.

::

    search (many threads) -> queue -> owner thread: batch -> scan in float16 -> re-rank in float32 -> answers

The scan reads half the bytes of float32 and rounds; its rounding is bounded, and what the bound cannot rule
out is looked at again: answers are those of a float32 scan (``half_precision`` has the argument). Through
FAISS where it was built for GPUs, else through torch; the owner thread alone uses either, since FAISS's GPU
resources are not safe for several threads, not even for reading.

While the owner is busy the queue grows, and the next batch with it: load makes batches, waiting does not.
Who asks sees to deadlines before asking; the queue is as long as the server lets callers in.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import DeviceError, UnavailableError
from engine.index.faiss_library import library
from engine.types import Vectors

_log = logging.getLogger(__name__)

Answer = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Similarities float32[n, r] and rows int64[n, r], best first; -inf and -1 where there are no more."""

_GIB = 2**30
_LIBRARY_BYTES = 128 << 20
"""What matrix products of CUDA's libraries take beside their operands."""
_PROOF_ROWS = 32
"""Rows that are asked for themselves before a device is used."""
_PROOF_TOLERANCE = 1e-5
"""Of the similarity of a unit vector with itself, summed in float32."""


@dataclass(frozen=True)
class Limits:
    """How much is done at once; all of it bounds the memory beside the vectors."""

    batch_probes_max: int = 1024
    """Probes of several callers in one scan."""
    chunk_rows: int = 65_536
    """Rows among which the best are chosen at once: beyond 100,000 torch sorts them all instead."""
    scores_bytes_max: int = 256 << 20
    """Of the scores of one block of rows, in float16."""
    candidates_bytes_max: int = 128 << 20
    """Of the best of every chunk, before they are merged."""
    gather_bytes_max: int = 64 << 20
    """Of float32 rows being re-ranked."""

    @property
    def work_bytes(self) -> int:
        """All of that at its largest: copies, comparisons and merges double it."""
        return 2 * (self.scores_bytes_max + self.candidates_bytes_max + self.gather_bytes_max)


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class MemoryPlan:
    """What a generation needs on its device."""

    scan_bytes: int
    """The float16 rows, and one mark of removal each, twice: searches may see two snapshots."""
    rows_bytes: int
    """The float32 rows; 0 where they stay in the host's memory, and only those re-ranked are sent."""
    work_bytes: int
    """What one batch takes meanwhile."""

    @classmethod
    def fitting(
        cls, num_rows: int, dimension: int, free_bytes: int, limits: Limits = DEFAULT_LIMITS
    ) -> MemoryPlan:
        """The fastest that fits: re-ranking on the device, else from the host's mapped file.

        Re-ranking reads a few hundred rows a probe: from the host that is slower, but not by as much as
        scanning there. Raises DeviceError with the sizes where not even the scan fits.
        """
        # Three marks a row: two bitmaps unpacked, a third while it is being unpacked.
        scan_bytes = num_rows * (2 * dimension + 3)
        rows_bytes = num_rows * 4 * dimension
        work_bytes = limits.work_bytes + _LIBRARY_BYTES
        plan = cls(scan_bytes, rows_bytes, work_bytes)
        if plan.total_bytes > free_bytes:
            plan = cls(scan_bytes, 0, work_bytes)
        plan.refuse_beyond(free_bytes)
        return plan

    @classmethod
    def of_faiss(cls, num_rows: int, dimension: int, limits: Limits = DEFAULT_LIMITS) -> MemoryPlan:
        """What FAISS needs: float16 rows and their norms, copied once more when memory grows to take them."""
        return cls(2 * num_rows * (2 * dimension + 4), 0, limits.scores_bytes_max + _LIBRARY_BYTES)

    def refuse_beyond(self, free_bytes: int) -> None:
        """Raise DeviceError, with the sizes, where this does not fit."""
        if self.total_bytes > free_bytes:
            raise DeviceError(
                f"search on the device needs {self}; {_gib(free_bytes)} are free",
                hint="Free memory on the device, use fewer workers (each holds a copy of its own), or set "
                "galleries.index.search_device to cpu.",
            )

    @property
    def total_bytes(self) -> int:
        """All together."""
        return self.scan_bytes + self.rows_bytes + self.work_bytes

    def __str__(self) -> str:
        rows = f"{_gib(self.rows_bytes)} of float32 rows" if self.rows_bytes else "float32 rows on the host"
        return (
            f"{_gib(self.total_bytes)} of device memory ({_gib(self.scan_bytes)} of float16 rows and marks, "
            f"{rows}, {_gib(self.work_bytes)} to work in)"
        )


class Scan(Protocol):
    """A generation's rows on a device; used by one thread alone."""

    name: str
    """Device and library, as they really are."""

    def search(self, probes: Vectors, num_rows: int, alive: NDArray[np.uint8] | None) -> Answer:
        """The nearest living rows of each probe, exactly."""
        ...

    def close(self) -> None:
        """Give the device's memory back."""
        ...


@dataclass(frozen=True, eq=False)
class _Job:
    """One caller's probes."""

    probes: Vectors
    num_rows: int
    alive: NDArray[np.uint8] | None
    answer: Future[Answer]

    def goes_with(self, other: _Job) -> bool:
        return self.alive is other.alive and self.num_rows == other.num_rows


class GpuSearcher:
    """Exact search of one generation on a device. Thread-safe; `close` gives the memory back."""

    def __init__(
        self,
        vectors: Vectors,
        device: str,
        *,
        limits: Limits = DEFAULT_LIMITS,
        free_bytes: int | None = None,
    ):
        """Copy `vectors`, float32[n, d] of unit length, to `device`: "cuda", "cuda:<n>" or "torch-cpu".

        They may be mapped from a file and must not change. `free_bytes` is the memory that may be used;
        None: what the device says is free. Raises DeviceError where the device is not there, its memory does
        not suffice, or it finds other rows than it was given.
        """
        refuse_if_absent(device)
        device = device.removeprefix("torch-")
        self._vectors = vectors
        self._dimension = vectors.shape[1]
        self._limits = limits
        self._waiting: deque[_Job] = deque()
        self._is_closing = False
        self._has_work = threading.Condition()
        ready: Future[str] = Future()
        self._owner = threading.Thread(
            target=self._own,
            args=(lambda: _opened(vectors, device, limits, free_bytes), ready),
            name=f"search-{device}",
            daemon=True,
        )
        self._owner.start()
        self.name: str = ready.result()
        """Device and library that are really used."""

    def search(self, probes: Vectors, num_rows: int, alive: NDArray[np.uint8] | None) -> Answer:
        """Similarities and rows float32[n, r], int64[n, r], best first; -inf and -1 where there are no more.

        The rows are those that a float32 scan finds. `alive` is a bitmap of the rows that may be found,
        lowest bit first, which must not change; None: all. Raises UnavailableError after `close` and where
        the device fails.
        """
        if not len(probes) or not num_rows:
            return np.empty((len(probes), num_rows), np.float32), np.empty((len(probes), num_rows), np.int64)
        job = _Job(np.ascontiguousarray(probes, np.float32), num_rows, alive, Future())
        with self._has_work:
            if self._is_closing:
                raise UnavailableError("the search on the device was closed")
            self._waiting.append(job)
            self._has_work.notify()
        return job.answer.result()

    def close(self) -> None:
        """Finish what waits, then give the device's memory back. May be repeated, from any thread."""
        with self._has_work:
            self._is_closing = True
            self._has_work.notify()
        # A generation may be let go, and closes us, wherever the last reference to it is dropped.
        if threading.current_thread() is not self._owner:
            self._owner.join()

    def _own(self, make: Callable[[], Scan], ready: Future[str]) -> None:
        """What the owner thread does: all of the scan's life."""
        try:
            scan = make()
        except BaseException as error:  # noqa: BLE001  (raised again where the searcher is made)
            ready.set_exception(error)
            return
        ready.set_result(scan.name)
        while self._work_off_batch(scan):
            pass
        scan.close()

    def _work_off_batch(self, scan: Scan) -> bool:
        """Answer what waits, as much as one scan may have; false once closed and drained."""
        batch = self._next_batch()
        if not batch:
            return False
        first = batch[0]
        try:
            probes = np.concatenate([job.probes for job in batch]) if len(batch) > 1 else first.probes
            similarities, rows = scan.search(probes, first.num_rows, first.alive)
        except BaseException as error:  # noqa: BLE001  (raised again in every thread that waits for it)
            for job in batch:
                job.answer.set_exception(error)
            return True
        start = 0
        for job in batch:
            stop = start + len(job.probes)
            job.answer.set_result((similarities[start:stop], rows[start:stop]))
            start = stop
        return True

    def _next_batch(self) -> list[_Job]:
        """The job that waited longest and those that go with it; none once closed and drained."""
        with self._has_work:
            while not self._waiting and not self._is_closing:
                self._has_work.wait()
            if not self._waiting:
                return []
            batch = [self._waiting.popleft()]
            room = self._limits.batch_probes_max - len(batch[0].probes)
            others: deque[_Job] = deque()
            for job in self._waiting:
                if job.goes_with(batch[0]) and len(job.probes) <= room:
                    batch.append(job)
                    room -= len(job.probes)
                else:
                    others.append(job)
            self._waiting = others
            return batch


def refuse_if_absent(device: str) -> None:
    """Raise DeviceError where there is no such device, or nothing here that could use it."""
    if device.removeprefix("torch-") != "cpu" and not _is_faiss_on_gpu():
        from engine.index.gpu_torch import refuse_if_absent as torch_refuses

        torch_refuses(device)


def _is_faiss_on_gpu() -> bool:
    faiss = library()
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _opened(vectors: Vectors, device: str, limits: Limits, free_bytes: int | None) -> Scan:
    """The scan of the library that is there, which has found its own rows. Run by the owner thread."""
    scan: Scan
    if device != "cpu" and _is_faiss_on_gpu():
        from engine.index.gpu_faiss import FaissScan

        scan = FaissScan.on_gpu(vectors, device, limits, free_bytes)
    else:
        from engine.index.gpu_torch import TorchScan

        scan = TorchScan(vectors, device, limits, free_bytes)
    _prove(scan, vectors)
    _log.info("search on %s: %d templates", scan.name, len(vectors))
    return scan


def _prove(scan: Scan, vectors: Vectors) -> None:
    """Ask for some rows by themselves: a device or driver that computes wrongly is never used."""
    if not len(vectors):
        return
    probes = np.array(vectors[:: max(1, len(vectors) // _PROOF_ROWS)][:_PROOF_ROWS])
    similarities, _ = scan.search(probes, 1, None)
    own = np.einsum("nd,nd->n", probes, probes, dtype=np.float64)
    if not (similarities[:, 0] >= own - _PROOF_TOLERANCE).all():
        raise DeviceError(
            f"{scan.name} does not find the templates that it was given",
            hint="Check the device and its driver, or set galleries.index.search_device to cpu.",
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB"
