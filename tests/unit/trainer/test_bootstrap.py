"""Resampling people by weights gives what judging the drawn people's probes one by one gives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import metrics
from engine.config import build
from engine.errors import InvalidInputError, SettingsError
from engine.trainer.bootstrap import (
    CHUNK_RESAMPLES,
    BootstrapSettings,
    bootstrap_open_set,
    draws,
    interval,
    paired_bootstrap,
)
from engine.trainer.open_set import OpenSetSimilarities

FPIRS = [0.5, 0.1, 0.02, 1.0]
SETTINGS = BootstrapSettings(num_resamples=CHUNK_RESAMPLES + 7, seed=3)


def model(seed: int, mated_mean: float = 0.5) -> OpenSetSimilarities:
    """Similarities rounded, so that some are equal; two have no template."""
    rng = np.random.default_rng(seed)
    own = np.round(rng.normal(mated_mean, 0.2, 90), 2)
    own[5] = metrics.NO_TEMPLATE
    ranks = rng.choice([1, 1, 1, 2, 7], 90)
    ranks[5] = metrics.NO_RANK
    tops = np.round(rng.normal(0.2, 0.2, 60), 2)
    tops[3] = metrics.NO_TEMPLATE
    people = np.random.default_rng(0)
    return OpenSetSimilarities(
        num_enrolled=40,
        mated=own,
        ranks=ranks,
        mated_labels=people.choice(30, 90),
        tops=tops,
        top_labels=people.choice([f"s{i}" for i in range(20)], 60),
    )


def naive_rates(measured: OpenSetSimilarities) -> NDArray[np.float64]:
    """The rates of each resample, by repeating each drawn person's probes as often as drawn."""
    mated_people, strangers = np.unique(measured.mated_labels), np.unique(measured.top_labels)
    of_mated = np.concatenate(list(draws(len(mated_people), SETTINGS)))
    of_strangers = np.concatenate(list(draws(len(strangers), SETTINGS, stream=1)))
    rows = []
    for num_of_mated, num_of_stranger in zip(of_mated, of_strangers, strict=True):
        drawn = np.repeat(mated_people, num_of_mated)
        mated = np.concatenate([np.flatnonzero(measured.mated_labels == person) for person in drawn])
        drawn = np.repeat(strangers, num_of_stranger)
        tops = np.concatenate([np.flatnonzero(measured.top_labels == person) for person in drawn])
        points = metrics.fnir_at_fpir(
            measured.mated[mated], measured.ranks[mated], measured.tops[tops], FPIRS
        )
        rows.append([np.mean(measured.ranks[mated] == 1), *(point.fnir for point in points)])
    return np.array(rows)


def test_intervals_are_the_percentiles_of_a_naive_resampling() -> None:
    measured = model(1)
    rates = naive_rates(measured)

    found = bootstrap_open_set(measured, FPIRS, SETTINGS)

    low, high = np.quantile(rates, [0.025, 0.975], axis=0)
    assert (found.rank1.low, found.rank1.high) == pytest.approx((low[0], high[0]))
    for i, point in enumerate(found.fnir_at_fpir.values(), start=1):
        assert (point.low, point.high) == pytest.approx((low[i], high[i]))
        assert point.low <= point.value <= point.high
    assert list(found.fnir_at_fpir) == FPIRS
    assert found.fnir_at_fpir[0.1].low < found.fnir_at_fpir[0.1].high


def test_a_paired_difference_draws_the_same_people_for_both() -> None:
    first, second = model(1), model(2, mated_mean=0.6)
    differences = naive_rates(second) - naive_rates(first)

    found = paired_bootstrap(first, second, FPIRS, SETTINGS)

    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    for i, point in enumerate([found.rank1, *found.fnir_at_fpir.values()]):
        assert (point.low, point.high) == pytest.approx((low[i], high[i]))


def test_a_model_against_itself_differs_by_nothing() -> None:
    found = paired_bootstrap(model(1), model(1), FPIRS, SETTINGS)
    for point in [found.rank1, *found.fnir_at_fpir.values()]:
        assert (point.value, point.low, point.high) == (0.0, 0.0, 0.0)
        assert point.low <= 0.0 <= point.high


def test_a_better_model_has_its_whole_interval_below_zero() -> None:
    worse = model(1)
    better = dataclasses.replace(worse, mated=worse.mated + 0.3)
    found = paired_bootstrap(worse, better, [0.1], SETTINGS)
    assert found.fnir_at_fpir[0.1].high < 0.0
    assert paired_bootstrap(better, worse, [0.1], SETTINGS).fnir_at_fpir[0.1].low > 0.0


def test_the_seed_decides() -> None:
    measured = model(1)
    again = bootstrap_open_set(measured, FPIRS, SETTINGS)
    assert again == bootstrap_open_set(measured, FPIRS, SETTINGS)
    other = BootstrapSettings(num_resamples=SETTINGS.num_resamples, seed=4)
    assert bootstrap_open_set(measured, FPIRS, other).rank1 != again.rank1


def test_people_with_many_pictures_widen_the_interval() -> None:
    """Resampling pictures as if independent would not see that one person's errors come together."""
    people = np.repeat(np.arange(20), 20)
    ranks = np.where(people % 2 == 0, 1, 2)
    one = OpenSetSimilarities(20, np.ones(400), ranks, people, np.zeros(5), np.arange(5))
    apart = dataclasses.replace(one, mated_labels=np.arange(400))
    of_people = bootstrap_open_set(one, [0.2]).rank1
    of_pictures = bootstrap_open_set(apart, [0.2]).rank1
    assert of_people.high - of_people.low > 3 * (of_pictures.high - of_pictures.low)


def test_without_strangers_only_rank_1_has_an_interval() -> None:
    measured = model(1)
    alone = measured.subset(np.ones(90, np.bool_), np.zeros(60, np.bool_))
    found = bootstrap_open_set(alone, FPIRS, SETTINGS)
    assert found.fnir_at_fpir == {}
    assert found.rank1 == bootstrap_open_set(measured, FPIRS, SETTINGS).rank1


def test_models_of_other_pictures_are_refused() -> None:
    other = dataclasses.replace(model(2), mated_labels=np.zeros(90, dtype=np.int64))
    with pytest.raises(InvalidInputError, match="same probes"):
        paired_bootstrap(model(1), other)


def test_an_interval_holds_its_level() -> None:
    found = interval(0.5, np.arange(101) / 100, 0.9)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.05, 0.95))


@pytest.mark.parametrize("wrong", [{"num_resamples": 0}, {"level": 1.0}, {"seed": -1}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        build(BootstrapSettings, wrong)
