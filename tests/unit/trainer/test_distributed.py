"""Several processes take the step that one would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.errors import SettingsError
from engine.trainer import distributed
from engine.trainer.backbones import build_backbone, freeze
from engine.trainer.distributed import ALONE, Ranks

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def steps(repository: Path, target: Path, network: str, num_stages: int, *, num_ranks: int) -> dict[str, Any]:
    """What the processes of `ranks.py` write."""
    command = TORCHRUN if num_ranks > 1 else (sys.executable,)
    arguments = ("-m", "tests.unit.trainer.ranks", str(target), network, str(num_stages))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    ended = subprocess.run(
        (*command, *arguments), cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    told: dict[str, Any] = torch.load(target, weights_only=True)
    assert told["num_ranks"] == num_ranks
    return told


@pytest.mark.parametrize(("network", "num_stages"), [("dlib-resnet", 4), ("mobilefacenet", 5)])
def test_two_processes_have_the_loss_and_gradients_of_one(
    repository: Path, tmp_path: Path, network: str, num_stages: int
) -> None:
    one = steps(repository, tmp_path / "one.pt", network, num_stages, num_ranks=1)
    two = steps(repository, tmp_path / "two.pt", network, num_stages, num_ranks=2)
    for alone, together in zip(one["steps"], two["steps"], strict=True):
        assert alone["loss"] > 0
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-6)
        assert len(alone["gradients"]) == len(together["gradients"]) > 0
        for a, b in zip(alone["gradients"], together["gradients"], strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=1e-6)


def test_alone_nothing_is_wrapped_gathered_or_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.join("cpu") == ALONE
    module = nn.Linear(2, 2)
    assert distributed.shared(module, ALONE, "cpu") is module
    vectors = torch.randn(3, 2)
    assert distributed.gather(vectors, ALONE) is vectors
    assert distributed.any_of(True, ALONE, "cpu")
    assert not distributed.any_of(False, ALONE, "cpu")
    distributed.wait(ALONE)
    distributed.leave(ALONE)


def test_variables_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(SettingsError, match="not all numbers"):
        distributed.join("cpu")


def test_normalisation_that_learns_its_statistics_is_refused_without_cuda() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(SettingsError, match="batch normalisation") as raised:
        distributed.shared(module, Ranks(0, 2), "cpu")
    assert "is_normalisation_frozen" in raised.value.hint


def test_normalisation_that_is_frozen_is_not_synchronised() -> None:
    backbone = build_backbone("mobilefacenet", seed=0)
    freeze(backbone, 2)
    distributed.synchronise(backbone.module)
    backbone.module.train()
    kept = [part for part in backbone.module.modules() if type(part) in {nn.BatchNorm1d, nn.BatchNorm2d}]
    shared = [part for part in backbone.module.modules() if isinstance(part, nn.SyncBatchNorm)]
    assert kept
    assert shared
    assert not any(part.training for part in kept)
    assert all(part.training for part in shared)
