"""A gallery's searchable state: generation + delta - removed, as immutable snapshots.

A snapshot answers for one sequence. The next one shares its generation and its delta's memory; what was
removed is a fresh bitmap, so that a search in flight never sees half a write. Knows nothing of LMDB, ids as
texts, thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.index.generation import Generation
from engine.types import Vector, Vectors

DELTA_ROWS_FIRST = 1024


@dataclass(frozen=True)
class Row:
    """One template to be searched."""

    template_id: int
    identity_number: int
    vector: Vector


@dataclass(frozen=True)
class Found:
    """The nearest rows of each probe, best first; where there are fewer, similarity is -inf at the end."""

    similarities: NDArray[np.float32]
    """float32[n, r]"""
    template_ids: NDArray[np.uint64]
    """uint64[n, r]"""
    identity_numbers: NDArray[np.uint64]
    """uint64[n, r]"""


@dataclass
class _Memory:
    """Growing arrays behind one or more deltas; rows below `num_used` are never written again."""

    vectors: NDArray[np.float32]
    template_ids: NDArray[np.uint64]
    identity_numbers: NDArray[np.uint64]
    num_used: int = 0

    @classmethod
    def empty(cls, capacity: int, dimension: int) -> _Memory:
        return cls(
            np.empty((capacity, dimension), np.float32),
            np.empty(capacity, np.uint64),
            np.empty(capacity, np.uint64),
        )


class Delta:
    """What was added since the generation, searched exactly. Immutable; template ids ascend."""

    def __init__(self, memory: _Memory, num_rows: int, alive: NDArray[np.bool_]):
        self._memory = memory
        self.num_rows = num_rows
        self._alive = alive
        self.num_alive = int(alive.sum())

    @classmethod
    def empty(cls, dimension: int) -> Delta:
        """No rows."""
        return cls(_Memory.empty(DELTA_ROWS_FIRST, dimension), 0, np.empty(0, np.bool_))

    def extended(self, added: Sequence[Row], removed: Sequence[int]) -> Delta:
        """The delta with rows added and template ids removed; ids that are not here are ignored."""
        memory, first = self._memory, self.num_rows
        num_rows = first + len(added)
        if num_rows > len(memory.template_ids) or memory.num_used != first:
            # Full, or an earlier extension of this very delta already wrote behind our rows.
            memory = self._copied(max(num_rows, 2 * first, DELTA_ROWS_FIRST))
        for row, item in enumerate(added, first):
            memory.vectors[row] = item.vector
            memory.template_ids[row] = item.template_id
            memory.identity_numbers[row] = item.identity_number
        memory.num_used = num_rows
        alive = np.ones(num_rows, np.bool_)
        alive[:first] = self._alive
        ids = memory.template_ids[:num_rows]
        gone = np.asarray(removed, np.uint64)
        rows = np.searchsorted(ids, gone)
        is_here = rows < num_rows
        is_here[is_here] = ids[rows[is_here]] == gone[is_here]
        alive[rows[is_here]] = False
        return Delta(memory, num_rows, alive)

    def search(self, probes: Vectors, num_rows: int) -> Found:
        """The nearest `num_rows` living rows of each probe."""
        memory = self._memory
        similarities = probes @ memory.vectors[: self.num_rows].T
        if self.num_alive != self.num_rows:
            similarities[:, ~self._alive] = -np.inf
        rows = _top(similarities, num_rows)
        return Found(
            np.take_along_axis(similarities, rows, axis=1),
            memory.template_ids[rows],
            memory.identity_numbers[rows],
        )

    def _copied(self, capacity: int) -> _Memory:
        old, count = self._memory, self.num_rows
        memory = _Memory.empty(capacity, old.vectors.shape[1])
        memory.vectors[:count] = old.vectors[:count]
        memory.template_ids[:count] = old.template_ids[:count]
        memory.identity_numbers[:count] = old.identity_numbers[:count]
        return memory


@dataclass(frozen=True)
class Snapshot:
    """A gallery's searchable state at one sequence. Immutable and thread-safe."""

    sequence: int
    generation: Generation | None
    alive: NDArray[np.uint8] | None
    """Bitmap over the generation's rows, lowest bit first; None: nothing was removed."""
    num_removed: int
    """Rows of the generation that were removed."""
    delta: Delta

    @classmethod
    def base(cls, generation: Generation | None, sequence: int, dimension: int) -> Snapshot:
        """A generation as it was built, or nothing."""
        return cls(sequence, generation, None, 0, Delta.empty(dimension))

    @property
    def generation_number(self) -> int:
        """Number of the generation; 0: none."""
        return self.generation.manifest.number if self.generation else 0

    @property
    def num_alive(self) -> int:
        """Templates that can be found."""
        covered = self.generation.num_rows - self.num_removed if self.generation else 0
        return covered + self.delta.num_alive

    @property
    def num_rows(self) -> int:
        """Rows of generation and delta, removed ones included."""
        return self.delta.num_rows + (self.generation.num_rows if self.generation else 0)

    @property
    def dead_share(self) -> float:
        """Share of the generation's rows that were removed."""
        return (
            self.num_removed / self.generation.num_rows
            if self.generation and self.generation.num_rows
            else 0.0
        )

    def advanced(self, sequence: int, added: Sequence[Row], removed: Sequence[int]) -> Snapshot:
        """The state at a later sequence. Not for two threads at once on one snapshot."""
        alive, num_removed = self._without(removed)
        return Snapshot(sequence, self.generation, alive, num_removed, self.delta.extended(added, removed))

    def _without(self, removed: Sequence[int]) -> tuple[NDArray[np.uint8] | None, int]:
        if self.generation is None or not removed:
            return self.alive, self.num_removed
        rows = [row for row in map(self.generation.row, removed) if row is not None]
        if not rows:
            return self.alive, self.num_removed
        alive = (
            np.full((self.generation.num_rows + 7) // 8, 0xFF, np.uint8)
            if self.alive is None
            else self.alive.copy()
        )
        for row in rows:
            alive[row >> 3] &= 0xFF ^ (1 << (row & 7))
        return alive, self.num_removed + len(rows)

    def search(self, probes: Vectors, num_rows: int) -> Found:
        """The nearest `num_rows` templates of each probe, exactly."""
        parts = []
        if self.generation is not None and self.generation.num_rows:
            parts.append(
                self._search_generation(self.generation, probes, min(num_rows, self.generation.num_rows))
            )
        if self.delta.num_rows:
            parts.append(self.delta.search(probes, min(num_rows, self.delta.num_rows)))
        if len(parts) == 1:
            return parts[0]
        return _merged(parts, num_rows, len(probes))

    def _search_generation(self, generation: Generation, probes: Vectors, num_rows: int) -> Found:
        similarities, rows = generation.search(probes, num_rows, self.alive)
        similarities[rows < 0] = -np.inf
        rows = np.maximum(rows, 0)
        return Found(similarities, generation.template_ids[rows], generation.identity_numbers[rows])


def _top(similarities: NDArray[np.float32], num_rows: int) -> NDArray[np.intp]:
    """Columns of the largest values of each row, best first: int[n, num_rows]."""
    negated = -similarities
    if num_rows >= similarities.shape[1]:
        return np.argsort(negated, axis=1, kind="stable")
    part = np.argpartition(negated, num_rows - 1, axis=1)[:, :num_rows]
    order = np.argsort(np.take_along_axis(negated, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)


def _merged(parts: Sequence[Found], num_rows: int, num_probes: int) -> Found:
    if not parts:
        nothing = np.empty((num_probes, 0), np.uint64)
        return Found(np.empty((num_probes, 0), np.float32), nothing, nothing)
    similarities = np.concatenate([part.similarities for part in parts], axis=1)
    order = _top(similarities, min(num_rows, similarities.shape[1]))
    return Found(
        np.take_along_axis(similarities, order, axis=1),
        np.take_along_axis(np.concatenate([part.template_ids for part in parts], axis=1), order, axis=1),
        np.take_along_axis(np.concatenate([part.identity_numbers for part in parts], axis=1), order, axis=1),
    )
