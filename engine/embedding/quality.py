"""Measures of a detected face that say whether a template of it will be worth keeping. Pure arithmetic.

Knows no limits and no policy: what is too blurred or turned too far is the caller's to say.

The angles are read off five keypoints and the proportions of a mean head. They are estimates, right to some
10 degrees up to 45 and only ordered beyond. A face that looks straight into the camera has 0 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.embedding.align import FACENET, align
from engine.errors import InvalidPictureError
from engine.types import Face, Keypoints, Rgb

Grey = NDArray[np.uint8]
"""uint8[h, w], 0 is black."""

SHARPNESS_ALIGNMENT = FACENET
"""The crop that sharpness is measured on, whatever network is used: faces of any size are compared at one."""
NOSE_DEPTH = 0.5
"""How far the tip of the nose stands out before the plane of eyes and mouth, in eye distances."""
MOUTH_DISTANCE = 1.1
"""From the line of the eyes down to that of the mouth, in eye distances of a face seen from the front."""
NOSE_HEIGHT = 0.53
"""Share of the way from eyes to mouth at which the nose is seen from the front."""

THUMBNAIL_PX = 32
"""Side of the pictures by which two views of a face are told apart: large enough for a look or a smile."""


@dataclass(frozen=True, slots=True)
class FaceMeasures:
    """What is known of the quality of one face."""

    size_px: float
    """Shorter side of its box, in pixels of the picture."""
    sharpness: float
    """Variance of the Laplacian (3x3) of its grey crop, in squared grey levels; 0 is one even surface."""
    yaw_deg: float
    """Turn to the side, in degrees, estimated; above 0 the nose points to the picture's right."""
    pitch_deg: float
    """Nod, in degrees, estimated; above 0 the face looks down."""


def measure(picture: Rgb, face: Face) -> FaceMeasures:
    """All measures of one face of a picture.

    Raises InvalidPictureError where its keypoints lie as on no face.
    """
    crop = align(picture, face.keypoints, SHARPNESS_ALIGNMENT)
    yaw_deg, pitch_deg = pose(face.keypoints)
    return FaceMeasures(min(face.box.width, face.box.height), sharpness(crop), yaw_deg, pitch_deg)


def measure_all(picture: Rgb, faces: Sequence[Face]) -> tuple[list[Face], list[FaceMeasures]]:
    """Give the faces whose keypoints lie as on one, in their order, and the measures of each of these."""
    kept: list[Face] = []
    measures: list[FaceMeasures] = []
    for face in faces:
        try:
            measures.append(measure(picture, face))
        except InvalidPictureError:
            continue
        kept.append(face)
    return kept, measures


def sharpness(crop: Rgb) -> float:
    """Variance of the Laplacian of the grey picture, in squared grey levels.

    Grows with detail, contrast and noise. Compare crops of one size only.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    # Its values are whole and fit 16 bits; the variance is taken in float64.
    deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1]
    return float(deviation[0, 0]) ** 2


def pose(keypoints: Keypoints) -> tuple[float, float]:
    """Yaw and pitch in degrees, -90..90, each estimated from where the nose lies between eyes and mouth.

    Turned by yaw, the nose moves off the face's middle line by NOSE_DEPTH * tan(yaw) of the eye distance as
    it is seen; nodded by pitch, it moves along that line by NOSE_DEPTH / MOUTH_DISTANCE * tan(pitch) of the
    way to the mouth as it is seen. A tilt of the head (roll) is taken out first, along the line of the eyes.
    """
    points = keypoints.astype(np.float64) @ (1, 1j)
    eyes, mouth = (points[0] + points[1]) / 2, (points[3] + points[4]) / 2
    across = points[1] - points[0]
    eye_distance = abs(across)
    # Turns the picture so that the eyes lie level; an eye behind the other says nothing of roll.
    upright = across.conjugate() / eye_distance if eye_distance > 0 else 1.0
    down, nose = (mouth - eyes) * upright, (points[2] - eyes) * upright
    mouth_distance = float(down.imag)
    share = nose.imag / mouth_distance if mouth_distance > 0 else 0.0
    aside = float(nose.real - down.real * min(max(share, 0.0), 1.0))
    yaw = math.atan2(aside, NOSE_DEPTH * eye_distance)
    along = float(nose.imag - NOSE_HEIGHT * mouth_distance)
    pitch = math.atan2(along, NOSE_DEPTH / MOUTH_DISTANCE * max(mouth_distance, 0.0))
    return math.degrees(yaw), math.degrees(pitch)


def thumbnail(picture: Rgb, face: Face) -> Grey:
    """The face, upright, as uint8[THUMBNAIL_PX, THUMBNAIL_PX] of grey levels, to be compared by `change`.

    Raises InvalidPictureError where its keypoints lie as on no face.
    """
    grey = cv2.cvtColor(align(picture, face.keypoints, SHARPNESS_ALIGNMENT), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def change(one: Grey, other: Grey) -> float:
    """Mean difference of two thumbnails, in grey levels, 0..255."""
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())
