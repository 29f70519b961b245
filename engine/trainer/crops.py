"""Labelled pictures to aligned crops, found and cut out once. Knows nothing of networks or training.

::

    reader's thread:  read -> decode ─┐  LOOKAHEAD pictures before the other
    caller's thread:                  └> detect -> choose -> align

    FOLDER/faces/00000 ...             keypoints, or why not, of each SHARD_PICTURES pictures
    FOLDER/ALIGNMENT/parts/00000 ...   their crops, until all of them are there
    FOLDER/ALIGNMENT/...               see crop_files

An interrupted run goes on with the shard it was in. Another alignment of the same source is cut out at the
keypoints of the first: no face is looked for twice. Where source or settings differ from the recipe in the
folder, everything in it is made anew.

Pictures come from whatever lists and reads them as PictureSource says. One that cannot be used is refused
with a reason and counted, and never stops the rest.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
from tqdm import tqdm

from engine.config import Settings
from engine.embedding.align import Alignment, align
from engine.embedding.detect import WINDOW_PX, Detector, DetectorSettings
from engine.embedding.images import ImageLimits, decode
from engine.embedding.pipeline import choose
from engine.errors import InvalidInputError, InvalidPictureError, PictureTooLargeError
from engine.trainer.crop_files import (
    FORMAT,
    Recipe,
    Refused,
    keep_only,
    keep_pixels,
    locked,
    make_folder,
    open_crops,
    open_made,
    read_value,
    refusals_of,
    write_index,
    write_value,
)
from engine.trainer.crop_set import CropSet, number_identities
from engine.types import FaceChoice, Rgb

__all__ = [
    "CropSet",
    "CropSettings",
    "PictureSource",
    "Refused",
    "build_crops",
    "describe",
    "open_crops",
    "refusals_of",
]

SHARD_PICTURES = 256
"""A few seconds of a core, which is what an interruption costs."""
LOOKAHEAD = 4
"""Pictures read and decoded before their turn; bounds memory."""


class PictureSource(Protocol):
    """Pictures by identity, as the sources of bulk jobs give them."""

    def items(self) -> Iterator[Any]:
        """All of them, in the same order each time.

        A picture has key, identity_id, file, offset, size_bytes (0: not known) and mtime_ns. What the source
        cannot give has key, identity_id, reason and detail.
        """
        ...

    def read(self, item: Any) -> bytes:
        """The encoded picture. Raises OSError, or InvalidInputError where it is too large to be read."""
        ...


class CropSettings(Settings, frozen=True, kw_only=True):
    """Which face of a picture is meant, and what is accepted as one."""

    face_choice: Literal["centre", "largest"] = "centre"
    """``centre`` is the rule of LFW: about 15 % of its pictures show several people."""
    min_face_px: Annotated[int, msgspec.Meta(ge=WINDOW_PX)] = 70
    """Side of the smallest face looked for; halving it makes detection about four times slower."""
    detector: DetectorSettings = DetectorSettings()
    """Its own `min_face_px` is not used."""
    limits: ImageLimits = ImageLimits()
    """What pictures are accepted."""


DEFAULT_SETTINGS = CropSettings()


class _Found(msgspec.Struct, frozen=True):
    """What was found in one picture: five keypoints, or a reason why not."""

    keypoints: list[float] = msgspec.field(default_factory=list)
    """x, y of each; empty: refused."""
    reason: str = ""
    detail: str = ""


class _Part(msgspec.Struct, frozen=True):
    """Crops of one shard, those of the pictures without a reason, in their order."""

    found: list[_Found]
    crops: bytes


def build_crops(
    source: PictureSource,
    folder: Path,
    alignment: Alignment,
    settings: CropSettings = DEFAULT_SETTINGS,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> CropSet:
    """Find, cut out and keep the face of each picture, or open what an earlier run kept.

    Waits where another process builds in the same folder. `progress` shows a bar even where standard error
    is no terminal. Raises InvalidInputError where no picture at all gives a crop or FOLDER
    cannot be written, DeviceError, StorageFullError, CorruptDataError.
    """
    items, refused, digest = _list(source)
    # As it will be read back: tuples become lists.
    recipe = Recipe(FORMAT, digest, msgspec.json.decode(msgspec.json.encode(settings)))
    with locked(folder):
        keep_only(folder, recipe)
        crops = open_made(folder, alignment.name, recipe)
        if crops is None:
            build = _Build(source, folder, alignment, settings, device)
            build.run(items, progress=progress)
            crops, more_refused = build.join(items)
            write_index(folder, crops, recipe, [*refused, *more_refused])
            build.clear()
    sys.stderr.write(f"{describe(crops, refusals_of(folder, alignment.name))}\n")
    return crops


def describe(crops: CropSet, refusals: Sequence[Refused] = ()) -> str:
    """Say in one line how many crops and people there are, who can be no anchor, and what was refused."""
    num_single = int((crops.counts == 1).sum())
    text = f"{len(crops):,} crops {crops.alignment} of {crops.num_identities:,} identities"
    if num_single:
        text += (
            f", {num_single:,} of them with one picture only, of use as negatives alone (batch.num_singles)"
        )
    if refusals:
        reasons = Counter(refusal.reason for refusal in refusals)
        told = ", ".join(f"{num:,} {reason}" for reason, num in sorted(reasons.items()))
        text += f"; {len(refusals):,} pictures refused: {told}"
    return text


class _Build:
    """Makes parts of crops, shard after shard, each only where it is not there yet."""

    def __init__(
        self, source: PictureSource, folder: Path, alignment: Alignment, settings: CropSettings, device: str
    ):
        self._source, self._settings, self._device = source, settings, device
        self._alignment = alignment
        self._folder, self._faces = folder, folder / "faces"
        self._parts = folder / alignment.name / "parts"
        self._detector: Detector | None = None

    def run(self, items: Sequence[Any], *, progress: bool) -> None:
        make_folder(self._faces)
        make_folder(self._parts)
        start_s = time.monotonic()
        is_shown = progress or sys.stderr.isatty()
        with tqdm(
            total=len(items), unit=" pictures", desc="crops", file=sys.stderr, disable=not is_shown
        ) as bar:
            for number, shard in enumerate(_shards(items)):
                if not self._part(number).exists():
                    self._make(number, shard)
                bar.update(len(shard))
        if not is_shown:
            sys.stderr.write(f"crops: {len(items):,} pictures in {time.monotonic() - start_s:.1f} s\n")

    def join(self, items: Sequence[Any]) -> tuple[CropSet, list[Refused]]:
        """All crops in the order of their items, kept as one file, and what was refused."""
        kept: list[Any] = []
        refused: list[Refused] = []
        for number, shard in enumerate(_shards(items)):
            for item, found in zip(shard, read_value(self._part(number), _Part).found, strict=True):
                if found.reason:
                    refused.append(Refused(item.key, item.identity_id, found.reason, found.detail))
                else:
                    kept.append(item)
        if not kept:
            example = f", for example {refused[0].key}: {refused[0].detail}" if refused else ""
            raise InvalidInputError(
                f"none of {len(items):,} pictures gives a crop of a face{example}",
                hint="Give pictures of faces, or lower min_face_px.",
            )
        name, side = self._alignment.name, self._alignment.size_px
        numbers = range(len(list(_shards(items))))
        chunks = (read_value(self._part(number), _Part).crops for number in numbers)
        pixels = keep_pixels(self._folder, name, (len(kept), side, side, 3), chunks)
        labels, identities = number_identities([item.identity_id for item in kept])
        return CropSet(pixels, labels, identities, tuple(item.key for item in kept), name), refused

    def clear(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self._parts, ignore_errors=True)

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:05d}"

    def _make(self, number: int, shard: Sequence[Any]) -> None:
        """Write the part of a shard, and what was found in it where that is not known yet."""
        path = self._faces / f"{number:05d}"
        known = read_value(path, list[_Found]) if path.exists() else None
        faces: list[_Found] = []
        cut: list[_Found] = []
        crops: list[bytes] = []
        for place, picture in enumerate(self._read_ahead(shard, known)):
            if isinstance(picture, _Found):
                faces.append(picture)
                cut.append(picture)
                continue
            found = known[place] if known is not None else self._find(picture)
            faces.append(found)
            crop = self._cut(picture, found)
            cut.append(crop if isinstance(crop, _Found) else found)
            if not isinstance(crop, _Found):
                crops.append(crop.tobytes())
        if known is None:
            write_value(path, faces)
        write_value(self._part(number), _Part(cut, b"".join(crops)))

    def _read_ahead(self, shard: Sequence[Any], known: Sequence[_Found] | None) -> Iterator[Rgb | _Found]:
        """Pictures in order, or why there is none; what is known to hold no face is not read again."""
        ahead: deque[Future[Rgb | _Found]] = deque()
        with ThreadPoolExecutor(1, "picture-reader") as reader:
            for place, item in enumerate(shard):
                ahead.append(reader.submit(self._read, item, known[place] if known is not None else None))
                if len(ahead) > LOOKAHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _read(self, item: Any, known: _Found | None) -> Rgb | _Found:
        if known is not None and known.reason:
            return known
        data = self._bytes(item)
        if isinstance(data, _Found):
            return data
        try:
            return decode(data, self._settings.limits)
        except PictureTooLargeError as error:
            return _refuse("too_large", error.message)
        except InvalidPictureError as error:
            return _refuse("undecodable", error.message)

    def _bytes(self, item: Any) -> bytes | _Found:
        bytes_max = self._settings.limits.bytes_max
        if item.size_bytes > bytes_max:
            return _refuse("too_large", f"{item.size_bytes} bytes, at most {bytes_max} are accepted")
        try:
            return self._source.read(item)
        except OSError as error:
            return _refuse("unreadable", error.strerror or str(error))
        except InvalidInputError as error:
            return _refuse("too_large", error.message)
        except MemoryError:
            return _refuse("too_large", "no memory for its bytes")

    def _find(self, picture: Rgb) -> _Found:
        """Keypoints of the face that is meant."""
        if self._detector is None:
            self._detector = Detector(self._device, self._settings.detector)
        height, width = picture.shape[:2]
        try:
            (faces,) = self._detector.detect([picture], self._settings.min_face_px)
        except InvalidInputError as error:
            # Its only complaint of a picture: too many pixels for faces so small.
            return _refuse("too_large", error.message)
        except MemoryError:
            return _refuse("too_large", f"no memory for its {width}x{height} pixels")
        chosen = choose(faces, FaceChoice(self._settings.face_choice), width, height)
        if not chosen:
            return _refuse("no_face", f"no face of at least {self._settings.min_face_px} px is in it")
        return _Found(chosen[0].keypoints.ravel().tolist())

    def _cut(self, picture: Rgb, found: _Found) -> Rgb | _Found:
        if found.reason:
            return found
        try:
            return align(picture, np.array(found.keypoints, np.float32).reshape(5, 2), self._alignment)
        except InvalidPictureError as error:
            return _refuse("extreme_pose", error.message)


def _refuse(reason: str, detail: str) -> _Found:
    return _Found(reason=reason, detail=detail)


def _shards(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + SHARD_PICTURES] for start in range(0, len(items), SHARD_PICTURES))


def _list(source: PictureSource) -> tuple[list[Any], list[Refused], str]:
    """Pictures of a source, what it refuses itself, and a digest that changes where a picture does."""
    items: list[Any] = []
    refused: list[Refused] = []
    hashed = hashlib.sha256()
    for one in source.items():
        if hasattr(one, "reason"):
            refused.append(Refused(one.key, one.identity_id, str(one.reason), one.detail))
            continue
        told = (one.key, one.identity_id, one.file, one.offset, one.size_bytes, one.mtime_ns)
        hashed.update(msgspec.msgpack.encode(told))
        items.append(one)
    if not items:
        first = f"{refused[0].reason} {refused[0].detail}".rstrip() if refused else ""
        example = f", for example {refused[0].key}: {first}" if refused else ""
        raise InvalidInputError(
            f"the source holds no picture that can be used, {len(refused):,} were refused{example}"
        )
    return items, refused, hashed.hexdigest()
