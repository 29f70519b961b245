"""The oracle of the benchmarks against a naive scan, and the shares that it gives."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import truth
from benchmarks.truth import exact_top, recall, top1_agreement


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "BLOCK_ROWS", 37)
    monkeypatch.setattr(truth, "BLOCK_PROBES", 7)
    rng = np.random.default_rng(1)
    vectors, probes = rng.standard_normal((500, 16)), rng.standard_normal((20, 16))
    naive = np.argsort(-(probes @ vectors.T), axis=1)[:, :10]
    found = exact_top(vectors.astype(np.float32), probes.astype(np.float32), 10)
    np.testing.assert_array_equal(found, naive)


def test_fewer_vectors_than_asked_for() -> None:
    vectors = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(exact_top(vectors, vectors[:1], 10)[:, 0], [0])
    assert exact_top(vectors, vectors, 10).shape == (3, 3)
    assert exact_top(vectors, vectors[:0], 10).shape == (0, 3)


def test_rows_that_float32_confuses_are_decided_in_float64() -> None:
    probe = np.array([[1.0, 1e-4]], np.float32)
    # In float32 the products of both rows with the probe are the same.
    vectors = np.array([[1.0, 0.0], [1.0, 1e-5]], np.float32)
    assert exact_top(vectors, probe, 1)[0, 0] == 1


def test_agreement_and_recall() -> None:
    exact = np.array([[1, 2, 3], [4, 5, 6]])
    found = np.array([[1, 3, 9], [5, 4, 6]])
    assert top1_agreement(found, exact) == 0.5
    assert recall(found, exact) == 5 / 6
