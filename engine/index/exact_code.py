"""The 4-bit code behind exact search: a scalar quantiser per axis, residual lengths as further axes.

Rows are grouped by their first coordinate (lists), coded as 16 levels per axis, and packed into FAISS's
FastScan layout, whose scan then returns what `engine.index.exact` proves to be an upper bound. The slots:

::

    0            first coordinate less its list's centre
    1 .. m-1     the other coordinates
    m            length of what the codes of 1 .. m-1 leave, rounded up
    m + 1        length of the part outside of the axes, rounded up
    m + 2        scale: always level 0, which is 0; the others let a probe set the tables' resolution
    m + 3        nothing; keeps the number of slots even

Knows nothing of files or probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.index.exact_frame import Frame
from engine.index.faiss_library import library
from engine.index.scalars import SPREAD_MIN, Scalars
from engine.types import Vectors

NUM_LEVELS = 16
SLOTS_EXTRA = 4
_BLOCK_ROWS = 1 << 12
_SAMPLE_ROWS = 1 << 14
_LISTS_MAX = 64
_ROWS_PER_LIST = 2048
_OUTLIER_RATIO = 1.5
_OUTLIER_SHARE_MAX = 0.001


@dataclass(frozen=True)
class Tables:
    """What the codes mean."""

    levels: NDArray[np.float32]
    """float32[m + SLOTS_EXTRA, NUM_LEVELS]"""
    centres: NDArray[np.float32]
    """float32[l]: the lists' centres on the first axis"""
    first_error: float
    """Largest error of a coded first coordinate."""
    norm_max: float
    """No row is longer."""


@dataclass(frozen=True)
class Coded:
    """Rows as codes."""

    tables: Tables
    index: Any
    """FAISS IVFPQFastScan over all rows but the outliers; ids are rows."""
    outliers: NDArray[np.int64]
    """Rows that are not in the index, ascending."""


class _Lists:
    """Equal intervals of the first coordinate, each divided into NUM_LEVELS."""

    def __init__(self, firsts: NDArray[np.float32]):
        count = int(np.clip(len(firsts) // _ROWS_PER_LIST, 1, _LISTS_MAX))
        self._low = float(firsts.min())
        self._width = max((float(firsts.max()) - self._low) / count, SPREAD_MIN)
        self.centres = (self._low + self._width * (np.arange(count) + 0.5)).astype(np.float32)
        self.levels = (self._width * ((np.arange(NUM_LEVELS) + 0.5) / NUM_LEVELS - 0.5)).astype(np.float32)

    def code(self, firsts: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
        """List and level uint8[n] of each, and the largest error of both together."""
        wide = firsts.astype(np.float64)
        lists = np.clip((wide - self._low) / self._width, 0, len(self.centres) - 1).astype(np.uint8)
        inside = wide - self.centres[lists]
        level_of = np.clip((inside / self._width + 0.5) * NUM_LEVELS, 0, NUM_LEVELS - 1).astype(np.uint8)
        return lists, level_of, float(np.abs(inside - self.levels[level_of]).max()) + 1e-12


def encode(vectors: Vectors, frame: Frame) -> Coded:
    """Code rows float32[n, d], n > 0."""
    num_rows, num_axes = len(vectors), frame.num_axes
    norm_max = _norm_max(vectors)
    in_lists = _Lists(vectors @ frame.axes[0])
    scalars = Scalars.fitted(frame.coordinates(_sample(vectors))[:, 1:])
    codes = np.zeros((num_rows, (num_axes + SLOTS_EXTRA) // 2), np.uint8)
    lists = np.empty(num_rows, np.uint8)
    lengths = np.empty((2, num_rows))
    first_error = 0.0
    for start in range(0, num_rows, _BLOCK_ROWS):
        rows = np.ascontiguousarray(vectors[start : start + _BLOCK_ROWS])
        block = slice(start, start + len(rows))
        coordinates = frame.coordinates(rows)
        level_of = np.empty((len(rows), num_axes), np.uint8)
        lists[block], level_of[:, 0], error = in_lists.code(coordinates[:, 0])
        first_error = max(first_error, error)
        level_of[:, 1:] = scalars.code(coordinates[:, 1:])
        codes[block, : num_axes // 2] = level_of[:, 0::2] | (level_of[:, 1::2] << 4)
        left = coordinates[:, 1:] - scalars.decoded(level_of[:, 1:])
        # The sum of squares is right to gamma(m) < 1e-4, the coordinates themselves to frame.error.
        squared = np.einsum("ij,ij->i", left, left).astype(np.float64)
        lengths[0, block] = np.sqrt(squared) * 1.0001 + frame.error(norm_max)
        lengths[1, block] = frame.rest_lengths(rows, coordinates, norm_max)
    is_outlier = _outliers(lengths[0]) | _outliers(lengths[1])
    inliers = np.flatnonzero(~is_outlier)
    levels = np.zeros((num_axes + SLOTS_EXTRA, NUM_LEVELS), np.float32)
    levels[0], levels[1:num_axes] = in_lists.levels, scalars.levels
    for offset in (0, 1):
        steps = levels[num_axes + offset] = _steps(lengths[offset, inliers])
        level = np.searchsorted(steps, lengths[offset, inliers]).astype(np.uint8)
        codes[inliers, num_axes // 2] |= level << (4 * offset)
    levels[num_axes + 2, 1:] = 1.0
    tables = Tables(levels, in_lists.centres, first_error, norm_max)
    return Coded(tables, _packed(tables, codes, lists, inliers), np.flatnonzero(is_outlier))


def _sample(vectors: Vectors) -> Vectors:
    return np.ascontiguousarray(vectors[:: max(1, len(vectors) // _SAMPLE_ROWS)][:_SAMPLE_ROWS])


def _norm_max(vectors: Vectors) -> float:
    largest = 0.0
    for start in range(0, len(vectors), _BLOCK_ROWS):
        rows = vectors[start : start + _BLOCK_ROWS]
        largest = max(largest, float(np.einsum("ij,ij->i", rows, rows).max()))
    return float(np.sqrt(largest)) * 1.0001


def _outliers(lengths: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows that would coarsen the tables for all others, few at most."""
    limit = max(
        _OUTLIER_RATIO * float(np.median(lengths)), float(np.quantile(lengths, 1.0 - _OUTLIER_SHARE_MAX))
    )
    return lengths > limit


def _steps(lengths: NDArray[np.float64]) -> NDArray[np.float32]:
    """NUM_LEVELS ascending lengths; the last is not below any of `lengths`."""
    quantiles = np.quantile(lengths, (np.arange(NUM_LEVELS) + 1.0) / NUM_LEVELS)
    return np.nextafter(quantiles.astype(np.float32), np.float32(np.inf))


def _packed(
    tables: Tables, codes: NDArray[np.uint8], lists: NDArray[np.uint8], inliers: NDArray[np.int64]
) -> Any:
    faiss = library()
    num_slots = len(tables.levels)
    centroids = np.zeros((len(tables.centres), num_slots), np.float32)
    centroids[:, 0] = tables.centres
    quantizer = faiss.IndexFlatIP(num_slots)
    quantizer.add(centroids)
    plain = faiss.IndexIVFPQ(quantizer, num_slots, len(centroids), num_slots, 4, faiss.METRIC_INNER_PRODUCT)
    plain.by_residual = plain.is_trained = True
    faiss.copy_array_to_vector(np.ascontiguousarray(tables.levels).ravel(), plain.pq.centroids)
    order = inliers[np.argsort(lists[inliers], kind="stable")]
    ends = np.searchsorted(lists[order], np.arange(len(centroids)), side="right")
    for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        rows = np.ascontiguousarray(order[start:end])
        packed = np.ascontiguousarray(codes[rows])
        if len(rows):
            plain.invlists.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(packed))
    plain.ntotal = len(inliers)
    # A copy owns all of its parts; what the conversion made points into `plain` and `quantizer`.
    return faiss.deserialize_index(faiss.serialize_index(faiss.IndexIVFPQFastScan(plain)))
