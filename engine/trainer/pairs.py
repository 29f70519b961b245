"""Reads the list of pairs of LFW's View 2 and finds its pictures.

Knows nothing of networks, similarities or what the pairs are for.

Format (Huang et al., "Labeled Faces in the Wild", 2007, and its README): the first line holds the number of
folds and the number n of pairs of each kind in a fold; then, fold after fold, n lines ``name i j`` (two
pictures of one person) and n lines ``name1 i name2 j`` (pictures of two people), divided by tabs or spaces.
Picture i of a person is ``<name>/<name>_<i, four digits>`` with one of PICTURE_SUFFIXES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Tried in this order."""
PAIRS_FILE_BYTES_MAX = 64 * 2**20
"""More is no list of pairs, but some other file given by mistake."""
NUMBER_DIGITS_MAX = 9
MISSING_NAMED_MAX = 5
"""How many missing pictures an error names; all are counted."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures, each in a folder named after its person."""

    first: Path
    second: Path
    is_same: bool
    """Whether both show one person."""

    @property
    def people(self) -> tuple[str, ...]:
        """The one or two people of the pair."""
        names = (self.first.parent.name, self.second.parent.name)
        return names[:1] if self.is_same else names


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs in folds, in the order of their file."""

    folds: tuple[tuple[Pair, ...], ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs, fold after fold."""
        return tuple(pair for fold in self.folds for pair in fold)

    @property
    def fold_of_pair(self) -> NDArray[np.int64]:
        """int64[n], the number of each pair's fold, from 0."""
        return np.repeat(np.arange(len(self.folds)), [len(fold) for fold in self.folds])

    @property
    def is_same(self) -> NDArray[np.bool_]:
        """bool[n], whether each pair is of one person."""
        return np.array([pair.is_same for pair in self.pairs], dtype=np.bool_)

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The distinct pictures, sorted."""
        return tuple(sorted({path for pair in self.pairs for path in (pair.first, pair.second)}))


def read_pairs(pairs_path: Path, root: Path) -> PairSet:
    """Read a list of pairs and find its pictures below `root`.

    Raises InvalidInputError naming file and line where the list is malformed, and naming pictures where
    some are missing.
    """
    num_each, rows = _read_rows(pairs_path)
    return _pair_set(pairs_path, num_each, rows, _find_pictures(_stems(rows), root))


def read_named_pairs(pairs_path: Path, keys: Sequence[str]) -> PairSet:
    """Read a list of pairs of pictures that are known by name alone, where their vectors were made elsewhere.

    Of each key counts what is left without folder and suffix: ``Ann_0001`` for picture 1 of Ann. The set's
    pictures are paths ``Ann/Ann_0001`` that need not exist. Raises InvalidInputError as `read_pairs` does.
    """
    num_each, rows = _read_rows(pairs_path)
    known = {Path(key).stem for key in keys}
    found = {stem: stem for stem in _stems(rows) if stem.name in known}
    if missing := [str(stem) for stem in dict.fromkeys(_stems(rows)) if stem not in found]:
        more = f" and {len(missing) - MISSING_NAMED_MAX} more" if len(missing) > MISSING_NAMED_MAX else ""
        raise InvalidInputError(
            f"{len(missing)} pictures of the pairs are no vector's: {', '.join(missing[:MISSING_NAMED_MAX])}"
            f"{more}; give each label's picture after a comma"
        )
    return _pair_set(pairs_path, num_each, rows, found)


Row = tuple[Path, Path, bool]
"""Two pictures relative to the root, without suffix, and whether they are of one person."""


def _read_rows(pairs_path: Path) -> tuple[int, list[Row]]:
    """The number of pairs of each kind in a fold, and all rows, fold after fold."""
    lines = _read_lines(pairs_path)
    num_folds, num_each = _read_header(lines[0], f"{pairs_path}, line 1")
    num_wanted = 1 + num_folds * 2 * num_each
    if len(lines) != num_wanted:
        raise InvalidInputError(
            f"{pairs_path}: {num_folds} folds of {num_each} same and {num_each} different pairs are "
            f"{num_wanted} lines, but there are {len(lines)}"
        )
    return num_each, [_read_row(line, f"{pairs_path}, line {i}") for i, line in enumerate(lines[1:], start=2)]


def _stems(rows: Sequence[Row]) -> list[Path]:
    return [stem for row in rows for stem in row[:2]]


def _pair_set(pairs_path: Path, num_each: int, rows: Sequence[Row], found: Mapping[Path, Path]) -> PairSet:
    pairs = [Pair(found[first], found[second], is_same) for first, second, is_same in rows]
    folds = tuple(tuple(pairs[i : i + 2 * num_each]) for i in range(0, len(pairs), 2 * num_each))
    for number, fold in enumerate(folds, start=1):
        num_same = sum(pair.is_same for pair in fold)
        if num_same != num_each:
            raise InvalidInputError(
                f"{pairs_path}: fold {number} holds {num_same} same pairs, its header says {num_each}"
            )
    return PairSet(folds)


def _read_lines(pairs_path: Path) -> list[str]:
    try:
        size_bytes = pairs_path.stat().st_size
        if size_bytes > PAIRS_FILE_BYTES_MAX:
            raise InvalidInputError(
                f"{pairs_path} has {size_bytes} bytes, more than {PAIRS_FILE_BYTES_MAX}: no list of pairs"
            )
        lines = pairs_path.read_text(encoding="utf-8").rstrip().splitlines()
    except OSError as error:
        raise InvalidInputError(f"cannot read the list of pairs {pairs_path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{pairs_path} is not UTF-8 text: no list of pairs") from error
    if not lines:
        raise InvalidInputError(
            f"{pairs_path} is empty: its first line must be folds and pairs, like '10 300'"
        )
    return lines


def _read_header(line: str, place: str) -> tuple[int, int]:
    match [_whole_number(cell) for cell in line.split()]:
        case [int(num_folds), int(num_each)]:
            return num_folds, num_each
    raise InvalidInputError(f"{place}: expected folds and pairs, like '10 300', not {line!r}")


def _read_row(line: str, place: str) -> Row:
    cells = line.split("\t") if "\t" in line else line.split()
    if len(cells) == 3:
        first, second = _stem(cells[0], cells[1], place), _stem(cells[0], cells[2], place)
        if first == second:
            raise InvalidInputError(f"{place}: a picture is paired with itself in {line!r}")
        return first, second, True
    if len(cells) == 4:
        if cells[0] == cells[2]:
            raise InvalidInputError(f"{place}: a pair of two people names one person twice in {line!r}")
        return _stem(cells[0], cells[1], place), _stem(cells[2], cells[3], place), False
    raise InvalidInputError(f"{place}: expected 'name i j' or 'name1 i name2 j', not {line!r}")


def _stem(name: str, cell: str, place: str) -> Path:
    number = _whole_number(cell)
    if number is None:
        raise InvalidInputError(f"{place}: picture number {cell!r} is no whole number from 1")
    if name in {"", ".", ".."} or "/" in name or "\\" in name:
        raise InvalidInputError(f"{place}: {name!r} is no person's name")
    return Path(name) / f"{name}_{number:04d}"


def _find_pictures(stems: list[Path], root: Path) -> dict[Path, Path]:
    """Give the picture of each distinct stem, or raise naming those that are missing."""
    distinct = dict.fromkeys(stems)
    found = {stem: path for stem in distinct if (path := _find_picture(root / stem)) is not None}
    missing = [str(stem) for stem in distinct if stem not in found]
    if missing:
        named = ", ".join(missing[:MISSING_NAMED_MAX])
        more = f" and {len(missing) - MISSING_NAMED_MAX} more" if len(missing) > MISSING_NAMED_MAX else ""
        raise InvalidInputError(
            f"{len(missing)} of {len(distinct)} pictures of the pairs are missing below {root} "
            f"(as {', '.join(PICTURE_SUFFIXES)}): {named}{more}"
        )
    return found


def _find_picture(stem: Path) -> Path | None:
    # A name may hold dots, which with_suffix would take for a suffix.
    candidates = (stem.with_name(stem.name + suffix) for suffix in PICTURE_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _whole_number(cell: str) -> int | None:
    """Read a whole number from 1, or give None; int() alone takes signs, blanks and underscores too."""
    is_plain = cell.isascii() and cell.isdigit() and len(cell) <= NUMBER_DIGITS_MAX
    return int(cell) or None if is_plain else None
