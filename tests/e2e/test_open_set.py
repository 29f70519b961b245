"""A server that decides by a rate: calibrations read at its start, real people, metrics and Calibrate."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import numpy as np
import pytest

from engine.client import Client
from engine.decision.calibration import Calibration, encode
from engine.embedding.dlib_resnet import packaged_weights
from engine.errors import EngineError, PreconditionError
from engine.types import Decision, EmbeddingContract, GallerySettings, ThresholdOrigin, Vectors
from tests.calibrations import CONTRACT, calibration, calibration_of, people
from tests.e2e.conftest import Launch

pytestmark = pytest.mark.e2e
OPENFACE = EmbeddingContract("openface", "", "", mirror=False, dimension=128, threshold=0.5)
NUM_ENROLLED = 100


def real_people(folder: Path) -> list[Vectors]:
    """Vectors of 410 people of LFW, in random order."""
    # Lines end in a carriage return alone.
    rows = [line.split(",") for line in (folder / "vectors" / "openface_lfw_vectors.csv").read_text().split()]
    vectors = np.array(rows, np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    text = (folder / "vectors" / "openface_lfw_labels.csv").read_text()
    labels = np.array([int(line.split(",")[0]) for line in text.split()])
    order = np.random.default_rng(0).permutation(np.unique(labels))
    return [np.ascontiguousarray(vectors[labels == person], np.float32) for person in order]


def written(path: Path, calibrated: Calibration) -> str:
    path.write_bytes(encode(calibrated))
    return str(path)


@pytest.mark.data
def test_strangers_of_lfw_are_let_in_at_about_the_rate_wished(
    data_folder: Path, tmp_path: Path, launch: Launch
) -> None:
    everybody = real_people(data_folder)
    calibrated = calibration_of(np.stack([one[0] for one in everybody[:205]]), OPENFACE)
    flags = ("--model", "none", "--calibration", written(tmp_path / "openface.json", calibrated))
    server = launch(*flags).ready()
    enrolled, strangers = everybody[205 : 205 + NUM_ENROLLED], everybody[205 + NUM_ENROLLED :]
    with Client(server.address) as client:
        client.create_gallery("staff", OPENFACE, GallerySettings(target_fpir=0.1, review_fpir=0.4))
        with pytest.raises(PreconditionError, match="calibration"):
            client.create_gallery("other", CONTRACT, GallerySettings(target_fpir=0.1))
        for number, one in enumerate(enrolled):
            client.enroll("staff", f"p{number}", [one[0]])
        probes = [vector for one in strangers for vector in one]
        batches = [probes[start : start + 250] for start in range(0, len(probes), 250)]
        outcomes = [outcome for batch in batches for outcome in client.batch_identify("staff", batch)]
        (status,) = client.status().galleries
    answers = [outcome[0] for outcome in outcomes if not isinstance(outcome, EngineError)]
    assert len(answers) == len(probes)
    # Those of one person are not independent: each person counts once.
    sizes = [len(one) for one in strangers]
    ends = np.cumsum(sizes)
    is_match = np.array([answer.decision is Decision.MATCH for answer in answers], float)
    rate = np.mean([is_match[end - size : end].mean() for end, size in zip(ends, sizes, strict=True)])
    assert 0.1 / 2.5 < rate < 0.1 * 2.5
    assert {answer.threshold_origin for answer in answers} == {ThresholdOrigin.CALIBRATION}
    assert {answer.decision for answer in answers} == set(Decision)
    assert status.thresholds is not None
    assert status.thresholds.threshold == pytest.approx(answers[0].threshold)
    server.stop()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_thresholds_are_metrics_and_a_gallery_is_calibrated_on_demand(
    tmp_path: Path, launch: Launch, workers: str
) -> None:
    file = written(tmp_path / "made.json", calibration())
    flags = ("--model", "none", "--workers", workers, "--metrics-listen", "127.0.0.1:0")
    # The settings file serves as well as the flag.
    server = launch(*flags, settings=f'calibrations = ["{file}"]')
    listen = server.wait_for("metrics")["listen"]
    server.ready()
    with Client(server.address) as client:
        client.create_gallery("staff", CONTRACT, GallerySettings(target_fpir=0.1, has_probe_statistics=True))
        for number, vector in enumerate(people(250, 2)):
            client.enroll("staff", f"p{number}", [vector])
        list(client.build_index("staff"))
        answer = client.identify("staff", people(1, 3)[0])[0]
        found = client.calibrate_gallery("staff")
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith('identiface_gallery_threshold{gallery="staff"')]
    assert float(line.split()[-1]) == pytest.approx(answer.threshold) == pytest.approx(found.threshold)
    assert found.by_own_people is not None
    assert any(line.startswith("identiface_gallery_own_people_disagree{") for line in lines)
    assert any(line.startswith("identiface_probe_decisions_total{") for line in lines)
    server.stop()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_calibration_of_another_network_beside_the_weights_is_told(
    tmp_path: Path, launch: Launch, workers: str
) -> None:
    weights = tmp_path / "net.dat"
    weights.symlink_to(packaged_weights())
    stale = written(tmp_path / "net.calibration.json", calibration())
    server = launch("--model", str(weights), "--device", "cpu", "--workers", workers)
    told = server.wait_for("the calibration beside the weights is of another contract and passed over")
    assert (told["level"], told["file"], told["contract"]) == ("warning", stale, CONTRACT.name)
    server.ready().stop()


def test_a_broken_calibration_refuses_to_start_by_its_name(tmp_path: Path, launch: Launch) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"format": 1}')
    for path in (broken, tmp_path / "missing.json"):
        server = launch("--model", "none", "--calibration", str(path))
        assert server.join() != 0
        assert path.name in server.output
        assert "Traceback" not in server.output
