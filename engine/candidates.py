"""From a gallery's question to the k best identities. Knows no thresholds and no pictures.

::

    default     the snapshot's search for R rows; R is doubled until they are of k identities
    exact       every row at or above the k-th similarity found: whoever is not among them cannot be better
    filter      few identities match: only their rows are compared; many: rows of others are passed over
    mean        candidates by their best templates, then the mean over all of each one's templates

An identity may hold several of the nearest templates, or have been removed since the snapshot: what counts is
what one view of the store says, and the similarities that engine.ranking makes of it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.errors import DeadlineError
from engine.index.delta import Found
from engine.index.search import Snapshot
from engine.ranking import Ranking, Rows, ranked, rounding
from engine.store.tables import Reader
from engine.types import Candidate, Fusion, SearchOptions, Vector, Vectors

ROWS_FETCHED_MIN = 100
"""Templates fetched for a probe at the least; 3 x k x templates of an average identity where that is more."""
ROWS_FETCHED_MAX = 16_384
"""Beyond this the candidates are found as for an exact search."""
FILTER_AMONG_MAX = 20_000
"""Of a question's `among_max`, where it says nothing else."""
MEAN_CANDIDATES = 4
"""Identities for each of the k asked for whose means are compared, those with the best templates."""
BLOCK_SIMILARITIES_MAX = 1 << 22
"""Similarities held at once, 4 bytes each: what more probes ask for is searched block by block."""
AMONG_FACTOR = 8
"""Identities compared one and all in about the time in which a search finds and passes over one row more."""
_MEANS_AT_ONCE = 256
"""Identities whose means are made in one go."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for each probe."""

    k: int
    now_ms: int
    """Unix time: whoever expired by then is no candidate."""
    options: SearchOptions = field(default_factory=SearchOptions)
    deadline: float | None = None
    """On the clock of time.monotonic, seconds; None: none."""
    among_max: int = FILTER_AMONG_MAX
    """Identities up to which those that match the filter are compared one and all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for one probe."""

    candidates: tuple[Candidate, ...] = ()
    """Best first; fewer than k only where there are no more."""
    is_exact: bool = True
    """Whether they are proven to be those of an exact scan."""
    num_identities: int = 0
    """Identities left to search after the filter; with several attributes at most so many."""


def best_identities(reader: Reader, snapshot: Snapshot, probes: Vectors, question: Question) -> list[Answer]:
    """The k best identities for each probe float32[n, d] of unit length, in order.

    Raises DeadlineError.
    """
    search = _Search(reader, snapshot, question)
    if not snapshot.num_alive or search.is_nobody_asked_for:
        return [Answer() for _ in probes]
    found = search.means(probes) if question.options.fusion is Fusion.MEAN else search.best(probes)
    return [Answer(answer.candidates, answer.is_exact, search.num_identities) for answer in found]


class _Search:
    """The work on one question, in one view of the store."""

    def __init__(self, reader: Reader, snapshot: Snapshot, question: Question):
        self._reader = reader
        self._snapshot = snapshot
        self._question = question
        self._state = reader.state()
        # The rarest attribute first: it rules out the most.
        counted = sorted((reader.num_having(*pair), pair) for pair in question.options.filter.items())
        self._attributes = [pair for _, pair in counted]
        self._num_having = counted[0][0] if counted else self._state.num_identities
        self._is_among = bool(self._attributes) and self._is_among_better()
        """Whether only the rows of the identities that match the filter are compared."""
        # Of an older snapshot's rows some may be gone: only the store knows.
        is_one_state = snapshot.sequence == self._state.sequence
        self._ranking = (
            Ranking(reader, question.now_ms, self._attributes, snapshot.vectors_of)
            if is_one_state
            else Ranking(reader, question.now_ms, self._attributes)
        )

    @property
    def is_nobody_asked_for(self) -> bool:
        """Whether no identity can be an answer."""
        return self._num_having == 0 or (self._is_among and not len(self._members))

    @property
    def num_identities(self) -> int:
        """Identities that may be an answer, at most."""
        return len(self._members) if self._is_among else self._num_having

    def _is_among_better(self) -> bool:
        if self._num_having > self._question.among_max:
            return False
        # Where a search is exact in any case it is the better choice once it fetches far fewer rows.
        num_fetched = self._num_rows(self._question.k, is_passing_over=True)
        return not self._snapshot.is_exact or self._num_having <= AMONG_FACTOR * num_fetched

    @functools.cached_property
    def _members(self) -> NDArray[np.uint64]:
        """Numbers of the identities that match the filter, ascending."""
        numbers = self._reader.having(*self._attributes[0])
        for pair in self._attributes[1:]:
            if not len(numbers):
                break
            numbers = np.intersect1d(numbers, self._reader.having(*pair), assume_unique=True)
        return numbers

    def best(self, probes: Vectors) -> list[Answer]:
        """By the best template of each identity."""
        k = self._question.k
        answers = self._nearest(probes, k)
        if self._question.options.exact:
            return [self._proven(probe, answer, k) for probe, answer in zip(probes, answers, strict=True)]
        return answers

    def means(self, probes: Vectors) -> list[Answer]:
        """By the mean over the templates of each identity."""
        k = self._question.k
        wanted = MEAN_CANDIDATES * k
        return [
            self._fused(probe, nearest, wanted)
            for probe, nearest in zip(probes, self._nearest(probes, wanted), strict=True)
        ]

    def _fused(self, probe: Vector, nearest: Answer, wanted: int) -> Answer:
        k = self._question.k
        means = ranked(self._ranking.means(probe[None], nearest.candidates), k)
        # A mean is at most the best: nobody outside can be better than the last one inside.
        is_whole = len(nearest.candidates) < wanted
        is_proven = nearest.is_exact and (
            is_whole or (len(means) == k and means[-1].similarity > nearest.candidates[-1].similarity)
        )
        if is_proven or not self._question.options.exact:
            return Answer(means, is_proven)
        rows = self._rows_at_least(probe, _floor(means, k, rounding(len(probe))))
        (everybody,) = self._ranking.best(probe[None], [rows], len(rows[0]))
        best: tuple[Candidate, ...] = ()
        for start in range(0, len(everybody), _MEANS_AT_ONCE):
            if len(best) == k and everybody[start].similarity < best[-1].similarity:
                break
            self._check_time()
            some = self._ranking.means(probe[None], everybody[start : start + _MEANS_AT_ONCE])
            best = ranked([*best, *some], k)
        return Answer(best, is_exact=True)

    def _nearest(self, probes: Vectors, k: int) -> list[Answer]:
        """By the best template of each identity, as the snapshot's own search finds them."""
        num_all = self._snapshot.num_rows
        answers = [Answer()] * len(probes)
        waiting = list(range(len(probes)))
        num_rows = self._num_rows(k, is_passing_over=bool(self._attributes) and not self._is_among)
        is_last = False
        while waiting and not is_last:
            asked = min(num_rows, num_all)
            is_last = asked == num_all or 2 * num_rows > ROWS_FETCHED_MAX
            incomplete: list[int] = []
            size = max(1, BLOCK_SIMILARITIES_MAX // max(asked, self._snapshot.delta.num_rows))
            for start in range(0, len(waiting), size):
                block = waiting[start : start + size]
                for probe, answer, is_complete in self._search_block(probes, block, asked, k):
                    answers[probe] = answer
                    if not is_complete:
                        incomplete.append(probe)
            waiting = incomplete
            num_rows *= 2
        for probe in waiting:
            answers[probe] = self._proven(probes[probe], answers[probe], k)
        return answers

    def _num_rows(self, k: int, *, is_passing_over: bool) -> int:
        """Rows to fetch at first; `is_passing_over` those of identities that do not match the filter."""
        num_identities = max(1, self._state.num_identities)
        num_templates = max(num_identities, self._state.num_templates)
        num_rows = max(ROWS_FETCHED_MIN, 3 * k * math.ceil(num_templates / num_identities))
        if is_passing_over:
            num_rows = math.ceil(num_rows * num_identities / max(1, self._num_having))
        return min(num_rows, ROWS_FETCHED_MAX)

    def _search_block(
        self, probes: Vectors, block: Sequence[int], asked: int, k: int
    ) -> list[tuple[int, Answer, bool]]:
        """For each probe of the block what its nearest rows tell, and whether that is all."""
        self._check_time()
        some = probes[block]
        found = (
            self._snapshot.among(some, self._members, asked)
            if self._is_among
            else self._snapshot.search(some, asked)
        )
        is_exact = self._is_among or self._snapshot.is_exact
        is_all_fetched = is_exact and (
            found.similarities.shape[1] < asked or asked == self._snapshot.num_rows
        )
        enough = min(k, self.num_identities)
        bests = self._ranking.best(some, _rows_of(found), k)
        told = []
        for probe, best, similarities in zip(block, bests, found.similarities, strict=True):
            last = float(similarities[-1]) if len(similarities) else -math.inf
            is_complete = is_all_fetched or (is_exact and last == -math.inf)
            if not is_complete and len(best) >= enough:
                # Rows behind the last one could tie with the k-th, and ids decide between them.
                is_complete = last < best[-1].similarity - rounding(probes.shape[1])
            told.append((probe, Answer(best, is_exact and is_complete), is_complete))
        return told

    def _proven(self, probe: Vector, answer: Answer, k: int) -> Answer:
        """The k best identities for sure, given k that are good or fewer."""
        if answer.is_exact:
            return answer
        rows = self._rows_at_least(probe, _floor(answer.candidates, k, rounding(len(probe))))
        return Answer(self._ranking.best(probe[None], [rows], k)[0], is_exact=True)

    def _rows_at_least(self, probe: Vector, floor: float) -> Rows:
        """Every row of the identities asked for with this similarity or more, best first."""
        self._check_time()
        if self._attributes and (self._is_among or floor == -math.inf):
            found = self._snapshot.among(probe[None], self._members, self._snapshot.num_rows)
        else:
            found = self._snapshot.at_least(probe, floor)
        (rows,) = _rows_of(found)
        return rows

    def _check_time(self) -> None:
        deadline = self._question.deadline
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineError("the time was up before the search ended")


def _floor(best: Sequence[Candidate], k: int, margin: float) -> float:
    """Similarity that whoever is to be one of the k best must reach, given k that are good or fewer."""
    return best[-1].similarity - margin if len(best) == k else -math.inf


def _rows_of(found: Found) -> list[Rows]:
    return list(zip(found.similarities, found.template_ids, found.identity_numbers, strict=True))
