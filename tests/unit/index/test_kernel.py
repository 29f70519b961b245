"""The scan in C against plain numpy, on every instruction set that this processor has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.index import kernel
from engine.index.build import build
from engine.index.code_axes import CodeAxes
from engine.index.codes import Codes
from engine.index.faiss_library import library
from engine.index.fine_codes import FineCoder, num_bytes
from engine.index.generation import Generation
from engine.index.kernel import Extent
from engine.types import Columns, Vectors
from tests.contract.naive import unit_vectors

NUM_ROWS = 5_003
LEVELS = range(1, kernel.best_level() + 1)

pytestmark = pytest.mark.skipif(not kernel.is_available(), reason="no kernel was compiled for this processor")


def make(folder: Path, vectors: Vectors) -> Generation:
    ids = np.arange(len(vectors), dtype=np.uint64)
    rows = Columns(ids, ids, vectors)
    return build(folder, rows, number=1, sequence=1, contract_digest="digest", flat_rows_max=0)


@pytest.fixture(params=[15, 32, 64, 128, 130, 258, 512], ids=str)
def generation(request: pytest.FixtureRequest, tmp_path: Path) -> Generation:
    return make(tmp_path, unit_vectors(np.random.default_rng(1), NUM_ROWS, request.param))


def codes_of(generation: Generation) -> Codes:
    assert generation.codes is not None
    return generation.codes


def code_distances(generation: Generation, coordinates: Vectors) -> NDArray[np.float64]:
    """Squared distance of float32[1, d] to the centroids nearest to each row."""
    codes = codes_of(generation)
    index = codes.index
    centroids = library().vector_to_array(index.pq.centroids).reshape(index.pq.M, 16, index.pq.dsub)
    rows = codes.axes.coordinates(generation.vectors).reshape(len(generation.vectors), index.pq.M, 1, -1)
    nearest = ((rows - centroids) ** 2).sum(axis=3).argmin(axis=2)
    tables = ((coordinates.reshape(index.pq.M, 1, -1) - centroids) ** 2).sum(axis=2).astype(np.float64)
    distances: NDArray[np.float64] = tables[np.arange(index.pq.M), nearest].sum(axis=1)
    return distances


@pytest.mark.parametrize("level", LEVELS)
def test_rows_within_the_limit_are_those_nearest_by_their_codes(
    generation: Generation, level: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(kernel, "_level", level)
    codes = codes_of(generation)
    assert codes.kernel is not None
    dimension = generation.manifest.dimension
    for probe in unit_vectors(rng, 10, dimension):
        coordinates = codes.axes.coordinates(probe[None])
        # So many are compared that what is found is what the scan found.
        similarities, rows, radii = codes.kernel.nearest(
            probe[None], coordinates, None, Extent(0, 200, 200, 200)
        )
        distances = code_distances(generation, coordinates)
        order = np.sort(distances)
        # Each sub-quantiser's table is rounded to 8 bits.
        slack = 0.01 * (order[-1] - order[0])
        assert len(set(rows[0].tolist())) == 200
        assert distances[rows[0]].max() <= order[199] + slack
        assert abs(radii[0] - order[199]) <= slack
        np.testing.assert_allclose(similarities[0], generation.vectors[rows[0]] @ probe, atol=1e-6)
        assert (np.diff(similarities[0]) <= 0).all()


@pytest.mark.parametrize("level", LEVELS)
def test_fine_codes_choose_the_nearest(
    generation: Generation, level: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(kernel, "_level", level)
    codes = codes_of(generation)
    assert codes.kernel is not None
    probes = unit_vectors(rng, 60, generation.manifest.dimension)
    best = (probes.astype(np.float64) @ generation.vectors.astype(np.float64).T).argmax(axis=1)
    # All are found, and of them the 20 nearest by the fine codes are compared.
    _, rows, _ = codes.kernel.nearest(
        probes, codes.axes.coordinates(probes), None, Extent(0, NUM_ROWS, 20, 5)
    )
    assert np.mean(rows[:, 0] == best) >= 0.98


def test_every_instruction_set_finds_the_same(
    generation: Generation, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    codes = codes_of(generation)
    assert codes.kernel is not None
    probes = unit_vectors(rng, 9, generation.manifest.dimension)
    alive = np.packbits(rng.random(NUM_ROWS) < 0.7, bitorder="little")
    found = []
    for level in LEVELS:
        monkeypatch.setattr(kernel, "_level", level)
        coordinates = codes.axes.coordinates(probes)
        found.append(codes.kernel.nearest(probes, coordinates, alive, Extent(8, 300, 50, 20)))
    for similarities, rows, radii in found[1:]:
        np.testing.assert_array_equal(rows, found[0][1])
        np.testing.assert_allclose(similarities, found[0][0], atol=1e-6)
        np.testing.assert_array_equal(radii, found[0][2])


def test_a_batch_finds_what_each_probe_finds_alone(generation: Generation, rng: np.random.Generator) -> None:
    codes = codes_of(generation)
    probes = unit_vectors(rng, 130, generation.manifest.dimension)
    similarities, rows, radius = codes.search(probes, 10, None)
    assert radius is None
    for probe, values, numbers in zip(probes, similarities, rows, strict=True):
        alone = codes.search(probe[None], 10, None)
        np.testing.assert_array_equal(alone[0][0], values)
        np.testing.assert_array_equal(alone[1][0], numbers)


def test_faiss_finds_as_much_where_there_is_no_kernel(
    generation: Generation, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    probes = unit_vectors(rng, 100, generation.manifest.dimension)
    by_kernel = codes_of(generation).search(probes, 10, None)[1][:, 0]
    monkeypatch.setattr(kernel, "_level", 0)
    plain = Generation(generation.folder, "digest")
    assert codes_of(plain).kernel is None
    by_faiss = codes_of(plain).search(probes, 10, None)[1][:, 0]
    assert np.mean(by_kernel == by_faiss) >= 0.98


def test_an_index_built_without_a_kernel_is_the_same_but_for_how_deep_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit_vectors(np.random.default_rng(2), NUM_ROWS, 64)
    with_it = make(tmp_path / "with", vectors).manifest
    monkeypatch.setattr(kernel, "_level", 0)
    without = make(tmp_path / "without", vectors).manifest
    assert with_it.parameters is not None
    assert without.parameters is not None
    assert without.parameters.num_found == pytest.approx(with_it.parameters.num_found, rel=0.3)
    names = {"codes.faiss", "fine.codes", "axes.npz", "bound.lists"}
    assert {n: with_it.files[n] for n in names} == {n: without.files[n] for n in names}


@pytest.mark.parametrize("dimension", [9, 128, 129, 512])
def test_a_fine_code_is_two_levels_in_a_byte(dimension: int, rng: np.random.Generator) -> None:
    vectors = unit_vectors(rng, 300, dimension)
    axes = CodeAxes.fitted(vectors, dimension // (4 if dimension % 4 == 0 else 3))
    coder = FineCoder(axes)
    coordinates = axes.coordinates(vectors)
    codes = coder.code(coordinates)
    assert codes.shape == (300, num_bytes(dimension))
    halves = np.stack([codes & 15, codes >> 4], axis=1).reshape(300, 2, -1, 64)
    levels = halves.transpose(0, 2, 1, 3).reshape(300, -1)[:, :dimension]
    decoded = coder.decoded(levels)
    # Lloyd-Max quantisation of a normal variable leaves 0.0095 of its variance; far values cost more.
    left = ((decoded - coordinates) ** 2).mean() / coordinates.var()
    assert left < 0.02


def test_axes_keep_distances_and_share_the_variance(rng: np.random.Generator) -> None:
    vectors = (rng.standard_normal((4000, 32)) * np.geomspace(1.0, 0.01, 32)).astype(np.float32)
    axes = CodeAxes.fitted(vectors, 8)
    coordinates = axes.coordinates(vectors)
    np.testing.assert_allclose(axes.axes @ axes.axes.T, np.eye(32), atol=1e-5)
    before, after = (np.linalg.norm(rows[1:] - rows[:-1], axis=1) for rows in (vectors, coordinates))
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-5)
    products = np.log(coordinates.std(axis=0)).reshape(8, 4).sum(axis=1)
    assert np.ptp(products) < 0.1 * np.ptp(np.log(vectors.std(axis=0)).reshape(8, 4).sum(axis=1))
