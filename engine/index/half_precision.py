"""How far a similarity may be off that is computed from float16 rows and probes. Pure arithmetic.

Let v be a row, q a probe, v' and q' what float16 leaves of them. A score of a scan in float16 differs from
the float32 similarity that re-ranking computes by at most

    |q - q'| |v'| + |q| |v - v'|      rounding of the inputs (Cauchy and Schwarz; both lengths are measured)
    + 4 d u32 |q'| |v'|               sums of d exact products in float32: the scan's and the re-rank's
    + u16 |q'| |v'|                   the score itself is rounded to float16

where u32 = 2^-24 and u16 = 2^-11 are the units of rounding: some 9e-4 for unit vectors. Sums in float16 would
break the second line: who scans must not use them.

Of each probe, the rows of the highest scores are re-ranked. A row left out has a score of at most the lowest
of those; where that and the bound stay at or below the r-th best similarity, no row left out is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

_UNIT_32, _UNIT_16 = 2.0**-24, 2.0**-11
_SMALLEST_16 = 2.0**-24
"""Distance of neighbours below the normal numbers of float16: what a score near zero may be off by."""
_SLACK = 1 + 2.0**-12
"""Lengths and bound are themselves computed in float32."""

Lengths = TypeVar("Lengths")
"""A float, or an array or tensor of them."""


@dataclass
class RowPrecision:
    """What was measured over all rows."""

    dimension: int
    length_max: float = 0.0
    """Longest row."""
    rounding_max: float = 0.0
    """Longest difference of a row from its float16."""

    def add(self, length_max: float, rounding_max: float) -> None:
        """Take account of more rows."""
        self.length_max = max(self.length_max, length_max)
        self.rounding_max = max(self.rounding_max, rounding_max)

    def bound(self, lengths: Lengths, roundings: Lengths) -> Lengths:
        """Most that a score may be off, for probes of these lengths that float16 rounds by these."""
        rounding: Any = roundings
        longest = lengths + rounding
        row_longest = self.length_max + self.rounding_max
        inputs = rounding * row_longest + longest * self.rounding_max
        summed = longest * (row_longest * (4 * self.dimension * _UNIT_32 + _UNIT_16))
        bound: Lengths = (inputs + summed + _SMALLEST_16) * _SLACK
        return bound
