"""The similarity transform against a naive oracle, and the crops against what they should show."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.embedding.align import ALIGNMENTS, Alignment, align, similarity_transform
from engine.errors import InvalidPictureError
from engine.types import Keypoints, Rgb


def umeyama(source: Keypoints, target: Keypoints) -> NDArray[np.float64]:
    """Umeyama 1991, eq. 40 to 43, by singular value decomposition, as the paper has it."""
    x, y = source.astype(float), target.astype(float)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    covariance = (y - y_mean).T @ (x - x_mean) / len(x)
    u, d, vt = np.linalg.svd(covariance)
    s = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(s) @ vt
    scale = (d * s).sum() / ((x - x_mean) ** 2).sum(axis=1).mean()
    return np.column_stack([scale * rotation, y_mean - scale * rotation @ x_mean])


def placed(alignment: Alignment, scale: float, angle: float, shift: tuple[float, float]) -> Keypoints:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points: Keypoints = (alignment.points @ (scale * turn).T + shift).astype(np.float32)
    return points


@pytest.mark.parametrize("alignment", ALIGNMENTS.values(), ids=lambda one: one.name)
def test_names_sizes_and_points_agree(alignment: Alignment) -> None:
    assert ALIGNMENTS[alignment.name] is alignment
    assert alignment.name.endswith(f"-{alignment.size_px}")
    assert alignment.points.shape == (5, 2)
    assert alignment.points.dtype == np.float32
    assert ((alignment.points > 0) & (alignment.points < alignment.size_px)).all()
    left_eye, right_eye, nose, mouth_left, mouth_right = alignment.points
    assert left_eye[0] < nose[0] < right_eye[0]
    assert mouth_left[0] < nose[0] < mouth_right[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(mouth_left[1], mouth_right[1])


def test_transform_equals_umeyama(rng: np.random.Generator) -> None:
    for alignment in ALIGNMENTS.values():
        for _ in range(50):
            clean = placed(alignment, rng.uniform(0.2, 5), rng.uniform(-3, 3), (rng.uniform(-99, 99), 40))
            source = clean + rng.normal(size=(5, 2)).astype(np.float32)
            ours, oracle = similarity_transform(source, alignment.points), umeyama(source, alignment.points)
            np.testing.assert_allclose(ours, oracle, rtol=1e-6, atol=1e-6)


def test_transform_never_mirrors(rng: np.random.Generator) -> None:
    template = ALIGNMENTS["dlib-150"].points
    for _ in range(200):
        mirrored = (template * [-1, 1] + rng.normal(size=(5, 2))).astype(np.float32)
        try:
            matrix = similarity_transform(mirrored, template)
        except InvalidPictureError:
            continue
        assert np.linalg.det(matrix[:, :2]) > 0


def test_a_face_already_in_place_comes_back_as_it_is(rng: np.random.Generator) -> None:
    for alignment in ALIGNMENTS.values():
        size = alignment.size_px
        image = rng.integers(0, 256, (size, size, 3), np.uint8)
        np.testing.assert_array_equal(align(image, alignment.points, alignment), image)


@pytest.mark.parametrize("scale", [0.4, 0.8, 1.3, 2.0, 3.7, 9.0])
@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
def test_marks_at_the_keypoints_land_on_the_template(scale: float, angle: float) -> None:
    alignment = ALIGNMENTS["dlib-150"]
    keypoints = placed(alignment, scale, angle, (0.0, 0.0))
    keypoints += 1000 - keypoints.mean(axis=0)
    rows, columns = np.mgrid[0:2000, 0:2000]
    for point, goal in zip(keypoints, alignment.points, strict=True):
        spread = 3.0 * scale
        mark = np.exp(-((columns - point[0]) ** 2 + (rows - point[1]) ** 2) / (2 * spread**2))
        image: Rgb = np.repeat((255 * mark).astype(np.uint8)[..., None], 3, axis=2)
        weight = align(image, keypoints, alignment)[..., 0].astype(float)
        y, x = np.mgrid[0 : alignment.size_px, 0 : alignment.size_px]
        centre = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        # A pixel of the fine grid starts half a picture pixel off: small against a crop pixel when shrunk.
        np.testing.assert_allclose(centre, goal, atol=0.5)


def test_a_large_face_is_averaged_and_not_sampled(rng: np.random.Generator) -> None:
    alignment = ALIGNMENTS["arcface-112"]
    image = rng.integers(0, 256, (1500, 1500, 3), np.uint8)
    crop = align(image, placed(alignment, 8.0, 0.0, (200.0, 200.0)), alignment)
    # 64 independent pixels in one: the spread of the mean falls by 8; bilinear sampling keeps half of it.
    assert crop.astype(float).std() < 1.5 * image.std() / 8


def test_a_crop_pixel_of_a_shrunk_face_is_the_mean_of_its_square(rng: np.random.Generator) -> None:
    alignment = ALIGNMENTS["arcface-112"]
    image = rng.integers(0, 256, (448, 448, 3), np.uint8)
    # Template x of pixel centres: picture x = 4 x + 1.5 puts each crop pixel on its 4 x 4 square.
    crop = align(image, placed(alignment, 4.0, 0.0, (1.5, 1.5)), alignment)
    means = image.reshape(112, 4, 112, 4, 3).mean(axis=(1, 3))
    assert np.abs(crop - means).max() <= 1.0


def test_beyond_the_edge_the_outermost_pixels_go_on() -> None:
    alignment = ALIGNMENTS["dlib-150"]
    image = np.full((60, 60, 3), 90, np.uint8)
    crop = align(image, placed(alignment, 1.0, 0.0, (-60.0, -60.0)), alignment)
    np.testing.assert_array_equal(crop, np.full((150, 150, 3), 90))


@pytest.mark.parametrize(
    "keypoints",
    [
        np.full((5, 2), 7.0),
        np.full((5, 2), np.nan),
        np.array([[1, 1], [2, 1], [1.5, 2], [1, np.inf], [2, 3]]),
        np.zeros((4, 2)),
        np.zeros((0, 2)),
        ALIGNMENTS["dlib-150"].points[[3, 4, 2, 0, 1]],
    ],
)
def test_keypoints_of_no_face_are_refused(keypoints: NDArray[np.float64]) -> None:
    with pytest.raises(InvalidPictureError, match="keypoints"):
        align(np.zeros((9, 9, 3), np.uint8), keypoints.astype(np.float32), ALIGNMENTS["dlib-150"])


@pytest.mark.parametrize("shape", [(0, 0, 3), (9, 9), (9, 9, 4)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    alignment = ALIGNMENTS["dlib-150"]
    with pytest.raises(InvalidPictureError, match="expected pixels"):
        align(np.zeros(shape, np.uint8), alignment.points, alignment)
