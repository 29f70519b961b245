"""Templates of a store as columns, read in blocks: what an index is made of and caught up with.

Each record's checksum is verified, the rest is done by numpy on whole blocks: a million templates of 128
dimensions take about a second and a half. Knows nothing of what is searched.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from engine.errors import CorruptDataError
from engine.store import records
from engine.store.tables import Reader
from engine.types import Columns

COLLECT_ROWS = 2048
"""Templates read at once while a gallery is collected: some 1 MB of records."""
_CRC_BYTES = 4
_KEY_BYTES = 8


def template_blocks(reader: Reader, rows_max: int) -> Iterator[Columns]:
    """All templates in order of their ids, at most `rows_max` at once.

    Raises CorruptDataError for a record that does not fit its checksum or the store's dimension.
    """
    dimension = reader.state().dimension
    with reader.template_rows() as rows:
        while block := list(itertools.islice(rows, rows_max)):
            yield _columns(block, dimension)


def columns_of(reader: Reader, template_ids: Sequence[int]) -> Columns:
    """Those of these templates that are still there, in ascending order of their ids. Raises as above."""
    keys = [records.key(template_id) for template_id in sorted(set(template_ids))]
    return _columns(reader.template_rows_of(keys), reader.state().dimension)


def collect(reader: Reader, progress: Callable[[int, int], None]) -> Columns:
    """All templates in memory, 4 x d + 16 bytes each and COLLECT_ROWS records beside them.

    `progress(done, total)` is called after each block. Raises CorruptDataError as above, and where there are
    more or fewer than the store counts.
    """
    state = reader.state()
    columns, row = Columns.empty(state.num_templates, state.dimension), 0
    for block in template_blocks(reader, COLLECT_ROWS):
        end = row + len(block.template_ids)
        if end <= state.num_templates:
            columns.template_ids[row:end] = block.template_ids
            columns.identity_numbers[row:end] = block.identity_numbers
            columns.vectors[row:end] = block.vectors
        row = end
        progress(min(row, state.num_templates), state.num_templates)
    if row != state.num_templates:
        raise CorruptDataError(f"the store counts {state.num_templates} templates but holds {row}")
    return columns


def _columns(rows: Sequence[tuple[bytes, bytes]], dimension: int) -> Columns:
    layout = _layout(dimension)
    keys, values = [key for key, _ in rows], [value for _, value in rows]
    num_bytes = np.fromiter(map(len, values), np.int64, len(rows))
    if (num_bytes < layout.itemsize).any() or any(len(key) != _KEY_BYTES for key in keys):
        raise CorruptDataError("a template record has the wrong length")
    # Cut before the source, records are of one length.
    parsed = np.frombuffer(b"".join([value[: layout.itemsize] for value in values]), layout)
    # Of the body, behind the checksum's own bytes.
    checksums = np.fromiter((zlib.crc32(value[_CRC_BYTES:]) for value in values), np.uint32, len(rows))
    if (parsed["crc"] != checksums).any():
        raise CorruptDataError("the checksum of a template record does not hold")
    source_bytes = num_bytes - layout.itemsize
    if (parsed["dimension"] != dimension).any() or (parsed["source_bytes"] != source_bytes).any():
        raise CorruptDataError("a template record has the wrong length")
    return Columns(
        np.frombuffer(b"".join(keys), ">u8").astype(np.uint64),
        parsed["identity_number"].astype(np.uint64),
        np.ascontiguousarray(parsed["vector"], np.float32),
    )


def _layout(dimension: int) -> np.dtype[np.void]:
    """A record as `records.pack_template` writes it, up to its source."""
    return np.dtype(
        [
            ("crc", "<u4"),
            ("identity_number", "<u8"),
            ("create_ms", "<i8"),
            ("quality", "<f4"),
            ("dimension", "<u2"),
            ("source_bytes", "<u2"),
            ("vector", "<f4", (dimension,)),
        ]
    )
