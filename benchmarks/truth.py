"""The exact answers, computed by blocks with GEMM and decided in float64; and how well others agree.

An oracle of its own: uses nothing of the engine's search.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.types import Vectors

BLOCK_ROWS = 8192
BLOCK_PROBES = 500
SPARE = 22
"""Rows kept beyond those asked for: float32 products may stand in the wrong order among close ones."""

Rows = NDArray[np.int64]


def exact_top(vectors: Vectors, probes: Vectors, k: int) -> Rows:
    """Rows int64[m, k] of the k most alike vectors of each probe, best first; fewer rows than k: all."""
    found = [
        _of_block(vectors, probes[start : start + BLOCK_PROBES], k)
        for start in range(0, len(probes), BLOCK_PROBES)
    ]
    return np.concatenate(found) if found else np.empty((0, min(k, len(vectors))), np.int64)


def top1_agreement(found: Rows, truth: Rows) -> float:
    """Share of probes whose first row is that of the exact scan."""
    return float((found[:, 0] == truth[:, 0]).mean())


def recall(found: Rows, truth: Rows) -> float:
    """Share of the exact scan's rows that were found, in any place."""
    same = [len(np.intersect1d(one, other)) for one, other in zip(found, truth, strict=True)]
    return float(np.sum(same) / truth.size)


def _of_block(vectors: Vectors, probes: Vectors, k: int) -> Rows:
    num_kept = min(k + SPARE, len(vectors))
    best = np.full((len(probes), num_kept), -np.inf, np.float32)
    rows = np.zeros((len(probes), num_kept), np.int64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS]
        products = probes @ block.T
        # After some blocks hardly anything is above the least of those kept.
        for probe in np.flatnonzero((products > best[:, -1:]).any(axis=1)).tolist():
            above = np.flatnonzero(products[probe] > best[probe, -1])
            merged = np.concatenate([best[probe], products[probe, above]])
            merged_rows = np.concatenate([rows[probe], above + start])
            order = np.argsort(-merged, kind="stable")[:num_kept]
            best[probe], rows[probe] = merged[order], merged_rows[order]
    return np.stack([_decided(vectors, probe, of, k) for probe, of in zip(probes, rows, strict=True)])


def _decided(vectors: Vectors, probe: NDArray[np.float32], rows: Rows, k: int) -> Rows:
    similarities = vectors[rows].astype(np.float64) @ probe.astype(np.float64)
    return rows[np.argsort(-similarities, kind="stable")[:k]]
