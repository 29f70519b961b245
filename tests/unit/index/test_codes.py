"""Generations with codes: what the default search finds, against exact scans in float64."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import CorruptDataError, NewerFormatError
from engine.index.build import build
from engine.index.delta import UNCODED_ROWS_MAX
from engine.index.generation import CODED, FLAT, IDENTITY_NUMBERS, MANIFEST, TEMPLATE_IDS, VECTORS, Generation
from engine.index.parameters import TRAINING_ROWS_MIN, num_subquantisers
from engine.index.search import Snapshot
from engine.types import Columns, Vectors
from tests.contract.naive import unit_vectors

DIMENSION = 32
NUM_ROWS = 20_000
FILES = [
    MANIFEST, VECTORS, TEMPLATE_IDS, IDENTITY_NUMBERS, "codes.faiss", "codes.lists", "sample.faiss",
    "fine.codes", "axes.npz", "bound.faiss", "bound.lists", "bound.npz",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("scan")


def columns(vectors: Vectors, first: int = 0) -> Columns:
    """Template id 2 x row + 10; every identity has two templates."""
    rows = np.arange(first, first + len(vectors), dtype=np.uint64)
    return Columns(2 * rows + 10, rows // 2 + 500, vectors)


def make(folder: Path, vectors: Vectors, flat_rows_max: int = 0) -> Generation:
    return build(
        folder,
        columns(vectors),
        number=1,
        sequence=1,
        contract_digest="digest",
        flat_rows_max=flat_rows_max,
    )


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return unit_vectors(np.random.default_rng(1), NUM_ROWS, DIMENSION)


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory, vectors: Vectors) -> Generation:
    return make(tmp_path_factory.mktemp("index"), vectors)


def nearest(vectors: Vectors, probes: Vectors, is_alive: NDArray[np.bool_]) -> NDArray[np.intp]:
    exact = probes.astype(np.float64) @ vectors.astype(np.float64).T
    exact[:, ~is_alive] = -2.0
    rows: NDArray[np.intp] = exact.argmax(axis=1)
    return rows


@pytest.mark.parametrize("removed_share", [0.0, 0.1, 0.97])
@pytest.mark.parametrize("num_added", [0, 50, 3 * UNCODED_ROWS_MAX])
def test_the_nearest_are_found_alone_and_in_batches(
    generation: Generation, vectors: Vectors, rng: np.random.Generator, removed_share: float, num_added: int
) -> None:
    added = unit_vectors(rng, num_added, DIMENSION)
    snapshot = Snapshot.base(generation, 1, DIMENSION)
    for start in range(0, num_added, UNCODED_ROWS_MAX):
        block = added[start : start + UNCODED_ROWS_MAX]
        snapshot = snapshot.advanced(2, columns(block, NUM_ROWS + start), ())
    everyone = np.concatenate([vectors, added])
    is_alive = rng.random(len(everyone)) >= removed_share
    gone = (2 * np.flatnonzero(~is_alive) + 10).tolist()
    snapshot = snapshot.advanced(3, columns(added[:0]), gone)
    assert snapshot.num_alive == is_alive.sum()
    assert not snapshot.is_exact
    probes = np.concatenate([unit_vectors(rng, 200, DIMENSION), everyone[is_alive][-50:]])
    best = nearest(everyone, probes, is_alive)
    for num_rows in (10, 300, 700):
        batch = snapshot.search(probes, num_rows)
        ones = [snapshot.search(probe[None], num_rows) for probe in probes]
        for found in (
            [batch.template_ids[row] for row in range(len(probes))],
            [o.template_ids[0] for o in ones],
        ):
            agreed = np.mean([ids[0] == 2 * row + 10 for ids, row in zip(found, best, strict=True)])
            assert agreed >= 0.995
        for probe, one, row in zip(probes, ones, range(len(probes)), strict=True):
            count = min(num_rows, int(is_alive.sum()))
            for similarities, ids, numbers in (
                (one.similarities[0], one.template_ids[0], one.identity_numbers[0]),
                (batch.similarities[row], batch.template_ids[row], batch.identity_numbers[row]),
            ):
                is_found = similarities > -np.inf
                assert is_found.sum() == count
                assert is_found[:count].all()
                assert (np.diff(similarities[:count]) <= 0).all()
                rows = ((ids[:count] - 10) // 2).astype(np.int64)
                assert len(set(rows)) == count
                assert is_alive[rows].all()
                np.testing.assert_allclose(similarities[:count], everyone[rows] @ probe, atol=1e-6)
                np.testing.assert_array_equal(numbers[:count], rows // 2 + 500)


def test_more_rows_than_there_are_are_all_of_them(generation: Generation, rng: np.random.Generator) -> None:
    snapshot = Snapshot.base(generation, 1, DIMENSION)
    for num_probes in (1, 3):
        found = snapshot.search(unit_vectors(rng, num_probes, DIMENSION), NUM_ROWS + 5)
        for ids in found.template_ids:
            assert sorted(ids.tolist()) == list(range(10, 2 * NUM_ROWS + 10, 2))
    assert snapshot.search(np.empty((0, DIMENSION), np.float32), 5).similarities.shape[0] == 0


def test_all_rows_at_least_as_similar_are_found(
    generation: Generation, vectors: Vectors, rng: np.random.Generator
) -> None:
    added = unit_vectors(rng, 3000, DIMENSION)
    everyone = np.concatenate([vectors, added])
    is_alive = rng.random(len(everyone)) >= 0.2
    snapshot = Snapshot.base(generation, 1, DIMENSION).advanced(2, columns(added, NUM_ROWS), ())
    snapshot = snapshot.advanced(3, columns(added[:0]), (2 * np.flatnonzero(~is_alive) + 10).tolist())
    for probe in unit_vectors(rng, 5, DIMENSION):
        exact = everyone.astype(np.float64) @ probe.astype(np.float64)
        for floor in (-np.inf, 0.0, float(np.sort(exact)[-20]), 1.5):
            found = snapshot.at_least(probe, floor)
            rows = ((found.template_ids[0] - 10) // 2).astype(np.int64)
            assert set(np.flatnonzero(is_alive & (exact >= floor))) <= set(rows.tolist())
            assert (exact[rows] >= floor - 1e-5).all()
            assert is_alive[rows].all()
            assert (np.diff(found.similarities[0]) <= 0).all()


def test_a_search_among_identities_is_exact(
    generation: Generation, vectors: Vectors, rng: np.random.Generator
) -> None:
    added = unit_vectors(rng, 300, DIMENSION)
    everyone = np.concatenate([vectors, added])
    snapshot = Snapshot.base(generation, 1, DIMENSION).advanced(2, columns(added, NUM_ROWS), [10, 14])
    probes = unit_vectors(rng, 3, DIMENSION)
    for numbers in ([], [500], [500, 501, 502], list(range(500, 9000, 3)), [10_500, 10_501, 99_999], [3]):
        rows = np.flatnonzero(np.isin(np.arange(len(everyone)) // 2 + 500, numbers))
        rows = rows[(rows != 0) & (rows != 2)]
        found = snapshot.among(probes, np.array(numbers, np.uint64), 20)
        exact = np.sort(probes @ everyone[rows].T, axis=1)[:, ::-1][:, :20]
        assert found.similarities.shape == exact.shape
        np.testing.assert_allclose(found.similarities, exact, atol=1e-6)
        assert np.isin(found.identity_numbers, numbers).all()
        assert np.isin(found.template_ids, 2 * rows + 10).all()


def test_rows_of_identities_are_found_where_their_numbers_do_not_ascend(tmp_path: Path) -> None:
    vectors = unit_vectors(np.random.default_rng(3), 50, DIMENSION)
    numbers = np.random.default_rng(4).integers(0, 10, 50).astype(np.uint64)
    rows = Columns(np.arange(50, dtype=np.uint64), numbers, vectors)
    generation = build(tmp_path, rows, number=1, sequence=1, contract_digest="digest")
    for wanted in ([0], [3, 4, 9], [11], []):
        found = generation.rows_of_identities(np.array(wanted, np.uint64))
        assert sorted(found.tolist()) == np.flatnonzero(np.isin(numbers, wanted)).tolist()


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file_is_found(tmp_path: Path, vectors: Vectors, name: str) -> None:
    folder = make(tmp_path, vectors[: TRAINING_ROWS_MIN + 1]).folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    whole = (folder / name).read_bytes()
    head = range(min(64, len(whole)))
    for position in {*head[::5], *range(0, len(whole), max(1, len(whole) // 20)), len(whole) - 1}:
        damaged = bytearray(whole)
        damaged[position] ^= 1
        (folder / name).write_bytes(damaged)
        with pytest.raises((CorruptDataError, NewerFormatError)):
            Generation(folder, "digest").verify_vectors()
    (folder / name).write_bytes(whole)
    Generation(folder, "digest").verify_vectors()
    (folder / name).unlink()
    with pytest.raises(CorruptDataError, match=name.replace(".", r"\.") if name != MANIFEST else "manifest"):
        Generation(folder, "digest")


def test_the_same_rows_give_the_same_files(tmp_path: Path, vectors: Vectors) -> None:
    first, second = (make(tmp_path / name, vectors[:3000]).manifest for name in ("a", "b"))
    assert first.files == second.files


def test_progress_is_told_while_rows_are_coded(tmp_path: Path, vectors: Vectors) -> None:
    reports: list[tuple[int, int]] = []
    rows = columns(vectors[:2000])
    build(
        tmp_path,
        rows,
        number=1,
        sequence=1,
        contract_digest="digest",
        flat_rows_max=0,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert reports == [(2000, 2000)]


@pytest.mark.parametrize("num_kinds", [1, 3, 20])
def test_rows_that_are_all_alike_build_and_are_found(tmp_path: Path, num_kinds: int) -> None:
    kinds = unit_vectors(np.random.default_rng(6), num_kinds, DIMENSION)
    vectors = kinds[np.arange(30_000) % num_kinds]
    snapshot = Snapshot.base(make(tmp_path, vectors), 1, DIMENSION)
    for probes in (kinds[:1], kinds):
        for num_rows in (1, 300, 30_000):
            found = snapshot.search(probes, num_rows)
            assert found.similarities.shape == (len(probes), num_rows)
            np.testing.assert_allclose(found.similarities[:, 0], 1.0, atol=1e-6)
            assert np.isfinite(found.similarities).all()


def test_many_threads_search_at_once(generation: Generation, vectors: Vectors) -> None:
    probes = unit_vectors(np.random.default_rng(7), 64, DIMENSION)
    snapshot = Snapshot.base(generation, 1, DIMENSION).advanced(2, columns(vectors[:3000], NUM_ROWS), [12])
    expected = [snapshot.search(probe[None], 50) for probe in probes]
    barrier = threading.Barrier(8)

    def search(start: int) -> bool:
        barrier.wait()
        for turn in range(3 * len(probes)):
            row = (start + turn) % len(probes)
            found = snapshot.search(probes[row : row + 1], 50)
            if not np.array_equal(found.template_ids, expected[row].template_ids):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(search, range(0, 64, 8)))


def test_an_open_generation_answers_after_its_files_are_gone(tmp_path: Path, vectors: Vectors) -> None:
    opened = make(tmp_path, vectors[:3000])
    before = opened.search(vectors[:1], 10, None)
    for path in opened.folder.iterdir():
        path.unlink()
    after = opened.search(vectors[:1], 10, None)
    np.testing.assert_array_equal(before[1], after[1])


def test_which_index_is_built_depends_on_the_number_of_rows_and_the_dimension(
    tmp_path: Path, vectors: Vectors
) -> None:
    assert num_subquantisers(50_000, 128) == ()
    assert num_subquantisers(60_000, 131) == ()
    for dimension, sizes in ((64, (8, 16)), (128, (16, 32)), (130, (65,)), (255, (85,)), (512, (64, 128))):
        assert num_subquantisers(60_000, dimension) == num_subquantisers(10_000_000, dimension) == sizes
    assert num_subquantisers(TRAINING_ROWS_MIN, 128, 0) == ()
    assert make(tmp_path, vectors[:TRAINING_ROWS_MIN]).manifest.kind == FLAT
    assert make(tmp_path / "coded", vectors[: TRAINING_ROWS_MIN + 1]).manifest.kind == CODED


@pytest.mark.parametrize("dimension", [9, 64, 130, 255, 258, 512])
def test_any_dimension_can_be_searched(tmp_path: Path, dimension: int) -> None:
    vectors = unit_vectors(np.random.default_rng(8), 2000, dimension)
    rows = columns(vectors)
    generation = build(tmp_path, rows, number=1, sequence=1, contract_digest="digest", flat_rows_max=0)
    assert generation.manifest.dimension == dimension
    found = Snapshot.base(generation, 1, dimension).search(vectors[:50], 5)
    np.testing.assert_array_equal(found.template_ids[:, 0], rows.template_ids[:50])


def test_one_thread_builds_the_same_as_two(tmp_path: Path, vectors: Vectors) -> None:
    manifests = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        folder.mkdir()
        rows = columns(vectors)
        generation = build(
            folder, rows, number=1, sequence=1, contract_digest="digest", flat_rows_max=0, threads=threads
        )
        manifests.append(generation.manifest)
    assert manifests[0] == manifests[1]
