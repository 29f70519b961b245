"""What a gallery's own people tell: quantiles and a tail, intervals, and who is left out."""

from __future__ import annotations

import numpy as np
import pytest

from engine.decision.estimator import PEOPLE_MIN
from engine.decision.own_people import measure
from engine.errors import InvalidInputError


def tops(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, 0.05, num)


def test_thresholds_are_quantiles_of_the_tops_and_fall_with_the_rate() -> None:
    own = measure(tops(4000))
    for target in (0.5, 0.2, 0.1, 0.03, 0.01):
        true = float(np.quantile(tops(200_000, 1), 1.0 - target))
        found = own.threshold(target)
        assert found.low <= found.value <= found.high
        assert found.value == pytest.approx(true, abs=0.006)
    values = [own.threshold(target).value for target in (0.9, 0.5, 0.1, 0.01, 1e-4, 1e-9)]
    assert values == sorted(values)
    assert values[-1] <= 1.0


def test_intervals_cover_and_narrow_with_more_people() -> None:
    true = float(np.quantile(tops(400_000, 99), 0.9))
    covered = 0
    for seed in range(20):
        few = measure(tops(500, seed)).threshold(0.1)
        covered += few.low <= true <= few.high
    assert covered >= 16
    many = measure(tops(4000)).threshold(0.1)
    few = measure(tops(400)).threshold(0.1)
    assert many.high - many.low < few.high - few.low


def test_two_who_are_each_others_nearest_count_as_one_draw() -> None:
    single, double = tops(500), np.repeat(tops(500), 2)
    widths = [
        found.high - found.low for found in (measure(single).threshold(0.1), measure(double).threshold(0.1))
    ]
    # Twice as many independent people would narrow it by a third.
    assert widths[1] == pytest.approx(widths[0], rel=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_the_last_bits_of_similarities_change_nothing(seed: int) -> None:
    """Whoever of two is searched for, wherever their digits would be rounded."""
    double = np.repeat(tops(500), 2)
    noisy = double + np.random.default_rng(seed).uniform(-1e-7, 1e-7, len(double))
    for target in (0.1, 0.01, 1e-4):
        one, other = measure(double).threshold(target), measure(noisy).threshold(target)
        assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high), abs=2e-5)


def test_few_likely_duplicates_are_left_out_and_many_are_told() -> None:
    few = np.concatenate([tops(1000), np.full(8, 0.99)])
    own = measure(few, 0.9)
    assert (own.num_probes, own.num_left_out, own.num_suspected) == (1000, 8, 0)
    assert own.threshold(0.01).value == pytest.approx(measure(tops(1000)).threshold(0.01).value)
    many = np.concatenate([tops(1000), np.full(30, 0.99)])
    own = measure(many, 0.9)
    assert (own.num_probes, own.num_left_out, own.num_suspected) == (1030, 0, 30)
    assert measure(few).num_left_out == 0


@pytest.mark.parametrize("num", [0, 1, PEOPLE_MIN - 1])
def test_too_few_people_tell_nothing(num: int) -> None:
    with pytest.raises(InvalidInputError, match=f"at least {PEOPLE_MIN}"):
        measure(tops(num))


def test_people_who_are_all_equal_tell_nothing() -> None:
    with pytest.raises(InvalidInputError):
        measure(np.full(500, 0.5))


@pytest.mark.parametrize("target", [0.0, 1.0, float("nan"), -0.1])
def test_a_rate_that_is_none_is_refused(target: float) -> None:
    with pytest.raises(InvalidInputError, match="target"):
        measure(tops(200)).threshold(target)
