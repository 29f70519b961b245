"""The upper tail of similarities as a generalised Pareto distribution: fitted, judged, evaluated.

What exceeds a high quantile of a well-behaved distribution is close to generalised Pareto (Pickands 1975;
Balkema and de Haan 1974). Fitted by probability-weighted moments (Hosking and Wallis 1987, section 2), which
for some dozens of exceedances are steadier than maximum likelihood. A few exceedances often lie as if nothing
could be more alike than the highest of them; see BOUND_EXCEEDANCES. Knows nothing of people or galleries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.decision.calibration import Tail
from engine.errors import InvalidInputError

START_QUANTILE = 0.9
"""Of the tops: the tail is what lies above. What it gives on LFW: `python -m benchmarks.lfw_thresholds`."""
EXCEEDANCES_MIN = 10
"""Fewer say nothing of a shape."""
EXCEEDANCES_DRAWN_MIN = 5
"""Of a resample, which holds 63 % of them: its larger error is what the interval shows."""
BOUND_EXCEEDANCES = 100.0
"""A negative shape ends the tail. So many exceedances carry one down to -1/2; fewer, n of them, down to
-n / (n + BOUND_EXCEEDANCES), where the scale keeps their mean: else some dozens of people seem to know
where similarities end. What it gives on LFW, of 300 and 600 people: `python -m benchmarks.lfw_thresholds`."""
_FIT_SAMPLES = 200
"""Samples drawn from a fit to judge it."""

Floats = NDArray[np.float64]


def quantile(values: Floats, weights: Floats, share: float) -> float:
    """Least value that a share of the weights lies at or below; values rise."""
    reached = np.cumsum(weights)
    return float(values[min(int(np.searchsorted(reached, share * reached[-1])), len(values) - 1)])


def fit_tail(
    tops: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    seed: int | None = None,
    num_min: int = EXCEEDANCES_MIN,
) -> Tail:
    """Fit what exceeds START_QUANTILE of tops float[n]; `weights` float[n] count each, None: once.

    With a `seed` the fit is judged, too. Raises InvalidInputError where fewer than `num_min` of them exceed
    it, or all exceedances are equal.
    """
    values = np.asarray(tops, np.float64)
    masses = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(values, kind="stable")
    values, masses = values[order], masses[order]
    start = quantile(values, masses, START_QUANTILE)
    is_above = (values > start) & (masses > 0)
    num = int(is_above.sum())
    if num < num_min:
        raise InvalidInputError(
            f"{num} of {len(values):,} tops exceed their {START_QUANTILE:.0%} quantile, {num_min} are"
            " needed: give more people"
        )
    excesses, masses = values[is_above] - start, masses[is_above]
    shape, scale = _moments(excesses, masses)
    distance = _distance(excesses, masses, shape, scale)
    p_value = 1.0 if seed is None else _p_value(num, shape, scale, distance, seed)
    return Tail(
        start=start, shape=shape, scale=scale, num_exceedances=num, distance=distance, p_value=p_value
    )


def log_survival(tail: Tail, similarities: ArrayLike) -> Floats:
    """Log of the share of exceedances above each similarity; 0 up to the start, -inf beyond the end."""
    return _log_survival(np.asarray(similarities, np.float64) - tail.start, tail.shape, tail.scale)


def end_of(tail: Tail, log_survival_min: float) -> float:
    """Similarity that a share exp(log_survival_min) of the exceedances lies above."""
    if abs(tail.shape) < _STRAIGHT:
        return tail.start - tail.scale * log_survival_min
    return tail.start + tail.scale / tail.shape * float(np.expm1(-tail.shape * log_survival_min))


_STRAIGHT = 1e-9
"""Shapes nearer to 0 are the exponential distribution, to the last bits."""


def _log_survival(excesses: Floats, shape: float, scale: float) -> Floats:
    over = np.maximum(excesses, 0.0) / scale
    if abs(shape) < _STRAIGHT:
        return -over
    with np.errstate(divide="ignore"):
        return -np.log(np.maximum(1.0 + shape * over, 0.0)) / shape


def _moments(excesses: Floats, masses: Floats) -> tuple[float, float]:
    """Shape and scale from the first two probability-weighted moments."""
    share = masses / masses.sum()
    # Plotting positions in the middle of each one's mass.
    above = 1.0 - (np.cumsum(share) - share / 2.0)
    first, second = float(share @ excesses), float(share @ (excesses * above))
    gap = first - 2.0 * second
    if not gap > 0.0:
        raise InvalidInputError("the highest similarities are all equal: no tail can be fitted to them")
    shape = 2.0 - first / gap
    # What weighs unequally counts as fewer.
    num = masses.sum() ** 2 / (masses @ masses)
    least = -float(num / (num + BOUND_EXCEEDANCES))
    if shape < least:
        return least, first * (1.0 - least)
    return shape, 2.0 * first * second / gap


def _distance(excesses: Floats, masses: Floats, shape: float, scale: float) -> float:
    reached = np.cumsum(masses) / masses.sum()
    fitted = -np.expm1(_log_survival(excesses, shape, scale))
    before = np.concatenate([[0.0], reached[:-1]])
    return float(np.maximum(np.abs(fitted - reached), np.abs(fitted - before)).max())


def _p_value(num: int, shape: float, scale: float, distance: float, seed: int) -> float:
    """Parametric bootstrap: the parameters were fitted, so tables of the plain test do not hold."""
    rng = np.random.default_rng(seed)
    ones, num_farther = np.ones(num), 0
    for _ in range(_FIT_SAMPLES):
        logs = np.log(rng.random(num))
        drawn = np.sort(-logs if abs(shape) < _STRAIGHT else np.expm1(-shape * logs) / shape) * scale
        try:
            refitted = _moments(drawn, ones)
        except InvalidInputError:
            continue
        num_farther += _distance(drawn, ones, *refitted) >= distance
    return num_farther / _FIT_SAMPLES
