"""What goes through a job: pictures or rows of vectors, and what became of each. Plain values."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import msgspec

from engine.types import NO_ATTRIBUTES, EmbeddingContract, Vectors


class Reason(enum.StrEnum):
    """Why an item was refused, or flagged."""

    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    FACE_TOO_SMALL = "face_too_small"
    LOW_CONFIDENCE = "low_confidence"
    BLURRED = "blurred"
    EXTREME_POSE = "extreme_pose"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    DUPLICATE_OF = "duplicate_of"
    """The same bytes under another key."""
    NEAR_ANOTHER_IDENTITY = "near_another_identity"
    """A template nearer to another identity's than to its own."""
    UNREADABLE = "unreadable"
    """The source names it, but its bytes cannot be read."""
    WORKER_KILLED = "worker_killed"
    """The process that worked on it was killed, alone with it, too."""
    BAD_ROW = "bad_row"
    """A row of a manifest that is wrong in itself."""
    BAD_VECTOR = "bad_vector"
    """Not finite, zero, or not of unit length."""
    BAD_IDENTITY = "bad_identity"
    """A name that no identity can have."""
    BAD_PATH = "bad_path"
    """A path or a link that leads outside the source, back, or nowhere."""
    TEMPLATE_LIMIT = "template_limit"
    """The identity has as many better templates as one may have."""


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One picture of a source."""

    key: str
    """Names it in its source, the same in every run, unique; at most SOURCE_BYTES_MAX bytes of UTF-8."""
    identity_id: str
    file: str = ""
    """The file that holds it, relative to the source's root."""
    offset: int = 0
    """Where in that file: bytes of a tar, rows of an HDF5 data set."""
    size_bytes: int = 0
    """0: not known without reading it."""
    mtime_ns: int = 0
    attributes: dict[str, str] = msgspec.field(default_factory=dict)


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item that is not enrolled, or, where it is only flagged, one to be looked at."""

    key: str
    reason: Reason
    identity_id: str = ""
    detail: str = ""
    """For a person: the value and the limit, or the other key."""


@dataclass(frozen=True)
class Bare:
    """An identity without templates."""

    identity_id: str
    attributes: Mapping[str, str]
    expire_time: float | None


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source of vectors."""

    first_row: int
    vectors: Vectors
    """float32[n, d]"""
    identity_ids: Sequence[str]
    keys: Sequence[str]
    """Source keys, see `Item.key`."""
    attributes: Sequence[Mapping[str, str]] = ()
    """Of each row; empty: none has any."""
    qualities: Sequence[float] = ()
    """Of each row, 0..1; empty: not known."""
    expire_times: Sequence[float | None] = ()
    """Of each row's identity, unix seconds; empty: nobody expires."""
    refusals: Sequence[Refusal] = field(default=())
    """Rows of this block left out of all of the above."""
    sources: Sequence[str] = ()
    """What each template says of where it came from; empty: its key."""
    bare: Sequence[Bare] = ()
    """Rows of this block that are no templates, left out of the rest, too."""

    def attributes_of(self, place: int) -> Mapping[str, str]:
        """Of the row at this place of the block."""
        return self.attributes[place] if self.attributes else NO_ATTRIBUTES


class PictureSource(Protocol):
    """Pictures by identity. Can be pickled; says the same each time unless the files changed."""

    kind: str

    def items(self) -> Iterator[Item | Refusal]:
        """All of them, in an order that is the same in every run; what is wrong in itself as a refusal."""
        ...

    def read(self, item: Item) -> bytes:
        """The encoded picture. Raises OSError, or InvalidInputError where it is too large to be read."""
        ...


@runtime_checkable
class VectorSource(Protocol):
    """Rows of vectors with the identity of each. Can be pickled."""

    kind: str
    num_rows: int
    dimension: int
    contract: EmbeddingContract | None
    """What made them, where the source says so."""

    def fingerprint(self) -> str:
        """Changes where a file of the source does: names, sizes and times."""
        ...

    def read(self, start: int, stop: int) -> Block:
        """Rows start to stop - 1, as they are: neither checked nor normalised. Raises OSError."""
        ...
