"""All pairs of a set of templates, and intervals as judging each resample's pairs one by one gives them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import metrics
from engine.errors import InvalidInputError
from engine.metrics import NO_TEMPLATE
from engine.trainer import verification
from engine.trainer.bootstrap import BootstrapSettings, draws
from engine.trainer.verification import (
    ComparedPairs,
    bootstrap_verification,
    check_labels,
    compare_all,
    judge_verification,
)

FARS = {"half": 0.5, "tenth": 0.1, "all": 1.0, "1e-4": 1e-4}
SETTINGS = BootstrapSettings(num_resamples=40, seed=5)


@pytest.fixture
def compared(rng: np.random.Generator) -> ComparedPairs:
    """All pairs of 12 people, rounded so that some are equal; two without a template."""
    labels = np.repeat(np.arange(12), [1, 2, 3, 4] * 3)
    vectors = np.random.default_rng(1).normal(size=(12, 5))[labels] + rng.normal(size=(len(labels), 5))
    vectors[7] = 0.0
    pairs = compare_all(vectors, labels)
    return dataclasses.replace(pairs, similarities=np.round(pairs.similarities, 1))


def test_each_two_rows_are_compared_once(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(5, 3)) * 7
    vectors[4] = 0.0
    labels = ["a", "b", "a", "c", "a"]

    pairs = compare_all(vectors, labels)

    assert len(pairs.similarities) == 10
    places = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    for row, (i, j) in enumerate(places):
        assert (pairs.first[row], pairs.second[row]) == (labels[i], labels[j])
        assert pairs.is_same[row] == (labels[i] == labels[j])
        norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
        wanted = NO_TEMPLATE if 4 in (i, j) else vectors[i] @ vectors[j] / norms
        assert pairs.similarities[row] == pytest.approx(wanted)


def test_one_person_under_two_names_is_left_out() -> None:
    vectors, labels = np.eye(4), ["a", "b", "c", "a"]
    left = compare_all(vectors, labels, same=[("b", "a"), ("c", "nobody"), ("c", "c")])
    kept = list(zip(left.first.tolist(), left.second.tolist(), strict=True))
    assert kept == [("a", "c"), ("a", "a"), ("b", "c"), ("c", "a")]


def test_the_report_is_that_of_the_metrics(compared: ComparedPairs) -> None:
    report = judge_verification(compared, FARS)
    mated, non_mated = compared.mated, compared.non_mated
    assert report.auc == metrics.auc(mated, non_mated)
    assert report.eer == metrics.eer(mated, non_mated)
    points = metrics.tar_at_far(mated, non_mated, list(FARS.values()))
    assert list(report.tar_at_far.values()) == [point.tar for point in points]
    assert (report.num_mated_pairs, report.num_non_mated_pairs) == (30, 30 * 29 // 2 - 30)
    assert report.num_people == 12
    people = compared.first[compared.is_same]
    shares = [np.mean(mated[people == person] >= points[1].threshold) for person in sorted(set(people))]
    assert report.tar_at_far_per_person["tenth"] == pytest.approx(np.mean(shares))
    assert report.tar_at_far_per_person["all"] < 1.0  # a pair without template is never accepted
    json.dumps(report.as_json())


def naive(compared: ComparedPairs, drawn: NDArray[np.int64]) -> list[float]:
    """The rates of pairs repeated as often as their people were drawn; a person's place is its label."""
    mated: list[float] = []
    non_mated: list[float] = []
    for value, is_same, first, second in zip(
        compared.similarities, compared.is_same, compared.first, compared.second, strict=True
    ):
        if is_same:
            mated += [value] * drawn[first]
        else:
            non_mated += [value] * (drawn[first] * drawn[second])
    points = metrics.tar_at_far(mated, non_mated, list(FARS.values()))
    return [metrics.auc(mated, non_mated), metrics.eer(mated, non_mated), *(point.tar for point in points)]


def test_intervals_are_the_percentiles_of_a_naive_resampling(compared: ComparedPairs) -> None:
    rates = [naive(compared, drawn) for chunk in draws(12, SETTINGS) for drawn in chunk]

    found = bootstrap_verification(compared, FARS, SETTINGS)

    low, high = np.quantile(rates, [0.025, 0.975], axis=0)
    for i, point in enumerate([found.auc, found.eer, *found.tar_at_far.values()]):
        assert (point.low, point.high) == pytest.approx((low[i], high[i]), abs=1e-12)
    assert found.auc.low < found.auc.value < found.auc.high
    values: dict[str, Any] = json.loads(json.dumps(found.as_json()))
    assert (values["resampled"], values["num_resamples"], values["seed"]) == ("people", 40, 5)


def test_resamples_without_mated_pairs_are_left_out() -> None:
    """Only one of four people has two pictures: about a third of resamples hold no mated pair."""
    pairs = compare_all(np.eye(5)[[0, 0, 1, 2, 3]], [0, 0, 1, 2, 3])
    found = bootstrap_verification(pairs, {"1e-1": 0.1}, SETTINGS)
    assert (found.auc.low, found.auc.high) == (1.0, 1.0)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_fewer_than_two_templates_are_refused(num_rows: int) -> None:
    with pytest.raises(InvalidInputError, match=f"{num_rows} templates"):
        compare_all(np.ones((num_rows, 3)), [1] * num_rows)


def test_too_many_templates_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "ROWS_MAX", 3)
    with pytest.raises(InvalidInputError, match="2 to 3"):
        compare_all(np.ones((4, 3)), [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("labels", "missing"), [([1, 2, 3], "0 pairs of one person"), ([1, 1, 1], "0 of two")]
)
def test_without_pairs_of_both_kinds_nothing_is_judged(labels: list[int], missing: str) -> None:
    with pytest.raises(InvalidInputError, match=missing):
        judge_verification(compare_all(np.eye(3), labels))
    # The labels alone tell as much, in the same words.
    with pytest.raises(InvalidInputError, match=missing):
        check_labels(np.array(labels))


def test_labels_that_can_be_judged_pass_and_too_many_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    check_labels(np.array(["a", "b", "a"]))
    monkeypatch.setattr(verification, "ROWS_MAX", 2)
    with pytest.raises(InvalidInputError, match="3 templates"):
        check_labels(np.array(["a", "b", "a"]))
    with pytest.raises(InvalidInputError, match="0 templates"):
        check_labels(np.array([]))
