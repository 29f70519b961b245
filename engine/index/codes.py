"""The codes behind the default search: which rows are worth comparing exactly.

Product codes by squared distance (never by inner product: real templates lie in a cone, where inner-product
codes lose a tenth of the nearest), in FAISS's FastScan layout with one list, which takes a selector where
the plain index does not. `parameters` says how fine; `engine.index.generation` compares what is found here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.index import mapped_lists
from engine.index.alive import Alive, is_alive, selector
from engine.index.faiss_library import library
from engine.index.parameters import TRAINING_ROWS_MAX, CodeParameters
from engine.types import Vectors

CODES = "codes"
SAMPLE = "sample.faiss"
_SEED = 20
_BLOCK_ROWS = 65_536
_WITHIN_MAX = 8
"""A radius with more than so many times the rows that were meant (duplicates without end) is given up."""
_WIDE_SUBQUANTISERS = 100
_WIDE_KERNEL = 10
"""FAISS's `implem` for one probe and wide codes: with 130 sub-quantisers it takes half the time of the
default, which is made for batches; with 64 it takes 13 % longer."""
_RADIUS_SLACK = 1e-5
"""Relative; the scan rounds distances to 16 bits and the radius once more."""

Rows = NDArray[np.int64]


def write(
    folder: Path, vectors: Vectors, parameters: CodeParameters, progress: Callable[[int, int], None]
) -> list[str]:
    """Train, encode float32[n, d] and write; returns the names of the files.

    The same rows give the same files. `progress(done, total)` in rows. Raises OSError or RuntimeError.
    """
    faiss = library()
    num_rows, dimension = vectors.shape
    index = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatL2(dimension), dimension, 1, parameters.num_subquantisers, 4, faiss.METRIC_L2
    )
    index.by_residual = False  # with a single list it changes nothing but the time of a search
    order = np.random.default_rng(_SEED).permutation(num_rows)
    training = np.sort(order[:TRAINING_ROWS_MAX])
    index.train(vectors[training])
    chosen = np.sort(order[: max(1, num_rows // parameters.sample_step)])
    sample = faiss.clone_index(index)
    sample.add_with_ids(vectors[chosen], chosen)
    faiss.write_index(sample, str(folder / SAMPLE))
    for start in range(0, num_rows, _BLOCK_ROWS):
        index.add(vectors[start : start + _BLOCK_ROWS])
        progress(min(start + _BLOCK_ROWS, num_rows), num_rows)
    return [*mapped_lists.write(index, folder, CODES), SAMPLE]


class Codes:
    """Opened codes. Read-only and thread-safe."""

    def __init__(self, folder: Path, parameters: CodeParameters):
        self._parameters = parameters
        self._index = mapped_lists.read(folder, CODES)
        self.sample = library().read_index(str(folder / SAMPLE))
        self._within_max = _WITHIN_MAX * parameters.sample_step * parameters.sample_rank
        self._single = self._index
        if parameters.num_subquantisers > _WIDE_SUBQUANTISERS:
            self._single = mapped_lists.read(folder, CODES)
            self._single.implem = self.sample.implem = _WIDE_KERNEL

    def nearest(self, probes: Vectors, num_rows: int, alive: Alive) -> tuple[Rows, float | None]:
        """Rows int64[n, r] worth comparing with each probe of float32[n, d], at least `num_rows` of them.

        In no order; -1 where fewer are alive. For a single probe the radius, too, within which they were
        found, if that is how.
        """
        faiss = library()
        parameters = faiss.SearchParametersIVF(nprobe=1, sel=selector(alive))
        if len(probes) == 1 and 2 * num_rows <= self._parameters.num_reranked:
            radius = self._radius(probes, parameters)
            if radius is not None:
                rows = self._within(probes, radius, alive)
                if len(rows) >= num_rows:
                    return rows[None], radius
        num_fetched = min(max(self._parameters.num_reranked, num_rows), self._index.ntotal)
        _, rows = self._index.search(probes, num_fetched, params=parameters)
        return rows, None

    def _within(self, probe: Vectors, radius: float, alive: Alive) -> Rows:
        """The nearest rows int64[r] within the radius by the codes; none where they are far too many."""
        _, distances, rows = self._single.range_search(probe, radius)
        if len(rows) > self._within_max:
            return np.empty(0, np.int64)
        if alive is not None:
            # Looking at the few that were found costs less than having FAISS look at each.
            is_wanted = is_alive(rows, alive)
            distances, rows = distances[is_wanted], rows[is_wanted]
        num_wanted = self._parameters.num_reranked
        if len(rows) <= num_wanted:
            return np.asarray(rows, np.int64)
        # In order of the rows, as they lie in memory.
        nearest: Rows = rows[np.sort(np.argpartition(distances, num_wanted)[:num_wanted])]
        return nearest

    def _radius(self, probe: Vectors, parameters: Any) -> float | None:
        """The radius that a sample tells; None where too few of the sample may be found."""
        distances, rows = self.sample.search(probe, self._parameters.sample_rank, params=parameters)
        return float(distances[0, -1]) * (1.0 + _RADIUS_SLACK) if rows[0, -1] >= 0 else None


class Segment:
    """Codes of rows that came after the generation, by its quantiser. Immutable and thread-safe."""

    def __init__(self, index: Any):
        self._index = index
        self.num_rows: int = index.ntotal

    @classmethod
    def empty(cls, codes: Codes) -> Segment:
        """No rows."""
        index = library().clone_index(codes.sample)
        index.reset()
        index.implem = codes.sample.implem
        return cls(index)

    def extended(self, vectors: Vectors) -> Segment:
        """With rows float32[n, d] behind its own; about 3 us a row."""
        index = library().clone_index(self._index)
        index.implem = self._index.implem
        index.add(vectors)
        return Segment(index)

    def within(self, probe: Vectors, radius: float) -> Rows:
        """Rows int64[r] within the radius of float32[1, d]."""
        library()
        _, _, rows = self._index.range_search(probe, radius)
        return np.asarray(rows, np.int64)
