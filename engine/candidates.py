"""From nearest templates to the k best identities. Knows no thresholds and no pictures.

An identity may hold several of the nearest templates, or have been removed since the snapshot: rows are
fetched and doubled until k identities are there.
"""

from __future__ import annotations

import time
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.errors import DeadlineError
from engine.index.search import Found, Snapshot
from engine.store.changes import live_identity
from engine.store.gallery_store import GalleryStore
from engine.store.tables import Reader
from engine.types import Candidate, Vector, Vectors
from engine.vectors import similarity

ROWS_FETCHED_MIN = 300
"""Templates fetched for a probe at the least; 3 x k x templates per identity where that is more."""
ROWS_FETCHED_MAX = 16_384
"""Beyond this all templates are fetched."""
BLOCK_SIMILARITIES_MAX = 1 << 22
"""Similarities held at once, 4 bytes each: what more probes ask for is searched block by block."""
ROUNDING_MAX = 1e-5
"""Most by which two float32 similarities of a scan can stand in the wrong order. Equal vectors differ in the
last bits by where they lie and how many probes come along: candidates are compared again in float64."""

_Rows: TypeAlias = tuple[NDArray[np.float32], NDArray[np.uint64], NDArray[np.uint64]]
"""Similarities, template ids and identity numbers of one probe's nearest templates, best first."""


def best_identities(
    store: GalleryStore,
    snapshot: Snapshot,
    probes: Vectors,
    k: int,
    templates_max: int,
    deadline: float | None,
) -> list[tuple[Candidate, ...]]:
    """The k nearest identities of each probe float32[n, d], best first; fewer only where there are no more.

    `templates_max` is the most templates that one identity may have. Raises DeadlineError.
    """
    answers: list[tuple[Candidate, ...]] = [() for _ in probes]
    if not snapshot.num_alive:
        return answers
    num_all = snapshot.num_rows
    num_rows = max(ROWS_FETCHED_MIN, 3 * templates_max * k)
    waiting = list(range(len(probes)))
    while waiting:
        num_rows = num_rows if num_rows <= ROWS_FETCHED_MAX else num_all
        incomplete: list[int] = []
        size = max(1, BLOCK_SIMILARITIES_MAX // max(num_rows, snapshot.delta.num_rows))
        for start in range(0, len(waiting), size):
            block = waiting[start : start + size]
            found = snapshot.search(probes[block], min(num_rows, num_all))
            bests = _best_of_block(store, probes[block], found, k, deadline, is_all=num_rows >= num_all)
            for row, best in zip(block, bests, strict=True):
                if best is None:
                    incomplete.append(row)
                else:
                    answers[row] = best
        waiting = incomplete
        num_rows *= 2
    return answers


def _best_of_block(
    store: GalleryStore, probes: Vectors, found: Found, k: int, deadline: float | None, *, is_all: bool
) -> list[tuple[Candidate, ...] | None]:
    """The k best identities of each probe; None where more rows must be fetched to know."""
    bests: list[tuple[Candidate, ...] | None] = []
    with store.read() as reader:
        now_ms = store.now_ms()
        # Housekeeping removes who expired within seconds: mostly there is nobody to look out for.
        expired_at = now_ms if reader.expired(now_ms, 1) else None
        enough = min(k, reader.state().num_identities)
        rows = zip(found.similarities, found.template_ids, found.identity_numbers, strict=True)
        for probe, of_probe in zip(probes, rows, strict=True):
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineError("the time was up before the search ended")
            best = _best(reader, probe, of_probe, k, expired_at, is_all=is_all)
            is_complete = best is not None and (is_all or len(best) >= enough)
            bests.append(best if is_complete else None)
    return bests


def _best(
    reader: Reader,
    probe: Vector,
    found: _Rows,
    k: int,
    expired_at: int | None,
    *,
    is_all: bool,
) -> tuple[Candidate, ...] | None:
    """The k best identities among one probe's rows.

    None where rows that were not fetched could belong to one of the k best; never where `is_all`.
    """
    similarities, template_ids, identity_numbers = found
    num_found = int(np.searchsorted(-similarities, np.inf))
    names: dict[int, str | None] = {}
    best: dict[int, Candidate] = {}
    scanned: dict[int, float] = {}
    """What the scan gave for the first row of each identity in `best`: descending."""
    floor = -np.inf
    for row in range(num_found):
        value, number = float(similarities[row]), int(identity_numbers[row])
        if value < floor:
            break
        if number in best and value < scanned[number] - ROUNDING_MAX:
            continue
        if number not in names:
            names[number] = _living(reader, number, expired_at)
        identity_id, template_id = names[number], int(template_ids[row])
        template = reader.template(template_id) if identity_id is not None else None
        if identity_id is None or template is None:  # removed since the snapshot, or expired
            continue
        candidate = Candidate(identity_id, similarity(probe, template.vector), template_id)
        if number not in best:
            best[number], scanned[number] = candidate, value
            floor = value - ROUNDING_MAX if len(best) == k else floor
        elif candidate.similarity > best[number].similarity:
            best[number] = candidate
    # Ids decide between equal similarities by their bytes, as everywhere that identities are ordered.
    ranked = sorted(best.values(), key=lambda one: (-one.similarity, one.identity_id.encode()))[:k]
    if not is_all and len(ranked) == k and similarities[-1] >= ranked[-1].similarity - ROUNDING_MAX:
        return None
    return tuple(ranked)


def _living(reader: Reader, identity_number: int, expired_at: int | None) -> str | None:
    identity_id = reader.identity_id(identity_number)
    if identity_id is None or expired_at is None:
        return identity_id
    return identity_id if live_identity(reader, identity_id, expired_at) else None
