"""How often the default search of a generation finds what an exact scan finds, on its own vectors.

Each probe is a template of the generation, and its own identity's templates do not count: what is measured is
the hard case, the search for somebody who is not enrolled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import DataFolderError
from engine.index.alive import without
from engine.index.build import replace_manifest
from engine.index.generation import Generation, Manifest, read_manifest
from engine.types import Agreement

_BEST = 10
_BLOCK_PROBES = 64
_ROUNDING = 1e-6
"""A row as similar as the exact one, but for what float32 makes of it, is as good."""


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """What a gallery's index is."""

    generation: int = 0
    """Number of the current generation; 0: none yet."""
    kind: str = ""
    """What it is, "flat" where its search is exact; empty: none yet."""
    agreement: Agreement | None = None
    """What was last measured of it; None: nothing."""
    search_device: str = "cpu"
    """Where this process searches it: "cpu", or the GPU, with how and in how much of its memory."""


def measure(
    generation: Generation,
    num_probes: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Agreement:
    """Search for `num_probes` of the generation's templates, or for all where there are fewer.

    `progress(done, total)` in probes. The exact scan is most of the time: a second
    for some 100 probes among a million templates.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(generation.num_rows)[:num_probes])
    num_first = num_found = num_wanted = num_searched = 0
    for start in range(0, len(chosen), _BLOCK_PROBES):
        rows = chosen[start : start + _BLOCK_PROBES]
        for found, exact in zip(_found(generation, rows), _exact(generation, rows), strict=True):
            if not len(exact):  # nobody else is there
                continue
            as_good = found[: len(exact)] >= exact[: len(found)] - _ROUNDING
            num_first += bool(as_good[:1].any())
            num_found += int((found >= exact[-1] - _ROUNDING).sum())
            num_wanted += len(exact)
            num_searched += 1
        progress(start + len(rows), len(chosen))
    if not num_searched:
        return Agreement(num_probes=0, top1=1.0, top10=1.0)
    return Agreement(num_probes=num_searched, top1=num_first / num_searched, top10=num_found / num_wanted)


def store_agreement(folder: Path, agreement: Agreement) -> Manifest:
    """Write it into the generation's manifest, at once and synced; returns the new manifest.

    Raises CorruptDataError, DataFolderError.
    """
    manifest = msgspec.structs.replace(read_manifest(folder), agreement=agreement)
    try:
        replace_manifest(folder, manifest)
    except OSError as error:
        raise DataFolderError(f"the agreement of generation {folder} could not be stored: {error}") from error
    return manifest


def _found(generation: Generation, rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Similarities of the best _BEST that the default search finds for each row, of other identities."""
    best = []
    for row in rows:
        own = generation.rows_of_identities(generation.identity_numbers[row : row + 1])
        alive = without(None, own, generation.num_rows)
        similarities, found = generation.search(generation.columns_of(row[None]).vectors, _BEST, alive)
        best.append(similarities[0][found[0] >= 0])
    return best


def _exact(generation: Generation, rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """As `_found`, from one exact scan for all rows."""
    numbers = generation.identity_numbers
    num_own = len(generation.rows_of_identities(np.unique(numbers[rows])))
    num_rows = min(_BEST + num_own, generation.num_rows)
    similarities, found = generation.scan(generation.columns_of(rows).vectors, num_rows, None)
    is_other = (found >= 0) & (numbers[found] != numbers[rows][:, None])
    return [values[wanted][:_BEST] for values, wanted in zip(similarities, is_other, strict=True)]
