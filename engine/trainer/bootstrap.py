"""How sure a rate is: percentile intervals by resampling people, not pictures and not pairs.

Pictures of one person are alike, and so are their errors; resampling pictures or pairs as if they were
independent gives intervals that are far too narrow. Here a resample draws as many people as there are, with
replacement, and all probes of a drawn person come along, as often as the person was drawn.

* In an open set mated people and strangers are two separate draws. The gallery stays as it is: everybody in
  it remains a candidate, and only whose probes are counted changes. The threshold is found anew from the
  drawn strangers in each resample, so its own uncertainty is part of the interval.
* In pairs a mated pair counts as often as its person was drawn, a non-mated pair the product of its two
  people's draws (the bootstrap of vertices: Snijders and Borgatti, "Non-parametric standard errors and tests
  for network statistics", 1999).

Knows nothing of pictures, networks or vectors. Source of the percentile interval: Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.config import Settings
from engine.errors import InvalidInputError
from engine.metrics import SHARE_ROUNDING, Similarities
from engine.trainer.open_set import FPIRS, Labels, OpenSetSimilarities, judge_measured

CHUNK_RESAMPLES = 64
"""Resamples worked on at once."""

Draws = NDArray[np.int64]
"""int64[r, n], how often each of n people was drawn in each of r resamples."""


class BootstrapSettings(Settings, frozen=True, kw_only=True):
    """How often people are resampled, and how wide the interval is."""

    num_resamples: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    level: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.95
    """Share of resamples inside the interval."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


DEFAULT_SETTINGS = BootstrapSettings()


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and where it may lie."""

    value: float
    """Of the sample itself."""
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OpenSetIntervals:
    """Intervals of an open set's rates, or of their differences between two models."""

    rank1: Interval
    fnir_at_fpir: Mapping[float, Interval]
    """By target FPIR."""
    settings: BootstrapSettings

    def as_json(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            "rank1": dataclasses.asdict(self.rank1),
            "fnir_at_fpir": {
                f"{target:g}": dataclasses.asdict(interval) for target, interval in self.fnir_at_fpir.items()
            },
            **bootstrap_json(self.settings),
        }


def bootstrap_json(settings: BootstrapSettings) -> dict[str, Any]:
    """Say in JSON how intervals were made."""
    return {"resampled": "people", **msgspec.to_builtins(settings)}


def bootstrap_open_set(
    measured: OpenSetSimilarities,
    fpirs: Sequence[float] = FPIRS,
    settings: BootstrapSettings = DEFAULT_SETTINGS,
) -> OpenSetIntervals:
    """Give the intervals of rank-1 and of FNIR at each FPIR; without strangers of rank-1 alone.

    Raises InvalidInputError as `judge_measured` does.
    """
    report = judge_measured(measured, fpirs)
    rates = _resampled([measured], fpirs, settings)[0]
    values = [report.rank1, *(point.fnir for point in report.points)]
    return _intervals(values, rates, fpirs, settings)


def paired_bootstrap(
    first: OpenSetSimilarities,
    second: OpenSetSimilarities,
    fpirs: Sequence[float] = FPIRS,
    settings: BootstrapSettings = DEFAULT_SETTINGS,
) -> OpenSetIntervals:
    """Give the intervals of second minus first, for two models measured on the same pictures in one order.

    Each resample draws the same people for both models, and finds each model's own threshold anew from the
    strangers drawn. Raises InvalidInputError where the two were not measured on the same probes.
    """
    if not (
        first.num_enrolled == second.num_enrolled
        and np.array_equal(first.mated_labels, second.mated_labels)
        and np.array_equal(first.top_labels, second.top_labels)
    ):
        raise InvalidInputError(
            "the two models were not measured on the same probes: give both the same pictures in one order"
        )
    before, after = judge_measured(first, fpirs), judge_measured(second, fpirs)
    values = [after.rank1 - before.rank1]
    values += [b.fnir - a.fnir for a, b in zip(before.points, after.points, strict=True)]
    rates = _resampled([first, second], fpirs, settings)
    return _intervals(values, rates[1] - rates[0], fpirs, settings)


def draws(num_people: int, settings: BootstrapSettings, stream: int = 0) -> Iterator[Draws]:
    """Yield how often each person is drawn, a chunk of resamples at a time.

    The same settings and `stream` give the same draws; another stream independent ones.
    """
    rng = np.random.default_rng([settings.seed, stream])
    shares = np.full(num_people, 1.0 / num_people)
    for start in range(0, settings.num_resamples, CHUNK_RESAMPLES):
        size = min(CHUNK_RESAMPLES, settings.num_resamples - start)
        yield rng.multinomial(num_people, shares, size=size)


def interval(value: float, resampled: ArrayLike, level: float) -> Interval:
    """Give the percentile interval of a value from its resampled ones, float[r]."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.asarray(resampled, dtype=np.float64), [tail, 1.0 - tail])
    return Interval(float(value), float(low), float(high))


def _intervals(
    values: Sequence[float], rates: Similarities, fpirs: Sequence[float], settings: BootstrapSettings
) -> OpenSetIntervals:
    """Join values [1 + number of FPIRs] and resampled rates [r, 1 + number of FPIRs]."""
    made = [interval(value, rates[:, i], settings.level) for i, value in enumerate(values)]
    targets = [float(target) for target in fpirs[: len(made) - 1]]
    return OpenSetIntervals(made[0], dict(zip(targets, made[1:], strict=True)), settings)


def _resampled(
    models: Sequence[OpenSetSimilarities], fpirs: Sequence[float], settings: BootstrapSettings
) -> Similarities:
    """Rank-1 and FNIR at each FPIR, float64[models, resamples, 1 + number of FPIRs]."""
    mated_people = _Grouped(models[0].mated_labels)
    strangers = _Grouped(models[0].top_labels)
    fitted = [_Fitted(model, fpirs if model.tops.size else ()) for model in models]
    rates: list[list[Similarities]] = [[] for _ in models]
    # Without strangers there is nothing to draw, and zip needs something of each kind.
    of_strangers = draws(max(1, strangers.num_people), settings, stream=1)
    for of_mated, of_stranger in zip(draws(mated_people.num_people, settings), of_strangers, strict=True):
        mated_weights = of_mated[:, mated_people.places]
        top_weights = of_stranger[:, strangers.places]
        for model, found in zip(fitted, rates, strict=True):
            found.append(model.rates(mated_weights, top_weights))
    return np.array([np.concatenate(found) for found in rates])


class _Grouped:
    """Which person each row belongs to."""

    def __init__(self, labels: Labels):
        people, self.places = np.unique(labels, return_inverse=True)
        self.num_people = len(people)


class _Fitted:
    """One model's similarities, sorted once for all resamples."""

    def __init__(self, measured: OpenSetSimilarities, fpirs: Sequence[float]):
        self._fpirs = fpirs
        self._is_first = measured.ranks == 1
        # What is not first is a miss at any threshold.
        self._own = np.where(self._is_first, measured.mated, -math.inf)
        self._order = np.argsort(-measured.tops, kind="stable")
        self._tops = measured.tops[self._order]

    def rates(self, mated_weights: Draws, top_weights: Draws) -> Similarities:
        """Rank-1 and FNIR at each FPIR of each resample, float64[r, 1 + number of FPIRs]."""
        num_mated = mated_weights.sum(axis=1)
        columns = [(mated_weights @ self._is_first) / num_mated]
        if self._fpirs:
            above = np.cumsum(top_weights[:, self._order], axis=1)
            for target in self._fpirs:
                thresholds = self._thresholds(above, target)
                is_hit = self._own[None, :] >= thresholds[:, None]
                is_hit &= self._is_first
                num_hits = np.einsum("rm,rm->r", mated_weights, is_hit)
                columns.append(1.0 - num_hits / num_mated)
        return np.stack(columns, axis=1)

    def _thresholds(self, above: Draws, target: float) -> Similarities:
        """Each resample's threshold, by the rule of engine.metrics.fnir_at_fpir on its drawn strangers."""
        num_allowed = np.floor(target * above[:, -1] + SHARE_ROUNDING).astype(np.int64)
        # The first stranger, from the top, that would be one too many.
        places = (above <= num_allowed[:, None]).sum(axis=1)
        edges = np.nextafter(self._tops[np.minimum(places, self._tops.size - 1)], math.inf)
        return np.where(places == self._tops.size, -math.inf, edges)
