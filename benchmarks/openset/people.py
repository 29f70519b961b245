"""Real people for the open-set benchmarks: one template each, and others of the same people.

From a folder of pictures as LFW's (`people.tsv`, `errata.tsv`, `images/`) and a network, or from a file of
vectors with the names of its people. Who is there under two names counts once. Knows nothing of rates.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.lfw_open_set import embed
from benchmarks.lfw_people import read_people
from engine.errors import InvalidInputError
from engine.trainer.lists import read_errata
from engine.trainer.vectors_file import read_vectors
from engine.types import Vectors

UNKNOWN_FOLD = -1
OTHERS_PER_PERSON_MAX = 4
"""A few people have hundreds of pictures: they must not be the measurement."""


@dataclass(frozen=True)
class RealPeople:
    """Unit templates of people; nobody is there twice, as far as is known."""

    first: Vectors
    """float32[n, d], of each person's first picture"""
    folds: NDArray[np.int64]
    """int64[n], UNKNOWN_FOLD where none is stated"""
    others: Vectors
    """float32[m, d], further pictures of these people, OTHERS_PER_PERSON_MAX of one at most"""
    other_people: NDArray[np.int64]
    """int64[m], row in `first` of each one's person"""

    def __len__(self) -> int:
        return len(self.first)

    def subset(self, rows: NDArray[np.int64]) -> RealPeople:
        """Keep these people, in this order, with all that is known of them."""
        place = np.full(len(self.first), -1, np.int64)
        place[rows] = np.arange(len(rows))
        is_kept = place[self.other_people] >= 0
        return RealPeople(
            self.first[rows], self.folds[rows], self.others[is_kept], place[self.other_people[is_kept]]
        )


def gathered(
    vectors: Vectors,
    names: Sequence[str],
    folds: Mapping[str, int],
    same: Sequence[tuple[str, str]],
) -> RealPeople:
    """Order templates float32[n, d] by their people's names; the second name of one person is left out.

    Rows of zeros, pictures without a face, are left out. Raises InvalidInputError where fewer than two people
    remain.
    """
    twice = {other for _, other in same}
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(np.asarray(vectors).any(axis=1)).tolist():
        if names[row] not in twice:
            rows_of.setdefault(names[row], []).append(row)
    people = sorted(rows_of)
    if len(people) < 2:
        raise InvalidInputError(f"there are templates of {len(people)} people: give those of two or more")
    others = [
        (row, number)
        for number, name in enumerate(people)
        for row in rows_of[name][1 : 1 + OTHERS_PER_PERSON_MAX]
    ]
    chosen = np.array(others, np.int64).reshape(-1, 2)
    unit = unit_rows(np.asarray(vectors))
    return RealPeople(
        unit[[rows_of[name][0] for name in people]],
        np.array([folds.get(name, UNKNOWN_FOLD) for name in people], np.int64),
        unit[chosen[:, 0]],
        chosen[:, 1],
    )


def unit_rows(vectors: NDArray[np.floating]) -> Vectors:
    """The same directions float32[n, d], of unit length; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0.0, lengths, 1.0)).astype(np.float32)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let the caller say whose templates, and by which network."""
    parser.add_argument("--root", type=Path, help="holds images/, people.tsv, errata.tsv")
    parser.add_argument("--model", default="dlib-resnet", help="network (default: dlib-resnet)")
    parser.add_argument("--vectors", type=Path, help="file of vectors instead of pictures: .npy or .csv")
    parser.add_argument("--labels", type=Path, help="names of the vectors' people, one a line")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")


def real_people(arguments: argparse.Namespace, cache: Path | None) -> RealPeople:
    """Read or embed the people that `add_options` asked for. Raises InvalidInputError."""
    folds: dict[str, int] = {}
    same: tuple[tuple[str, str], ...] = ()
    if arguments.root is not None:
        folds = {person.name: person.fold for person in read_people(arguments.root)}
        same = read_errata(arguments.root / "errata.tsv")
    if arguments.vectors is not None:
        read = read_vectors(arguments.vectors, arguments.labels)
        names = [str(label) for label in read.labels.tolist()]
        return gathered(read.vectors, names, folds, same)
    if arguments.root is None:
        raise InvalidInputError("nobody is given: name a folder by --root, or a file by --vectors")
    pictures = sorted((arguments.root / "images").glob("*/*.jpg"))
    if not pictures:
        raise InvalidInputError(f"{arguments.root / 'images'} holds no pictures <person>/<picture>.jpg")
    templates = embed(arguments.model, pictures, cache, arguments.threads)
    return gathered(templates.vectors, [path.parent.name for path in pictures], folds, same)


def told_options(arguments: argparse.Namespace) -> str:
    """The same options as a report names them: without the folders of this machine."""
    places = {"root": "lfw", "vectors": "FILE", "labels": "FILE"}
    told = [f"--{name} {place}" for name, place in places.items() if getattr(arguments, name) is not None]
    if arguments.vectors is None:
        told.append(f"--model {arguments.model}")
    return " ".join([*told, f"--threads {arguments.threads}"])
