"""How similar templates are to the nearest of their own identity and of others, counted in bins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError

NUM_BINS = 100
"""From -1 to 1, each 0.02 wide; the lower edge belongs to a bin, the last has both."""
EDGES: NDArray[np.float64] = np.arange(-NUM_BINS // 2, NUM_BINS // 2 + 1) / (NUM_BINS // 2)
"""float64[101]: divided, not added up, so that they are the numbers one writes."""
SAME, OTHER = "same", "other"
KINDS = (SAME, OTHER)
"""Nearest template of the same identity, of another."""


def _none() -> NDArray[np.int64]:
    return np.zeros(NUM_BINS, np.int64)


@dataclass
class SimilarityHistogram:
    """Counts of similarities by kind of pair. Can be pickled."""

    same: NDArray[np.int64] = field(default_factory=_none)
    """int64[100]"""
    other: NDArray[np.int64] = field(default_factory=_none)
    """int64[100]"""

    def add(self, similarities: NDArray[np.floating[Any]], kind: str) -> None:
        """Count similarities of a kind, SAME or OTHER; rounding beyond -1 and 1 counts as that.

        Raises InvalidInputError for another kind, or where one is not a number.
        """
        if kind not in KINDS:
            raise InvalidInputError(f"kind {kind!r} of similarities is not known: use {SAME!r} or {OTHER!r}")
        values = np.asarray(similarities, np.float64).reshape(-1)
        if np.isnan(values).any():
            raise InvalidInputError("a similarity is not a number")
        bins = np.searchsorted(EDGES[1:-1], values, side="right")
        counts = self.same if kind == SAME else self.other
        counts += np.bincount(bins, minlength=NUM_BINS)

    def merge(self, more: SimilarityHistogram) -> None:
        """Add the counts of another one."""
        self.same += more.same
        self.other += more.other
