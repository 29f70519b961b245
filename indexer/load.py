"""Templates of a shard to a gallery, each under its source key: what is there already changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec
import numpy as np

from engine.errors import EngineError, InvalidVectorError, TemplateLimitError
from engine.types import Enrollment, EnrollResult, Template
from engine.vectors import units
from indexer.items import Block, Reason, Refusal
from indexer.mapper import Outcome
from indexer.record import Loaded
from indexer.target import Target


def load_pictures(target: Target, gallery_id: str, outcomes: Iterable[Outcome]) -> Loaded:
    """Enroll the templates of these outcomes, one enrollment for each run of one identity."""
    enrollments = []
    for identity_id, run in groupby(outcomes, key=lambda outcome: outcome.identity_id):
        own = list(run)
        templates = [
            Template(np.frombuffer(data, "<f4"), quality, outcome.key)
            for outcome in own
            for data, quality in zip(outcome.vectors, outcome.qualities, strict=True)
        ]
        attributes = {name: value for outcome in own for name, value in outcome.attributes.items()}
        enrollments.append(Enrollment(identity_id, tuple(templates), attributes))
    return _load(target, gallery_id, enrollments)


def load_block(target: Target, gallery_id: str, block: Block, *, normalize: bool) -> Loaded:
    """Enroll the rows of a block, one enrollment each."""
    rows, problems = units(block.vectors, np.full(len(block.vectors), normalize))
    refused = [
        Refusal(block.keys[row], Reason.BAD_VECTOR, block.identity_ids[row], problem)
        for row, problem in problems.items()
    ]
    enrollments = [
        Enrollment(
            block.identity_ids[row],
            (Template(rows[row], block.qualities[row] if block.qualities else 0.0, block.keys[row]),),
            block.attributes_of(row),
            block.expire_times[row] if block.expire_times else None,
        )
        for row in range(len(rows))
        if row not in problems
    ]
    loaded = _load(target, gallery_id, enrollments)
    return msgspec.structs.replace(
        loaded, refused=[*block.refusals, *refused, *loaded.refused], sha256=digest_of(block)
    )


def digest_of(block: Block) -> bytes:
    """sha256 of what a block holds."""
    digest = hashlib.sha256(np.ascontiguousarray(block.vectors).data)
    digest.update(msgspec.msgpack.encode([block.identity_ids, block.attributes, block.refusals]))
    return digest.digest()


def _load(target: Target, gallery_id: str, enrollments: Sequence[Enrollment]) -> Loaded:
    num_given = num_ignored = 0
    refused: list[Refusal] = []
    again: list[Enrollment] = []
    for enrollment, outcome in zip(enrollments, target.enroll(gallery_id, enrollments), strict=True):
        if isinstance(outcome, EnrollResult):
            num_given += outcome.num_added + outcome.num_ignored
            num_ignored += outcome.num_ignored
        elif len(enrollment.templates) > 1:
            # One template too many refuses all of them; alone each has its own outcome.
            again += [
                Enrollment(enrollment.identity_id, (template,), enrollment.attributes)
                for template in enrollment.templates
            ]
        else:
            refused += [
                Refusal(template.source, _reason(outcome), enrollment.identity_id, outcome.message)
                for template in enrollment.templates
            ]
    if not again:
        return Loaded(num_given, num_ignored, refused)
    rest = _load(target, gallery_id, again)
    return Loaded(num_given + rest.num_given, num_ignored + rest.num_ignored, refused + rest.refused)


def _reason(error: EngineError) -> Reason:
    if isinstance(error, TemplateLimitError):
        return Reason.TEMPLATE_LIMIT
    return Reason.BAD_VECTOR if isinstance(error, InvalidVectorError) else Reason.BAD_IDENTITY
