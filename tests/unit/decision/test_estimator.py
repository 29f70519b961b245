"""Rates and tails from similarities, held against counting by hand, drawn galleries and known laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.decision import estimator, tails
from engine.decision.estimator import PEOPLE_MIN, EstimatorSettings, check_people, estimate
from engine.errors import InvalidInputError

QUICK = EstimatorSettings(num_resamples=20)


def people(num: int, seed: int = 0, dimension: int = 24) -> NDArray[np.float32]:
    """Unit vectors in loose groups, so that some have many look-alikes."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, num // 8), dimension))
    vectors = centres[rng.integers(len(centres), size=num)] + rng.standard_normal((num, dimension))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def observed(vectors: NDArray[np.float32], size: int, threshold: float, num_galleries: int = 200) -> float:
    """FPIR by drawing galleries of the others."""
    rng = np.random.default_rng(1)
    similarities = vectors @ vectors.T
    rates = []
    for _ in range(num_galleries):
        order = rng.permutation(len(vectors))
        tops = similarities[np.ix_(order[size:], order[:size])].max(axis=1)
        rates.append(float((tops >= threshold).mean()))
    return float(np.mean(rates))


@pytest.mark.parametrize("size", [1, 5, 40, 150])
@pytest.mark.parametrize("target", [0.3, 0.1])
def test_within_the_data_rates_are_those_of_drawn_galleries(size: int, target: float) -> None:
    vectors = people(400)
    threshold = estimate(vectors @ vectors.T, QUICK).table.threshold(target, size).value
    assert observed(vectors, size, threshold) == pytest.approx(target, rel=0.1)


def test_the_chance_to_meet_nobody_is_counted_over_all_galleries() -> None:
    spared = estimator._spared(7, np.array([1.0, 3.0, 6.0]))
    for column, size in enumerate((1, 3, 6)):
        for count in range(7):
            galleries = list(itertools.combinations(range(6), size))
            num_free = sum(min(gallery) >= count for gallery in galleries)
            assert spared[count, column] == pytest.approx(num_free / len(galleries))


def test_independent_pairs_grow_with_the_size_and_look_alikes_more_slowly() -> None:
    rng = np.random.default_rng(3)
    independent = estimate(rng.standard_normal((500, 500)).astype(np.float32) * 0.1, QUICK)
    assert independent.growth.value > 0.9
    assert independent.growth.low <= independent.growth.value <= independent.growth.high <= 1.0
    # Some probes look like everybody: a larger gallery does not raise more alarms.
    similarities = rng.exponential(0.1, (500, 1)) + 0.001 * rng.standard_normal((500, 500))
    assert estimate(similarities, QUICK).growth.value < 0.5


def test_beyond_the_data_a_law_is_met() -> None:
    """Of independent similarities with an exponential tail all rates are known."""
    rng = np.random.default_rng(5)
    similarities = rng.exponential(0.05, (700, 700)).astype(np.float32)
    table = estimate(similarities, EstimatorSettings(num_resamples=60)).table
    for size, target in ((600, 0.01), (7000, 0.1), (70_000, 0.1)):
        expected = -0.05 * math.log(-math.log1p(-target) / size)
        threshold = table.threshold(target, size)
        assert threshold.low <= expected <= threshold.high
        assert threshold.value == pytest.approx(expected, rel=0.08)


def test_a_generalised_pareto_tail_is_found_again() -> None:
    rng = np.random.default_rng(7)
    for shape in (-0.3, 0.0, 0.2):
        uniform = rng.random(20_000)
        excesses = -np.log(uniform) if shape == 0.0 else np.expm1(-shape * np.log(uniform)) / shape
        tail = tails.fit_tail(0.5 + 0.1 * excesses, seed=1)
        start = float(np.quantile(0.5 + 0.1 * excesses, 0.9))
        assert tail.start == pytest.approx(start, abs=1e-3)
        assert tail.shape == pytest.approx(shape, abs=0.06)
        # What exceeds a threshold of a generalised Pareto distribution is one of the same shape.
        assert tail.scale == pytest.approx(0.1 + shape * (start - 0.5), rel=0.08)
        assert tail.p_value > 0.01
        end = tails.end_of(tail, math.log(1e-3))
        assert tails.log_survival(tail, [end])[0] == pytest.approx(math.log(1e-3))


def test_few_exceedances_do_not_end_a_tail_at_the_highest_of_them() -> None:
    rng = np.random.default_rng(13)
    # Twelve exceedances that crowd below 0.95, as a bounded tail of shape -2 would have them.
    tops = np.concatenate([0.8 + 0.1 * rng.random(108), 0.95 - 0.02 * np.linspace(0.05, 1.0, 12) ** 2])
    tail = tails.fit_tail(tops)
    assert tail.num_exceedances == 12
    assert tail.shape == pytest.approx(-12 / (12 + tails.BOUND_EXCEEDANCES))
    excesses = np.sort(tops)[-12:] - tail.start
    assert tail.scale / (1.0 - tail.shape) == pytest.approx(excesses.mean())
    assert tails.end_of(tail, math.log(1e-3)) > 0.97


def test_a_tail_that_is_none_is_told_by_its_fit() -> None:
    rng = np.random.default_rng(9)
    heights = (rng.random(1800) * 0.5, 0.6 + 0.001 * rng.random(100), 0.9 + 0.001 * rng.random(100))
    lumps = np.concatenate(heights)
    assert tails.fit_tail(lumps, seed=0).p_value < 0.01


def test_weights_count_as_repetitions() -> None:
    rng = np.random.default_rng(11)
    values, weights = rng.exponential(1.0, 300), rng.integers(0, 3, 300)
    weighted = tails.fit_tail(values, weights)
    repeated = tails.fit_tail(np.repeat(values, weights))
    assert weighted.start == repeated.start
    assert weighted.shape == pytest.approx(repeated.shape, abs=0.1)
    assert weighted.scale == pytest.approx(repeated.scale, rel=0.1)


def test_the_fewest_people_are_enough_and_leave_a_wide_interval() -> None:
    few, more = (estimate(people(num) @ people(num).T, QUICK).table for num in (PEOPLE_MIN, 800))
    narrow, wide = more.threshold(0.03, 50), few.threshold(0.03, 50)
    assert wide.low < wide.value < wide.high
    assert wide.high - wide.low > narrow.high - narrow.low


def test_the_same_seed_gives_the_same_table() -> None:
    similarities = people(150) @ people(150).T
    assert estimate(similarities, QUICK) == estimate(similarities, QUICK)
    other = estimate(similarities, EstimatorSettings(num_resamples=20, seed=1))
    assert other.table.log_rates == estimate(similarities, QUICK).table.log_rates
    assert other.table.low != estimate(similarities, QUICK).table.low


@pytest.mark.parametrize(
    ("similarities", "words"),
    [
        (np.zeros((0, 0)), "0 people"),
        (np.zeros((1, 1)), "1 people"),
        (np.zeros((99, 99)), f"at least {PEOPLE_MIN}"),
        (np.zeros((130, 100)), "one row and column a person"),
        (np.zeros((130, 130)), "exceed|equal"),
        (np.full((130, 130), np.nan), "without a template"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused(similarities: NDArray[np.float64], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        estimate(similarities, QUICK)


def test_too_few_people_are_told_how_many_the_target_needs() -> None:
    with pytest.raises(InvalidInputError, match=r"500 people .* at least 1,000 are needed for FPIR 0\.001"):
        check_people(500, 0.001)
    check_people(1000, 0.001)
    check_people(PEOPLE_MIN)
    with pytest.raises(InvalidInputError, match="at most"):
        check_people(estimator.PEOPLE_MAX + 1)
