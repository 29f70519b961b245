"""Pictures to faces and templates: decode, detect, choose, align, embed. Knows nothing of galleries.

::

    caller's thread:  check room -> decode each picture ─┐
    worker's thread:                                     └> detect -> choose -> align -> embed all together

Decoding runs in as many threads as call; torch runs in one, the batcher's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.config import Settings
from engine.embedding.align import align
from engine.embedding.batcher import Batcher, BatcherSettings
from engine.embedding.detect import WINDOW_PX, Detector, DetectorSettings
from engine.embedding.embed import Embedder
from engine.embedding.images import ImageLimits, decode
from engine.errors import EngineError, InvalidInputError, OverloadedError
from engine.types import EmbeddedFace, Face, FaceChoice, Rgb, Vectors

Item = TypeVar("Item")

WARM_UP_PX = 320
"""Side of the picture that `warm_up` sends."""


class PipelineSettings(Settings, frozen=True, kw_only=True):
    """Settings of all parts that a picture goes through."""

    limits: ImageLimits = ImageLimits()
    """What pictures are accepted."""
    detector: DetectorSettings = DetectorSettings()
    """What counts as a face."""
    batcher: BatcherSettings = BatcherSettings()
    """How many pictures are worked on at once, and how many may wait."""


DEFAULT_SETTINGS = PipelineSettings()


@dataclass(frozen=True, slots=True)
class _Work:
    """One item of the batcher: a decoded picture, or a ready crop."""

    pixels: Rgb
    is_crop: bool = False
    choice: FaceChoice = FaceChoice.ALL
    min_face_px: int | None = None
    is_to_embed: bool = False


@dataclass(slots=True)
class _Answer:
    """What became of one _Work: templates are those of the crops, and crops those of the faces."""

    faces: list[Face] = field(default_factory=list)
    crops: list[Rgb] = field(default_factory=list)
    templates: Vectors = field(default_factory=lambda: np.empty((0, 0), np.float32))


class Pipeline:
    """Finds and embeds the faces of pictures; safe to call from many threads, and to be closed after use."""

    def __init__(self, detector: Detector, embedder: Embedder, settings: PipelineSettings = DEFAULT_SETTINGS):
        self.detector = detector
        self.embedder = embedder
        self.settings = settings
        self._batcher: Batcher[_Work, _Answer] = Batcher(
            self._process, settings.batcher, name="embedding-pipeline"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def detect(
        self,
        pictures: Sequence[bytes],
        choice: FaceChoice = FaceChoice.ALL,
        min_face_px: int | None = None,
        deadline: float | None = None,
    ) -> list[list[Face] | EngineError]:
        """The chosen faces of each encoded picture in its pixels, or the error that is that picture's own.

        No face is an empty list. `min_face_px` overrides the detector's, `deadline` is in seconds of
        `time.monotonic`. Raises InvalidInputError for a min_face_px that cannot be, OverloadedError with
        nothing begun where the queue is full, DeadlineError, and UnavailableError once closed.
        """
        answers = self._run(pictures, choice, min_face_px, deadline, is_to_embed=False)
        return [answer if isinstance(answer, EngineError) else answer.faces for answer in answers]

    def embed(
        self,
        pictures: Sequence[bytes],
        choice: FaceChoice = FaceChoice.LARGEST,
        min_face_px: int | None = None,
        deadline: float | None = None,
    ) -> list[list[EmbeddedFace] | EngineError]:
        """As `detect`, each face with its template of unit length under the embedder's contract."""
        answers = self._run(pictures, choice, min_face_px, deadline, is_to_embed=True)
        return [answer if isinstance(answer, EngineError) else _embedded(answer) for answer in answers]

    def embed_crops(self, crops: NDArray[np.uint8], deadline: float | None = None) -> Vectors:
        """Templates float32[n, d] of crops uint8[n, size, size, 3] aligned for the embedder.

        Raises what `detect` raises, and InvalidInputError for crops of another shape or type.
        """
        size = self.embedder.alignment.size_px
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size, size, 3):
            raise InvalidInputError(
                f"expected crops uint8[n, {size}, {size}, 3], got {crops.dtype}{list(crops.shape)}"
            )
        templates = [np.empty((0, self.embedder.contract.dimension), np.float32)]
        for part in self._parts([_Work(crop, is_crop=True) for crop in crops]):
            answers = self._batcher.submit(part, deadline)
            templates.extend(_unless_error(answer).templates for answer in answers)
        return np.concatenate(templates)

    def warm_up(self) -> None:
        """Send a synthetic picture and crop through, so that the first caller finds all parts warm."""
        rng = np.random.default_rng(0)
        size = self.embedder.alignment.size_px
        picture = _Work(rng.integers(0, 256, (WARM_UP_PX, WARM_UP_PX, 3), np.uint8))
        crop = _Work(rng.integers(0, 256, (size, size, 3), np.uint8), is_crop=True)
        for answer in self._batcher.submit([picture, crop]):
            _unless_error(answer)

    def close(self) -> None:
        """Finish what waits, then stop the worker; later calls raise UnavailableError. May be repeated."""
        self._batcher.close()

    def _run(
        self,
        pictures: Sequence[bytes],
        choice: FaceChoice,
        min_face_px: int | None,
        deadline: float | None,
        *,
        is_to_embed: bool,
    ) -> list[_Answer | EngineError]:
        if min_face_px is not None and min_face_px < WINDOW_PX:
            raise InvalidInputError(f"min_face_px is {min_face_px}; it must be at least {WINDOW_PX}")
        self._batcher.refuse_if_full(min(len(pictures), self._part_items_max), deadline)
        answers: list[_Answer | EngineError] = []
        # A part at a time is decoded, so that a call of many large pictures does not hold them all.
        for part in self._parts(pictures):
            slots = [self._prepare(data, choice, min_face_px, is_to_embed=is_to_embed) for data in part]
            ready = [slot for slot in slots if isinstance(slot, _Work)]
            done = iter(self._submit(ready, deadline, is_begun=bool(answers)))
            answers.extend(next(done) if isinstance(slot, _Work) else slot for slot in slots)
        return answers

    def _prepare(
        self, data: bytes, choice: FaceChoice, min_face_px: int | None, *, is_to_embed: bool
    ) -> _Work | EngineError:
        try:
            pixels = decode(data, self.settings.limits)
        except EngineError as error:
            return error
        return _Work(pixels, choice=choice, min_face_px=min_face_px, is_to_embed=is_to_embed)

    def _submit(
        self, work: Sequence[_Work], deadline: float | None, *, is_begun: bool
    ) -> list[_Answer | EngineError]:
        """Overload refuses a call that has not begun; later it is the outcome of the pictures it hits."""
        try:
            return self._batcher.submit(work, deadline)
        except OverloadedError as error:
            if not is_begun:
                raise
            return [error] * len(work)

    @property
    def _part_items_max(self) -> int:
        return min(self.settings.batcher.batch_items_max, self.settings.batcher.queue_items_max)

    def _parts(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        size = self._part_items_max
        return (items[start : start + size] for start in range(0, len(items), size))

    def _process(self, batch: Sequence[_Work]) -> list[_Answer | EngineError]:
        """One batch, in the batcher's thread: faces of all pictures, then templates of all crops."""
        answers: list[_Answer | EngineError] = [
            _Answer(crops=[work.pixels]) if work.is_crop else _Answer() for work in batch
        ]
        for min_face_px in {work.min_face_px for work in batch if not work.is_crop}:
            same = [i for i, work in enumerate(batch) if not work.is_crop and work.min_face_px == min_face_px]
            found = self.detector.detect([batch[i].pixels for i in same], min_face_px)
            for i, faces in zip(same, found, strict=True):
                answers[i] = self._cut(batch[i], faces)
        return self._with_templates(answers)

    def _cut(self, work: _Work, faces: Sequence[Face]) -> _Answer | EngineError:
        """The chosen faces of one picture, with their crops where templates are asked for."""
        height, width = work.pixels.shape[:2]
        chosen = choose(faces, work.choice, width, height)
        if not work.is_to_embed:
            return _Answer(chosen)
        try:
            crops = [align(work.pixels, face.keypoints, self.embedder.alignment) for face in chosen]
        except EngineError as error:
            return error
        return _Answer(chosen, crops)

    def _with_templates(self, answers: Sequence[_Answer | EngineError]) -> list[_Answer | EngineError]:
        """The answers with templates of their crops, all embedded together."""
        whole = [answer for answer in answers if isinstance(answer, _Answer)]
        crops = [crop for answer in whole for crop in answer.crops]
        if not crops:
            return list(answers)
        try:
            templates = self.embedder.embed(np.stack(crops))
        except EngineError as error:
            if len(answers) == 1:
                return [error]
            # Some crop has no template; one by one, only its own picture fails.
            return [one for answer in answers for one in self._with_templates([answer])]
        start = 0
        for answer in whole:
            answer.templates = templates[start : start + len(answer.crops)]
            start += len(answer.crops)
        return list(answers)


def choose(faces: Sequence[Face], choice: FaceChoice, width: int, height: int) -> list[Face]:
    """The faces meant, of those found in a picture of width x height pixels: all, or at most one.

    ALL gives them largest box first, equals in the order given; LARGEST the first of these; CENTRE the one
    whose box centre is nearest the picture's. No faces, none chosen.
    """
    if choice is FaceChoice.CENTRE:
        return sorted(faces, key=lambda face: _distance_from_centre(face, width, height))[:1]
    by_size = sorted(faces, key=lambda face: -face.box.area)
    return by_size[:1] if choice is FaceChoice.LARGEST else by_size


def _distance_from_centre(face: Face, width: int, height: int) -> float:
    return math.hypot(face.box.x1 + face.box.x2 - width, face.box.y1 + face.box.y2 - height) / 2


def _embedded(answer: _Answer) -> list[EmbeddedFace]:
    # Copies: a view would keep the whole batch's templates in memory as long as one of them.
    return [
        EmbeddedFace(face, template.copy())
        for face, template in zip(answer.faces, answer.templates, strict=True)
    ]


def _unless_error(answer: _Answer | EngineError) -> _Answer:
    if isinstance(answer, EngineError):
        raise answer
    return answer
