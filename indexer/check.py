"""Whether what was loaded is there and is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import CorruptDataError
from engine.types import GalleryInfo, Vector
from indexer.record import Loaded
from indexer.target import Target

RECALL_PROBES = 1000
SIMILARITY_ROUNDING = 1e-5
"""Below 1, of a template with itself."""
FOUND_SHARE_MIN = 0.99
"""Of the templates searched for, those that must be found: the default search of a large gallery is not
exact."""
_HINT = "Somebody else may have changed the gallery meanwhile. Delete it and run the job again."


@dataclass(frozen=True)
class Sample:
    """A template that was loaded."""

    key: str
    identity_id: str
    vector: Vector


def verify(
    target: Target,
    gallery: GalleryInfo,
    samples: Sequence[Sample],
    loaded: Sequence[Loaded],
    *,
    is_counted: bool,
) -> None:
    """Count, search for samples, measure the index. Raises CorruptDataError where something is missing.

    `is_counted`: the gallery holds what was loaded and nothing else.
    """
    num_given = sum(one.num_given for one in loaded)
    num_least = num_given - sum(one.num_ignored for one in loaded)
    gallery_id, num_there = gallery.gallery_id, gallery.num_templates
    if is_counted and not num_least <= num_there <= num_given:
        raise CorruptDataError(
            f"gallery {gallery_id!r} holds {num_there:,} templates, where {num_given:,} were loaded",
            hint=_HINT,
        )
    if samples:
        answers = target.nearest(gallery_id, np.stack([sample.vector for sample in samples]))
        num_found = sum(
            name == sample.identity_id or similarity >= 1 - SIMILARITY_ROUNDING
            for (name, similarity), sample in zip(answers, samples, strict=True)
        )
        if num_found < FOUND_SHARE_MIN * len(samples):
            raise CorruptDataError(
                f"of {len(samples):,} loaded templates that were searched for only {num_found:,} were found",
                hint=_HINT,
            )
    if num_there:
        target.measure(gallery_id, RECALL_PROBES)
