"""Rates of false positive identification from the similarities of people who are all different.

::

    one picture a person, each a stranger to all others:   similarities [n, n]
    N < n      FPIR(N, T), exact over all random galleries of N of the others: a probe with c of them at or
               above T meets none with the share C(n-1-c, N) / C(n-1, N)
    T above the 90 % quantile of the leave-one-out tops:   their generalised Pareto tail
    N >= n     h = -log(1 - FPIR) grows as N^b, b measured between half of the people and all, at most 1

The interval is that of a bootstrap over people, each drawn both as a stranger and as one of the gallery.

Not done: multiplying the tail of single pairs, 1 - (1 - p)^N. People differ in how many look like them, so
pairs are not independent, and on LFW that gave 0.62 of the target. Knows nothing of pictures and galleries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike, NDArray

from engine.config import Settings
from engine.decision import tails
from engine.decision.calibration import Span, Tail
from engine.decision.rates import SIMILARITY_MAX, RateTable
from engine.errors import InvalidInputError

PEOPLE_MIN = 120
"""Fewer may leave less than ten exceedances to a tail: two who are nearest to each other tie."""
PEOPLE_MAX = 20_000
"""More would take more than 3 GB for their similarities: give a part of them."""
LEVEL = 0.95
"""Of all intervals."""
_LOG_RATE_MIN = -20.0
"""Lowest value of a table: one false alarm in 500 million."""
_LOG_RATE_MAX = math.log(30.0)
"""Highest value: nobody escapes."""
_PAIR_SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002)
"""Shares of pairs at whose similarities the lower grid lies."""
_NUM_UPPER = 22
"""Points of the grid from the lowest tops to the tail, and again as many in the tail."""
_NUM_SIZES = 12
_BEYOND = (4.0, 30.0, 1e3, 1e6)
"""Sizes beyond the people, as multiples: between them the logarithms are straight."""
_NEIGHBOURS_KEPT = 48
"""Of each person, in order to find the top among those drawn: each is drawn with a share of 63 %."""
_BLOCK = 512
"""Rows compared at once."""

Floats = NDArray[np.float64]
Counts = NDArray[np.float32]


class EstimatorSettings(Settings, frozen=True, kw_only=True):
    """How intervals are made."""

    num_resamples: Annotated[int, Meta(ge=20)] = 200
    """Of people."""
    seed: Annotated[int, Meta(ge=0)] = 0


@dataclass(frozen=True, slots=True)
class Estimated:
    """What similarities among different people tell."""

    table: RateTable
    tail: Tail
    growth: Span
    """Exponent b."""


def check_people(num_people: int, target_fpir: float | None = None) -> None:
    """Raise InvalidInputError where so many people cannot be calibrated on, for this target where given."""
    needed = max(PEOPLE_MIN, math.ceil(1.0 / target_fpir) if target_fpir else 0)
    if num_people < needed:
        of_target = f" for FPIR {target_fpir:g} (ten times as many to rely on it)" if target_fpir else ""
        raise InvalidInputError(
            f"{num_people:,} people to calibrate on: at least {needed:,} are needed{of_target}"
        )
    if num_people > PEOPLE_MAX:
        raise InvalidInputError(f"{num_people:,} people to calibrate on: give {PEOPLE_MAX:,} at most")


def estimate(
    similarities: ArrayLike,
    settings: EstimatorSettings = EstimatorSettings(),  # noqa: B008 - frozen
) -> Estimated:
    """Estimate the rates from similarities float[n, n]: of person i's probe with person j's template.

    The diagonal is ignored. All must be different people. Raises InvalidInputError.
    """
    matrix = _checked(similarities)
    sizes, tops = _sizes(len(matrix)), matrix.max(axis=1).astype(np.float64)
    tail = tails.fit_tail(tops, seed=settings.seed)
    grid = _grid(matrix, tops, tail)
    draws = draw_people(len(matrix), settings)
    log_rates = _counted(matrix, grid, sizes, draws)
    of_draws = [tail, *_tails_of_draws(matrix, draws)]
    return assembled(
        log_rates, grid, sizes, [None if one is None else [one] * len(sizes) for one in of_draws]
    )


def assembled(
    log_rates: Floats,
    grid: Floats,
    sizes: Floats,
    of_draws: Sequence[Sequence[Tail] | None],
    *,
    is_rising: bool = True,
) -> Estimated:
    """Make a table of counted log h float64[draws, s, t] and each draw's tails of the tops, one a size.

    The first draw is everybody once; a draw without a tail is passed over. `sizes` float64[s] end with half
    of the others and all of them. `is_rising` makes sure that rates do not fall with the size, as those
    of corrected similarities may.
    """
    of_all = of_draws[0]
    if of_all is None:
        raise InvalidInputError("no tail could be fitted: give more people")
    value, growth = _completed(log_rates[0], grid, sizes, of_all, is_rising=is_rising)
    drawn = zip(log_rates[1:], of_draws[1:], strict=True)
    others = [
        _completed(rates, grid, sizes, one, is_rising=is_rising) for rates, one in drawn if one is not None
    ]
    if not others:
        raise InvalidInputError("no resample of these people has a tail: give more people")
    low, high = _bounds(value, np.stack([logs for logs, _ in others]), grid)
    growth_low, growth_high = growth + _spread(np.array([one for _, one in others]))
    table = RateTable(
        similarities=_plain(grid),
        sizes=_plain(np.concatenate([sizes, sizes[-1] * np.array(_BEYOND)])),
        log_rates=_rows(value),
        low=_rows(low),
        high=_rows(high),
    )
    return Estimated(table, of_all[-1], Span(growth, float(growth_low), min(1.0, float(growth_high))))


def _checked(similarities: ArrayLike) -> NDArray[np.float32]:
    matrix = np.array(similarities, np.float32)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InvalidInputError(f"similarities have shape {matrix.shape}: give one row and column a person")
    check_people(len(matrix))
    np.fill_diagonal(matrix, -np.inf)
    if np.isnan(matrix).any() or np.isposinf(matrix).any():
        raise InvalidInputError("similarities hold NaN or infinity: leave out people without a template")
    return matrix


def _sizes(num: int) -> Floats:
    """From 1 to all others; the last but one is half of the last, where growth is measured from."""
    others = num - 1
    steps = np.unique(np.round(np.geomspace(1, others // 2, _NUM_SIZES)))
    return np.append(steps, float(others)).astype(np.float64)


def _grid(matrix: NDArray[np.float32], tops: Floats, tail: Tail) -> Floats:
    """Similarities that the table has a column for: dense where the tops lie."""
    rows = matrix[: max(2, 2**22 // len(matrix))]
    pairs = np.sort(rows[np.isfinite(rows)])[::-1]
    of_pairs = pairs[[int(share * (len(pairs) - 1)) for share in _PAIR_SHARES]]
    start = float(np.quantile(tops, 0.02))
    end = min(SIMILARITY_MAX, max(tails.end_of(tail, math.log(1e-6)), float(tops.max())))
    middle = min(tail.start, end)
    upper = np.concatenate([np.linspace(start, middle, _NUM_UPPER), np.linspace(middle, end, _NUM_UPPER)[1:]])
    grid = np.unique(np.concatenate([of_pairs[of_pairs < start], upper]).round(6))
    if len(grid) < 2:
        raise InvalidInputError("all similarities are equal: these templates tell nobody apart")
    return grid


def draw_people(num: int, settings: EstimatorSettings) -> Counts:
    """How often each person counts: float32[n, 1 + resamples], first everybody once, then each resample."""
    rng = np.random.default_rng(settings.seed)
    counts = rng.multinomial(num, np.full(num, 1.0 / num), size=settings.num_resamples).T
    return np.concatenate([np.ones((num, 1)), counts], axis=1).astype(np.float32)


def _counted(matrix: NDArray[np.float32], grid: Floats, sizes: Floats, draws: Counts) -> Floats:
    """Log h float64[draws, s, t] by counting, without any tail."""
    spared = _spared(len(matrix), sizes)
    rates = np.empty((draws.shape[1], len(sizes), len(grid)))
    for column, similarity in enumerate(grid.astype(np.float32)):
        reached = np.concatenate(
            [
                (matrix[start : start + _BLOCK] >= similarity).astype(np.float32) @ draws
                for start in range(0, len(matrix), _BLOCK)
            ]
        )
        # Drawn more than once, somebody may meet more than there are others.
        counts = np.minimum(reached, len(matrix) - 1).astype(np.int64)
        for number in range(draws.shape[1]):
            num_with = np.bincount(counts[:, number], weights=draws[:, number])
            rates[number, :, column] = num_with @ spared[: len(num_with)] / num_with.sum()
    return log_rates_of(rates)


def log_rates_of(spared: Floats) -> Floats:
    """Log h of the shares of strangers that reach nobody, within what a table holds."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(-np.log(np.minimum(spared, 1.0))), _LOG_RATE_MIN, _LOG_RATE_MAX)


def _spared(num: int, sizes: Floats) -> Floats:
    """Chance float64[c, s] that none of c of n - 1 others is among N drawn: C(n-1-c, N) / C(n-1, N)."""
    others = num - 1
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num + 1)))])
    left = others - np.arange(num)
    chances = np.zeros((num, len(sizes)))
    for column, size in enumerate(sizes.astype(np.int64)):
        is_possible = left >= size
        rest = left[is_possible]
        logs = log_factorial[rest] - log_factorial[rest - size]
        chances[is_possible, column] = np.exp(logs - log_factorial[others] + log_factorial[others - size])
    return chances


def _tails_of_draws(matrix: NDArray[np.float32], draws: Counts) -> Iterator[Tail | None]:
    """The tail of the tops of each resample; None where it has none."""
    num_kept = min(_NEIGHBOURS_KEPT, len(matrix) - 1)
    nearest = np.concatenate(
        [
            np.argpartition(-matrix[start : start + _BLOCK], num_kept - 1, axis=1)[:, :num_kept]
            for start in range(0, len(matrix), _BLOCK)
        ]
    )
    values = np.take_along_axis(matrix, nearest, axis=1)
    order = np.argsort(-values, axis=1)
    nearest, values = np.take_along_axis(nearest, order, axis=1), np.take_along_axis(values, order, axis=1)
    people = np.arange(len(matrix))
    for weights in draws.T[1:]:
        tops = values[people, np.argmax(weights[nearest] > 0, axis=1)]
        try:
            yield tails.fit_tail(tops, weights, num_min=tails.EXCEEDANCES_DRAWN_MIN)
        except InvalidInputError:
            yield None


def _completed(
    log_rates: Floats, grid: Floats, sizes: Floats, of_sizes: Sequence[Tail], *, is_rising: bool
) -> tuple[Floats, float]:
    """Log h [s and beyond, t] with its tails above and its growth beyond the people; and that growth."""
    whole = log_rates.copy()
    for row, tail in zip(whole, of_sizes, strict=True):
        at_start, is_tail = np.interp(tail.start, grid, row), grid > tail.start
        row[is_tail] = at_start + np.maximum(tails.log_survival(tail, grid[is_tail]), _LOG_RATE_MIN)
    before, last = (np.interp(of_sizes[-1].start, grid, row) for row in whole[-2:])
    least = 0.0 if is_rising else -1.0
    growth = min(1.0, max(least, float(last - before) / math.log(sizes[-1] / sizes[-2])))
    multiples = np.log(_BEYOND)
    # Rates that fell with the size, as corrected ones may, are not taken to fall beyond the first of them.
    multiples = multiples if growth >= 0.0 else np.full(len(multiples), multiples[0])
    beyond = whole[-1] + growth * multiples[:, None]
    whole = np.concatenate([whole, beyond])
    # Where counting and tail meet there may be a step the wrong way.
    falling = np.minimum.accumulate(whole, axis=1)
    if is_rising:
        falling = np.maximum.accumulate(falling, axis=0)
    return np.clip(falling, _LOG_RATE_MIN, _LOG_RATE_MAX), growth


def _bounds(value: Floats, drawn: Floats, grid: Floats) -> tuple[Floats, Floats]:
    """Lower and upper log h [s, t] around a value [s, t], given those of resamples [draws, s, t].

    By how far apart their thresholds lie, for rates may be 0 beyond the end of a tail.
    """
    bounds = np.empty((2, *value.shape))
    for size, rates in enumerate(value):
        thresholds = np.array([np.interp(rates, one[::-1], grid[::-1]) for one in drawn[:, size]])
        for bound, shift in zip(bounds, _spread(thresholds), strict=True):
            bound[size] = np.interp(grid, np.maximum.accumulate(grid + shift), rates)
    return np.minimum(bounds[0], value), np.maximum(bounds[1], value)


def _spread(drawn: Floats) -> Floats:
    """How far the ends of the interval of resamples [draws, ...] lie from their middle: [2, ...].

    Not their own quantiles: who is drawn twice is no second look-alike, so tops of resamples are lower.
    """
    low, middle, high = np.quantile(drawn, [(1.0 - LEVEL) / 2.0, 0.5, (1.0 + LEVEL) / 2.0], axis=0)
    return np.stack([low - middle, high - middle])


def _rows(logs: Floats) -> tuple[tuple[float, ...], ...]:
    falling = np.clip(np.minimum.accumulate(logs, axis=1), _LOG_RATE_MIN, _LOG_RATE_MAX)
    return tuple(_plain(row) for row in falling)


def _plain(values: Floats) -> tuple[float, ...]:
    """Six digits behind the point are far beyond what is known, and keep files small."""
    return tuple(values.round(6).tolist())
