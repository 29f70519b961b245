"""Where ids are among ascending ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def places(ids: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Index int64[n] of each of `wanted` uint64[n] in ascending `ids`; -1 where it is not there."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    # Where none was removed ids have no gaps: looking at one place costs less than a search.
    found: NDArray[np.int64] = np.minimum(wanted - ids[0], np.uint64(len(ids) - 1)).astype(np.int64)
    is_there = ids[found] == wanted
    if not is_there.all():
        found = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1).astype(np.int64)
        found[ids[found] != wanted] = -1
    return found
