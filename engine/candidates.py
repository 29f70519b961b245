"""From nearest templates to the k best identities. Knows no thresholds and no pictures.

An identity may hold several of the nearest templates, or have been removed since the snapshot: rows are
fetched and doubled until k identities are there.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from engine.errors import DeadlineError
from engine.index.search import Snapshot
from engine.store.changes import live_identity
from engine.store.gallery_store import GalleryStore
from engine.store.tables import Reader
from engine.types import Candidate, Vectors

ROWS_FETCHED_MIN = 300
"""Templates fetched for a probe at the least; 3 x k x templates per identity where that is more."""
ROWS_FETCHED_MAX = 16_384
"""Beyond this all templates are fetched."""


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
    if not snapshot.num_alive or not len(probes):
        return [() for _ in probes]
    num_all = snapshot.delta.num_rows + (snapshot.generation.num_rows if snapshot.generation else 0)
    num_rows = max(ROWS_FETCHED_MIN, 3 * templates_max * k)
    while True:
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineError("the time was up before the search ended")
        num_rows = num_rows if num_rows <= ROWS_FETCHED_MAX else num_all
        found = snapshot.search(probes, min(num_rows, num_all))
        with store.read() as reader:
            now_ms = store.now_ms()
            # Housekeeping removes who expired within seconds: mostly there is nobody to look out for.
            expired_at = now_ms if reader.expired(now_ms, 1) else None
            answers = [
                _best(reader, row, k, expired_at, is_all=num_rows >= num_all)
                for row in zip(found.similarities, found.template_ids, found.identity_numbers, strict=True)
            ]
            num_identities = reader.state().num_identities
        complete = [
            answer for answer in answers if answer is not None and len(answer) >= min(k, num_identities)
        ]
        if num_rows >= num_all or len(complete) == len(answers):
            return [answer or () for answer in answers]
        num_rows *= 2


def _best(
    reader: Reader,
    found: tuple[NDArray[np.float32], NDArray[np.uint64], NDArray[np.uint64]],
    k: int,
    expired_at: int | None,
    *,
    is_all: bool,
) -> tuple[Candidate, ...] | None:
    """The k best identities among one probe's rows (similarities, template ids, identity numbers).

    None where rows that were not fetched could tie with the k-th; never where `is_all`.
    """
    similarities, template_ids, identity_numbers = found
    num_found = int(np.searchsorted(-similarities, np.inf))
    _, firsts = np.unique(identity_numbers[:num_found], return_index=True)
    firsts.sort()
    candidates: list[Candidate] = []
    for row in firsts:
        value = float(np.clip(similarities[row], -1.0, 1.0))
        if len(candidates) >= k and value < candidates[k - 1].similarity:
            break
        identity_id = reader.identity_id(int(identity_numbers[row]))
        if identity_id is None:  # removed since the snapshot
            continue
        if expired_at is None or live_identity(reader, identity_id, expired_at):
            candidates.append(Candidate(identity_id, value, int(template_ids[row])))
    if not is_all and len(candidates) >= k and similarities[-1] >= candidates[k - 1].similarity:
        return None
    # Ids decide between equal similarities by their bytes, as everywhere that identities are ordered.
    candidates.sort(key=lambda candidate: (-candidate.similarity, candidate.identity_id.encode()))
    return tuple(candidates[:k])
