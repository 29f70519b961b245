"""Batches of augmented crops."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import DeviceError, InvalidInputError, PreconditionError, SettingsError, TrainingError
from engine.trainer.augment import NO_AUGMENTATION, AugmentSettings
from engine.trainer.crop_set import CropRows, CropSet
from engine.trainer.loader import Batch, Loader, Rows
from engine.trainer.sampler import PKSampler
from tests.unit.trainer.faces import keep_crops

SETTINGS = AugmentSettings(occlusion=0.5, colour=0.5, blur=0.5, resample=0.5, jpeg=0.5)


@pytest.fixture
def crops(tmp_path: Path) -> CropSet:
    """Ten people with three crops of 24 px each, in a file."""
    pixels = np.random.default_rng(1).integers(0, 256, (30, 24, 24, 3), np.uint8)
    labels = np.repeat(np.arange(10), 3)
    names = tuple(f"p{i}" for i in range(10))
    made = CropSet(CropRows(pixels), labels, names, tuple(map(str, range(30))), "arcface-112")
    return keep_crops(tmp_path, made)


def sampler_of(crops: CropSet, rank: int = 0, num_ranks: int = 1) -> PKSampler:
    return PKSampler(crops.labels, 4, 2, 3, rank, num_ranks)


class Failing:
    """Wrong from some step on: rows that are not there."""

    first_place = 0

    def rows(self, step: int) -> Rows:
        if step >= 2:
            raise InvalidInputError(f"step {step} cannot be", hint="begin anew")
        return np.arange(4)


def same(some: list[Batch], others: list[Batch]) -> bool:
    return [batch.step for batch in some] == [batch.step for batch in others] and all(
        torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels)
        for a, b in zip(some, others, strict=True)
    )


def test_no_steps_are_no_batches(crops: CropSet) -> None:
    for num_workers in (0, 2):
        loader = Loader(crops, sampler_of(crops), num_workers=num_workers)
        assert list(loader.batches(5, 5)) == list(loader.batches(5, 4)) == []
    with pytest.raises(InvalidInputError, match="start_step is -1"):
        loader.batches(-1, 2)


@pytest.mark.parametrize("settings", [{"num_workers": -1}, {"num_workers": 65}, {"seed": -1}])
def test_numbers_that_cannot_be_are_refused(crops: CropSet, settings: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        Loader(crops, sampler_of(crops), **settings)  # type: ignore[arg-type]


def test_batches_hold_the_rows_of_the_sampler(crops: CropSet) -> None:
    sampler = sampler_of(crops)
    for batch in Loader(crops, sampler, NO_AUGMENTATION).batches(2, 5):
        rows = sampler.rows(batch.step)
        assert np.array_equal(batch.pixels.numpy(), crops.crops[rows])
        assert np.array_equal(batch.labels.numpy(), crops.labels[rows])
        assert (batch.pixels.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)


def test_any_number_of_workers_gives_the_same_bytes(crops: CropSet) -> None:
    state = torch.get_rng_state()
    alone = list(Loader(crops, sampler_of(crops), SETTINGS, 0, seed=4).batches(0, 7))
    for num_workers, start_step in ((1, 0), (2, 3)):
        # The second is as a run that is resumed.
        with Loader(crops, sampler_of(crops), SETTINGS, num_workers, seed=4) as loader:
            assert same(list(loader.batches(start_step, 7)), alone[start_step:])
    other = list(Loader(crops, sampler_of(crops), SETTINGS, 0, seed=5).batches(0, 7))
    assert not same(other, alone)
    # The network's own random numbers are left alone.
    assert torch.equal(torch.get_rng_state(), state)
    assert not multiprocessing.active_children()


def test_resident_crops_give_the_same_bytes(crops: CropSet) -> None:
    alone = list(Loader(crops, sampler_of(crops), SETTINGS).batches(0, 4))
    resident = Loader(crops, sampler_of(crops), SETTINGS, 2, is_resident=True)
    assert same(list(resident.batches(0, 4)), alone)


def test_parts_of_ranks_are_the_batch_of_one(crops: CropSet) -> None:
    alone = list(Loader(crops, sampler_of(crops), SETTINGS).batches(0, 3))
    parts = [list(Loader(crops, sampler_of(crops, rank, 2), SETTINGS).batches(0, 3)) for rank in (0, 1)]
    for whole, first, second in zip(alone, *parts, strict=True):
        assert torch.equal(torch.cat([first.pixels, second.pixels]), whole.pixels)
        assert torch.equal(torch.cat([first.labels, second.labels]), whole.labels)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_of_a_worker_reach_the_caller(crops: CropSet, num_workers: int) -> None:
    seen: list[int] = []
    with Loader(crops, Failing(), NO_AUGMENTATION, num_workers) as loader:
        running = loader.batches(0, 9)
        seen.extend(next(running).step for _ in range(2))
        with pytest.raises(InvalidInputError, match=r"^step 2 cannot be$") as raised:
            next(running)
    assert raised.value.hint == "begin anew"
    assert seen == [0, 1]
    assert not multiprocessing.active_children()


def test_crops_that_another_run_made_anew_are_not_trained_on(crops: CropSet, tmp_path: Path) -> None:
    others = CropSet(
        CropRows(255 - crops.crops[:]), crops.labels, crops.identities, crops.keys, "arcface-112"
    )
    with Loader(crops, sampler_of(crops), NO_AUGMENTATION, 1) as loader:
        keep_crops(tmp_path, others)
        with pytest.raises(PreconditionError, match="made anew by another run") as raised:
            next(loader.batches(0, 9))
        assert str(tmp_path) in raised.value.message
        assert "--crops" in raised.value.hint


def test_closing_ends_the_workers_and_the_loader_can_be_used_again(crops: CropSet) -> None:
    loader = Loader(crops, sampler_of(crops), SETTINGS, 1)
    running = loader.batches(0, 1000)
    first = next(running)
    assert multiprocessing.active_children()
    loader.close()
    loader.close()
    assert not multiprocessing.active_children()
    assert list(running) == []
    assert same([first], [next(loader.batches(0, 1000))])
    loader.close()


def test_a_device_that_is_not_there_is_named(crops: CropSet) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(DeviceError, match="device cuda"):
        Loader(crops, sampler_of(crops), device="cuda", is_resident=True)


TRAINER = """
import multiprocessing, pathlib, sys
from engine.trainer.crops import open_crops
from engine.trainer.loader import Loader
from engine.trainer.sampler import PKSampler

if __name__ == "__main__":
    crops = open_crops(pathlib.Path(sys.argv[1]), "arcface-112")
    running = Loader(crops, PKSampler(crops.labels, 4, 2, 3), num_workers=1).batches(0, 10**6)
    next(running)
    print(multiprocessing.active_children()[0].pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="waits for a process that is not its own child")
def test_workers_of_a_killed_trainer_end(crops: CropSet, tmp_path: Path) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        worker = os.pidfd_open(int(trainer.stdout.readline()))
        trainer.kill()
    try:
        ended, _, _ = select.select([worker], [], [], 30.0)
        assert ended
    finally:
        os.close(worker)


def test_ctrl_c_in_a_terminal_leaves_workers_at_their_work(crops: CropSet) -> None:
    with Loader(crops, sampler_of(crops), SETTINGS, 1) as loader:
        running = loader.batches(0, 1000)
        next(running)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        # More than lie ready: an ended worker would be missed.
        assert [batch.step for batch in itertools.islice(running, 6)] == [1, 2, 3, 4, 5, 6]
        assert worker.is_alive()


def test_a_worker_that_is_killed_is_told(crops: CropSet) -> None:
    with Loader(crops, sampler_of(crops), SETTINGS, 1) as loader:
        running = loader.batches(0, 1000)
        next(running)
        (worker,) = multiprocessing.active_children()
        worker.kill()
        with pytest.raises(TrainingError, match="was killed") as raised:
            list(running)
    assert "--workers" in raised.value.hint
