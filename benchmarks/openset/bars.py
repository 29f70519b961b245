"""Thresholds from a calibration against what people left out do at them: held out, extrapolated, corrected.

The observed rates are of random galleries of people whom the calibration never saw. Knows nothing of pictures
and networks. It does not know more than its people: at a rate of 0.01 a thousand strangers are ten, so what
is seen there is a matter of luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.lfw_people import STRANGERS_FOLD
from benchmarks.openset.people import RealPeople
from benchmarks.openset.rates import MASKED
from engine.decision import tails
from engine.decision.calibration import Tail
from engine.decision.crowding import SIZE_MIN, crowding_of, estimate_corrected, search
from engine.decision.estimator import Estimated, EstimatorSettings, estimate
from engine.decision.rates import log_rate_of
from engine.errors import InvalidInputError

TARGETS = (0.1, 0.03, 0.01)
SIZES = (100, 300, 1000)
"""And all."""
NUM_DRAWS = 20
"""Random galleries of each size, and random divisions of the people."""
EXTRAPOLATIONS = ((600, 2400), (300, 3000), (150, 3900))
"""Fitted on so many people, predicted for so many identities. The last, 26 times as many, is not judged."""
TEST_RESAMPLES = 200
CALIBRATION_FOLDS = (1, 2, 3, 4)
TEST_FOLDS = (5, 6, 7, 8)
_PAIR_SHARE = 0.01
"""Of pairs that the tail of single pairs is looked for in; it begins at their 90 % quantile."""
_BISECTIONS = 40

Similarities = NDArray[np.float32]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Compared:
    """All people with each other, computed once."""

    people: RealPeople
    strangers: Similarities
    """float32[n, n], of first pictures; the diagonal is MASKED"""
    mated: Similarities
    """float32[m, n], of other pictures with the first ones"""

    @classmethod
    def of(cls, people: RealPeople) -> Compared:
        """Compare everybody with everybody. Raises InvalidInputError where folds are not known."""
        lacking = sorted({*CALIBRATION_FOLDS, *TEST_FOLDS, STRANGERS_FOLD} - set(people.folds.tolist()))
        if lacking:
            raise InvalidInputError(f"nobody is in folds {lacking}: name the folder of people.tsv by --root")
        strangers = np.asarray(people.first @ people.first.T)
        np.fill_diagonal(strangers, MASKED)
        return cls(people, strangers, np.asarray(people.others @ people.first.T))

    def in_folds(self, *folds: int) -> Rows:
        """Rows of the people in these folds."""
        return np.flatnonzero(np.isin(self.people.folds, folds))

    def gallery(self, enrolled: Rows, others: Rows) -> Gallery:
        """Enrol some people and let `others` who are not among them come as strangers."""
        place = np.full(len(self.people), -1, np.int64)
        place[enrolled] = np.arange(len(enrolled))
        own = place[self.people.other_people]
        return Gallery(
            self.strangers[np.ix_(enrolled, enrolled)],
            self.strangers[np.ix_(others[place[others] < 0], enrolled)],
            self.mated[np.ix_(np.flatnonzero(own >= 0), enrolled)],
            own[own >= 0],
        )


@dataclass(frozen=True)
class Gallery:
    """Similarities of those enrolled with each other, of strangers and of mated probes with them."""

    enrolled: Similarities
    strangers: Similarities
    mated: Similarities
    own: Rows
    """int64[p], column of each mated probe's person"""

    def measured(self, *, is_corrected: bool = False) -> Measured:
        """Search all probes."""
        if is_corrected:
            crowding = crowding_of(self.enrolled)
            mated = search(self.mated, crowding).own(self.own)[1]
            return Measured(search(self.strangers, crowding).tops_corrected, mated)
        best = self.mated.argmax(axis=1)
        own = np.where(best == self.own, self.mated.max(axis=1).astype(np.float64), -np.inf)
        return Measured(self.strangers.max(axis=1).astype(np.float64), own)


@dataclass(frozen=True)
class Measured:
    """What the probes of one gallery met."""

    tops: Floats
    """float64[s], of strangers"""
    own: Floats
    """float64[p], of mated probes whose person came first; -inf of the others"""

    def fpir(self, threshold: float) -> float:
        """Share of strangers at or above it."""
        return float((self.tops >= threshold).mean())

    def fnir(self, threshold: float) -> float:
        """Share of mated probes whose person is not first, or below it."""
        return float((self.own < threshold).mean())

    def fnir_at(self, fpir: float) -> float:
        """The same at the threshold that these very strangers reach with that share at most."""
        num = math.floor(fpir * len(self.tops))
        return float((self.own <= np.sort(self.tops)[len(self.tops) - 1 - num]).mean())


@dataclass(frozen=True)
class HeldOut:
    """One size and rate: means over random galleries of people left out."""

    size: int
    target: float
    threshold: float
    low: float
    high: float
    """The interval stated with the threshold."""
    ratio: float
    """Observed FPIR / target."""
    ratio_pairs: float
    """The same at the threshold of the tail of single pairs."""
    ratio_corrected: float | None
    """The same of corrected similarities, with their own calibration; None: too few identities for them."""
    fnir: float


@dataclass(frozen=True)
class Crowded:
    """FNIR at the threshold that the gallery's own strangers give, means over random galleries."""

    size: int
    target: float
    fnir_plain: float
    fnir_corrected: float


@dataclass(frozen=True)
class Extrapolated:
    """One way to extrapolate, over random divisions of the people."""

    num_fitted: int
    size: int
    target: float
    median: float
    """Of observed FPIR / target."""
    least: float
    largest: float
    covered: float
    """Share of divisions in which the interval held the observed rate."""
    median_pairs: float
    """As `median`, of the tail of single pairs."""


def held_out(compared: Compared, settings: EstimatorSettings, num_draws: int = NUM_DRAWS) -> list[HeldOut]:
    """Calibrate on CALIBRATION_FOLDS; enrol people of TEST_FOLDS; their rest and fold 0 are strangers."""
    calibrated = compared.in_folds(*CALIBRATION_FOLDS)
    matrix = compared.strangers[np.ix_(calibrated, calibrated)]
    plain, corrected, pairs = (
        estimate(matrix, settings),
        estimate_corrected(matrix, settings),
        PairTail(matrix),
    )
    pool, everybody = compared.in_folds(*TEST_FOLDS), compared.in_folds(*TEST_FOLDS, STRANGERS_FOLD)
    found = []
    for size in sizes_up_to(len(pool)):
        galleries = _galleries(compared, pool, everybody, size, num_draws)
        measured = [one.measured() for one in galleries]
        with_correction = [one.measured(is_corrected=True) for one in galleries] if size >= SIZE_MIN else []
        for target in TARGETS:
            threshold = plain.table.threshold(target, size)
            other = corrected.table.threshold(target, size).value
            by_pairs = pairs.threshold(target, size)
            found.append(
                HeldOut(
                    size,
                    target,
                    threshold.value,
                    threshold.low,
                    threshold.high,
                    _mean([one.fpir(threshold.value) for one in measured]) / target,
                    _mean([one.fpir(by_pairs) for one in measured]) / target,
                    _mean([one.fpir(other) for one in with_correction]) / target if with_correction else None,
                    _mean([one.fnir(threshold.value) for one in measured]),
                )
            )
    return found


def crowded(compared: Compared, num_draws: int = NUM_DRAWS) -> list[Crowded]:
    """Enrol people of all folds but STRANGERS_FOLD, who come as strangers with everybody not enrolled."""
    pool = compared.in_folds(*CALIBRATION_FOLDS, *TEST_FOLDS)
    everybody = np.arange(len(compared.people))
    found = []
    for size in sizes_up_to(len(pool)):
        galleries = _galleries(compared, pool, everybody, size, num_draws)
        ways = [
            [one.measured(is_corrected=is_corrected) for one in galleries] for is_corrected in (False, True)
        ]
        for target in TARGETS:
            plain, corrected = (_mean([one.fnir_at(target) for one in way]) for way in ways)
            found.append(Crowded(size, target, plain, corrected))
    return found


def extrapolated(
    compared: Compared, settings: EstimatorSettings, num_draws: int = NUM_DRAWS
) -> list[Extrapolated]:
    """Fit on a few random people, predict for many others, watch the strangers that remain."""
    found = []
    for num_fitted, size in EXTRAPOLATIONS:
        if num_fitted + size >= len(compared.people):
            continue
        of_splits = [
            _one_division(compared, settings, num_fitted, size, number) for number in range(num_draws)
        ]
        ratios, is_covered, by_pairs = (np.array(one) for one in zip(*of_splits, strict=True))
        found += [
            Extrapolated(
                num_fitted,
                size,
                target,
                float(np.median(ratios[:, place])),
                float(ratios[:, place].min()),
                float(ratios[:, place].max()),
                float(is_covered[:, place].mean()),
                float(np.median(by_pairs[:, place])),
            )
            for place, target in enumerate(TARGETS)
        ]
    return found


def _one_division(
    compared: Compared, settings: EstimatorSettings, num_fitted: int, size: int, number: int
) -> tuple[list[float], list[bool], list[float]]:
    """Per target: observed / target, whether the interval held it, and the ratio of the tail of pairs."""
    rng = np.random.default_rng((settings.seed, number))
    order = rng.permutation(len(compared.people))
    fitted, enrolled, strangers = np.split(order, [num_fitted, num_fitted + size])
    matrix = compared.strangers[np.ix_(fitted, fitted)]
    estimated, pairs = estimate(matrix, settings), PairTail(matrix)
    tops = compared.strangers[np.ix_(strangers, enrolled)]
    resampled = resampled_tops(tops, TEST_RESAMPLES, rng)
    ratios, is_covered, by_pairs = [], [], []
    for target in TARGETS:
        threshold = estimated.table.threshold(target, size).value
        best = tops.max(axis=1)
        ratios.append(float((best >= threshold).mean()) / target)
        by_pairs.append(float((best >= pairs.threshold(target, size)).mean()) / target)
        is_covered.append(covers(estimated, size, threshold, best, resampled))
    return ratios, is_covered, by_pairs


def resampled_tops(similarities: Similarities, num: int, rng: np.random.Generator) -> Floats:
    """Tops float64[num, s] of strangers float32[s, n]; they and the enrolled are drawn with replacement."""
    nearest = np.argsort(-similarities, axis=1)[:, :_NEAREST_KEPT]
    values = np.take_along_axis(similarities, nearest, axis=1)
    num_strangers, size = similarities.shape
    found = np.empty((num, num_strangers))
    for row in found:
        is_drawn = np.bincount(rng.integers(size, size=size), minlength=size) > 0
        tops = values[np.arange(num_strangers), is_drawn[nearest].argmax(axis=1)]
        row[:] = tops[rng.integers(num_strangers, size=num_strangers)]
    return found


_NEAREST_KEPT = 40
"""Of each stranger: that none of them is drawn has a probability of 1e-17."""


def covers(estimated: Estimated, size: int, threshold: float, tops: Similarities, resampled: Floats) -> bool:
    """Whether the rate observed at a threshold lies in the interval of the one that was predicted.

    The calibration's interval, widened by how far resamples of the test's own people lie apart: both errors
    are independent, so their squares add, on the scale of log h.
    """
    row = estimated.table.at(size)
    predicted = row.fpir_estimate(threshold)
    value, low, high = (log_rate_of(one) for one in (predicted.value, predicted.low, predicted.high))
    least = 0.5 / len(tops)

    def observed(found: NDArray[np.floating]) -> float:
        return log_rate_of(min(1.0 - least, max(least, float((found >= threshold).mean()))))

    below, middle, above = np.quantile([observed(one) for one in resampled], [0.025, 0.5, 0.975])
    seen = observed(tops)
    if seen < value:
        return value - seen <= math.hypot(value - low, middle - below)
    return seen - value <= math.hypot(high - value, above - middle)


class PairTail:
    """The obvious estimate, as a baseline: the tail p of single pairs, and 1 - (1 - p)^N."""

    def __init__(self, similarities: Similarities):
        """Of people with each other float32[n, n]."""
        pairs = np.sort(similarities[np.triu_indices(len(similarities), 1)].astype(np.float64))
        self._pairs, self._num = pairs, len(pairs)
        best = pairs[-max(1, int(_PAIR_SHARE * len(pairs))) :]
        self._tail: Tail = tails.fit_tail(best)
        self._share = float((pairs > self._tail.start).mean())

    def threshold(self, target: float, size: int) -> float:
        """Similarity at which 1 - (1 - p)^N is the target."""
        wanted = -math.expm1(math.log1p(-target) / size)
        if wanted >= self._share:
            return float(self._pairs[self._num - 1 - int(wanted * self._num)])
        return tails.end_of(self._tail, math.log(wanted / self._share))


def sizes_up_to(num: int) -> list[int]:
    """SIZES that so many people fill, and all of them."""
    return [*(size for size in SIZES if size < num), num]


def _galleries(compared: Compared, pool: Rows, others: Rows, size: int, num_draws: int) -> list[Gallery]:
    """Random galleries of people of `pool`; all of them are but one gallery."""
    rng = np.random.default_rng(size)
    num = num_draws if size < len(pool) else 1
    drawn = [np.sort(rng.choice(pool, size, replace=False)) for _ in range(num)]
    return [compared.gallery(one, others) for one in drawn]


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
