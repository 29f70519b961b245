"""What the crowding correction does to people who are enrolled: FNIR with and without, at one FPIR each.

::

    N random people enrolled, everybody else a stranger, NUM_GALLERIES times   sizes 100, 300, 1,000
    all enrolled; each a stranger to all others                                size n - 1

Mated probes are further pictures of those enrolled; each person weighs once. A mated probe is missed where
another identity comes first, or its own stays below the similarity that the given share of strangers reach.

Knows nothing of networks or pictures, and nothing of several templates an identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.decision import crowding
from engine.decision.calibration import CrowdingFigure, MatedAt
from engine.decision.estimator import LEVEL, EstimatorSettings, draw_people
from engine.trainer.calibration_people import MATED_PEOPLE_MIN, Floats, People, quantiles

FPIRS = (0.1, 0.03, 0.01)
DECISIVE_FPIR = 0.01
"""At which the correction must find more people to be called better."""
SIZES = (100, 300, 1000)
NUM_GALLERIES = 20
"""Of each size."""
STRANGERS_MIN = 100
"""Beside those enrolled: FPIR 0.01 is one of them."""
PROBES_MAX = 4
"""Mated probes of a person: more would only take time."""

Similarities = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CrowdingFound:
    """What the correction does."""

    figures: tuple[CrowdingFigure, ...]
    mated_at: tuple[MatedAt, ...]
    """Mated corrected similarities by size; empty: not known."""
    is_better: bool
    """Whether FNIR at DECISIVE_FPIR among all is lower, beyond the interval."""
    difference: tuple[float, float, float] | None
    """That FNIR with the correction minus that without, and its interval."""


NOTHING = CrowdingFound((), (), is_better=False, difference=None)


@dataclass(frozen=True, slots=True)
class _Probes:
    """Mated probes."""

    similarities: Similarities
    """float32[m, n] with everybody's enrolled template."""
    own: Places
    """int64[m], whose they are."""
    weights: Floats
    """float64[m], those of a person sum up to 1."""


@dataclass(frozen=True, slots=True)
class _Met:
    """What strangers and mated probes met, plain and corrected."""

    tops: tuple[Floats, Floats]
    own: tuple[Floats, Floats]
    """-inf: another identity came first."""
    own_corrected: Floats
    """Corrected alone, whoever came first; -inf: its identity was no candidate."""

    def fnir(self, fpir: float, strangers: Floats, mated: Floats) -> tuple[float, float]:
        """FNIR without and with the correction, given how much each stranger and mated probe weighs."""
        rates = []
        for tops, own in zip(self.tops, self.own, strict=True):
            is_found = own > _exceeded(tops, strangers, fpir)
            rates.append(1.0 - float(mated @ is_found) / float(mated.sum()))
        return rates[0], rates[1]


def measure_crowding(
    people: People, similarities: Similarities, settings: EstimatorSettings
) -> CrowdingFound:
    """Measure with and without, similarities float32[n, n] between everybody's templates.

    Gives NOTHING for people too few to enroll, or with too few further pictures.
    """
    num = len(people.names)
    num_with_probes = sum(len(own) > 1 for own in people.templates)
    if num < crowding.SIZE_MIN + STRANGERS_MIN or num_with_probes < MATED_PEOPLE_MIN:
        return NOTHING
    probes, rng = _probes(people), np.random.default_rng([settings.seed, 2])
    figures = []
    for size in (size for size in SIZES if size + STRANGERS_MIN <= num):
        galleries = list(_random_galleries(similarities, probes, size, rng))
        for fpir in FPIRS:
            rates = [met.fnir(fpir, np.ones(len(met.tops[0])), weights) for met, weights in galleries]
            figures.append(_figure(size, fpir, np.mean(rates, axis=0)))
    everybody = crowding.leave_one_out(similarities)
    found = crowding.search(probes.similarities, crowding.crowding_of(similarities))
    own = found.corrected_of(probes.own)
    met = _Met((everybody.tops, everybody.tops_corrected), found.own(probes.own), own)
    figures += [_figure(num - 1, fpir, met.fnir(fpir, np.ones(num), probes.weights)) for fpir in FPIRS]
    differences = _differences(met, probes, num, settings)
    return CrowdingFound(
        figures=tuple(figures),
        mated_at=(
            *_mated_at(similarities, probes, rng),
            _mated(num - 1, own, probes.weights),
        ),
        is_better=differences[2] < 0.0,
        difference=differences,
    )


def _mated_at(similarities: Similarities, probes: _Probes, rng: np.random.Generator) -> Iterator[MatedAt]:
    num = len(similarities)
    for size in crowding.sizes_of(num)[:-1].astype(np.int64).tolist() if num >= crowding.PEOPLE_MIN else ():
        # As many galleries as make everybody one of the enrolled, once in the mean.
        for_size = list(_random_galleries(similarities, probes, size, rng, -(-num // size)))
        values = np.concatenate([met.own_corrected for met, _ in for_size])
        yield _mated(size, values, np.concatenate([weights for _, weights in for_size]))


def _mated(size: int, values: Floats, weights: Floats) -> MatedAt:
    """Who is no candidate is as far away as can be."""
    return MatedAt(float(size), tuple(quantiles(np.maximum(values, -1.0), weights).round(5).tolist()))


def _figure(size: int, fpir: float, rates: Sequence[float]) -> CrowdingFigure:
    plain, corrected = (round(float(rate), 5) for rate in rates)
    return CrowdingFigure(size=size, fpir=fpir, fnir_plain=plain, fnir_corrected=corrected)


def _probes(people: People) -> _Probes:
    vectors, own = [], []
    for place, templates in enumerate(people.templates):
        vectors += list(templates[1 : PROBES_MAX + 1])
        own += [place] * min(len(templates) - 1, PROBES_MAX)
    places = np.array(own)
    similarities = np.stack(vectors).astype(np.float32) @ people.firsts.astype(np.float32).T
    return _Probes(similarities, places, 1.0 / np.bincount(places)[places])


def _random_galleries(
    similarities: Similarities,
    probes: _Probes,
    size: int,
    rng: np.random.Generator,
    num_galleries: int = NUM_GALLERIES,
) -> Iterator[tuple[_Met, Floats]]:
    """What strangers and mated probes meet in each gallery, and what the mated probes weigh."""
    num = len(similarities)
    for _ in range(num_galleries):
        column_of = np.full(num, -1)
        enrolled = rng.choice(num, size, replace=False)
        column_of[enrolled] = np.arange(size)
        crowds = crowding.crowding_of(similarities[np.ix_(enrolled, enrolled)])
        strangers = crowding.search(similarities[np.ix_(column_of < 0, enrolled)], crowds)
        is_mated = column_of[probes.own] >= 0
        if not is_mated.any():
            continue
        mated = crowding.search(probes.similarities[np.ix_(is_mated, enrolled)], crowds)
        own = column_of[probes.own[is_mated]]
        met = _Met((strangers.tops, strangers.tops_corrected), mated.own(own), mated.corrected_of(own))
        yield met, probes.weights[is_mated]


def _differences(
    met: _Met, probes: _Probes, num: int, settings: EstimatorSettings
) -> tuple[float, float, float]:
    """FNIR with minus without at DECISIVE_FPIR, and its interval; who is drawn is both stranger and mated."""
    found = []
    for weights in draw_people(num, settings).T.astype(np.float64):
        mated = weights[probes.own] * probes.weights
        if mated.any():
            plain, corrected = met.fnir(DECISIVE_FPIR, weights, mated)
            found.append(corrected - plain)
    low, high = np.quantile(found[1:], [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return found[0], float(low), float(high)


def _exceeded(tops: Floats, weights: Floats, fpir: float) -> float:
    """Largest top that must be exceeded so that at most this share of the strangers does."""
    order = np.argsort(-tops)
    reached = np.cumsum(weights[order])
    return float(
        tops[order][min(int(np.searchsorted(reached, fpir * reached[-1], side="right")), len(tops) - 1)]
    )
