"""Expected rates of random galleries against galleries that are really drawn; who counts as a person."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.openset.people import UNKNOWN_FOLD, gathered
from benchmarks.openset.rates import (
    absent,
    fnir_at,
    fpir_at,
    mated_similarities,
    similarities_left_out,
    threshold_at,
)
from engine.errors import InvalidInputError
from engine.types import Vectors


def directions(rng: np.random.Generator, num: int, dimension: int = 16) -> Vectors:
    vectors = rng.standard_normal((num, dimension), dtype=np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def test_expected_fpir_is_that_of_galleries_drawn() -> None:
    rng = np.random.default_rng(0)
    similarities = directions(rng, 400) @ directions(rng, 60).T
    threshold, size = 0.6, 20
    drawn = [
        (similarities[:, rng.choice(60, size, replace=False)].max(axis=1) >= threshold).mean()
        for _ in range(2000)
    ]
    assert fpir_at(similarities, threshold, size, 60) == pytest.approx(np.mean(drawn), abs=0.003)
    everybody = (similarities.max(axis=1) >= threshold).mean()
    assert fpir_at(similarities, threshold, 60, 60) == pytest.approx(everybody)


def test_a_threshold_gives_its_target_and_one_lower_does_not() -> None:
    found = similarities_left_out(directions(np.random.default_rng(1), 300))
    for target in (0.3, 0.03):
        threshold = threshold_at(found, target, 100, 299)
        assert fpir_at(found, threshold, 100, 299) <= target
        assert fpir_at(found, threshold - 1e-5, 100, 299) > 0.97 * target


def test_nobody_is_compared_with_himself() -> None:
    assert similarities_left_out(directions(np.random.default_rng(2), 50)).max() < 0.999


def test_expected_fnir_is_that_of_galleries_drawn() -> None:
    rng = np.random.default_rng(3)
    people = directions(rng, 80)
    rows = rng.integers(80, size=300)
    probes = people[rows] + 0.3 * rng.standard_normal((300, 16), dtype=np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    mated = mated_similarities(probes, rows, people, block_rows=17)
    threshold, size, missed = 0.5, 30, []
    for _ in range(500):
        gallery = rng.choice(80, size, replace=False)
        is_here = np.isin(rows, gallery)
        found = probes[is_here] @ people[gallery].T
        is_first = gallery[found.argmax(axis=1)] == rows[is_here]
        missed.append(1.0 - (is_first & (found.max(axis=1) >= threshold)).mean())
    assert fnir_at(mated, threshold, size) == pytest.approx(np.mean(missed), abs=0.01)
    assert fnir_at(mated, threshold, 1) == pytest.approx((mated.own < threshold).mean())


def test_who_is_not_there_is_absent_for_certain_and_never_more() -> None:
    sizes = range(1, 3000, 7)
    for size in sizes:
        assert absent(np.array([0, 3000]), 3000, size).tolist() == pytest.approx([1.0, 0.0])
    assert max(absent(np.array([0]), 3000, size)[0] for size in sizes) <= 1.0


@pytest.mark.parametrize("size", [0, 11])
def test_a_gallery_larger_than_all_is_refused(size: int) -> None:
    with pytest.raises(InvalidInputError, match="cannot be drawn"):
        absent(np.zeros(3, np.int64), 10, size)


def test_one_person_under_two_names_counts_once_and_pictures_without_a_face_not_at_all() -> None:
    vectors = np.array([[2, 0], [0, 1], [0, 0], [1, 1], [0, 3], [1, 0]], np.float32)
    names = ["b", "a", "a", "alias", "b", "c"]
    people = gathered(vectors, names, {"a": 3}, [("a", "alias")])
    np.testing.assert_array_equal(people.first, [[0, 1], [1, 0], [1, 0]])
    np.testing.assert_array_equal(people.folds, [3, UNKNOWN_FOLD, UNKNOWN_FOLD])
    np.testing.assert_array_equal(people.others, [[0, 1]])
    np.testing.assert_array_equal(people.other_people, [1])
    part = people.subset(np.array([1]))
    assert (len(part), part.other_people.tolist()) == (1, [0])
    with pytest.raises(InvalidInputError, match="1 people"):
        gathered(vectors[:1], names[:1], {}, [])
