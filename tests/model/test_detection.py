"""MTCNN on real pictures: published boxes, the original code, and properties that any picture must have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.embedding import facenet
from engine.embedding.detect import Detector, DetectorSettings
from engine.types import Face, Rgb

pytestmark = [pytest.mark.model, pytest.mark.data]

KEYPOINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
PUBLISHED = (
    "ivan.jpg",
    "no-faces.jpg",
    "multiface.jpg",
    "angelina_jolie.jpg",
    "kate_siegel.jpg",
    "paul_rudd.jpg",
    "shea_whigham.jpg",
)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector("cpu")


@pytest.fixture(scope="module")
def expected(data_folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((data_folder / "photos" / "detection" / "expected.json").read_text())
    return content


def read(data_folder: Path, name: str, size: tuple[int, int]) -> Rgb:
    with Image.open(data_folder / "photos" / "detection" / name) as file:
        picture = file.convert("RGB")
    return np.array(picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR))


def edges(face: Face) -> list[float]:
    return [face.box.x1, face.box.y1, face.box.x2, face.box.y2]


@pytest.mark.parametrize("name", PUBLISHED)
def test_faces_are_those_published(
    detector: Detector, expected: dict[str, Any], data_folder: Path, name: str
) -> None:
    known = expected[name]
    (faces,) = detector.detect([read(data_folder, name, tuple(known["size"]))], 20)
    assert len(faces) == len(known["faces"])
    assert [face.confidence for face in faces] == sorted((face.confidence for face in faces), reverse=True)
    for want in known["faces"]:
        face = min(faces, key=lambda face: float(np.abs(np.subtract(edges(face), want["box_xyxy"])).sum()))
        np.testing.assert_allclose(edges(face), want["box_xyxy"], atol=0.5)
        assert face.confidence == pytest.approx(want["confidence"], abs=1e-4)
        points = [want["keypoints"][point] for point in KEYPOINTS]
        np.testing.assert_allclose(face.keypoints, points, atol=0.5)
        assert face.keypoints.dtype == np.float32


def test_every_picture_of_the_data_is_tested(expected: dict[str, Any]) -> None:
    assert set(expected) - {"note"} == set(PUBLISHED)


def test_faces_equal_those_of_the_original_code(detector: Detector, data_folder: Path) -> None:
    """Also where several faces are close together; equal to float rounding."""
    from facenet_pytorch import MTCNN

    assert facenet.output_net() is not None
    original = MTCNN(min_face_size=40, keep_all=True)
    for path in sorted((data_folder / "lfw" / "images").glob("A*/*_0001.jpg"))[::20]:
        with Image.open(path) as file:
            image = np.array(file)
        boxes, confidences, points = original.detect(image, landmarks=True)
        order = np.argsort(-confidences.astype(float), kind="stable")
        (faces,) = detector.detect([image], 40)
        height, width = image.shape[:2]
        clipped = boxes[order].astype(float).clip(0, [width, height, width, height])
        np.testing.assert_allclose([edges(face) for face in faces], clipped, atol=1e-2)
        np.testing.assert_allclose([face.keypoints for face in faces], points[order].astype(float), atol=1e-2)
        assert [face.confidence for face in faces] == pytest.approx(confidences[order].tolist(), abs=1e-5)


def test_pictures_of_several_sizes_at_once_give_what_each_gives_alone(
    detector: Detector, expected: dict[str, Any], data_folder: Path
) -> None:
    images = [read(data_folder, name, (300, 200 + 40 * i)) for i, name in enumerate(PUBLISHED)]
    images.insert(2, np.zeros((10, 10, 3), np.uint8))
    together = detector.detect(images)
    assert together[2] == []
    for faces, image in zip(together, images, strict=True):
        (alone,) = detector.detect([image])
        assert len(faces) == len(alone)
        for one, other in zip(faces, alone, strict=True):
            np.testing.assert_allclose(edges(one), edges(other), atol=1e-2)
            assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_a_face_cut_by_the_border_keeps_its_box_inside(
    detector: Detector, expected: dict[str, Any], data_folder: Path
) -> None:
    image = read(data_folder, "paul_rudd.jpg", tuple(expected["paul_rudd.jpg"]["size"]))[110:520, 100:400]
    (faces,) = detector.detect([image], 100)
    assert faces
    for face in faces:
        x1, y1, x2, y2 = edges(face)
        assert 0 <= x1 < x2 <= image.shape[1]
        assert 0 <= y1 < y2 <= image.shape[0]


def test_the_most_confident_faces_are_kept(
    detector: Detector, expected: dict[str, Any], data_folder: Path
) -> None:
    image = read(data_folder, "multiface.jpg", tuple(expected["multiface.jpg"]["size"]))
    (all_faces,) = detector.detect([image])
    (few,) = Detector("cpu", DetectorSettings(faces_max=2)).detect([image])
    assert len(all_faces) == 6
    assert [edges(face) for face in few] == [edges(face) for face in all_faces[:2]]


def test_a_minimum_size_larger_than_the_faces_finds_none(
    detector: Detector, expected: dict[str, Any], data_folder: Path
) -> None:
    image = read(data_folder, "multiface.jpg", tuple(expected["multiface.jpg"]["size"]))
    assert detector.detect([image], 400) == [[]]
