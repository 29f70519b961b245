"""Where one of several processes runs short of memory, none waits for the others."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import TrainingError
from engine.trainer import distributed
from engine.trainer.distributed import ALONE, Ranks
from tests.unit.trainer.test_distributed import TORCHRUN

LONGEST_S = 240.0


def said(repository: Path, folder: Path, where: str) -> list[dict[str, Any]]:
    """What each of two processes of `short_ranks.py` says, in their order."""
    command = (*TORCHRUN, "-m", "tests.unit.trainer.short_ranks", str(folder), where)
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    ended = subprocess.run(
        command,
        cwd=repository,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_S,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", ["forward", "loss", "backward"])
def test_one_process_runs_short_and_all_end_before_a_weight_moves(
    repository: Path, tmp_path: Path, where: str
) -> None:
    waiting, short = said(repository, tmp_path, where)
    assert short["error"] == waiting["error"] == "TrainingError"
    part = "one process's part of a batch, 4 pictures, does not fit into the memory of cpu"
    assert short["message"] == f"{part}: 2 pictures would fit"
    assert waiting["message"] == "process 0 of 2 lost the others: one of them has ended"
    # What was tried alone was not taken for this step's gradients.
    assert short["num_moves"] == waiting["num_moves"] == 0


@pytest.mark.timeout(300)
def test_a_trial_waits_for_no_statistics_of_others(repository: Path, tmp_path: Path) -> None:
    told = {"does_fit": True, "is_training": True}
    assert said(repository, tmp_path, "trial") == [told, told]


def left(ranks: Ranks, error: Exception) -> None:
    with distributed.naming_who_left(ranks):
        raise error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("[...pair.cc] Connection closed by peer"), torch.distributed.DistBackendError("remote")],
)
def test_only_several_processes_can_lose_one(error: Exception) -> None:
    with pytest.raises(TrainingError, match="process 1 of 2"):
        left(Ranks(1, 2), error)
    with pytest.raises(type(error)):
        left(ALONE, error)
    with pytest.raises(RuntimeError, match="shapes"):
        left(Ranks(1, 2), RuntimeError("shapes do not fit"))
