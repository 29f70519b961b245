"""The thread that owns a device and those who ask it, with CPU tensors in the device's place."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import gpu as gpu_benchmark
from engine.errors import DeviceError, UnavailableError
from engine.index.gpu import Answer, GpuSearcher, MemoryPlan, refuse_if_absent
from engine.index.gpu_torch import TorchScan
from engine.types import Vectors
from tests.unit.index.full_scan import SMALL, bitmap, check, cone


@pytest.mark.parametrize("num_probes", [0, 1, 3, 50])
def test_batches_larger_than_a_piece_are_answered_whole(num_probes: int) -> None:
    vectors, probes = cone(14, 600), cone(15, num_probes)
    searcher = GpuSearcher(vectors, "cpu", limits=SMALL)
    check(searcher.search(probes, 12, None), vectors, probes, 12)
    check(searcher.search(probes, 0, None), vectors, probes, 0)
    searcher.close()


def test_a_generation_without_rows_answers_nothing() -> None:
    searcher = GpuSearcher(np.empty((0, 32), np.float32), "cpu", limits=SMALL)
    similarities, rows = searcher.search(cone(16, 2), 3, None)
    assert (similarities == -np.inf).all()
    assert (rows == -1).all()
    searcher.close()


def test_vectors_may_be_mapped_read_only_from_a_file(tmp_path: Path) -> None:
    vectors, probes = cone(17, 300), cone(18, 2)
    path = tmp_path / "vectors.npy"
    np.save(path, vectors)
    searcher = GpuSearcher(np.load(path, mmap_mode="r"), "cpu", limits=SMALL)
    check(searcher.search(probes, 5, None), vectors, probes, 5)
    searcher.close()


def test_callers_of_many_threads_get_each_their_own_answer() -> None:
    """Different bitmaps, numbers of rows and of probes at once."""
    vectors = cone(19, 800)
    searcher = GpuSearcher(vectors, "cpu", limits=SMALL)
    rng = np.random.default_rng(20)
    masks = [np.ones(800, np.bool_), rng.random(800) < 0.5]
    bitmaps = [None, bitmap(masks[1])]

    def ask(caller: int) -> None:
        probes = cone(100 + caller, 1 + caller % 3)
        which, num_rows = caller % 2, 5 + caller % 2
        answer = searcher.search(probes, num_rows, bitmaps[which])
        check(answer, vectors, probes, num_rows, masks[which])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(96)))
    searcher.close()


class _HeldScan:
    """A real scan that waits until it is let go, and notes how many probes came at once."""

    name = "held"

    def __init__(self, vectors: Vectors):
        self._scan = TorchScan(vectors, "cpu", SMALL, None)
        self.has_begun, self.may_go = threading.Event(), threading.Event()
        self.batches: list[int] = []
        self.is_closed = False
        self.error: Exception | None = None

    def search(self, probes: Vectors, num_rows: int, alive: NDArray[np.uint8] | None) -> Answer:
        self.batches.append(len(probes))
        self.has_begun.set()
        assert self.may_go.wait(60)
        if self.error is not None:
            raise self.error
        return self._scan.search(probes, num_rows, alive)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> _HeldScan:
    scan = _HeldScan(cone(21, 400))
    monkeypatch.setattr("engine.index.gpu._opened", lambda *_: scan)
    return scan


def wait_for(searcher: GpuSearcher, is_so: Callable[[], bool]) -> None:
    """Wait until something holds of the queue; its owner is busy and does not take our wake-ups."""
    with searcher._has_work:
        assert searcher._has_work.wait_for(is_so, 60)


def test_what_waits_is_gathered_into_batches_no_larger_than_allowed(held: _HeldScan) -> None:
    vectors = cone(21, 400)
    searcher = GpuSearcher(vectors, "cpu", limits=SMALL)
    with ThreadPoolExecutor(12) as pool:
        probes = [cone(200 + caller, 1) for caller in range(11)]
        first = pool.submit(searcher.search, probes[0], 5, None)
        assert held.has_begun.wait(60)
        rest = [pool.submit(searcher.search, probe, 5, None) for probe in probes[1:10]]
        wait_for(searcher, lambda: len(searcher._waiting) == 9)
        other = pool.submit(searcher.search, probes[10], 6, None)
        wait_for(searcher, lambda: len(searcher._waiting) == 10)
        held.may_go.set()
        for probe, answer in zip(probes[:10], [first, *rest], strict=True):
            check(answer.result(60), vectors, probe, 5)
        check(other.result(60), vectors, probes[10], 6)
    # One began alone; nine waited, four fit a batch; who asks for another number of rows goes alone.
    assert held.batches[:3] == [1, 4, 4]
    assert sorted(held.batches[3:]) == [1, 1]
    searcher.close()


def test_closing_answers_what_waits_and_refuses_what_comes_later(held: _HeldScan) -> None:
    vectors, probes = cone(21, 400), cone(22, 1)
    searcher = GpuSearcher(vectors, "cpu", limits=SMALL)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(searcher.search, probes, 5, None)
        assert held.has_begun.wait(60)
        second = pool.submit(searcher.search, probes, 5, None)
        wait_for(searcher, lambda: len(searcher._waiting) == 1)
        closing = pool.submit(searcher.close)
        wait_for(searcher, lambda: searcher._is_closing)
        with pytest.raises(UnavailableError, match="closed"):
            searcher.search(probes, 5, None)
        assert not closing.done()
        held.may_go.set()
        check(first.result(60), vectors, probes, 5)
        check(second.result(60), vectors, probes, 5)
        closing.result(60)
    assert held.is_closed
    assert not searcher._owner.is_alive()
    searcher.close()


def test_a_failure_reaches_every_caller_of_the_batch_and_the_next_is_served(held: _HeldScan) -> None:
    searcher = GpuSearcher(cone(21, 400), "cpu", limits=SMALL)
    held.error = UnavailableError("the device ran out of memory")
    held.may_go.set()
    with pytest.raises(UnavailableError, match="out of memory"):
        searcher.search(cone(23, 1), 5, None)
    held.error = None
    check(searcher.search(cone(23, 1), 5, None), cone(21, 400), cone(23, 1), 5)
    searcher.close()


def test_memory_is_computed_stated_and_refused_before_anything_is_allocated() -> None:
    plan = MemoryPlan.fitting(10_000_000, 128, 80 * 2**30)
    assert plan.scan_bytes >= 10_000_000 * 128 * 2
    assert plan.rows_bytes == 10_000_000 * 128 * 4
    assert f"{plan.total_bytes / 2**30:.2f} GiB of device memory" in str(plan)
    tight = MemoryPlan.fitting(10_000_000, 128, 5 * 2**30)
    assert tight.rows_bytes == 0
    assert tight.total_bytes <= 5 * 2**30
    assert "on the host" in str(tight)
    with pytest.raises(DeviceError, match=r"needs \d\.\d\d GiB .* 2\.00 GiB are free") as caught:
        MemoryPlan.fitting(10_000_000, 128, 2 * 2**30)
    assert "search_device" in caught.value.hint
    with pytest.raises(DeviceError, match=r"1\.00 GiB are free"):
        GpuSearcher(cone(24, 100), "cpu", free_bytes=2**30)


def test_what_is_used_is_named_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "engine.index.gpu"):
        searcher = GpuSearcher(cone(25, 100), "cpu")
    assert "GiB of device memory" in searcher.name
    assert torch.__version__ in searcher.name
    assert searcher.name in caplog.text
    searcher.close()


def test_a_device_that_finds_other_rows_than_it_was_given_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    similarities = TorchScan._similarities

    def wrong(scan: TorchScan, probes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return similarities(scan, probes, rows) * 0.999

    monkeypatch.setattr(TorchScan, "_similarities", wrong)
    with pytest.raises(DeviceError, match="does not find"):
        GpuSearcher(cone(26, 100), "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(DeviceError, match="search on cuda was asked for") as caught:
        GpuSearcher(cone(27, 10), "cuda")
    assert "search_device" in caught.value.hint
    with pytest.raises(DeviceError):
        refuse_if_absent("cuda:7")
    refuse_if_absent("cpu")


def test_torch_is_imported_only_for_a_device() -> None:
    code = "import sys, engine.index.gpu; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_benchmark_measures_a_device_that_answers_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_benchmark, "RUNS_MIN", 2)
    rows = gpu_benchmark.measure(cone(31, 300), cone(32, 1500), "cpu", 0.0)
    assert [row["batch"] for row in rows] == [1, 64, 1024]
    assert all(row["size"] == 300 and 0 < row["p50_ms"] <= row["p99_ms"] for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_benchmark_measures_nothing_where_there_is_no_device() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "nothing measured: search on cuda was asked for" in ran.stderr
    assert ran.stdout == ""
