"""A gallery as a Parquet file, without loss: what other systems read, and what is loaded back.

One row for each template, and one for each identity without templates, with null where the template would
stand. Times are unix seconds. Columns::

    identity_id           string
    template_id           uint64, null without a template
    vector                fixed_size_list<float32>[d], of unit length
    source                string, the source key
    quality               float32, 0..1
    create_time           double, of the template
    identity_create_time  double
    attributes            map<string, string>, of the identity, in order of the keys
    expire_time           double, of the identity; null: never

Kept crops are left out. The schema's metadata holds JSON: ``identiface.contract`` all fields of the embedding
contract, ``identiface.gallery`` the gallery's settings, ``identiface.format`` the version of this layout.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.errors import InvalidInputError
from engine.outputs import whole_file
from engine.types import EmbeddingContract, GallerySettings, Identity, StoredTemplate, Vector
from indexer.pages import Page

FORMAT_VERSION = 1
CONTRACT_KEY, GALLERY_KEY, FORMAT_KEY = b"identiface.contract", b"identiface.gallery", b"identiface.format"
"""Of the schema's metadata."""
ROW_GROUP_ROWS = 16_384
"""Rows held in memory at once: 8 MiB of vectors at 128 dimensions, 64 MiB at 1024."""
OF_THE_RUN = ("template_id", "create_time", "identity_create_time")
"""Columns that differ between two runs that load the same: what `without_times` leaves out."""
_PACKED = ("identity_id", "template_id", "source", "create_time", "identity_create_time", "expire_time")
"""Columns worth compressing; vectors are noise to a compressor."""

Order = Literal["identity", "source"]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export holds."""

    num_identities: int
    num_templates: int


@dataclass(frozen=True, slots=True)
class _Row:
    identity: Identity
    template: StoredTemplate | None


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise InvalidInputError where an export cannot be put."""
    if target.is_dir():
        raise InvalidInputError(f"{target} is a folder: name a file")
    if target.exists() and not overwrite:
        raise InvalidInputError(f"{target} exists", hint="Choose another name, or give --overwrite.")
    if not target.parent.is_dir():
        raise InvalidInputError(f"{target.parent} is no folder", hint="Make the folder first.")


def export_gallery(
    pages: Iterable[Page],
    contract: EmbeddingContract,
    target: Path,
    *,
    settings: GallerySettings = GallerySettings(),  # noqa: B008 - frozen
    overwrite: bool = False,
    order: Order = "identity",
    without_times: bool = False,
    row_group_rows: int = ROW_GROUP_ROWS,
) -> ExportResult:
    """Write a gallery to a Parquet file; the same gallery makes the same bytes.

    `pages` come in order of identity, as `stored_pages` and `served_pages` give them; rows keep that order,
    and within an identity that of the template ids. `order="source"` puts them in order of source, identity
    and vector instead, sorted in memory. `without_times` leaves out the columns OF_THE_RUN. With both,
    galleries that were loaded from the same source by different runs make the same bytes; `expire_time` is
    the owner's and stays.

    Raises InvalidInputError where the target exists or cannot be written, StorageFullError, and what `pages`
    raises; then the target is as it was.
    """
    if row_group_rows < 1:
        raise InvalidInputError(f"row_group_rows is {row_group_rows}, it must be 1 or more")
    check_target(target, overwrite=overwrite)
    left_out = OF_THE_RUN if without_times else ()
    schema = _schema(contract, settings)
    tally = _Tally()
    tables: Iterable[pa.Table] = (_table(rows, schema) for rows in _groups(tally.rows(pages), row_group_rows))
    if order == "source":
        tables = _by_source(list(tables), schema, row_group_rows)
    with whole_file(target) as file:
        _write(file, schema, tables, left_out)
        # Looked at once more: it may have been made while the gallery was read.
        check_target(target, overwrite=overwrite)
    return ExportResult(tally.num_identities, tally.num_templates)


class _Tally:
    """Turns identities into rows and counts them."""

    def __init__(self) -> None:
        self.num_identities = 0
        self.num_templates = 0

    def rows(self, pages: Iterable[Page]) -> Iterator[_Row]:
        """One row for each template, or one for an identity without."""
        for identity, templates in itertools.chain.from_iterable(pages):
            self.num_identities += 1
            self.num_templates += len(templates)
            for template in sorted(templates, key=lambda template: template.template_id):
                yield _Row(identity, template)
            if not templates:
                yield _Row(identity, None)


def _groups(rows: Iterator[_Row], num_max: int) -> Iterator[list[_Row]]:
    while group := list(itertools.islice(rows, num_max)):
        yield group


def _schema(contract: EmbeddingContract, settings: GallerySettings) -> pa.Schema:
    fields = [
        pa.field("identity_id", pa.string(), nullable=False),
        pa.field("template_id", pa.uint64()),
        pa.field("vector", pa.list_(pa.field("element", pa.float32()), contract.dimension)),
        pa.field("source", pa.string()),
        pa.field("quality", pa.float32()),
        pa.field("create_time", pa.float64()),
        pa.field("identity_create_time", pa.float64(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("expire_time", pa.float64()),
    ]
    metadata = {
        CONTRACT_KEY: _json(contract),
        GALLERY_KEY: _json(settings),
        FORMAT_KEY: str(FORMAT_VERSION).encode(),
    }
    return pa.schema(fields, metadata)


def _json(value: EmbeddingContract | GallerySettings) -> bytes:
    return json.dumps(dataclasses.asdict(value), sort_keys=True, separators=(",", ":")).encode()


def _table(rows: Sequence[_Row], schema: pa.Schema) -> pa.Table:
    def of_template(name: str) -> list[object]:
        return [None if row.template is None else getattr(row.template, name) for row in rows]

    columns: dict[str, object] = {
        "identity_id": [row.identity.identity_id for row in rows],
        "vector": _vectors(rows, schema.field("vector").type),
        "identity_create_time": [row.identity.create_time for row in rows],
        "attributes": [sorted(row.identity.attributes.items()) for row in rows],
        "expire_time": [row.identity.expire_time for row in rows],
    }
    for name in ("template_id", "source", "quality", "create_time"):
        columns[name] = of_template(name)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _vectors(rows: Sequence[_Row], kind: pa.FixedSizeListType) -> pa.FixedSizeListArray:
    vectors = np.zeros((len(rows), kind.list_size), np.float32)
    is_null = np.zeros(len(rows), bool)
    for place, row in enumerate(rows):
        if row.template is None:
            is_null[place] = True
        else:
            vectors[place] = _checked(row, row.template.vector, kind.list_size)
    values = pa.array(vectors.reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(is_null))


def _checked(row: _Row, vector: Vector, dimension: int) -> Vector:
    # An array of one element would be spread over the row without a word.
    if vector.shape != (dimension,):
        raise InvalidInputError(
            f"a template of identity {row.identity.identity_id[:80]!r} has a vector of shape {vector.shape},"
            f" the contract says ({dimension},)",
            hint="Give the gallery's own contract, and identities with their vectors.",
        )
    return vector


def _by_source(tables: list[pa.Table], schema: pa.Schema, row_group_rows: int) -> Iterator[pa.Table]:
    """All rows in order of the bytes of source, identity and vector: nothing of it tells of a run."""
    if not tables:
        return
    table = pa.concat_tables(tables).combine_chunks()
    tables.clear()
    size = 4 * schema.field("vector").type.list_size
    raw = [
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(size), len(chunk), [None, chunk.values.buffers()[1]], offset=chunk.offset
        )
        for chunk in table["vector"].chunks
    ]
    keys = pa.table(
        {
            "source": pc.fill_null(table["source"], ""),
            "identity_id": table["identity_id"],
            "vector": pa.chunked_array(raw, pa.binary(size)),
        }
    )
    places = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    for start in range(0, len(table), row_group_rows):
        yield table.take(places.slice(start, row_group_rows))


def _write(file: BinaryIO, schema: pa.Schema, tables: Iterable[pa.Table], left_out: Sequence[str]) -> None:
    names = [name for name in schema.names if name not in left_out]
    kept = pa.schema([schema.field(name) for name in names], schema.metadata)
    packed = dict.fromkeys((name for name in names if name in _PACKED), "zstd")
    attributes = ("attributes.key_value.key", "attributes.key_value.value")
    with pq.ParquetWriter(
        file,
        kept,
        compression=packed | dict.fromkeys(attributes, "zstd"),
        use_dictionary=["identity_id", *attributes],
        write_statistics=[name for name in names if name in _PACKED],
        write_page_checksum=True,
    ) as writer:
        for table in tables:
            writer.write_table(table.select(names), row_group_size=len(table))
