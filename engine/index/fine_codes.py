"""Fine codes, 4 bits an axis: between the codes that are scanned and the vectors that are compared.

A row's code is read where the scan found it, 64 bytes for 128 dimensions: one line of the cache instead of
the eight of its vector. Each 64 bytes hold 128 axes, byte i axis i and, in its higher half, axis i + 64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.index.code_axes import CodeAxes
from engine.index.scalars import LEVELS, Scalars
from engine.types import Vectors

_BYTES = 64
_AXES = 2 * _BYTES
_STEPS = 127
"""Levels and their squares in 7 bits, as `_kernel.c` adds them up."""
_SPAN, _SQUARES = LEVELS[-1] - LEVELS[0], LEVELS**2
KERNEL_LEVELS: NDArray[np.uint8] = np.rint((LEVELS - LEVELS[0]) / _SPAN * _STEPS).astype(np.uint8)
KERNEL_SQUARES: NDArray[np.uint8] = np.rint(_SQUARES / _SQUARES.max() * _STEPS).astype(np.uint8)
LEVEL_STEP = float(_SPAN) / _STEPS
SQUARE_STEP = float(_SQUARES.max()) / _STEPS


def num_bytes(dimension: int) -> int:
    """Bytes of a row's code."""
    return -(-dimension // _AXES) * _BYTES


class FineCoder:
    """Codes coordinates along the axes."""

    def __init__(self, axes: CodeAxes):
        self._scalars = Scalars(np.zeros_like(axes.spreads), axes.spreads)

    def code(self, coordinates: Vectors) -> NDArray[np.uint8]:
        """Codes uint8[n, num_bytes] of float32[n, d]."""
        num_rows, dimension = coordinates.shape
        levels = np.zeros((num_rows, num_bytes(dimension) * 2), np.uint8)
        levels[:, :dimension] = self._scalars.code(coordinates)
        parts = levels.reshape(num_rows, -1, 2, _BYTES)
        codes: NDArray[np.uint8] = (parts[:, :, 0] | parts[:, :, 1] << 4).astype(np.uint8, copy=False)
        return codes.reshape(num_rows, -1)

    def decoded(self, levels: NDArray[np.uint8]) -> Vectors:
        """Coordinates float32[n, d] of levels uint8[n, d]."""
        return self._scalars.decoded(levels)
