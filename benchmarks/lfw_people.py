"""Who is in LFW, and in which fold: the file ``people.tsv`` of its folder. Knows nothing of pictures."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from engine.trainer.lists import read_lines

STRANGERS_FOLD = 0
"""Its people are in no pair of View 2, and are never enrolled."""


@dataclass(frozen=True)
class Person:
    """A line of ``people.tsv``."""

    name: str
    num_pictures: int
    fold: int


def read_people(root: Path) -> list[Person]:
    """Everybody in ``people.tsv`` below `root`, by name. Raises InvalidInputError where it cannot be read."""
    rows = csv.DictReader(read_lines(root / "people.tsv"), delimiter="\t")
    people = [Person(row["person"], int(row["images"]), int(row["fold"])) for row in rows]
    return sorted(people, key=lambda person: person.name)
