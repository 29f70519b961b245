"""Pairs are embedded once, in order, and judged as a naive count judges them."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.assembly import EmbeddingSettings, build_pipeline
from engine.errors import DeviceError, EngineError, InvalidInputError, UndecodablePictureError
from engine.metrics import NO_TEMPLATE
from engine.trainer.bootstrap import BootstrapSettings
from engine.trainer.evaluate import (
    BATCH_PICTURES,
    FARS,
    PairsReport,
    PictureTemplates,
    embed_pictures,
    judge_pairs,
    pair_similarities,
)
from engine.trainer.evaluation import Extras, evaluate_pairs
from engine.trainer.pairs import PairSet, read_pairs
from engine.types import Box, EmbeddedFace, EmbeddingContract, Face, FaceChoice

DIMENSION = 8
NUM_FOLDS = 3
NUM_EACH = 10
FIXED_KEYS = [
    "pairs",
    "folds",
    "accuracy_mean",
    "accuracy_std",
    "auc",
    "eer",
    "tar_at_far",
    "not_detected",
]


class Written:
    contract = EmbeddingContract("written", "", "", mirror=True, dimension=DIMENSION)
    device = "cpu"


class WrittenVectors:
    """A pipeline whose pictures are files with the vector written in them."""

    def __init__(self) -> None:
        self.embedder = Written()
        self.asked: Counter[bytes] = Counter()
        self.settings: set[tuple[FaceChoice, int | None]] = set()
        self.batch_sizes: list[int] = []
        self._lock = threading.Lock()

    def embed(
        self, pictures: Sequence[bytes], choice: FaceChoice, min_face_px: int | None
    ) -> list[list[EmbeddedFace] | EngineError]:
        with self._lock:
            self.asked.update(pictures)
            self.settings.add((choice, min_face_px))
            self.batch_sizes.append(len(pictures))
        return [self._faces(picture) for picture in pictures]

    def _faces(self, picture: bytes) -> list[EmbeddedFace] | EngineError:
        if picture == b"damaged":
            return UndecodablePictureError("damaged")
        if picture == b"no device":
            return DeviceError("the device is gone")
        if picture == b"nobody":
            return []
        vector = np.frombuffer(picture, dtype=np.float32)
        face = Face(Box(0, 0, 1, 1), 1.0, np.zeros((5, 2), dtype=np.float32))
        return [EmbeddedFace(face, vector / np.linalg.norm(vector))]


@pytest.fixture
def lfw(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    """Root and pairs.txt of a small set in LFW's form: people as noisy directions."""
    root = tmp_path / "pictures"
    lines = [f"{NUM_FOLDS}\t{NUM_EACH}"]
    for fold in range(NUM_FOLDS):
        names = [f"Person_{fold}_{i}" for i in range(NUM_EACH)]
        for name in names:
            (root / name).mkdir(parents=True)
            centre = rng.normal(size=DIMENSION)
            for number in (1, 2):
                vector = (centre + 0.7 * rng.normal(size=DIMENSION)).astype(np.float32)
                (root / name / f"{name}_{number:04d}.jpg").write_bytes(vector.tobytes())
        lines += [f"{name}\t1\t2" for name in names]
        lines += [f"{name}\t1\t{names[i - 1]}\t2" for i, name in enumerate(names)]
    pairs_path = tmp_path / "pairs.txt"
    pairs_path.write_text("\n".join(lines))
    return root, pairs_path


def evaluated(root: Path, pairs_path: Path, **options: Any) -> PairsReport:
    extras = Extras(bootstrap=BootstrapSettings(num_resamples=10))
    pairs = read_pairs(pairs_path, root)
    report = evaluate_pairs(WrittenVectors(), pairs, extras=extras, **options).folds
    assert report is not None
    return report


def naive_similarities(pairs: PairSet) -> list[float]:
    cosines = []
    for pair in pairs.pairs:
        a, b = (np.frombuffer(p.read_bytes(), dtype=np.float32) for p in (pair.first, pair.second))
        cosines.append(float(a.astype(np.float64) @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return cosines


def test_each_picture_is_embedded_once_in_batches_and_in_order(lfw: tuple[Path, Path]) -> None:
    pipeline = WrittenVectors()
    pairs = read_pairs(lfw[1], lfw[0])

    templates = embed_pictures(pipeline, pairs.pictures, min_face_px=33)

    assert set(pipeline.asked.values()) == {1}
    assert sum(pipeline.batch_sizes) == len(pairs.pictures) == NUM_FOLDS * NUM_EACH * 2
    assert max(pipeline.batch_sizes) == BATCH_PICTURES
    assert pipeline.settings == {(FaceChoice.CENTRE, 33)}
    assert pair_similarities(pairs, templates) == pytest.approx(naive_similarities(pairs), abs=1e-6)


def test_no_pictures_are_no_templates() -> None:
    templates = embed_pictures(WrittenVectors(), [])
    assert templates.vectors.shape == (0, DIMENSION)
    assert templates.num_not_detected == 0


def test_the_report_has_the_agreed_keys_first_and_is_json(lfw: tuple[Path, Path]) -> None:
    report = evaluated(*lfw, min_face_px=70)

    values = json.loads(json.dumps(report.as_json()))

    assert list(values)[: len(FIXED_KEYS)] == FIXED_KEYS
    assert list(values["tar_at_far"]) == ["1e-1", "1e-2", "1e-3"] == list(FARS)
    assert (values["pairs"], values["folds"]) == (NUM_FOLDS * NUM_EACH * 2, NUM_FOLDS)
    assert values["not_detected"] == 0
    assert (values["contract"], values["mirror"], values["min_face_px"]) == ("written", True, 70)
    assert (values["face_choice"], values["device"]) == ("centre", "cpu")
    assert values["versions"]["numpy"] == np.__version__


def test_the_rates_are_those_of_the_pairs(lfw: tuple[Path, Path]) -> None:
    pairs = read_pairs(lfw[1], lfw[0])
    similarities = np.array(naive_similarities(pairs))
    report = evaluated(*lfw)

    mated, non_mated = similarities[pairs.is_same], similarities[~pairs.is_same]
    wins = np.mean([float(m > n) for m in mated for n in non_mated])
    assert report.auc == pytest.approx(wins)
    strict = sorted(non_mated, reverse=True)[3]
    assert report.tar_at_far["1e-1"] == pytest.approx(np.mean(mated > strict))
    assert 0.5 < report.accuracy_mean < 1


def test_a_picture_without_face_makes_all_its_pairs_wrong(lfw: tuple[Path, Path]) -> None:
    root, pairs_path = lfw
    whole = evaluated(root, pairs_path)
    (root / "Person_0_0" / "Person_0_0_0001.jpg").write_bytes(b"nobody")
    (root / "Person_1_0" / "Person_1_0_0002.jpg").write_bytes(b"damaged")
    pairs = read_pairs(pairs_path, root)
    templates = embed_pictures(WrittenVectors(), pairs.pictures)
    similarities = pair_similarities(pairs, templates)
    report = evaluated(root, pairs_path)

    assert templates.num_not_detected == report.not_detected == 2
    # Each of the two pictures is in a same pair and in a different pair of its fold.
    wrong = np.flatnonzero(similarities == NO_TEMPLATE)
    assert pairs.is_same[wrong].tolist() == [True, False, True, False]
    assert pairs.fold_of_pair[wrong].tolist() == [0, 0, 1, 1]
    assert report.accuracy_mean <= whole.accuracy_mean
    assert report.tar_at_far["1e-1"] <= whole.tar_at_far["1e-1"]


def test_the_mean_over_people_weighs_each_person_once(tmp_path: Path) -> None:
    """One person with many wrong pairs counts as much as one with a single right pair."""
    root = tmp_path
    for name, count in {"Many": 4, "Few": 2, "Else": 4}.items():
        (root / name).mkdir()
        for number in range(1, count + 1):
            (root / name / f"{name}_{number:04d}.jpg").touch()
    path = tmp_path / "pairs.txt"
    lines = ["2\t2", "Many\t1\t2", "Many\t3\t4", "Many\t1\tElse\t1", "Many\t2\tElse\t2"]
    lines += ["Few\t1\t2", "Many\t1\t3", "Few\t1\tElse\t3", "Few\t2\tElse\t4"]
    path.write_text("\n".join(lines))
    pairs = read_pairs(path, root)
    similarities = np.array([0.1, 0.9, 0.2, 0.2, 0.9, 0.9, 0.2, 0.2])

    report = judge_pairs(pairs, similarities, 0)

    assert report.accuracy_mean == pytest.approx((3 / 4 + 1) / 2)
    assert report.per_person_accuracy == pytest.approx((4 / 5 + 3 / 3 + 4 / 4) / 3)


def test_an_error_that_is_not_the_pictures_own_is_raised(lfw: tuple[Path, Path]) -> None:
    (lfw[0] / "Person_0_0" / "Person_0_0_0001.jpg").write_bytes(b"no device")
    with pytest.raises(DeviceError, match="gone"):
        evaluated(*lfw)


def test_one_face_of_each_picture_is_compared_never_all(lfw: tuple[Path, Path]) -> None:
    with pytest.raises(InvalidInputError, match="not all"):
        evaluated(*lfw, choice=FaceChoice.ALL)


def test_a_picture_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot read picture .*gone\.jpg"):
        embed_pictures(WrittenVectors(), [tmp_path / "gone.jpg"])


def test_where_no_picture_shows_a_face_nothing_can_be_judged(lfw: tuple[Path, Path]) -> None:
    pairs = read_pairs(lfw[1], lfw[0])
    num = len(pairs.pictures)
    none = PictureTemplates(np.zeros((num, DIMENSION), dtype=np.float32), np.zeros(num, dtype=np.bool_))
    with pytest.raises(InvalidInputError, match="no pair has a similarity"):
        judge_pairs(pairs, pair_similarities(pairs, none), num)


def test_a_line_off_a_terminal_and_a_bar_where_asked(
    lfw: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(*lfw)
    assert capsys.readouterr().err.startswith("embedded 60 pictures in ")
    evaluated(*lfw, progress=True)
    bar = capsys.readouterr().err
    assert "60/60" in bar
    assert "embedding: 100%" in bar


@pytest.mark.model
@pytest.mark.data
def test_the_real_pipeline_tells_lfw_people_apart(data_folder: Path, tmp_path: Path) -> None:
    """The first pairs of two folds of LFW: every face found, at most one of 40 answers wrong."""
    lines = (data_folder / "lfw" / "pairs.txt").read_text().splitlines()
    pairs_path = tmp_path / "pairs.txt"
    chosen = [line for start in (1, 301, 601, 901) for line in lines[start : start + 10]]
    pairs_path.write_text("\n".join(["2\t10", *chosen]))

    with build_pipeline(EmbeddingSettings(device="cpu", num_threads=1)) as pipeline:
        report = evaluate_pairs(pipeline, read_pairs(pairs_path, data_folder / "lfw" / "images")).folds

    assert report is not None
    assert report.not_detected == 0
    assert report.accuracy_mean >= 39 / 40
    assert report.as_json()["contract"] == "dlib-resnet"
