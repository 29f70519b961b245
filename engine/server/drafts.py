"""Messages of what to enroll as values, each item with its own outcome. Knows no store and no rpc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine import rules
from engine.errors import EngineError, InvalidInputError
from engine.gallery import Gallery
from engine.limits import TEMPLATES_PER_IDENTITY_MAX
from engine.pb.identiface.v1 import enrollment_pb2
from engine.server.backend import Backend
from engine.server.call import Call
from engine.server.pictures import check_num_pictures, embed_for, named, only_face
from engine.types import EmbeddedFace, Enrollment, Face, Template, Vector
from engine.vectors import check_batch
from engine.wire.values import unpack_time


@dataclass(slots=True)
class Draft:
    """One identity to enroll, and the face that each of its templates was made from; None: a vector."""

    enrollment: Enrollment
    faces: list[Face | None]


@dataclass(slots=True)
class _Slot:
    """A sample of the call: whose it is, and what it is called in messages to the caller."""

    item: int
    name: str
    sample: enrollment_pb2.Sample


Made = tuple[Vector, Face | None, bytes]
"""A template, the face that it is of, and its kept crop."""


def read_drafts(
    backend: Backend,
    gallery: Gallery,
    messages: Sequence[enrollment_pb2.Enrollment],
    prefixes: Sequence[str],
    call: Call,
) -> list[Draft | EngineError]:
    """Check and embed what is to be enrolled, all items together; `prefixes` name the items in errors.

    What needs no picture is checked before any is decoded. Raises what concerns the whole call:
    InvalidInputError for more than PICTURES_MAX pictures, and as `embed_for`.
    """
    errors = {
        item: error
        for item, (message, prefix) in enumerate(zip(messages, prefixes, strict=True))
        if (error := _problem(message, prefix))
    }
    slots = [
        _Slot(item, f"{prefixes[item]}samples[{position}]", sample)
        for item, message in enumerate(messages)
        if item not in errors
        for position, sample in enumerate(message.samples)
    ]
    kinds = [slot.sample.WhichOneof("content") for slot in slots]
    check_num_pictures(kinds.count("picture"), "samples")
    made = iter(_read_vectors(gallery, [s for s, kind in zip(slots, kinds, strict=True) if kind == "vector"]))
    embedded = iter(
        _embed(backend, gallery, [s for s, kind in zip(slots, kinds, strict=True) if kind == "picture"], call)
    )
    templates: list[list[Template]] = [[] for _ in messages]
    faces: list[list[Face | None]] = [[] for _ in messages]
    for slot, kind in zip(slots, kinds, strict=True):
        outcome = next(made) if kind == "vector" else next(embedded) if kind else _empty(slot)
        if isinstance(outcome, EngineError):
            errors.setdefault(slot.item, outcome)
            continue
        template = _template(slot, outcome)
        if isinstance(template, EngineError):
            errors.setdefault(slot.item, template)
            continue
        templates[slot.item].append(template)
        faces[slot.item].append(outcome[1])
    return [
        errors.get(item) or _draft(message, prefixes[item], templates[item], faces[item])
        for item, message in enumerate(messages)
    ]


def _problem(message: enrollment_pb2.Enrollment, prefix: str) -> EngineError | None:
    """Say why an item cannot be enrolled, whatever its samples hold."""
    num_samples = len(message.samples)
    if num_samples > TEMPLATES_PER_IDENTITY_MAX:
        return InvalidInputError(
            f"{prefix}samples: {num_samples} given, at most {TEMPLATES_PER_IDENTITY_MAX} are taken at once"
        )
    if message.evict not in enrollment_pb2.EvictPolicy.values():
        return InvalidInputError(f"{prefix}evict: {message.evict} is no policy of this version")
    try:
        expire_time = _expire_time(message, prefix)
    except InvalidInputError as error:
        return error
    try:
        rules.check_identity_id(message.identity_id)
        rules.check_attributes(message.attributes)
        rules.check_expire_time(expire_time)
        for sample in message.samples:
            rules.check_source(sample.source)
    except InvalidInputError as error:
        return named(error, prefix.rstrip(".")) if prefix else error
    return None


def _expire_time(message: enrollment_pb2.Enrollment, prefix: str) -> float | None:
    if not message.HasField("expire_time"):
        return None
    return unpack_time(message.expire_time, f"{prefix}expire_time")


def _draft(
    message: enrollment_pb2.Enrollment, prefix: str, templates: list[Template], faces: list[Face | None]
) -> Draft:
    enrollment = Enrollment(
        message.identity_id,
        tuple(templates),
        dict(message.attributes),
        _expire_time(message, prefix),
        replace=message.replace,
        evict_lowest_quality=message.evict == enrollment_pb2.EVICT_POLICY_LOWEST_QUALITY,
    )
    return Draft(enrollment, faces)


def _template(slot: _Slot, made: Made) -> Template | EngineError:
    vector, face, crop = made
    quality = slot.sample.quality if face is None else face.confidence
    if not 0.0 <= quality <= 1.0:
        return InvalidInputError(f"{slot.name}.quality is {quality:g}; it must be 0 to 1")
    return Template(vector, quality, slot.sample.source, crop)


def _read_vectors(gallery: Gallery, slots: Sequence[_Slot]) -> list[Made | EngineError]:
    """All vectors of a message are checked as one array: item by item it would take ten times as long."""
    vectors = [slot.sample.vector for slot in slots]
    rows, errors = check_batch(
        [vector.data for vector in vectors],
        gallery.contract.dimension,
        normalize=[vector.normalize for vector in vectors],
        names=[slot.name for slot in slots],
    )
    return [
        errors.get(position) or _crop_problem(gallery, slot) or (row, None, slot.sample.crop)
        for position, (row, slot) in enumerate(zip(rows, slots, strict=True))
    ]


def _crop_problem(gallery: Gallery, slot: _Slot) -> InvalidInputError | None:
    try:
        rules.check_crop(slot.sample.crop, f"{slot.name}.crop", keeps_crops=gallery.keeps_crops)
    except InvalidInputError as error:
        return error
    return None


def _embed(
    backend: Backend, gallery: Gallery, slots: Sequence[_Slot], call: Call
) -> list[Made | EngineError]:
    pictures = [slot.sample.picture for slot in slots]
    outcomes = embed_for(backend, gallery.contract, pictures, call, with_crops=gallery.keeps_crops)
    return [_made(outcome, slot.name) for slot, outcome in zip(slots, outcomes, strict=True)]


def _made(outcome: list[EmbeddedFace] | EngineError, name: str) -> Made | EngineError:
    if isinstance(outcome, EngineError):
        return named(outcome, name)
    try:
        face = only_face(outcome, name)
    except InvalidInputError as error:
        return error
    return face.template, face.face, face.crop


def _empty(slot: _Slot) -> EngineError:
    return InvalidInputError(f"{slot.name} holds neither a picture nor a vector")
