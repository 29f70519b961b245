"""By how much several templates of an identity make it easier for a stranger to reach it.

An identity with m templates counts as m^beta with one. Measured on galleries of people with m pictures or
more: as many of them with m templates each are taken as give strangers' tops the rate that all give with one
template each. Where N' do what N did, beta = log(N / N') / log m. Everybody else is a stranger.

Does not know what happens beyond the most templates measured; there the power goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.decision.calibration import Span
from engine.decision.estimator import LEVEL, EstimatorSettings
from engine.trainer.calibration_people import People

PEOPLE_MIN = 50
"""With so many templates, and as many strangers: fewer say too little."""
NUMS_OF_TEMPLATES = (2, 4)
FPIRS = (0.1, 0.056, 0.032, 0.018, 0.01)
"""At whose thresholds rates are compared."""
EXCEEDANCES_MIN = 10
"""Strangers that a threshold must be reached by."""
SAFE_MAX, SAFE_MEAN = Span(1.0, 1.0, 1.0), Span(0.0, 0.0, 0.0)
"""Where nothing can be measured: m templates are as m identities, and means reach no further than one."""
SAFE_FALLING = Span(0.0, 0.0, 0.0)
"""Where rates fall with the number of identities, as those of corrected similarities may: they do not fall so
with the number of templates, so that an identity with many counts as one."""
_NUM_SIZES = 40

Floats = NDArray[np.float64]
Counts = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Exponents:
    """Beta of each way to make an identity's similarity of those of its templates."""

    best: Span
    mean: Span
    note: str = ""
    """What is to be said of them."""


def templates_exponents(people: People, settings: EstimatorSettings) -> Exponents:
    """Measure beta for the best template and for the mean of all; intervals resample people."""
    measured = [found for num in NUMS_OF_TEMPLATES if (found := _measured(people, num, settings)) is not None]
    if not measured:
        note = (
            f"the exponent of templates could not be measured (fewer than {PEOPLE_MIN} people with two"
            " pictures, or as many strangers): m templates count as m identities"
        )
        return Exponents(SAFE_MAX, SAFE_MEAN, note)
    best, mean = np.mean(measured, axis=0)
    return Exponents(_span(best), _span(mean))


def _span(drawn: Floats) -> Span:
    """The first is everybody's; resamples lie lower or higher as a whole, so only their spread counts."""
    low, middle, high = np.quantile(drawn[1:], [(1.0 - LEVEL) / 2.0, 0.5, (1.0 + LEVEL) / 2.0])
    # Not below 0, for what is measured up to 4 templates must not make a gallery of many seem empty.
    value, low, high = (
        min(1.0, max(0.0, float(one))) for one in drawn[0] + np.array([0.0, low - middle, high - middle])
    )
    return Span(round(value, 4), round(low, 4), round(high, 4))


def _measured(people: People, num: int, settings: EstimatorSettings) -> Floats | None:
    """Beta float64[2, 1 + resamples] of best and mean of `num` templates; None where people are too few."""
    is_enrolled = np.array([len(own) >= num for own in people.templates])
    enrolled, strangers = people.only(is_enrolled), people.only(~is_enrolled)
    if len(enrolled.names) < PEOPLE_MIN or len(strangers.names) < PEOPLE_MIN:
        return None
    probes = strangers.firsts.astype(np.float32)
    each = np.stack(
        [probes @ np.stack([own[i] for own in enrolled.templates]).T.astype(np.float32) for i in range(num)]
    )
    single, best, mean = each[0], each.max(axis=0), each.mean(axis=0)
    tops = np.sort(single.max(axis=1))[::-1]
    ranks = [int(fpir * len(tops)) for fpir in FPIRS if fpir * len(tops) >= EXCEEDANCES_MIN]
    thresholds = [float(tops[rank]) for rank in ranks or [EXCEEDANCES_MIN]]
    rng = np.random.default_rng([settings.seed, num])
    of_strangers, of_enrolled = (
        _draws(len(one.names), settings.num_resamples, rng) for one in (strangers, enrolled)
    )
    # A person drawn twice is in a gallery once.
    members = np.minimum(of_enrolled, 1.0).astype(np.float32)
    betas = np.zeros((2, members.shape[1]))
    for threshold in thresholds:
        alone, *fused = (
            (values >= threshold).astype(np.float32) @ members for values in (single, best, mean)
        )
        for draw in range(members.shape[1]):
            curves = [
                _rates(one[:, draw], of_strangers[:, draw], int(members[:, draw].sum()))
                for one in (alone, *fused)
            ]
            betas[0, draw] += _beta(curves[0], curves[1], num)
            betas[1, draw] += _beta(curves[0], curves[2], num)
    return betas / len(thresholds)


def _draws(num: int, num_resamples: int, rng: np.random.Generator) -> Floats:
    drawn = rng.multinomial(num, np.full(num, 1.0 / num), size=num_resamples).T
    return np.concatenate([np.ones((num, 1)), drawn], axis=1)


Curve = tuple[Floats, Floats]
"""Log N, rising, and log h."""


def _rates(counts: Counts, weights: Floats, num: int) -> Curve:
    """Log h in random galleries of up to `num` identities, of whom each stranger reaches `counts`."""
    num_with = np.bincount(counts.astype(np.int64), weights=weights)
    sizes = np.unique(np.round(np.geomspace(1, num, _NUM_SIZES))).astype(np.int64)
    met = np.flatnonzero(num_with)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num + 1)))])
    rest = (num - met)[:, None] - sizes[None, :]
    logs = log_factorial[num - met][:, None] - log_factorial[np.maximum(rest, 0)]
    logs += log_factorial[num - sizes][None, :] - log_factorial[num]
    spared = np.where(rest >= 0, np.exp(logs), 0.0)
    shares = num_with[met] @ spared / num_with.sum()
    log_rates = np.log(-np.log(np.clip(shares, 1e-12, 1.0 - 1e-12)))
    return np.log(sizes), log_rates


def _beta(single: Curve, fused: Curve, num: int) -> float:
    """log(N / N') / log m where N with one template and N' with m give one rate; the larger is all."""
    sizes, with_one = single
    with_all = fused[1]
    if with_all[-1] >= with_one[-1]:
        ratio = sizes[-1] - float(np.interp(with_one[-1], with_all, sizes))
    else:
        ratio = float(np.interp(with_all[-1], with_one, sizes)) - sizes[-1]
    return float(ratio) / math.log(num)
