"""Binary forms of what the store keeps, each with a checksum. Knows nothing of LMDB.

Format 2; 3 where the gallery keeps crops, 4 where it decides otherwise than by one threshold. Format 1 is
read, and differs from 2 only in having no table of attributes. All integers little-endian, but keys, which
are big-endian so that LMDB keeps them in order. Records of identities and templates stay under 2,000 bytes:
beyond that LMDB spills whole pages.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np

from engine.errors import CorruptDataError, NewerFormatError
from engine.types import GallerySettings, Vector

FORMAT_VERSION = 4
"""1: the first. 2: attributes can be looked up, in a table of their own. 3: crops may be kept, in another. 4:
settings may ask for rates, or for a REVIEW of what is ambiguous."""
FORMAT_LEAST = 2
"""What any gallery is written in, where its settings ask for no more; see `format_of`."""
FORMAT_WITH_CROPS = 3

ATTRIBUTE_KEY_BYTES = 16

_CRC = struct.Struct("<I")
_FORMAT = struct.Struct("<I")
_KEY = struct.Struct(">Q")
_TEMPLATE = struct.Struct("<QqfHH")  # identity number, create ms, quality, dimension, bytes of source
_STATE = struct.Struct("<IIQQQQQQQQQQ")

_DECODERS: dict[type, msgspec.msgpack.Decoder[Any]] = {}
"""By what they make: making one takes longer than decoding a record."""

T = TypeVar("T")


class Journal(msgspec.Struct, frozen=True, array_like=True):
    """What one write changed: template ids added and removed. Holds no vectors."""

    added: list[int]
    removed: list[int]


class IdentityRecord(msgspec.Struct, frozen=True, array_like=True):
    """An identity as stored under its id."""

    number: int
    """Unique in the store, never reused; what index rows point to."""
    create_ms: int
    expire_ms: int
    """0: never."""
    template_ids: list[int]
    attributes: dict[str, str]


class ReceiptRecord(msgspec.Struct, frozen=True, array_like=True):
    """The answer to one write, kept for its retries."""

    body_sha256: bytes
    create_ms: int
    answer: bytes


@dataclass(frozen=True, slots=True)
class TemplateRecord:
    """A template as stored under its id."""

    identity_number: int
    create_ms: int
    quality: float
    source: str
    vector: Vector


@dataclass(slots=True)
class State:
    """Counters of one store: one small record, read before every search."""

    dimension: int
    sequence: int = 0
    generation: int = 0
    """Number of the current generation of the index; 0: none."""
    generation_sequence: int = 0
    """The sequence that it covers; journal rows up to it are trimmed."""
    generation_last: int = 0
    """Highest number ever given to a generation: numbers are never reused."""
    template_id_last: int = 0
    identity_number_last: int = 0
    num_identities: int = 0
    num_templates: int = 0
    retired_by: int = 0
    """Epoch that replaced this store; 0: it is the current one."""
    erase_sequence: int = 0
    """Last removal whose vectors were promised to be erased from every file, and may not be yet; 0: none."""
    format: int = field(default=FORMAT_LEAST, kw_only=True)
    """That the store is written in."""


def key(number: int) -> bytes:
    """Key of a numbered row."""
    return _KEY.pack(number)


def number(key_bytes: bytes) -> int:
    """Number of a row's key."""
    return int(_KEY.unpack(key_bytes)[0])


def attribute_key(name: str, value: str) -> bytes:
    """Key under which the numbers of the identities with this attribute are kept: 16 bytes.

    A digest, since LMDB's keys have at most 511 bytes.
    """
    name_bytes = name.encode()
    digest = hashlib.blake2b(_FORMAT.pack(len(name_bytes)), digest_size=ATTRIBUTE_KEY_BYTES)
    digest.update(name_bytes)
    digest.update(value.encode())
    return digest.digest()


def format_of(settings: GallerySettings) -> int:
    """Format of a gallery with these settings, which versions must refuse that would do it wrong.

    One that knows no crops would remove templates and leave their crops; one that knows no rates would decide
    by the contract's threshold.
    """
    if settings.target_fpir is not None or settings.target_fmr is not None or settings.ambiguity:
        return FORMAT_VERSION
    return FORMAT_WITH_CROPS if settings.keep_crops else FORMAT_LEAST


def pack_state(state: State) -> bytes:
    """State to bytes; one of an older format becomes FORMAT_LEAST."""
    *counters, found = dataclasses.astuple(state)
    return _seal(_STATE.pack(max(found, FORMAT_LEAST), *counters))


def unpack_state(data: bytes) -> State:
    """Bytes to state. Raises NewerFormatError, CorruptDataError."""
    # Before the checksum: a newer format may have another length.
    found = state_format(data)
    if found > FORMAT_VERSION:
        raise NewerFormatError(f"the store has format {found}, this version reads up to {FORMAT_VERSION}")
    body = _open(data, "state")
    return State(*_STATE.unpack(body)[1:], format=found)


def state_format(data: bytes) -> int:
    """Format of the store that these bytes are the state of; 0 where they are too short to be one's."""
    return int(_FORMAT.unpack_from(data, _CRC.size)[0]) if len(data) >= _CRC.size + _FORMAT.size else 0


def pack_template(record: TemplateRecord) -> bytes:
    """Template to bytes: header, vector, source."""
    source = record.source.encode()
    head = _TEMPLATE.pack(
        record.identity_number, record.create_ms, record.quality, len(record.vector), len(source)
    )
    return _seal(head + record.vector.astype("<f4", copy=False).tobytes() + source)


def unpack_template(data: bytes) -> TemplateRecord:
    """Bytes to template. Raises CorruptDataError."""
    body = _open(data, "template")
    identity_number, create_ms, quality, dimension, source_bytes = _TEMPLATE.unpack_from(body)
    end = _TEMPLATE.size + 4 * dimension
    if len(body) != end + source_bytes:
        raise CorruptDataError("a template record has the wrong length")
    vector = np.frombuffer(body, "<f4", dimension, _TEMPLATE.size)
    return TemplateRecord(identity_number, create_ms, quality, body[end:].decode(), vector)


def vector_bytes(data: bytes, dimension: int) -> bytes:
    """The little-endian float32[d] of a template's bytes. Raises CorruptDataError.

    As `unpack_template` without what a search does not ask for.
    """
    body = _open(data, "template")
    _, _, _, found, source_bytes = _TEMPLATE.unpack_from(body)
    end = _TEMPLATE.size + 4 * dimension
    if found != dimension or len(body) != end + source_bytes:
        raise CorruptDataError("a template record has the wrong length")
    return body[_TEMPLATE.size : end]


def pack_crop(crop: bytes) -> bytes:
    """Kept crop to bytes."""
    return _seal(crop)


def unpack_crop(data: bytes) -> bytes:
    """Bytes to kept crop. Raises CorruptDataError."""
    return _open(data, "kept crop")


def pack(record: object) -> bytes:
    """Journal, identity, receipt, contract, settings or text to bytes."""
    return _seal(msgspec.msgpack.encode(record))


def unpack(data: bytes, kind: type[T]) -> T:
    """Bytes to what `pack` was given. Raises CorruptDataError."""
    try:
        decoder = _DECODERS.get(kind) or _DECODERS.setdefault(kind, msgspec.msgpack.Decoder(kind))
        decoded: T = decoder.decode(_open(data, kind.__name__))
        return decoded
    except msgspec.MsgspecError as error:
        raise CorruptDataError(f"a {kind.__name__} does not decode: {error}") from error


def unpack_settings(data: bytes) -> GallerySettings:
    """Bytes to a gallery's settings; those that an older version did not know have their defaults.

    Raises CorruptDataError; NewerFormatError for a choice that this version does not know.
    """
    try:
        return unpack(data, GallerySettings)
    except CorruptDataError as error:
        # The checksum holds: these are the bytes that were written.
        if isinstance(error.__cause__, msgspec.ValidationError):
            raise NewerFormatError(
                f"the gallery's settings were not written by this version: {error.__cause__}"
            ) from error
        raise


def _seal(body: bytes) -> bytes:
    return _CRC.pack(zlib.crc32(body)) + body


def _open(data: bytes, what: str) -> bytes:
    # A copy, which for records of this size is made in less time than a view.
    body = data[_CRC.size :]
    if len(data) < _CRC.size or _CRC.unpack_from(data)[0] != zlib.crc32(body):
        raise CorruptDataError(f"the checksum of a {what} record does not hold")
    return body
