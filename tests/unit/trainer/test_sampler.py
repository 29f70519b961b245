"""Which crops make up a batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidInputError, SettingsError
from engine.trainer.sampler import PKSampler, Rows


def labels_of(*counts: int) -> Rows:
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.empty(0, np.int64), "labels must be"),
        (np.zeros(3, np.float64), "labels must be"),
        (np.array([0, 0, 2, 2]), "consecutive"),
        (np.array([-1, 0, 0]), "consecutive"),
        (labels_of(5), "one identity"),
        (labels_of(1, 1, 1), "one picture only"),
    ],
)
def test_data_without_a_triplet_is_refused(labels: Rows, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        PKSampler(labels, 1, 2, 0)


@pytest.mark.parametrize(
    ("num_identities", "num_pictures", "num_singles", "message"),
    [
        (0, 2, 0, "P, identities in a batch, is 0; it must be 1 to 2"),
        (3, 2, 0, "2 have two pictures or more"),
        (2, 0, 0, "K, pictures of an identity, is 0; it must be 1 to 3"),
        (2, 4, 0, "3 is the most that one has"),
        (2, 2, 2, "1 are there"),
        (2, 2, -1, "it must be 0 to 1"),
        (1, 2, 0, "no negative"),
    ],
)
def test_more_than_the_data_allows_is_refused(
    num_identities: int, num_pictures: int, num_singles: int, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        PKSampler(labels_of(3, 2, 1), num_identities, num_pictures, 0, num_singles=num_singles)


@pytest.mark.parametrize(("rank", "num_ranks"), [(0, 3), (2, 2), (-1, 2), (0, 0)])
def test_ranks_that_do_not_fit_are_refused(rank: int, num_ranks: int) -> None:
    with pytest.raises(SettingsError, match="ranks"):
        PKSampler(labels_of(2, 2), 2, 2, 0, rank, num_ranks)


def test_one_identity_with_others_of_one_picture_is_enough() -> None:
    sampler = PKSampler(labels_of(1, 3, 1), 1, 2, 0, num_singles=1)
    for step in range(6):
        rows = sampler.rows(step)
        assert set(rows[:2]) <= {1, 2, 3}
        assert rows[2] in {0, 4}
    assert {int(sampler.rows(step)[2]) for step in (0, 1)} == {0, 4}
    with pytest.raises(InvalidInputError, match="step is -1"):
        sampler.rows(-1)


COUNTS = st.lists(st.integers(1, 7), min_size=2, max_size=12).filter(lambda counts: max(counts) > 1)


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.data())
def test_the_rule_holds_for_any_data(counts: list[int], data: st.DataObject) -> None:
    labels = labels_of(*counts)
    num_multiple, num_single = sum(n > 1 for n in counts), sum(n == 1 for n in counts)
    num_identities = (
        data.draw(st.integers(1 if num_single else 2, num_multiple))
        if (num_multiple > 1 or num_single)
        else 1
    )
    num_pictures = data.draw(st.integers(1, max(counts)))
    num_singles = data.draw(st.integers(1 if num_identities == 1 else 0, num_single))
    sampler = PKSampler(labels, num_identities, num_pictures, 5, num_singles=num_singles)
    visits: Counter[int] = Counter()
    num_steps_per_epoch = -(-num_multiple // num_identities)
    for step in range(num_steps_per_epoch):
        rows = sampler.rows(step)
        assert len(rows) == sampler.batch_size == num_identities * num_pictures + num_singles
        pictures = rows[: num_identities * num_pictures].reshape(num_identities, num_pictures)
        shown = [set(labels[row]) for row in pictures]
        assert all(len(one) == 1 for one in shown)
        identities = [one.pop() for one in shown]
        assert len(set(identities)) == num_identities
        for identity, row in zip(identities, pictures, strict=True):
            assert counts[identity] > 1
            assert len(set(row)) == min(num_pictures, counts[identity])
        assert all(counts[label] == 1 for label in labels[rows[num_identities * num_pictures :]])
        assert len(set(rows[num_identities * num_pictures :])) == num_singles
        # Everybody once before anybody twice.
        if step < num_steps_per_epoch - 1:
            assert not set(identities) & set(visits)
        visits.update(identities)
    assert len(visits) == num_multiple
    assert max(visits.values()) <= 2


def test_all_pictures_of_an_identity_come_before_any_again() -> None:
    labels = labels_of(7, 2)
    sampler = PKSampler(labels, 2, 3, 1)
    shown: list[int] = []
    for epoch in range(3):
        shown += [int(row) for row in sampler.rows(epoch) if labels[row] == 0]
    # Three visits of three show all seven, two of them again.
    assert set(shown) == set(range(7))
    assert len(set(shown[:6])) == 6


def test_pairs_of_pictures_change_between_epochs() -> None:
    sampler = PKSampler(labels_of(8, 8), 2, 4, 3)
    groups = {frozenset(sampler.rows(epoch)[:4].tolist()) for epoch in range(16)}
    assert len(groups) > 12


def test_steps_are_pure_and_seeds_differ() -> None:
    labels = labels_of(*[3] * 10)
    sampler, again, other = (PKSampler(labels, 4, 3, seed) for seed in (1, 1, 2))
    ahead = [sampler.rows(step) for step in (7, 3, 100)]
    assert all(np.array_equal(again.rows(step), rows) for step, rows in zip((7, 3, 100), ahead, strict=True))
    assert any(not np.array_equal(other.rows(step), sampler.rows(step)) for step in range(3))
    assert not np.array_equal(sampler.rows(0), sampler.rows(3))


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_ranks_laid_end_to_end_are_the_batch_of_one(num_ranks: int) -> None:
    labels = labels_of(2, 3, 4, 5, 6, 1, 1, 1, 1)
    alone = PKSampler(labels, 4, 3, 9, num_singles=4)
    parts = [PKSampler(labels, 4, 3, 9, rank, num_ranks, num_singles=4) for rank in range(num_ranks)]
    for step in range(5):
        assert np.array_equal(np.concatenate([part.rows(step) for part in parts]), alone.rows(step))
    assert [part.first_place for part in parts] == [rank * 16 // num_ranks for rank in range(num_ranks)]
