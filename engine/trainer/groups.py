"""The same rates for groups of people: by each attribute and its values, at the one global threshold.

A threshold of its own for each group would hide that one group is found less often, or mistaken more often,
than another: a gallery has one threshold for all.

File: CSV with a header; the column `identity_id`, then one column for each attribute. An empty cell says that
the attribute is not known of that person.

Knows nothing of pictures or networks. Source: Grother, Ngan and Hanaoka, "FRVT Part 3: Demographic Effects",
NISTIR 8280, 2019, which reports false positives and false negatives by group at one threshold.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import metrics
from engine.errors import InvalidInputError
from engine.trainer.lists import read_lines
from engine.trainer.open_set import Labels, OpenSetReport, OpenSetSimilarities, is_hit
from engine.trainer.verification import ComparedPairs, VerificationReport

ID_COLUMN = "identity_id"
COLUMNS_MAX = 32
VALUES_MAX = 100
"""Distinct values of one attribute: with more it is a measurement or a name, no group."""

Groups = Mapping[str, Mapping[str, str]]
"""By attribute, the value of each identity of which it is known."""


@dataclass(frozen=True, slots=True)
class OpenSetGroup:
    """What people of one group meet at the thresholds of all."""

    attribute: str
    value: str
    num_enrolled_people: int
    """With mated probes."""
    num_mated: int
    num_strangers: int
    rank1: float | None
    """None without mated probes, as are those below; FPIR without strangers."""
    fnir: Mapping[str, float | None]
    """By the target FPIR of all people's threshold."""
    fpir: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class VerificationGroup:
    """What pairs of people of one group give at the thresholds of all."""

    attribute: str
    value: str
    num_people: int
    num_mated_pairs: int
    num_non_mated_pairs: int
    """Of two people who are both in the group."""
    tar: Mapping[str, float | None]
    """By the target FAR of all people's threshold; None without mated pairs."""
    far: Mapping[str, float | None]
    """None without non-mated pairs."""


def read_groups(path: Path) -> Groups:
    """Read attributes of identities. Raises InvalidInputError naming the line where the file is malformed."""
    rows = list(csv.reader(read_lines(path)))
    header = rows[0] if rows else []
    if header[:1] != [ID_COLUMN] or not 2 <= len(header) <= COLUMNS_MAX + 1 or "" in header:
        raise InvalidInputError(
            f"{path}, line 1: expected {ID_COLUMN} and 1 to {COLUMNS_MAX} attributes, divided by commas"
        )
    if len(set(header)) != len(header):
        raise InvalidInputError(f"{path}, line 1: an attribute is named twice")
    groups: dict[str, dict[str, str]] = {name: {} for name in header[1:]}
    seen: set[str] = set()
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(header) or not row[0]:
            raise InvalidInputError(f"{path}, line {number}: expected {len(header)} cells, as the header has")
        if row[0] in seen:
            raise InvalidInputError(f"{path}, line {number}: {row[0]} is there twice")
        seen.add(row[0])
        for name, value in zip(header[1:], row[1:], strict=True):
            if value.strip():
                groups[name][row[0]] = value.strip()
    for name, values in groups.items():
        if len(set(values.values())) > VALUES_MAX:
            raise InvalidInputError(
                f"{path}: {name} has {len(set(values.values()))} values, more than {VALUES_MAX}: join them"
            )
    return groups


def judge_open_set_groups(
    measured: OpenSetSimilarities, report: OpenSetReport, groups: Groups
) -> tuple[OpenSetGroup, ...]:
    """Count each group's rates at the thresholds of `report`; groups without any probe are left out."""
    found = []
    for attribute, value, people in _each(groups):
        is_mated, is_stranger = _is_in(measured.mated_labels, people), _is_in(measured.top_labels, people)
        if not (is_mated.any() or is_stranger.any()):
            continue
        part = measured.subset(is_mated, is_stranger)
        fnir: dict[str, float | None] = {}
        fpir: dict[str, float | None] = {}
        for point in report.points:
            name = f"{point.fpir_target:g}"
            fnir[name] = _share(~is_hit(part, point.threshold))
            fpir[name] = metrics.fpir(part.tops, point.threshold) if part.tops.size else None
        found.append(
            OpenSetGroup(
                attribute=attribute,
                value=value,
                num_enrolled_people=len(np.unique(part.mated_labels)),
                num_mated=part.mated.size,
                num_strangers=part.tops.size,
                rank1=_share(part.ranks == 1),
                fnir=fnir,
                fpir=fpir,
            )
        )
    return tuple(found)


def judge_verification_groups(
    compared: ComparedPairs, report: VerificationReport, groups: Groups
) -> tuple[VerificationGroup, ...]:
    """Count each group's rates at the thresholds of `report`; groups without any pair are left out."""
    found = []
    for attribute, value, people in _each(groups):
        is_of = _is_in(compared.people, people)
        is_in = is_of[compared.first_places] & is_of[compared.second_places]
        if not is_in.any():
            continue
        part = compared.subset(is_in)
        mated, non_mated = part.mated, part.non_mated
        found.append(
            VerificationGroup(
                attribute=attribute,
                value=value,
                num_people=int(part.is_seen.sum()),
                num_mated_pairs=mated.size,
                num_non_mated_pairs=non_mated.size,
                tar={name: _accepted(mated, edge) for name, edge in report.thresholds.items()},
                far={name: _accepted(non_mated, edge) for name, edge in report.thresholds.items()},
            )
        )
    return tuple(found)


def groups_json(groups: Sequence[OpenSetGroup] | Sequence[VerificationGroup]) -> list[dict[str, Any]]:
    """Give plain values for JSON."""
    return [dataclasses.asdict(group) for group in groups]


def _each(groups: Groups) -> list[tuple[str, str, set[str]]]:
    """Attribute, value and the people of each group, attributes as in the file, values sorted."""
    return [
        (attribute, value, {name for name, other in of.items() if other == value})
        for attribute, of in groups.items()
        for value in sorted(set(of.values()))
    ]


def _is_in(labels: Labels, people: set[str]) -> NDArray[np.bool_]:
    return np.array([str(label) in people for label in labels.tolist()], dtype=np.bool_)


def _share(marks: NDArray[np.bool_]) -> float | None:
    return float(marks.mean()) if marks.size else None


def _accepted(similarities: metrics.Similarities, threshold: float) -> float | None:
    return metrics.fpir(similarities, threshold) if similarities.size else None
