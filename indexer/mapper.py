"""Pictures to templates, one outcome for each: the work of a job that runs in every process.

::

    reader's thread:  read -> sha256 -> decode ─┐  LOOKAHEAD pictures before the other
    caller's thread:                            └> detect -> measure -> judge -> align -> embed by EMBED_CROPS

The same picture gives the same bytes whatever else is in the call: a network's last float bits depend on how
many crops go through it at once, so always EMBED_CROPS do, and the last few are filled up with copies. Two
calls agree to the bit where network, device and number of threads are the same.

Memory: 1 + LOOKAHEAD pictures, EMBED_CROPS crops, and the outcomes.
"""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from engine import vectors
from engine.assembly import EmbeddingSettings, build_pipeline
from engine.errors import InvalidInputError, InvalidPictureError, PictureTooLargeError, WeightsError
from engine.types import EmbeddingContract, Face, Rgb, Vectors
from indexer.gate import DEFAULT_SETTINGS, GateSettings, judge
from indexer.items import Item, PictureSource, Reason

if TYPE_CHECKING:
    from engine.embedding.detect import Detector
    from engine.embedding.embed import Embedder
    from engine.embedding.images import ImageLimits

EMBED_CROPS = 16
"""Crops that go through the network at once, always. On one core dlib's ResNet takes 6.7 ms a crop in batches
of 16 as of 32, and 16.9 ms alone. A call ends with up to 15 copies embedded for nothing: a tenth of a
second."""
LOOKAHEAD = 2
"""Pictures read and decoded before their turn."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one item: vectors, or a reason."""

    key: str
    identity_id: str
    reason: str = ""
    """A `Reason`; empty: it gave at least one vector."""
    detail: str = ""
    """For a person: the value and the limit, or what was raised."""
    sha256: bytes = b""
    """Of the encoded picture; empty where it could not be read."""
    vectors: list[bytes] = msgspec.field(default_factory=list)
    """Unit templates, each little-endian float32; largest face first. Empty once a gallery has them all."""
    qualities: list[float] = msgspec.field(default_factory=list)
    """Of each vector, 0..1: the detector's confidence."""
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    """The item's own."""
    crops: list[bytes] = msgspec.field(default_factory=list)
    """Of each vector, its kept crop; empty where the gallery keeps none, and once they are loaded."""


@dataclass(slots=True)
class _Draft:
    """An outcome in the making."""

    item: Item
    picture: Rgb | None = None
    sha256: bytes = b""
    reason: Reason | None = None
    detail: str = ""
    vectors: list[bytes] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)
    crops: list[bytes] = field(default_factory=list)

    def refuse(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail
        self.vectors, self.qualities, self.crops = [], [], []

    def outcome(self) -> Outcome:
        return Outcome(
            self.item.key,
            self.item.identity_id,
            self.reason.value if self.reason else "",
            self.detail,
            self.sha256,
            self.vectors,
            self.qualities,
            self.item.attributes,
            self.crops,
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What takes seconds and memory to load."""

    detector: Detector
    embedder: Embedder
    limits: ImageLimits


@dataclass(frozen=True, slots=True)
class _Crop:
    draft: _Draft
    face: Face
    pixels: Rgb
    kept: bytes
    """Empty: not asked for."""


class PictureMapper:
    """Makes outcomes of items, for one thread at a time. Can be pickled: each process loads the network."""

    def __init__(
        self, source: PictureSource, embedding: EmbeddingSettings, gate: GateSettings = DEFAULT_SETTINGS
    ):
        self.source = source
        self.embedding = embedding
        self.gate = gate
        self.keep_crops = False
        self._loaded: _Parts | None = None

    def keeping_crops(self, *, keep_crops: bool) -> PictureMapper:
        """The same, whose outcomes have kept crops or not."""
        other = copy.copy(self)
        other.keep_crops = keep_crops
        # Copied as for another process, without what takes seconds to load.
        other._loaded = self._loaded
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def load(self) -> None:
        """Load detector and network now. Raises as `engine.assembly.build_pipeline`."""
        assert self._parts is not None

    @property
    def contract(self) -> EmbeddingContract:
        """What made the vectors. Loads the network; raises as `engine.assembly.build_pipeline`."""
        return self._parts.embedder.contract

    @property
    def device(self) -> str:
        """Device that the network really runs on. Loads it."""
        return self._parts.embedder.device

    def __call__(self, items: Sequence[Item]) -> list[Outcome]:
        """One outcome for each item, in their order, whatever is wrong with any of them.

        Raises SettingsError, WeightsError or DeviceError where detector or network cannot be loaded.
        """
        parts = self._parts
        drafts: list[_Draft] = []
        waiting: list[_Crop] = []
        for draft in self._read_ahead(items, parts.limits):
            drafts.append(draft)
            if draft.picture is not None:
                waiting.extend(self._crops(draft, draft.picture, parts))
                draft.picture = None
            while len(waiting) >= EMBED_CROPS:
                _embed(waiting[:EMBED_CROPS], parts.embedder)
                del waiting[:EMBED_CROPS]
        if waiting:
            _embed(waiting, parts.embedder)
        return [draft.outcome() for draft in drafts]

    @property
    def _parts(self) -> _Parts:
        if self._loaded is None:
            # Built and closed at once: its parts are used without its threads and queues.
            with build_pipeline(self.embedding) as pipeline:
                limits = pipeline.settings.limits
                self._loaded = _Parts(pipeline.detector, pipeline.embedder, limits)
        return self._loaded

    def _read_ahead(self, items: Sequence[Item], limits: ImageLimits) -> Iterator[_Draft]:
        """Drafts with their pictures decoded, in order, while the next ones are read in another thread."""
        ahead: deque[Future[_Draft]] = deque()
        with ThreadPoolExecutor(1, "picture-reader") as reader:
            for item in items:
                ahead.append(reader.submit(self._read, item, limits))
                if len(ahead) > LOOKAHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _read(self, item: Item, limits: ImageLimits) -> _Draft:
        from engine.embedding.images import decode

        draft = _Draft(item)
        if item.size_bytes > limits.bytes_max:
            draft.refuse(
                Reason.TOO_LARGE, f"{item.size_bytes} bytes, at most {limits.bytes_max} are accepted"
            )
            return draft
        try:
            data = self.source.read(item)
        except OSError as error:
            draft.refuse(Reason.UNREADABLE, error.strerror or str(error))
            return draft
        except InvalidInputError as error:
            draft.refuse(Reason.TOO_LARGE, error.message)
            return draft
        except MemoryError:
            draft.refuse(Reason.TOO_LARGE, "no memory for its bytes")
            return draft
        draft.sha256 = hashlib.sha256(data).digest()
        try:
            draft.picture = decode(data, limits)
        except PictureTooLargeError as error:
            draft.refuse(Reason.TOO_LARGE, error.message)
        except InvalidPictureError as error:
            draft.refuse(Reason.UNDECODABLE, error.message)
        return draft

    def _crops(self, draft: _Draft, picture: Rgb, parts: _Parts) -> list[_Crop]:
        """The crops of the faces that pass the gate; none where the draft is refused."""
        from engine.embedding.align import align
        from engine.embedding.kept import keep
        from engine.embedding.quality import measure_all

        height, width = picture.shape[:2]
        try:
            (found,) = parts.detector.detect([picture])
            faces, measures = measure_all(picture, found)
            if found and not faces:
                draft.refuse(Reason.EXTREME_POSE, "eyes, nose and mouth lie as on no face")
                return []
            verdict = judge(faces, measures, self.gate, width, height)
            if verdict.reason is not None:
                draft.refuse(verdict.reason, verdict.detail)
            alignment = parts.embedder.alignment
            return [
                _Crop(
                    draft,
                    faces[place],
                    align(picture, faces[place].keypoints, alignment),
                    keep(picture, faces[place].keypoints) if self.keep_crops else b"",
                )
                for place in verdict.chosen
            ]
        except InvalidPictureError as error:
            draft.refuse(Reason.EXTREME_POSE, error.message)
        except InvalidInputError as error:
            # The detector's only other complaint: too many pixels for faces so small.
            draft.refuse(Reason.TOO_LARGE, error.message)
        except MemoryError:
            draft.refuse(Reason.TOO_LARGE, f"no memory for its {width}x{height} pixels")
        return []


def _embed(crops: Sequence[_Crop], embedder: Embedder) -> None:
    """Write the templates of at most EMBED_CROPS crops into their drafts."""
    try:
        templates = _templates(crops, embedder)
    except WeightsError as error:
        if len(crops) == 1:
            crops[0].draft.refuse(Reason.BAD_VECTOR, error.message)
            return
        # Some crop has no template; one by one, only its own picture is refused.
        for crop in crops:
            _embed([crop], embedder)
        return
    for crop, template in zip(crops, templates, strict=True):
        # A picture with one bad crop is refused as a whole, also where another batch has its other faces.
        if crop.draft.reason is None:
            crop.draft.vectors.append(vectors.to_bytes(template))
            crop.draft.qualities.append(crop.face.confidence)
            if crop.kept:
                crop.draft.crops.append(crop.kept)


def _templates(crops: Sequence[_Crop], embedder: Embedder) -> Vectors:
    """Templates of the crops, embedded as a full batch whose empty places repeat the first crop."""
    padded = [crop.pixels for crop in crops] + [crops[0].pixels] * (EMBED_CROPS - len(crops))
    templates: Vectors = embedder.embed(np.stack(padded))[: len(crops)]
    return templates
