"""Settings, calibration and size to thresholds: origins, sizes that count templates, what is refused."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from engine.decision.calibration import CORRECTED, MEAN, PLAIN
from engine.decision.own_people import measure
from engine.errors import InvalidInputError, PreconditionError
from engine.open_set_types import Estimate
from engine.thresholds import (
    ROWS_KEPT_MAX,
    SIZE_STEP,
    Comparison,
    Population,
    Thresholds,
    curve_of,
    spread_factor,
)
from engine.types import CrowdingCorrection, Fusion, GallerySettings, ThresholdOrigin
from tests.calibrations import CONTRACT, EXPONENT, calibration, without

RATED = GallerySettings(target_fpir=0.03, review_fpir=0.1)


def thresholds() -> Thresholds:
    return Thresholds("people", CONTRACT, calibration())


def population(num_identities: int, num_templates: int | None = None) -> Population:
    return Population(num_identities, num_identities if num_templates is None else num_templates, None)


@pytest.mark.parametrize("size", [1, 2, 10, 300, 1000, 1727, 10**6])
def test_a_target_rate_gives_the_calibrations_threshold_at_the_size(size: int) -> None:
    table = calibration().curves[PLAIN].table
    judged = thresholds().judge(RATED, population(size), size, PLAIN, None)
    assert judged.origin is ThresholdOrigin.CALIBRATION
    # Sizes are rounded, to less than is known.
    bounds = [
        table.threshold(0.03, max(1.0, size * factor)).value for factor in (1 - SIZE_STEP, 1 + SIZE_STEP)
    ]
    assert bounds[0] <= judged.threshold <= bounds[1]
    assert judged.review_threshold is not None
    assert judged.review_threshold < judged.threshold
    assert judged.fpir(judged.threshold) == pytest.approx(0.03)
    assert judged.fpir(judged.review_threshold) == pytest.approx(0.1)


def test_as_a_gallery_grows_its_threshold_follows() -> None:
    kept = thresholds()
    values = [kept.judge(RATED, population(size), size, PLAIN, None).threshold for size in range(1, 3000, 7)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.3


def test_what_is_kept_is_given_again_and_does_not_grow_without_end() -> None:
    kept = thresholds()
    first = kept.judge(RATED, population(1000), 1000, PLAIN, None)
    assert kept.judge(RATED, population(1001), 1001, PLAIN, None) is first
    assert kept.judge(GallerySettings(target_fpir=0.01), population(1000), 1000, PLAIN, None) is not first
    for size in range(1, 20 * ROWS_KEPT_MAX, 5):
        kept.judge(RATED, population(size), size, PLAIN, None)
    assert len(kept._rows) <= ROWS_KEPT_MAX
    assert len(kept._judgements) <= ROWS_KEPT_MAX


def test_an_empty_gallery_is_judged_as_one_of_one() -> None:
    kept = thresholds()
    nobody = kept.judge(RATED, population(0), 0, PLAIN, None)
    assert nobody is kept.judge(RATED, population(1), 1, PLAIN, None)
    # A filter that leaves nobody.
    assert kept.judge(RATED, population(1000), 0, PLAIN, None) is nobody
    # Enrolled, but without a template.
    assert thresholds().effective_size(population(5, 0), 5) == 1.0


def test_each_identity_counts_by_its_templates() -> None:
    kept = thresholds()
    assert kept.effective_size(population(100, 100), 100) == pytest.approx(100)
    assert kept.effective_size(population(100, 400), 100) == pytest.approx(100 * 4**EXPONENT)
    assert kept.effective_size(population(100, 400), 10) == pytest.approx(10 * 4**EXPONENT)
    # Fewer templates than identities: some have none.
    assert kept.effective_size(population(100, 40), 100) == pytest.approx(100)


def test_the_spread_of_templates_takes_from_the_size_and_never_adds() -> None:
    assert spread_factor((), 0.7) == spread_factor((0,), 0.7) == spread_factor((7,), 0.7) == 1.0
    assert spread_factor((0, 0, 0, 9), 0.7) == pytest.approx(1.0)
    # 90 of one template and 10 of eleven: 200 templates.
    mixed = spread_factor((0, 90, *[0] * 9, 10), 0.7)
    assert mixed * 100 * 2**0.7 == pytest.approx(90 + 10 * 11**0.7)
    assert mixed < 1.0


@pytest.mark.parametrize("settings", [GallerySettings(), GallerySettings(threshold=0.25), RATED])
def test_a_requests_threshold_goes_before_all_and_is_told_its_rate(settings: GallerySettings) -> None:
    judged = thresholds().judge(settings, population(300), 300, PLAIN, 0.9)
    assert (judged.threshold, judged.origin) == (0.9, ThresholdOrigin.REQUEST)
    assert judged.review_threshold is None
    row = calibration().curves[PLAIN].table.at(300)
    assert judged.fpir(0.8) == pytest.approx(row.fpir(0.8), rel=0.01)


def test_fixed_thresholds_stay_and_are_told_their_rate() -> None:
    fixed = thresholds().judge(GallerySettings(threshold=0.25), population(300), 300, PLAIN, None)
    assert (fixed.threshold, fixed.origin) == (0.25, ThresholdOrigin.GALLERY)
    assert fixed.fpir(0.8) is not None
    unknown = Thresholds("people", CONTRACT, None)
    bare = unknown.judge(GallerySettings(), population(300), 300, PLAIN, None)
    assert (bare.threshold, bare.origin) == (CONTRACT.threshold, ThresholdOrigin.CONTRACT)
    assert bare.fpir(0.8) is None
    no_mean = Thresholds("people", CONTRACT, without(calibration(), MEAN))
    assert no_mean.judge(GallerySettings(), population(300), 300, MEAN, None).fpir(0.8) is None


def test_a_target_without_a_calibration_is_refused_and_never_a_constant() -> None:
    unknown = Thresholds("people", CONTRACT, None)
    for settings in (RATED, GallerySettings(target_fmr=0.01)):
        with pytest.raises(PreconditionError, match=r"people.*target_f") as raised:
            unknown.check(settings)
        assert "identiface calibrate" in raised.value.hint
        assert "--calibration" in raised.value.hint
    with pytest.raises(PreconditionError, match="target_fpir"):
        unknown.judge(RATED, population(10), 10, PLAIN, None)
    with pytest.raises(PreconditionError, match="target_fmr"):
        unknown.judge_verification(GallerySettings(target_fmr=0.01), 1, None)
    assert unknown.judge(RATED, population(10), 10, PLAIN, 0.5).threshold == 0.5
    # What was so before may stay, so that all else can be changed.
    unknown.check(RATED, RATED)
    unknown.check(GallerySettings())
    no_mean = Thresholds("people", CONTRACT, without(calibration(), MEAN))
    with pytest.raises(PreconditionError, match="mean"):
        no_mean.judge(RATED, population(10), 10, MEAN, None)


@pytest.mark.parametrize("target", [0.0, 1.0, math.nan, -1.0, 2.0])
def test_a_target_that_is_no_rate_is_refused(target: float) -> None:
    with pytest.raises(InvalidInputError, match="target"):
        thresholds().judge(GallerySettings(target_fpir=target), population(10), 10, PLAIN, None)


def test_verification_ignores_the_size_and_counts_the_claimed_ones_templates() -> None:
    settings = GallerySettings(target_fmr=0.01)
    one, origin = thresholds().judge_verification(settings, 1, None)
    assert origin is ThresholdOrigin.CALIBRATION
    assert one == pytest.approx(calibration().curves[PLAIN].table.threshold(0.01, 1.0).value)
    many, _ = thresholds().judge_verification(settings, 8, None)
    assert many == pytest.approx(
        calibration().curves[PLAIN].table.threshold(0.01, 8**EXPONENT).value, abs=1e-3
    )
    assert many > one
    assert thresholds().judge_verification(settings, 1, 0.3) == (0.3, ThresholdOrigin.REQUEST)
    fixed = GallerySettings(threshold=0.2)
    assert thresholds().judge_verification(fixed, 1, None) == (0.2, ThresholdOrigin.GALLERY)


def test_crowding_on_needs_a_curve_for_it() -> None:
    on = GallerySettings(crowding=CrowdingCorrection.ON)
    thresholds().check(on)
    with pytest.raises(PreconditionError, match="corrected"):
        Thresholds("people", CONTRACT, without(calibration(), CORRECTED)).check(on)
    with pytest.raises(PreconditionError, match="crowding ON"):
        Thresholds("people", CONTRACT, None).check(on)
    Thresholds("people", CONTRACT, None).check(on, on)
    # No generation, no crowding.
    assert not thresholds().is_corrected(GallerySettings(target_fpir=0.1), population(1000))


@pytest.mark.parametrize("is_cut", [False, True])
def test_own_people_cut_off_below_a_threshold_cannot_ask_for_less_of_it(is_cut: bool) -> None:
    high, low = Estimate(0.9, 0.88, 0.92), Estimate(0.8, 0.78, 0.82)
    less = Comparison(high, low, is_cut=is_cut)
    assert (less.is_disagreement, less.shift) == (not is_cut, 0.0)
    more = Comparison(low, high, is_cut=is_cut)
    assert more.is_disagreement
    assert more.shift == pytest.approx(0.1)


def test_own_people_are_cut_off_where_those_as_alike_as_the_threshold_were_left_out() -> None:
    kept, size = thresholds(), population(3000)
    rated = kept.judge(GallerySettings(target_fpir=0.01), size, 2999, PLAIN, None).threshold
    duplicate = calibration().duplicate_similarity
    assert duplicate is not None
    tops = [*np.linspace(0.5, rated, 2000), *[0.9995] * 10]
    for similarity, is_cut in ((duplicate, False), (rated, True)):
        changed = msgspec.structs.replace(calibration(), duplicate_similarity=similarity)
        of_it = Thresholds("people", CONTRACT, changed)
        compared = of_it.compare(measure(tops, similarity), size, 0.01)
        assert compared.num_left_out >= 10
        assert compared.is_cut is is_cut
    assert not kept.compare(measure(tops), size, 0.01).is_cut


def test_each_kind_of_similarity_has_its_curve() -> None:
    assert [curve_of(Fusion.MAX), curve_of(Fusion.MEAN)] == [PLAIN, MEAN]
    assert curve_of(Fusion.MAX, is_corrected=True) == CORRECTED
