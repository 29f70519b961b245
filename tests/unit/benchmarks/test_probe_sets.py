"""What the galleries of the benchmarks are like: the statistics that they claim, and who asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.galleries import Distribution
from benchmarks.probe_sets import DRAWN_BLOCK, KINDS, draw_vectors, drawn_set, load_set
from benchmarks.real_faces import PROBES_PER_PERSON_MAX, RealFaces, divide
from engine.types import Vectors

SIZE = 12_000
NUM_PROBES = 1500


def participation_ratio(vectors: Vectors) -> float:
    values = np.linalg.eigvalsh(np.cov(vectors.astype(np.float64), rowvar=False))
    return float(values.sum() ** 2 / (values**2).sum())


def strangers_cosines(vectors: Vectors) -> Vectors:
    return np.asarray(vectors[:1500] @ vectors[1500:5000].T)


def test_faces_look_like_templates_of_a_well_spread_network() -> None:
    vectors, mated, rows, nonmated, _ = drawn_set("faces", SIZE, NUM_PROBES, None)
    strangers = strangers_cosines(vectors)
    assert strangers.mean() == pytest.approx(0.003, abs=0.003)
    assert strangers.std() == pytest.approx(0.111, abs=0.003)
    assert participation_ratio(vectors) == pytest.approx(80, abs=4)
    cosines = (mated * vectors[rows]).sum(axis=1)
    assert cosines.mean() == pytest.approx(0.71, abs=0.02)
    assert cosines.std() == pytest.approx(0.082, abs=0.01)
    assert (nonmated @ vectors[:5000].T).std() == pytest.approx(0.111, abs=0.003)


def test_isotropic_vectors_lie_everywhere_alike() -> None:
    vectors, mated, rows, _, _ = drawn_set("isotropic", SIZE, NUM_PROBES, None)
    strangers = strangers_cosines(vectors)
    assert strangers.mean() == pytest.approx(0.0, abs=0.001)
    assert strangers.std() == pytest.approx(1 / np.sqrt(128), abs=0.002)
    assert participation_ratio(vectors) > 120
    assert (mated * vectors[rows]).sum(axis=1).mean() == pytest.approx(0.71, abs=0.02)


def test_vectors_of_the_contract_lie_in_its_cone() -> None:
    vectors, mated, rows, nonmated, num_real = drawn_set("contract", SIZE, NUM_PROBES, None)
    expected = Distribution.load("dlib-resnet").draw(SIZE, 5)
    assert strangers_cosines(vectors).mean() == pytest.approx(strangers_cosines(expected).mean(), abs=0.005)
    assert participation_ratio(vectors) == pytest.approx(participation_ratio(expected), rel=0.03)
    assert (mated * vectors[rows]).sum(axis=1).mean() == pytest.approx(0.953, abs=0.005)
    assert num_real == 0
    assert len(nonmated) == NUM_PROBES


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_of_unit_length_and_a_smaller_gallery_begins_a_larger_one(kind: str) -> None:
    vectors = draw_vectors(kind, 300)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(draw_vectors(kind, 100), vectors[:100])
    assert DRAWN_BLOCK % 256 == 0


def test_real_people_are_enrolled_and_their_other_pictures_ask() -> None:
    people = draw_vectors("contract", 40)
    real = RealFaces(people[:10], people[10:30], np.repeat(np.arange(10), 2), people[30:])
    vectors, mated, rows, nonmated, num_real = drawn_set("contract", 5000, 16, real)
    assert num_real == len(mated) == len(rows) == 16
    # Every probe is one of the real ones, and its row holds the real person whom it shows.
    for probe, row in zip(mated, rows.tolist(), strict=True):
        asked = np.flatnonzero((real.probes == probe).all(axis=1))
        np.testing.assert_array_equal(vectors[row], real.enrolled[real.probe_people[asked[0]]])
    are_real = (nonmated[:, None] == real.strangers[None]).all(axis=2).any(axis=1)
    assert are_real.sum() == 8


def test_who_has_two_names_neither_asks_nor_is_a_stranger() -> None:
    names = ["A", "A", "B", "C", "C", "D", *["E"] * 9]
    vectors = np.eye(len(names), dtype=np.float32)
    real = divide(vectors, names, strangers={"C", "D"}, known_twice={"D", "B"})
    np.testing.assert_array_equal(real.enrolled, vectors[[0, 6]])
    np.testing.assert_array_equal(real.probes, vectors[[1, 7, 8, 9, 10]])
    np.testing.assert_array_equal(real.probe_people, [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(real.strangers, vectors[[3, 4]])
    assert PROBES_PER_PERSON_MAX == 4


def test_a_set_is_made_once_and_its_answers_are_exact(tmp_path: Path) -> None:
    made = load_set(tmp_path, "faces", 2000, num_probes=20)
    kept = load_set(tmp_path, "faces", 2000, num_probes=20)
    np.testing.assert_array_equal(made.truth_nonmated, kept.truth_nonmated)
    naive = np.argsort(-(made.mated.astype(np.float64) @ made.vectors.astype(np.float64).T), axis=1)
    np.testing.assert_array_equal(made.truth_mated, naive[:, :10])
    assert made.rank_1 == (naive[:, 0] == made.mated_rows).mean()
