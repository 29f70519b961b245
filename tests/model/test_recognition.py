"""From picture files to distances, against those that dlib's own code gives for the same pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.embedding.align import align
from engine.embedding.detect import Detector
from engine.embedding.embed import Embedder
from engine.embedding.images import decode
from engine.embedding.networks import load_network

pytestmark = [pytest.mark.model, pytest.mark.data]

MIN_FACE_PX = 70
DISTANCE_TOLERANCE = 0.08
"""The note beside the distances: another aligner than dlib's lands within it."""

Distances = dict[tuple[str, str], float]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(load_network("dlib-resnet", "cpu"))


@pytest.fixture(scope="module")
def expected(data_folder: Path) -> Distances:
    text = (data_folder / "photos" / "recognition" / "expected.json").read_text()
    pairs = json.loads(text)["dlib_distance"]
    return {(pair.split("|")[0], pair.split("|")[1]): distance for pair, distance in pairs.items()}


@pytest.fixture(scope="module")
def crops(data_folder: Path, expected: Distances, embedder: Embedder) -> dict[str, NDArray[np.uint8]]:
    """The largest face of each picture, as the note says."""
    detector, found = Detector("cpu"), {}
    for name in sorted({name for pair in expected for name in pair}):
        image = decode((data_folder / "photos" / "recognition" / name).read_bytes())
        faces = detector.detect([image], MIN_FACE_PX)[0]
        face = max(faces, key=lambda face: face.box.area)
        found[name] = align(image, face.keypoints, embedder.alignment)
    return found


def is_same(pair: tuple[str, str]) -> bool:
    first, second = (re.match("[a-z]+", name) for name in pair)
    return first is not None and second is not None and first[0] == second[0]


def test_raw_distances_are_dlibs_within_the_aligners_difference(
    expected: Distances, crops: dict[str, NDArray[np.uint8]]
) -> None:
    network = load_network("dlib-resnet", "cpu")
    raw = dict(zip(crops, network(np.stack(list(crops.values()))), strict=True))
    for (a, b), distance in expected.items():
        assert np.linalg.norm(raw[a] - raw[b]) == pytest.approx(distance, abs=DISTANCE_TOLERANCE), (a, b)
    found = {(a, b): float(np.linalg.norm(raw[a] - raw[b])) for a, b in expected}
    same = [distance for pair, distance in found.items() if is_same(pair)]
    different = [distance for pair, distance in found.items() if not is_same(pair)]
    assert (len(same), len(different)) == (5, 4)
    assert max(same) < min(different)


def test_templates_of_one_person_are_more_alike_than_those_of_two(
    expected: Distances, crops: dict[str, NDArray[np.uint8]], embedder: Embedder
) -> None:
    templates = dict(zip(crops, embedder.embed(np.stack(list(crops.values()))), strict=True))
    similarities = {(a, b): float(templates[a] @ templates[b]) for a, b in expected}
    same = [similarity for pair, similarity in similarities.items() if is_same(pair)]
    different = [similarity for pair, similarity in similarities.items() if not is_same(pair)]
    assert min(same) > max(different)
