"""The largest values of each row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top(similarities: NDArray[np.float32], num_rows: int) -> NDArray[np.intp]:
    """Columns of the largest values of each row of float32[n, r], best first: int[n, min(r, num_rows)]."""
    negated = -similarities
    if num_rows >= similarities.shape[1]:
        return np.argsort(negated, axis=1, kind="stable")
    part = np.argpartition(negated, num_rows - 1, axis=1)[:, :num_rows]
    order = np.argsort(np.take_along_axis(negated, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)
