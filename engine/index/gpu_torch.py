"""A generation's rows as torch tensors: scanned in float16, re-ranked in float32, exactly.

The only module of the index that imports torch. Knows nothing of threads.

Of each probe the rows of highest score are re-ranked; ``half_precision`` says when that proves the answer.
Where it does not (many rows nearly alike), every row whose score reaches the r-th best similarity less the
bound is re-ranked.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import DeviceError, UnavailableError
from engine.index.gpu import Answer, Limits, MemoryPlan
from engine.index.half_precision import RowPrecision
from engine.types import Vectors

_CANDIDATES_MORE = 64
"""Rows re-ranked beyond those asked for, at least; as many again as asked for, where that is more."""
_MASKS_MAX = 2
"""Bitmaps kept unpacked: the snapshot of now and the one before it."""
_UPLOAD_ROWS = 262_144


def refuse_if_absent(device: str) -> None:
    """Raise DeviceError where torch sees no such device."""
    wanted = torch.device(device)
    if not torch.cuda.is_available() or (wanted.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"search on {device} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices",
            hint="Set galleries.index.search_device to cpu, or install a torch that sees the device.",
        )


class TorchScan:
    """Rows on one torch device. Not thread-safe."""

    def __init__(self, vectors: Vectors, device: str, limits: Limits, free_bytes: int | None):
        """Raises DeviceError where the device's memory does not suffice."""
        self._device = torch.device(device)
        is_cuda = self._device.type == "cuda"
        if free_bytes is None:
            # Tensors of the CPU are the test's own business.
            free_bytes = torch.cuda.mem_get_info(self._device)[0] if is_cuda else sys.maxsize
        self._limits = limits
        self._num_rows: int = vectors.shape[0]
        self._dimension: int = vectors.shape[1]
        self._plan = MemoryPlan.fitting(self._num_rows, self._dimension, free_bytes, limits)
        self.name = f"{self._described()}, {self._plan}"
        self._masks: list[tuple[NDArray[np.uint8], Tensor]] = []
        if is_cuda:
            # Sums of products in float16 would not keep within the bound.
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        self._host = vectors
        self._upload()

    def _described(self) -> str:
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU tensors"
        return f"{self._device} ({name}) by torch {importlib.metadata.version('torch')}"

    def _upload(self) -> None:
        """Bring the rows to the device, and measure what float16 makes of them."""
        shape = (self._num_rows, self._dimension)
        self._scanned = torch.empty(shape, dtype=torch.float16, device=self._device)
        self._rows = None
        if self._plan.rows_bytes:
            self._rows = torch.empty(shape, dtype=torch.float32, device=self._device)
        self._precision = RowPrecision(self._dimension)
        for start in range(0, self._num_rows, _UPLOAD_ROWS):
            stop = min(start + _UPLOAD_ROWS, self._num_rows)
            block = self._sent(self._host[start:stop])
            half = block.half()
            self._scanned[start:stop] = half
            if self._rows is not None:
                self._rows[start:stop] = block
            self._precision.add(
                float(torch.linalg.vector_norm(block, dim=1).max()),
                float(torch.linalg.vector_norm(block - half.float(), dim=1).max()),
            )

    def _sent(self, values: NDArray[np.float32]) -> Tensor:
        # A copy: torch warns of arrays that are mapped read-only.
        return torch.from_numpy(np.array(values, np.float32)).to(self._device)

    def search(self, probes: Vectors, num_rows: int, alive: NDArray[np.uint8] | None) -> Answer:
        """As `GpuSearcher.search`. Raises UnavailableError where the device runs out of memory."""
        similarities = np.full((len(probes), num_rows), -np.inf, np.float32)
        rows = np.full((len(probes), num_rows), -1, np.int64)
        wanted = min(num_rows, self._num_rows)
        if not wanted:
            return similarities, rows
        step = self._probes_at_once(wanted)
        try:
            dead = self._dead(alive)
            for start in range(0, len(probes), step):
                best, found = self._search(self._sent(probes[start : start + step]), wanted, dead)
                stop = start + len(best)
                similarities[start:stop, :wanted] = best.cpu().numpy()
                rows[start:stop, :wanted] = found.cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise UnavailableError(
                f"{self._device} ran out of memory in a search of {len(probes)} probes for {num_rows} rows",
                hint="Leave more of the device's memory to the server.",
            ) from error
        rows[similarities == -np.inf] = -1
        return similarities, rows

    def close(self) -> None:
        """Let go of the tensors, and of what torch keeps for later."""
        self._rows = None
        self._scanned = torch.empty(0, device=self._device)
        self._masks.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _search(self, probes: Tensor, wanted: int, dead: Tensor | None) -> tuple[Tensor, Tensor]:
        """The best `wanted` of float32[n, d]: float32[n, wanted], int64[n, wanted]."""
        halves = probes.half()
        bounds = self._bounds(probes, halves)
        count = self._num_candidates(wanted)
        scores, candidates = self._highest(halves, count, dead)
        similarities = self._similarities(probes, candidates)
        similarities.masked_fill_(scores == -torch.inf, -torch.inf)
        best, positions = similarities.topk(wanted, dim=1)
        rows = candidates.gather(1, positions)
        if count < self._num_rows:
            is_proven = scores[:, -1].float() + bounds <= best[:, -1]
            for probe in torch.nonzero(~is_proven)[:, 0].tolist():
                floor = float(best[probe, -1] - bounds[probe])
                best[probe], rows[probe] = self._widened(probes[probe], halves[probe], wanted, floor, dead)
        return best, rows

    def _bounds(self, probes: Tensor, halves: Tensor) -> Tensor:
        """Most that a score of the scan may differ from a similarity, for each probe: float32[n]."""
        roundings = torch.linalg.vector_norm(probes - halves.float(), dim=1)
        bounds: Tensor = self._precision.bound(torch.linalg.vector_norm(probes, dim=1), roundings)
        return bounds

    def _highest(self, halves: Tensor, count: int, dead: Tensor | None) -> tuple[Tensor, Tensor]:
        """The `count` highest scores of the scan, of each probe: float16[n, count], int64[n, count]."""
        scores = torch.empty((len(halves), 0), dtype=torch.float16, device=self._device)
        rows = torch.empty((len(halves), 0), dtype=torch.int64, device=self._device)
        for start, stop in self._blocks(len(halves), count):
            block, columns = self._chosen(self._scores(halves, start, stop, dead), count)
            scores = torch.cat([scores, block], dim=1)
            rows = torch.cat([rows, columns + start], dim=1)
            scores, positions = scores.topk(min(count, scores.shape[1]), dim=1)
            rows = rows.gather(1, positions)
        return scores, rows

    def _scores(self, halves: Tensor, start: int, stop: int, dead: Tensor | None) -> Tensor:
        scores: Tensor = halves @ self._scanned[start:stop].T
        if dead is not None:
            scores.masked_fill_(dead[start:stop], -torch.inf)
        return scores

    def _chosen(self, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The highest of float16[n, b] and their columns; b is at most one chunk, or whole chunks."""
        chunk = self._limits.chunk_rows
        if scores.shape[1] <= chunk:
            values, columns = scores.topk(min(count, scores.shape[1]), dim=1)
            return values, columns
        values, columns = scores.reshape(len(scores), -1, chunk).topk(min(count, chunk), dim=2)
        firsts = torch.arange(0, scores.shape[1], chunk, device=self._device)
        columns = (columns + firsts[None, :, None]).flatten(1)
        values, positions = values.flatten(1).topk(min(count, columns.shape[1]), dim=1)
        return values, columns.gather(1, positions)

    def _similarities(self, probes: Tensor, rows: Tensor) -> Tensor:
        """float32[n, c] of probes float32[n, d] with their own rows int64[n, c].

        Multiplied and summed, not a matrix product: that may be set to round its operands (TF32).
        """
        num_probes, count = rows.shape
        step = max(1, self._limits.gather_bytes_max // (num_probes * self._dimension * 4))
        similarities = torch.empty(rows.shape, dtype=torch.float32, device=self._device)
        for start in range(0, count, step):
            vectors = self._gathered(rows[:, start : start + step])
            similarities[:, start : start + step] = vectors.mul_(probes[:, None, :]).sum(dim=2)
        return similarities

    def _gathered(self, rows: Tensor) -> Tensor:
        if self._rows is not None:
            return self._rows[rows]
        return self._sent(self._host[rows.cpu().numpy()])

    def _widened(
        self, probe: Tensor, half: Tensor, wanted: int, floor: float, dead: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The best of all rows whose score is at least `floor`, for one probe float32[d]."""
        floor_16 = float(np.nextafter(np.float16(floor), np.float16(-np.inf)))
        best = torch.empty((1, 0), dtype=torch.float32, device=self._device)
        rows = torch.empty((1, 0), dtype=torch.int64, device=self._device)
        for start, stop in self._blocks(1, wanted):
            scores = self._scores(half[None], start, stop, dead)
            candidates = torch.nonzero(scores[0] >= floor_16)[None, :, 0] + start
            rows = torch.cat([rows, candidates], dim=1)
            best = torch.cat([best, self._similarities(probe[None], candidates)], dim=1)
            best, positions = best.topk(min(wanted, best.shape[1]), dim=1)
            rows = rows.gather(1, positions)
        return best[0], rows[0]

    def _dead(self, alive: NDArray[np.uint8] | None) -> Tensor | None:
        """Whether each row was removed, bool[rows], of a bitmap; rows beyond it were."""
        if alive is None:
            return None
        for known, mask in self._masks:
            # Bitmaps never change, and the one kept here cannot give its place in memory to another.
            if known is alive:
                return mask
        bits = torch.from_numpy(np.array(alive)).to(self._device)
        shifts = torch.arange(8, dtype=torch.uint8, device=self._device)
        dead = torch.ones(self._num_rows, dtype=torch.bool, device=self._device)
        unpacked = ((bits[:, None] >> shifts) & 1).flatten()[: self._num_rows] == 0
        dead[: len(unpacked)] = unpacked
        self._masks = [*self._masks[1 - _MASKS_MAX :], (alive, dead)]
        return dead

    def _num_candidates(self, wanted: int) -> int:
        return min(self._num_rows, max(wanted + _CANDIDATES_MORE, 2 * wanted))

    def _probes_at_once(self, wanted: int) -> int:
        """As many as may be in one piece: their candidates (10 bytes each, kept and new) are bounded."""
        fitting = self._limits.candidates_bytes_max // (20 * self._num_candidates(wanted))
        return max(1, min(self._limits.batch_probes_max, fitting))

    def _blocks(self, num_probes: int, count: int) -> Iterator[tuple[int, int]]:
        """First row and end of blocks: whole chunks as far as they go, then what is left."""
        limits, chunk = self._limits, self._limits.chunk_rows
        scored = limits.scores_bytes_max // (2 * num_probes * chunk)
        chosen = limits.candidates_bytes_max // (10 * num_probes * min(count, chunk))
        step = chunk * max(1, min(scored, chosen))
        whole = self._num_rows // chunk * chunk
        for start in range(0, whole, step):
            yield start, min(start + step, whole)
        if whole < self._num_rows:
            yield whole, self._num_rows
