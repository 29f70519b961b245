"""The crowding correction measured: tops of strangers in random galleries, with and without it.

::

    crowding of a probe         mean of ranks 2 to 11 of its own search
    crowding of a candidate     mean similarity to its 10 nearest other identities
    similarity_corrected        similarity - (crowding of the probe + crowding of the candidate) / 2

Only the 32 best candidates by plain similarity are corrected. A stranger is not enrolled: left out of a
gallery, a person counts in nobody's crowding. Numbers in, numbers out: knows nothing of pictures, templates
or how a gallery keeps crowding. How the correction fares with several templates an identity is not measured
here.

Source: the correction is half of the hubness reduction "CSLS" of Conneau et al., "Word Translation Without
Parallel Data", ICLR 2018, equation 2, whose similarity is twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.decision import tails
from engine.decision.calibration import Tail
from engine.decision.estimator import (
    Estimated,
    EstimatorSettings,
    assembled,
    draw_people,
    log_rates_of,
)
from engine.decision.rates import SIMILARITY_MAX
from engine.errors import InvalidInputError

NEIGHBOURS = 10
"""Nearest other identities that crowding is the mean of."""
CANDIDATES = 32
"""Best by plain similarity, that are corrected."""
SIZE_MIN = 300
"""Identities: in smaller galleries the correction hurts, and is off."""
PEOPLE_MIN = 2 * SIZE_MIN + 1
"""Growth is measured between half of them and all."""
_ROUNDS = 4
"""Times that everybody is left out once of random galleries of each size."""
_NUM_SIZES = 6
_NUM_LOWER, _NUM_UPPER = 34, 22
"""Points of the grid up to the tail's start, and in the tail."""
_LOG_SURVIVAL_MIN = -14.0
"""Of the exceedances, at the upper end of the grid."""
_BLOCK_VALUES = 2**22
"""Similarities sorted at once."""

Floats = NDArray[np.float64]
Similarities = NDArray[np.float32]
Places = NDArray[np.int64]
Sampled = tuple[Places, Floats]
"""Who was left out int64[m], and their corrected tops float64[m]."""


@dataclass(frozen=True, slots=True)
class Searched:
    """The candidates of p probes in one gallery, c = CANDIDATES or all identities where these are fewer."""

    places: Places
    """int64[p, c] columns of the candidates, the best by plain similarity first."""
    plain: Similarities
    """float32[p, c]"""
    corrected: Similarities
    """float32[p, c]"""

    @property
    def tops(self) -> Floats:
        """float64[p], plain similarity of the best."""
        return self.plain[:, 0].astype(np.float64)

    @property
    def tops_corrected(self) -> Floats:
        """float64[p], corrected similarity of the best by it."""
        tops: Floats = self.corrected.max(axis=1).astype(np.float64)
        return tops

    def own(self, own: Places) -> tuple[Floats, Floats]:
        """Plain and corrected similarity float64[p] to the identity in column own int64[p].

        -inf where another identity comes before it, in that order.
        """
        found = []
        for values in (self.plain, self.corrected):
            best = np.argmax(values, axis=1)[:, None]
            is_first = np.take_along_axis(self.places, best, axis=1)[:, 0] == own
            value = np.take_along_axis(values, best, axis=1)[:, 0].astype(np.float64)
            found.append(np.where(is_first, value, -np.inf))
        return found[0], found[1]

    def corrected_of(self, own: Places) -> Floats:
        """Corrected similarity float64[p] to the identity in column own; -inf where it is no candidate."""
        is_own = self.places == own[:, None]
        found: Floats = np.where(is_own, self.corrected, -np.inf).max(axis=1).astype(np.float64)
        return found


def search(probes: ArrayLike, crowding: ArrayLike) -> Searched:
    """Search probes float[p, n] (similarities to n enrolled) who count in nobody's crowding float[n], or are
    enrolled themselves. Raises InvalidInputError for fewer than 12 identities.
    """
    matrix = np.asarray(probes, np.float32)
    places, values = _nearest(matrix, matrix.shape[1])
    of_candidates = np.asarray(crowding, np.float32)[places]
    return Searched(places, values, _corrected(values, of_candidates))


def crowding_of(similarities: ArrayLike) -> Similarities:
    """Mean similarity float32[n] of each enrolled identity to its nearest others, from float[n, n]."""
    matrix = _without_diagonal(similarities)
    values = _nearest(matrix, len(matrix) - 1)[1]
    mean: Similarities = values[:, :NEIGHBOURS].mean(axis=1)
    return mean


def leave_one_out(similarities: ArrayLike) -> Searched:
    """Search each of n people, float[n, n] symmetrical, in the gallery of all others.

    The diagonal is ignored. Raises InvalidInputError for fewer than 12 people.
    """
    matrix = _without_diagonal(similarities)
    places, values = _nearest(matrix, len(matrix) - 1)
    total = values[:, :NEIGHBOURS].sum(axis=1)
    last, next_one = values[:, NEIGHBOURS - 1], values[:, NEIGHBOURS]
    # Where the person left out was among a candidate's nearest, the next one takes the place.
    is_counted = values >= last[places]
    sums = total[places] + np.where(is_counted, next_one[places] - values, np.float32(0.0))
    return Searched(places, values, _corrected(values, sums / NEIGHBOURS))


def estimate_corrected(
    similarities: ArrayLike,
    settings: EstimatorSettings = EstimatorSettings(),  # noqa: B008 - frozen
) -> Estimated:
    """Estimate the rates of corrected similarities, in galleries of SIZE_MIN identities and more.

    From similarities float[n, n] between n different people, symmetrical. The interval resamples whom the
    strangers are, not who is enrolled, and is a little too narrow for that. Raises InvalidInputError for
    fewer than PEOPLE_MIN people.
    """
    matrix = np.asarray(similarities, np.float32)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < PEOPLE_MIN:
        raise InvalidInputError(
            f"similarities have shape {list(matrix.shape)}: the crowding correction needs {PEOPLE_MIN} people"
        )
    sizes, rng = sizes_of(len(matrix)), np.random.default_rng([settings.seed, 1])
    sampled = [_sampled(matrix, int(size), rng) for size in sizes]
    # The nearest others of a larger gallery are nearer: tops of all sizes have tails of their own.
    of_sizes = [tails.fit_tail(tops, seed=settings.seed) for _, tops in sampled]
    grid = _grid(sampled, of_sizes)
    draws = draw_people(len(matrix), settings)
    spared = np.stack([_spared(*one, grid, draws) for one in sampled], axis=1)
    of_draws = [of_sizes, *(_tails(sampled, one) for one in draws.T[1:])]
    return assembled(log_rates_of(spared), grid, sizes, of_draws, is_rising=False)


def _nearest(similarities: Similarities, num_others: int) -> tuple[Places, Similarities]:
    """Columns and values [p, c] of the most similar, the best first."""
    num = similarities.shape[1]
    # Ranks 2 to 11 make a crowding.
    if num_others <= NEIGHBOURS:
        raise InvalidInputError(f"{num} identities: crowding takes more than {NEIGHBOURS} others")
    kept = min(CANDIDATES, num)
    rows = max(1, _BLOCK_VALUES // num)
    places: list[NDArray[Any]] = [np.empty((0, kept), np.int64)]
    values: list[Similarities] = [np.empty((0, kept), np.float32)]
    for start in range(0, len(similarities), rows):
        block = similarities[start : start + rows]
        found = np.argpartition(block, num - kept, axis=1)[:, num - kept :]
        of_found = np.take_along_axis(block, found, axis=1)
        order = np.argsort(-of_found, axis=1, kind="stable")
        places.append(np.take_along_axis(found, order, axis=1))
        values.append(np.take_along_axis(of_found, order, axis=1))
    return np.concatenate(places), np.concatenate(values)


def _corrected(values: Similarities, of_candidates: Similarities) -> Similarities:
    of_probes = values[:, 1 : NEIGHBOURS + 1].mean(axis=1, keepdims=True)
    corrected: Similarities = values - (of_probes + of_candidates) / np.float32(2.0)
    return corrected


def _without_diagonal(similarities: ArrayLike) -> Similarities:
    matrix = np.array(similarities, np.float32)
    np.fill_diagonal(matrix, -np.inf)
    return matrix


def sizes_of(num: int) -> Floats:
    """Sizes that so many people are measured at: from SIZE_MIN to half of the others, and all of them."""
    others = num - 1
    steps = np.unique(np.round(np.geomspace(SIZE_MIN, others // 2, _NUM_SIZES - 1)))
    return np.append(steps, float(others)).astype(np.float64)


def _sampled(matrix: Similarities, size: int, rng: np.random.Generator) -> Sampled:
    """Who was left out of random galleries of this size int64[m], and the corrected tops float64[m]."""
    num = len(matrix)
    if size == num - 1:
        return np.arange(num), leave_one_out(matrix).tops_corrected
    people: list[Places] = []
    tops: list[Floats] = []
    for _ in range(_ROUNDS):
        order = rng.permutation(num)
        for start in range(0, num - size, size + 1):
            members = order[start : start + size + 1]
            people.append(members)
            tops.append(leave_one_out(matrix[np.ix_(members, members)]).tops_corrected)
    return np.concatenate(people), np.concatenate(tops)


def _grid(sampled: Sequence[Sampled], of_sizes: Sequence[Tail]) -> Floats:
    """From where nearly all strangers' tops of any size lie above, to the end of all tails."""
    low = min(float(np.quantile(tops, 0.01)) for _, tops in sampled)
    start = max(tail.start for tail in of_sizes)
    end = max(tails.end_of(tail, _LOG_SURVIVAL_MIN) for tail in of_sizes)
    end = min(SIMILARITY_MAX, max(end, *(float(tops.max()) for _, tops in sampled)))
    start = min(start, end)
    lower = np.linspace(min(low, start), start, _NUM_LOWER)
    return np.unique(np.concatenate([lower, np.linspace(start, end, _NUM_UPPER)[1:]]).round(6))


def _spared(people: Places, tops: Floats, grid: Floats, draws: NDArray[np.float32]) -> Floats:
    """Share float64[draws, t] of strangers, each counted as often as drawn, whose top is below the grid."""
    order = np.argsort(tops)
    masses = np.zeros((draws.shape[1], len(tops) + 1))
    masses[:, 1:] = np.cumsum(draws[people[order]], axis=0, dtype=np.float64).T
    shares: Floats = masses[:, np.searchsorted(tops[order], grid)] / masses[:, -1:]
    return shares


def _tails(sampled: Sequence[Sampled], weights: NDArray[np.float32]) -> list[Tail] | None:
    """The tail of each size where each person counts as often as drawn; None where one has none."""
    try:
        return [tails.fit_tail(tops, weights[people]) for people, tops in sampled]
    except InvalidInputError:
        return None
