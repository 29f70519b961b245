"""Tables of reports, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table; a row that is shorter than the heads ends with empty cells."""
    whole = [[*row, *[""] * (len(heads) - len(row))] for row in (heads, *rows)]
    first, *rest = ("| " + " | ".join(row) + " |" for row in whole)
    return "\n".join([first, "|---" * len(heads) + "|", *rest])
