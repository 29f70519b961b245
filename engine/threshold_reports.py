"""What is told of a gallery's thresholds: in a status, and by a calibration on demand. In words, too.

Own people are measured by plain similarity; where similarities are corrected by crowding, what they ask for
beyond the calibration is taken over. Knows nothing of the store and the wire.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from engine import rules
from engine.decision import own_people
from engine.decision.calibration import PLAIN, Calibration
from engine.decision.estimator import PEOPLE_MIN
from engine.decision.own_people import OwnPeople
from engine.errors import InvalidInputError
from engine.index.neighbours import OWN_PEOPLE_IDENTITIES_MIN, own_tops
from engine.index.search import Snapshot
from engine.open_set_types import Estimate, GalleryCalibration, GalleryThresholds
from engine.thresholds import Comparison, Population, Thresholds, curve_of
from engine.types import CrowdingCorrection, Fusion, GallerySettings, ThresholdOrigin

NEW_SHARE_WARNED = 0.1
"""Share of templates enrolled since the index was built, from which on a measurement of it warns."""


def report(thresholds: Thresholds, settings: GallerySettings, population: Population) -> GalleryThresholds:
    """By which thresholds a gallery decides, of searches without a threshold and a filter of their own."""
    calibration, target = thresholds.calibration, settings.target_fpir
    if target is not None and calibration is None:
        return GalleryThresholds(
            threshold=thresholds.contract.threshold,
            threshold_origin=ThresholdOrigin.CONTRACT,
            effective_size=thresholds.effective_size(population, population.num_identities),
            target_fpir=target,
            warnings=(
                "the server has no calibration of the gallery's contract any more: searches without a"
                " threshold of their own are refused. Start it with --calibration FILE",
            ),
        )
    is_corrected = thresholds.is_corrected(settings, population)
    curve = curve_of(Fusion.MAX, is_corrected=is_corrected)
    num_identities = population.num_identities
    judgement = thresholds.judge(settings, population, num_identities, curve, None)
    size = thresholds.effective_size(population, num_identities, curve)
    compared = None if target is None else thresholds.comparison(population.generation, target)
    estimate = None
    if target is not None and judgement.rates is not None:
        estimate = _shifted(judgement.rates.threshold(target), compared)
    return GalleryThresholds(
        threshold=judgement.threshold,
        threshold_origin=judgement.origin,
        effective_size=size,
        estimate=estimate,
        target_fpir=target,
        review_threshold=judgement.review_threshold,
        estimated_fpir=judgement.fpir(judgement.threshold),
        expected_fnir=None
        if calibration is None
        else calibration.curves[curve].expected_fnir(judgement.threshold, size),
        is_crowding_corrected=is_corrected,
        warnings=(
            *([] if calibration is None or target is None else calibration.warnings(curve, target, size)),
            *([] if compared is None else _of_comparison(compared)),
            *([] if target is None or compared is not None else _of_index(population)),
            *_of_crowding(settings, is_corrected=is_corrected),
        ),
        calibrated_on="" if calibration is None else calibration.people,
    )


def calibrate(
    thresholds: Thresholds,
    settings: GallerySettings,
    population: Population,
    snapshot: Snapshot,
    target_fpir: float | None,
    progress: Callable[[int, int], None],
) -> GalleryCalibration:
    """Find a gallery's threshold for a target rate, by the calibration and by its own people, measured now.

    Raises InvalidInputError, and what `progress` raises.
    """
    target = settings.target_fpir if target_fpir is None else target_fpir
    if target is None:
        raise InvalidInputError("target_fpir: none was given, and the gallery has none")
    rules.check_rate(target, "target_fpir")
    settings = dataclasses.replace(settings, threshold=None, target_fpir=target, review_fpir=None)
    calibration, told = thresholds.calibration, list[str]()
    own, measured = _own(snapshot, calibration, told, progress)
    found = GalleryCalibration(
        target_fpir=target,
        threshold=0.0,
        threshold_origin=ThresholdOrigin.CALIBRATION,
        num_identities=population.num_identities,
        num_probes=own.num_probes if own else 0,
        num_left_out=own.num_left_out if own else 0,
    )
    if calibration is None:
        if own is None:
            thresholds.need(
                PLAIN, f"a threshold for FPIR {target:g}, which its own people are too few to tell,"
            )
        assert own is not None
        told.append(
            "no calibration of the gallery's contract: it cannot have a target_fpir; see --calibration"
        )
        by_own = own.threshold(target)
        return dataclasses.replace(
            found,
            threshold=by_own.value,
            threshold_origin=ThresholdOrigin.OWN_PEOPLE,
            by_own_people=by_own,
            warnings=tuple(told),
        )
    compared = None if own is None else thresholds.compare(own, measured, target)
    is_used = measured.num_identities >= OWN_PEOPLE_IDENTITIES_MIN
    is_raised = is_used and compared is not None and compared.shift > 0.0
    is_corrected = thresholds.is_corrected(settings, population) and not is_raised
    curve = curve_of(Fusion.MAX, is_corrected=is_corrected)
    rated = thresholds.rated(population, population.num_identities, curve).threshold(target)
    size = thresholds.effective_size(population, population.num_identities, curve)
    told += calibration.warnings(curve, target, size)
    found = dataclasses.replace(found, threshold=rated.value, by_calibration=rated)
    if compared is not None:
        told += _of_comparison(compared)
        if is_corrected:
            told.append("thresholds are of corrected similarities; own people were compared by plain ones")
        found = _with_own(found, compared, is_raised=is_raised)
    return dataclasses.replace(found, warnings=tuple(told))


def _with_own(found: GalleryCalibration, compared: Comparison, *, is_raised: bool) -> GalleryCalibration:
    """Add what own people tell; `is_raised` where they are enough to raise the threshold, and do."""
    rated = found.by_calibration
    assert rated is not None
    return dataclasses.replace(
        found,
        threshold=min(1.0, rated.value + compared.shift) if is_raised else rated.value,
        threshold_origin=ThresholdOrigin.OWN_PEOPLE if is_raised else ThresholdOrigin.CALIBRATION,
        by_own_people=_moved(compared.by_own_people, rated.value - compared.by_calibration.value),
        has_disagreement=compared.is_disagreement,
    )


def _own(
    snapshot: Snapshot,
    calibration: Calibration | None,
    told: list[str],
    progress: Callable[[int, int], None],
) -> tuple[OwnPeople | None, Population]:
    """Measure the people of the index that are still enrolled; says in `told` what speaks against it."""
    generation = snapshot.generation
    if generation is None:
        told.append("the gallery has no index yet: its own people were not measured. Build it first")
        return None, Population(0, 0, None)
    tops = own_tops(generation, progress, alive=snapshot.alive)
    measured = Population(tops.num_identities, generation.num_rows - snapshot.num_removed, generation)
    if snapshot.delta.num_alive > NEW_SHARE_WARNED * max(1, snapshot.num_alive):
        told.append(
            f"{snapshot.delta.num_alive:,} of {snapshot.num_alive:,} templates were enrolled since the index"
            " was built, and not measured. Build it first"
        )
    if tops.num_identities < OWN_PEOPLE_IDENTITIES_MIN:
        told.append(
            f"{tops.num_identities:,} own people tell little of strangers, {PEOPLE_MIN} are needed to tell"
            f" anything: their threshold is used from {OWN_PEOPLE_IDENTITIES_MIN:,} on"
        )
    duplicate_similarity = None if calibration is None else calibration.duplicate_similarity
    try:
        return own_people.measure(tops.tops, duplicate_similarity), measured
    except InvalidInputError as error:
        told.append(f"the gallery's own people tell nothing: {error}")
        return None, measured


def _of_comparison(compared: Comparison) -> list[str]:
    told = []
    if compared.num_suspected:
        told.append(
            f"{compared.num_suspected:,} of the gallery's people are as alike to another as one person is to"
            " itself, too many to be left out: look at them with `identiface check`"
        )
    if compared.is_disagreement:
        own, calibrated = compared.by_own_people, compared.by_calibration
        kind, used = ("more", "own people's") if own.value > calibrated.value else ("less", "calibration's")
        told.append(
            f"the gallery's own people are {kind} alike than the calibration's: they ask for a threshold of"
            f" {_text(own)}, it for {_text(calibrated)}; the higher one, the {used}, counts"
            + (", and similarities are not corrected by crowding" if compared.shift else "")
        )
    return told


def _of_index(population: Population) -> list[str]:
    if population.generation is not None or population.num_identities < OWN_PEOPLE_IDENTITIES_MIN:
        return []
    return [
        "the gallery has no index now: whether its own people ask for a higher threshold is known once it is"
        " built"
    ]


def _of_crowding(settings: GallerySettings, *, is_corrected: bool) -> list[str]:
    if settings.crowding is not CrowdingCorrection.ON or is_corrected:
        return []
    if settings.target_fpir is None:
        return ["crowding is ON and corrects nothing: a fixed threshold is one of plain similarities"]
    return [
        "crowding is ON and corrects nothing now: it takes 300 identities, an index built since it was set,"
        " and own people who do not raise the threshold"
    ]


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _moved(estimate: Estimate, by: float) -> Estimate:
    return Estimate(*(min(1.0, value + by) for value in (estimate.value, estimate.low, estimate.high)))


def _shifted(rated: Estimate, compared: Comparison | None) -> Estimate:
    """The threshold in use with its interval: that of the own people where they raised it."""
    if compared is None or not compared.shift:
        return rated
    return _moved(compared.by_own_people, rated.value - compared.by_calibration.value)
