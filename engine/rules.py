"""What callers may name things: ids, attributes, sources, settings. Knows no store and no wire."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping

from engine.errors import InvalidIdError, InvalidInputError, InvalidVectorError
from engine.limits import (
    ATTRIBUTES_BYTES_MAX,
    CONTRACT_NAME_CHARS_MAX,
    CROP_BYTES_MAX,
    DIMENSION_MAX,
    DIMENSION_MIN,
    IDENTITY_ID_BYTES_MAX,
    K_MAX,
    SOURCE_BYTES_MAX,
    TEMPLATES_PER_IDENTITY_MAX,
)
from engine.types import EmbeddingContract, Enrollment, GallerySettings

GALLERY_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_REFUSED_CATEGORIES = {
    "Cc": "a control character",
    "Cs": "a surrogate",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}


def check_gallery_id(gallery_id: str, name: str = "gallery_id") -> None:
    """Raise InvalidIdError unless the id matches [a-z0-9][a-z0-9_-]{0,62}."""
    if not GALLERY_ID.fullmatch(gallery_id):
        raise InvalidIdError(f"{name} {gallery_id[:80]!r} does not match [a-z0-9][a-z0-9_-]{{0,62}}")


def check_identity_id(identity_id: str) -> None:
    """Raise InvalidIdError unless the id is 1 to 255 bytes of UTF-8 in NFC form without control characters.

    NFC, so that one name typed on two systems is one identity.
    """
    name = f"identity_id {identity_id[:40]!r}"
    if not identity_id:
        raise InvalidIdError("identity_id is empty")
    if problem := _text_problem(identity_id):
        raise InvalidIdError(f"{name} holds {problem}")
    size = len(identity_id.encode())
    if size > IDENTITY_ID_BYTES_MAX:
        raise InvalidIdError(f"{name} has {size} bytes of UTF-8, at most {IDENTITY_ID_BYTES_MAX} are allowed")
    if identity_id != identity_id.strip():
        raise InvalidIdError(f"{name} begins or ends with a blank")
    if not unicodedata.is_normalized("NFC", identity_id):
        raise InvalidIdError(
            f"{name} is not in Unicode NFC form", hint="Normalise it to NFC before sending it."
        )


def check_attributes(attributes: Mapping[str, str], name: str = "attributes") -> None:
    """Raise InvalidInputError for an empty key or more than ATTRIBUTES_BYTES_MAX bytes in all."""
    if "" in attributes:
        raise InvalidInputError(f"{name}: a key is empty")
    for text in (*attributes.keys(), *attributes.values()):
        if "\x00" in text or (not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)):
            raise InvalidInputError(f"{name}: a key or value holds a NUL or a surrogate")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())
    if size > ATTRIBUTES_BYTES_MAX:
        raise InvalidInputError(
            f"{name}: {size} bytes of keys and values, at most {ATTRIBUTES_BYTES_MAX} are allowed"
        )


def check_enrollment(enrollment: Enrollment, dimension: int, *, keeps_crops: bool = False) -> None:
    """Raise InvalidIdError, InvalidInputError or InvalidVectorError for what no such gallery can enroll."""
    check_identity_id(enrollment.identity_id)
    check_attributes(enrollment.attributes)
    check_expire_time(enrollment.expire_time)
    for template in enrollment.templates:
        check_source(template.source)
        check_crop(template.crop, keeps_crops=keeps_crops)
        # One row of another length would make the whole gallery unsearchable.
        if template.vector.shape != (dimension,):
            raise InvalidVectorError(
                f"a template of identity {enrollment.identity_id[:80]!r} has shape "
                f"{template.vector.shape}, the gallery's have ({dimension},)"
            )


def check_source(source: str) -> None:
    """Raise InvalidInputError for a source key over SOURCE_BYTES_MAX bytes or with control characters."""
    if problem := _text_problem(source):
        raise InvalidInputError(f"source {source[:40]!r} holds {problem}")
    if len(source.encode()) > SOURCE_BYTES_MAX:
        raise InvalidInputError(
            f"source has {len(source.encode())} bytes, at most {SOURCE_BYTES_MAX} are allowed"
        )


def check_crop(crop: bytes, name: str = "crop", *, keeps_crops: bool) -> None:
    """Raise InvalidInputError for a crop that is too large, or that the gallery must not keep."""
    if crop and not keeps_crops:
        raise InvalidInputError(
            f"{name}: a kept crop was given, and the gallery keeps none",
            hint="Leave it out, or create a gallery with keep_crops: it cannot be changed later.",
        )
    if len(crop) > CROP_BYTES_MAX:
        raise InvalidInputError(f"{name} has {len(crop)} bytes, at most {CROP_BYTES_MAX} are allowed")


def check_k(k: int) -> None:
    """Raise InvalidInputError unless 1 <= k <= K_MAX."""
    if not 1 <= k <= K_MAX:
        raise InvalidInputError(f"k is {k}, it must be 1 to {K_MAX}")


def check_threshold(threshold: float | None) -> None:
    """Raise InvalidInputError unless None or a similarity."""
    if threshold is not None and not -1.0 <= threshold <= 1.0:
        raise InvalidInputError(f"threshold is {threshold}, it must be a similarity from -1 to 1")


def check_contract(contract: EmbeddingContract) -> None:
    """Raise InvalidInputError for a contract that no gallery can be bound to."""
    check_contract_name(contract.name, "contract.name")
    if len(contract.alignment) > CONTRACT_NAME_CHARS_MAX or _text_problem(contract.alignment):
        raise InvalidInputError(
            f"contract.alignment must be at most {CONTRACT_NAME_CHARS_MAX} printable characters"
        )
    if not DIMENSION_MIN <= contract.dimension <= DIMENSION_MAX:
        raise InvalidInputError(
            f"contract.dimension is {contract.dimension}, it must be {DIMENSION_MIN} to {DIMENSION_MAX}"
        )
    if contract.normalisation != "l2":
        raise InvalidInputError(f"contract.normalisation is {contract.normalisation!r}, only 'l2' is known")
    if contract.weights_sha256 and not re.fullmatch(r"[0-9a-f]{64}", contract.weights_sha256):
        raise InvalidInputError("contract.weights_sha256 must be empty or 64 lower-case hex digits")
    check_threshold(contract.threshold)


def check_contract_name(text: str, name: str) -> None:
    """Raise InvalidInputError unless a contract may be called `text`; `name` is what the message calls it."""
    if not text or len(text) > CONTRACT_NAME_CHARS_MAX or _text_problem(text):
        raise InvalidInputError(
            f"{name} must be 1 to {CONTRACT_NAME_CHARS_MAX} printable characters, not the {len(text)} of"
            f" {text[:40]!r}{'...' if len(text) > 40 else ''}"
        )


def check_settings(settings: GallerySettings) -> None:
    """Raise InvalidInputError for gallery settings out of range."""
    if not 1 <= settings.templates_per_identity_max <= TEMPLATES_PER_IDENTITY_MAX:
        raise InvalidInputError(
            f"templates_per_identity_max is {settings.templates_per_identity_max}, "
            f"it must be 1 to {TEMPLATES_PER_IDENTITY_MAX}"
        )
    check_threshold(settings.threshold)
    for name in ("target_fpir", "review_fpir", "target_fmr"):
        check_rate(getattr(settings, name), name)
    if settings.threshold is not None and settings.target_fpir is not None:
        raise InvalidInputError(
            "threshold and target_fpir exclude each other: a threshold is fixed, or follows from a rate"
        )
    if settings.review_fpir is not None:
        if settings.target_fpir is None:
            raise InvalidInputError("review_fpir needs target_fpir, the rate that it is above")
        if settings.review_fpir <= settings.target_fpir:
            raise InvalidInputError(
                f"review_fpir is {settings.review_fpir}, it must be more than target_fpir,"
                f" {settings.target_fpir}: more strangers are looked at than accepted"
            )
    # Two similarities are at most 2 apart.
    if not 0.0 <= settings.ambiguity <= 2.0:
        raise InvalidInputError(
            f"ambiguity is {settings.ambiguity}, it must be a difference of similarities from 0 to 2"
        )


def check_rate(rate: float | None, name: str) -> None:
    """Raise InvalidInputError unless None or a share more than 0 and less than 1; NaN is neither."""
    if rate is not None and not 0.0 < rate < 1.0:
        raise InvalidInputError(
            f"{name} is {rate}, it must be more than 0 and less than 1",
            hint="0.001 accepts one stranger in a thousand; 0 would accept nobody, 1 everybody.",
        )


def check_expire_time(expire_time: float | None) -> None:
    """Raise InvalidInputError unless None or a time after 1970 that a clock can reach."""
    if expire_time is not None and not (math.isfinite(expire_time) and 0 < expire_time < 253402300800):
        raise InvalidInputError(f"expire_time is {expire_time}, it must be between the years 1970 and 9999")


def _text_problem(text: str) -> str | None:
    if text.isascii():
        return None if text.isprintable() else _REFUSED_CATEGORIES["Cc"]
    for char in text:
        if refused := _REFUSED_CATEGORIES.get(unicodedata.category(char)):
            return refused
    return None
