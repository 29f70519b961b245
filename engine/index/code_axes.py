"""The axes in which rows are coded for the default search: around their mean, in groups of like variance.

Optimised product quantisation of normal data (Ge et al. 2013, "Optimized Product Quantization", section 3.3):
the principal axes are dealt out to the sub-quantisers so that each has about the same product of variances.
Of vectors to the default contract a code of 16 bytes then finds as much as one of 32 in the axes they come
in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.index.scalars import SPREAD_MIN
from engine.types import Vectors


@dataclass(frozen=True)
class CodeAxes:
    """A shift and a rotation: distances stay what they are."""

    mean: NDArray[np.float32]
    """float32[d]"""
    axes: NDArray[np.float32]
    """float32[d, d]; row i is the axis of coordinate i"""
    spreads: NDArray[np.float32]
    """float32[d], standard deviation along each axis, at least SPREAD_MIN"""

    @classmethod
    def fitted(cls, sample: Vectors, num_groups: int) -> CodeAxes:
        """Axes for rows like float32[n, d], n > 0, for so many sub-quantisers of d / num_groups axes each."""
        mean = sample.mean(axis=0, dtype=np.float64)
        centred = sample - mean.astype(np.float32)
        covariance: NDArray[np.float64] = (centred.T @ centred).astype(np.float64) / len(sample)
        found, directions = np.linalg.eigh(covariance)
        variances = np.maximum(found, SPREAD_MIN**2)
        order = _dealt(variances, num_groups)
        return cls(
            mean.astype(np.float32),
            np.ascontiguousarray(directions[:, order].T, np.float32),
            np.sqrt(variances[order]).astype(np.float32),
        )

    @classmethod
    def read(cls, path: Path) -> CodeAxes:
        """What `write` wrote."""
        with np.load(path) as file:
            return cls(file["mean"], file["axes"], file["spreads"])

    def write(self, path: Path) -> None:
        """Raises OSError."""
        np.savez(path, mean=self.mean, axes=self.axes, spreads=self.spreads)

    def coordinates(self, vectors: Vectors) -> Vectors:
        """Coordinates float32[n, d] of vectors float32[n, d]."""
        centred: Vectors = vectors - self.mean
        found: Vectors = centred @ self.axes.T
        return found


def _dealt(variances: NDArray[np.float64], num_groups: int) -> NDArray[np.int64]:
    """Order int64[d] of the axes by groups; each variance, largest first, goes to the group with least."""
    weights = np.log(variances / variances.min())
    group_size = len(variances) // num_groups
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    sums = np.zeros(num_groups)
    for axis in np.argsort(-variances, kind="stable").tolist():
        group = int(np.argmin(sums))
        groups[group].append(axis)
        sums[group] = sums[group] + weights[axis] + 1e-9 if len(groups[group]) < group_size else np.inf
    return np.array(groups, np.int64).ravel()
