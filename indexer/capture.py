"""Faces cut from videos, cameras and pictures into a folder for each identity, as a data set to be indexed.

::

    frames -> detect -> measure -> judge (the gate of a job) -> changed since the last kept? -> cut -> write

What is written are parts of the frames, the box and a margin around it, so that the faces in them are found
and judged again when the data set is indexed. One frame is in memory at a time.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from engine.config import Settings
from engine.errors import InvalidInputError, InvalidPictureError, PictureTooLargeError, StorageFullError
from engine.rules import check_identity_id
from engine.types import Box, Face, Rgb
from indexer.gate import DEFAULT_SETTINGS as DEFAULT_GATE
from indexer.gate import GateSettings, judge
from indexer.items import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.embedding.detect import Detector
    from engine.embedding.images import ImageLimits

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Files of a folder that are taken to be pictures."""
JPEG_QUALITY = 95
STEM_CHARACTERS_MAX = 50
"""Of a source's name in the names of its faces: at most 200 bytes, which leaves room for the rest."""
NAMES_MAX = 1000
"""Different faces that may want one name."""


class CaptureSettings(Settings, frozen=True, kw_only=True):
    """Which frames are looked at, and what is cut out of them."""

    every_s: Annotated[float, msgspec.Meta(gt=0, lt=1e7)] = 1.0
    """Seconds of a video from one frame looked at to the next. Pictures of a folder are all looked at."""
    faces_max: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Faces kept of one source; then it ends."""
    margin: Annotated[float, msgspec.Meta(ge=0.2, le=5)] = 0.5
    """Added on each side of a face, as a share of its box's side. The detector finds few faces that fill
    their picture."""
    min_change: Annotated[float, msgspec.Meta(ge=0, le=255)] = 8.0
    """Mean difference in grey levels from the face kept last, below which a face is skipped as the same view.
    One picture shifted, or encoded again, differs by 1 to 5, two pictures of a person by 20 to 70."""


DEFAULT_SETTINGS = CaptureSettings()


class NamedFrame(msgspec.Struct, frozen=True):
    """A frame, and what the faces cut from it are called."""

    name: str
    """A part of a file's name, without the suffix."""
    pixels: Any = None
    """uint8[h, w, 3]; None: refused."""
    reason: Reason | None = None
    """Why it is refused."""


class CaptureReport(msgspec.Struct):
    """What became of a source's frames; every face or frame is counted once."""

    num_frames: int = 0
    num_kept: int = 0
    """Faces written, and those that were there from an earlier run."""
    num_there_before: int = 0
    """Of those, faces whose files were there, byte for byte."""
    num_alike: int = 0
    """Faces skipped because they had not changed since the last kept."""
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    """Frames without a face that passes the gate, by `Reason`."""


class FaceCutter:
    """Cuts the faces of one identity out of frames into a folder of its name, and never overwrites a file."""

    def __init__(
        self,
        detector: Detector,
        folder: Path,
        identity_id: str,
        settings: CaptureSettings = DEFAULT_SETTINGS,
        gate: GateSettings = DEFAULT_GATE,
    ):
        """The folder is made with the first face. Raises InvalidInputError where none can be called so."""
        self.folder = folder / folder_name(identity_id)
        self.report = CaptureReport()
        self._detector = detector
        self._settings = settings
        self._gate = gate
        self._last: NDArray[Any] | None = None
        self._refused: Counter[str] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether as many faces are kept as may be."""
        return self.report.num_kept >= self._settings.faces_max

    def take(self, frame: NamedFrame) -> list[Path]:
        """Cut the faces out of one frame that pass the gate and are new; returns the files that hold them.

        Raises StorageFullError or InvalidInputError where a file cannot be written.
        """
        self.report.num_frames += 1
        faces, reason = ([], frame.reason) if frame.reason else self._faces(frame.pixels)
        if reason is not None:
            self._refused[reason.value] += 1
            # Sorted, so that two runs of one source report the same.
            self.report.refused = dict(sorted(self._refused.items()))
            return []
        paths = []
        for face in faces:
            if self.is_full:
                break
            if self._is_alike(frame.pixels, face):
                self.report.num_alike += 1
                continue
            paths.append(self._write(frame.name, cut(frame.pixels, face.box, self._settings.margin)))
            self.report.num_kept += 1
        return paths

    def _faces(self, pixels: Rgb) -> tuple[list[Face], Reason | None]:
        """The faces to keep, or why there are none."""
        from engine.embedding.quality import measure_all

        height, width = pixels.shape[:2]
        try:
            (found,) = self._detector.detect([pixels])
        except InvalidInputError:
            # Too many pixels for faces so small.
            return [], Reason.TOO_LARGE
        faces, measures = measure_all(pixels, found)
        if found and not faces:
            return [], Reason.EXTREME_POSE
        verdict = judge(faces, measures, self._gate, width, height)
        return [faces[place] for place in verdict.chosen], verdict.reason

    def _is_alike(self, pixels: Rgb, face: Face) -> bool:
        """Whether the face looks like the last kept one, as in frames shot one after the other."""
        from engine.embedding.quality import change, thumbnail

        seen = thumbnail(pixels, face)
        if self._last is not None and change(seen, self._last) < self._settings.min_change:
            return True
        self._last = seen
        return False

    def _write(self, name: str, pixels: Rgb) -> Path:
        """Write under the first name that is free, or already holds the same bytes."""
        from engine.embedding.video import encode_jpeg

        data = encode_jpeg(pixels, JPEG_QUALITY)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _write_error(self.folder, error) from error
        for number in range(1, NAMES_MAX + 1):
            path = self.folder / (f"{name}.jpg" if number == 1 else f"{name}-{number}.jpg")
            try:
                if _write_new(path, data):
                    return path
                if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
                    self.report.num_there_before += 1
                    return path
            except OSError as error:
                raise _write_error(path, error) from error
        raise InvalidInputError(
            f"{self.folder} holds {NAMES_MAX} other faces called {name}", hint="Give another folder."
        )


def cut(pixels: Rgb, box: Box, margin: float) -> Rgb:
    """The part of a picture that a box and a margin around it cover; the margin is a share of its sides."""
    height, width = pixels.shape[:2]
    left, right = box.x1 - margin * box.width, box.x2 + margin * box.width
    top, bottom = box.y1 - margin * box.height, box.y2 + margin * box.height
    rows = slice(max(0, int(top)), min(height, int(bottom) + 1))
    columns = slice(max(0, int(left)), min(width, int(right) + 1))
    return pixels[rows, columns].copy()


def video_frames(path: Path, every_s: float, limits: ImageLimits | None = None) -> Iterator[NamedFrame]:
    """Frames of a video file, named by their time in ms. Raises InvalidInputError where it is no video."""
    from engine.embedding import video
    from engine.embedding.images import DEFAULT_LIMITS

    for frame in video.video_frames(path, every_s, limits or DEFAULT_LIMITS):
        yield _named(frame, safe_stem(path))


def camera_frames(number: int, every_s: float) -> Iterator[NamedFrame]:
    """Frames of a camera, named by their time in ms since the first. Raises InvalidInputError without one."""
    from engine.embedding import video

    for frame in video.camera_frames(number, every_s):
        yield _named(frame, f"camera{number}")


def folder_frames(folder: Path, limits: ImageLimits | None = None) -> Iterator[NamedFrame]:
    """The pictures directly in a folder, by name; what is none is refused by itself.

    Raises InvalidInputError where the folder cannot be read or holds no file that is called a picture.
    """
    from engine.embedding.images import DEFAULT_LIMITS, decode

    try:
        # As a list: the faces may be written into the same folder.
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    except OSError as error:
        raise InvalidInputError(f"folder {folder} cannot be read: {error.strerror}") from error
    if not paths:
        raise InvalidInputError(f"folder {folder} holds no pictures: files {', '.join(PICTURE_SUFFIXES)}")
    allowed = limits or DEFAULT_LIMITS
    for path in paths:
        name = safe_stem(path)
        try:
            if path.stat().st_size > allowed.bytes_max:
                yield NamedFrame(name, reason=Reason.TOO_LARGE)
            else:
                yield NamedFrame(name, decode(path.read_bytes(), allowed))
        except OSError:
            yield NamedFrame(name, reason=Reason.UNREADABLE)
        except PictureTooLargeError:
            yield NamedFrame(name, reason=Reason.TOO_LARGE)
        except InvalidPictureError:
            yield NamedFrame(name, reason=Reason.UNDECODABLE)


def folder_name(identity_id: str) -> str:
    """Give the identity's folder: its own name. Raises InvalidInputError where no folder can be called so."""
    check_identity_id(identity_id)
    if identity_id.startswith(".") or any(char in identity_id for char in "/\\"):
        raise InvalidInputError(
            f"identity {identity_id[:40]!r} cannot be a folder: no / or \\ and no . at its beginning",
            hint="Choose another name for the identity.",
        )
    return identity_id


def safe_stem(path: Path) -> str:
    """Give a file's name without its suffix, of letters, digits, _ and - alone and no longer than may be.

    Where something was left out, a part of the name's sha256 tells it from its like.
    """
    stem = path.stem
    safe = re.sub(r"[^\w-]", "_", stem)[:STEM_CHARACTERS_MAX].lstrip("-")
    if safe == stem:
        return safe
    return f"{safe}~{hashlib.sha256(stem.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _named(frame: Any, stem: str) -> NamedFrame:
    reason = Reason.UNDECODABLE if frame.pixels is None else None
    return NamedFrame(f"{stem}-{frame.time_ms:08d}", frame.pixels, reason)


def _write_new(path: Path, data: bytes) -> bool:
    """Write a file that is not there yet, whole or not at all; False where there is one."""
    try:
        with path.open("xb") as file:
            try:
                file.write(data)
                file.flush()
            except BaseException:
                path.unlink()
                raise
    except FileExistsError:
        return False
    return True


def _write_error(path: Path, error: OSError) -> InvalidInputError | StorageFullError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFullError(f"no room on the disk for {path}", hint="Free disk space, then run it again.")
    return InvalidInputError(
        f"{path} cannot be written: {error.strerror}", hint="Give a folder that can be written."
    )
