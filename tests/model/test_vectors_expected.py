"""Reproduces published error rates of 1000 real OpenFace vectors from the metrics alone."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import metrics
from engine.trainer.open_set import judge_open_set
from engine.trainer.roles import open_roles
from engine.trainer.vectors_file import read_vectors
from engine.trainer.verification import compare_all, judge_verification

pytestmark = pytest.mark.data


@dataclass(frozen=True)
class Faces:
    vectors: NDArray[np.float64]
    """float64[1000, 128], unit length."""
    people: NDArray[np.int64]
    expected: dict[str, Any]

    @property
    def cosine(self) -> NDArray[np.float64]:
        return self.vectors @ self.vectors.T


@pytest.fixture(scope="module")
def faces(data_folder: Path) -> Faces:
    folder = data_folder / "vectors"
    # Lines end in a carriage return alone; universal newlines of text mode read them as lines.
    with (folder / "openface_lfw_vectors.csv").open(newline=None) as file:
        raw = np.array([[float(cell) for cell in row] for row in csv.reader(file)])
    with (folder / "openface_lfw_labels.csv").open(newline=None) as file:
        people = np.array([int(row[0]) for row in csv.reader(file)])
    expected = json.loads((folder / "expected.json").read_text())
    return Faces(raw / np.linalg.norm(raw, axis=1, keepdims=True), people, expected)


def pairs_of(faces: Faces) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.triu_indices(len(faces.people), k=1)
    is_same = faces.people[first] == faces.people[second]
    cosine = faces.cosine[first, second]
    return cosine[is_same], cosine[~is_same]


def first_rows(faces: Faces, enrolled: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([np.flatnonzero(faces.people == person)[0] for person in enrolled])


def test_the_files_hold_a_thousand_vectors_of_410_people(faces: Faces) -> None:
    assert faces.vectors.shape == (1000, 128)
    assert len(np.unique(faces.people)) == 410


def test_verification_gives_the_expected_pairs_distances_and_rates(faces: Faces) -> None:
    expected = faces.expected["verification"]
    mated, non_mated = pairs_of(faces)

    assert mated.size == expected["positive_pairs"]
    assert non_mated.size == expected["negative_pairs"]
    assert float(np.mean(2 - 2 * mated)) == pytest.approx(
        expected["mean_squared_distance_positive"], abs=5e-4
    )
    assert float(np.mean(2 - 2 * non_mated)) == pytest.approx(
        expected["mean_squared_distance_negative"], abs=5e-4
    )
    rates = {name: float(name) for name in expected["tar_at_far"]}
    points = metrics.tar_at_far(mated, non_mated, list(rates.values()))
    found = {name: round(point.tar, 3) for name, point in zip(rates, points, strict=True)}
    assert found == expected["tar_at_far"]
    assert all(point.far <= point.far_target for point in points)
    balanced = metrics.best_balanced_accuracy(mated, non_mated).accuracy
    assert balanced == pytest.approx(expected["best_balanced_accuracy"], abs=5e-4)


def test_identification_with_everybody_enrolled_gives_the_expected_rank_1(faces: Faces) -> None:
    expected = faces.expected["identification_all_enrolled"]
    people = np.unique(faces.people)
    gallery = first_rows(faces, people)
    probes = np.setdiff1d(np.arange(len(faces.people)), gallery)
    columns = np.searchsorted(people, faces.people[probes])

    ranks = metrics.rank_of_mated(faces.cosine[np.ix_(probes, gallery)], columns)

    assert (gallery.size, probes.size) == (expected["gallery"], expected["probes"])
    assert float(metrics.cmc(ranks, 1)[0]) == pytest.approx(expected["rank1"], abs=5e-4)


def test_the_open_set_gives_the_expected_thresholds_and_misses(faces: Faces) -> None:
    expected = faces.expected["open_set_even_ids"]
    enrolled = np.unique(faces.people)[::2]
    gallery = first_rows(faces, enrolled)
    is_enrolled = np.isin(faces.people, enrolled)
    mated = np.setdiff1d(np.flatnonzero(is_enrolled), gallery)
    non_mated = np.flatnonzero(~is_enrolled)
    assert (gallery.size, mated.size, non_mated.size) == (
        expected["gallery"],
        expected["mated"],
        expected["non_mated"],
    )

    to_gallery = faces.cosine[np.ix_(mated, gallery)]
    columns = np.searchsorted(enrolled, faces.people[mated])
    ranks = metrics.rank_of_mated(to_gallery, columns)
    own = to_gallery[np.arange(mated.size), columns]
    tops = faces.cosine[np.ix_(non_mated, gallery)].max(axis=1)

    assert round(1 - float(metrics.cmc(ranks, 1)[0]), 5) == expected["rank1_miss"]
    targets = [float(name) for name in expected["at_fpir"]]
    points = metrics.fnir_at_fpir(own, ranks, tops, targets)
    for point, wanted in zip(points, expected["at_fpir"].values(), strict=True):
        assert point.threshold == pytest.approx(wanted["T"], abs=1e-6)
        assert round(point.fnir, 5) == wanted["FNIR"]
        assert point.fpir <= point.fpir_target
        assert metrics.fpir(tops, point.threshold) == point.fpir
        assert metrics.fnir(own, ranks, point.threshold) == point.fnir


def test_the_files_judged_as_a_whole_give_all_expected_values(data_folder: Path, faces: Faces) -> None:
    """From the files, their carriage returns and all, to the rates: what `evaluate` does."""
    folder = data_folder / "vectors"
    read = read_vectors(folder / "openface_lfw_vectors.csv", folder / "openface_lfw_labels.csv")
    assert read.keys[0].endswith("Aaron_Eckhart_0001.png")
    roles = open_roles(read.labels)
    parts = [
        (read.vectors[rows], read.labels[rows]) for rows in (roles.gallery, roles.mated, roles.strangers)
    ]
    wanted = faces.expected["open_set_even_ids"]

    report = judge_open_set(parts[0], parts[1], parts[2], [float(name) for name in wanted["at_fpir"]])

    assert (report.num_enrolled, report.num_mated, report.num_strangers) == (205, 225, 570)
    assert round(1 - report.rank1, 5) == wanted["rank1_miss"]
    for name, point in wanted["at_fpir"].items():
        assert report.point(float(name)).threshold == pytest.approx(point["T"], abs=1e-6)
        assert round(report.point(float(name)).fnir, 5) == point["FNIR"]

    verification = judge_verification(compare_all(read.vectors, read.labels))
    expected = faces.expected["verification"]
    assert verification.num_mated_pairs == expected["positive_pairs"]
    assert verification.num_non_mated_pairs == expected["negative_pairs"]
    assert verification.mean_squared_distance_mated == pytest.approx(
        expected["mean_squared_distance_positive"], abs=5e-4
    )
    assert verification.mean_squared_distance_non_mated == pytest.approx(
        expected["mean_squared_distance_negative"], abs=5e-4
    )
    assert {name: round(rate, 3) for name, rate in verification.tar_at_far.items()} == expected["tar_at_far"]
    assert round(verification.best_balanced_accuracy, 3) == expected["best_balanced_accuracy"]
