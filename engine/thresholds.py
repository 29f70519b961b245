"""By which thresholds one gallery's probes are decided: settings, calibration and size to similarities.

A stranger's best candidate is the more alike the more identities are searched, so a wished rate (target_fpir)
gives a threshold that moves with the gallery. Each identity counts as m^beta for its m templates: how they
are spread over the identities is counted when a generation is built, their number is known at every moment.

A gallery of 1,000 or more also has its own people as strangers to each other. Where they disagree with the
calibration beyond both intervals, and ask for more, all thresholds are shifted by as much as they do. While a
damaged generation is withdrawn, what the last one told goes on to count.

Knows nothing of the store and the wire, and not whether the strangers who come are like those measured.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from engine.decision import crowding, own_people
from engine.decision.calibration import CORRECTED, MEAN, PLAIN, Calibration
from engine.decision.own_people import OwnPeople
from engine.decision.policy import resolve_threshold
from engine.decision.rates import SIMILARITY_MAX, RateRow
from engine.errors import InvalidInputError, PreconditionError
from engine.index.generation import Generation
from engine.open_set_types import Estimate
from engine.types import (
    CrowdingCorrection,
    EmbeddingContract,
    Fusion,
    GallerySettings,
    ThresholdOrigin,
)

SIZE_STEP = 0.005
"""Sizes are rounded to powers of 1 plus this: far finer than what is known, and all that is kept at hand."""
ROWS_KEPT_MAX = 256
"""Sizes, curves and targets kept at hand; filters make many sizes."""
_LOG_STEP = math.log1p(SIZE_STEP)
_log = logging.getLogger(__name__)
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Population:
    """Who is enrolled in a gallery now."""

    num_identities: int
    num_templates: int
    generation: Generation | None
    """Of the index that is searched."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one answer is judged by."""

    threshold: float
    origin: ThresholdOrigin
    review_threshold: float | None = None
    rates: RateRow | None = None
    """Of strangers, at the size searched; None: no calibration tells them."""
    shift: float = 0.0
    """By how much more alike strangers are here than in the calibration, by the gallery's own people."""

    def fpir(self, similarity: float) -> float | None:
        """Share of strangers whose best candidate reaches this similarity; None: not known."""
        return None if self.rates is None else self.rates.fpir(similarity - self.shift)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Calibration and own people beside each other, at the size of the generation that they are of."""

    by_calibration: Estimate
    by_own_people: Estimate
    num_left_out: int = 0
    num_suspected: int = 0
    is_cut: bool = False
    """Whether the calibration's threshold lies among the likely duplicates that were left out. Strangers as
    alike as that went with them, so that own people seem less alike than they are."""

    @property
    def is_disagreement(self) -> bool:
        """Whether neither interval reaches the other."""
        one, other = self.by_calibration, self.by_own_people
        return (one.low > other.high and not self.is_cut) or other.low > one.high

    @property
    def shift(self) -> float:
        """By how much the calibration's thresholds are to be raised."""
        return max(0.0, self.by_own_people.value - self.by_calibration.value) if self.is_disagreement else 0.0


class Thresholds:
    """Of one gallery, kept at hand. Thread-safe."""

    def __init__(self, gallery_id: str, contract: EmbeddingContract, calibration: Calibration | None):
        """`calibration` is of the gallery's contract; None: there is none. `gallery_id` is for messages."""
        self.contract = contract
        self.calibration = calibration
        self._gallery_id = gallery_id
        self._rows: dict[tuple[str, int], RateRow] = {}
        self._judgements: dict[tuple[object, ...], Judgement] = {}
        self._kappas: dict[tuple[int, str], float] = {}
        self._measuring = threading.Lock()
        self._comparisons: dict[tuple[int, float], Comparison | None] = {}
        self._number = 0
        """Of the last generation whose people were asked for."""
        self._own: tuple[int, OwnPeople | None] = (0, None)

    def judge(
        self,
        settings: GallerySettings,
        population: Population,
        num_left: int,
        curve: str,
        requested: float | None,
    ) -> Judgement:
        """What to judge an answer by whose probe was compared with `num_left` identities.

        `curve` is one of engine.decision.calibration. Quick where it was asked before at this size: see
        ``python -m benchmarks.decision``. Raises PreconditionError where a target rate is to be met and no
        calibration tells how.
        """
        is_fixed = requested is not None or settings.target_fpir is None
        if is_fixed:
            threshold, origin = resolve_threshold(self.contract, settings, requested)
            rates = self._rates(population, num_left, curve)
            return Judgement(threshold, origin, None, rates, self._shift(settings, population))
        step = self._step(self.effective_size(population, num_left, curve))
        shift = self._shift(settings, population)
        key = (curve, step, shift, settings.target_fpir, settings.review_fpir)
        judgement = self._judgements.get(key)
        if judgement is None:
            judgement = self._judged(settings, curve, step, shift)
            _keep(self._judgements, key, judgement)
        return judgement

    def judge_verification(
        self, settings: GallerySettings, num_templates: int, requested: float | None
    ) -> tuple[float, ThresholdOrigin]:
        """Threshold of a comparison with an identity of so many templates, and whence it is.

        Raises PreconditionError as `judge`.
        """
        if requested is not None or settings.target_fmr is None:
            return resolve_threshold(self.contract, settings, requested)
        exponent = self.need(PLAIN, "target_fmr").curves[PLAIN].templates_exponent.value
        row = self._row(PLAIN, self._step(math.pow(max(1, num_templates), exponent)))
        return row.threshold(settings.target_fmr).value, ThresholdOrigin.CALIBRATION

    def check(self, new: GallerySettings, old: GallerySettings | None = None) -> None:
        """Raise PreconditionError for settings that need a calibration which is not there.

        Those that stay as in `old` may stay, also where a calibration was lost.
        """
        old = old or GallerySettings()
        if new.target_fpir not in {None, old.target_fpir}:
            self.need(PLAIN, "target_fpir")
        if new.target_fmr not in {None, old.target_fmr}:
            self.need(PLAIN, "target_fmr")
        if new.crowding is CrowdingCorrection.ON is not old.crowding:
            self.need(CORRECTED, "crowding ON")

    @property
    def is_auto_off(self) -> bool:
        """Whether the calibration says that the crowding correction AUTO corrects nothing."""
        calibration = self.calibration
        return calibration is not None and not (
            calibration.is_crowding_better and CORRECTED in calibration.curves
        )

    def is_corrected(self, settings: GallerySettings, population: Population) -> bool:
        """Whether similarities are corrected by crowding, in searches without filter and threshold.

        Not where own people raise the threshold: they were compared by plain similarities, and what they ask
        for does not hold for corrected ones.
        """
        calibration = self.calibration
        return (
            settings.target_fpir is not None
            and settings.crowding is not CrowdingCorrection.OFF
            and calibration is not None
            and (calibration.is_crowding_better or settings.crowding is CrowdingCorrection.ON)
            and CORRECTED in calibration.curves
            and population.num_identities >= crowding.SIZE_MIN
            and population.generation is not None
            and population.generation.crowding is not None
            and not self._shift(settings, population)
        )

    def effective_size(self, population: Population, num_left: int, curve: str = PLAIN) -> float:
        """Identities that so many count as, with their templates; 1 at least.

        Those left by a filter are taken to have as many templates as all.
        """
        if num_left <= 0 or not population.num_templates:
            return 1.0
        calibration = self.calibration
        if calibration is None or curve not in calibration.curves:
            return float(num_left)
        exponent = calibration.curves[curve].templates_exponent.value
        mean = max(1.0, population.num_templates / max(1, population.num_identities))
        spread = self._kappa(population.generation, curve, exponent)
        return max(1.0, spread * num_left * math.pow(mean, exponent))

    def comparison(self, generation: Generation | None, target_fpir: float) -> Comparison | None:
        """How calibration and own people compare; None where one is not there. Found once of a generation.

        Without a generation, of the last one.
        """
        if self.calibration is None:
            return None
        with self._measuring:
            if generation is None:
                return self._comparisons.get((self._number, target_fpir))
            self._number = generation.manifest.number
            key = self._number, target_fpir
            if key not in self._comparisons:
                _keep(self._comparisons, key, self._compared(generation, target_fpir))
            return self._comparisons[key]

    def prepare(self, settings: GallerySettings, generation: Generation | None) -> None:
        """Measure the own people now, so that no search has to. For housekeeping."""
        if settings.target_fpir is not None:
            self.comparison(generation, settings.target_fpir)

    def _judged(self, settings: GallerySettings, curve: str, step: int, shift: float) -> Judgement:
        target = settings.target_fpir
        assert target is not None
        self.need(curve, "target_fpir")
        row = self._row(curve, step)
        origin = ThresholdOrigin.OWN_PEOPLE if shift else ThresholdOrigin.CALIBRATION
        review = None
        if settings.review_fpir is not None:
            review = min(SIMILARITY_MAX, row.threshold(settings.review_fpir).value + shift)
        threshold = min(SIMILARITY_MAX, row.threshold(target).value + shift)
        return Judgement(threshold, origin, review, row, shift)

    def _shift(self, settings: GallerySettings, population: Population) -> float:
        """By how much more alike strangers are here than calibrated, as far as it was looked at."""
        target = settings.target_fpir
        compared = None if target is None else self.comparison(population.generation, target)
        return 0.0 if compared is None else compared.shift

    def rated(self, population: Population, num_left: int, curve: str) -> RateRow:
        """Rates of strangers among `num_left` identities, by a curve that the calibration has."""
        return self._row(curve, self._step(self.effective_size(population, num_left, curve)))

    def _rates(self, population: Population, num_left: int, curve: str) -> RateRow | None:
        if self.calibration is None or curve not in self.calibration.curves:
            return None
        return self.rated(population, num_left, curve)

    def _row(self, curve: str, step: int) -> RateRow:
        row = self._rows.get((curve, step))
        if row is None:
            assert self.calibration is not None
            row = self.calibration.curves[curve].table.at(max(1.0, math.exp(step * _LOG_STEP)))
            _keep(self._rows, (curve, step), row)
        return row

    def _step(self, size: float) -> int:
        return round(math.log(size) / _LOG_STEP)

    def _kappa(self, generation: Generation | None, curve: str, exponent: float) -> float:
        """What the spread of templates over the identities takes from m^beta of their mean; at most 1."""
        if generation is None:
            return 1.0
        key = generation.manifest.number, curve
        kappa = self._kappas.get(key)
        if kappa is None:
            kappa = spread_factor(generation.manifest.templates_histogram, exponent)
            _keep(self._kappas, key, kappa)
        return kappa

    def _compared(self, generation: Generation, target_fpir: float) -> Comparison | None:
        if generation.own_tops is None:
            return None
        number, own = self._own
        if number != generation.manifest.number:
            own = self._measured(generation)
            self._own = generation.manifest.number, own
        if own is None:
            return None
        population = Population(generation.own_tops.num_identities, generation.num_rows, generation)
        return self.compare(own, population, target_fpir)

    def _measured(self, generation: Generation) -> OwnPeople | None:
        assert generation.own_tops is not None
        assert self.calibration is not None
        try:
            return own_people.measure(generation.own_tops.tops, self.calibration.duplicate_similarity)
        except InvalidInputError as error:
            _log.warning("the people of gallery %s tell nothing of strangers: %s", self._gallery_id, error)
            return None

    def compare(self, own: OwnPeople, population: Population, target_fpir: float) -> Comparison:
        """Lay own people, measured in this population, beside the calibration, which must be there."""
        others = population.num_identities - 1
        row = self._row(PLAIN, self._step(self.effective_size(population, others)))
        rated, duplicate = row.threshold(target_fpir), None
        if self.calibration is not None:
            duplicate = self.calibration.duplicate_similarity
        is_cut = duplicate is not None and own.num_left_out > 0 and rated.high >= duplicate
        return Comparison(rated, own.threshold(target_fpir), own.num_left_out, own.num_suspected, is_cut)

    def need(self, curve: str, setting: str) -> Calibration:
        """Return the calibration, for a setting that needs this curve of it. Raises PreconditionError."""
        contract = self.contract
        named = f"gallery {self._gallery_id!r}: " if self._gallery_id else ""
        if self.calibration is None:
            raise PreconditionError(
                f"{named}{setting} needs a calibration of contract {contract.name}"
                f" ({contract.digest[:12]}), and the server has none",
                hint="Run `identiface calibrate` with this network, and start the server with --calibration"
                " FILE; or give a threshold.",
            )
        if curve not in self.calibration.curves:
            raise PreconditionError(
                f"{named}the calibration of contract {contract.name} has no curve"
                f" {curve!r}, which {setting} needs here",
                hint="Run `identiface calibrate` on more people, with several pictures each for the mean, and"
                " start the server with --calibration FILE; or give a threshold.",
            )
        return self.calibration


def _keep(kept: dict[K, V], key: K, value: V) -> None:
    if len(kept) >= ROWS_KEPT_MAX:
        kept.clear()
    kept[key] = value


def curve_of(fusion: Fusion, *, is_corrected: bool = False) -> str:
    """Name of the calibration's curve for similarities of this kind."""
    if is_corrected:
        return CORRECTED
    return MEAN if fusion is Fusion.MEAN else PLAIN


def spread_factor(histogram: Iterable[int], exponent: float) -> float:
    """Sum of m^beta over identities, over what it were if all had their mean of templates; 1 for nobody.

    `histogram` counts the identities with 0, 1, ... templates. Never more than 1, by Jensen's inequality.
    """
    counted = [(number, count) for number, count in enumerate(histogram) if number and count]
    num_identities = sum(count for _, count in counted)
    if not num_identities:
        return 1.0
    mean = sum(number * count for number, count in counted) / num_identities
    return min(
        1.0,
        sum(count * math.pow(number, exponent) for number, count in counted)
        / (num_identities * math.pow(mean, exponent)),
    )
