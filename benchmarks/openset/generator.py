"""Draws people as alike as real ones: a mixture of local clusters, fitted to real templates.

* people: k-means clusters of real people, each a normal distribution with its own covariance, drawn towards
  that of all clusters as if so many people more had it (`shrinkage`), then brought to unit length. One normal
  distribution for all has far too few look-alikes: 5 to 10 times, and more in the tail. A share of the people
  comes from finer clusters: coarse ones alone have too few very close look-alikes, fine ones alone
  too many of all.
* other pictures of a person: the cosine and the direction of a real pair of pictures

Which clusters: those that give strangers of people left out their real false positive rates (`chosen`).
Whether the mixture does so is checked by `benchmarks.openset.check`, not here. It knows nothing of what lies
beyond the people it was fitted to: rates at a million are of drawn people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.openset.people import RealPeople, unit_rows
from benchmarks.openset.rates import fpir_at, similarities_left_out, threshold_at
from engine.errors import InvalidInputError
from engine.types import Vectors

BLOCK_ROWS = 1 << 16
"""Rows drawn with one seed."""
KMEANS_ROUNDS = 20
PEOPLE_MIN = 200
"""Fewer say nothing of clusters."""
_FLOOR = 1e-7
"""Added to variances, so that directions in which nobody differs can be factorised."""
_TARGETS = (0.1, 0.03, 0.01)
_NUM_SPLITS = 4
_SHARE_KNOWN = 0.7
_DRAWN_IDENTITIES, _DRAWN_STRANGERS = 5000, 1500


@dataclass(frozen=True)
class Level:
    """One division of the people into clusters."""

    people_per_cluster: float
    shrinkage: float
    """People with the mean covariance that each cluster is given beside its own."""
    share: float
    """Of the people drawn."""


Levels = tuple[Level, ...]
"""A mixture; the shares' sum is 1."""


def _levels(fine: tuple[float, float], share: float) -> Levels:
    return Level(*_COARSE, 1.0 - share), Level(*fine, share)


_COARSE = (34.0, 100.0)
CANDIDATES: tuple[Levels, ...] = (
    (Level(*_COARSE, 1.0),),
    (Level(34.0, 50.0, 1.0),),
    *(_levels((12.0, 12.0), share) for share in (0.2, 0.35)),
    *(_levels((8.0, 6.0), share) for share in (0.1, 0.2, 0.25)),
)


@dataclass(frozen=True)
class Generator:
    """A mixture, ready to be drawn from."""

    centres: Vectors
    """float32[k, d]"""
    factors: Vectors
    """float32[k, d, d], lower triangular; covariance = factor @ factor.T"""
    shares: NDArray[np.float64]
    """float64[k], of people, sum 1"""
    pair_cosines: NDArray[np.float32]
    """float32[p], of real pairs of pictures of one person; none: `again` cannot be asked"""
    pair_moves: Vectors
    """float32[p, d], where the second picture lies as seen from the first, across it"""

    def people(self, rng: np.random.Generator, num: int) -> Vectors:
        """Unit templates float32[num, d] of new people, in random order."""
        counts = rng.multinomial(num, self.shares)
        drawn = rng.standard_normal((num, self.centres.shape[1]), dtype=np.float32)
        ends = np.cumsum(counts)
        for cluster in np.flatnonzero(counts).tolist():
            rows = slice(ends[cluster] - counts[cluster], ends[cluster])
            drawn[rows] = self.centres[cluster] + drawn[rows] @ self.factors[cluster].T
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn[rng.permutation(num)]

    def again(self, rng: np.random.Generator, people: Vectors) -> Vectors:
        """Other templates float32[n, d] of these people. Raises InvalidInputError: no pair is known."""
        if not len(self.pair_cosines):
            raise InvalidInputError("nobody has two pictures: mated probes cannot be drawn")
        pairs = rng.integers(len(self.pair_cosines), size=len(people))
        cosines = self.pair_cosines[pairs][:, None]
        again: Vectors = cosines * people + np.sqrt(1.0 - cosines**2) * across(people, self.pair_moves[pairs])
        return again


def fitted(people: RealPeople, levels: Levels, seed: int) -> Generator:
    """Fit a mixture to real people. Raises InvalidInputError where they are fewer than PEOPLE_MIN."""
    if len(people) < PEOPLE_MIN:
        raise InvalidInputError(f"{len(people)} people cannot be divided into clusters: give {PEOPLE_MIN}")
    rng = np.random.default_rng(seed)
    parts = [_fitted_level(people.first, level, rng) for level in levels]
    centres, factors, shares = (np.concatenate(one) for one in zip(*parts, strict=True))
    pair_firsts = people.first[people.other_people]
    cosines = np.clip(np.einsum("pd,pd->p", people.others, pair_firsts), -1.0, 1.0)
    return Generator(centres, factors, shares / shares.sum(), cosines, across(pair_firsts, people.others))


def _fitted_level(
    vectors: Vectors, level: Level, rng: np.random.Generator
) -> tuple[Vectors, Vectors, NDArray[np.float64]]:
    """Centres, factors and shares of one division."""
    num = max(1, round(len(vectors) / level.people_per_cluster))
    centres, assigned = clusters(vectors, num, rng)
    rest = (vectors - centres[assigned]).astype(np.float64)
    shared = rest.T @ rest / len(rest)
    floor = _FLOOR * np.eye(rest.shape[1])
    factors = np.empty((num, *shared.shape), np.float32)
    for cluster in range(num):
        own = rest[assigned == cluster]
        covariance = (own.T @ own + level.shrinkage * shared) / (len(own) + level.shrinkage)
        factors[cluster] = np.linalg.cholesky(covariance + floor)
    return centres, factors, level.share * np.bincount(assigned, minlength=num) / len(vectors)


def clusters(vectors: Vectors, num: int, rng: np.random.Generator) -> tuple[Vectors, NDArray[np.int64]]:
    """Means float32[num, d] of k-means clusters, and the cluster int64[n] of each vector."""
    centres = vectors[rng.choice(len(vectors), num, replace=False)]
    assigned = np.zeros(len(vectors), np.int64)
    for _ in range(KMEANS_ROUNDS):
        assigned = (vectors @ centres.T - (centres**2).sum(axis=1) / 2).argmax(axis=1)
        sums = np.zeros((num, vectors.shape[1]), np.float64)
        np.add.at(sums, assigned, vectors)
        sizes = np.bincount(assigned, minlength=num)
        # A cluster that lost everybody begins again at somebody.
        anybody = vectors[rng.integers(len(vectors), size=num)]
        means = sums / np.maximum(sizes, 1)[:, None]
        centres = np.where(sizes[:, None] > 0, means, anybody).astype(np.float32)
    return centres, assigned


def drawn(generator: Generator, seed: tuple[int, ...], num: int) -> Vectors:
    """Templates float32[num, d] of new people, by blocks: a smaller number begins a larger one."""
    vectors = np.empty((num, generator.centres.shape[1]), np.float32)
    for block, start in enumerate(range(0, num, BLOCK_ROWS)):
        rows = vectors[start : start + BLOCK_ROWS]
        rows[:] = generator.people(np.random.default_rng((*seed, block)), BLOCK_ROWS)[: len(rows)]
    return vectors


def chosen(people: RealPeople, seed: int, candidates: Sequence[Levels] = CANDIDATES) -> Levels:
    """The mixture in which strangers meet as many look-alikes as real ones do.

    Fitted on a part, compared with the rest, several times. Sees nobody but `people`.
    """
    errors = np.zeros(len(candidates))
    for split in range(_NUM_SPLITS):
        rng = np.random.default_rng((seed, split))
        order = rng.permutation(len(people))
        num_known = int(_SHARE_KNOWN * len(people))
        known, left_out = people.subset(order[:num_known]), people.first[order[num_known:]]
        real = similarities_left_out(left_out)
        points = [
            (size, target, threshold_at(real, target, size, len(real) - 1))
            for size in (max(2, len(real) // 4), len(real) - 1)
            for target in _TARGETS
        ]
        for place, one in enumerate(candidates):
            generator = fitted(known, one, seed)
            found = generator.people(rng, _DRAWN_STRANGERS) @ generator.people(rng, _DRAWN_IDENTITIES).T
            for size, target, threshold in points:
                fpir = fpir_at(found, threshold, size, _DRAWN_IDENTITIES)
                errors[place] += np.log(max(fpir, 1e-6) / target) ** 2
    return candidates[int(errors.argmin())]


def across(vectors: Vectors, others: Vectors) -> Vectors:
    """Directions float32[n, d] of unit length from vectors to others, at right angles to the vectors."""
    along = np.einsum("nd,nd->n", vectors, others)[:, None]
    return unit_rows(others - along * vectors)
