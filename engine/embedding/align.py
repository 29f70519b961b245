"""Faces turned, scaled and cut to the crop that a network was trained on. Knows nothing of networks.

A crop is named by where the five keypoints of an ideal face lie in it; the least-squares similarity
transform (turn, scale, shift; never a mirror or a shear) takes a face there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.embedding.images import check_rgb
from engine.errors import InvalidPictureError
from engine.types import Keypoints, Rgb

SPREAD_PX_MIN = 1.0
"""Root mean square distance of keypoints from their mean below which they say nothing of a face."""
LIKENESS_MIN = 0.1
"""Share of the template's spread that the turned and scaled keypoints must explain. Faces reach 0.9, a
profile squeezed to a line 0.4, eyes and mouth exchanged 0.05; below, a few pixels would be blown up to a
crop."""
SAMPLES_PER_PIXEL_MAX = 32
"""Samples along each side of a crop's pixel when a large face is shrunk; bounds memory to some 75 MiB."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """The crop of one family of networks."""

    name: str
    """Part of the embedding contract."""
    size_px: int
    """Side of the square crop."""
    points: Keypoints
    """float32[5, 2]: where the keypoints of an ideal face lie, in pixels of the crop."""


def align(image: Rgb, keypoints: Keypoints, alignment: Alignment) -> Rgb:
    """Cut the face at `keypoints` out of a picture as uint8[size_px, size_px, 3].

    Beyond the picture's edge its outermost pixels go on: of 73 LFW faces cut out at their box, dlib's ResNet
    gives templates of mean cosine 0.998 to those of the whole picture, and 0.9965 with black there. A face
    larger than the crop is averaged down, not sampled here and there. Raises InvalidPictureError where the
    keypoints are not five finite points or cannot be of a face (all in one place).
    """
    check_rgb(image)
    matrix = similarity_transform(keypoints, alignment.points)
    shrink = 1.0 / float(np.hypot(matrix[0, 0], matrix[1, 0]))
    samples = min(max(1, int(shrink)), SAMPLES_PER_PIXEL_MAX)
    fine = matrix * samples
    # Pixel i of the crop is the mean of fine pixels samples * i onwards: their centres are off by this much.
    fine[:, 2] += (samples - 1) / 2
    side = alignment.size_px * samples
    crop = cv2.warpAffine(image, fine, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if samples > 1:
        crop = cv2.resize(crop, (alignment.size_px, alignment.size_px), interpolation=cv2.INTER_AREA)
    return crop.astype(np.uint8, copy=False)


def similarity_transform(source: Keypoints, target: Keypoints) -> NDArray[np.float64]:
    """Least-squares similarity transform of points to points, float64[2, 3] for column vectors (x, y, 1).

    Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns",
    eq. 40 to 42. In the plane a turn and scale is one complex number, which makes the problem linear and
    leaves no mirror to be excluded. Raises InvalidPictureError as `align` says.
    """
    if source.shape != target.shape or not np.isfinite(source).all():
        raise InvalidPictureError(f"expected {len(target)} finite keypoints, got {source.tolist()}")
    points = source.astype(np.float64) @ (1, 1j)
    goals = target.astype(np.float64) @ (1, 1j)
    points_mean, goals_mean = points.mean(), goals.mean()
    points, goals = points - points_mean, goals - goals_mean
    points_spread, goals_spread = float(np.vdot(points, points).real), float(np.vdot(goals, goals).real)
    if points_spread < len(points) * SPREAD_PX_MIN**2:
        raise InvalidPictureError("keypoints all lie in one place: no face can be cut out")
    turn = np.vdot(points, goals) / points_spread
    if abs(turn) ** 2 * points_spread < LIKENESS_MIN * goals_spread:
        raise InvalidPictureError("keypoints lie as on no face: eyes, nose and mouth are mixed up")
    shift = goals_mean - turn * points_mean
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _alignment(name: str, size_px: int, *points: tuple[float, float]) -> Alignment:
    array = np.array(points, np.float32)
    array.setflags(write=False)
    return Alignment(name, size_px, array)


DLIB = _alignment(
    "dlib-150", 150, (48.58, 46.53), (102.40, 46.62), (75.47, 78.83), (51.83, 105.90), (98.73, 105.90)
)
"""Where the keypoints lie in the chip that dlib's ResNet was trained on (`get_face_chip_details`, size 150,
padding 0.25)."""

ARCFACE = _alignment(
    "arcface-112", 112, (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
    (70.7299, 92.2041),
)  # fmt: skip
"""InsightFace `python-package/insightface/utils/face_align.py`, `arcface_dst`."""

OPENFACE = _alignment(
    "openface-96", 96, (26.6276, 16.0593), (67.7903, 15.2640), (47.2410, 40.5223), (29.4826, 61.6176),
    (66.7597, 60.8777),
)  # fmt: skip
"""OpenFace `openface/align_dlib.py`: of its 68-point mean face, scaled to 0..1 as there (MINMAX_TEMPLATE) and
by 96, the means of points 36-41 and 42-47 (eyes), and points 30 (nose tip), 48 and 54 (mouth corners).
OpenFace itself lays three points (outer eye corners, base of the nose) by an affine transform, which also
shears; ours does not."""

FACENET = _alignment(
    "facenet-160", 160, (52.86, 61.44), (107.14, 61.44), (80.00, 92.78), (56.22, 121.06), (103.78, 121.06)
)
"""facenet-pytorch cuts MTCNN's box (margin 0) upright and stretches it to a square. This is its 5-point
counterpart without the stretch: the mean place of the keypoints of 547 LFW faces in a square as high as the
box and with the same centre, made symmetrical."""

ALIGNMENTS: Mapping[str, Alignment] = MappingProxyType(
    {alignment.name: alignment for alignment in (DLIB, ARCFACE, OPENFACE, FACENET)}
)
"""The crops there are, by name."""
