"""A gallery's templates compared with each other: the numbers that a self-check tells everything from.

Knows no limits of what is odd.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.self_check.findings import Histogram
from indexer.self_check.pairs import Nearest, Progress, nearest_others
from indexer.self_check.templates import Templates

NUM_NEAREST = 10
"""Other identities that are looked at of each template, and that crowding is the mean similarity to."""
NUM_BINS = 60
CHUNK_ROWS = 1 << 16
"""Rows whose nearest are ordered at once: some 50 MB."""
_SPREAD_OF_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class Compared:
    """What the templates of some identities, the probes, are like. A place is one of their r rows."""

    templates: Templates
    probes: NDArray[np.int64]
    """int64[m]: identities, ascending"""
    rows: NDArray[np.int64]
    """int64[r]: all of theirs"""
    nearest: Nearest
    """Of each place."""

    @classmethod
    def of(cls, templates: Templates, probes: NDArray[np.int64] | None, progress: Progress) -> Compared:
        """Compare all templates of the probes, or of everybody, with all of the gallery."""
        rows = None if probes is None else templates.rows_of(probes)
        nearest = nearest_others(templates.vectors, templates.numbers, NUM_NEAREST, rows, progress)
        everybody = np.arange(templates.num_identities)
        return cls(
            templates,
            everybody if probes is None else probes,
            np.arange(len(templates.vectors)) if rows is None else rows,
            nearest,
        )

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """Identity int64[r] of each place."""
        return self.templates.numbers[self.rows]

    @cached_property
    def own(self) -> NDArray[np.float32]:
        """Similarity float32[r] to the nearest of one's own identity; -inf: alone."""
        return self.templates.own_nearest()[self.rows]

    @property
    def tops(self) -> NDArray[np.float32]:
        """Similarity float32[r] to the nearest other identity."""
        return self.nearest.similarities[:, 0]

    @property
    def top_identities(self) -> NDArray[np.int64]:
        """The nearest other identity int64[r]."""
        return self.nearest.identities[:, 0]

    @cached_property
    def by_identity(self) -> Nearest:
        """The nearest other identities of each probe, by the best of its templates."""
        num_templates = self.templates.sizes[self.probes]
        if (num_templates == 1).all():
            return self.nearest
        shape = (len(self.probes), self.nearest.identities.shape[1])
        identities, similarities = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        ends = np.cumsum(num_templates)
        for probes, rows in _chunks(ends):
            part = self.nearest.identities[rows], self.nearest.similarities[rows]
            owners = np.repeat(np.arange(probes.stop - probes.start), num_templates[probes])
            place, rank, chosen = _best(owners, *part)
            identities[probes][place, rank] = part[0].reshape(-1)[chosen]
            similarities[probes][place, rank] = part[1].reshape(-1)[chosen]
        return Nearest(identities, similarities)

    @cached_property
    def crowding(self) -> NDArray[np.float64]:
        """Mean similarity float64[m] of each probe to its nearest other identities."""
        is_there = np.isfinite(self.by_identity.similarities)
        sums = np.where(is_there, self.by_identity.similarities, 0.0).sum(axis=1, dtype=np.float64)
        means: NDArray[np.float64] = sums / is_there.sum(axis=1)
        return means


def beyond(values: NDArray[np.floating[Any]], spreads: float) -> float:
    """So many robust spreads from the median."""
    median = np.median(values)
    return float(median + spreads * _SPREAD_OF_MAD * np.median(np.abs(values - median)))


def histogram(values: NDArray[np.floating[Any]]) -> Histogram:
    """Count values in NUM_BINS equal bins from the least to the greatest, widened to hundredths."""
    low, high = np.floor(values.min() * 100) / 100, np.ceil(values.max() * 100) / 100
    if low == high:
        high += 0.01
    counts, _ = np.histogram(np.clip(values, low, high), NUM_BINS, (low, high))
    return Histogram(float(low), float(high), tuple(counts.tolist()), float(np.median(values)))


def _chunks(ends: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Probes and their rows, some at a time; `ends` int64[m] is the row after the last one of each probe."""
    probe, row = 0, 0
    while probe < len(ends):
        stop = max(int(np.searchsorted(ends, row + CHUNK_ROWS, side="right")), probe + 1)
        yield slice(probe, stop), slice(row, int(ends[stop - 1]))
        probe, row = stop, int(ends[stop - 1])


def _best(
    owners: NDArray[np.int64], identities: NDArray[np.int64], similarities: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of the nearest int64[r, w] of each owner's rows the best w, each identity once: owner, rank, where."""
    width = identities.shape[1]
    flat = np.flatnonzero(identities.reshape(-1) >= 0)
    owner, name, value = owners[flat // width], identities.reshape(-1)[flat], similarities.reshape(-1)[flat]
    order = np.lexsort((-value, name, owner))
    is_first = np.r_[True, (np.diff(owner[order]) != 0) | (np.diff(name[order]) != 0)]
    chosen = order[is_first]
    chosen = chosen[np.lexsort((name[chosen], -value[chosen], owner[chosen]))]
    places = np.arange(len(chosen))
    begins = np.r_[True, np.diff(owner[chosen]) != 0]
    rank = places - np.maximum.accumulate(np.where(begins, places, 0))
    is_best = rank < width
    chosen = chosen[is_best]
    return owner[chosen], rank[is_best], flat[chosen]
