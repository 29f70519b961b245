"""What storing a picture costs it: JPEG, there and back. Knows nothing of faces or networks."""

from __future__ import annotations

import cv2
import numpy as np

from engine.embedding.images import check_rgb
from engine.errors import InvalidPictureError
from engine.types import Rgb

QUALITY_MIN, QUALITY_MAX = 1, 100
"""Of a JPEG, as libjpeg counts."""


def encode_jpeg(image: Rgb, quality: int) -> bytes:
    """Encode uint8[h, w, 3] as JPEG with colours at half the resolution, the same bytes each time.

    Raises InvalidPictureError for anything else, or a quality outside 1..100.
    """
    check_rgb(image)
    if not QUALITY_MIN <= quality <= QUALITY_MAX:
        raise InvalidPictureError(f"JPEG quality is {quality}; it must be {QUALITY_MIN} to {QUALITY_MAX}")
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def jpeg_round_trip(image: Rgb, quality: int) -> Rgb:
    """Give the picture uint8[h, w, 3] as JPEG of that quality leaves it. Raises as `encode_jpeg`."""
    data = np.frombuffer(encode_jpeg(image, quality), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    return decoded.astype(np.uint8, copy=False)
