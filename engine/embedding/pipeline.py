"""Pictures to faces and templates: decode, detect, choose, align, embed. Knows nothing of galleries.

::

    caller's thread:  read headers -> reserve room -> decode each picture ─┐
    worker's thread:                  detect -> choose -> align each picture <┘ -> embed all together

Decoding runs in as many threads as call; torch runs in one, the batcher's.

Memory: a call holds the pixels of one part of its pictures, at most batch_pixels_max of them or one larger
picture; all callers together hold queue_pixels_max. What does not fit is refused before it is decoded.

Deadlines: looked at before each picture is decoded, while a call waits, before each picture's faces are
looked for, and before each EMBED_FACES of faces are embedded. A step that has begun runs to its end: the
longest is one picture's detection, bounded by pyramid_pixels_max. A caller is told of its deadline at once
while the worker works, and at the end of the picture while it decodes itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from engine.config import Settings
from engine.embedding.align import align
from engine.embedding.batcher import Batcher, BatcherSettings, IsLate, late_error
from engine.embedding.detect import WINDOW_PX, Detector, DetectorSettings
from engine.embedding.embed import Embedder
from engine.embedding.images import ImageLimits, decode, encode_png, read_size
from engine.embedding.kept import keep
from engine.errors import EngineError, InvalidInputError, OverloadedError, SettingsError
from engine.types import EmbeddedFace, Face, FaceChoice, Rgb, Vectors

EMBED_FACES = 32
"""Faces after which deadlines are looked at again while a batch is embedded; one picture may have more."""
WARM_UP_PX = 320
"""Side of the picture that `warm_up` sends."""


class PipelineSettings(Settings, frozen=True, kw_only=True):
    """Settings of all parts that a picture goes through."""

    limits: ImageLimits = ImageLimits()
    """What pictures are accepted."""
    detector: DetectorSettings = DetectorSettings()
    """What counts as a face."""
    batcher: BatcherSettings = BatcherSettings()
    """How many pictures are worked on at once, and how many may be in hand."""

    def __post_init__(self) -> None:
        if self.limits.pixels_max > self.batcher.queue_pixels_max:
            raise SettingsError(
                f"limits.pixels_max is {self.limits.pixels_max}: pictures so large would never be admitted,"
                f" as batcher.queue_pixels_max is {self.batcher.queue_pixels_max}",
                hint="Lower the first or raise the second.",
            )


DEFAULT_SETTINGS = PipelineSettings()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a call wants of each of its pictures."""

    choice: FaceChoice
    min_face_px: int | None
    is_to_embed: bool
    is_to_keep: bool = False


@dataclass(frozen=True, slots=True)
class _Work:
    """One item of the batcher: a decoded picture."""

    pixels: Rgb
    asked: _Asked


@dataclass(slots=True)
class _Answer:
    """What became of one picture: templates are those of the crops, and crops those of the faces."""

    faces: list[Face] = field(default_factory=list)
    crops: list[Rgb] = field(default_factory=list)
    templates: Vectors = field(default_factory=lambda: np.empty((0, 0), np.float32))
    kept: bytes = b""
    """Of the only face."""


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
        nothing begun where too much is in hand, DeadlineError, and UnavailableError once closed.
        """
        answers = self._run(pictures, _Asked(choice, min_face_px, is_to_embed=False), deadline)
        return [answer if isinstance(answer, EngineError) else answer.faces for answer in answers]

    def embed(
        self,
        pictures: Sequence[bytes],
        choice: FaceChoice = FaceChoice.LARGEST,
        min_face_px: int | None = None,
        deadline: float | None = None,
        *,
        with_crops: bool = False,
    ) -> list[list[EmbeddedFace] | EngineError]:
        """As `detect`, each face with its template of unit length under the embedder's contract.

        `with_crops` gives the kept crop, too, of a face that is the only one chosen in its picture: one that
        is to be enrolled.
        """
        asked = _Asked(choice, min_face_px, is_to_embed=True, is_to_keep=with_crops)
        answers = self._run(pictures, asked, deadline)
        return [answer if isinstance(answer, EngineError) else _embedded(answer) for answer in answers]

    def warm_up(self) -> None:
        """Send a synthetic picture and crop through, so that the first caller finds all parts warm."""
        rng = np.random.default_rng(0)
        size = self.embedder.alignment.size_px
        picture = encode_png(rng.integers(0, 256, (WARM_UP_PX, WARM_UP_PX, 3), np.uint8))
        (outcome,) = self.detect([picture])
        # Settings may allow smaller pictures only; that is no reason not to start.
        if isinstance(outcome, EngineError) and not isinstance(outcome, InvalidInputError):
            raise outcome
        self.embedder.embed(rng.integers(0, 256, (1, size, size, 3), np.uint8))

    def close(self) -> None:
        """Finish what waits, then stop the worker; later calls raise UnavailableError. May be repeated."""
        self._batcher.close()

    def _run(
        self, pictures: Sequence[bytes], asked: _Asked, deadline: float | None
    ) -> list[_Answer | EngineError]:
        if asked.min_face_px is not None and asked.min_face_px < WINDOW_PX:
            raise InvalidInputError(f"min_face_px is {asked.min_face_px}; it must be at least {WINDOW_PX}")
        answers: list[_Answer | EngineError] = []
        for part, pixels in self._parts(pictures, asked):
            try:
                answers.extend(self._batcher.submit(self._works(part, asked), pixels, deadline))
            except OverloadedError as error:
                # It refuses a call that has not begun; later it is the outcome of the pictures it hits.
                if not answers:
                    raise
                answers.extend([error] * len(part))
        return answers

    def _parts(
        self, pictures: Sequence[bytes], asked: _Asked
    ) -> Iterator[tuple[list[bytes | EngineError], list[int]]]:
        """The pictures, or what is wrong with them, and their pixels, in parts that fit into one batch.

        At least one part, so that a closed pipeline and a deadline are noticed also without pictures.
        """
        settings = self.settings.batcher
        items_max = min(settings.batch_items_max, settings.queue_items_max)
        pixels_max = min(settings.batch_pixels_max, settings.queue_pixels_max)
        part: list[bytes | EngineError] = []
        pixels: list[int] = []
        for data in pictures:
            checked, num_pixels = self._check(data, asked)
            if part and (len(part) == items_max or sum(pixels) + num_pixels > pixels_max):
                yield part, pixels
                part, pixels = [], []
            part.append(checked)
            pixels.append(num_pixels)
        yield part, pixels

    def _check(self, data: bytes, asked: _Asked) -> tuple[bytes | EngineError, int]:
        """Look at the header of a picture: itself or what is wrong with it, and its pixels."""
        try:
            width, height = read_size(data, self.settings.limits)
            self.detector.check_size(width, height, asked.min_face_px)
        except EngineError as error:
            return error, 0
        return data, width * height

    def _works(self, part: Iterable[bytes | EngineError], asked: _Asked) -> Iterator[_Work | EngineError]:
        """Decode one by one, as the batcher asks for them."""
        for data in part:
            if isinstance(data, EngineError):
                yield data
                continue
            try:
                yield _Work(decode(data, self.settings.limits), asked)
            except EngineError as error:
                yield error

    def _process(self, batch: Sequence[_Work], is_late: IsLate) -> list[_Answer | EngineError]:
        """One batch, in the batcher's thread: faces of each picture, then templates of all crops."""
        answers = [late_error() if is_late(i) else self._find(work) for i, work in enumerate(batch)]
        start = 0
        for end in _group_ends(answers):
            group = [late_error() if is_late(i) else answers[i] for i in range(start, end)]
            answers[start:end] = self._with_templates(group)
            start = end
        return answers

    def _find(self, work: _Work) -> _Answer | EngineError:
        try:
            (faces,) = self.detector.detect([work.pixels], work.asked.min_face_px)
            return self._cut(work, faces)
        except EngineError as error:
            return error

    def _cut(self, work: _Work, faces: Sequence[Face]) -> _Answer | EngineError:
        """The chosen faces of one picture, with their crops where templates are asked for."""
        height, width = work.pixels.shape[:2]
        chosen = choose(faces, work.asked.choice, width, height)
        if not work.asked.is_to_embed:
            return _Answer(chosen)
        try:
            crops = [align(work.pixels, face.keypoints, self.embedder.alignment) for face in chosen]
            is_to_keep = work.asked.is_to_keep and len(chosen) == 1
            kept = keep(work.pixels, chosen[0].keypoints) if is_to_keep else b""
        except EngineError as error:
            return error
        return _Answer(chosen, crops, kept=kept)

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
        EmbeddedFace(face, template.copy(), answer.kept)
        for face, template in zip(answer.faces, answer.templates, strict=True)
    ]


def _group_ends(answers: Sequence[_Answer | EngineError]) -> list[int]:
    """Where to cut the answers into groups of at most EMBED_FACES crops, or one picture's."""
    ends = []
    num_crops = 0
    for i, answer in enumerate(answers):
        more = len(answer.crops) if isinstance(answer, _Answer) else 0
        if num_crops and num_crops + more > EMBED_FACES:
            ends.append(i)
            num_crops = 0
        num_crops += more
    return [*ends, len(answers)]
