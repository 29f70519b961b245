"""A table of pictures: CSV, TSV or Parquet with the columns path and identity_id, beside the pictures."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from engine.errors import InvalidInputError
from indexer.items import Item, Reason, Refusal
from indexer.sources.names import (
    attributes_problem,
    bad_identity,
    identity_problem,
    printable,
    row_prefix,
    source_key,
)
from indexer.sources.parquet_columns import (
    batches_of,
    damage_as_os_error,
    is_name,
    is_text,
    is_text_map,
    open_parquet,
    text_maps,
    texts,
)
from indexer.sources.picture_files import folder_root, is_inside, problem_of_path, read_inside

WANTED_COLUMNS = ("path", "identity_id")
KEY_COLUMN = "key"
ATTRIBUTES_COLUMN = "attributes"
"""In Parquet it may be a map of text to text."""
BATCH_ROWS = 16_384
COLUMNS_SHOWN_MAX = 20

_Row = Mapping[str, str] | str
"""The cells that are not empty, by column; or what is wrong with the row."""


class ManifestSource:
    """Pictures that a table lists, in its order; other columns are attributes, all cells are plain text.

    Paths are relative to the table's folder and may not lead out of it.
    """

    kind = "manifest"

    def __init__(self, path: Path):
        """Raises InvalidInputError for a table of another kind or other columns, OSError for damage."""
        self._path = path
        self._root = folder_root(path.parent)
        self._is_parquet = path.suffix.lower() == ".parquet"
        if self._is_parquet:
            with open_parquet(path) as file, damage_as_os_error(path):
                _check_schema(path, file.schema_arrow)
        else:
            next(self._csv_rows(), None)

    def items(self) -> Iterator[Item | Refusal]:
        """List all rows. Raises InvalidInputError at the end where there was none."""
        prefix = row_prefix(self._path.name)
        listing = _Listing(self._root)
        row = 0
        try:
            for row, cells in self._parquet_rows() if self._is_parquet else self._csv_rows():
                if isinstance(cells, str):
                    yield Refusal(f"{prefix}{row}", Reason.BAD_ROW, detail=f"row {row}: {cells}")
                else:
                    yield listing.look(f"{prefix}{row}", row, cells)
        except OSError as error:
            yield Refusal(
                f"{prefix}{row + 1}",
                Reason.UNREADABLE,
                detail=printable(f"nothing after row {row} can be read: {error.strerror}"),
            )
            return
        if row == 0:
            raise InvalidInputError(
                f"manifest {self._path} has no rows",
                hint="Give a row with path and identity_id for each picture.",
            )

    def read(self, item: Item) -> bytes:
        """Read a picture's file. Raises OSError, PictureTooLargeError."""
        return read_inside(self._root, item.file)

    def _csv_rows(self) -> Iterator[tuple[int, _Row]]:
        """Rows as a spreadsheet numbers them: the head is row 1. Checks the head first."""
        delimiter = "\t" if self._path.suffix.lower() == ".tsv" else ","
        with self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = _csv_cells(csv.reader(file, delimiter=delimiter))
            head = next(rows, [])
            columns = head if isinstance(head, list) else [head]
            _check_columns(self._path, columns)
            for row, cells in enumerate(rows, start=2):
                if cells:
                    yield row, cells if isinstance(cells, str) else _named(columns, cells)

    def _parquet_rows(self) -> Iterator[tuple[int, _Row]]:
        """Rows, counted from 1."""
        row = 0
        with open_parquet(self._path) as file, damage_as_os_error(self._path):
            for batch in batches_of(file, BATCH_ROWS, range(file.num_row_groups)):
                for cells in _batch_rows(batch):
                    row += 1
                    yield row, cells


@dataclass(frozen=True)
class _Problem:
    """Why a path cannot be used."""

    reason: Reason
    detail: str


class _Listing:
    """The rows of one run through a table: keys seen, folders resolved."""

    def __init__(self, root: str):
        self._root = root
        self._keys: set[str] = set()
        self._folders: dict[str, str | _Problem] = {}

    def look(self, place: str, row: int, cells: Mapping[str, str]) -> Item | Refusal:
        """Answer for one row; place is its key as long as it has no other."""
        path, identity_id = cells.get("path", ""), cells.get("identity_id", "")
        if not path or not identity_id:
            missing = "identity_id" if path else "path"
            return Refusal(place, Reason.BAD_ROW, detail=f"row {row}: {missing} is empty")
        key = source_key(cells.get(KEY_COLUMN, path))
        if key in self._keys:
            return Refusal(
                place, Reason.BAD_ROW, identity_id, f"row {row}: key {key!r} is that of an earlier row"
            )
        self._keys.add(key)
        if problem := identity_problem(identity_id):
            return bad_identity(key, identity_id, f"row {row}: {problem}")
        attributes = {name: cell for name, cell in cells.items() if name not in {*WANTED_COLUMNS, KEY_COLUMN}}
        if problem := attributes_problem(attributes):
            return Refusal(key, Reason.BAD_ROW, identity_id, f"row {row}: {problem}")
        status = self._locate(path)
        if isinstance(status, _Problem):
            detail = printable(f"row {row}: {path}: {status.detail}")
            return Refusal(key, status.reason, identity_id, detail)
        return Item(
            key,
            identity_id,
            file=path,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            attributes=attributes,
        )

    def _locate(self, path: str) -> os.stat_result | _Problem:
        if problem := problem_of_path(path):
            return _Problem(Reason.BAD_PATH, problem)
        parent, _, name = path.rpartition("/")
        folder = self._folders.get(parent)
        if folder is None:
            folder = self._folders[parent] = self._resolve(parent)
        if isinstance(folder, _Problem):
            return folder
        file = f"{folder}/{name}"
        try:
            status = os.lstat(file)
            if stat.S_ISLNK(status.st_mode):
                real = self._resolve(path)
                if isinstance(real, _Problem):
                    return real
                status = os.lstat(real)
        except OSError as error:
            return _told(error)
        if not stat.S_ISREG(status.st_mode):
            return _Problem(Reason.BAD_PATH, "not a file")
        return status

    def _resolve(self, path: str) -> str | _Problem:
        try:
            real = os.path.realpath(Path(self._root, path), strict=True)
        except OSError as error:
            return _told(error)
        if not is_inside(real, self._root):
            return _Problem(Reason.BAD_PATH, "a link leads outside the manifest's folder")
        return real


def _told(error: OSError) -> _Problem:
    reason = Reason.UNREADABLE if isinstance(error, PermissionError) else Reason.BAD_PATH
    return _Problem(reason, str(error.strerror))


def _batch_rows(batch: pa.RecordBatch) -> Iterator[_Row]:
    """Rows of a batch as cells of text."""
    maps: Sequence[Mapping[str, str]] = [{}] * batch.num_rows
    names: list[str] = []
    columns: list[Sequence[str | None]] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if is_text_map(column.type):
            maps = text_maps(column)
        else:
            names.append(name)
            columns.append(texts(column))
    for attributes, *cells in zip(maps, *columns, strict=True):
        yield _clean({**attributes, **dict(zip(names, cells, strict=True))})


def _csv_cells(rows: Iterator[list[str]]) -> Iterator[list[str] | str]:
    """Rows of cells; text for one that is no row, after which the next line is read as one."""
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"not CSV: {error}"


def _named(columns: Sequence[str], cells: Sequence[str]) -> _Row:
    if len(cells) != len(columns):
        return f"{len(cells)} cells, the head has {len(columns)}"
    return _clean(dict(zip(columns, cells, strict=True)))


def _clean(cells: Mapping[str, str | None]) -> _Row:
    found: dict[str, str] = {}
    for name, cell in cells.items():
        if cell:
            if not cell.isascii() and any("\udc80" <= char <= "\udcff" for char in cell):
                return f"column {name!r} is not UTF-8"
            found[name] = cell
    return found


def _check_schema(path: Path, schema: pa.Schema) -> None:
    _check_columns(path, schema.names)
    for column in schema:
        is_named = column.name in {*WANTED_COLUMNS, KEY_COLUMN}
        is_map = column.name == ATTRIBUTES_COLUMN and is_text_map(column.type)
        if not (is_name(column.type) if is_named else is_text(column.type) or is_map):
            raise InvalidInputError(
                f"manifest {path}: column {column.name!r} is of type {column.type}",
                hint="Store it as text, or leave it out.",
            )


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise InvalidInputError unless the columns wanted are there and no name is empty or twice."""
    found = ", ".join(repr(printable(name)[:40]) for name in columns[:COLUMNS_SHOWN_MAX])
    problem = ""
    if missing := [name for name in WANTED_COLUMNS if name not in columns]:
        problem = f"lacks the column {' and the column '.join(missing)}"
    elif "" in columns:
        problem = "has a column without a name"
    elif len(set(columns)) < len(columns):
        problem = "has two columns of one name"
    elif not all(printable(name) == name for name in columns):
        problem = "has a column whose name is not printable UTF-8"
    if problem:
        raise InvalidInputError(
            f"manifest {path} {problem}; its columns: {found or 'none'}",
            hint="Give path,identity_id, optionally key, and any attributes, with a head line, separated by"
            " commas in .csv and tabs in .tsv, in UTF-8.",
        )
