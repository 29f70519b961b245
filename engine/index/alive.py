"""Which rows of a generation were not removed: a bitmap uint8[(n + 7) // 8], lowest bit first; None: all.

Rows beyond its end are not in it. Knows nothing of what is in the rows.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.index.faiss_library import library

Alive: TypeAlias = NDArray[np.uint8] | None


def without(alive: Alive, rows: NDArray[np.int64], num_rows: int) -> NDArray[np.uint8]:
    """A copy without these rows."""
    found = np.full((num_rows + 7) // 8, 0xFF, np.uint8) if alive is None else alive.copy()
    np.bitwise_and.at(found, rows >> 3, ~(np.uint8(1) << (rows & 7).astype(np.uint8)))
    return found


def is_alive(rows: NDArray[np.int64], alive: Alive) -> NDArray[np.bool_]:
    """Whether each of rows int64[r] is in it."""
    if alive is None:
        return np.ones(len(rows), np.bool_)
    is_set: NDArray[np.bool_] = (alive[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1
    return is_set


def selector(alive: Alive) -> Any:
    """As FAISS takes it; None: all."""
    if alive is None:
        return None
    faiss = library()
    found = faiss.IDSelectorBitmap(alive.size, faiss.swig_ptr(alive))
    # It only points into the bitmap, which must live as long.
    found.referenced_objects = [alive]
    return found
