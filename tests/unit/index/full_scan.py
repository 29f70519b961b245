"""Unit vectors in a cone, and a full scan in float64 to compare a device's answers with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.index.gpu import Answer, Limits
from engine.types import Vectors

ROUNDING = 1e-6
"""Of similarities of unit vectors in float32."""
SMALL = Limits(
    batch_probes_max=4,
    chunk_rows=128,
    scores_bytes_max=4096,
    candidates_bytes_max=8192,
    gather_bytes_max=4096,
)
"""Many blocks, chunks and pieces in little data."""


def cone(seed: int, num: int, dimension: int = 32) -> Vectors:
    """Unit vectors in a narrow cone, as real templates are."""
    rng = np.random.default_rng(seed)
    wide = rng.normal(size=(num, dimension)) * 0.05
    wide[:, 0] += 1
    return np.ascontiguousarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


def bitmap(is_alive: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(is_alive, bitorder="little")


def check(
    answer: Answer,
    vectors: Vectors,
    probes: Vectors,
    num_rows: int,
    is_alive: NDArray[np.bool_] | None = None,
) -> None:
    """What was found is what a full scan in float64 finds, best first, but for float32's rounding."""
    similarities, rows = answer
    assert similarities.dtype == np.float32
    assert rows.dtype == np.int64
    assert similarities.shape == rows.shape == (len(probes), num_rows)
    exact = probes.astype(np.float64) @ vectors.astype(np.float64).T
    living = np.arange(len(vectors)) if is_alive is None else np.flatnonzero(is_alive)
    count = min(num_rows, len(living))
    assert (rows[:, count:] == -1).all()
    assert (similarities[:, count:] == -np.inf).all()
    for probe in range(len(probes)):
        found = rows[probe, :count]
        assert len(set(found.tolist())) == count
        assert np.isin(found, living).all()
        best = np.sort(exact[probe, living])[::-1][:count]
        np.testing.assert_allclose(similarities[probe, :count], best, atol=ROUNDING, rtol=0)
        np.testing.assert_allclose(exact[probe, found], best, atol=ROUNDING, rtol=0)
