"""Who a calibration is made of: one template a person that counts, and the others of the same person.

The first template of each person (of pictures by their name, of vectors the first row) is both enrolled and
asks as a stranger; the others only tell what mated probes are like. Everything of a person counts once.

Two names of one person would look like a stranger who is taken for somebody. They are found by similarities
that three of four mated ones do not reach; where so many pairs of names reach them that they cannot all be
one person, the network cannot tell, and nobody is left out.

Knows nothing of networks, thresholds or files.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.decision.calibration import LeftOut
from engine.errors import InvalidInputError
from engine.trainer.vectors_file import LabelledVectors

MATED_PEOPLE_MIN = 30
"""With two pictures: fewer say too little of mated similarities."""
DUPLICATE_QUANTILE = 0.75
"""Of mated similarities: from here on two names are probably one person."""
LEFT_OUT_SHARE_MAX = 0.01
"""Of all people; a set of people is seldom that wrong, a network often."""
LEFT_OUT_MIN = 5
"""People who may be left out of any set: of a hundred, a share would leave room for one slip only."""
MATED_STEPS = 101
"""Quantiles of mated similarities that are kept, from 0 to 1."""
_BLOCK_VALUES = 2**23
"""Similarities held at once."""

Floats = NDArray[np.float64]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class People:
    """Unit templates of n people, who are in the order of their names."""

    names: tuple[str, ...]
    templates: tuple[Floats, ...]
    """[n] of float64[k, d], each person's own; the first counts."""

    @property
    def firsts(self) -> Floats:
        """The template of each that counts, float64[n, d]."""
        return np.stack([own[0] for own in self.templates])

    @property
    def num_pictures(self) -> int:
        """Of all people."""
        return sum(map(len, self.templates))

    def only(self, is_kept: NDArray[np.bool_]) -> People:
        """The marked people."""
        kept = np.flatnonzero(is_kept).tolist()
        return People(tuple(self.names[i] for i in kept), tuple(self.templates[i] for i in kept))

    def without(self, names: Collection[str]) -> People:
        """All but these."""
        return self.only(np.array([name not in names for name in self.names], dtype=np.bool_))


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Who is probably there under two names."""

    similarity: float | None
    """From here on two names are probably one person; None: not known, or this network cannot tell."""
    found: tuple[LeftOut, ...]
    note: str = ""
    """What is to be said of it."""


def gather(labelled: LabelledVectors) -> tuple[People, tuple[str, ...]]:
    """Order vectors by people; and say who has none. Raises InvalidInputError where nobody has."""
    names = np.array([str(label) for label in labelled.labels.tolist()], dtype=np.str_)
    vectors = labelled.vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    is_there = lengths > 0.0
    people, places = np.unique(names, return_inverse=True)
    order = np.argsort(places, kind="stable")
    order = order[is_there[order]]
    starts = np.searchsorted(places[order], np.arange(len(people) + 1))
    rows = [order[start:end] for start, end in itertools.pairwise(starts.tolist())]
    if not order.size:
        raise InvalidInputError("no picture gave a template: nothing can be measured")
    found = [(str(name), vectors[of] / lengths[of][:, None]) for name, of in zip(people, rows, strict=True)]
    missing = tuple(name for name, own in found if not len(own))
    there = [(name, own) for name, own in found if len(own)]
    return People(tuple(name for name, _ in there), tuple(own for _, own in there)), missing


def mated_similarities(people: People) -> tuple[Floats, Floats]:
    """Similarities float64[m] of each person's other pictures with the first, and weights float64[m].

    The weights of a person sum up to 1. Empty where fewer than MATED_PEOPLE_MIN people have two pictures.
    """
    values = [own[1:] @ own[0] for own in people.templates if len(own) > 1]
    if len(values) < MATED_PEOPLE_MIN:
        return np.empty(0), np.empty(0)
    weights = [np.full(len(one), 1.0 / len(one)) for one in values]
    return np.concatenate(values), np.concatenate(weights)


def quantiles(values: Floats, weights: Floats) -> Floats:
    """Quantiles float64[MATED_STEPS] at even steps from 0 to 1 of weighted values; none of none."""
    if not len(values):
        return np.empty(0)
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    # Each value stands in the middle of its own mass.
    places = (np.cumsum(weights) - weights / 2.0) / weights.sum()
    found: Floats = np.interp(np.linspace(0.0, 1.0, MATED_STEPS), places, values)
    return found


def find_known(people: People, same: Sequence[Pair]) -> tuple[LeftOut, ...]:
    """Those of these pairs of names where both are there."""
    place_of = {name: place for place, name in enumerate(people.names)}
    found = []
    for first, second in same:
        if first in place_of and second in place_of and first != second:
            one, other = people.templates[place_of[first]], people.templates[place_of[second]]
            found.append(LeftOut(first, second, float((one @ other.T).max())))
    return tuple(found)


def find_duplicates(
    people: People, *, different: Collection[Pair] = (), share_max: float = LEFT_OUT_SHARE_MAX
) -> Duplicates:
    """Find names that are probably one person, by any of their pictures, the most alike first.

    `different` are names known to be two people. Where more than `share_max` of the people would go, and
    more than LEFT_OUT_MIN, none are found, and the note says so.
    """
    values, weights = mated_similarities(people)
    if not len(values):
        note = f"duplicates were not looked for: fewer than {MATED_PEOPLE_MIN} people have two pictures"
        return Duplicates(None, (), note)
    similarity = float(
        np.interp(DUPLICATE_QUANTILE, np.linspace(0.0, 1.0, MATED_STEPS), quantiles(values, weights))
    )
    apart = {frozenset(pair) for pair in different}
    num_max = max(LEFT_OUT_MIN, int(share_max * len(people.names)))
    best = _pairs_at(people, similarity, apart, num_max)
    if best is None:
        note = (
            f"duplicates cannot be told by this network: more than {num_max:,} of the names are"
            f" as alike ({similarity:.4f}) as pictures of one person; nobody was left out: name those known"
            " by --same"
        )
        return Duplicates(None, (), note)
    found = [LeftOut(people.names[a], people.names[b], value) for (a, b), value in best.items()]
    return Duplicates(similarity, tuple(sorted(found, key=lambda one: -one.similarity)))


def _pairs_at(
    people: People, similarity: float, apart: Collection[frozenset[str]], num_max: int
) -> dict[tuple[int, int], float] | None:
    """Pairs of places of people with their best similarity; None where too many people would go."""
    vectors = np.concatenate(people.templates).astype(np.float32)
    owner = np.repeat(np.arange(len(people.names)), [len(own) for own in people.templates])
    rows = max(1, _BLOCK_VALUES // len(vectors))
    best: dict[tuple[int, int], float] = {}
    for start in range(0, len(vectors), rows):
        # Each pair once: people in the order of their names.
        block = vectors[start : start + rows] @ vectors[start:].T
        ones, others = np.nonzero(block >= similarity)
        firsts, seconds = owner[start + ones], owner[start + others]
        is_pair = firsts < seconds
        for a, b, value in zip(
            firsts[is_pair].tolist(),
            seconds[is_pair].tolist(),
            block[ones[is_pair], others[is_pair]].tolist(),
            strict=True,
        ):
            if frozenset((people.names[a], people.names[b])) not in apart:
                best[a, b] = max(value, best.get((a, b), -1.0))
        if len({second for _, second in best}) > num_max:
            return None
    return best
