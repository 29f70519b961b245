"""A small folder in the form of LFW's, of a few of its people in folds as a test wants them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lfw_people import Person, read_people


def few_of_lfw(target: Path, lfw: Path, wanted: Sequence[tuple[int, int]]) -> list[Person]:
    """Make a folder of people, one for each wanted (number of pictures, fold), and of who is in which fold.

    Each is the next by name who has so many pictures; returns them in that order.
    """
    everybody = iter(read_people(lfw))
    people = []
    for num_pictures, fold in wanted:
        name = next(one.name for one in everybody if one.num_pictures == num_pictures)
        shutil.copytree(lfw / "images" / name, target / "images" / name)
        people.append(Person(name, num_pictures, fold))
    lines = [f"{one.name}\t{one.num_pictures}\t{one.fold}\n" for one in people]
    (target / "people.tsv").write_text("person\timages\tfold\n" + "".join(lines))
    (target / "errata.tsv").write_text("name\tname\tkind\n")
    return people
