"""Whether a job does what it should: not the same refusal for everything, and what was loaded is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import CorruptDataError, PreconditionError
from engine.types import Vector
from indexer.record import Loaded
from indexer.target import Target

FAULT_ITEMS = 100
"""Items at the beginning that must not all be refused for one reason."""
RECALL_PROBES = 1000
SIMILARITY_ROUNDING = 1e-5
"""Below 1, of a template with itself."""
FOUND_SHARE_MIN = 0.99
"""Of the templates searched for, those that must be found: the default search of a large gallery is not
exact."""


@dataclass(frozen=True)
class Sample:
    """A template that was loaded."""

    key: str
    identity_id: str
    vector: Vector


def refuse_fault(outcomes: Sequence[tuple[str, str]]) -> None:
    """Stop where the first items, (key, reason) each, were all refused for one reason.

    Raises PreconditionError.
    """
    first = outcomes[:FAULT_ITEMS]
    reasons = {reason for _, reason in first}
    if len(first) == FAULT_ITEMS and len(reasons) == 1 and "" not in reasons:
        raise PreconditionError(
            f"the first {FAULT_ITEMS} items were all refused: {reasons.pop()}, for example {first[0][0]}",
            hint="Look at some of them: the source or the limits of the gate are wrong for all.",
        )


def verify(
    target: Target, gallery_id: str, samples: Sequence[Sample], loaded: Sequence[Loaded], *, is_counted: bool
) -> None:
    """Count, search for samples, measure the index. Raises CorruptDataError where something is missing.

    `is_counted`: the gallery holds what was loaded and nothing else.
    """
    num_given = sum(one.num_given for one in loaded)
    num_least = num_given - sum(one.num_ignored for one in loaded)
    num_there = target.num_templates(gallery_id)
    if is_counted and not num_least <= num_there <= num_given:
        raise CorruptDataError(
            f"gallery {gallery_id!r} holds {num_there:,} templates, where {num_given:,} were loaded"
        )
    if samples:
        answers = target.nearest(gallery_id, np.stack([sample.vector for sample in samples]))
        num_found = sum(
            name == sample.identity_id or similarity >= 1 - SIMILARITY_ROUNDING
            for (name, similarity), sample in zip(answers, samples, strict=True)
        )
        if num_found < FOUND_SHARE_MIN * len(samples):
            raise CorruptDataError(
                f"of {len(samples):,} loaded templates that were searched for only {num_found:,} were found"
            )
    if num_there:
        target.measure(gallery_id, RECALL_PROBES)
