"""One gallery of drawn people: what a calibration predicts, and what exact and approximate search give.

The approximate search is a generation as the engine builds it and its default search, without server, store
and names; the exact one is a product of matrices by blocks, in float32. Knows nothing of how people are
drawn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.openset.generator import Generator, drawn
from engine.decision.estimator import Estimated, EstimatorSettings, estimate
from engine.index.build import THREADS_MAX, build
from engine.index.generation import Generation
from engine.index.search import Snapshot
from engine.types import Columns, Vectors

TARGETS = (0.1, 0.03, 0.01, 0.001)
K = 10
"""Rows asked for."""
LOSS_MAX = 0.0005
"""Of FNIR, by the index."""
BLOCK_ROWS = 1 << 14
BLOCK_PROBES = 1024
BATCH = 64
"""Probes searched for at once."""
CALIBRATION, GALLERY, STRANGERS = 1, 2, 3
"""Streams of random numbers, so that a gallery is the beginning of a larger one."""
_CONTRACT = "drawn"

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """How much is drawn."""

    num_calibrated: int = 4000
    num_probes: int = 10_000
    """Strangers, and again as many mated probes."""
    seed: int = 20_261_122
    threads: int = 1


@dataclass(frozen=True)
class Calibrated:
    """Of drawn people who are in no gallery."""

    estimated: Estimated
    own: Floats
    """float32[n], cosines of their mated pairs"""

    def expected_fnir(self, threshold: float) -> float:
        """Share of mated probes below it; those that another identity beats come on top."""
        return float((self.own < threshold).mean())


@dataclass(frozen=True)
class Tops:
    """Best similarity and its row for each probe."""

    similarities: Floats
    rows: Rows


class Point(msgspec.Struct, frozen=True):
    """One target rate at one size."""

    target: float
    threshold: float
    low: float
    high: float
    """The rate at the threshold as the calibration's interval of 95 % has it."""
    fpir_exact: float
    fpir: float
    fnir_expected: float
    fnir_exact: float
    fnir: float

    @property
    def loss(self) -> float:
        """Of FNIR, by the index: at the same threshold, approximate less exact."""
        return self.fnir - self.fnir_exact


class Measured(msgspec.Struct, frozen=True):
    """One gallery. Kept as JSON, so that a run that was ended goes on."""

    size: int
    num_strangers: int
    num_mated: int
    points: tuple[Point, ...]
    is_exact: bool
    """So few templates are scanned whole: there is nothing to lose."""
    top1_agreement: float
    """Share of all probes whose first row is that of the exact search."""
    rank1_exact: float
    build_s: float
    exact_s: float
    approximate_s: float
    """For all probes, on the threads asked for and on one."""


def calibrated(generator: Generator, asked: Asked) -> Calibrated:
    """Estimate on people who are drawn for it, one template each."""
    people = drawn(generator, (asked.seed, CALIBRATION), asked.num_calibrated)
    again = generator.again(np.random.default_rng((asked.seed, CALIBRATION, 1)), people)
    with threadpool_limits(limits=asked.threads, user_api="blas"):
        estimated = estimate(people @ people.T, EstimatorSettings(seed=asked.seed))
    return Calibrated(estimated, np.einsum("nd,nd->n", people, again))


def measured(generator: Generator, of: Calibrated, size: int, asked: Asked, scratch: Path) -> Measured:
    """Draw a gallery of `size` people, build its index in a folder below `scratch`, search, compare."""
    strangers = drawn(generator, (asked.seed, STRANGERS), asked.num_probes)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="openset-") as folder:
        generation, mated, rows, build_s = _enrolled(generator, size, asked, Path(folder))
        probes = np.concatenate([strangers, mated])
        start_s = time.perf_counter()
        with threadpool_limits(limits=asked.threads, user_api="blas"):
            exact = exact_tops(generation.vectors, probes)
        exact_s = time.perf_counter() - start_s
        start_s = time.perf_counter()
        found = _approximate_tops(generation, probes)
        approximate_s = time.perf_counter() - start_s
        is_exact = generation.is_exact
        del generation
    own = np.concatenate([np.full(len(strangers), -1), rows])
    return Measured(
        size,
        len(strangers),
        len(mated),
        tuple(_point(of, target, size, (exact, found), own) for target in TARGETS),
        is_exact,
        float((exact.rows == found.rows).mean()),
        float((exact.rows == own)[len(strangers) :].mean()),
        build_s,
        exact_s,
        approximate_s,
    )


def exact_tops(vectors: Vectors, probes: Vectors) -> Tops:
    """Compare all probes float32[m, d] with all templates float32[n, d]; of equal ones the first row wins."""
    best = np.full(len(probes), -np.inf, np.float32)
    rows = np.full(len(probes), -1, np.int64)
    for start in tqdm(range(0, len(vectors), BLOCK_ROWS), desc="exact", disable=None):
        block = np.ascontiguousarray(vectors[start : start + BLOCK_ROWS])
        for first in range(0, len(probes), BLOCK_PROBES):
            part = slice(first, first + BLOCK_PROBES)
            products = probes[part] @ block.T
            places = products.argmax(axis=1)
            values = products[np.arange(len(products)), places]
            is_better = values > best[part]
            best[part][is_better] = values[is_better]
            rows[part][is_better] = places[is_better] + start
    return Tops(best, rows)


def fnir(tops: Tops, own: Rows, threshold: float) -> float:
    """Share of mated probes, those with an own row, that do not find it first and at the threshold."""
    is_mated = own >= 0
    is_hit = (tops.rows == own) & (tops.similarities >= threshold)
    return float(1.0 - is_hit[is_mated].mean())


def fpir(tops: Tops, own: Rows, threshold: float) -> float:
    """Share of strangers, own row -1, whose best reaches the threshold."""
    return float((tops.similarities[own < 0] >= threshold).mean())


def _point(of: Calibrated, target: float, size: int, tops: tuple[Tops, Tops], own: Rows) -> Point:
    row = of.estimated.table.at(size)
    threshold = row.threshold(target).value
    rate = row.fpir_estimate(threshold)
    exact, found = tops
    return Point(
        target,
        threshold,
        rate.low,
        rate.high,
        fpir(exact, own, threshold),
        fpir(found, own, threshold),
        of.expected_fnir(threshold),
        fnir(exact, own, threshold),
        fnir(found, own, threshold),
    )


def _enrolled(
    generator: Generator, size: int, asked: Asked, folder: Path
) -> tuple[Generation, Vectors, Rows, float]:
    """The built generation, mated probes and their rows, and the seconds that the build took."""
    vectors = drawn(generator, (asked.seed, GALLERY), size)
    rng = np.random.default_rng((asked.seed, size))
    rows = rng.choice(size, asked.num_probes, replace=asked.num_probes > size)
    mated = generator.again(rng, vectors[rows])
    numbers = np.arange(1, size + 1, dtype=np.uint64)
    columns = Columns(numbers, numbers, vectors)
    del vectors
    start_s = time.perf_counter()
    threads = min(asked.threads, THREADS_MAX)
    generation = build(folder, columns, number=1, sequence=1, contract_digest=_CONTRACT, threads=threads)
    return generation, mated, rows, time.perf_counter() - start_s


def _approximate_tops(generation: Generation, probes: Vectors) -> Tops:
    """By the default search, as a gallery asks it."""
    snapshot = Snapshot.base(generation, 1, probes.shape[1])
    similarities, ids = [], []
    for start in tqdm(range(0, len(probes), BATCH), desc="approximate", disable=None):
        found = snapshot.search(probes[start : start + BATCH], K)
        similarities.append(found.similarities[:, 0])
        ids.append(found.template_ids[:, 0].astype(np.int64))
    return Tops(np.concatenate(similarities), np.concatenate(ids) - 1)


def as_json(one: Measured) -> dict[str, Any]:
    """Give plain values."""
    built: dict[str, Any] = msgspec.to_builtins(one)
    return built


def fingerprint_of(asked: Asked) -> str:
    """What the results depend on beside the generator and the size, in words."""
    depends = {key: value for key, value in asdict(asked).items() if key != "threads"}
    return repr({**depends, "targets": TARGETS, "k": K})


def worst_loss(found: Sequence[Measured]) -> float:
    """The largest loss of FNIR by the index."""
    return max(point.loss for one in found for point in one.points)
