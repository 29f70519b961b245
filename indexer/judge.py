"""What only all outcomes together tell: the same picture twice, a template among strangers, too many of one.

Looks at outcomes in the order of the plan, so that every run decides the same. Knows no files and no
galleries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from engine.types import Vector, Vectors
from indexer.histogram import OTHER, SAME, SimilarityHistogram
from indexer.items import Reason, Refusal
from indexer.mapper import Outcome

NEAR_TEMPLATES_MAX = 200_000
"""Templates up to which each is compared with all: minutes of a core; beyond, nobody is flagged."""
BLOCK_FLOATS = 1 << 24
"""Similarities computed at once: 64 MB, and as much again while they are divided."""


@dataclass
class Found:
    """Templates of all outcomes that were not refused, in order."""

    keys: list[str] = field(default_factory=list)
    """Source key of each template."""
    identity_ids: list[str] = field(default_factory=list)
    sha256s: list[bytes] = field(default_factory=list)
    """Of each template's picture."""
    qualities: list[float] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)
    """float32[d] each."""

    def add(self, outcome: Outcome) -> None:
        """Add the templates of one picture."""
        for data, quality in zip(outcome.vectors, outcome.qualities, strict=True):
            self.keys.append(outcome.key)
            self.identity_ids.append(outcome.identity_id)
            self.sha256s.append(outcome.sha256)
            self.qualities.append(quality)
            self.vectors.append(np.frombuffer(data, "<f4"))

    def without(self, keys: Collection[str]) -> Found:
        """The same without these pictures."""
        kept = [key not in keys for key in self.keys]
        return Found(
            list(compress(self.keys, kept)),
            list(compress(self.identity_ids, kept)),
            list(compress(self.sha256s, kept)),
            list(compress(self.qualities, kept)),
            list(compress(self.vectors, kept)),
        )


def duplicates(found: Found) -> dict[str, Refusal]:
    """By key, pictures of which the same bytes came before, under another key."""
    first: dict[bytes, tuple[str, str]] = {}
    refused: dict[str, Refusal] = {}
    for key, identity_id, digest in zip(found.keys, found.identity_ids, found.sha256s, strict=True):
        earlier, of_whom = first.setdefault(digest, (key, identity_id))
        if earlier != key:
            detail = earlier if of_whom == identity_id else f"{earlier}, which is of {of_whom}"
            refused[key] = Refusal(key, Reason.DUPLICATE_OF, identity_id, detail)
    return refused


def strangers(found: Found, histogram: SimilarityHistogram) -> dict[str, Refusal]:
    """By key, templates nearer to another identity than to their own.

    One that is alone of its identity has nothing to be compared with.
    """
    flagged: dict[str, Refusal] = {}
    if len(set(found.identity_ids)) < 2:
        return flagged
    names, numbers = np.unique(np.array(found.identity_ids), return_inverse=True)
    for first, same, other, nearest in _nearest(np.stack(found.vectors), numbers):
        has_own = np.isfinite(same)
        histogram.add(same[has_own], SAME)
        histogram.add(other, OTHER)
        for place in np.flatnonzero(has_own & (other > same)).tolist():
            key, near = found.keys[first + place], nearest[place]
            detail = (
                f"{other[place]:.3f} to {names[numbers[near]]} ({found.keys[near]}), "
                f"{same[place]:.3f} to the nearest of its own"
            )
            flagged[key] = Refusal(
                key, Reason.NEAR_ANOTHER_IDENTITY, found.identity_ids[first + place], detail
            )
    return flagged


def beyond_limit(found: Found, templates_max: int) -> dict[str, Refusal]:
    """By key, pictures whose templates are beyond the best `templates_max` of their identity."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, identity_id in enumerate(found.identity_ids):
        places[identity_id].append(place)
    worst: dict[str, Refusal] = {}
    for identity_id, own in places.items():
        ranked = sorted(own, key=lambda place: (-found.qualities[place], place))
        for place in ranked[templates_max:]:
            key = found.keys[place]
            detail = f"{len(own)} templates, {templates_max} are kept"
            worst[key] = Refusal(key, Reason.TEMPLATE_LIMIT, identity_id, detail)
    return worst


def _nearest(
    vectors: Vectors, numbers: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]]:
    """By block: its first row, similarity to the nearest of its own and of others, that other's row."""
    num_rows = max(1, BLOCK_FLOATS // len(vectors))
    for first in range(0, len(vectors), num_rows):
        rows = np.arange(first, min(first + num_rows, len(vectors)))
        found = vectors[rows] @ vectors.T
        found[np.arange(len(rows)), rows] = -np.inf
        is_own = numbers[rows, None] == numbers[None]
        same = np.where(is_own, found, -np.inf).max(axis=1)
        found[is_own] = -np.inf
        nearest = found.argmax(axis=1)
        yield first, same, found[np.arange(len(rows)), nearest], nearest
