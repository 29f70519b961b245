"""From one view of a gallery to its answers: who it may be, corrected by crowding, and what that means.

The search itself is in engine.candidates, thresholds are in engine.thresholds. The crowding correction
(engine.decision.crowding) is by definition one of the best 32 by plain similarity: whoever stands behind them
keeps the place, and does not change the decision, however many candidates are asked for. How crowded a
candidate stands is as the generation was built; one enrolled since is taken to stand as the probe does.
Knows nothing of pictures and the wire.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from engine.candidates import Answer, Question, best_identities
from engine.decision.crowding import CANDIDATES, NEIGHBOURS
from engine.decision.policy import decide
from engine.errors import PreconditionError
from engine.index.search import Snapshot
from engine.store import changes
from engine.store.tables import Reader
from engine.thresholds import Judgement, Population, Thresholds, curve_of
from engine.types import (
    Candidate,
    Fusion,
    GallerySettings,
    Identification,
    SearchOptions,
    Vector,
    Vectors,
    Verification,
)
from engine.vectors import similarity


@dataclass(frozen=True, slots=True)
class Request:
    """How probes are to be searched for and judged."""

    k: int
    options: SearchOptions
    threshold: float | None
    """Of this request; None: the gallery's."""
    now_ms: int
    """Unix time."""
    deadline: float | None
    """On the clock of time.monotonic, seconds; None: none."""


def identify(
    view: tuple[Reader, Snapshot],
    thresholds: Thresholds,
    settings: GallerySettings,
    probes: Vectors,
    request: Request,
) -> list[Identification]:
    """Answer each probe float32[n, d] of unit length, in order; `settings` are the gallery's.

    Raises DeadlineError, PreconditionError where a target rate is to be met without a calibration.
    """
    (reader, snapshot), options = view, request.options
    population = population_of(reader, snapshot)
    is_plain = options.fusion is Fusion.MAX and not options.filter and request.threshold is None
    is_corrected = is_plain and thresholds.is_corrected(settings, population)
    if request.threshold is None and settings.target_fpir is not None:
        # A search that could not be judged is not made.
        thresholds.need(curve_of(options.fusion, is_corrected=is_corrected), "target_fpir")
    question = Question(
        _num_wanted(request.k, settings, is_corrected=is_corrected), request.now_ms, options, request.deadline
    )
    answers = best_identities(reader, snapshot, probes, question)
    # Of an older snapshot's rows the view may miss some: nothing is proven of a mixture of states.
    is_one_state = snapshot.sequence == reader.state().sequence
    judged = Judge(thresholds, settings, population, request, is_corrected=is_corrected)
    return [judged.identification(answer, snapshot, is_one_state=is_one_state) for answer in answers]


def verify(
    reader: Reader, thresholds: Thresholds, probe: Vector, identity_id: str, request: Request
) -> Verification:
    """Compare a probe float32[d] with an identity's templates; the best one counts.

    Raises IdentityNotFoundError; PreconditionError where the identity has no templates, or a target_fmr is to
    be met without a calibration.
    """
    record = changes.need_identity(reader, identity_id, request.now_ms)
    _, templates = changes.describe(reader, identity_id, record)
    if not templates:
        raise PreconditionError(f"identity {identity_id[:80]!r} has no templates", hint="Enroll one first.")
    resolved, origin = thresholds.judge_verification(reader.settings(), len(templates), request.threshold)
    similarities = [similarity(probe, template.vector) for template in templates]
    best = int(np.argmax(similarities))
    decision = decide(similarities[best], resolved)
    template_id, sequence = templates[best].template_id, reader.state().sequence
    return Verification(decision, similarities[best], resolved, origin, template_id, sequence)


def population_of(reader: Reader, snapshot: Snapshot) -> Population:
    """Who is enrolled, in this view."""
    state = reader.state()
    return Population(state.num_identities, state.num_templates, snapshot.generation)


def corrected(candidates: Sequence[Candidate], snapshot: Snapshot, k: int) -> list[Candidate] | None:
    """The k best by the correction, with it, of candidates that are best first by plain similarity.

    None where fewer than 11 are given: the probe's own crowding is the mean of ranks 2 to 11. Those behind
    the best CANDIDATES stay as they are, and come after them.
    """
    if len(candidates) <= NEIGHBOURS:
        return None
    near = candidates[:CANDIDATES]
    of_probe = sum([one.similarity for one in near[1 : NEIGHBOURS + 1]]) / NEIGHBOURS
    crowding = snapshot.crowding_of(np.array([one.template_id for one in near], np.uint64)).tolist()
    rows = [
        (one.similarity - (of_probe + (of_probe if math.isnan(of_one) else of_one)) / 2.0, one)
        for one, of_one in zip(near, crowding, strict=True)
    ]
    rows.sort(key=_by_similarity, reverse=True)
    if any(before[0] == after[0] for before, after in pairwise(rows)):
        rows.sort(key=lambda row: (-row[0], row[1].identity_id.encode()))
    reordered = [
        Candidate(one.identity_id, one.similarity, one.template_id, value) for value, one in rows[:k]
    ]
    return [*reordered, *candidates[CANDIDATES:k]]


def _by_similarity(row: tuple[float, Candidate]) -> float:
    return row[0]


def _num_wanted(k: int, settings: GallerySettings, *, is_corrected: bool) -> int:
    """Identities to look for where k are asked for."""
    if is_corrected:
        return max(k, CANDIDATES)
    return max(k, 2) if settings.ambiguity else k


class Judge:
    """What the answers of one request mean."""

    def __init__(
        self,
        thresholds: Thresholds,
        settings: GallerySettings,
        population: Population,
        request: Request,
        *,
        is_corrected: bool,
    ):
        self._thresholds = thresholds
        self._settings = settings
        self._population = population
        self._request = request
        self._is_corrected = is_corrected

    def identification(self, answer: Answer, snapshot: Snapshot, *, is_one_state: bool) -> Identification:
        """The answer to one probe."""
        candidates: Sequence[Candidate] = answer.candidates
        # The second is needed to tell whether the best is ambiguous.
        reordered = corrected(candidates, snapshot, max(2, self._request.k)) if self._is_corrected else None
        judgement = self._judgement(answer.num_identities, is_corrected=reordered is not None)
        values = [one.similarity for one in candidates[:2]]
        if reordered is not None:
            candidates = reordered
            values = [one.similarity_corrected or 0.0 for one in reordered[:2]]
        best = values[0] if values else None
        return Identification(
            decide(
                best,
                judgement.threshold,
                second=values[1] if len(values) > 1 else None,
                review_threshold=judgement.review_threshold,
                ambiguity=self._settings.ambiguity,
            ),
            tuple(candidates[: self._request.k]),
            judgement.threshold,
            judgement.origin,
            snapshot.sequence,
            snapshot.num_alive,
            answer.is_exact and is_one_state,
            answer.num_identities,
            None if best is None else judgement.fpir(best),
            judgement.review_threshold,
        )

    def _judgement(self, num_left: int, *, is_corrected: bool) -> Judgement:
        request = self._request
        curve = curve_of(request.options.fusion, is_corrected=is_corrected)
        return self._thresholds.judge(self._settings, self._population, num_left, curve, request.threshold)
