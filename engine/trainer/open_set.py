"""Judges templates in an open set: who is enrolled, who is not, and what one global threshold gives.

Knows nothing of pictures, networks, files or resampling: vectors and labels in, similarities and rates out.

Reading: vectors and labels -> `measure_open_set` (what each probe meets) -> `judge_measured` (rates). The
measured values are small and hold all that resampling people needs: see engine.trainer.bootstrap.

An identity's similarity is that of its best template. A row of zeros stands for a picture of which no
template could be made: a mated one is a miss, a stranger's raises no alarm, an enrolled one is never found.

Source: NIST FRTE 1:N, "Metrics", for FPIR(N, T) and FNIR(N, R, T) with R = 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine import metrics
from engine.errors import InvalidInputError
from engine.metrics import NO_TEMPLATE, Ranks, Similarities

FPIRS = (0.3, 0.1, 0.03, 0.01, 0.003)
"""False positive identification rates that a report names where none are asked for."""
NUM_RANKS = 20
"""Ranks of the cumulative match characteristic, or as many as there are identities where these are fewer."""
BLOCK_BYTES_MAX = 64 * 2**20
"""Of similarities held at once: more probes than fit go block by block."""

Labels = NDArray[Any]
"""int64[n] or str[n]: whose picture each row is. All labels of one call are of one kind."""
Name = str | int
"""One label."""
Labelled = tuple[ArrayLike, ArrayLike]
"""Vectors float[n, d] and their labels [n]."""


@dataclass(frozen=True, slots=True)
class OpenSetSimilarities:
    """What each probe met in a gallery: all that the rates of an open set are counted from."""

    num_enrolled: int
    """N, identities in the gallery."""
    mated: Similarities
    """float64[m], each mated probe's similarity to its own identity; NO_TEMPLATE where there is none."""
    ranks: Ranks
    """int64[m], rank of its own identity, 1 for the best; NO_RANK where there is no template. An equal
    similarity of another identity counts as better."""
    mated_labels: Labels
    """[m], whose probe it is."""
    tops: Similarities
    """float64[s], each stranger's similarity to the most alike identity; NO_TEMPLATE where there is none."""
    top_labels: Labels
    """[s], whom the stranger's picture shows."""

    def subset(self, is_mated: NDArray[np.bool_], is_stranger: NDArray[np.bool_]) -> OpenSetSimilarities:
        """Keep the marked mated probes and strangers; the gallery, and so every similarity, stays."""
        return dataclasses.replace(
            self,
            mated=self.mated[is_mated],
            ranks=self.ranks[is_mated],
            mated_labels=self.mated_labels[is_mated],
            tops=self.tops[is_stranger],
            top_labels=self.top_labels[is_stranger],
        )


@dataclass(frozen=True, slots=True)
class OpenSetPoint:
    """What the threshold of one false positive rate gives."""

    fpir_target: float
    threshold: float
    """Smallest float above the (floor(target * strangers) + 1)-th largest top similarity."""
    fpir: float
    """At most the target."""
    fnir: float
    """Share of mated probes whose identity is not first, or below the threshold."""
    fnir_per_person: float
    """Mean over mated people of that share among their own probes."""


@dataclass(frozen=True, slots=True)
class OpenSetReport:
    """How well a gallery finds its own and leaves strangers out."""

    num_enrolled: int
    """N; FNIR and FPIR mean nothing without it."""
    num_mated: int
    num_mated_people: int
    num_strangers: int
    num_stranger_people: int
    rank1: float
    """Share of mated probes whose own identity comes first, whatever the similarity."""
    rank1_per_person: float
    """Mean over mated people: a few people with many pictures do not decide it."""
    cmc: tuple[float, ...]
    """Share of mated probes within ranks 1, 2, ..."""
    points: tuple[OpenSetPoint, ...]
    """In the order of the FPIRs asked for; none where there are no strangers."""

    def point(self, fpir: float) -> OpenSetPoint:
        """Look up what was measured at a target FPIR. Raises InvalidInputError where it was not asked for."""
        for point in self.points:
            if point.fpir_target == fpir:
                return point
        raise InvalidInputError(f"nothing was measured at FPIR {fpir}: ask for it in fpirs")

    def as_json(self) -> dict[str, Any]:
        """Give plain values for JSON, the points by the name of their target FPIR."""
        values = dataclasses.asdict(self)
        values["cmc"] = list(self.cmc)
        values["at_fpir"] = {f"{point['fpir_target']:g}": point for point in values.pop("points")}
        return values


def judge_open_set(
    gallery: Labelled,
    mated: Labelled,
    strangers: Labelled,
    fpirs: Sequence[float] = FPIRS,
    *,
    same: Collection[tuple[Name, Name]] = (),
) -> OpenSetReport:
    """Give the rates of mated probes and strangers against a gallery; each is vectors with their labels.

    Arguments and errors as `measure_open_set` and `judge_measured`.
    """
    return judge_measured(measure_open_set(gallery, mated, strangers, same=same), fpirs)


def measure_open_set(
    gallery: Labelled,
    mated: Labelled,
    strangers: Labelled,
    *,
    same: Collection[tuple[Name, Name]] = (),
) -> OpenSetSimilarities:
    """Compare every probe with every identity of a gallery.

    Each argument is vectors float[n, d] of any length but not finite (made unit in float64; zero rows have no
    template) and their labels. `gallery` may hold several templates of an identity. `strangers` may be none,
    for a closed set. `same` names pairs of labels that are one person under two names, in either order: they
    are no non-mated comparison, so such an enrolled identity is passed over for such a probe.

    Raises InvalidInputError for an empty gallery, no mated probe, vectors and labels that do not fit, a mated
    probe whose label is not enrolled, and a stranger whose label is.
    """
    enrolled, enrolled_labels = unit_rows(*gallery, "gallery")
    probes, probe_labels = unit_rows(*mated, "mated probes")
    others, other_labels = unit_rows(*strangers, "strangers", dimension=enrolled.shape[1])
    if len(enrolled) == 0 or len(probes) == 0:
        raise InvalidInputError(
            f"{len(enrolled)} templates enrolled, {len(probes)} mated probes: give at least one of each"
        )
    if probes.shape[1] != enrolled.shape[1] or others.shape[1] != enrolled.shape[1]:
        raise InvalidInputError(
            f"templates of {enrolled.shape[1]} values are enrolled, mated probes have {probes.shape[1]} and"
            f" strangers {others.shape[1]}: take all from one network"
        )
    people, places = np.unique(enrolled_labels, return_inverse=True)
    columns = _columns(people, probe_labels)
    if len(other_labels) and np.isin(other_labels, people).any():
        name = other_labels[np.isin(other_labels, people)][0]
        raise InvalidInputError(f"{name} is among the strangers and enrolled: strangers are not enrolled")
    sides = _other_names(same)
    own: list[Similarities] = []
    ranks: list[Ranks] = []
    for rows, table in _blocks(probes, enrolled, places, len(people)):
        _pass_over(table, probe_labels[rows], people, sides)
        ranks.append(metrics.rank_of_mated(table, columns[rows]))
        own.append(table[np.arange(len(table)), columns[rows]])
    tops = [np.empty(0)]
    for rows, table in _blocks(others, enrolled, places, len(people)):
        _pass_over(table, other_labels[rows], people, sides)
        tops.append(table.max(axis=1))
    return OpenSetSimilarities(
        num_enrolled=len(people),
        mated=np.concatenate(own),
        ranks=np.concatenate(ranks),
        mated_labels=probe_labels,
        tops=np.concatenate(tops),
        top_labels=other_labels,
    )


def judge_measured(measured: OpenSetSimilarities, fpirs: Sequence[float] = FPIRS) -> OpenSetReport:
    """Count the rates at each FPIR of `fpirs`; without strangers only those of the closed set.

    Raises InvalidInputError for no mated probe and for an FPIR outside 0..1.
    """
    ranks = measured.ranks
    shares = metrics.cmc(ranks, min(NUM_RANKS, measured.num_enrolled))
    points = []
    if measured.tops.size:
        for point in metrics.fnir_at_fpir(measured.mated, ranks, measured.tops, fpirs):
            is_miss = ~is_hit(measured, point.threshold)
            points.append(
                OpenSetPoint(
                    point.fpir_target,
                    point.threshold,
                    point.fpir,
                    point.fnir,
                    mean_per_person(is_miss, measured.mated_labels),
                )
            )
    return OpenSetReport(
        num_enrolled=measured.num_enrolled,
        num_mated=ranks.size,
        num_mated_people=len(np.unique(measured.mated_labels)),
        num_strangers=measured.tops.size,
        num_stranger_people=len(np.unique(measured.top_labels)),
        rank1=float(shares[0]),
        rank1_per_person=mean_per_person(ranks == 1, measured.mated_labels),
        cmc=tuple(shares.tolist()),
        points=tuple(points),
    )


def is_hit(measured: OpenSetSimilarities, threshold: float) -> NDArray[np.bool_]:
    """Mark the mated probes whose identity comes first and at or above the threshold; bool[m]."""
    hit: NDArray[np.bool_] = (measured.ranks == 1) & (measured.mated >= threshold)
    return hit


def mean_per_person(values: ArrayLike, labels: Labels) -> float:
    """Give the mean over people of the mean of their own values, float or bool[n]."""
    _, places = np.unique(labels, return_inverse=True)
    sums = np.bincount(places, weights=np.asarray(values, dtype=np.float64))
    return float((sums / np.bincount(places)).mean())


def _blocks(
    probes: Similarities, enrolled: Similarities, places: NDArray[np.intp], num_people: int
) -> Iterator[tuple[slice, Similarities]]:
    """Yield rows of probes and their similarity to each identity, float64[rows, num_people]."""
    order = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(num_people))
    is_empty = ~enrolled.any(axis=1)
    num_rows = max(1, BLOCK_BYTES_MAX // (8 * len(enrolled)))
    for start in range(0, len(probes), num_rows):
        rows = slice(start, min(start + num_rows, len(probes)))
        table = probes[rows] @ enrolled.T
        table[:, is_empty] = NO_TEMPLATE
        table[~probes[rows].any(axis=1)] = NO_TEMPLATE
        if len(enrolled) > num_people:
            table = np.maximum.reduceat(table[:, order], starts, axis=1)
        else:
            table = table[:, order]
        yield rows, table


def _pass_over(
    table: Similarities, labels: Labels, people: Labels, sides: Mapping[Name, Collection[Name]]
) -> None:
    """Take the identities that are a probe's own person under another name out of its comparisons."""
    for label in set(labels.tolist()) & sides.keys():
        columns = np.flatnonzero(np.isin(people, list(sides[label])))
        if len(columns):
            table[np.ix_(labels == label, columns)] = NO_TEMPLATE


def _other_names(same: Collection[tuple[Name, Name]]) -> dict[Name, set[Name]]:
    """Look up the other names of each name that `same` holds."""
    sides: dict[Name, set[Name]] = {}
    for first, second in same:
        if first != second:
            sides.setdefault(first, set()).add(second)
            sides.setdefault(second, set()).add(first)
    return sides


def _columns(people: Labels, labels: Labels) -> NDArray[np.int64]:
    """Look up each label's place among the sorted people."""
    is_enrolled = np.isin(labels, people)
    if not is_enrolled.all():
        raise InvalidInputError(
            f"{labels[~is_enrolled][0]} has mated probes but is not enrolled: enroll a picture, or count it"
            " among the strangers"
        )
    return np.searchsorted(people, labels).astype(np.int64)


def unit_rows(
    vectors: ArrayLike, labels: ArrayLike, name: str, dimension: int = 0
) -> tuple[Similarities, Labels]:
    """Give vectors float[n, d] as unit rows float64[n, d] (zero rows stay zero) and their n labels.

    `name` says in errors whose they are; `dimension` is that of no rows at all. Raises InvalidInputError for
    shapes that do not fit, labels that are neither whole numbers nor names, and values that are not finite.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    of = np.asarray(labels)
    if len(rows) == 0 and len(of) == 0:
        return np.zeros((0, rows.shape[1] if rows.ndim == 2 else dimension)), of
    if rows.ndim != 2 or of.shape != (len(rows),) or of.dtype.kind not in "iuU":
        raise InvalidInputError(
            f"{name}: vectors{list(rows.shape)} with labels {of.dtype}{list(of.shape)}; give [n, d] vectors"
            " and n whole numbers or n names"
        )
    if not np.isfinite(rows).all():
        raise InvalidInputError(f"{name}: a vector is not finite; give a row of zeros where no template is")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return rows / np.where(lengths > 0.0, lengths, 1.0)[:, None], of
