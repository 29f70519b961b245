"""Judges pairs of templates with known similarities in 1:1, with intervals over people.

Knows nothing of pictures, networks, or where the pairs come from.

Intervals resample people, not pairs: a mated pair counts as often as its person was drawn, a non-mated pair
the product of its two people's draws. See engine.trainer.bootstrap for why, and for the source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine import metrics
from engine.errors import InvalidInputError
from engine.metrics import SHARE_ROUNDING, Similarities
from engine.trainer.bootstrap import (
    DEFAULT_SETTINGS,
    BootstrapSettings,
    Interval,
    bootstrap_json,
    draws,
    interval,
)
from engine.trainer.open_set import Labels, Name, mean_per_person, unit_rows

FARS = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
"""False accept rates that a report of all pairs names."""
ROWS_MAX = 4000
"""Templates compared each with each: 8 million pairs. All are held in memory, each a few tens of bytes, and
each resample of an interval reads them all."""
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


@dataclass(frozen=True, slots=True)
class ComparedPairs:
    """p pairs: how alike their two are, and of whom they are."""

    similarities: Similarities
    """float64[p]; NO_TEMPLATE where one of the two has no template."""
    is_same: NDArray[np.bool_]
    """bool[p], whether both are of one person."""
    people: Labels
    """[q], names of people, each once."""
    first_places: NDArray[np.integer]
    """int[p], place in `people` of whose the first is: names of millions of pairs would fill the memory."""
    second_places: NDArray[np.integer]
    """int[p], of whose the second is; equal to `first_places` where `is_same`."""

    @property
    def first(self) -> Labels:
        """[p], whose the first is."""
        names: Labels = self.people[self.first_places]
        return names

    @property
    def second(self) -> Labels:
        """[p], whose the second is."""
        names: Labels = self.people[self.second_places]
        return names

    @property
    def is_seen(self) -> NDArray[np.bool_]:
        """bool[q], whether a pair holds that person."""
        seen = np.zeros(len(self.people), dtype=np.bool_)
        seen[self.first_places] = seen[self.second_places] = True
        return seen

    @property
    def mated(self) -> Similarities:
        """Of pairs of one person."""
        return self.similarities[self.is_same]

    @property
    def non_mated(self) -> Similarities:
        """Of pairs of two people."""
        return self.similarities[~self.is_same]

    def subset(self, rows: NDArray[np.bool_]) -> ComparedPairs:
        """Keep the marked pairs."""
        return dataclasses.replace(
            self,
            similarities=self.similarities[rows],
            is_same=self.is_same[rows],
            first_places=self.first_places[rows],
            second_places=self.second_places[rows],
        )


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """How well templates of one person are told from those of two."""

    num_mated_pairs: int
    num_non_mated_pairs: int
    num_people: int
    mean_squared_distance_mated: float | None
    """Of unit vectors, over pairs with templates; None where no pair has two."""
    mean_squared_distance_non_mated: float | None
    auc: float
    eer: float
    best_balanced_accuracy: float
    """The best mean of TAR and 1 - FAR, with a threshold of this very sample."""
    tar_at_far: Mapping[str, float]
    thresholds: Mapping[str, float]
    """Of each FAR, by the same names."""
    tar_at_far_per_person: Mapping[str, float]
    """Mean over people with mated pairs of the share of these that are accepted."""

    def as_json(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class VerificationIntervals:
    """Where the rates may lie."""

    auc: Interval
    eer: Interval
    tar_at_far: Mapping[str, Interval]
    settings: BootstrapSettings

    def as_json(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        values = dataclasses.asdict(self)
        del values["settings"]
        return {**values, **bootstrap_json(self.settings)}


def check_labels(labels: Labels) -> None:
    """Refuse labels [n] of which all pairs cannot be judged, before their templates are made.

    Raises InvalidInputError for fewer than two rows, more than ROWS_MAX, or without pairs of both kinds.
    """
    _check_num_rows(len(labels))
    _, counts = np.unique(labels, return_counts=True)
    num_mated = int((counts * (counts - 1) // 2).sum())
    _check_num_pairs(num_mated, len(labels) * (len(labels) - 1) // 2 - num_mated)


def compare_all(
    vectors: ArrayLike, labels: ArrayLike, *, same: Collection[tuple[Name, Name]] = ()
) -> ComparedPairs:
    """Compare each of n templates float[n, d] with each other one, once.

    Rows are made unit in float64; a row of zeros has no template. `same` names pairs of labels that are one
    person under two names: their comparisons are neither mated nor non-mated, and left out. Raises
    InvalidInputError for wrong shapes, fewer than two rows, or more than ROWS_MAX.
    """
    rows, of = unit_rows(vectors, labels, "templates")
    _check_num_rows(len(rows))
    table = rows @ rows.T
    is_empty: NDArray[np.bool_] = np.asarray(~rows.any(axis=1))
    table[is_empty] = table[:, is_empty] = metrics.NO_TEMPLATE
    is_once = np.triu(np.ones(table.shape, dtype=np.bool_), k=1)
    similarities = table[is_once]
    people, inverse = np.unique(of, return_inverse=True)
    places = inverse.astype(np.int32)
    first_places = np.broadcast_to(places[:, None], table.shape)[is_once]
    second_places = np.broadcast_to(places, table.shape)[is_once]
    compared = ComparedPairs(similarities, first_places == second_places, people, first_places, second_places)
    place_of = {name: place for place, name in enumerate(people.tolist())}
    keep = np.ones(len(similarities), dtype=np.bool_)
    for one, other in same:
        if one != other and one in place_of and other in place_of:
            a, b = place_of[one], place_of[other]
            keep[(first_places == a) & (second_places == b)] = False
            keep[(first_places == b) & (second_places == a)] = False
    return compared if keep.all() else compared.subset(keep)


def judge_verification(compared: ComparedPairs, fars: Mapping[str, float] = FARS) -> VerificationReport:
    """Count the rates of pairs at each FAR of `fars`, by its name.

    Raises InvalidInputError where there is no mated or no non-mated pair.
    """
    mated, non_mated = compared.mated, compared.non_mated
    _check_num_pairs(mated.size, non_mated.size)
    points = dict(zip(fars, metrics.tar_at_far(mated, non_mated, list(fars.values())), strict=True))
    people = compared.first_places[compared.is_same]
    return VerificationReport(
        num_mated_pairs=mated.size,
        num_non_mated_pairs=non_mated.size,
        num_people=int(compared.is_seen.sum()),
        mean_squared_distance_mated=_mean_squared_distance(mated),
        mean_squared_distance_non_mated=_mean_squared_distance(non_mated),
        auc=metrics.auc(mated, non_mated),
        eer=metrics.eer(mated, non_mated),
        best_balanced_accuracy=metrics.best_balanced_accuracy(mated, non_mated).accuracy,
        tar_at_far={name: point.tar for name, point in points.items()},
        thresholds={name: point.threshold for name, point in points.items()},
        tar_at_far_per_person={
            name: mean_per_person((mated >= point.threshold) & np.isfinite(mated), people)
            for name, point in points.items()
        },
    )


def bootstrap_verification(
    compared: ComparedPairs,
    fars: Mapping[str, float] = FARS,
    settings: BootstrapSettings = DEFAULT_SETTINGS,
) -> VerificationIntervals:
    """Give the intervals of AUC, EER and TAR at each FAR, with the threshold found anew in each resample.

    A resample without a mated or without a non-mated pair says nothing and is left out. Raises
    InvalidInputError where there are no such pairs at all.
    """
    report = judge_verification(compared, fars)
    is_seen = compared.is_seen
    places = np.cumsum(is_seen) - 1
    fitted = _Fitted(compared, places)
    rates = np.array(
        [
            found
            for chunk in draws(int(is_seen.sum()), settings)
            for drawn in chunk
            if (found := fitted.rates(drawn, list(fars.values()))) is not None
        ]
    )
    if len(rates) == 0:
        raise InvalidInputError("no resample holds both mated and non-mated pairs: give more people")
    values = [report.auc, report.eer, *report.tar_at_far.values()]
    auc, eer, *tars = (interval(value, rates[:, i], settings.level) for i, value in enumerate(values))
    return VerificationIntervals(auc, eer, dict(zip(fars, tars, strict=True)), settings)


class _Fitted:
    """Pairs sorted once for all resamples, the most alike first."""

    def __init__(self, compared: ComparedPairs, places: NDArray[np.intp]):
        is_same = compared.is_same
        self._mated, mated_order = _by_likeness(compared.similarities[is_same])
        self._non_mated, order = _by_likeness(compared.similarities[~is_same])
        self._person = places[compared.first_places[is_same][mated_order]]
        self._first = places[compared.first_places[~is_same][order]]
        self._second = places[compared.second_places[~is_same][order]]
        # One array for all resamples: to be given millions of numbers anew takes longer than to count them.
        self._counts = np.zeros(len(order) + 1, dtype=np.int64)
        # Between two distinct mated similarities the ROC is a level line: its corners are all that counts.
        values = np.unique(self._mated)
        self._mated_ends = np.stack([np.searchsorted(self._mated, values, side) for side in _SIDES], axis=1)
        self._ends = np.stack([np.searchsorted(self._non_mated, values, side) for side in _SIDES], axis=1)

    def rates(self, drawn: NDArray[np.int64], fars: Sequence[float]) -> list[float] | None:
        """AUC, EER and TAR at each FAR where each person counts as often as drawn; None without pairs."""
        mated = np.concatenate([[0], np.cumsum(drawn[self._person])])
        non_mated, counts = self._counts, self._counts[1:]
        # Every place is one of `drawn`; with mode `raise` numpy would make a copy first.
        np.take(drawn, self._first, out=counts, mode="clip")
        np.multiply(counts, drawn[self._second], out=counts)
        np.cumsum(counts, out=counts)
        if mated[-1] == 0 or non_mated[-1] == 0:
            return None
        tar = np.concatenate([[0.0], (mated[self._mated_ends] / mated[-1]).ravel(), [1.0]])
        far = np.concatenate([[0.0], (non_mated[self._ends] / non_mated[-1]).ravel(), [1.0]])
        found = [float(np.trapezoid(tar, far)), float(np.interp(0.0, far + tar - 1.0, far))]
        for target in fars:
            allowed = math.floor(target * non_mated[-1] + SHARE_ROUNDING)
            place = int(np.searchsorted(non_mated[1:], allowed, side="right"))
            # As metrics.tar_at_far: what is above the first pair that would be one too many.
            edge = self._non_mated[place] if place < len(self._non_mated) else math.inf
            found.append(float(mated[np.searchsorted(self._mated, edge, side="left")] / mated[-1]))
        return found


def _check_num_rows(num_rows: int) -> None:
    if not 2 <= num_rows <= ROWS_MAX:
        raise InvalidInputError(
            f"{num_rows} templates to compare each with each: give 2 to {ROWS_MAX:,}, or a list of pairs"
        )


def _check_num_pairs(num_mated: int, num_non_mated: int) -> None:
    if num_mated == 0 or num_non_mated == 0:
        raise InvalidInputError(
            f"{num_mated:,} pairs of one person and {num_non_mated:,} of two: give pictures of two people"
            " or more, and two or more of one of them"
        )


def _by_likeness(similarities: Similarities) -> tuple[Similarities, NDArray[np.intp]]:
    """Give similarities negated and so rising, the most alike first, and the order that they came in."""
    negated = -similarities
    order = np.argsort(negated, kind="stable")
    return negated[order], order


def _mean_squared_distance(similarities: Similarities) -> float | None:
    has_template = np.isfinite(similarities)
    return float(np.mean(2.0 - 2.0 * similarities[has_template])) if has_template.any() else None
