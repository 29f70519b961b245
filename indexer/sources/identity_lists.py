"""Identity ids beside a file of vectors: .txt one a line, .npy, or .csv with a column identity_id."""

from __future__ import annotations

import csv
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from engine.errors import InvalidInputError

IDENTITY_COLUMN = "identity_id"
HINT = (
    "Give --ids FILE: .txt with one id a line, .npy of strings or integers, or .csv with a column"
    " identity_id, a line for each row of vectors."
)


def read_identity_ids(path: Path) -> list[str]:
    """Read all ids, in order, unchecked; what is not UTF-8 holds surrogates.

    Raises InvalidInputError where the file cannot be read or is of another kind.
    """
    readers = {".txt": _read_text, ".npy": _read_npy, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidInputError(f"ids {path} are of no known kind", hint=HINT)
    try:
        return reader(path)
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidInputError(f"cannot read ids {path}: {error}", hint=HINT) from error


def load_array(path: Path) -> NDArray[Any]:
    """Map one array to memory. Raises OSError, ValueError for anything else than one without objects."""
    with path.open("rb") as file:
        if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
            raise ValueError("not an array as numpy.save writes it")
    try:
        loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, SyntaxError, TokenError, TypeError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"its head is damaged: {error}") from error
    return loaded


def _read_text(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n")
    # Not splitlines, which also splits at separators that other systems allow in names.
    return text.removesuffix("\n").split("\n") if text else []


def _read_npy(path: Path) -> list[str]:
    loaded = load_array(path)
    if loaded.ndim != 1:
        raise ValueError(f"it has the shape {loaded.shape}, not one id a row")
    if loaded.dtype.kind == "U":
        names: list[str] = loaded.tolist()
        return names
    if loaded.dtype.kind == "S":
        return [name.decode("utf-8", "surrogateescape") for name in loaded.tolist()]
    if loaded.dtype.kind in "iu":
        return [str(number) for number in loaded.tolist()]
    raise ValueError(f"it holds {loaded.dtype}, not strings or integers")


def _read_csv(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        head = next(rows, [])
        if head.count(IDENTITY_COLUMN) != 1:
            raise ValueError(f"its columns are {head[:20]}, not one of them {IDENTITY_COLUMN!r}")
        place = head.index(IDENTITY_COLUMN)
        # A row that is too short keeps its place, and is refused there.
        return [row[place] if place < len(row) else "" for row in rows if row]
