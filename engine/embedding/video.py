"""Frames of video files and cameras, through OpenCV, and the JPEG of a picture. Knows nothing of faces.

Frames that are passed over are read but not decoded. Time is that of the video where it says it, otherwise
frames by frame rate; for a camera, since its first frame.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from engine.embedding.images import DEFAULT_LIMITS, ImageLimits, check_rgb
from engine.errors import InvalidInputError, InvalidPictureError
from engine.types import Rgb

FRAME_RATE_MIN, FRAME_RATE_MAX = 0.01, 1000.0
"""Frames per second that a file may claim; outside, FRAME_RATE is assumed."""
FRAME_RATE = 25.0

# What is wrong with a file is said by our own errors. OpenCV reads this once, before it opens its first
# video; -8 is AV_LOG_QUIET of FFmpeg's libavutil/log.h.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a video."""

    time_ms: int
    """Since the video's beginning."""
    pixels: Rgb | None
    """None where it could not be decoded."""


def video_frames(path: Path, every_s: float, limits: ImageLimits = DEFAULT_LIMITS) -> Iterator[Frame]:
    """Frames of a video file, in its order: the first, and then one every `every_s` seconds of the video.

    Ends where the file ends or its rest cannot be read. Raises InvalidInputError where it is no video that
    OpenCV can read, or its frames have more pixels than the limits allow.
    """
    if not path.is_file():
        raise InvalidInputError(f"{path} is no file", hint="Give a video file, or a folder of pictures.")
    with _opened(str(path), f"{path}") as video:
        _check_size(video, f"{path}", limits)
        rate = video.get(cv2.CAP_PROP_FPS)
        rate = rate if FRAME_RATE_MIN <= rate <= FRAME_RATE_MAX else FRAME_RATE
        next_ms = 0.0
        number = 0
        while video.grab():
            # Not every kind of file says when its frames are shown.
            time_ms = max(video.get(cv2.CAP_PROP_POS_MSEC), 0.0) or number * 1000 / rate
            number += 1
            if time_ms < next_ms and number > 1:
                continue
            next_ms = _next_ms(time_ms, every_s)
            yield Frame(round(time_ms), _decoded(video))
        if number == 0:
            raise InvalidInputError(f"{path} holds no frame that OpenCV can read")


def camera_frames(number: int, every_s: float, limits: ImageLimits = DEFAULT_LIMITS) -> Iterator[Frame]:
    """Frames of a camera, one every `every_s` seconds, until it gives none. Raises as `video_frames`."""
    with _opened(number, f"camera {number}") as video:
        _check_size(video, f"camera {number}", limits)
        start_s = time.monotonic()
        next_ms = 0.0
        # Every frame is taken from it, so that none is old when its turn comes.
        while video.grab():
            time_ms = (time.monotonic() - start_s) * 1000
            if time_ms < next_ms:
                continue
            next_ms = _next_ms(time_ms, every_s)
            yield Frame(round(time_ms), _decoded(video))


def encode_jpeg(picture: Rgb, quality: int) -> bytes:
    """Encode uint8[h, w, 3] as JPEG of a quality of 1..100, the same bytes each time.

    Raises InvalidPictureError where it is no picture, or too large for the format.
    """
    check_rgb(picture)
    try:
        is_written, data = cv2.imencode(
            ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
    except cv2.error as error:
        raise InvalidPictureError(f"picture cannot be encoded as JPEG: {error}") from error
    if not is_written:
        raise InvalidPictureError(f"picture of {picture.shape[1]}x{picture.shape[0]} pixels is no JPEG")
    return data.tobytes()


@contextmanager
def _opened(source: str | int, name: str) -> Iterator[cv2.VideoCapture]:
    """OpenCV's reader of a file or camera, without what it writes to stderr of those it cannot read."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        video = cv2.VideoCapture(source)
    finally:
        cv2.utils.logging.setLogLevel(level)
    try:
        if not video.isOpened():
            raise InvalidInputError(
                f"{name} cannot be opened as a video",
                hint="Check that it is there and used by nobody else, or convert the file to MP4 or AVI.",
            )
        yield video
    finally:
        video.release()


def _check_size(video: cv2.VideoCapture, name: str, limits: ImageLimits) -> None:
    width, height = (int(video.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > limits.pixels_max or max(width, height) > limits.side_px_max:
        raise InvalidInputError(
            f"{name} has frames of {width}x{height} pixels; at most {limits.pixels_max} pixels"
            f" and {limits.side_px_max} a side are accepted",
            hint="Scale the video down first.",
        )


def _next_ms(time_ms: float, every_s: float) -> float:
    """The first multiple of the step after a time, so that late frames do not put off those that follow."""
    step_ms = every_s * 1000
    return (time_ms // step_ms + 1) * step_ms


def _decoded(video: cv2.VideoCapture) -> Rgb | None:
    is_decoded, pixels = video.retrieve()
    if not is_decoded or pixels is None or pixels.size == 0:
        return None
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
