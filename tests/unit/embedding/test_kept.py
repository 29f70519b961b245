"""Kept crops: what any network sees of them is what it sees of the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.embedding.align import ALIGNMENTS, DLIB, Alignment, align
from engine.embedding.detect import Detector
from engine.embedding.embed import Embedder
from engine.embedding.images import decode, encode_png
from engine.embedding.kept import KEPT_PX_MAX, keep, restore
from engine.embedding.networks import load_network
from engine.errors import InvalidPictureError
from engine.limits import CROP_BYTES_MAX
from engine.types import Keypoints, Rgb

NUM_FACES = 16
SAME_FACE = 0.9995
"""Least cosine of the templates of a kept crop and of its picture; of LFW faces 0.9998 was found."""


def smooth(height: int, width: int) -> Rgb:
    """A picture that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 60 * np.sin(x / 37 + phase) + 60 * np.cos(y / 29 - phase) for phase in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


def placed(scale: float, angle: float, x: float, y: float) -> Keypoints:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points: Keypoints = ((DLIB.points - DLIB.points.mean(axis=0)) @ turn.T + (x, y)).astype(np.float32)
    return points


@pytest.mark.parametrize("alignment", ALIGNMENTS.values(), ids=lambda one: one.name)
@pytest.mark.parametrize(
    ("scale", "angle", "x", "y"),
    [
        (0.8, 0.0, 200, 150),
        (0.6, 0.7, 200, 150),
        (0.5, -2.5, 210, 160),
        (0.9, 0.2, 20, 10),
        (1.0, 0.0, 395, 295),
        (0.2, 0.0, 200, 150),
    ],
    ids=["upright", "tilted", "upside down", "at a corner", "at the other corner", "small"],
)
def test_a_network_sees_the_same_pixels(
    alignment: Alignment, scale: float, angle: float, x: float, y: float
) -> None:
    picture, keypoints = smooth(300, 400), placed(scale, angle, x, y)
    kept, moved = restore(keep(picture, keypoints))
    assert max(kept.shape) <= KEPT_PX_MAX
    found, expected = align(kept, moved, alignment), align(picture, keypoints, alignment)
    assert np.abs(found.astype(int) - expected).max() <= 6, "only JPEG is between them"
    assert np.abs(found.astype(int) - expected).mean() < 1


def test_a_large_face_is_shrunk_and_its_points_with_it() -> None:
    picture, keypoints = smooth(1500, 1400), placed(5.0, 0.1, 700, 700)
    kept, moved = restore(keep(picture, keypoints))
    assert max(kept.shape) == KEPT_PX_MAX
    assert moved[1, 0] - moved[0, 0] > 54, "no network of today needs more"
    difference = align(kept, moved, DLIB).astype(int) - align(picture, keypoints, DLIB)
    assert np.abs(difference).mean() < 1.5


def test_the_worst_crop_is_within_its_limit(rng: np.random.Generator) -> None:
    noise = rng.integers(0, 256, (KEPT_PX_MAX, KEPT_PX_MAX, 3), np.uint8)
    crop = keep(noise, placed(2.0, 0.0, 128, 128))
    assert restore(crop)[0].shape == noise.shape
    assert CROP_BYTES_MAX / 2 < len(crop) <= CROP_BYTES_MAX


def test_a_picture_of_one_pixel_is_kept() -> None:
    kept, moved = restore(keep(np.full((1, 1, 3), 7, np.uint8), placed(1.0, 0.0, 0, 0)))
    assert kept.shape == (1, 1, 3)
    assert align(kept, moved, DLIB).std() == 0


@pytest.mark.parametrize(
    "points", [np.zeros((5, 2), np.float32), np.full((5, 2), np.nan, np.float32), DLIB.points[:4]]
)
def test_what_is_no_face_is_refused(points: Keypoints) -> None:
    with pytest.raises(InvalidPictureError):
        keep(smooth(90, 90), points)


def test_damaged_crops_are_refused() -> None:
    crop = keep(smooth(300, 300), placed(1.0, 0.0, 150, 150))
    large = encode_png(np.zeros((KEPT_PX_MAX + 1, 8, 3), np.uint8))
    not_finite = crop[:1] + np.full(10, np.inf, "<f4").tobytes() + crop[41:]
    for damaged in (b"", crop[:41], crop[:-40], b"\x02" + crop[1:], crop[:41] + large, not_finite, crop[41:]):
        with pytest.raises(InvalidPictureError):
            restore(damaged)


@pytest.mark.data
@pytest.mark.model
def test_templates_of_real_faces_are_those_of_their_pictures(data_folder: Path) -> None:
    torch.set_num_threads(1)
    paths = sorted((data_folder / "lfw" / "images").glob("*/*_0001.jpg"))[:: 4000 // NUM_FACES][:NUM_FACES]
    detector, embedder = Detector("cpu"), Embedder(load_network("dlib-resnet", "cpu"))
    direct, kept, num_bytes = [], [], []
    for path in paths:
        picture = decode(path.read_bytes())
        face = max(detector.detect([picture])[0], key=lambda one: one.box.area)
        crop = keep(picture, face.keypoints)
        direct.append(align(picture, face.keypoints, embedder.alignment))
        kept.append(align(*restore(crop), embedder.alignment))
        num_bytes.append(len(crop))
    cosines = (embedder.embed(np.stack(direct)) * embedder.embed(np.stack(kept))).sum(axis=1)
    assert len(cosines) > NUM_FACES / 2
    assert cosines.min() > SAME_FACE
    assert np.mean(num_bytes) < 20_000
