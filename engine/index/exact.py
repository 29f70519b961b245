"""Provably exact range search at a fraction of a flat scan's cost.

``BoundCode.at_least(probe, floor, alive)`` returns every living row whose cosine with the probe is at least
`floor`. A scan of 4-bit codes gives each row an upper bound; the rows whose bound reaches the floor are
compared by their float32 vectors.

**The bound.** q is the probe, x a row, A the frame's m axes (`exact_frame`), G = A A' with |G - 1| <= s (its
`skew`), p = A q, y = A x, z what float32 computed of y, c the coded z. Let q = A'G^-1 p + q_r and
x = A'G^-1 y + x_r, where q_r and x_r are orthogonal to all axes. Then

(1)  <q, x> = p'G^-1 y + <q_r, x_r> <= <p, y> + s/(1-s) |p||y| + |q_r||x_r|,
     |x_r|^2 = |x|^2 - y'G^-1 y <= |x|^2 - |y|^2/(1+s), and q_r likewise; where m = d, both are 0.
(2)  y = c + (z - c) + (y - z), and |y - z| <= e := sqrt(m (1+s)) gamma(d) max|x| in any order of summation
     (Higham 2002, section 3.1, and Cauchy-Schwarz for each axis). With 0 for the first axis and * for the
     others, <p, y> <= <p, c> + |p_0| (max|z_0 - c_0| + e) + |p_*| (|z_* - c_*| + e).

A row's code holds l >= |z_* - c_*| + e and t >= |x_r|, both rounded up to one of 16 levels. With

(3)  S(x) = <p, c> + |p_*| l + |q_r| t,   E = |p_0| (max|z_0 - c_0| + e) + s/(1-s) |p| max|y|

we have <q, x> <= S(x) + E, and S(x) is a sum of one term per slot of the code: what FastScan adds up. The
first axis is the mean direction and coded finely (its list, then 16 levels in it), so that |p_*| and not |p|
multiplies what the codes leave: in a narrow cone |p_*| is short.

**FastScan's rounding** (FAISS: utils/quantize_lut.cpp, impl/fast_scan/simd_result_handlers.h). A table entry
v of a slot whose smallest is v_min becomes floor((v - v_min) a + 0.5), the list's bias likewise in 16 bits,
with a = min(255 / largest span, 65535 / sum of spans). The scale slot's span is set to be the largest, and
large enough that no sum passes 65,520 and wraps around: a = 255 / scale is known. With b the sum of the
smallest entries and D(x) the sum of integers,

(4)  a (S(x) - b) - D(x) <= w := the sum over slots of the largest (v - v_min) a - rounded.

w is computed from the very tables. An entry within 1e-3 of a half counts as rounded down: float32 does less
to a value below 256 (3 roundings of relative 2^-24). The bias gets 0.52 units. What float32 does to p and to
the products before is at most 4 x 2^-24 times the sum of their largest magnitudes.

Range search keeps D(x) > int(a (radius - b)), in float32 and then uint16. All x with S(x) >= floor - E must
stay, and they have D(x) >= a (floor - E - b) - w. `radius` aims at half an integer below that, less a guard
of one unit and what float32 does to a, b and radius. An int below 0 would wrap around: then every row is
compared.

**The kernel's scan** (`engine.index.kernel`) adds up tables that are made here, so that nothing of FAISS's
rounding matters. With D(x) the sum of the entries ceil((v - v_min) a), made in float64, and b_l the sum of
the smallest entries and of the bias of x's list l,

(5)  a (S(x) - b_l) <= D(x), so that all x with S(x) >= floor - E have D(x) >= a (floor - E - b_l).

A whole unit is left for what float64 does. The kernel keeps sums up to a limit, so each entry is taken from
the largest of its slot: the limit of a list is the sum of these less what D(x) must be.

**What is compared.** float32 products are right to g = gamma(d) |q| max|x|: rows from floor - g on are
returned, so that who decides in float64 sees every row. Outliers (at most 0.2 %), which would coarsen the
tables for all, have no code and are always compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.index import mapped_lists
from engine.index.exact_code import Tables, encode
from engine.index.exact_frame import UNIT_ROUNDOFF, Frame, gamma
from engine.index.faiss_library import library
from engine.index.kernel import Lists, PackedCodes, is_available, products
from engine.types import Vector, Vectors

TABLES = "bound.npz"
_CODES = "bound"
_SUM_MAX = 65_000
"""Below 65,535 by more than half a unit for each of 1,028 slots and the bias."""
_TIE = 1e-3
_BELOW_1 = 1.0 - 1e-12
"""Keeps what float64 rounds up from 255 to 256."""
_KERNEL = 10
"""FAISS's `implem` for one probe: the default, made for batches, takes twice as long from 116 slots on."""
_BLOCK_ROWS = 1 << 12
_NORM_MAX = 1.01
"""Of a flat scan's rows, which nobody measured: what is stored is 1 long to engine.vectors.UNIT_TOLERANCE."""
_GATHERED_SHARE_MAX = 0.1
"""From this share of the rows on, reading all in order is faster than picking them."""

Rows = NDArray[np.int64]
Alive = NDArray[np.uint8]
"""Bitmap of rows, lowest bit first."""
RowsFound = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Similarities float32[r] and rows int64[r], rows ascending."""


def flat_at_least(vectors: Vectors, probe: Vector, floor: float, alive: Alive | None) -> RowsFound:
    """Every living row of float32[n, d] with a cosine of at least `floor`, or a rounding error below it."""
    parts = []
    for start in range(0, len(vectors), _BLOCK_ROWS):
        similarities = vectors[start : start + _BLOCK_ROWS] @ probe
        near = np.flatnonzero(similarities >= _lowered(floor, probe, _NORM_MAX))
        parts.append((similarities[near], near + start))
    similarities, rows = (
        (np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
        if parts
        else (np.empty(0, np.float32), np.empty(0, np.int64))
    )
    keep = _living(rows, alive)
    return similarities[keep], rows[keep]


@dataclass(frozen=True)
class Bound:
    """What one probe asks of the scan, in the names of the module."""

    extended: NDArray[np.float32]
    """float32[1, m + 4]"""
    scale: float
    """a"""
    offset: float
    """b"""
    threshold: float
    """Rows with D(x) > threshold may be at or above the floor, no others."""


class BoundCode:
    """The finer code of one generation. Read-only and thread-safe."""

    def __init__(self, vectors: Vectors, frame: Frame, tables: Tables, index: Any, outliers: Rows):
        self._vectors = np.ascontiguousarray(vectors)
        self._frame = frame
        self._tables = tables
        self._index = index
        self._outliers = outliers
        self._outlier_vectors = self._vectors[outliers]
        self._index.nprobe = len(tables.centres)
        self._index.implem = _KERNEL
        self._lists = None
        if is_available():
            lists = [PackedCodes.of_list(index, number, has_ids=True) for number in range(index.nlist)]
            self._lists = Lists(lists, len(tables.levels))
        # Levels first: numpy reduces along the first axis several times faster.
        self._levels = np.ascontiguousarray(tables.levels.T)
        self._spans = (self._levels.max(axis=0) - self._levels.min(axis=0)).astype(np.float64)

    @classmethod
    def build(cls, vectors: Vectors) -> BoundCode:
        """Code rows float32[n, d] of about unit length, n > 0, d > 1. About 2 s for 1M x 128 on one core."""
        frame = Frame.fitted(vectors)
        coded = encode(vectors, frame)
        return cls(vectors, frame, coded.tables, coded.index, coded.outliers)

    def write(self, folder: Path) -> list[str]:
        """Write it, m/2 + 10 bytes a row; returns the names of the files.

        Only for what `build` made. Raises OSError or, from FAISS, RuntimeError where the disk is full.
        """
        names = mapped_lists.write(self._index, folder, _CODES)
        np.savez(
            folder / TABLES,
            axes=self._frame.axes,
            levels=self._tables.levels,
            centres=self._tables.centres,
            limits=np.array([self._tables.first_error, self._tables.norm_max]),
            outliers=self._outliers,
        )
        return [*names, TABLES]

    @classmethod
    def open(cls, folder: Path, vectors: Vectors) -> BoundCode:
        """Open what `write` wrote of the same rows, its codes mapped.

        Whether the files are whole is for the caller to know.
        """
        index = mapped_lists.read(folder, _CODES)
        with np.load(folder / TABLES) as file:
            first_error, norm_max = (float(limit) for limit in file["limits"])
            tables = Tables(file["levels"], file["centres"], first_error, norm_max)
            return cls(vectors, Frame(file["axes"]), tables, index, file["outliers"])

    @property
    def outliers(self) -> Rows:
        """Rows that have no code and are always compared, ascending."""
        return self._outliers

    def at_least(self, probe: Vector, floor: float, alive: Alive | None) -> RowsFound:
        """Every living row whose cosine with the probe float32[d] is at least `floor`, proven.

        Rows below it by no more than float32 rounding may be there too.
        """
        rows = self.candidates(probe, floor)
        if rows is None or len(rows) > _GATHERED_SHARE_MAX * len(self._vectors):
            return flat_at_least(self._vectors, probe, floor, alive)
        rows = np.sort(rows[_living(rows, alive)])
        near_products = products(self._vectors, probe, rows) if self._lists else self._vectors[rows] @ probe
        similarities = np.concatenate([near_products, self._outlier_vectors @ probe])
        rows = np.concatenate([rows, self._outliers])
        near = np.flatnonzero(similarities >= _lowered(floor, probe, self._tables.norm_max))
        near = near[_living(rows[near], alive)]
        rows, similarities = rows[near], similarities[near]
        order = np.argsort(rows)
        return similarities[order], rows[order]

    def candidates(self, probe: Vector, floor: float) -> Rows | None:
        """Rows whose upper bound reaches `floor`, outliers left out; None: too many to tell."""
        if self._lists is not None:
            return self._candidates_by_kernel(self._lists, probe, floor)
        bound = self.bound(probe, floor)
        if not bound.threshold >= 1.0:
            return None
        if bound.threshold >= _SUM_MAX + 520:
            return np.empty(0, np.int64)
        radius = bound.offset + (bound.threshold + 0.5) / bound.scale
        library()
        _, _, rows = self._index.range_search(bound.extended, radius)
        return np.asarray(rows, np.int64)

    def _candidates_by_kernel(self, lists: Lists, probe: Vector, floor: float) -> Rows | None:
        """Equation (5) of the module."""
        tables = self._tables
        coordinates, rest = self._frame.probe_coordinates(probe)
        others = float(np.linalg.norm(coordinates[1:]))
        terms = np.concatenate([coordinates, [others, rest, 0.0, 0.0]])
        entries = terms * self._levels
        lowest = entries.min(axis=0)
        spans = entries.max(axis=0) - lowest
        scale = _BELOW_1 * min(
            255.0 / max(float(spans.max()), 1e-9),
            (_SUM_MAX - len(terms)) / max(float(spans.sum()), 1e-9),
        )
        units = np.ceil((entries - lowest) * scale)
        largest = units.max(axis=0)
        bias = coordinates[0] * tables.centres.astype(np.float64)
        least = floor - self._error(coordinates) - 1e-9
        needed = np.ceil((least - float(lowest.sum()) - bias) * scale - 1.0)
        limits = np.clip(float(largest.sum()) - needed, -1, _SUM_MAX + 520)
        return lists.within((largest - units).T, limits.astype(np.int32), len(self._vectors))

    def bound(self, probe: Vector, floor: float) -> Bound:
        """Equations (3) and (4) of the module for one probe."""
        tables = self._tables
        coordinates, rest = self._frame.probe_coordinates(probe)
        others = float(np.linalg.norm(coordinates[1:]))
        terms = np.concatenate([coordinates, [others, rest, 0.0, 0.0]])
        spans = np.abs(terms) * self._spans
        bias = coordinates[0] * tables.centres.astype(np.float64)
        total = float(spans.sum() + bias.max() - bias.min())
        scale_span = max(float(spans.max()) * 1.0001, total * 255 / (_SUM_MAX - 255), 1e-9)
        terms[-2] = scale_span
        extended = terms.astype(np.float32)
        scale = 255.0 / float(extended[-2])
        # The very products that FAISS makes, in float32; from there on in float64.
        entries = (extended * self._levels).astype(np.float64)
        lowest = entries.min(axis=0)
        offset = float(lowest.sum() + bias.min())
        # The scale slot and the empty one are at level 0 in every row and add exactly nothing.
        units = (entries[:, :-2] - lowest[:-2]) * scale
        down = units - np.floor(units + 0.5 - _TIE)
        rounding = float(down.max(axis=0).sum()) + 0.52
        magnitude = float(np.abs(entries).max(axis=0).sum() + np.abs(bias).max())
        guard = 1.05 + 4 * len(terms) * UNIT_ROUNDOFF * magnitude * scale
        least = floor - self._error(coordinates) - 4 * UNIT_ROUNDOFF * magnitude - 1e-9
        threshold = np.ceil(scale * (least - offset) - rounding - guard) - 1.0
        return Bound(extended[None], scale, offset, float(threshold))

    def _error(self, coordinates: NDArray[np.float64]) -> float:
        """E of equation (3)."""
        frame, tables = self._frame, self._tables
        length_max = np.sqrt(1.0 + frame.skew) * tables.norm_max
        skewed = frame.skew / (1.0 - frame.skew) * np.linalg.norm(coordinates) * length_max
        return float(abs(coordinates[0]) * (tables.first_error + frame.error(tables.norm_max)) + skewed)


def _lowered(floor: float, probe: Vector, norm_max: float) -> np.float64:
    """What a float32 product may come to where the cosine is at least `floor`."""
    return np.float64(floor) - gamma(len(probe)) * float(np.linalg.norm(probe)) * 1.0001 * norm_max - 1e-12


def _living(rows: Rows, alive: Alive | None) -> NDArray[np.bool_]:
    if alive is None:
        return np.ones(len(rows), np.bool_)
    found: NDArray[np.bool_] = (alive[rows >> 3] >> (rows & 7).astype(np.uint8) & np.uint8(1)).astype(
        np.bool_
    )
    return found
