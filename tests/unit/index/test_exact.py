"""Exact search by the bound code against a full scan in float64: no row from the floor on may be missing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.index.exact import BoundCode, flat_at_least
from engine.index.exact_code import Coded, encode
from engine.index.exact_frame import Frame
from engine.index.faiss_library import library
from engine.types import Vector, Vectors

SLACK = 1e-5
"""Rows this far below the floor need not come back, and some do."""


pytestmark = pytest.mark.usefixtures("scan")


def unit(vectors: NDArray[np.floating]) -> Vectors:
    wide = np.atleast_2d(vectors).astype(np.float64)
    found: Vectors = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return found


def isotropic(rng: np.random.Generator, num: int, dimension: int) -> Vectors:
    return unit(rng.standard_normal((num, dimension)))


def cone(rng: np.random.Generator, num: int, dimension: int) -> Vectors:
    """As the default network's: around a mean .9 long, few directions that matter."""
    spread = (1.0 + np.arange(dimension) / 16) ** -0.6
    noise = rng.standard_normal((num, dimension)) * spread
    noise *= 0.45 / np.sqrt((spread**2).sum())
    mean = rng.standard_normal(dimension)
    return unit(noise + 0.9 * mean / np.linalg.norm(mean))


def with_outliers(rng: np.random.Generator, num: int, dimension: int) -> Vectors:
    """A tight cluster, and a few rows that are nowhere near it."""
    vectors = cone(rng, num, dimension)
    vectors[:: num // 5] = isotropic(rng, len(vectors[:: num // 5]), dimension)
    vectors[1] = -vectors[2]
    vectors[3] = np.eye(1, dimension, dtype=np.float32)[0]
    return vectors


def two_clusters(rng: np.random.Generator, num: int, dimension: int) -> Vectors:
    """The mean is nobody's direction, and a fifth of the rows is spread far wider than the others."""
    near = unit(np.eye(1, dimension)[0] + 0.02 * rng.standard_normal((num, dimension)))
    near[::2] *= -1
    near[::5] = isotropic(rng, len(near[::5]), dimension)
    return near


KINDS = {"isotropic": isotropic, "cone": cone, "outliers": with_outliers, "clusters": two_clusters}


def similarities_of(vectors: Vectors, probe: Vector) -> NDArray[np.float64]:
    found: NDArray[np.float64] = vectors.astype(np.float64) @ probe.astype(np.float64)
    return found


def check(
    code: BoundCode,
    vectors: Vectors,
    probe: Vector,
    floor: float,
    is_alive: NDArray[np.bool_] | None = None,
) -> int:
    """Every living row from the floor on is there, once, nothing far below it; how many are from it on."""
    alive = None if is_alive is None else np.packbits(is_alive, bitorder="little")
    truth = similarities_of(vectors, probe)
    similarities, rows = code.at_least(probe, floor, alive)
    wanted = truth >= floor
    if is_alive is not None:
        wanted &= is_alive
        assert is_alive[rows].all()
    assert np.setdiff1d(np.flatnonzero(wanted), rows).size == 0
    assert np.all(np.diff(rows) > 0)
    assert np.all(truth[rows] >= floor - SLACK * max(1.0, len(probe) / 128))
    assert similarities.dtype == np.float32
    assert np.allclose(similarities, truth[rows], atol=SLACK, rtol=0)
    return int(wanted.sum())


def left_by_code(vectors: Vectors) -> NDArray[np.float64]:
    """What the code of each row leaves of it, first axis and outliers' clipping aside: float64[n, d]."""
    frame = Frame.fitted(vectors)
    levels = encode(vectors, frame).tables.levels[: frame.num_axes].astype(np.float64)
    coordinates = frame.coordinates(vectors).astype(np.float64)
    nearest = np.abs(coordinates[:, :, None] - levels).argmin(axis=2)
    left = coordinates - np.take_along_axis(levels, nearest.T, axis=1).T
    left[:, 0] = 0.0
    found: NDArray[np.float64] = left @ frame.axes
    return found


def decoded_rows(coded: Coded) -> dict[int, NDArray[np.float64]]:
    """What FAISS holds of each row, slot by slot, read back from its packed codes."""
    faiss, index, levels = library(), coded.index, coded.tables.levels.astype(np.float64)
    packer = index.get_CodePacker()
    found = {}
    for number, centre in enumerate(coded.tables.centres):
        rows = faiss.rev_swig_ptr(index.invlists.get_ids(number), index.invlists.list_size(number))
        blocks = index.invlists.get_codes(number)
        packed = faiss.rev_swig_ptr(blocks, -(-len(rows) // 32) * 32 * index.code_size)
        packed = packed.reshape(-1, 32 * index.code_size)
        for place, row in enumerate(rows.tolist()):
            flat = packer.unpack_1(packed, place)
            level_of = np.column_stack([flat & 15, flat >> 4]).ravel()
            found[row] = levels[np.arange(len(levels)), level_of]
            found[row][0] += centre
    return found


def floors_of(truth: NDArray[np.float64]) -> list[float]:
    """The very similarities of the best rows, and of some at random places of the order."""
    ordered = np.sort(truth)[::-1]
    return [float(ordered[place]) for place in (0, 1, 9, 99, 700) if place < len(ordered)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [64, 128, 130, 512])
def test_nothing_is_lost_at_any_floor(kind: str, dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    vectors = KINDS[kind](rng, 3000 + 13, dimension)
    code = BoundCode.build(vectors)
    probes = np.concatenate(
        [vectors[:4], isotropic(rng, 3, dimension), unit(vectors[7:10] + 0.05 * isotropic(rng, 3, dimension))]
    )
    for probe in probes:
        for floor in floors_of(similarities_of(vectors, probe)):
            check(code, vectors, probe, floor)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_dominates_every_row(kind: str) -> None:
    rng = np.random.default_rng(3)
    vectors = KINDS[kind](rng, 2000, 128)
    code = BoundCode.build(vectors)
    num_scans = 0
    for probe in np.concatenate([isotropic(rng, 2, 128), cone(rng, 2, 128), vectors[5:6]]):
        truth = similarities_of(vectors, probe)
        for row in rng.choice(len(vectors), 60, replace=False):
            # With the row's own similarity as the floor, its upper bound must reach it.
            candidates = code.candidates(probe, float(truth[row]))
            if candidates is not None:
                num_scans += 1
                reached = np.union1d(candidates, code.outliers)
                assert np.setdiff1d(np.flatnonzero(truth >= truth[row]), reached).size == 0
    assert num_scans > 20


@pytest.mark.parametrize("kind", ["isotropic", "cone"])
def test_probes_along_what_the_code_leaves(kind: str) -> None:
    """The worst case of Cauchy-Schwarz: the row lies exactly at its bound, but for rounding."""
    rng = np.random.default_rng(4)
    vectors = KINDS[kind](rng, 4000, 128)
    code = BoundCode.build(vectors)
    left = left_by_code(vectors)
    num_scans = num_left_out = 0
    for row in np.setdiff1d(rng.choice(len(vectors), 25, replace=False), code.outliers):
        for weight in (4.0, 1.0, 0.0):
            probe = unit(left[row] / np.linalg.norm(left[row]) + weight * vectors[row])[0]
            floor = float(similarities_of(vectors, probe)[row])
            candidates = code.candidates(probe, floor)
            if candidates is not None:
                num_scans += 1
                assert row in candidates
            check(code, vectors, probe, floor)
        above = code.candidates(probe, floor + 0.1)
        num_left_out += above is not None and row not in above
    assert num_scans > 20
    # Not so loose that it would hold anyway.
    assert num_left_out > 15


@pytest.mark.parametrize(("kind", "dimension"), [("isotropic", 128), ("cone", 128), ("cone", 512)])
def test_the_terms_of_the_bound_hold_in_float64(kind: str, dimension: int) -> None:
    rng = np.random.default_rng(13)
    vectors = KINDS[kind](rng, 3000, dimension)
    frame = Frame.fitted(vectors)
    coded = encode(vectors, frame)
    code = BoundCode(vectors, frame, coded.tables, coded.index, coded.outliers)
    decoded = decoded_rows(coded)
    axes = frame.axes.astype(np.float64)
    left = left_by_code(vectors)
    all_wide = vectors.astype(np.float64)
    inside = np.linalg.solve(axes @ axes.T, axes @ all_wide.T).T @ axes
    for row in np.setdiff1d(rng.choice(len(vectors), 100), coded.outliers):
        wide = all_wide[row]
        *coordinates, length, rest, scale, nothing = decoded[row]
        errors = axes @ wide - coordinates
        assert abs(errors[0]) <= coded.tables.first_error + frame.error(1.0)
        assert np.linalg.norm(errors[1:]) <= length
        outside = wide - inside[row]
        assert np.linalg.norm(outside) <= rest + (0.0 if frame.has_rest else 1e-9)
        assert scale == nothing == 0.0
        for probe in (unit(left[row])[0], unit(left[row] + outside)[0], unit(wide + left[row])[0]):
            terms = code.bound(probe, 0.5).extended[0].astype(np.float64)
            most = terms @ np.array([*coordinates, length, rest, scale, nothing])
            most += abs(terms[0]) * (coded.tables.first_error + frame.error(1.0)) + 1e-5
            assert similarities_of(vectors[row : row + 1], probe)[0] <= most


@pytest.mark.parametrize("kind", ["isotropic", "cone"])
def test_probes_along_the_first_axis_and_outside_of_all(kind: str) -> None:
    """Here the tables are fine: the errors of the first coordinate, and lengths outside, show alone."""
    rng = np.random.default_rng(14)
    vectors = KINDS[kind](rng, 3000, 512)
    vectors[:, 400:] *= 0.05
    vectors = unit(vectors)
    frame = Frame.fitted(vectors)
    assert frame.has_rest
    code = BoundCode.build(vectors)
    axes = frame.axes.astype(np.float64)
    first = unit(axes[0])[0]
    for row in rng.choice(len(vectors), 40):
        wide = vectors[row].astype(np.float64)
        outside = unit(wide - axes.T @ (axes @ wide))[0]
        for probe in (first, -first, outside, -outside):
            check(code, vectors, probe, float(similarities_of(vectors, probe)[row]))


def test_near_ties_and_duplicates() -> None:
    rng = np.random.default_rng(5)
    vectors = isotropic(rng, 3000, 128)
    probe = isotropic(rng, 1, 128)[0]
    across = unit(vectors[:200] - np.outer(vectors[:200] @ probe, probe))
    # 200 rows whose similarities differ by about 1e-7, in float32 hardly at all.
    cosines = 0.5 + 1e-7 * rng.permutation(200)
    vectors[:200] = unit(cosines[:, None] * probe + np.sqrt(1 - cosines**2)[:, None] * across)
    vectors[200:260] = vectors[17]
    code = BoundCode.build(vectors)
    truth = similarities_of(vectors, probe)
    for row in (3, 17, 99, 150, 230):
        for floor in (truth[row], np.nextafter(truth[row], 2.0), np.nextafter(truth[row], -2.0)):
            assert check(code, vectors, probe, float(floor)) < 300


def test_extreme_floors_and_probes() -> None:
    rng = np.random.default_rng(6)
    vectors = cone(rng, 2500, 64)
    code = BoundCode.build(vectors)
    mean = vectors.mean(axis=0)
    for probe in (vectors[9], unit(-mean)[0], isotropic(rng, 1, 64)[0]):
        for floor in (-np.inf, -1.5, -1.0, -0.9, -0.5, 0.0, 0.5, 0.99, 1.0, 1.0 + 1e-6, 1.5, np.inf):
            check(code, vectors, probe, floor)
    assert len(code.at_least(vectors[0], -np.inf, None)[1]) == len(vectors)
    assert len(code.at_least(vectors[0], 2.0, None)[1]) == 0


def test_probe_orthogonal_to_every_row() -> None:
    rng = np.random.default_rng(7)
    vectors = np.zeros((2200, 128), np.float32)
    vectors[:, :100] = isotropic(rng, 2200, 100)
    code = BoundCode.build(vectors)
    probe = np.eye(128, dtype=np.float32)[120]
    for floor, num in ((0.0, 2200), (1e-3, 0), (-1e-3, 2200)):
        assert check(code, vectors, probe, floor) == num


@pytest.mark.parametrize("num", [1, 2, 31, 32, 33, 65, 2049])
def test_few_rows_and_equal_rows(num: int) -> None:
    rng = np.random.default_rng(num)
    different = isotropic(rng, num, 128)
    for vectors in (different, np.repeat(different[:1], num, axis=0), np.full((num, 64), 0.125, np.float32)):
        code = BoundCode.build(vectors)
        for probe in (vectors[-1], isotropic(rng, 1, vectors.shape[1])[0]):
            for floor in floors_of(similarities_of(vectors, probe)):
                check(code, vectors, probe, floor)


@pytest.mark.parametrize("kind", KINDS)
def test_dead_rows_stay_dead_outliers_too(kind: str) -> None:
    rng = np.random.default_rng(8)
    vectors = KINDS[kind](rng, 3000, 128)
    code = BoundCode.build(vectors)
    assert len(code.outliers)
    is_alive = rng.random(len(vectors)) > 0.3
    is_alive[code.outliers[::2]] = False
    is_alive[code.outliers[1::2]] = True
    for probe in np.concatenate([vectors[:3], vectors[code.outliers[:4]], isotropic(rng, 2, 128)]):
        for floor in [*floors_of(similarities_of(vectors, probe)), -2.0]:
            check(code, vectors, probe, floor, is_alive)
    nobody = np.zeros(len(vectors), np.bool_)
    assert check(code, vectors, vectors[0], 0.0, nobody) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_written_and_opened(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    vectors = KINDS[kind](rng, 3000, 128)
    built = BoundCode.build(vectors)
    names = built.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    opened = BoundCode.open(tmp_path, vectors)
    for probe in vectors[:5]:
        floor = floors_of(similarities_of(vectors, probe))[2]
        check(opened, vectors, probe, floor)
        similarities, rows = built.at_least(probe, floor, None)
        again, rows_again = opened.at_least(probe, floor, None)
        assert np.array_equal(similarities, again)
        assert np.array_equal(rows, rows_again)


def test_concurrent_searches() -> None:
    rng = np.random.default_rng(10)
    vectors = cone(rng, 5000, 128)
    code = BoundCode.build(vectors)
    probes = vectors[rng.choice(5000, 80)]

    def one(probe: Vector) -> int:
        return check(code, vectors, probe, floors_of(similarities_of(vectors, probe))[3])

    with ThreadPoolExecutor(4) as threads:
        assert min(threads.map(one, probes)) >= 100


def test_far_fewer_rows_are_compared_than_there_are() -> None:
    rng = np.random.default_rng(11)
    vectors = cone(rng, 20_000, 128)
    code = BoundCode.build(vectors)
    for probe in cone(rng, 5, 128):
        candidates = code.candidates(probe, floors_of(similarities_of(vectors, probe))[2])
        assert candidates is not None
        assert len(candidates) < len(vectors) / 10


def test_flat_scan_finds_the_same() -> None:
    rng = np.random.default_rng(12)
    vectors = with_outliers(rng, 3000, 128)
    code = BoundCode.build(vectors)
    is_alive = rng.random(len(vectors)) > 0.5
    alive = np.packbits(is_alive, bitorder="little")
    for probe in vectors[:5]:
        floor = floors_of(similarities_of(vectors, probe))[2]
        _, rows = code.at_least(probe, floor, alive)
        _, flat_rows = flat_at_least(vectors, probe, floor, alive)
        wanted = np.flatnonzero((similarities_of(vectors, probe) >= floor) & is_alive)
        assert np.setdiff1d(wanted, rows).size == np.setdiff1d(wanted, flat_rows).size == 0
    none = np.empty((0, 128), np.float32)
    assert len(flat_at_least(none, vectors[0], -1.0, None)[1]) == 0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(1, 700),
    dimension=st.sampled_from([2, 3, 17, 64, 100, 128]),
    width=st.floats(1e-4, 10.0),
    place=st.floats(0.0, 1.0),
)
def test_any_cone_any_floor(seed: int, num: int, dimension: int, width: float, place: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal(dimension) + width * rng.standard_normal((num, dimension)))
    code = BoundCode.build(vectors)
    near = vectors[rng.integers(num)] + rng.random() * rng.standard_normal(dimension)
    for probe in (unit(near)[0], isotropic(rng, 1, dimension)[0], vectors[0]):
        truth = np.sort(similarities_of(vectors, probe))
        check(code, vectors, probe, float(truth[int(place * (num - 1))]))
        check(code, vectors, probe, float(truth[0] + place * (truth[-1] - truth[0])))
