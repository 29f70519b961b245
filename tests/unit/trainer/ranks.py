"""One of the processes of test_distributed, started by torchrun or alone: writes the gradients of steps.

Arguments: where to write, the network, how many of its stages learn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from engine.trainer import distributed
from engine.trainer.backbones import build_backbone, freeze, freeze_normalisation
from engine.trainer.learner import Faces, Learner
from engine.trainer.objective_settings import ObjectiveSettings
from engine.trainer.objectives import build_objective
from engine.trainer.sampler import PKSampler
from engine.trainer.settings import BatchSettings, TrainSettings
from tests.unit.trainer.faces import made_up_crops


def main(target: Path, network: str, num_stages: int) -> None:
    torch.set_num_threads(1)
    ranks = distributed.join("cpu")
    settings = TrainSettings(
        batch=BatchSettings(num_identities=4, num_pictures=2),
        objective=ObjectiveSettings(loss="triplet", margin=0.4, global_threshold_weight=0.5),
    )
    backbone = build_backbone(network, seed=3)
    freeze(backbone, num_stages)
    freeze_normalisation(backbone)
    crops = made_up_crops([2, 3, 2, 4], backbone.alignment.name)
    sampler = PKSampler(crops.labels, 4, 2, 0, ranks.rank, ranks.num_ranks)
    faces = Faces(backbone.module, backbone.scaling, is_mirrored=True, is_bfloat16=False)
    objective = build_objective(settings.objective, crops.num_identities, backbone.dimension)
    learner = Learner(faces, objective, settings, ranks, "cpu")
    told = []
    for step in range(2):
        rows = sampler.rows(step)
        pixels, labels = torch.from_numpy(crops.crops[rows]), torch.from_numpy(crops.labels[rows])
        figures = learner.forward_backward(pixels, labels, step)
        gradients = [p.grad.clone() for p in learner.parameters if p.grad is not None]
        told.append({"loss": figures.loss, "norm": figures.gradient_norm, "gradients": gradients})
        learner.move(step)
    if ranks.is_first:
        torch.save({"num_ranks": ranks.num_ranks, "steps": told}, target)
    distributed.leave(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
