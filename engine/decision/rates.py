"""How often strangers are taken for somebody, by similarity and by how many identities are searched.

A table holds the logarithm of the rate h(N, T) = -log(1 - FPIR(N, T)) on a grid of similarities T and sizes
N, with the bounds of its interval. Between the points it is interpolated: log h runs nearly straight over T
and over log N. Knows nothing of galleries, files or where the numbers come from.

Source: NIST FRTE 1:N, "Metrics", for FPIR(N, T).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from engine.errors import InvalidInputError
from engine.open_set_types import Estimate

SIMILARITY_MAX = 1.0
"""No threshold lies above it, whatever the table says: nothing but the very same template reaches it."""
SIMILARITY_BOUND = 2.0
"""What no similarity lies beyond, on either side, corrected ones among them."""
LOG_RATE_BOUND = 100.0
"""What no logarithm of a rate lies beyond, on either side: far more than can be measured."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A falling function of similarity, by straight pieces; goes on straight at both ends."""

    similarities: Sequence[float]
    log_rates: Sequence[float]

    def log_rate(self, similarity: float) -> float:
        """Value at a similarity."""
        right = max(1, bisect.bisect_right(self.similarities, similarity))
        return self._on_piece(min(right, len(self.similarities) - 1), similarity)

    def similarity(self, log_rate: float) -> float:
        """Least similarity with at most this value, none below the lowest."""
        # The values fall, bisect wants them to rise.
        right = bisect.bisect_left(self.log_rates, -log_rate, key=lambda value: -value)
        if right == 0:
            return self.similarities[0]
        right = min(right, len(self.similarities) - 1)
        left_rate, right_rate = self.log_rates[right - 1], self.log_rates[right]
        left, end = self.similarities[right - 1], self.similarities[right]
        if left_rate == right_rate:
            return end if log_rate >= right_rate else SIMILARITY_MAX
        share = (left_rate - log_rate) / (left_rate - right_rate)
        return min(SIMILARITY_MAX, left + share * (end - left))

    def _on_piece(self, right: int, similarity: float) -> float:
        left, end = self.similarities[right - 1], self.similarities[right]
        share = (similarity - left) / (end - left)
        return self.log_rates[right - 1] + share * (self.log_rates[right] - self.log_rates[right - 1])


_Row = Sequence[float]


class RateRow:
    """The rates at one size: what a gallery keeps at hand while its size stays."""

    def __init__(self, similarities: Sequence[float], value: _Row, low: _Row, high: _Row):
        self._value = _Line(similarities, value)
        self._low = _Line(similarities, low)
        self._high = _Line(similarities, high)

    def fpir(self, similarity: float) -> float:
        """Share of strangers whose best candidate reaches this similarity."""
        return _share(self._value.log_rate(similarity))

    def fpir_estimate(self, similarity: float) -> Estimate:
        """The same with its interval."""
        lines = (self._value, self._low, self._high)
        return Estimate(*(_share(line.log_rate(similarity)) for line in lines))

    def threshold(self, target_fpir: float) -> Estimate:
        """Similarity that a share of strangers of `target_fpir` reaches, 0 to 1 exclusive."""
        log_rate = log_rate_of(target_fpir)
        lines = (self._value, self._low, self._high)
        value, low, high = (line.similarity(log_rate) for line in lines)
        # At the least rates of a table its lines may all be flat, and end as they like.
        return Estimate(value, min(low, value), max(high, value))


class RateTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rates on a grid. Made by engine.decision.estimator."""

    similarities: tuple[float, ...]
    """[t], rising."""
    sizes: tuple[float, ...]
    """[s], rising, from 1: identities searched."""
    log_rates: tuple[tuple[float, ...], ...]
    """[s][t] log(-log(1 - FPIR)), falling along similarities and rising along sizes."""
    low: tuple[tuple[float, ...], ...]
    """[s][t], lower bound of its interval."""
    high: tuple[tuple[float, ...], ...]
    """[s][t], upper bound."""

    def __post_init__(self) -> None:
        """Refuse a table of no use, as a file damaged by hand may hold. Raises ValueError."""
        shape = (len(self.sizes), len(self.similarities))
        for rows in (self.log_rates, self.low, self.high):
            if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
                raise ValueError(f"a rate table must hold {shape[0]} rows of {shape[1]} values")
            # NaN is not within.
            if not all(abs(value) <= LOG_RATE_BOUND for row in rows for value in row):
                raise ValueError(f"a rate table must hold finite values, none beyond {LOG_RATE_BOUND:g}")
            if any(after > before for row in rows for before, after in itertools.pairwise(row)):
                raise ValueError("the rates of a table must not rise with the similarity")
        if min(shape) < 2 or self.sizes[0] < 1.0:
            raise ValueError("a rate table must hold two sizes or more, from 1 on, and two similarities")
        for axis in (self.sizes, self.similarities):
            if any(after <= before for before, after in itertools.pairwise(axis)):
                raise ValueError("sizes and similarities of a rate table must rise")
        if max(map(abs, self.similarities)) > SIMILARITY_BOUND:
            raise ValueError(f"similarities of a rate table must lie within {SIMILARITY_BOUND:g}")

    def at(self, size: float) -> RateRow:
        """Give the rates among so many identities, 1 at least.

        Beyond the last size they go on as between the last two. Raises InvalidInputError.
        """
        if not (math.isfinite(size) and size >= 1.0):
            raise InvalidInputError(f"size is {size}: give the number of identities searched, 1 or more")
        right = min(max(1, bisect.bisect_left(self.sizes, size)), len(self.sizes) - 1)
        start, end = math.log(self.sizes[right - 1]), math.log(self.sizes[right])
        share = max(0.0, (math.log(size) - start) / (end - start))

        def between(rows: tuple[tuple[float, ...], ...]) -> list[float]:
            pairs = zip(rows[right - 1], rows[right], strict=True)
            return [before + share * (after - before) for before, after in pairs]

        return RateRow(self.similarities, between(self.log_rates), between(self.low), between(self.high))

    def fpir(self, similarity: float, size: float) -> float:
        """Share of strangers whose best candidate among `size` identities reaches this similarity."""
        return self.at(size).fpir(similarity)

    def threshold(self, target_fpir: float, size: float) -> Estimate:
        """Similarity that a share of strangers of `target_fpir` reaches among `size` identities."""
        return self.at(size).threshold(target_fpir)


def log_rate_of(fpir: float) -> float:
    """log(-log(1 - FPIR)) of a rate, 0 to 1 exclusive. Raises InvalidInputError."""
    if not 0.0 < fpir < 1.0:
        raise InvalidInputError(f"a target rate is {fpir}: give a share above 0 and below 1, such as 0.001")
    return math.log(-math.log1p(-fpir))


def _share(log_rate: float) -> float:
    return -math.expm1(-math.exp(min(log_rate, 700.0)))
