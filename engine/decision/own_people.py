"""What a gallery's own people tell of strangers: each was searched for among all others.

Fitted as the calibration's estimator fits its people: quantiles of the tops and, above a high one, their
generalised Pareto tail. Two people who are each other's nearest have one top between them, so the interval
resamples distinct tops, not people. Numbers in, numbers out: knows nothing of galleries and indexes, nor
whether these people are like the strangers who will come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.decision import tails
from engine.decision.calibration import Tail
from engine.decision.estimator import LEVEL, PEOPLE_MIN
from engine.decision.rates import SIMILARITY_MAX, log_rate_of
from engine.errors import InvalidInputError
from engine.open_set_types import Estimate

LEFT_OUT_MAX = 0.01
"""Share of the people up to which likely duplicates are left out: so many more are no slips of enrolling."""
NUM_RESAMPLES = 100
_SHARE_MAX = 0.99
_LOG_RATE_MIN = -20.0
_NUM_LEVELS = 64
_SAME = 5e-7
"""Tops no farther apart are one: of two people who are each other's nearest, but for the last bits."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class OwnPeople:
    """Thresholds by how alike a gallery's own people are, at the size that they were measured at."""

    num_probes: int
    """People whose tops count."""
    num_left_out: int
    """People left out, being likely enrolled twice."""
    num_suspected: int
    """People likely enrolled twice who count all the same, being too many; see LEFT_OUT_MAX."""
    log_rates: Floats
    """float64[l], rising."""
    thresholds: Floats
    """float64[3, l], of the value and of the lower and upper bound."""

    def threshold(self, target_fpir: float) -> Estimate:
        """Similarity that a share of strangers of `target_fpir` reaches. Raises InvalidInputError."""
        log_rate = log_rate_of(target_fpir)
        value, low, high = (float(np.interp(log_rate, self.log_rates, row)) for row in self.thresholds)
        return Estimate(value, min(low, value), max(high, value))


def measure(tops: ArrayLike, duplicate_similarity: float | None = None, *, seed: int = 0) -> OwnPeople:
    """Learn from tops float[p] of people searched for among all others.

    From `duplicate_similarity` on two identities are probably one person; None: not known. Raises
    InvalidInputError where they are fewer than PEOPLE_MIN, or have no tail.
    """
    values = np.sort(np.asarray(tops, np.float64))
    values = values[np.isfinite(values)]
    is_suspect = values >= (math.inf if duplicate_similarity is None else duplicate_similarity)
    num_suspect = int(is_suspect.sum())
    is_left_out = num_suspect < LEFT_OUT_MAX * len(values)
    kept = values[~is_suspect] if is_left_out else values
    if len(kept) < PEOPLE_MIN:
        raise InvalidInputError(f"{len(kept)} people to measure: at least {PEOPLE_MIN} are needed")
    # Not by rounding, which would part some of them.
    is_new = np.diff(kept, prepend=-np.inf) > _SAME
    distinct, counts = kept[is_new], np.bincount(np.cumsum(is_new) - 1)
    levels = np.linspace(_LOG_RATE_MIN, log_rate_of(_SHARE_MAX), _NUM_LEVELS)
    rng = np.random.default_rng(seed)
    value = _thresholds(distinct, counts.astype(np.float64), levels)
    drawn: list[Floats] = []
    for draw in rng.multinomial(len(distinct), np.full(len(distinct), 1.0 / len(distinct)), NUM_RESAMPLES):
        try:
            drawn.append(_thresholds(distinct, draw * counts.astype(np.float64), levels))
        except InvalidInputError:
            continue
    edges = [(1.0 - LEVEL) / 2.0, 0.5, (1.0 + LEVEL) / 2.0]
    low, middle, high = np.quantile(np.array(drawn or [value]), edges, axis=0)
    bounds = np.stack([value, value + low - middle, value + high - middle])
    return OwnPeople(
        num_probes=len(kept),
        num_left_out=len(values) - len(kept),
        num_suspected=0 if is_left_out else num_suspect,
        log_rates=levels,
        thresholds=np.minimum(bounds, SIMILARITY_MAX),
    )


def _thresholds(values: Floats, weights: Floats, log_rates: Floats) -> Floats:
    """Similarities float64[l] of these rates, by tops that rise and count so much each."""
    tail = tails.fit_tail(values, weights)
    share = float(weights[values > tail.start].sum() / weights.sum())
    start = log_rate_of(share)
    shares = -np.expm1(-np.exp(log_rates))
    reached = np.cumsum(weights) / weights.sum()
    places = np.minimum(np.searchsorted(reached, 1.0 - shares), len(values) - 1)
    above = _tail_thresholds(tail, log_rates - start)
    # Falling: where counting and tail meet there may be a step the wrong way.
    found = np.where(log_rates < start, above, np.minimum(values[places], tail.start))
    falling: Floats = np.minimum.accumulate(found)
    return falling


def _tail_thresholds(tail: Tail, log_survivals: Floats) -> Floats:
    return np.array([tails.end_of(tail, min(0.0, float(one))) for one in log_survivals])
