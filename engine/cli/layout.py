"""Lines, tables and JSON on standard output. Knows nothing of what they say."""

from __future__ import annotations

import datetime as dt
import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from engine.cli.arguments import one_line

Json = dict[str, Any]
NONE = "-"
"""Stands in a table where there is nothing."""


def print_json(value: Json) -> None:
    """Print one object on one line."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    sys.stdout.write(json.dumps(value, ensure_ascii=encoding != "utf8") + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text; what a terminal must not be sent is escaped."""
    for line in lines:
        sys.stdout.write(one_line(line) + "\n")
    sys.stdout.flush()


def table(header: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> list[str]:
    """Lay out rows in columns, numbers to the right; a header of empty strings is left out."""
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    is_number = [
        all(_is_number(row[column]) for row in cells) and bool(cells) for column in range(len(header))
    ]
    lines = [list(header), *cells] if any(header) else cells
    widths = [max((_width(line[column]) for line in lines), default=0) for column in range(len(header))]
    return [
        (indent + "  ".join(_padded(*cell) for cell in zip(line, widths, is_number, strict=True))).rstrip()
        for line in lines
    ]


def count(number: int, noun: str) -> str:
    """Write a number and its noun: 1 face, 2 faces, 2 identities."""
    if number == 1:
        return f"1 {noun}"
    plural = noun.removesuffix("y") + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {plural}"


def when(time_s: float) -> str:
    """Write unix seconds as ISO 8601 in UTC, to the second."""
    return dt.datetime.fromtimestamp(time_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_number(cell: str) -> bool:
    return cell in {NONE, ""} or cell.replace(".", "", 1).replace(",", "").lstrip("-").isdigit()


def _padded(cell: str, width: int, is_number: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if is_number else cell + space


def _width(text: str) -> int:
    """Count the columns that text takes on a terminal: two for wide letters, none for combining marks."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.combining(char) > 0 for char in text)
    return len(text) + wide - marks
