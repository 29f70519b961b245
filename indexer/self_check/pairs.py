"""The nearest other identities of templates, exactly: all against all in blocks, in memory alone.

Where all are compared, each product is computed once and serves both of its templates. A product takes one
thread; blocks are dealt out to a thread for each core. What is kept of a template is its `wanted` nearest
other identities, each by its best template; a product below the least of them costs one comparison.

1,000,000 templates of 128 dimensions with each other, 5e11 pairs, take 12 to 17 minutes of two cores that do
nothing else, with and without BLAS's kernels for AVX-512: by the processor time of 200,000, 56 and 81 s
(`python -m benchmarks.self_check`). `estimate_s` tries it here and now. The result does not
depend on the number of threads. Knows no ids and no galleries.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

# For what it does to BLAS: one thread a product, so that threads of ours do not get into each other's way.
import engine.index.faiss_library  # noqa: F401
from engine.types import Vectors

BLOCK_ROWS = 1024
"""Rows on each side of a product: 4 MiB of similarities, which stay in the cache."""
STRIPE_BLOCKS = 8
"""Products of one piece of work."""
THREADS_MAX = 32

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")
Progress = Callable[[int, int], None]
"""Called with the pairs compared and their number; may raise to end the work."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """Of each row its nearest other identities, best first."""

    identities: NDArray[np.int64]
    """int64[r, wanted], -1 where there are no more"""
    similarities: NDArray[np.float32]
    """float32[r, wanted], -inf where there are no more"""


@dataclass(frozen=True, slots=True)
class _Found:
    """Similarities that may belong to the best of a row."""

    rows: NDArray[np.int64]
    identities: NDArray[np.int64]
    similarities: NDArray[np.float32]


def nearest_others(
    vectors: Vectors,
    numbers: NDArray[np.int64],
    wanted: int,
    rows: NDArray[np.int64] | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Nearest:
    """Of every row, or of `rows` int64[r] alone, its `wanted` nearest other identities.

    `vectors` float32[n, d] are of unit length, `numbers` int64[n] the identity of each, ascending. Takes
    12 x r x wanted bytes, and some 20 MB a thread.
    """
    work = _Work(vectors, numbers, wanted, rows)
    total, done = num_pairs(len(vectors), None if rows is None else len(rows)), 0
    with ThreadPoolExecutor(num_threads(), "check") as threads:
        for block, seeds in _in_order(threads, work.seed, work.seeds()):
            work.tops.put(block, seeds)
        for _, (num_done, found) in _in_order(threads, work.compare, work.stripes()):
            done += num_done
            work.tops.merge(found)
            progress(min(done, total), total)
    progress(total, total)
    return work.tops.ordered()


def num_pairs(num_rows: int, num_probes: int | None) -> int:
    """Products that must be computed; None: all with all."""
    return num_rows * num_rows // 2 if num_probes is None else num_rows * num_probes


def num_threads() -> int:
    """Threads that work: one for each core that this process may use."""
    return min(len(os.sched_getaffinity(0)), THREADS_MAX)


def estimate_s(vectors: Vectors, num_probes: int | None) -> float:
    """Seconds that `nearest_others` will take, by a trial of a few blocks on this machine now."""
    block = np.ascontiguousarray(vectors[:BLOCK_ROWS])
    floors = np.full(len(block), 2.0, np.float32)
    same, fastest = np.zeros(len(block), np.int64), float("inf")
    for _ in range(5):
        begin_s = time.perf_counter()
        similarities = block @ block.T
        _above(similarities, floors[:, None], same, same)
        if num_probes is None:
            _above(similarities, floors[None], same, same)
        fastest = min(fastest, time.perf_counter() - begin_s)
    return fastest / len(block) ** 2 * num_pairs(len(vectors), num_probes) / num_threads()


class _Work:
    """What is to be compared, in pieces."""

    def __init__(
        self, vectors: Vectors, numbers: NDArray[np.int64], wanted: int, rows: NDArray[np.int64] | None
    ):
        self._vectors, self._numbers, self._wanted = vectors, numbers, wanted
        self._is_full = rows is None
        self._probes = vectors if rows is None else vectors[rows]
        self._own = numbers if rows is None else numbers[rows]
        num_own_max = int(np.bincount(numbers).max(initial=1))
        self.tops = _Tops(len(self._probes), wanted, num_own_max * wanted)

    def seeds(self) -> Iterator[slice]:
        """Blocks of rows, each of which is compared with a first block to begin with."""
        return _blocks(0, len(self._probes))

    def seed(self, block: slice) -> Nearest:
        """The nearest of a block of rows among the rows of the same block, or of the first where few ask."""
        columns = block if self._is_full else slice(0, BLOCK_ROWS)
        similarities = self._vectors[columns] @ self._probes[block].T
        numbers = self._numbers[columns]
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
        # Down the columns: whole rows are compared at once.
        best = np.maximum.reduceat(similarities, starts, axis=0)
        names = numbers[starts]
        best[names[:, None] == self._own[block][None]] = -np.inf
        num = min(self._wanted, len(names))
        order = np.argpartition(-best, num - 1, axis=0)[:num].T
        found = np.take_along_axis(best.T, order, axis=1)
        return Nearest(np.where(np.isfinite(found), names[order], -1), found)

    def stripes(self) -> Iterator[tuple[slice, list[slice]]]:
        """All that is left to compare: a block of rows, and some blocks to compare it with."""
        for block in _blocks(0, len(self._probes)):
            others = list(_blocks(block.stop if self._is_full else BLOCK_ROWS, len(self._vectors)))
            for start in range(0, len(others), STRIPE_BLOCKS):
                yield block, others[start : start + STRIPE_BLOCKS]

    def compare(self, stripe: tuple[slice, list[slice]]) -> tuple[int, _Found]:
        """Pairs compared, and what was found."""
        block, others = stripe
        found, num_done = [], 0
        probes, own = self._probes[block], self._own[block]
        for other in others:
            similarities = probes @ self._vectors[other].T
            numbers = self._numbers[other]
            # Floors rise meanwhile: what is above an older one is more than is needed, never less.
            rows, columns = _above(similarities, self.tops.floors[block][:, None], own, numbers)
            values = similarities[rows, columns]
            found.append(_Found(rows + block.start, numbers[columns], values))
            if self._is_full:
                rows, columns = _above(similarities, self.tops.floors[other][None], own, numbers)
                values = similarities[rows, columns]
                found.append(_Found(columns + other.start, own[rows], values))
            num_done += similarities.size
        return num_done, _Found(
            np.concatenate([part.rows for part in found]),
            np.concatenate([part.identities for part in found]),
            np.concatenate([part.similarities for part in found]),
        )


class _Tops:
    """The best of each row so far. One thread writes; `floors` may be read by any."""

    def __init__(self, num_rows: int, wanted: int, num_enough: int):
        """`num_enough` rows are always of `wanted` identities."""
        self._identities = np.full((num_rows, wanted), -1, np.int64)
        self._similarities = np.full((num_rows, wanted), -np.inf, np.float32)
        self._num_enough = num_enough
        self.floors = np.full(num_rows, -np.inf, np.float32)
        """float32[n]: the least of the best; what is not above it does not count."""

    def put(self, block: slice, seeds: Nearest) -> None:
        """Begin a block of rows with what was found first."""
        num = seeds.identities.shape[1]
        self._identities[block, :num] = seeds.identities
        self._similarities[block, :num] = seeds.similarities
        self.floors[block] = self._similarities[block].min(axis=1)

    def merge(self, found: _Found) -> None:
        """Keep what belongs to the best."""
        if not len(found.rows):
            return
        order = np.lexsort((-found.similarities, found.rows))
        rows = found.rows[order]
        places = np.arange(len(rows))
        is_first = np.r_[True, rows[1:] != rows[:-1]]
        rank = places - np.maximum.accumulate(np.where(is_first, places, 0))
        rounds = np.argsort(rank, kind="stable")
        edges = np.r_[0, np.cumsum(np.bincount(rank))][: self._num_enough + 1]
        # In each round every row once, its best first.
        for start, stop in pairwise(edges.tolist()):
            chosen = order[rounds[start:stop]]
            self._insert(found.rows[chosen], found.identities[chosen], found.similarities[chosen])

    def _insert(
        self, rows: NDArray[np.int64], identities: NDArray[np.int64], similarities: NDArray[np.float32]
    ) -> None:
        held = self._similarities[rows]
        is_same = self._identities[rows] == identities[:, None]
        place = np.where(is_same.any(axis=1), is_same.argmax(axis=1), held.argmin(axis=1))
        is_better = similarities > held[np.arange(len(rows)), place]
        rows, place = rows[is_better], place[is_better]
        self._identities[rows, place] = identities[is_better]
        self._similarities[rows, place] = similarities[is_better]
        self.floors[rows] = self._similarities[rows].min(axis=1)

    def ordered(self) -> Nearest:
        """Best first; equal ones by their number."""
        order = np.lexsort((self._identities, -self._similarities), axis=1)
        return Nearest(
            np.take_along_axis(self._identities, order, axis=1),
            np.take_along_axis(self._similarities, order, axis=1),
        )


def _above(
    similarities: NDArray[np.float32],
    floors: NDArray[np.float32],
    own: NDArray[np.int64],
    numbers: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the similarities above the floors, those of one identity left out."""
    places = np.flatnonzero(similarities > floors)
    rows, columns = np.divmod(places, similarities.shape[1])
    is_other = own[rows] != numbers[columns]
    return rows[is_other], columns[is_other]


def _in_order(
    threads: ThreadPoolExecutor, work: Callable[[_Piece], _Result], pieces: Iterator[_Piece]
) -> Iterator[tuple[_Piece, _Result]]:
    """Results in order of the pieces; no more of them wait than threads need to be busy."""
    waiting: deque[tuple[_Piece, Future[_Result]]] = deque()
    for piece in pieces:
        waiting.append((piece, threads.submit(work, piece)))
        if len(waiting) > 2 * num_threads():
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def _blocks(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, BLOCK_ROWS):
        yield slice(first, min(first + BLOCK_ROWS, stop))
