"""Each metric against the slow, obvious way to count the same thing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import metrics
from engine.errors import InvalidInputError
from engine.metrics import NO_RANK, NO_TEMPLATE

# Few distinct values, so that ties are the rule; now and then a picture without template.
SIMILARITY = st.one_of(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(-1, 1))
MAYBE_NONE = st.one_of(SIMILARITY, SIMILARITY, SIMILARITY, st.just(NO_TEMPLATE))
LIST = st.lists(MAYBE_NONE, min_size=1, max_size=25)
SHARE = st.one_of(st.sampled_from([0.0, 0.1, 0.29, 0.5, 1.0]), st.floats(0, 1))


def share_at(values: Sequence[float], threshold: float) -> float:
    return sum(1 for value in values if value != NO_TEMPLATE and value >= threshold) / len(values)


def smallest_threshold(values: Sequence[float], share: float) -> float:
    allowed = math.floor(share * len(values) + 1e-9)
    falling = sorted(values, reverse=True)
    return NO_TEMPLATE if allowed >= len(values) else math.nextafter(falling[allowed], math.inf)


REPEATABLE = settings(deadline=None, derandomize=True)
"""The same cases on every run, however busy the machine."""

# --- verification


@REPEATABLE
@given(LIST, LIST)
def test_roc_counts_what_is_at_or_above_each_threshold(mated: list[float], non_mated: list[float]) -> None:
    curve = metrics.roc(mated, non_mated)

    for threshold, far, tar in list(zip(curve.thresholds, curve.far, curve.tar, strict=True))[:-1]:
        assert far == share_at(non_mated, threshold)
        assert tar == share_at(mated, threshold)
    assert (curve.thresholds[-1], curve.far[-1], curve.tar[-1]) == (NO_TEMPLATE, 1.0, 1.0)
    assert (curve.far[0], curve.tar[0]) == (0.0, 0.0)
    assert np.all(np.diff(curve.thresholds) < 0)
    finite = {value for value in mated + non_mated if value != NO_TEMPLATE}
    assert len(curve.thresholds) == len(finite) + 2


@REPEATABLE
@given(LIST, LIST)
def test_auc_is_how_often_mated_beats_non_mated_and_the_area_under_the_roc(
    mated: list[float], non_mated: list[float]
) -> None:
    wins = sum((m > n) + 0.5 * (m == n) for m in mated for n in non_mated)
    area = metrics.auc(mated, non_mated)

    assert area == pytest.approx(wins / (len(mated) * len(non_mated)))
    curve = metrics.roc(mated, non_mated)
    assert area == pytest.approx(float(np.trapezoid(curve.tar, curve.far)), abs=1e-12)


@REPEATABLE
@given(LIST, LIST)
def test_eer_lies_where_the_two_errors_cross(mated: list[float], non_mated: list[float]) -> None:
    values = sorted({v for v in mated + non_mated if v != NO_TEMPLATE}, reverse=True)
    points = [(0.0, 1.0)] + [(share_at(non_mated, t), 1 - share_at(mated, t)) for t in values] + [(1.0, 0.0)]
    expected = None
    for (far, frr), (far_next, frr_next) in itertools.pairwise(points):
        if far <= frr and far_next >= frr_next and (far, frr) != (far_next, frr_next):
            along = (frr - far) / ((frr - far) + (far_next - frr_next))
            expected = far + along * (far_next - far)
            break
    assert expected is not None
    assert metrics.eer(mated, non_mated) == pytest.approx(expected, abs=1e-12)


def test_perfect_and_useless_similarities_have_the_known_areas_and_error_rates() -> None:
    assert metrics.auc([0.9, 0.8], [0.1, 0.2]) == 1.0
    assert metrics.eer([0.9, 0.8], [0.1, 0.2]) == 0.0
    assert metrics.auc([0.5] * 3, [0.5] * 4) == 0.5
    assert metrics.eer([0.5] * 3, [0.5] * 4) == 0.5
    assert metrics.eer([0.1], [0.9]) == 1.0


@REPEATABLE
@given(LIST, LIST, SHARE)
def test_tar_at_far_takes_the_smallest_float_above_the_last_allowed_pair(
    mated: list[float], non_mated: list[float], target: float
) -> None:
    (point,) = metrics.tar_at_far(mated, non_mated, [target])

    assert point.threshold == smallest_threshold(non_mated, target)
    assert point.far == share_at(non_mated, point.threshold)
    assert point.tar == share_at(mated, point.threshold)
    assert point.far * len(non_mated) <= target * len(non_mated) + 1e-6
    if math.isfinite(point.threshold):
        accepted_below = sum(1 for v in non_mated if v >= math.nextafter(point.threshold, -math.inf))
        assert accepted_below > math.floor(target * len(non_mated) + 1e-9)


def test_a_far_whose_product_is_rounded_below_a_whole_number_still_allows_that_number() -> None:
    assert 0.29 * 100 < 29
    (point,) = metrics.tar_at_far([1.0], np.arange(100) / 100, [0.29])
    assert point.far == 0.29


@REPEATABLE
@given(LIST, LIST)
def test_best_balanced_accuracy_is_the_best_over_all_thresholds(
    mated: list[float], non_mated: list[float]
) -> None:
    finite = {value for value in mated + non_mated if value != NO_TEMPLATE}
    balanced = [(share_at(mated, t) + 1 - share_at(non_mated, t)) / 2 for t in finite]

    best = metrics.best_balanced_accuracy(mated, non_mated)

    assert best.accuracy == pytest.approx(max([0.5, *balanced]))
    if math.isfinite(best.threshold):
        at_best = (share_at(mated, best.threshold) + 1 - share_at(non_mated, best.threshold)) / 2
        assert at_best == pytest.approx(best.accuracy)


# --- accuracy over folds


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[float], list[bool], list[int]]:
    rows = draw(st.lists(st.tuples(MAYBE_NONE, st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
    # Every fold keeps one pair that has a template, so that the others always have a say.
    rows += [(0.3, True, 0), (-0.3, False, 1), (0.1, True, 2)]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def naive_best_threshold(values: Sequence[float], is_same: Sequence[bool]) -> float:
    distinct = sorted({value for value in values if value != NO_TEMPLATE})
    cuts = [distinct[0]]
    for lower, upper in itertools.pairwise(distinct):
        middle = lower + (upper - lower) / 2
        cuts.append(middle if middle > lower else upper)
    cuts.append(math.nextafter(distinct[-1], math.inf))
    rights = [
        sum((v >= cut) == same for v, same in zip(values, is_same, strict=True) if v != NO_TEMPLATE)
        for cut in cuts
    ]
    best = [cut for cut, right in zip(cuts, rights, strict=True) if right == max(rights)]
    return best[(len(best) - 1) // 2]


@REPEATABLE
@given(labelled())
def test_kfold_accuracy_judges_each_fold_by_the_best_threshold_of_the_others(
    rows: tuple[list[float], list[bool], list[int]],
) -> None:
    values, is_same, folds = rows
    accuracies, thresholds = [], []
    correct = [False] * len(values)
    for number in sorted(set(folds)):
        others = [i for i, fold in enumerate(folds) if fold != number]
        threshold = naive_best_threshold([values[i] for i in others], [is_same[i] for i in others])
        inside = [i for i, fold in enumerate(folds) if fold == number]
        for i in inside:
            correct[i] = values[i] != NO_TEMPLATE and (values[i] >= threshold) == is_same[i]
        accuracies.append(sum(correct[i] for i in inside) / len(inside))
        thresholds.append(threshold)
    mean = sum(accuracies) / len(accuracies)
    variance = sum((a - mean) ** 2 for a in accuracies) / (len(accuracies) - 1)

    found = metrics.kfold_accuracy(values, is_same, folds)

    assert found.thresholds == tuple(thresholds)
    assert found.per_fold == pytest.approx(accuracies)
    assert found.is_correct.tolist() == correct
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(math.sqrt(variance), abs=1e-12)


def test_the_best_threshold_of_separable_pairs_is_the_middle_between_them() -> None:
    assert metrics.best_threshold([0.0, 0.25, 0.75, 1.0], [False, False, True, True]) == 0.5


def test_the_best_threshold_of_pairs_of_one_kind_accepts_all_or_none() -> None:
    assert metrics.best_threshold([0.2, 0.4], [True, True]) == 0.2
    assert metrics.best_threshold([0.2, 0.4], [False, False]) > 0.4


def test_neighbouring_floats_are_still_divided() -> None:
    lower = 0.5
    upper = math.nextafter(lower, 1)
    assert metrics.best_threshold([lower, upper], [False, True]) == upper


def test_a_pair_without_template_is_wrong_whether_same_or_different() -> None:
    values = [0.9, 0.1, 0.9, 0.1, NO_TEMPLATE, NO_TEMPLATE]
    is_same = [True, False, True, False, True, False]
    folds = [0, 0, 1, 1, 1, 1]

    found = metrics.kfold_accuracy(values, is_same, folds)

    assert found.is_correct.tolist() == [True, True, True, True, False, False]
    assert found.per_fold == (1.0, 0.5)


# --- identification


@REPEATABLE
@given(st.integers(1, 6), st.integers(1, 8), st.randoms(use_true_random=False))
def test_the_rank_of_the_mated_identity_counts_who_is_at_least_as_similar(
    num_probes: int, num_identities: int, random: Any
) -> None:
    choices = [-1.0, 0.0, 0.5, 1.0, NO_TEMPLATE]
    table = [[random.choice(choices) for _ in range(num_identities)] for _ in range(num_probes)]
    columns = [random.randrange(num_identities) for _ in range(num_probes)]
    expected = []
    for row, column in zip(table, columns, strict=True):
        better = sum(1 for j, value in enumerate(row) if j != column and value >= row[column])
        expected.append(NO_RANK if row[column] == NO_TEMPLATE else 1 + better)

    assert metrics.rank_of_mated(table, columns).tolist() == expected


def test_a_network_that_gives_everyone_one_vector_ranks_last() -> None:
    assert metrics.rank_of_mated(np.ones((3, 5)), [0, 2, 4]).tolist() == [5, 5, 5]


@REPEATABLE
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 10))
def test_cmc_is_the_share_within_each_rank(ranks: list[int], num_ranks: int) -> None:
    expected = [sum(1 for r in ranks if 1 <= r <= limit) / len(ranks) for limit in range(1, num_ranks + 1)]

    assert metrics.cmc(ranks, num_ranks).tolist() == pytest.approx(expected)


@st.composite
def mated_probes(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    rows = draw(st.lists(st.tuples(MAYBE_NONE, st.integers(0, 5)), min_size=1, max_size=25))
    return [row[0] for row in rows], [row[1] for row in rows]


@REPEATABLE
@given(mated_probes(), LIST, SHARE, st.integers(1, 4))
def test_fnir_at_fpir_counts_misses_at_the_threshold_of_the_allowed_alarms(
    mated: tuple[list[float], list[int]], tops: list[float], target: float, rank_max: int
) -> None:
    values, ranks = mated
    threshold = smallest_threshold(tops, target)
    misses = sum(
        1
        for value, rank in zip(values, ranks, strict=True)
        if value == NO_TEMPLATE or rank == NO_RANK or rank > rank_max or value < threshold
    )

    (point,) = metrics.fnir_at_fpir(values, ranks, tops, [target], rank_max=rank_max)

    assert point.threshold == threshold
    assert point.fnir == pytest.approx(misses / len(values))
    assert point.fpir == share_at(tops, threshold) == metrics.fpir(tops, threshold)
    assert point.fnir == metrics.fnir(values, ranks, threshold, rank_max)


def test_at_fpir_zero_no_stranger_raises_an_alarm() -> None:
    (point,) = metrics.fnir_at_fpir([0.9, 0.5], [1, 1], [0.5, 0.4], [0.0])
    assert (point.fpir, point.fnir) == (0.0, 0.5)
    assert point.threshold == math.nextafter(0.5, 1)


# --- recall of an index


@REPEATABLE
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_recall_without_similarities_counts_ids(
    num_rows: int, num_found: int, num_true: int, random: Any
) -> None:
    found = [random.choices(range(-1, 9), k=num_found) for _ in range(num_rows)]
    true = [random.sample(range(9), num_true) for _ in range(num_rows)]
    hits = sum(len(set(f) & set(t)) for f, t in zip(found, true, strict=True))

    assert metrics.recall_at_k(found, true) == pytest.approx(hits / (num_rows * num_true))


@pytest.mark.parametrize("seed", range(8))
def test_recall_among_equals_is_full_whichever_of_them_were_taken(seed: int) -> None:
    """Two right answers that broke ties differently have recall 1; one that misses a nearer item has not."""
    rng = np.random.default_rng(seed)
    similarities = rng.integers(0, 4, size=(6, 40)) / 4.0
    k = 5
    forwards = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    backwards = 39 - np.argsort(-similarities[:, ::-1], axis=1, kind="stable")[:, :k]
    of_forwards = np.take_along_axis(similarities, forwards, axis=1)
    of_backwards = np.take_along_axis(similarities, backwards, axis=1)
    given_both: dict[str, Any] = {"found_similarities": of_backwards, "true_similarities": of_forwards}
    assert metrics.recall_at_k(backwards, forwards, **given_both) == 1.0
    assert metrics.recall_at_k(backwards, forwards) < 1.0

    wrong = backwards.copy()
    wrong[0, 0] = int(np.argmin(similarities[0]))
    of_wrong = np.take_along_axis(similarities, wrong, axis=1)
    found = metrics.recall_at_k(wrong, forwards, found_similarities=of_wrong, true_similarities=of_forwards)
    assert found == pytest.approx(29 / 30)


def test_recall_allows_the_tolerance_of_the_arithmetic() -> None:
    near: dict[str, Any] = {"found_similarities": [[0.4999999]], "true_similarities": [[0.5]]}
    assert metrics.recall_at_k([[7]], [[3]], **near) == 0.0
    assert metrics.recall_at_k([[7]], [[3]], tolerance=1e-6, **near) == 1.0


def test_recall_counts_a_repeated_id_once_and_fillers_never() -> None:
    assert metrics.recall_at_k([[1, 1, -1]], [[1, 2, -1]]) == 0.5
    both: dict[str, Any] = {
        "found_similarities": [[0.9, 0.9, math.nan]],
        "true_similarities": [[0.9, 0.8, math.nan]],
    }
    assert metrics.recall_at_k([[1, 1, -1]], [[1, 2, -1]], **both) == 0.5
    assert metrics.recall_at_k(np.empty((1, 0), dtype=np.int64), [[1, 2]]) == 0.0


# --- what is refused

GOOD = [0.5, 0.1]
TWO_LISTS: list[Callable[[Any, Any], object]] = [
    metrics.roc,
    metrics.auc,
    metrics.eer,
    metrics.best_balanced_accuracy,
    lambda mated, non_mated: metrics.tar_at_far(mated, non_mated, [0.1]),
    lambda mated, tops: metrics.fnir_at_fpir(mated, [1] * np.size(mated), tops, [0.1]),
]


@pytest.mark.parametrize("bad", [[], [math.nan, 0.1], [math.inf, 0.1], [[0.5, 0.1]]])
@pytest.mark.parametrize("function", TWO_LISTS)
def test_empty_not_finite_or_nested_similarities_are_refused(
    function: Callable[[Any, Any], object], bad: Any
) -> None:
    for first, second in ((bad, GOOD), (GOOD, bad)):
        with pytest.raises(InvalidInputError, match=r"empty|NaN|dimensions|ranks"):
            function(first, second)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.tar_at_far(GOOD, GOOD, [1.5]), "fars holds 1.5"),
        (lambda: metrics.tar_at_far(GOOD, GOOD, [math.nan]), "fars holds nan"),
        (lambda: metrics.fnir_at_fpir(GOOD, [1, 1], GOOD, [-0.1]), "fpirs holds -0.1"),
        (lambda: metrics.fnir(GOOD, [1], 0.5), "1 mated_ranks, 2 mated_similarities"),
        (lambda: metrics.fnir(GOOD, [1, 1], 0.5, rank_max=0), "rank_max is 0"),
        (lambda: metrics.fnir(GOOD, [1, -1], 0.5), "none is negative"),
        (lambda: metrics.cmc([], 3), "non-empty"),
        (lambda: metrics.cmc([1], 0), "num_ranks is 0"),
        (lambda: metrics.fpir([], 0.5), "empty"),
        (lambda: metrics.rank_of_mated(np.zeros((0, 3)), []), "empty"),
        (lambda: metrics.rank_of_mated(np.zeros((1, 3)), [3]), r"lie in 0\.\.2"),
        (lambda: metrics.rank_of_mated(np.zeros((1, 3)), [0.5]), "1 integers"),
        (lambda: metrics.kfold_accuracy(GOOD, [True, False], [0, 0]), "one fold only"),
        (lambda: metrics.kfold_accuracy(GOOD, [True, False], [0]), "folds has shape"),
        (lambda: metrics.kfold_accuracy(GOOD, [1, 0], [0, 1]), "2 booleans"),
        (lambda: metrics.kfold_accuracy([0.5, NO_TEMPLATE], [True, True], [0, 1]), "no pair"),
        (lambda: metrics.recall_at_k([[1]], [[-1]]), "names no item"),
        (lambda: metrics.recall_at_k([[1]], [[1], [2]]), "same rows"),
        (lambda: metrics.recall_at_k([1], [[1]]), "found_ids must be a table"),
        (lambda: metrics.recall_at_k([[1]], [[1]], found_similarities=[[0.5]]), "both"),
        (
            lambda: metrics.recall_at_k(
                [[1]], [[1]], found_similarities=[[0.5, 0.4]], true_similarities=[[0.5]]
            ),
            "shapes",
        ),
        (
            lambda: metrics.recall_at_k(
                [[1]], [[1]], found_similarities=[[math.nan]], true_similarities=[[0.5]]
            ),
            "NaN",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()
