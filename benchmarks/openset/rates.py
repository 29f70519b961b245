"""Error rates of random galleries, exactly in expectation: no gallery is drawn.

Of m identities that a probe was compared with, a random gallery of N holds none of the c that reach a
threshold with probability C(m - c, N) / C(m, N). An oracle of its own: uses nothing of engine.decision.
Knows nothing of where similarities come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError
from engine.types import Vectors

BISECTIONS = 24
"""Of the span of cosines: to about 1e-7."""
BLOCK_ROWS = 1 << 14
MASKED = np.float32(-2.0)
"""Less than any cosine."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class MatedSimilarities:
    """What p mated probes meet."""

    own: NDArray[np.float32]
    """float32[p], to the person's own template"""
    num_better: Counts
    """int64[p], other identities that are more alike"""
    num_others: int
    """Identities compared with, beside the own one."""


def similarities_left_out(vectors: Vectors) -> NDArray[np.float32]:
    """Cosines float32[n, n] of n people with each other, the diagonal MASKED."""
    found = np.asarray(vectors @ vectors.T)
    np.fill_diagonal(found, MASKED)
    return found


def absent(counts: Counts, num_others: int, size: int) -> NDArray[np.float64]:
    """Probability float64[p] that a random `size` of `num_others` identities holds none of `counts` int64[p].

    Raises InvalidInputError where fewer than `size` identities are there.
    """
    if not 1 <= size <= num_others:
        raise InvalidInputError(f"a gallery of {size} cannot be drawn from {num_others} identities")
    logs = _log_factorials(num_others)
    left = num_others - counts
    is_possible = left >= size
    exponents = logs[left] - logs[np.maximum(left - size, 0)] - logs[num_others] + logs[num_others - size]
    # Rounding of the logarithms would give a little more than 1.
    return np.where(is_possible, np.exp(np.minimum(exponents, 0.0)), 0.0)


def fpir_at(similarities: NDArray[np.float32], threshold: float, size: int, num_others: int) -> float:
    """Expected FPIR of strangers float32[p, m] in random galleries of `size` of `num_others` identities."""
    counts = (similarities >= threshold).sum(axis=1)
    return float(1.0 - absent(counts, num_others, size).mean())


def threshold_at(similarities: NDArray[np.float32], target: float, size: int, num_others: int) -> float:
    """Least threshold, to BISECTIONS, whose expected FPIR is at most the target."""
    low, high = -1.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if fpir_at(similarities, middle, size, num_others) > target:
            low = middle
        else:
            high = middle
    return high


def mated_similarities(
    probes: Vectors, rows: NDArray[np.int64], vectors: Vectors, block_rows: int = BLOCK_ROWS
) -> MatedSimilarities:
    """Compare probes float32[p, d] of the people in `rows` int64[p] with templates float32[n, d] of all."""
    own = np.einsum("pd,pd->p", probes, vectors[rows])
    num_better = np.zeros(len(probes), np.int64)
    for start in range(0, len(vectors), block_rows):
        found = probes @ vectors[start : start + block_rows].T
        is_here = (rows >= start) & (rows < start + block_rows)
        found[np.flatnonzero(is_here), rows[is_here] - start] = MASKED
        num_better += (found > own[:, None]).sum(axis=1)
    return MatedSimilarities(own, num_better, len(vectors) - 1)


def fnir_at(mated: MatedSimilarities, threshold: float, size: int) -> float:
    """Expected FNIR in random galleries of `size` that hold the probe's person: not first, or below."""
    # One of the gallery's places is the own one's.
    is_first = absent(mated.num_better, mated.num_others, size - 1) if size > 1 else 1.0
    return float(1.0 - np.mean((mated.own >= threshold) * is_first))


@lru_cache(maxsize=8)
def _log_factorials(up_to: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, up_to + 1)))])
