"""The codes behind the default search: which rows are worth comparing exactly.

Product codes by squared distance (never by inner product: real templates lie in a cone, where inner-product
codes lose a tenth of the nearest), in FAISS's FastScan layout with one list, which takes a selector where
the plain index does not. What a scan finds is looked at once more by fine codes, and then by the vectors::

    codes.*       the scanned codes, all rows in one list
    sample.faiss  those of a random sample, which tells within what distance a scan shall find rows
    fine.codes    uint8[n, bytes], the fine codes
    axes.npz      the axes in which both are

The scan is `engine.index.kernel`'s; where there is none FAISS scans, and all rows found are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.index import huge_pages, mapped_lists
from engine.index.alive import Alive, selector
from engine.index.code_axes import CodeAxes
from engine.index.depth import NUM_PROBES, is_enough, num_found
from engine.index.faiss_library import library
from engine.index.fine_codes import FineCoder, num_bytes
from engine.index.kernel import Extent, Kernel, PackedCodes, is_available
from engine.index.parameters import NUM_COMPARED, TRAINING_ROWS_MAX, CodeParameters, sample_step
from engine.index.top import top
from engine.types import Columns, Vectors

CODES = "codes"
SAMPLE = "sample.faiss"
FINE = "fine.codes"
AXES = "axes.npz"
_SEED = 20
_BLOCK_ROWS = 65_536
_BLOCK_PROBES = 64
"""Searched at once: each holds some 12 bytes for every row that it finds."""
_FOUND_FACTOR = 4
"""Rows found for each row that is asked for, at the least."""
NUM_CENTROIDS = 16

Rows = NDArray[np.int64]
Similarities = NDArray[np.float32]
Compare = Callable[[Vectors, Rows], Similarities]
"""Inner products float32[n, r] of probes float32[n, d] and rows int64[n, r]; -inf for row -1."""


def write(
    folder: Path, columns: Columns, sizes: Sequence[int], progress: Callable[[int, int], None]
) -> tuple[list[str], CodeParameters]:
    """Train, encode and write; returns the names of the files and what they are.

    Of `sizes`, ascending numbers of sub-quantisers, the first that suffices is taken. The same rows give the
    same files. `progress(done, total)` in rows. Raises OSError or RuntimeError.
    """
    faiss = library()
    vectors = columns.vectors
    num_rows = len(vectors)
    order = np.random.default_rng(_SEED).permutation(num_rows)
    chosen = np.sort(order[:TRAINING_ROWS_MAX])
    training = Columns(columns.template_ids[chosen], columns.identity_numbers[chosen], vectors[chosen])
    axes, index = _trained(training, sizes)
    sample = faiss.clone_index(index)
    coder = FineCoder(axes)
    with (folder / FINE).open("wb") as file:
        for start in range(0, num_rows, _BLOCK_ROWS):
            coordinates = axes.coordinates(vectors[start : start + _BLOCK_ROWS])
            index.add(coordinates)
            file.write(coder.code(coordinates).data)
            progress(min(start + _BLOCK_ROWS, num_rows), num_rows)
    probes = order[-NUM_PROBES:]
    every = PackedCodes.of_list(index, 0, has_ids=False)
    kernel = _kernel(folder, index, every, axes, vectors) if is_available() else None
    found = num_found(index, columns, axes.coordinates(vectors[probes]), probes, kernel)
    parameters = CodeParameters(num_subquantisers=index.pq.M, num_found=found, sample_step=sample_step(found))
    chosen = np.sort(order[: max(1, num_rows // parameters.sample_step)])
    sample.add_with_ids(axes.coordinates(vectors[chosen]), chosen)
    faiss.write_index(sample, str(folder / SAMPLE))
    axes.write(folder / AXES)
    return [*mapped_lists.write(index, folder, CODES), SAMPLE, FINE, AXES], parameters


def _trained(training: Columns, sizes: Sequence[int]) -> tuple[CodeAxes, Any]:
    """Axes and an empty index of the first of the sizes that suffices, the last in any case."""
    for size in sizes:
        axes = CodeAxes.fitted(training.vectors, size)
        coordinates = axes.coordinates(training.vectors)
        dimension = coordinates.shape[1]
        faiss = library()
        index = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(dimension), dimension, 1, size, 4, faiss.METRIC_L2)
        index.by_residual = False  # with a single list it changes nothing but the time of a search
        index.train(coordinates)
        if size == sizes[-1] or is_enough(index, training, coordinates):
            break
    return axes, index


class Codes:
    """Opened codes. Read-only and thread-safe."""

    def __init__(self, folder: Path, parameters: CodeParameters, vectors: Vectors, compare: Compare):
        self._parameters = parameters
        self._compare = compare
        self.index = mapped_lists.read(folder, CODES)
        self.axes = CodeAxes.read(folder / AXES)
        self.sample = library().read_index(str(folder / SAMPLE))
        self.kernel = None
        if is_available():
            sample = PackedCodes.of_list(self.sample, 0, has_ids=True)
            self.kernel = _kernel(folder, self.index, sample, self.axes, vectors)

    def search(self, probes: Vectors, num_rows: int, alive: Alive) -> tuple[Similarities, Rows, float | None]:
        """Similarities and rows float32[n, r], int64[n, r] of float32[n, d], best first; -inf, -1 at the end.

        r is at most `num_rows`. For a single probe the squared distance by the codes, too, within which they
        were found, if that is how.
        """
        num_wanted = max(self._parameters.num_found, _FOUND_FACTOR * num_rows)
        if self.kernel is None:
            return *self._search_faiss(probes, num_rows, num_wanted, alive), None
        if len(probes) == 1:
            similarities, rows, radii = self._search_block(self.kernel, probes, num_rows, num_wanted, alive)
            # Where fewer than asked for are there, rows at any distance matter.
            return similarities, rows, float(radii[0]) if rows[0, -1] >= 0 else None
        parts = [
            self._search_block(
                self.kernel, probes[start : start + _BLOCK_PROBES], num_rows, num_wanted, alive
            )
            for start in range(0, len(probes), _BLOCK_PROBES)
        ]
        similarities, rows, _ = (np.concatenate(part) for part in zip(*parts, strict=True))
        return similarities, rows, None

    def _search_block(
        self, kernel: Kernel, probes: Vectors, num_rows: int, num_wanted: int, alive: Alive
    ) -> tuple[Similarities, Rows, NDArray[np.float32]]:
        coordinates = self.axes.coordinates(probes)
        num_rows = min(num_rows, self.index.ntotal)
        rank = -(-num_wanted // self._parameters.sample_step)
        extent = Extent(rank, num_wanted, num_rows + NUM_COMPARED, num_rows)
        similarities, rows, radii = kernel.nearest(probes, coordinates, alive, extent)
        # The sample may have had too few living rows, or the limit too few rows: without a limit, then.
        is_short = rows[:, -1] < 0
        if is_short.any() and extent.rank:
            similarities[is_short], rows[is_short], radii[is_short] = kernel.nearest(
                probes[is_short], coordinates[is_short], alive, replace(extent, rank=0)
            )
        return similarities, rows, radii

    def _search_faiss(
        self, probes: Vectors, num_rows: int, num_wanted: int, alive: Alive
    ) -> tuple[Similarities, Rows]:
        parameters = library().SearchParametersIVF(nprobe=1, sel=selector(alive))
        num_wanted = min(num_wanted, self.index.ntotal)
        _, found = self.index.search(self.axes.coordinates(probes), num_wanted, params=parameters)
        similarities = self._compare(probes, found)
        best = top(similarities, num_rows)
        return np.take_along_axis(similarities, best, axis=1), np.take_along_axis(found, best, axis=1)


class Segment:
    """Codes of rows that came after the generation, by its quantiser. Immutable and thread-safe."""

    def __init__(self, index: Any, codes: Codes):
        self._index = index
        self._codes = codes
        self._packed = PackedCodes.of_list(index, 0, has_ids=False)
        self.num_rows: int = index.ntotal

    @classmethod
    def empty(cls, codes: Codes) -> Segment:
        """No rows."""
        index = library().clone_index(codes.sample)
        index.reset()
        return cls(index, codes)

    def extended(self, vectors: Vectors) -> Segment:
        """With rows float32[n, d] behind its own; about 3 us a row."""
        index = library().clone_index(self._index)
        index.add(self._codes.axes.coordinates(vectors))
        return Segment(index, self._codes)

    def within(self, probe: Vectors, radius: float) -> Rows:
        """Rows int64[r] within the radius, which a search of the codes told, of float32[1, d]."""
        coordinates = self._codes.axes.coordinates(probe)
        if self._codes.kernel is not None:
            return self._codes.kernel.around(coordinates, self._packed, radius)
        library()
        _, _, rows = self._index.range_search(coordinates, radius)
        return np.asarray(rows, np.int64)


def _kernel(folder: Path, index: Any, sample: PackedCodes, axes: CodeAxes, vectors: Vectors) -> Kernel:
    centroids = library().vector_to_array(index.pq.centroids)
    return Kernel(
        every=PackedCodes.of_list(index, 0, has_ids=False),
        sample=sample,
        centroids=centroids.reshape(-1, NUM_CENTROIDS, index.pq.dsub),
        fine=huge_pages.mapped(folder / FINE).reshape(-1, num_bytes(index.d)),
        spreads=axes.spreads,
        vectors=vectors,
    )
