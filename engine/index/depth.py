"""How far down by the codes the nearest rows are, measured on the gallery's own vectors while it is built.

Rows drawn at random are searched for among the others, as people who are not enrolled would be: rows of the
same identity do not count.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.index.faiss_library import library
from engine.index.kernel import Extent, Kernel
from engine.index.parameters import NUM_COMPARED, NUM_FOUND_MIN, SHORT_SHARE_MAX
from engine.types import Columns, Vectors

NUM_PROBES = 400
_NEAREST = 3
"""Of each probe: three times the ranks, and a little wider ones than those of the very nearest."""
_OWN_ROWS = 29
"""Rows of a probe's own identity that are passed over."""
_SHARE = 0.999
_SHORT_SHARE = 0.99
"""Of the sample's probes, for which shorter codes must do."""
_LIMIT_FIRST, _LIMIT_GROWTH, _LIMIT_MAX = 2048, 6, 65_536
_LIMIT_SURE = 0.7
"""Ranks near the limit hide those beyond it."""
_LIMIT_SHARE_MAX, _LIMIT_SMALL = 1 / 32, 8192
"""Of the rows, or so many where they are few."""
_MARGIN = 1.25
"""What a scan finds varies by a fifth from probe to probe."""
_PROBES_AT_ONCE = 50

Rows = NDArray[np.int64]


def num_found(index: Any, columns: Columns, coordinates: Vectors, rows: Rows, kernel: Kernel | None) -> int:
    """Rows that a scan must find so that the nearest are among them.

    `index` has the codes of all rows; `coordinates` float32[n, d] are those of `rows` as it sees them.
    """
    most = int(np.clip(len(columns.vectors) * _LIMIT_SHARE_MAX, _LIMIT_SMALL, _LIMIT_MAX))
    limit = min(_LIMIT_FIRST, most)
    while True:
        deepest = math.ceil(_deepest(index, columns, coordinates, rows, kernel, limit)) + 1
        if deepest < _LIMIT_SURE * limit or limit == most:
            return int(np.clip(_MARGIN * deepest, NUM_FOUND_MIN, most))
        limit = min(_LIMIT_GROWTH * limit, most)


def is_enough(index: Any, training: Columns, coordinates: Vectors) -> bool:
    """Whether codes of an empty index find the nearest rows of a sample among few others.

    `coordinates` float32[n, d] are those of the sample as the index sees them.
    """
    sample = library().clone_index(index)
    sample.add(coordinates)
    num_rows = len(coordinates)
    rows = np.arange(0, num_rows, max(1, num_rows // NUM_PROBES))[:NUM_PROBES]
    _, found = sample.search(coordinates[rows], max(1, int(num_rows * SHORT_SHARE_MAX)))
    num_missed = num_others = 0
    for start in range(0, len(rows), _PROBES_AT_ONCE):
        block = rows[start : start + _PROBES_AT_ONCE]
        similarities = training.vectors[block] @ training.vectors.T
        is_own = training.identity_numbers[block][:, None] == training.identity_numbers
        similarities[is_own] = -np.inf
        nearest = similarities.argmax(axis=1)
        is_found = (found[start : start + _PROBES_AT_ONCE] == nearest[:, None]).any(axis=1)
        num_missed += int((~is_found).sum())
        num_others += len(block)
    return num_missed <= (1.0 - _SHORT_SHARE) * num_others


def _deepest(
    index: Any, columns: Columns, coordinates: Vectors, rows: Rows, kernel: Kernel | None, limit: int
) -> float:
    """Rank by the codes of all but a few of the nearest, as far as they are among `limit` rows."""
    library()
    ranks = []
    for start in range(0, len(rows), _PROBES_AT_ONCE):
        block = slice(start, start + _PROBES_AT_ONCE)
        _, found = index.search(coordinates[block], min(limit, len(columns.vectors)))
        near = found
        if kernel is not None:
            extent = Extent(0, limit, _NEAREST + _OWN_ROWS + NUM_COMPARED, _NEAREST + _OWN_ROWS)
            _, near, _ = kernel.nearest(columns.vectors[rows[block]], coordinates[block], None, extent)
        for row, candidates, order in zip(rows[block], near, found, strict=True):
            is_nearest = np.isin(order, _nearest_others(columns, row, candidates))
            ranks.append(np.flatnonzero(is_nearest))
    return float(np.quantile(np.concatenate([*ranks, np.zeros(1, np.int64)]), _SHARE))


def _nearest_others(columns: Columns, row: np.int64, candidates: Rows) -> Rows:
    owners = columns.identity_numbers
    others = candidates[(candidates >= 0) & (owners[candidates] != owners[row])]
    similarities = columns.vectors[others] @ columns.vectors[row]
    nearest: Rows = others[np.argsort(-similarities, kind="stable")[:_NEAREST]]
    return nearest
