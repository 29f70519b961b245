"""Makes a calibration of a network's templates of labelled people: rates, and all that is told with them.

Reading: labelled vectors -> people (duplicates out) -> similarities of everybody's first templates -> rates
by size, exponents of templates, crowding, groups -> `Calibration`.

Knows nothing of pictures, networks and files. What it cannot know: whether the strangers at a gallery's door
are like these people. Their words (`Source.people`) go with the calibration for that reason.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.decision import crowding
from engine.decision.calibration import CORRECTED, MEAN, PLAIN, Calibration, Curve, LeftOut, MatedAt, Span
from engine.decision.estimator import Estimated, EstimatorSettings, check_people, estimate
from engine.decision.rates import RateTable
from engine.errors import InvalidInputError
from engine.trainer.calibration_crowding import CrowdingFound, measure_crowding
from engine.trainer.calibration_exponents import SAFE_FALLING, Exponents, templates_exponents
from engine.trainer.calibration_groups import measure_groups
from engine.trainer.calibration_people import (
    Duplicates,
    Floats,
    Pair,
    People,
    find_duplicates,
    find_known,
    gather,
    mated_similarities,
    quantiles,
)
from engine.trainer.groups import Groups
from engine.trainer.vectors_file import LabelledVectors
from engine.types import EmbeddingContract

BASELINE_FPIRS = (0.1, 0.03, 0.01)
"""At which the tail of single pairs is held against the rates."""
BASELINE_PAIRS_MIN = 10
"""That a threshold by single pairs must be reached by."""
EQUAL_WITHIN = 1e-6
"""Of similarity 1 to each other."""
DIGITS = 5
"""Behind the point, of similarities and logarithms of rates: far beyond what is known."""

Similarities = NDArray[np.float32]
Progress = Callable[[str], None]


def silent(_step: str) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True)
class Source:
    """Whose templates these are."""

    contract: EmbeddingContract
    people: str
    """Whose strangers these are, in words."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What is asked beside the rates."""

    same: Sequence[Pair] = ()
    """Names of one person; the second is left out."""
    different: Sequence[Pair] = ()
    """Names of two people, however alike."""
    has_likely_duplicates: bool = False
    """Whether names that are probably one person are kept."""
    groups: Groups = field(default_factory=dict)
    target_fpirs: Sequence[float] = ()
    """That the people must be enough for."""


NO_CHOICES = Choices()


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration, and what is told of its making."""

    calibration: Calibration
    without_template: tuple[str, ...]
    """People of whom no picture gave a template."""
    kept: tuple[LeftOut, ...]
    """Likely duplicates that were kept because it was asked for."""
    baseline: Mapping[float, float]
    """What strangers reach the threshold by single pairs, 1 - (1 - p)^N, as a multiple of the FPIR it is for;
    N is all the others."""
    crowding_difference: tuple[float, float, float] | None
    """FNIR with the crowding correction minus that without, at FPIR 0.01 among all, and its interval."""
    notes: tuple[str, ...]
    """What could not be measured, in words."""


def calibrate(
    labelled: LabelledVectors,
    source: Source,
    settings: EstimatorSettings = EstimatorSettings(),  # noqa: B008 - frozen
    choices: Choices = NO_CHOICES,
    progress: Progress = silent,
) -> Calibrated:
    """Measure labelled vectors of the source's contract.

    Raises InvalidInputError for vectors of another length than the contract's, for people too few or too
    many, and for templates that tell nobody apart.
    """
    _check_dimension(labelled, source.contract)
    everybody, without_template = gather(labelled)
    progress(f"{len(everybody.names):,} people: looking for duplicates")
    check_people(len(everybody.names))
    known = find_known(everybody, choices.same)
    distinct = everybody.without({one.second for one in known})
    likely = find_duplicates(distinct, different=choices.different)
    left_out, kept = (known, likely.found) if choices.has_likely_duplicates else ((*known, *likely.found), ())
    people = everybody.without({one.second for one in left_out})
    check_people(len(people.names), min(choices.target_fpirs, default=None))
    similarities = _between(people)
    if similarities.min() > 1.0 - EQUAL_WITHIN:
        raise InvalidInputError("all templates are equal: this network tells nobody apart")
    progress(f"{len(people.names):,} people: rates")
    plain = estimate(similarities, settings)
    progress("templates of one identity, crowding")
    exponents = templates_exponents(people, settings)
    crowded = measure_crowding(people, similarities, settings)
    curves = _curves(people, plain, exponents)
    if len(people.names) >= crowding.PEOPLE_MIN:
        corrected = crowding.estimate_corrected(similarities, settings)
        mated = crowded.mated_at[-1].quantiles if crowded.mated_at else ()
        exponent = SAFE_FALLING if corrected.growth.value < 0.0 else exponents.best
        curves[CORRECTED] = _curve(corrected, exponent, mated, crowded.mated_at)
    calibration = Calibration(
        contract_name=source.contract.name,
        contract_digest=source.contract.digest,
        people=source.people,
        created=dt.datetime.now(dt.UTC).date().isoformat(),
        num_people=len(people.names),
        num_pictures=people.num_pictures,
        left_out=tuple(map(_rounded, left_out)),
        duplicate_similarity=None if likely.similarity is None else round(likely.similarity, DIGITS),
        curves=curves,
        crowding=crowded.figures,
        is_crowding_better=crowded.is_better,
        groups=measure_groups(people.names, _tops(similarities), plain.table, choices.groups),
    )
    return Calibrated(
        calibration=calibration,
        without_template=without_template,
        kept=tuple(map(_rounded, kept)),
        baseline=pairwise_baseline(similarities, plain.table),
        crowding_difference=crowded.difference,
        notes=_notes(likely, exponents.note, curves, crowded),
    )


def _check_dimension(labelled: LabelledVectors, contract: EmbeddingContract) -> None:
    dimension = labelled.vectors.shape[1]
    if dimension != contract.dimension:
        raise InvalidInputError(
            f"the vectors have {dimension} numbers, contract {contract.name} has {contract.dimension}:"
            " give the network that they were made with"
        )


def pairwise_baseline(similarities: Similarities, table: RateTable) -> dict[float, float]:
    """What rates thresholds of single pairs really give among all others, as multiples of BASELINE_FPIRS.

    They are those where a share p of all pairs lies above, 1 - (1 - p)^N = FPIR. An FPIR that fewer than
    BASELINE_PAIRS_MIN pairs decide is left out.
    """
    num = len(similarities)
    num_pairs = num * (num - 1) // 2
    shares = {fpir: -np.expm1(np.log1p(-fpir) / (num - 1)) for fpir in BASELINE_FPIRS}
    ranks = {fpir: int(share * num_pairs) for fpir, share in shares.items()}
    highest = np.empty(0, np.float32)
    for row in range(num - 1):
        # Only as many of the highest as are needed: all pairs of 20,000 people would take gigabytes.
        highest = np.concatenate([highest, similarities[row, row + 1 :]])
        if len(highest) > 2**20 or row == num - 2:
            kept = min(len(highest), max(ranks.values()) + 1)
            highest = np.partition(highest, len(highest) - kept)[len(highest) - kept :]
    highest = np.sort(highest)[::-1]
    return {
        fpir: round(table.fpir(float(highest[rank]), num - 1) / fpir, 3)
        for fpir, rank in ranks.items()
        if rank >= BASELINE_PAIRS_MIN
    }


def _between(people: People) -> Similarities:
    firsts = people.firsts.astype(np.float32)
    similarities: Similarities = firsts @ firsts.T
    return similarities


def _curves(people: People, plain: Estimated, exponents: Exponents) -> dict[str, Curve]:
    """Those of plain similarities; with one template an identity the best is the mean."""
    mated = _plain(quantiles(*mated_similarities(people)))
    return {PLAIN: _curve(plain, exponents.best, mated), MEAN: _curve(plain, exponents.mean, mated)}


def _curve(
    estimated: Estimated, exponent: Span, mated: tuple[float, ...], mated_at: tuple[MatedAt, ...] = ()
) -> Curve:
    growth = estimated.growth
    return Curve(
        table=_rounded_table(estimated.table),
        tail=estimated.tail,
        growth=Span(*(round(one, 4) for one in (growth.value, growth.low, growth.high))),
        templates_exponent=exponent,
        mated=mated,
        mated_at=mated_at,
    )


def _rounded_table(table: RateTable) -> RateTable:
    rows = [
        tuple(tuple(round(value, DIGITS - 1) for value in row) for row in rows)
        for rows in (table.log_rates, table.low, table.high)
    ]
    return RateTable(
        similarities=table.similarities, sizes=table.sizes, log_rates=rows[0], low=rows[1], high=rows[2]
    )


def _rounded(one: LeftOut) -> LeftOut:
    return LeftOut(one.first, one.second, round(one.similarity, DIGITS))


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(values.round(DIGITS).tolist())


def _tops(similarities: Similarities) -> Floats:
    others = similarities.copy()
    np.fill_diagonal(others, -np.inf)
    tops: Floats = others.max(axis=1).astype(np.float64)
    return tops


def _notes(
    likely: Duplicates, of_exponents: str, curves: Mapping[str, Curve], crowded: CrowdingFound
) -> tuple[str, ...]:
    notes = [note for note in (likely.note, of_exponents) if note]
    if not curves[PLAIN].mated:
        notes.append("the share of missed people is not known: too few people have two pictures")
    if CORRECTED not in curves:
        notes.append(f"no curve for the crowding correction: it takes {crowding.PEOPLE_MIN:,} people")
    elif not crowded.figures:
        notes.append("whether the crowding correction helps is not known: too few people have two pictures")
    return tuple(notes)
