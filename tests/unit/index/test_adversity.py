"""Galleries made to break an index: duplicates, near-ties, empty axes, odd dimensions, nobody left."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.index.build import build
from engine.index.generation import Generation
from engine.index.search import Snapshot
from engine.types import Columns, Vectors
from tests.contract.naive import unit_vectors

NUM_ROWS = 1_001
"""The fewest that are coded."""
NUM_ADDED = 2_100
"""More than a delta holds without codes."""
TEMPLATES_EACH = 16


def unit(wide: NDArray[np.float64]) -> Vectors:
    return np.ascontiguousarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


def hostile(rng: np.random.Generator, kind: str, num: int, dimension: int) -> Vectors:
    """Rows of one kind."""
    one = unit_vectors(np.random.default_rng(8), 5, dimension)
    if kind == "equal":
        return np.repeat(one[:1], num, axis=0)
    if kind == "five":
        return one[rng.integers(0, 5, num)]
    if kind == "near ties":
        return unit(one[:1] + 1e-6 * rng.standard_normal((num, dimension)))
    if kind == "empty axes":
        wide = rng.standard_normal((num, dimension))
        wide[:, dimension // 4 :] = 0.0
        return unit(wide)
    if kind == "axes":
        return unit(np.eye(dimension)[rng.integers(0, dimension, num)] * rng.choice([-1.0, 1.0], (num, 1)))
    wide = unit_vectors(rng, num, dimension) * (1.0 + 9e-4 * rng.uniform(-1.0, 1.0, (num, 1)))
    return np.ascontiguousarray(wide, np.float32)


def columns(vectors: Vectors, first: int = 0) -> Columns:
    ids = np.arange(first, first + len(vectors), dtype=np.uint64)
    return Columns(ids, ids // TEMPLATES_EACH, vectors)


def make(folder: Path, vectors: Vectors) -> Generation:
    return build(folder, columns(vectors), number=1, sequence=1, contract_digest="digest", flat_rows_max=0)


def check_search(snapshot: Snapshot, probes: Vectors, exact: NDArray[np.float64]) -> None:
    """What is found lives, and is as alike as is said; `exact` float64[n, rows] is -9 for the dead."""
    for num_rows in (1, 300, snapshot.num_rows):
        count = min(num_rows, snapshot.num_alive)
        for found in (snapshot.search(probes, num_rows), snapshot.search(probes[:1], num_rows)):
            for row, similarities in enumerate(found.similarities):
                ids = found.template_ids[row, :count].astype(np.int64)
                assert np.isfinite(similarities[:count]).all()
                assert (similarities[count:] == -np.inf).all()
                assert len(set(ids.tolist())) == count
                np.testing.assert_allclose(similarities[:count], exact[row, ids], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dimension", [67, 129, 1024])
@pytest.mark.parametrize("kind", ["equal", "five", "near ties", "empty axes", "axes", "long"])
@pytest.mark.parametrize("dead_share", [0.5, 1.0])
def test_whatever_the_rows_all_at_a_floor_and_only_the_living_are_found(
    tmp_path: Path, kind: str, dimension: int, dead_share: float
) -> None:
    rng = np.random.default_rng(dimension)
    vectors = hostile(rng, kind, NUM_ROWS + NUM_ADDED, dimension)
    snapshot = Snapshot.base(make(tmp_path, vectors[:NUM_ROWS]), 1, dimension)
    snapshot = snapshot.advanced(2, columns(vectors[NUM_ROWS:], NUM_ROWS), ())
    is_dead = rng.random(len(vectors)) < dead_share
    snapshot = snapshot.advanced(3, columns(vectors[:0]), np.flatnonzero(is_dead).tolist())
    assert snapshot.num_alive == (~is_dead).sum()
    probes = unit(np.concatenate([vectors[-2:], unit_vectors(rng, 1, dimension)]).astype(np.float64))
    exact = probes.astype(np.float64) @ vectors.astype(np.float64).T
    exact[:, is_dead] = -9.0
    check_search(snapshot, probes, exact)
    for probe, similarities in zip(probes, exact, strict=True):
        descending = np.sort(similarities)[::-1]
        for floor in (-np.inf, *descending[[0, 9, 300]], 1.1):
            found = snapshot.at_least(probe, float(floor)).template_ids[0].tolist()
            assert set(np.flatnonzero(~is_dead & (similarities >= floor))) <= set(found)
            assert not is_dead[np.array(found, np.int64)].any()
            assert len(set(found)) == len(found)


def test_a_coded_generation_on_a_device_is_searched_there(tmp_path: Path) -> None:
    """Of rows nearer to each other than the codes can tell, only an exact search finds the nearest."""
    rng = np.random.default_rng(6)
    vectors = hostile(rng, "near ties", 3_000, 64)
    vectors = unit(vectors + 1e-2 * rng.standard_normal(vectors.shape))
    generation = make(tmp_path, vectors)
    probes = unit_vectors(rng, 40, 64)
    exact = probes.astype(np.float64) @ vectors.astype(np.float64).T
    snapshot = Snapshot.base(generation, 1, 64)
    ones = [snapshot.search(probe[None], 640).template_ids[0] for probe in probes]
    best = np.argsort(-exact, axis=1)[:, :640]
    assert any(set(ids) != set(rows) for ids, rows in zip(ones, best, strict=True))
    generation.use_device("torch-cpu")
    assert snapshot.is_exact
    for row, probe in enumerate(probes):
        found = snapshot.search(probe[None], 640)
        np.testing.assert_allclose(found.similarities[0], exact[row, best[row]], atol=1e-6, rtol=0)


def test_an_array_of_the_vectors_outlives_its_generation(tmp_path: Path) -> None:
    vectors = unit_vectors(np.random.default_rng(7), 2_000, 64)
    generation = make(tmp_path, vectors)
    mapped = generation.vectors
    assert not mapped.flags.writeable
    del generation
    gc.collect()
    np.testing.assert_array_equal(mapped, vectors)
