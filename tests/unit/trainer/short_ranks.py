"""One of the processes of test_distributed_short, started by torchrun: a run whose last one runs short.

Arguments: a folder for what each process says, and where memory is short: forward, loss, backward or trial.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import EngineError
from engine.trainer import distributed, loop
from engine.trainer.backbones import build_backbone, freeze
from engine.trainer.distributed import ALONE, Ranks
from engine.trainer.learner import Faces, Learner
from engine.trainer.objectives import build_objective
from engine.trainer.run_folder import RunFolder
from engine.trainer.settings import BatchSettings, NetworkSettings, TrainSettings
from tests.unit.trainer.faces import made_up_crops

SETTINGS = TrainSettings(
    network=NetworkSettings(num_trainable_stages=4),
    batch=BatchSettings(num_identities=4, num_pictures=2, num_singles=0),
    num_steps=30,
)


class Short(Learner):
    """Of its first step too large a tensor is asked for, once, in the last process."""

    where = "forward"

    def __init__(self, faces: Faces, objective: Any, settings: TrainSettings, ranks: Ranks, device: str):
        super().__init__(faces, objective, settings, ranks, device)
        self.num_moves = 0
        if ranks.is_first:
            return
        if self.where != "backward":
            module = faces.module if self.where == "forward" else self.objective
            self._hook = module.register_forward_pre_hook(self._ask)
        else:
            # The gradient of what comes first comes last: those of the others are being averaged by then.
            self._hook = self.parameters[0].register_hook(self._ask)

    def _ask(self, *_: object) -> None:
        self._hook.remove()
        torch.empty(1 << 60, dtype=torch.uint8)

    def move(self, step: int) -> float:
        self.num_moves += 1
        return super().move(step)


def run_short(folder: Path, where: str, ranks: Ranks) -> dict[str, Any]:
    """What a process says of a run that the last one cannot go on with."""
    Short.where = where
    learners: list[Short] = []

    def made(*arguments: Any) -> Short:
        learners.append(Short(*arguments))
        return learners[0]

    options = loop.Options(num_threads=1, num_workers=0, is_bar_shown=False, ranks=ranks)
    data = loop.Data(made_up_crops([2, 3, 2, 4]))
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(loop, "Learner", made)
            loop.train(RunFolder(folder / "run"), SETTINGS, data, options)
    except EngineError as error:
        return {"error": type(error).__name__, "message": error.message, "num_moves": learners[0].num_moves}
    return {"error": ""}


def try_alone(ranks: Ranks) -> dict[str, Any]:
    """Whether a batch fits, tried by one process whose normalisation takes its statistics over all."""
    backbone = build_backbone("mobilefacenet", seed=0)
    freeze(backbone, 2)
    distributed.synchronise(backbone.module)
    faces = Faces(backbone.module.train(), backbone.scaling, is_mirrored=False, is_bfloat16=False)
    objective = build_objective(SETTINGS.objective, 3, backbone.dimension)
    learner = Learner(faces, objective, SETTINGS, ALONE, "cpu")
    synchronised = [part for part in faces.modules() if isinstance(part, torch.nn.SyncBatchNorm)]
    pixels = torch.zeros(4, 112, 112, 3, dtype=torch.uint8)
    does_fit = ranks.is_first or learner.does_fit(2, pixels)
    is_training = bool(synchronised) and all(part.training for part in synchronised)
    return {"does_fit": does_fit, "is_training": is_training}


def main(folder: Path, where: str) -> None:
    torch.set_num_threads(1)
    ranks = distributed.join("cpu")
    told = try_alone(ranks) if where == "trial" else run_short(folder, where, ranks)
    (folder / f"{ranks.rank}.json").write_text(json.dumps(told))
    # Every process ends well, so that none is ended by torchrun before it has said what it has to.
    distributed.leave(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
