"""Drift of real people's probes: none with their own calibration, an alarm with another or worse pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.decision.estimator import EstimatorSettings, estimate
from engine.decision.rates import RateTable
from engine.probe_statistics import ProbeCounter
from engine.types import Candidate, Decision, Identification, ThresholdOrigin

NUM_ENROLLED = 60


class Faces:
    """Real vectors of people: half to calibrate on, of the others some enrolled and some strangers."""

    def __init__(self, folder: Path):
        # Lines end in CR.
        text = (folder / "openface_lfw_vectors.csv").read_text()
        vectors = np.array([line.split(",") for line in text.split()], np.float64)
        self.vectors = _unit(vectors)
        labels = (folder / "openface_lfw_labels.csv").read_text().split()
        people = np.array([line.split(",")[0] for line in labels])
        rows: dict[str, list[int]] = {}
        for row, person in enumerate(people.tolist()):
            rows.setdefault(person, []).append(row)
        drawn = np.random.default_rng(0).permutation(np.array(sorted(rows)))
        self.calibrated = [rows[person][0] for person in drawn[: len(drawn) // 2]]
        self.others = [rows[person] for person in drawn[len(drawn) // 2 :]]

    def table(self, vectors: NDArray[np.float64]) -> RateTable:
        similarities = vectors[self.calibrated] @ vectors[self.calibrated].T
        return estimate(similarities, EstimatorSettings(num_resamples=20)).table

    def ask(
        self, table: RateTable, vectors: NDArray[np.float64], *, noise: float = 0.0, num_galleries: int = 12
    ) -> ProbeCounter:
        """Random galleries of 60 people; few of the probes are of them."""
        counter = ProbeCounter("staff")
        row = table.at(NUM_ENROLLED)
        for seed in range(num_galleries):
            rng = np.random.default_rng(seed)
            people = [self.others[number] for number in rng.permutation(len(self.others))]
            gallery = vectors[[rows[0] for rows in people[:NUM_ENROLLED]]]
            mated = [number for rows in people[:NUM_ENROLLED] for number in rows[1:]]
            non_mated = [number for rows in people[NUM_ENROLLED:] for number in rows]
            probes = vectors[rng.permutation(mated + non_mated)]
            probes = _unit(probes + noise * rng.standard_normal(probes.shape) / np.sqrt(probes.shape[1]))
            for top in (probes @ gallery.T).max(axis=1).tolist():
                counter.count(_answer(top, row.fpir(top)))
        return counter


def _answer(top: float, rate: float) -> Identification:
    return Identification(
        Decision.NO_MATCH,
        (Candidate("somebody", top, 1),),
        0.9,
        ThresholdOrigin.CALIBRATION,
        7,
        NUM_ENROLLED,
        True,
        NUM_ENROLLED,
        rate,
    )


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def faces(data_folder: Path) -> Faces:
    return Faces(data_folder / "vectors")


@pytest.mark.data
def test_real_strangers_drift_only_where_the_calibration_is_not_theirs(faces: Faces) -> None:
    table = faces.table(faces.vectors)
    right = faces.ask(table, faces.vectors).report()
    assert right.num_probes > 4_000
    assert right.drift is not None
    assert abs(right.drift) < 0.15
    assert not right.is_alarming
    # Worse pictures: templates with noise.
    worse = faces.ask(table, faces.vectors, noise=0.8).report()
    assert worse.drift is not None
    assert worse.drift < -0.2
    assert worse.is_alarming
    # Another network, whose strangers are less alike: the same with the mean taken off.
    centred = _unit(faces.vectors - faces.vectors.mean(axis=0))
    other = faces.ask(table, centred).report()
    assert other.drift is not None
    assert other.drift < -0.2
    assert other.is_alarming
    assert not faces.ask(faces.table(centred), centred).report().is_alarming


@pytest.mark.data
def test_real_strangers_who_are_more_alike_raise_the_alarm(faces: Faces) -> None:
    # The same is added to all: faces are more alike to each other, as by a camera with a cast.
    same = _unit(np.random.default_rng(0).standard_normal((1, faces.vectors.shape[1])))
    cast = _unit(faces.vectors + 0.5 * same)
    report = faces.ask(faces.table(faces.vectors), cast).report()
    assert report.drift is not None
    assert report.drift > 0.2
    assert report.is_alarming


@pytest.mark.data
def test_tops_that_all_look_enrolled_tell_nothing(faces: Faces) -> None:
    # Far too alike, but this cannot be told from a gallery whose people alone ask.
    mean = faces.vectors.mean(axis=0)
    report = faces.ask(faces.table(faces.vectors), _unit(faces.vectors + 3.0 * mean)).report()
    assert report.num_probes > 4_000
    assert report.drift is None
    assert not report.is_alarming
