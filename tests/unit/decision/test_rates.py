"""Tables of rates: read between their points, beyond them, and refused where they are of no use."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.decision.rates import RateTable, log_rate_of
from engine.errors import InvalidInputError

SIMILARITIES = (0.0, 0.25, 0.5, 0.75)
SIZES = (1.0, 10.0, 100.0)


def log_rate(size: float, similarity: float, growth: float = 0.8) -> float:
    """A law that is straight in the table's own terms, so that reading between its points is exact."""
    return growth * math.log(size) - 12.0 * similarity - 1.0


def rows(shift: float = 0.0) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(log_rate(size, one) + shift for one in SIMILARITIES) for size in SIZES)


TABLE = RateTable(similarities=SIMILARITIES, sizes=SIZES, log_rates=rows(), low=rows(-0.5), high=rows(0.5))


@given(st.floats(1.0, 1e7), st.floats(0.0, 0.99))
def test_between_and_beyond_its_points_a_table_follows_the_law(size: float, similarity: float) -> None:
    expected = -math.expm1(-math.exp(log_rate(size, similarity)))
    assert TABLE.fpir(similarity, size) == pytest.approx(expected, rel=1e-9)


@given(st.floats(1.0, 1e5), st.floats(1e-4, 0.999))
def test_a_threshold_has_the_rate_that_was_asked_for(size: float, target: float) -> None:
    threshold = TABLE.threshold(target, size)
    assert threshold.low <= threshold.value <= threshold.high
    if SIMILARITIES[0] < threshold.value < 1.0:
        assert TABLE.fpir(threshold.value, size) == pytest.approx(target, rel=1e-9)
    elif threshold.value == 1.0:
        assert TABLE.fpir(1.0, size) >= target * (1 - 1e-9)
    else:
        assert TABLE.fpir(SIMILARITIES[0], size) <= target * (1 + 1e-9)


def test_an_interval_of_the_threshold_is_that_of_the_rate() -> None:
    threshold = TABLE.threshold(0.01, 20)
    assert threshold.high - threshold.value == pytest.approx(0.5 / 12.0)
    assert threshold.value - threshold.low == pytest.approx(0.5 / 12.0)
    rate = TABLE.at(20).fpir_estimate(threshold.value)
    assert (rate.low, rate.value, rate.high) == pytest.approx(
        [-math.expm1(math.log1p(-0.01) * factor) for factor in (math.exp(-0.5), 1.0, math.exp(0.5))]
    )


def test_more_identities_or_a_lower_rate_ask_for_a_higher_threshold() -> None:
    values = [TABLE.threshold(0.01, size).value for size in (1, 2, 50, 1000, 1e6)]
    assert values == sorted(values)
    assert values[0] < values[-1]
    assert TABLE.threshold(0.001, 50).value > TABLE.threshold(0.1, 50).value


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_a_target_that_is_no_share_is_refused(target: float) -> None:
    with pytest.raises(InvalidInputError, match="above 0 and below 1"):
        TABLE.threshold(target, 10)


@pytest.mark.parametrize("size", [0.0, 0.5, -1.0, math.nan, math.inf])
def test_a_size_below_one_is_refused(size: float) -> None:
    with pytest.raises(InvalidInputError, match="1 or more"):
        TABLE.at(size)


def test_below_the_grid_rates_go_on_to_every_stranger_and_thresholds_stay_on_it_and_below_one() -> None:
    assert TABLE.fpir(-0.1, 1) == pytest.approx(-math.expm1(-math.exp(log_rate(1, -0.1))))
    assert TABLE.fpir(-1.0, 1) == pytest.approx(1.0)
    assert TABLE.threshold(1e-12, 1e6).value == 1.0
    assert TABLE.threshold(1 - 1e-9, 1.0).value == SIMILARITIES[0]


def test_a_threshold_lies_within_its_interval_where_the_lines_of_a_table_end_flat() -> None:
    flat = tuple((*row[:2], -20.0, -20.0) for row in rows())
    table = RateTable(similarities=SIMILARITIES, sizes=SIZES, log_rates=flat, low=flat, high=rows(0.5))
    threshold = table.threshold(1e-10, 1)
    assert (threshold.low, threshold.value, threshold.high) == (1.0, 1.0, 1.0)


def test_flat_pieces_are_passed_over() -> None:
    flat = ((0.0, -1.0, -1.0, -1.0),) * 2
    table = RateTable(similarities=SIMILARITIES, sizes=(1.0, 2.0), log_rates=flat, low=flat, high=flat)
    assert table.at(1).threshold(-math.expm1(-math.exp(-1.0))).value == pytest.approx(0.25)
    assert table.at(1).threshold(0.001).value == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": (1.0, 10.0)}, "2 rows of 4"),
        ({"similarities": (0.0, 0.25, 0.5)}, "3 rows of 3"),
        ({"sizes": (0.5, 10.0, 100.0)}, "from 1 on"),
        ({"sizes": (1.0, 10.0, 10.0)}, "must rise"),
        ({"similarities": (0.0, 0.5, 0.25, 0.75)}, "must rise"),
        ({"low": (*rows()[:2], (math.inf, 0.0, -1.0, -2.0))}, "finite"),
        ({"high": (*rows()[:2], (0.0, 1.0, -1.0, -2.0))}, "must not rise"),
        ({"low": (*rows()[:2], (math.nan, 0.0, -1.0, -2.0))}, "finite"),
        ({"low": (*rows()[:2], (1e308, 0.0, -1.0, -1e308))}, "none beyond 100"),
        ({"similarities": (-1e308, 0.25, 0.5, 1e308)}, "within 2"),
    ],
)
def test_a_table_of_no_use_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        msgspec.structs.replace(TABLE, **change).__post_init__()
    damaged = {**msgspec.to_builtins(TABLE), **change}
    if "finite" not in words:
        with pytest.raises(msgspec.ValidationError, match=words):
            msgspec.json.decode(msgspec.json.encode(damaged), type=RateTable)


def test_a_log_rate_is_that_of_its_share() -> None:
    assert log_rate_of(1 - math.exp(-1)) == pytest.approx(0.0)
