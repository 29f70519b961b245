"""`identiface train run`, killed at any moment and run again, ends with the bits of a run that was not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.trainer import checkpoint_files
from tests.e2e.conftest import PROGRAM

pytestmark = [pytest.mark.fault, pytest.mark.data]
NUM_STEPS = 40
NUM_KILLS = 2
LONGEST_S = 240.0
LIMITED = """
import sys
from torch.utils._python_dispatch import TorchDispatchMode
import torch
from engine.cli import main
from engine.trainer import loop, learner

class Limited(TorchDispatchMode):
    left = 192 * 2**20
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        tensors = [one for one in (made if isinstance(made, tuple) else (made,)) if torch.is_tensor(one)]
        num_bytes = sum(one.numel() * one.element_size() for one in tensors)
        self.left -= num_bytes
        if self.left < 0 and num_bytes > 2**20:
            torch.empty(2**60, dtype=torch.uint8)
        return made

def limited(method):
    def call(*args):
        with Limited():
            return method(*args)
    return call

learner.Learner.forward_backward = limited(learner.Learner.forward_backward)
learner.Learner.does_fit = limited(learner.Learner.does_fit)
sys.exit(main(sys.argv[1:]))
"""


def small_data_set(data_folder: Path, target: Path) -> Path:
    """Twelve people of LFW with three pictures or four, and four with one."""
    taken: dict[bool, int] = {True: 0, False: 0}
    for person in sorted((data_folder / "lfw" / "images").iterdir()):
        num = len(list(person.iterdir()))
        wanted = (num in {3, 4} and taken[True] < 12) or (num == 1 and taken[False] < 4)
        if wanted:
            taken[num > 1] += 1
            shutil.copytree(person, target / person.name)
    return target


def command(run: Path, data: Path, crops: Path) -> list[str]:
    settings = (
        "network.num_trainable_stages=2",
        f"num_steps={NUM_STEPS}",
        "checkpoint_every_steps=3",
        "log_every_steps=5",
        "validate_every_steps=20",
        "validation_share=0.3",
        "batch.num_identities=6",
        "batch.num_pictures=2",
        "optimizer.ema_decay=0.9",
        "objective.global_threshold_weight=0.5",
    )
    given = [part for setting in settings for part in ("--set", setting)]
    where = ["train", "run", str(run), "--data", str(data), "--crops", str(crops)]
    return [str(PROGRAM), *where, "--threads", "1", "--workers", "1", "--device", "cpu", *given]


@pytest.mark.timeout(600)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(data_folder: Path, tmp_path: Path) -> None:
    data = small_data_set(data_folder, tmp_path / "people")
    crops = tmp_path / "crops"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole, data, crops), check=True, capture_output=True, timeout=LONGEST_S)
    rng = random.Random(5)
    for _ in range(NUM_KILLS):
        before = checkpoint_files.newest(killed / "checkpoints")
        process = subprocess.Popen(
            command(killed, data, crops), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Not before it got further than the run before it, so that the kills are spread over the steps.
        deadline = time.monotonic() + LONGEST_S
        while checkpoint_files.newest(killed / "checkpoints") == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() != 0
    ended = subprocess.run(
        command(killed, data, crops), check=True, capture_output=True, text=True, timeout=LONGEST_S
    )
    assert "going on from step" in ended.stderr
    # Bit by bit, and written in one order: the contract is the same, too.
    assert (whole / "network.safetensors").read_bytes() == (killed / "network.safetensors").read_bytes()


def test_a_run_that_is_asked_to_stop_says_how_to_go_on(data_folder: Path, tmp_path: Path) -> None:
    data = small_data_set(data_folder, tmp_path / "people")
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(run, data, tmp_path / "crops"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + LONGEST_S
    while checkpoint_files.newest(run / "checkpoints") is None:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, err
    assert "run the same command again to go on" in out
    newest = checkpoint_files.newest(run / "checkpoints")
    assert newest is not None
    assert newest.name < f"step-{NUM_STEPS:09d}.pt"


def test_short_memory_ends_the_run_with_the_batch_that_would_fit(data_folder: Path, tmp_path: Path) -> None:
    """A step may make 192 MiB of tensors; then torch is asked for more than any machine has, and refuses.

    Not by a limit on address space: what libraries below torch do then is up to them; one crashes.
    """
    data = small_data_set(data_folder, tmp_path / "people")
    arguments = command(tmp_path / "run", data, tmp_path / "crops")
    arguments += ["--set", "network.num_trainable_stages=16", "--set", "batch.num_identities=8"]
    arguments += [
        "--set",
        "batch.num_singles=0",
        "--set",
        "batch.num_pictures=4",
        "--workers",
        "0",
        "--set",
        "batch.faces=template",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 1
    assert "a batch of 32 pictures does not fit into the memory of cpu" in ended.stderr
    assert "pictures would fit" in ended.stderr or "not even two" in ended.stderr
    assert "Lower batch.num_identities" in ended.stderr
