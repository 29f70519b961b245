"""Who plays which part in an evaluation of identification: enrolled, mated probe or stranger.

Knows nothing of vectors, pictures or rates: labels in, rows out.

The gallery holds each enrolled identity's first row in the order given (for pictures: by name); its other
rows are mated probes. In an open set all rows of identities that are not enrolled are strangers' probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError
from engine.trainer.open_set import Labels, Name

Rows = NDArray[np.int64]
PEOPLE_MIN = 2
"""Identities of a closed set: the only one would always come first."""
NAMED_MAX = 5
"""How many names an error names; all are counted."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Rows of a set of labelled vectors by the part they play."""

    gallery: Rows
    """One for each enrolled identity, in rising order of rows."""
    mated: Rows
    strangers: Rows


def closed_roles(labels: Labels) -> Roles:
    """Enroll everybody.

    Raises InvalidInputError for fewer than two identities, and where nobody has a second row to ask with.
    """
    num_people = len(np.unique(labels))
    if num_people < PEOPLE_MIN:
        raise InvalidInputError(
            f"{num_people} identities to be told apart: give vectors or pictures of {PEOPLE_MIN} or more"
        )
    return _roles(labels, np.ones(len(labels), dtype=np.bool_), np.zeros(len(labels), dtype=np.bool_))


def open_roles(
    labels: Labels, enrolled: Sequence[Name] | None = None, strangers: Sequence[Name] | None = None
) -> Roles:
    """Enroll some and take others as strangers.

    With neither list every second identity is enrolled, in sorted order and from the first on, and the rest
    are strangers. With one list everybody else plays the other part; with both, who is in neither is left
    out.

    Raises InvalidInputError for a name that has no row, a name in both lists, and where nobody enrolled has a
    second row or there is no stranger.
    """
    people = np.unique(labels)
    if enrolled is None and strangers is None:
        is_enrolled = np.isin(labels, people[::2])
        is_stranger = ~is_enrolled
    else:
        is_enrolled = _marked(labels, people, enrolled, "enrolled")
        is_stranger = _marked(labels, people, strangers, "strangers")
        if enrolled is None:
            is_enrolled = ~is_stranger
        elif strangers is None:
            is_stranger = ~is_enrolled
    both = is_enrolled & is_stranger
    if both.any():
        raise InvalidInputError(f"{labels[both][0]} is both in the list of the enrolled and of the strangers")
    if not is_stranger.any():
        raise InvalidInputError("nobody is left as a stranger: enroll fewer identities")
    return _roles(labels, is_enrolled, is_stranger)


def _roles(labels: Labels, is_enrolled: NDArray[np.bool_], is_stranger: NDArray[np.bool_]) -> Roles:
    rows = np.flatnonzero(is_enrolled)
    _, firsts = np.unique(labels[rows], return_index=True)
    gallery = np.sort(rows[firsts])
    mated = np.setdiff1d(rows, gallery)
    if len(mated) == 0:
        raise InvalidInputError(
            f"{len(gallery)} identities are enrolled and none has a second picture: there is no mated probe;"
            " enroll somebody with two or more"
        )
    return Roles(gallery, mated, np.flatnonzero(is_stranger))


def _marked(labels: Labels, people: Labels, names: Sequence[Name] | None, kind: str) -> NDArray[np.bool_]:
    if names is None:
        return np.zeros(len(labels), dtype=np.bool_)
    known = {str(person) for person in people.tolist()}
    missing = [str(name) for name in names if str(name) not in known]
    if missing:
        more = f" and {len(missing) - NAMED_MAX} more" if len(missing) > NAMED_MAX else ""
        raise InvalidInputError(
            f"{len(missing)} of {len(names)} names in the list of {kind} have no picture:"
            f" {', '.join(missing[:NAMED_MAX])}{more}"
        )
    wanted = {str(name) for name in names}
    return np.array([str(label) in wanted for label in labels.tolist()], dtype=np.bool_)
