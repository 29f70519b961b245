"""Templates of a shard to a gallery, each under its source key: what is there already changes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec
import numpy as np

from engine.errors import EngineError, InvalidVectorError, TemplateLimitError
from engine.types import NO_ATTRIBUTES, Enrollment, EnrollResult, Template
from engine.vectors import units
from indexer.items import Block, Reason, Refusal, VectorSource
from indexer.mapper import Outcome
from indexer.record import Loaded
from indexer.target import Target

UNREADABLE_ROWS = 1024
"""Rows of vectors that are given up together where a file is damaged."""


def load_pictures(
    target: Target, gallery_id: str, outcomes: Iterable[Outcome], *, with_crops: bool = False
) -> Loaded:
    """Enroll the templates of these outcomes, one enrollment for each run of one identity.

    `with_crops`: with their kept crops, for a gallery that keeps them.
    """
    enrollments = []
    for identity_id, run in groupby(outcomes, key=lambda outcome: outcome.identity_id):
        own = list(run)
        templates = [
            Template(np.frombuffer(data, "<f4"), quality, outcome.key, crop)
            for outcome in own
            for data, quality, crop in zip(
                outcome.vectors,
                outcome.qualities,
                outcome.crops if with_crops else [b""] * len(outcome.vectors),
                strict=True,
            )
        ]
        attributes = {name: value for outcome in own for name, value in outcome.attributes.items()}
        enrollments.append(Enrollment(identity_id, tuple(templates), attributes))
    keys = [tuple(template.source for template in one.templates) for one in enrollments]
    return _load(target, gallery_id, enrollments, keys)


def load_block(target: Target, gallery_id: str, block: Block, *, normalize: bool) -> Loaded:
    """Enroll the rows of a block, one enrollment each."""
    rows, problems = units(block.vectors, np.full(len(block.vectors), normalize))
    refused = [
        Refusal(block.keys[row], Reason.BAD_VECTOR, block.identity_ids[row], problem)
        for row, problem in problems.items()
    ]
    good = [row for row in range(len(rows)) if row not in problems]
    sources = block.sources or block.keys
    enrollments = [
        Enrollment(
            block.identity_ids[row],
            (Template(rows[row], block.qualities[row] if block.qualities else 0.0, sources[row]),),
            block.attributes_of(row),
            block.expire_times[row] if block.expire_times else None,
        )
        for row in good
    ]
    keys = [(block.keys[row],) for row in good]
    enrollments += [
        Enrollment(bare.identity_id, (), bare.attributes, bare.expire_time) for bare in block.bare
    ]
    keys += [(bare.identity_id,) for bare in block.bare]
    loaded = _load(target, gallery_id, enrollments, keys)
    return msgspec.structs.replace(
        loaded, refused=[*block.refusals, *refused, *loaded.refused], sha256=digest_of(block)
    )


def read_rows(source: VectorSource, start: int, stop: int) -> Block:
    """Read rows start to stop - 1; what of them cannot be read is refused, UNREADABLE_ROWS at a time."""
    try:
        return source.read(start, stop)
    except OSError as error:
        if stop - start > UNREADABLE_ROWS:
            middle = (start + stop) // 2
            return _joined(read_rows(source, start, middle), read_rows(source, middle, stop))
        refusal = Refusal(
            f"rows {start} to {stop - 1}", Reason.UNREADABLE, detail=error.strerror or str(error)
        )
        return Block(start, np.empty((0, source.dimension), np.float32), [], [], refusals=[refusal])


def _joined(one: Block, other: Block) -> Block:
    """Both blocks as one; what only one of them has is filled up for the other."""

    def both(name: str, nothing: object) -> list[Any]:
        first, second = getattr(one, name), getattr(other, name)
        if not first and not second:
            return []
        return [*(first or [nothing] * len(one.keys)), *(second or [nothing] * len(other.keys))]

    return Block(
        one.first_row,
        np.concatenate([one.vectors, other.vectors]),
        [*one.identity_ids, *other.identity_ids],
        [*one.keys, *other.keys],
        both("attributes", NO_ATTRIBUTES),
        both("qualities", 0.0),
        both("expire_times", None),
        [*one.refusals, *other.refusals],
        [*(one.sources or one.keys), *(other.sources or other.keys)],
        [*one.bare, *other.bare],
    )


def digest_of(block: Block) -> bytes:
    """sha256 of what a block holds."""
    digest = hashlib.sha256(np.ascontiguousarray(block.vectors).data)
    digest.update(msgspec.msgpack.encode([block.identity_ids, block.attributes, block.refusals, block.bare]))
    return digest.digest()


def _load(
    target: Target, gallery_id: str, enrollments: Sequence[Enrollment], keys: Sequence[tuple[str, ...]]
) -> Loaded:
    """Enroll; `keys` are those of each enrollment's templates, or of itself where it has none."""
    num_given = num_ignored = 0
    refused: list[Refusal] = []
    again: list[Enrollment] = []
    keys_again: list[tuple[str, ...]] = []
    outcomes = target.enroll(gallery_id, enrollments)
    for enrollment, own_keys, outcome in zip(enrollments, keys, outcomes, strict=True):
        if isinstance(outcome, EnrollResult):
            num_given += outcome.num_added + outcome.num_ignored
            num_ignored += outcome.num_ignored
        elif len(own_keys) == 1:
            refused.append(Refusal(own_keys[0], _reason(outcome), enrollment.identity_id, outcome.message))
        else:
            # One template too many refuses all of them; alone each has its own outcome.
            again += [
                dataclasses.replace(enrollment, templates=(template,)) for template in enrollment.templates
            ]
            keys_again += [(key,) for key in own_keys]
    if not again:
        return Loaded(num_given, num_ignored, refused)
    rest = _load(target, gallery_id, again, keys_again)
    return Loaded(num_given + rest.num_given, num_ignored + rest.num_ignored, refused + rest.refused)


def _reason(error: EngineError) -> Reason:
    if isinstance(error, TemplateLimitError):
        return Reason.TEMPLATE_LIMIT
    return Reason.BAD_VECTOR if isinstance(error, InvalidVectorError) else Reason.BAD_IDENTITY
