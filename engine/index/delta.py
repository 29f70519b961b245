"""What was added since the generation: rows in memory, searched exactly. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.index.codes import Codes, Segment
from engine.index.exact_frame import gamma
from engine.index.places import places
from engine.types import Columns, Vector, Vectors

DELTA_ROWS_FIRST = 1024
UNCODED_ROWS_MAX = 1024
"""A part of the delta that is compared row by row: 10,000 rows take half as long as a search in a million."""
_UNCODED_SHARE_MAX = 0.125
"""Or such a share of its coded part, which is copied whenever it grows."""


@dataclass(frozen=True)
class Found:
    """The nearest rows of each probe, best first; where there are fewer, similarity is -inf at the end."""

    similarities: NDArray[np.float32]
    """float32[n, r]"""
    template_ids: NDArray[np.uint64]
    """uint64[n, r]"""
    identity_numbers: NDArray[np.uint64]
    """uint64[n, r]"""

    @classmethod
    def nothing(cls, num_probes: int) -> Found:
        """No rows for so many probes."""
        ids = np.empty((num_probes, 0), np.uint64)
        return cls(np.empty((num_probes, 0), np.float32), ids, ids)


@dataclass
class _Memory:
    """Growing arrays behind one or more deltas; rows below `num_used` are never written again."""

    columns: Columns
    num_used: int = 0

    @classmethod
    def empty(cls, capacity: int, dimension: int) -> _Memory:
        return cls(Columns.empty(capacity, dimension))

    def write(self, first: int, columns: Columns) -> None:
        end = first + len(columns.template_ids)
        self.columns.template_ids[first:end] = columns.template_ids
        self.columns.identity_numbers[first:end] = columns.identity_numbers
        self.columns.vectors[first:end] = columns.vectors
        self.num_used = end


class Delta:
    """What was added since the generation. Immutable; template ids ascend."""

    def __init__(
        self, memory: _Memory, num_rows: int, alive: NDArray[np.bool_], segment: Segment | None = None
    ):
        self._memory = memory
        self.num_rows = num_rows
        self._alive = alive
        self._segment = segment
        """Codes of the first rows."""
        self.num_alive = int(alive.sum())

    @classmethod
    def empty(cls, dimension: int) -> Delta:
        """No rows."""
        return cls(_Memory.empty(DELTA_ROWS_FIRST, dimension), 0, np.empty(0, np.bool_))

    def extended(self, added: Columns, removed: Sequence[int], codes: Codes | None = None) -> Delta:
        """The delta with rows added and template ids removed; ids that are not here are ignored.

        `codes` of the generation, if it has any, code the delta's rows, too.
        """
        memory, first = self._memory, self.num_rows
        num_rows = first + len(added.template_ids)
        if num_rows > len(memory.columns.template_ids) or memory.num_used != first:
            # Full, or an earlier extension of this very delta already wrote behind our rows.
            memory = self._copied(max(num_rows, 2 * first, DELTA_ROWS_FIRST))
        memory.write(first, added)
        alive = np.ones(num_rows, np.bool_)
        alive[:first] = self._alive
        ids = memory.columns.template_ids[:num_rows]
        gone = places(ids, np.asarray(removed, np.uint64))
        alive[gone[gone >= 0]] = False
        vectors = memory.columns.vectors[:num_rows]
        return Delta(memory, num_rows, alive, _coded(self._segment, vectors, codes) if codes else None)

    def within(self, probe: Vectors, floor: float, radius: float) -> Found:
        """As `above` for a single probe float32[1, d], and among the rows with codes within `radius` only."""
        segment = self._segment
        if segment is None:
            return self.above(probe, np.array([floor], np.float32))
        columns, num_coded = self._memory.columns, segment.num_rows
        rows = segment.within(probe, radius)
        similarities = columns.vectors[rows] @ probe[0]
        near = np.flatnonzero(similarities > floor)
        rows, similarities = rows[near], similarities[near]
        if num_coded < self.num_rows:
            others = columns.vectors[num_coded : self.num_rows] @ probe[0]
            near = np.flatnonzero(others > floor)
            rows = np.concatenate([rows, near + num_coded])
            similarities = np.concatenate([similarities, others[near]])
        if len(rows) and self.num_alive != self.num_rows:
            is_alive = self._alive[rows]
            rows, similarities = rows[is_alive], similarities[is_alive]
        if not len(rows):  # often: then nothing needs merging
            return Found.nothing(1)
        return Found(
            similarities[None], columns.template_ids[rows][None], columns.identity_numbers[rows][None]
        )

    def above(self, probes: Vectors, floors: NDArray[np.float32]) -> Found:
        """Every living row more alike to its probe than floors float32[n] (-inf: all), in no order."""
        columns = self._memory.columns
        similarities = probes @ columns.vectors[: self.num_rows].T
        is_above = similarities > floors[:, None]
        if self.num_alive != self.num_rows:
            is_above &= self._alive
        probe_of, row_of = np.nonzero(is_above)
        if not len(row_of):
            return Found.nothing(len(probes))
        counts = np.bincount(probe_of, minlength=len(probes))
        places = np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.zeros((len(probes), int(counts.max())), np.int64)
        values = np.full(rows.shape, -np.inf, np.float32)
        rows[probe_of, places], values[probe_of, places] = row_of, similarities[probe_of, row_of]
        return Found(values, columns.template_ids[rows], columns.identity_numbers[rows])

    def at_least(self, probe: Vector, floor: float) -> Found:
        """Every living row with a cosine of at least `floor`, and some a rounding error below: [1, r]."""
        lowered = np.nextafter(np.float32(floor - 1.01 * gamma(len(probe))), np.float32(-np.inf))
        return self.above(probe[None], np.array([lowered], np.float32))

    def rows_of(self, template_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row int64[n] of each template, living or not; -1 where it is not here."""
        return places(self._memory.columns.template_ids[: self.num_rows], template_ids)

    @property
    def dimension(self) -> int:
        """Floats of a row."""
        return int(self._memory.columns.vectors.shape[1])

    def vectors_of(self, rows: NDArray[np.int64]) -> Vectors:
        """A copy of these rows' vectors."""
        return self._memory.columns.vectors[rows]

    def of_identities(self, identity_numbers: NDArray[np.uint64]) -> Columns:
        """The living rows of these identities."""
        old = self._memory.columns
        is_wanted = self._alive & np.isin(old.identity_numbers[: self.num_rows], identity_numbers)
        rows = np.flatnonzero(is_wanted)
        return Columns(old.template_ids[rows], old.identity_numbers[rows], old.vectors[rows])

    def _copied(self, capacity: int) -> _Memory:
        old, count = self._memory.columns, self.num_rows
        memory = _Memory.empty(capacity, old.vectors.shape[1])
        rows = Columns(old.template_ids[:count], old.identity_numbers[:count], old.vectors[:count])
        memory.write(0, rows)
        return memory


def _coded(segment: Segment | None, vectors: Vectors, codes: Codes) -> Segment | None:
    """The segment that codes the first of these rows, or a longer one."""
    num_coded = segment.num_rows if segment else 0
    if len(vectors) - num_coded <= max(UNCODED_ROWS_MAX, _UNCODED_SHARE_MAX * num_coded):
        return segment
    return (segment or Segment.empty(codes)).extended(vectors[num_coded:])
