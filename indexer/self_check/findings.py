"""What a self-check of a gallery finds, as plain values, JSON and rows of a table. Finds nothing itself."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from indexer.report import safe_cell

NEAR_ANOTHER, FAR_FROM_OWN = "near_another_identity", "far_from_its_own"
"""Reasons of a mix-up."""
GIVEN, CALIBRATION, OWN_TEMPLATES = "given", "calibration", "own templates"
"""Where the similarity came from at which two identities are likely one person."""
COLUMNS = (
    "finding",
    "rank",
    "identity_id",
    "template_id",
    "source",
    "other_identity_id",
    "other_template_id",
    "other_source",
    "similarity",
    "own_similarity",
    "reason",
)


@dataclass(frozen=True, slots=True)
class Place:
    """One template."""

    identity_id: str
    template_id: int
    source: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two identities that are likely one person, by their two most similar templates."""

    first: Place
    second: Place
    similarity: float
    num_templates_first: int
    num_templates_second: int


@dataclass(frozen=True, slots=True)
class MixUp:
    """A template that is likely of somebody else than its identity."""

    template: Place
    own_similarity: float
    """To the nearest of its own identity's other templates."""
    nearest: Place
    """The nearest template of another identity."""
    similarity: float
    """To that one."""
    reason: str
    """NEAR_ANOTHER or FAR_FROM_OWN."""


@dataclass(frozen=True, slots=True)
class Crowded:
    """An identity that many others are like."""

    identity_id: str
    crowding: float
    """Mean similarity to its 10 nearest other identities."""
    nearest_identity_id: str
    nearest_similarity: float
    num_templates: int


@dataclass(frozen=True, slots=True)
class Region:
    """Crowded identities that are linked by high similarities, each to at least one other."""

    identity_ids: tuple[str, ...]
    similarity: float
    """The least of the links."""
    crowding: float
    """Mean of theirs."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """A template that is like nobody, its own identity included."""

    template: Place
    similarity: float
    """To the most similar other template of the gallery, its own identity's included."""
    own_similarity: float | None
    """To the nearest of its own identity; None: it is alone."""
    quality: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often similarities lie where."""

    low: float
    high: float
    """Of the first bin's lower and the last bin's upper edge."""
    counts: tuple[int, ...]
    median: float

    @property
    def num(self) -> int:
        """Values counted."""
        return sum(self.counts)

    def edge(self, place: int) -> float:
        """Lower edge of a bin."""
        return self.low + (self.high - self.low) * place / len(self.counts)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are of all, listed or not."""

    duplicates: int
    is_duplicates_least: bool
    """Whether there may be more duplicates than were counted: an identity has more than are looked at."""
    near_another: int
    near_another_likely: int
    """Of `near_another`, those as like the other identity as one person's templates are; listed first."""
    near_another_of_duplicates: int
    """Left out of the mix-ups and of `near_another`: that their identity is there twice says it all."""
    far_from_own: int
    crowded: int
    regions: int
    outliers: int


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is unusual in this gallery."""

    crowded_from: float
    """Crowding above which an identity counts as crowded."""
    far_below: float | None
    """Similarity to its own below which a template counts as far from them; None: nobody has several."""
    outlier_below: float
    """Similarity to anybody below which a template counts as an outlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """The worst of each kind, worst first, and how many there are of all."""

    counts: Counts
    duplicates: tuple[Duplicate, ...]
    mix_ups: tuple[MixUp, ...]
    crowded: tuple[Crowded, ...]
    regions: tuple[Region, ...]
    outliers: tuple[Outlier, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that a check found."""

    gallery_id: str
    contract_name: str
    num_identities: int
    """Identities with templates."""
    num_without: int
    """Identities without templates, which were not looked at."""
    num_templates: int
    num_checked_identities: int
    """Identities that were compared with all; fewer than there are: a random sample."""
    num_checked_templates: int
    num_written: int
    """Writes to the gallery while it was read."""
    seed: int
    compare_s: float
    duplicate_similarity: float
    duplicate_origin: str
    """GIVEN, CALIBRATION or OWN_TEMPLATES."""
    limits: Limits
    lists: Lists
    tops: Histogram
    """Of each template, its similarity to the nearest other identity."""
    mated: Histogram | None
    """Of each template, its similarity to the nearest of its own identity; None: nobody has several."""
    crowding: Histogram
    """Of each identity."""

    @property
    def is_sample(self) -> bool:
        """Whether not all were compared with all."""
        return self.num_checked_identities < self.num_identities

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return dataclasses.asdict(self) | {"is_sample": self.is_sample}


def write_csv(findings: Findings, file: BinaryIO) -> None:
    """Write all lists as one table of COLUMNS, for spreadsheets: no cell is taken for a formula."""
    # With the mark at its start that spreadsheets know UTF-8 by.
    text = io.TextIOWrapper(file, "utf-8-sig", newline="", write_through=True)
    cells = csv.writer(text)
    cells.writerow(COLUMNS)
    for row in _rows(findings):
        cells.writerow([safe_cell(cell) for cell in row] + [""] * (len(COLUMNS) - len(row)))
    text.detach()


def _rows(findings: Findings) -> Iterator[list[str]]:
    for rank, pair in enumerate(findings.lists.duplicates, 1):
        yield ["duplicate", str(rank), *_place(pair.first), *_place(pair.second), _number(pair.similarity)]
    for rank, mixed in enumerate(findings.lists.mix_ups, 1):
        numbers = (_number(mixed.similarity), _number(mixed.own_similarity))
        yield ["mix-up", str(rank), *_place(mixed.template), *_place(mixed.nearest), *numbers, mixed.reason]
    for rank, one in enumerate(findings.lists.crowded, 1):
        other = (one.nearest_identity_id, "", "")
        yield ["crowded", str(rank), one.identity_id, "", "", *other, _number(one.crowding)]
    for rank, lone in enumerate(findings.lists.outliers, 1):
        own = "" if lone.own_similarity is None else _number(lone.own_similarity)
        yield ["outlier", str(rank), *_place(lone.template), "", "", "", _number(lone.similarity), own]


def _place(place: Place) -> tuple[str, str, str]:
    return place.identity_id, str(place.template_id), place.source


def _number(value: float) -> str:
    return f"{value:.6f}"
