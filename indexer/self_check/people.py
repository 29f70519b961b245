"""Who is likely in a gallery twice, and which templates are likely under the wrong name.

A template under the wrong name makes two identities alike just as one person under two names does. The two
are told apart by what is left without that template: if the rest of both identities is less alike than a
template of the gallery is to its nearest stranger, it is a mix-up. With two templates in an identity either
may be the wrong one; the one that is nearer to somebody else is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from indexer.self_check.compared import NUM_NEAREST, Compared
from indexer.self_check.findings import FAR_FROM_OWN, NEAR_ANOTHER, Duplicate, MixUp

PAIRS_LOOKED_AT_MAX = 10_000
"""Likely duplicates that are looked at for a mix-up, the most similar ones: a millisecond each at most."""
SIZE_FOR_FAR_MIN = 3
"""Templates of an identity from which one can be told to be unlike the others."""


def duplicate_pairs(compared: Compared, level: float) -> NDArray[np.int64]:
    """Pairs int64[r, 2] of identities that are likely one person, the most similar first.

    An identity's NUM_NEAREST nearest others are looked at.
    """
    near = compared.by_identity
    place, column = np.nonzero(near.similarities >= level)
    found = np.stack([compared.probes[place], near.identities[place, column]], axis=1)
    found.sort(axis=1)
    order = np.argsort(-near.similarities[place, column], kind="stable")
    _, first = np.unique(found[order], axis=0, return_index=True)
    pairs: NDArray[np.int64] = found[order][np.sort(first)]
    stranger = _stranger(compared, level)
    is_kept = np.ones(len(pairs), np.bool_)
    for row, (one, other) in enumerate(pairs[:PAIRS_LOOKED_AT_MAX].tolist()):
        is_kept[row] = not _is_mix_up(compared, one, other, stranger)
    return pairs[is_kept]


def has_more_than_seen(compared: Compared, level: float) -> bool:
    """Whether somebody has as many likely duplicates as others were looked at, where there are more."""
    has_more = compared.templates.num_identities - 1 > NUM_NEAREST
    return has_more and bool((compared.by_identity.similarities[:, -1] >= level).any())


def duplicate(compared: Compared, first: int, second: int) -> Duplicate:
    """Tell of two identities by their two most similar templates."""
    templates = compared.templates
    between = templates.between(first, second)
    row, column = np.unravel_index(int(between.argmax()), between.shape)
    return Duplicate(
        templates.place(templates.span(first).start + int(row)),
        templates.place(templates.span(second).start + int(column)),
        float(between[row, column]),
        *between.shape,
    )


@dataclass(frozen=True)
class MixUps:
    """Places of templates that are likely mix-ups."""

    near: NDArray[np.int64]
    """Nearer to another identity than to their own."""
    far: NDArray[np.int64]
    """Unlike their own, which are alike; not nearer to another."""
    num_of_duplicates: int
    """Nearer to an identity that is likely the same person: neither near nor far."""
    num_likely: int
    """Of those near another, how many are as like it as one person's templates are."""
    worst: NDArray[np.int64]
    """All, those first; then by how much nearer to another they are, or how far below the level."""


def mix_ups(compared: Compared, pairs: NDArray[np.int64], level: float, far_below: float | None) -> MixUps:
    """Find mix-ups; `pairs` are likely duplicates by `level`, below `far_below` one's own is unlike."""
    own, tops, owners = compared.own, compared.tops, compared.owners
    has_own = np.isfinite(own)
    is_near = has_own & (tops > own)
    num = compared.templates.num_identities
    others = compared.top_identities
    keys = np.minimum(owners, others) * num + np.maximum(owners, others)
    is_of_duplicate = is_near & np.isin(keys, pairs[:, 0] * num + pairs[:, 1])
    near = np.flatnonzero(is_near & ~is_of_duplicate)
    far = np.empty(0, np.int64)
    if far_below is not None:
        has_several = compared.templates.sizes[owners] >= SIZE_FOR_FAR_MIN
        is_low = has_own & ~is_near & has_several & (own < far_below)
        low = np.flatnonzero(is_low)
        far = low[[_do_others_agree(compared, place, far_below) for place in low.tolist()]]
    places = np.concatenate([near, far])
    gaps = np.concatenate([tops[near] - own[near], (far_below or 0.0) - own[far]])
    is_likely = np.concatenate([tops[near] >= level, np.zeros(len(far), np.bool_)])
    worst = places[np.lexsort((-gaps, ~is_likely))]
    return MixUps(near, far, int(is_of_duplicate.sum()), int(is_likely.sum()), worst)


def mix_up(compared: Compared, place: int) -> MixUp:
    """Tell of one template."""
    templates, row = compared.templates, int(compared.rows[place])
    span = templates.span(int(compared.top_identities[place]))
    nearest = span.start + int((templates.vectors[span] @ templates.vectors[row]).argmax())
    own, top = float(compared.own[place]), float(compared.tops[place])
    reason = NEAR_ANOTHER if top > own else FAR_FROM_OWN
    return MixUp(templates.place(row), own, templates.place(nearest), top, reason)


def _stranger(compared: Compared, level: float) -> float:
    """How alike strangers are who are nearest: the median, those left out who are likely the same person."""
    similarities = compared.nearest.similarities
    nearest = np.where(similarities < level, similarities, -np.inf).max(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    return float(np.median(nearest)) if len(nearest) else -np.inf


def _is_mix_up(compared: Compared, first: int, second: int, stranger: float) -> bool:
    """Whether two identities are alike only by a template of one, or of each, that is unlike its own."""
    templates = compared.templates
    between = templates.between(first, second)
    sizes = between.shape
    own = [_nearest_own(templates.between(number, number)) for number in (first, second)]
    # -1: none of this identity. The last template of an identity is not taken from it.
    wrong = [
        [-1, *(np.flatnonzero(own[axis] < between.max(axis=1 - axis)).tolist() if sizes[axis] > 1 else [])]
        for axis in (0, 1)
    ]
    for row, column in product(*wrong):
        is_left = np.ix_(np.arange(sizes[0]) != row, np.arange(sizes[1]) != column)
        if (row, column) != (-1, -1) and between[is_left].max() < stranger:
            return True
    return False


def _do_others_agree(compared: Compared, place: int, level: float) -> bool:
    """Whether each of the identity's other templates is like another one of them."""
    owner = int(compared.owners[place])
    among = compared.templates.between(owner, owner)
    is_other = np.arange(len(among)) != compared.rows[place] - compared.templates.starts[owner]
    return bool(_nearest_own(among[np.ix_(is_other, is_other)]).min() >= level)


def _nearest_own(among: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each template float64[m] the similarity to the nearest of the others; -inf: there are none."""
    nearest: NDArray[np.float64] = np.where(np.eye(len(among), dtype=np.bool_), -np.inf, among).max(axis=1)
    return nearest
