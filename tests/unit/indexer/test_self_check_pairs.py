"""All against all in blocks, against a naive comparison."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.types import Vectors
from indexer.self_check import pairs
from indexer.self_check.pairs import nearest_others, num_pairs
from tests.contract.naive import unit_vectors


def naive(vectors: Vectors, numbers: NDArray[np.int64], row: int) -> dict[int, float]:
    """The best similarity of a row to each other identity."""
    best: dict[int, float] = {}
    for other, number in enumerate(numbers.tolist()):
        if number != numbers[row]:
            best[number] = max(best.get(number, -2.0), float(vectors[other] @ vectors[row]))
    return best


@pytest.mark.parametrize("is_sample", [False, True])
@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([1, 1], 3),
        ([1] * 70, 10),
        ([40, 2, 1], 10),
        ([16] * 20, 10),
        ([1, 2, 3, 4, 5, 6] * 9, 10),
        ([33, 31] * 3, 1),
    ],
)
def test_the_nearest_others_are_those_of_a_naive_comparison(
    sizes: list[int], wanted: int, is_sample: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "BLOCK_ROWS", 32)
    monkeypatch.setattr(pairs, "STRIPE_BLOCKS", 2)
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    vectors = unit_vectors(np.random.default_rng(5), len(numbers), 6)
    rows = np.flatnonzero(numbers % 3 == 1) if is_sample else np.arange(len(numbers))
    told: list[tuple[int, int]] = []
    found = nearest_others(
        vectors, numbers, wanted, rows if is_sample else None, lambda done, total: told.append((done, total))
    )
    assert found.identities.shape == found.similarities.shape == (len(rows), wanted)
    for place, row in enumerate(rows.tolist()):
        best = naive(vectors, numbers, row)
        expected = sorted(best.values(), reverse=True)[:wanted]
        num = len(expected)
        assert np.allclose(found.similarities[place, :num], expected, rtol=0, atol=1e-6)
        assert (found.identities[place, num:] == -1).all()
        assert np.isneginf(found.similarities[place, num:]).all()
        names = found.identities[place, :num].tolist()
        assert len(set(names)) == num
        assert np.allclose([best[name] for name in names], expected, rtol=0, atol=1e-6)
    assert told[-1] == (num_pairs(len(vectors), len(rows) if is_sample else None),) * 2
    assert told == sorted(told)


def test_as_many_copies_as_are_wanted_and_more_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK_ROWS", 16)
    vectors = np.tile(unit_vectors(np.random.default_rng(1), 1, 8), (100, 1))
    found = nearest_others(vectors, np.arange(100), 10)
    assert np.allclose(found.similarities, 1.0, atol=1e-6)
    assert all(len(set(names)) == 10 for names in found.identities.tolist())
    assert not (found.identities == np.arange(100)[:, None]).any()


def test_the_same_is_found_by_one_thread_and_by_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK_ROWS", 64)
    vectors = unit_vectors(np.random.default_rng(2), 500, 8)
    numbers = np.arange(500) // 2
    results = []
    for num_threads in (1, 4):
        monkeypatch.setattr(pairs, "num_threads", lambda num=num_threads: num)
        results.append(nearest_others(vectors, numbers, 10))
    assert np.array_equal(results[0].similarities, results[1].similarities)
    assert np.array_equal(results[0].identities, results[1].identities)


def test_progress_may_end_the_work() -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nearest_others(unit_vectors(np.random.default_rng(3), 10, 4), np.arange(10), 3, progress=stop)
