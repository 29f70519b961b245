"""The axes in which rows are coded for exact search, and what their rounding can cost.

Real templates lie around a mean direction and differ in fewer directions than they have dimensions. The first
axis is the mean direction; the others span the directions in which a sample differs most, mixed at random, so
that all of them carry alike much. What lies outside of them is the rest, of which only the length is coded.
Knows nothing of FAISS or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.types import Vector, Vectors

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of one float32 operation."""
_SAMPLE_ROWS = 1 << 14
_REST_SHARE_MAX = 0.02
"""Largest share of the variance in the rest; the codes of the axes lose a hundredth of theirs."""
_AXES_MIN = 16
_ALL_AXES_SHARE = 0.95
"""From this share of the dimensions on, all are coded: the rest would cost more than it saves."""


def gamma(num_terms: int) -> float:
    """Relative error of a float32 sum of products in any order (Higham 2002, section 3.1)."""
    return num_terms * UNIT_ROUNDOFF / (1.0 - num_terms * UNIT_ROUNDOFF)


@dataclass(frozen=True)
class Frame:
    """Nearly orthonormal axes, the first of them the mean direction."""

    axes: NDArray[np.float32]
    """float32[m, d], m even"""

    @classmethod
    def fitted(cls, vectors: Vectors) -> Frame:
        """Axes for rows float32[n, d], n > 0, d > 1, from a sample spread over them."""
        rng = np.random.default_rng(0)
        sample = vectors[:: max(1, len(vectors) // _SAMPLE_ROWS)][:_SAMPLE_ROWS].astype(np.float32)
        dimension = sample.shape[1]
        mean = sample.mean(axis=0, dtype=np.float64)
        if np.linalg.norm(mean) < 1e-6:
            mean = np.eye(1, dimension)[0]
        first = mean / np.linalg.norm(mean)
        centred = sample - mean.astype(np.float32)
        centred -= np.outer(centred @ first.astype(np.float32), first).astype(np.float32)
        covariance = (centred.T @ centred).astype(np.float64)
        variances, directions = np.linalg.eigh(covariance)
        num_others = _num_axes(variances[::-1], dimension) - 1
        others = directions[:, ::-1][:, :num_others]
        mixed = others @ np.linalg.qr(rng.standard_normal((num_others, num_others)))[0]
        axes = np.linalg.qr(np.column_stack([first, mixed]))[0].T
        axes[0] *= np.sign(axes[0] @ first)
        return cls(np.ascontiguousarray(axes, np.float32))

    @property
    def num_axes(self) -> int:
        """Axes that are coded, m."""
        return len(self.axes)

    @property
    def has_rest(self) -> bool:
        """Whether rows have a part outside of the axes. m = d independent axes leave none."""
        return self.num_axes < int(self.axes.shape[1])

    @cached_property
    def _wide(self) -> NDArray[np.float64]:
        return self.axes.astype(np.float64)

    @cached_property
    def skew(self) -> float:
        """How far the axes A are from orthonormal: at least the largest |eigenvalue| of A A' - 1."""
        return float(np.linalg.norm(self._wide @ self._wide.T - np.eye(self.num_axes))) + 1e-12

    def error(self, norm_max: float) -> float:
        """Length of the largest error of `coordinates` of a row not longer than `norm_max`."""
        dimension = self.axes.shape[1]
        return float(np.sqrt(self.num_axes * (1.0 + self.skew))) * gamma(dimension) * norm_max

    def coordinates(self, rows: Vectors) -> NDArray[np.float32]:
        """Coordinates float32[n, m] of rows float32[n, d]."""
        found: NDArray[np.float32] = rows @ self.axes.T
        return found

    def probe_coordinates(self, probe: Vector) -> tuple[NDArray[np.float64], float]:
        """Coordinates float64[m] of a probe float32[d], and an upper bound of the length of its rest."""
        wide = probe.astype(np.float64)
        coordinates = self._wide @ wide
        if not self.has_rest:
            return coordinates, 0.0
        rest_squared = float(wide @ wide) - float(coordinates @ coordinates) / (1.0 + self.skew)
        return coordinates, float(np.sqrt(max(rest_squared, 0.0) + 1e-14))

    def rest_lengths(
        self, rows: Vectors, coordinates: NDArray[np.float32], norm_max: float
    ) -> NDArray[np.float64]:
        """Upper bounds float64[n] of the lengths of the rows' rests."""
        if not self.has_rest:
            return np.zeros(len(rows))
        relative = gamma(rows.shape[1] + 2)
        squared = np.einsum("ij,ij->i", rows, rows).astype(np.float64) * (1.0 + 2.0 * relative)
        inside = np.sqrt(
            np.einsum("ij,ij->i", coordinates, coordinates).astype(np.float64) * (1.0 - relative)
        )
        inside = np.maximum(inside - self.error(norm_max), 0.0)
        found: NDArray[np.float64] = np.sqrt(np.maximum(squared - inside**2 / (1.0 + self.skew), 0.0))
        return found


def _num_axes(variances: NDArray[np.float64], dimension: int) -> int:
    """Axes worth coding, an even number; `variances` fall."""
    even = dimension - dimension % 2
    total = float(np.maximum(variances, 0.0).sum())
    if total <= 0.0:
        return min(_AXES_MIN, even)
    inside = np.cumsum(np.maximum(variances, 0.0)) / total
    num = int(np.searchsorted(inside, 1.0 - _REST_SHARE_MAX)) + 2
    num = max(num + num % 2, _AXES_MIN)
    return even if num > _ALL_AXES_SHARE * dimension else min(num, even)
