"""Galleries to search in, with probes and the exact answers, of three kinds.

::

    faces      zero-mean and face-like: impostor cosine 0.00 +- .11, participation ratio 80, mated .71 +- .08
    isotropic  uniform on the sphere: the hardest for an index; mated probes as alike as those of `faces`
    contract   drawn to the default network's mean and covariance; real people (LFW) among them where their
               pictures are there, whose other pictures are the mated probes; strangers half real, half drawn

Rows are drawn in blocks with seeds of their own: a smaller gallery is the beginning of a larger one. Exact
answers are computed by blocks and kept (`benchmarks.cache`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache import kept
from benchmarks.galleries import Distribution
from benchmarks.real_faces import NETWORK, RealFaces, real_faces
from benchmarks.truth import exact_top
from engine.types import Vectors

KINDS = ("faces", "isotropic", "contract")
SEED = 20_261_122
NUM_PROBES = 2000
DIMENSION = 128
DRAWN_BLOCK = 1 << 16
"""Rows drawn with one seed."""
TRUTH_K = 10

_SPECTRUM_KNEE, _SPECTRUM_POWER = 16.0, 1.2
_NUM_GROUPS, _GROUP_SHARE = 24, 0.4
_NOISE, _NOISE_SPREAD = 0.43, 0.22
"""Variance of one person's templates against that of people; spread of its logarithm from picture to picture,
because some pictures are worse than others."""
_MATED_ISOTROPIC = 0.71
_MATED_DRAWN = 0.953
"""Cosine of two pictures of one person under the default contract, where no real ones are at hand."""


@dataclass(frozen=True)
class ProbeSet:
    """A gallery, who asks, and the exact answers."""

    kind: str
    size: int
    vectors: Vectors
    """float32[n, d], unit length"""
    mated: Vectors
    """float32[m, d], probes of people who are enrolled"""
    mated_rows: NDArray[np.int64]
    """int64[m], row of each one's person"""
    nonmated: Vectors
    """float32[m, d], probes of people who are not"""
    truth_mated: NDArray[np.int64]
    """int64[m, TRUTH_K], rows of the exact scan, best first"""
    truth_nonmated: NDArray[np.int64]
    """int64[m, TRUTH_K]"""
    num_real: int
    """Real templates among the mated probes."""

    @property
    def rank_1(self) -> float:
        """Share of mated probes whose person comes first in the exact scan."""
        return float((self.truth_mated[:, 0] == self.mated_rows).mean())


class Source(Protocol):
    """Draws people's templates."""

    def enrolled(self, rng: np.random.Generator, num: int) -> tuple[Vectors, Vectors]:
        """Templates float32[num, d] of new people, and whatever else of them `again` needs."""

    def again(self, rng: np.random.Generator, people: Vectors) -> Vectors:
        """Other templates of the people of whom `enrolled` gave the second value."""


class Faces:
    """Zero-mean vectors with the statistics of a well-spread face network."""

    def __init__(self) -> None:
        rng = np.random.default_rng(SEED)
        spectrum = (1.0 + np.arange(DIMENSION) / _SPECTRUM_KNEE) ** -_SPECTRUM_POWER
        self._spread = np.sqrt(spectrum / spectrum.sum()).astype(np.float32)
        self._rotation = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0].astype(np.float32)
        offsets = rng.standard_normal((_NUM_GROUPS, DIMENSION), dtype=np.float32)
        self._offsets = offsets * self._spread * np.float32(_GROUP_SHARE)

    def enrolled(self, rng: np.random.Generator, num: int) -> tuple[Vectors, Vectors]:
        """Templates, and the people's centres."""
        centres = rng.standard_normal((num, DIMENSION), dtype=np.float32) * self._spread
        centres += self._offsets[rng.integers(_NUM_GROUPS, size=num)]
        return self.again(rng, centres), centres

    def again(self, rng: np.random.Generator, people: Vectors) -> Vectors:
        """Half of the noise lies as people do, half everywhere."""
        half = np.float32(np.sqrt(_NOISE / 2))
        noise = rng.standard_normal(people.shape, dtype=np.float32) * (self._spread * half)
        noise += rng.standard_normal(people.shape, dtype=np.float32) * (half / np.float32(np.sqrt(DIMENSION)))
        badness = np.exp(rng.standard_normal((len(people), 1), dtype=np.float32) * np.float32(_NOISE_SPREAD))
        return _unit((people + noise * badness) @ self._rotation.T)


class Isotropic:
    """Vectors uniform on the sphere."""

    def enrolled(self, rng: np.random.Generator, num: int) -> tuple[Vectors, Vectors]:
        """Templates, twice."""
        vectors = _unit(rng.standard_normal((num, DIMENSION), dtype=np.float32))
        return vectors, vectors

    def again(self, rng: np.random.Generator, people: Vectors) -> Vectors:
        """At a cosine of about .71."""
        return _near(rng, people, rng.standard_normal(people.shape, dtype=np.float32), _MATED_ISOTROPIC)


class Contract:
    """Vectors drawn to the default network's distribution."""

    def __init__(self) -> None:
        self._distribution = Distribution.load(NETWORK)

    def enrolled(self, rng: np.random.Generator, num: int) -> tuple[Vectors, Vectors]:
        """Templates, twice."""
        vectors = self._distribution.draw(num, int(rng.integers(1 << 62)))
        return vectors, vectors

    def again(self, rng: np.random.Generator, people: Vectors) -> Vectors:
        """At a cosine of about .953, moved in the directions in which people differ."""
        drawn = self._distribution.draw(len(people), int(rng.integers(1 << 62)))
        return _near(rng, people, drawn - self._distribution.mean, _MATED_DRAWN)


def source_of(kind: str) -> Source:
    """What draws a kind of gallery."""
    sources: dict[str, type[Faces] | type[Isotropic] | type[Contract]] = {
        "faces": Faces,
        "isotropic": Isotropic,
        "contract": Contract,
    }
    return sources[kind]()


def load_set(cache: Path, kind: str, size: int, num_probes: int = NUM_PROBES) -> ProbeSet:
    """A gallery with probes and exact answers, drawn and computed where they are not kept."""
    key = f"sets/{kind}-{size}-{num_probes}-{SEED}"
    folder = kept(cache, key, lambda target: _make(cache, kind, size, num_probes, target))
    arrays = {name: np.load(folder / f"{name}.npy") for name in ("vectors", "mated", "nonmated")}
    rows = {name: np.load(folder / f"{name}.npy") for name in ("mated_rows", "truth_mated", "truth_nonmated")}
    num_real = int(json.loads((folder / "set.json").read_text())["num_real"])
    return ProbeSet(kind, size, **arrays, **rows, num_real=num_real)


def draw_vectors(kind: str, size: int) -> Vectors:
    """The gallery's templates float32[size, d] alone, without real people among them."""
    return _draw(source_of(kind), size)[0]


def _make(cache: Path, kind: str, size: int, num_probes: int, target: Path) -> None:
    real = real_faces(cache) if kind == "contract" else None
    vectors, mated, rows, nonmated, num_real = drawn_set(kind, size, num_probes, real)
    for name, values in (
        ("vectors", vectors),
        ("mated", mated),
        ("mated_rows", rows),
        ("nonmated", nonmated),
        ("truth_mated", exact_top(vectors, mated, TRUTH_K)),
        ("truth_nonmated", exact_top(vectors, nonmated, TRUTH_K)),
    ):
        np.save(target / f"{name}.npy", values)
    (target / "set.json").write_text(json.dumps({"seed": SEED, "num_real": num_real}))


def drawn_set(
    kind: str, size: int, num_probes: int, real: RealFaces | None
) -> tuple[Vectors, Vectors, NDArray[np.int64], Vectors, int]:
    """Templates, mated probes and their rows, non-mated probes, number of real mated probes."""
    source = source_of(kind)
    vectors, people = _draw(source, size)
    rng = np.random.default_rng((SEED, size))
    rows = rng.choice(size, num_probes, replace=num_probes > size)
    mated = source.again(rng, people[rows])
    nonmated, _ = source.enrolled(rng, num_probes)
    if real is None:
        return vectors, mated, rows, nonmated, 0
    places = rng.choice(size, min(size, len(real.enrolled)), replace=False)
    vectors[places] = real.enrolled[: len(places)]
    can_ask = np.flatnonzero(real.probe_people < len(places))
    asked = rng.permutation(can_ask)[:num_probes]
    # Drawn probes of people whom a real one replaced would have no mate: all mated probes are real then.
    mated, rows = real.probes[asked], places[real.probe_people[asked]]
    num_strangers = min(num_probes // 2, len(real.strangers))
    nonmated[:num_strangers] = rng.permutation(real.strangers)[:num_strangers]
    return vectors, mated, rows, rng.permutation(nonmated), len(asked)


def _draw(source: Source, size: int) -> tuple[Vectors, Vectors]:
    blocks = []
    for block, start in enumerate(range(0, size, DRAWN_BLOCK)):
        # A whole block each time: its first rows do not depend on how many of them are asked for.
        drawn = source.enrolled(np.random.default_rng((SEED, 0, block)), DRAWN_BLOCK)
        blocks.append([values[: size - start] for values in drawn])
    return np.concatenate([one for one, _ in blocks]), np.concatenate([other for _, other in blocks])


def _near(rng: np.random.Generator, people: Vectors, moves: Vectors, cosine: float) -> Vectors:
    """Unit vectors at about that cosine of `people`, moved along `moves`; some farther, some nearer."""
    across = _unit(moves - np.sum(moves * people, axis=1, keepdims=True) * people)
    angles = np.arccos(cosine) * np.exp(rng.standard_normal((len(people), 1)) * 0.1)
    near: Vectors = (np.cos(angles) * people + np.sin(angles) * across).astype(np.float32)
    return _unit(near)


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
