"""What became of a job, in a folder: every refusal for programs and for spreadsheets, and a page to look at.

::

    report.parquet    key, identity_id, reason, detail: exact, also where a name begins with =
    report.csv        the same for spreadsheets, which must not take a name for a formula
    report.html       how many of what, examples, histograms; needs no network
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.outputs import make_folder, whole_file
from indexer.histogram import SimilarityHistogram
from indexer.items import Reason, Refusal
from indexer.report_page import Examples, page

PARQUET_NAME, CSV_NAME, HTML_NAME = "report.parquet", "report.csv", "report.html"
COLUMNS = ("key", "identity_id", "reason", "detail")
EXAMPLES_MAX = 10
"""Keys shown of each reason."""
BATCH_ROWS = 16_384
"""Refusals held in memory at once."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""With one of these a spreadsheet takes a cell for a formula, or drops it and looks at the next."""
_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in COLUMNS])

_Row = tuple[str, str, str, str]


def write_report(
    folder: Path,
    refusals: Iterable[Refusal],
    counts: Mapping[str, int],
    summary: Mapping[str, str | int | float],
    similarities: SimilarityHistogram | None,
) -> None:
    """Write the three files of a report, in place of those that are there.

    Refusals are written in the order given, so that the same job makes the same bytes, and need not fit into
    memory. `counts` says how many items had which outcome; a reason that is not in it is counted from the
    refusals. `summary` is shown as it stands, in its order; a key that ends in `_s`, `_bytes` or `_share`
    (0..1) is shown in that unit, `overhead_share` with a bar, and `threshold` in the histograms, too.

    Raises InvalidInputError where the folder cannot be written, StorageFullError.
    """
    make_folder(folder)
    seen: Counter[str] = Counter()
    examples: defaultdict[str, list[str]] = defaultdict(list)
    # The page last: where it is there, all of it is.
    with whole_file(folder / HTML_NAME) as html_file, contextlib.ExitStack() as tables:
        parquet_file = tables.enter_context(whole_file(folder / PARQUET_NAME))
        csv_file = tables.enter_context(whole_file(folder / CSV_NAME))
        # With the mark at its start that spreadsheets know UTF-8 by.
        text = io.TextIOWrapper(csv_file, "utf-8-sig", newline="", write_through=True)
        cells = csv.writer(text)
        cells.writerow(COLUMNS)
        with pq.ParquetWriter(parquet_file, _SCHEMA, compression="zstd") as writer:
            for rows in _batches(refusals):
                for key, _, reason, _ in rows:
                    seen[reason] += 1
                    if len(examples[reason]) < EXAMPLES_MAX:
                        examples[reason].append(key)
                columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
                writer.write_table(pa.table(columns, schema=_SCHEMA))
                cells.writerows([safe_cell(cell) for cell in row] for row in rows)
        text.detach()
        html_file.write(page(_refused(counts, seen, examples), _others(counts), summary, similarities))


def safe_cell(text: str) -> str:
    """Keep a spreadsheet from taking a cell for a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _batches(refusals: Iterable[Refusal]) -> Iterator[list[_Row]]:
    rows = (
        (_text(item.key), _text(item.identity_id), str(item.reason), _text(item.detail)) for item in refusals
    )
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield batch


def _text(text: str) -> str:
    """Text as UTF-8 can hold it: names of files may hold bytes that are none, and are refused for it."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _refused(
    counts: Mapping[str, int], seen: Mapping[str, int], examples: Mapping[str, list[str]]
) -> list[Examples]:
    """Reasons that occurred, most first."""
    numbers = {reason.value: counts.get(reason.value, seen.get(reason.value, 0)) for reason in Reason}
    found = [
        Examples(Reason(name), number, tuple(examples.get(name, ())))
        for name, number in numbers.items()
        if number
    ]
    return sorted(found, key=lambda item: (-item.num_items, item.reason))


def _others(counts: Mapping[str, int]) -> dict[str, int]:
    """Outcomes that are no reasons, in the order given."""
    reasons = {reason.value for reason in Reason}
    return {str(name): number for name, number in counts.items() if name not in reasons}
