"""Several searchers timed side by side: alternating rounds, percentiles, and the smallest setting that does.

Pure but for the clock. Knows no library.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.truth import Rows
from engine.types import Vectors

K = 10
BATCH = 64
WARM_UP = 3
"""Probes not timed at the beginning of a turn: the one before had the caches."""
PROBES_PER_TURN_MIN = 3

Search = Callable[[Vectors, int], Rows]


@dataclass
class Timings:
    """What one searcher took."""

    single_ms: list[float] = field(default_factory=list)
    """One probe a call."""
    batch_s: list[float] = field(default_factory=list)
    """BATCH probes a call."""

    def p_ms(self, percent: float) -> float:
        """Percentile of single searches, milliseconds."""
        return float(np.percentile(self.single_ms, percent))

    @property
    def batch_qps(self) -> float:
        """Probes a second in batches, by the median batch."""
        return BATCH / float(np.median(self.batch_s))


@dataclass(frozen=True)
class Rounds:
    """How much is timed."""

    num: int = 20
    probes_per_turn: int = 30
    turn_s_max: float = 0.6
    """A slow searcher gets fewer probes a turn than a quick one."""


def alternate(
    searches: Mapping[str, Search],
    probes: Vectors,
    rounds: Rounds,
    progress: Callable[[int, int], object] = lambda _done, _num: None,
) -> dict[str, Timings]:
    """Time each searcher in every round, each round beginning with the next one.

    `probes` float32[m, d], at least BATCH of them, are taken in order, again and again; all searchers see the
    same ones in the same round.
    """
    timings = {name: Timings() for name in searches}
    names = list(searches)
    for round_ in range(rounds.num):
        turn = round_ % len(names)
        first = round_ * rounds.probes_per_turn
        for name in names[turn:] + names[:turn]:
            _take_turn(searches[name], timings[name], probes, first, rounds)
        progress(round_ + 1, rounds.num)
    return timings


def _take_turn(search: Search, timings: Timings, probes: Vectors, first: int, rounds: Rounds) -> None:
    def probe(number: int) -> Vectors:
        row = number % len(probes)
        return probes[row : row + 1]

    for number in range(WARM_UP):
        search(probe(first - 1 - number), K)
    end_s = time.perf_counter() + rounds.turn_s_max
    for number in range(rounds.probes_per_turn):
        if number >= PROBES_PER_TURN_MIN and time.perf_counter() > end_s:
            break
        one = probe(first + number)
        start_s = time.perf_counter()
        search(one, K)
        timings.single_ms.append((time.perf_counter() - start_s) * 1e3)
    batch = probes[(first + np.arange(BATCH)) % len(probes)]
    start_s = time.perf_counter()
    search(batch, K)
    timings.batch_s.append(time.perf_counter() - start_s)


def found_by(search: Search, probes: Vectors, k: int = K) -> Rows:
    """Rows int64[m, k] found for all probes, in batches."""
    blocks = [search(probes[start : start + BATCH], k) for start in range(0, len(probes), BATCH)]
    return np.concatenate(blocks)


def smallest_that(settings: Sequence[int], reaches: Callable[[int], bool]) -> int | None:
    """The first setting that reaches, where every later one does, too; None where the last does not.

    Looks at about log2 of them: the later ones take longest.
    """
    low, high = 0, len(settings)
    while low < high:
        middle = (low + high) // 2
        if reaches(settings[middle]):
            high = middle
        else:
            low = middle + 1
    return settings[low] if low < len(settings) else None
