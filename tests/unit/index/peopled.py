"""Generations of drawn people, and their nearest others by the obvious way."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.index.build import build
from engine.index.generation import Generation
from engine.types import Columns, Vectors
from tests.contract.naive import unit_vectors

DIMENSION = 32
LIMIT = 5_000
Wide = NDArray[np.float64]


def made(folder: Path, vectors: Vectors, identities: NDArray[np.uint64], *, flat: bool = True) -> Generation:
    """A generation whose template ids are twice its rows."""
    columns = Columns(2 * np.arange(len(vectors), dtype=np.uint64), identities, vectors)
    flat_rows_max = LIMIT if flat else 0
    return build(folder, columns, number=1, sequence=1, contract_digest="digest", flat_rows_max=flat_rows_max)


def people(
    num_identities: int, seed: int, counts: tuple[int, ...] = (1,)
) -> tuple[Vectors, NDArray[np.uint64]]:
    """Templates of so many identities near one direction each, of `counts` by turns, in random order."""
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(num_identities), np.resize(counts, num_identities)).astype(np.uint64)
    numbers = rng.permutation(numbers)
    wide = unit_vectors(rng, num_identities, DIMENSION)[numbers]
    wide = wide + 0.5 * unit_vectors(rng, len(numbers), DIMENSION)
    vectors = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors, np.float32), numbers + np.uint64(70)


def oracle(
    generation: Generation, rows: NDArray[np.int64], wanted: int, is_alive: NDArray[np.bool_] | None = None
) -> Wide:
    """Similarities float64[r, wanted] to the nearest other identities, by the obvious way."""
    wide = generation.vectors.astype(np.float64)
    numbers = generation.identity_numbers
    living = np.arange(len(wide)) if is_alive is None else np.flatnonzero(is_alive)
    found = np.full((len(rows), wanted), -math.inf)
    for place, row in enumerate(rows):
        best: dict[int, float] = {}
        for other, similarity in zip(living, wide[living] @ wide[row], strict=True):
            number = int(numbers[other])
            if number != numbers[row]:
                best[number] = max(best.get(number, -math.inf), float(similarity))
        nearest = sorted(best.values(), reverse=True)[:wanted]
        found[place, : len(nearest)] = nearest
    return found
