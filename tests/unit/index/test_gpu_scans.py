"""Scans in float16, each through its library on the CPU, against brute force in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable

import faiss
import numpy as np
import pytest
import torch

from engine.index.gpu import GpuSearcher, MemoryPlan
from engine.index.gpu_faiss import FaissScan
from engine.index.gpu_torch import TorchScan
from engine.index.half_precision import RowPrecision
from engine.types import Vectors
from tests.contract.naive import unit_vectors
from tests.unit.index.full_scan import ROUNDING, SMALL, bitmap, check, cone

Make = Callable[[Vectors], "TorchScan | FaissScan"]


def on_torch(vectors: Vectors) -> TorchScan:
    return TorchScan(vectors, "cpu", SMALL, None)


def on_torch_with_rows_on_the_host(vectors: Vectors) -> TorchScan:
    most = MemoryPlan.fitting(vectors.shape[0], vectors.shape[1], sys.maxsize, SMALL)
    return TorchScan(vectors, "cpu", SMALL, most.total_bytes - 1)


def on_faiss(vectors: Vectors) -> FaissScan:
    """The same float16 rows as FAISS keeps on a GPU, in its index for the CPU."""
    index = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.add(vectors)
    return FaissScan(vectors, index, "FAISS in float16")


every_scan = pytest.mark.parametrize("make", [on_torch, on_torch_with_rows_on_the_host, on_faiss])


@every_scan
@pytest.mark.parametrize("num_vectors", [1, 5, 128, 129, 1000])
@pytest.mark.parametrize("num_rows", [1, 10, 300, 1200])
def test_finds_what_a_full_scan_finds(make: Make, num_vectors: int, num_rows: int) -> None:
    vectors, probes = cone(1, num_vectors), cone(2, 7)
    check(make(vectors).search(probes, num_rows, None), vectors, probes, num_rows)


@every_scan
@pytest.mark.parametrize("share_alive", [0.0, 0.01, 0.5, 0.99])
def test_finds_only_living_rows(make: Make, share_alive: float) -> None:
    vectors, probes = cone(3, 900), cone(4, 5)
    is_alive = np.random.default_rng(5).random(900) < share_alive
    scan, alive = make(vectors), bitmap(is_alive)
    for _ in range(2):
        check(scan.search(probes, 10, alive), vectors, probes, 10, is_alive)


@every_scan
def test_each_bitmap_counts_for_its_own_search_and_rows_beyond_it_are_gone(make: Make) -> None:
    vectors, probes = cone(6, 700), cone(7, 3)
    scan = make(vectors)
    rng = np.random.default_rng(8)
    masks = [rng.random(700) < 0.5 for _ in range(5)]
    masks.append(np.arange(700) < 96)
    bitmaps = [bitmap(mask) for mask in masks]
    bitmaps[-1] = bitmaps[-1][:12]
    for mask, alive in [*zip(masks, bitmaps, strict=True)] * 2:
        check(scan.search(probes, 20, alive), vectors, probes, 20, mask)
    check(scan.search(probes, 20, None), vectors, probes, 20)


@every_scan
def test_near_ties_beyond_the_reach_of_float16_are_told_apart(make: Make) -> None:
    """Hundreds of rows nearer to each other than float16 can say: the best ones are found all the same."""
    rng = np.random.default_rng(9)
    centre = unit_vectors(rng, 1, 32)[0]
    wide = centre + rng.normal(size=(1500, 32)) * 2e-5
    near = np.ascontiguousarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)
    vectors = np.concatenate([cone(10, 700), near])
    probes = np.concatenate([centre[None], near[:3], cone(11, 2)])
    exact = probes.astype(np.float64) @ vectors.astype(np.float64).T
    halves = vectors.astype(np.float16).astype(np.float64)
    by_half = np.argsort(-(probes.astype(np.float16).astype(np.float64) @ halves.T), axis=1)
    # Without another look at what float16 cannot tell apart, the best row would be missed here.
    assert any(np.argmax(exact[probe]) not in by_half[probe, :74] for probe in range(4))
    check(make(vectors).search(probes, 10, None), vectors, probes, 10)


@every_scan
def test_equal_rows_are_found_once_each(make: Make) -> None:
    vectors = np.repeat(cone(12, 3), 400, axis=0)
    probes = cone(13, 4)
    check(make(vectors).search(probes, 100, None), vectors, probes, 100)
    is_alive = np.arange(1200) % 7 == 0
    check(make(vectors).search(probes, 100, bitmap(is_alive)), vectors, probes, 100, is_alive)


@pytest.mark.parametrize("dimension", [2, 128, 1024])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1.5])
def test_no_score_of_the_scan_is_off_by_more_than_the_bound(dimension: int, scale: float) -> None:
    rng = np.random.default_rng(dimension)
    vectors = unit_vectors(rng, 500, dimension)
    # Components below float16's normal numbers, and vectors that are not quite unit.
    vectors[::2, 1:] *= 1e-5
    vectors *= np.float32(scale)
    probes = np.concatenate([unit_vectors(rng, 20, dimension), vectors[:20]])
    scan = TorchScan(vectors, "cpu", SMALL, None)
    wide, halves = torch.from_numpy(probes), torch.from_numpy(probes).half()
    bounds = scan._bounds(wide, halves).numpy()
    scores = scan._scores(halves, 0, 500, None).float().numpy()
    exact = probes.astype(np.float64) @ vectors.astype(np.float64).T
    off = np.abs(scores - exact).max(axis=1)
    assert (off <= bounds).all()
    # Nor so wide that it proves nothing.
    assert (bounds <= 2e-3 * max(scale, scale**2) + 1e-6).all()
    reranked = scan._similarities(wide, torch.arange(500)[None].expand(40, 500)).numpy()
    assert np.abs(reranked - exact).max() <= ROUNDING * max(1.0, scale) ** 2


def test_the_bound_grows_with_what_was_measured() -> None:
    precision = RowPrecision(128)
    precision.add(1.0, 2e-4)
    narrow = precision.bound(1.0, 2e-4)
    precision.add(0.5, 1e-4)
    assert precision.bound(1.0, 2e-4) == narrow
    precision.add(1.0, 4e-4)
    assert precision.bound(1.0, 2e-4) == pytest.approx(narrow + 2e-4, rel=0.01)
    assert 5e-4 < narrow < 2e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("free_bytes", [None, 2**30 + 2**27])
def test_a_real_device_finds_what_a_full_scan_finds(free_bytes: int | None) -> None:
    vectors, probes = cone(28, 200_000, 128), cone(29, 64, 128)
    is_alive = np.random.default_rng(30).random(200_000) < 0.7
    searcher = GpuSearcher(vectors, "cuda", free_bytes=free_bytes)
    check(searcher.search(probes, 10, None), vectors, probes, 10)
    check(searcher.search(probes, 300, bitmap(is_alive)), vectors, probes, 300, is_alive)
    searcher.close()
