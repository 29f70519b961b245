"""Measures of a face: sharpness as OpenCV users know it, angles from keypoints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from engine.embedding.detect import Detector
from engine.embedding.images import decode
from engine.embedding.quality import MOUTH_DISTANCE, NOSE_DEPTH, NOSE_HEIGHT, measure, pose, sharpness
from engine.errors import InvalidPictureError
from engine.types import Box, Face, Keypoints

HEAD = np.array(
    [
        (-0.5, 0.0, 0.0),
        (0.5, 0.0, 0.0),
        (0.0, NOSE_HEIGHT * MOUTH_DISTANCE, NOSE_DEPTH),
        (-0.35, MOUTH_DISTANCE, 0.0),
        (0.35, MOUTH_DISTANCE, 0.0),
    ]
)
"""Keypoints of a mean head in eye distances: x to the picture's right, y down, z to the camera."""


def seen(yaw_deg: float, pitch_deg: float, roll_deg: float = 0.0) -> Keypoints:
    """Keypoints of the head nodded, turned and tilted, from far away, at 60 pixels an eye distance."""
    yaw, pitch, roll = np.radians((yaw_deg, pitch_deg, roll_deg))
    x, y, z = HEAD.T
    y, z = y * math.cos(pitch) + z * math.sin(pitch), z * math.cos(pitch) - y * math.sin(pitch)
    x = x * math.cos(yaw) + z * math.sin(yaw)
    tilted = np.column_stack(
        [x * math.cos(roll) - y * math.sin(roll), x * math.sin(roll) + y * math.cos(roll)]
    )
    return (tilted * 60 + 200).astype(np.float32)


@pytest.mark.parametrize("angle_deg", [-60, -30, -5, 0, 5, 30, 60])
@pytest.mark.parametrize("roll_deg", [0, 25, -90, 180])
def test_pose_is_right_for_one_turn_at_a_time_whatever_the_tilt(angle_deg: float, roll_deg: float) -> None:
    assert pose(seen(angle_deg, 0, roll_deg)) == pytest.approx((angle_deg, 0), abs=0.1)
    assert pose(seen(0, angle_deg, roll_deg)) == pytest.approx((0, angle_deg), abs=0.1)


@pytest.mark.parametrize("yaw_deg", [-40, -20, 20, 40])
@pytest.mark.parametrize("pitch_deg", [-30, -15, 15, 30])
def test_pose_of_both_turns_at_once_is_an_estimate(yaw_deg: float, pitch_deg: float) -> None:
    # Nodding makes the nose stand out less; nothing here undoes that.
    assert pose(seen(yaw_deg, pitch_deg)) == pytest.approx((yaw_deg, pitch_deg), abs=12)


def test_pose_of_a_profile_is_extreme_and_finite() -> None:
    profile = np.array([(100, 100), (100, 100), (130, 130), (102, 160), (102, 160)], np.float32)
    yaw_deg, pitch_deg = pose(profile)
    assert yaw_deg == pytest.approx(90)
    assert abs(pitch_deg) < 30
    assert pose(np.zeros((5, 2), np.float32)) == (0.0, 0.0)


def test_sharpness_is_the_variance_of_the_laplacian(rng: np.random.Generator) -> None:
    crop = np.repeat(rng.integers(0, 256, (160, 160, 1), np.uint8), 3, axis=2)
    # OpenCV mirrors about the outermost pixel.
    grey = np.pad(crop[:, :, 0].astype(np.float64), 1, "reflect")
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    assert sharpness(crop) == pytest.approx(laplacian.var(), rel=1e-9)


def test_sharpness_of_one_even_surface_is_zero() -> None:
    assert sharpness(np.full((160, 160, 3), 77, np.uint8)) == 0.0


def test_keypoints_of_no_face_are_refused(rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (100, 100, 3), np.uint8)
    for keypoints in (np.full((5, 2), 50, np.float32), np.full((5, 2), np.inf, np.float32)):
        with pytest.raises(InvalidPictureError):
            measure(picture, Face(Box(0, 0, 99, 99), 1.0, keypoints))


@pytest.mark.data
def test_mirroring_a_real_picture_turns_the_yaw_alone(data_folder: Path) -> None:
    paths = sorted((data_folder / "lfw" / "images").rglob("*.jpg"))[:: 10_000 // 12]
    detector = Detector()
    yaws = []
    for path in paths:
        picture = decode(path.read_bytes())
        mirrored = np.ascontiguousarray(picture[:, ::-1])
        faces, others = detector.detect([picture, mirrored])
        one, other = measure(picture, faces[0]), measure(mirrored, others[0])
        assert other.yaw_deg == pytest.approx(-one.yaw_deg, abs=10)
        assert other.pitch_deg == pytest.approx(one.pitch_deg, abs=10)
        assert other.sharpness == pytest.approx(one.sharpness, rel=0.4)
        assert one.size_px == min(faces[0].box.width, faces[0].box.height)
        yaws.append(one.yaw_deg)
    assert max(np.abs(yaws)) > 20
