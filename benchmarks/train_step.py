"""A step of training against the bare network: ``python -m benchmarks.train_step [--network NAME]``.

Both train the same network with the same batch, in turns: the trainer with its loading, augmentation, mining,
alarms, clipping, optimizer and average; the bare one forward and backward alone, of a batch that lies there.
What the trainer takes beyond that is what users wait for. Prints medians and their ratio, writes a dated
report to ``benchmarks/reports`` and, with ``--json FILE``, the rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import write_report
from engine.embedding.networks import resolve_device
from engine.trainer.alarms import Alarms
from engine.trainer.backbones import Backbone, build_backbone, freeze
from engine.trainer.crop_set import CropRows, CropSet
from engine.trainer.distributed import ALONE
from engine.trainer.learner import Faces, Learner
from engine.trainer.loader import AHEAD, Batch, Loader
from engine.trainer.objectives import build_objective
from engine.trainer.sampler import PKSampler
from engine.trainer.settings import BatchSettings, TrainSettings

NUM_PEOPLE, NUM_PICTURES = 400, 5
SEED = 20261122
BLOCK_STEPS = 4
UNCOUNTED = AHEAD + 1


def crops_of(backbone: Backbone) -> CropSet:
    """Noise in the shape of faces: what a step costs does not depend on what it sees."""
    rng = np.random.default_rng(SEED)
    side = backbone.alignment.size_px
    pixels = rng.integers(0, 256, (NUM_PEOPLE * NUM_PICTURES, side, side, 3), np.uint8)
    labels = np.repeat(np.arange(NUM_PEOPLE), NUM_PICTURES)
    names = tuple(f"{number:04d}" for number in range(NUM_PEOPLE))
    keys = tuple(f"{row:05d}" for row in range(len(labels)))
    return CropSet(CropRows(pixels), labels, names, keys, backbone.alignment.name)


def learner_of(backbone: Backbone, settings: TrainSettings, crops: CropSet, device: str) -> Learner:
    """What the training loop makes of the same settings."""
    is_bfloat16 = settings.precision == "bfloat16"
    faces = Faces(backbone.module, backbone.scaling, is_mirrored=False, is_bfloat16=is_bfloat16)
    objective = build_objective(settings.objective, crops.num_identities, backbone.dimension)
    return Learner(faces, objective, settings, ALONE, device)


def trainer_step(learner: Learner, watch: Alarms, batches: Iterator[Batch], device: str) -> float:
    """Seconds from asking for a batch to moved weights."""
    start = time.perf_counter()
    batch = next(batches)
    figures = learner.forward_backward(batch.pixels, batch.labels, batch.step)
    watch.check(batch.step, figures.loss, figures.gradient_norm, figures.spread)
    learner.move(batch.step)
    _wait(device)
    return time.perf_counter() - start


def bare_step(learner: Learner, batch: Batch, device: str) -> float:
    """Seconds of forward and backward of the network alone."""
    learner.optimizer.zero_grad(set_to_none=True)
    _wait(device)
    start = time.perf_counter()
    learner.faces(batch.pixels).square().sum().backward()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both in turns, so that whatever else the machine does meets both."""
    torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    settings = TrainSettings(
        num_steps=10_000,
        precision=arguments.precision,
        batch=BatchSettings(num_identities=arguments.people, num_pictures=arguments.pictures),
    )
    backbone = build_backbone(arguments.network, seed=SEED)
    if arguments.stages:
        freeze(backbone, arguments.stages)
    crops = crops_of(backbone)
    learner = learner_of(backbone, settings, crops, device)
    sampler = PKSampler(crops.labels, arguments.people, arguments.pictures, SEED)
    seconds: dict[str, list[float]] = {"trainer": [], "bare": []}
    watch = Alarms()
    with Loader(
        crops, sampler, settings.augment, arguments.workers, SEED, device, is_resident=device == "cuda"
    ) as loader:
        batches = loader.batches(0, settings.num_steps)
        batch = next(batches)
        for _ in range(arguments.rounds):
            took = [trainer_step(learner, watch, batches, device) for _ in range(BLOCK_STEPS + UNCOUNTED)]
            # While the bare network ran, batches were made ahead: the first are no measure of loading.
            seconds["trainer"].append(statistics.mean(took[UNCOUNTED:]))
            took = [bare_step(learner, batch, device) for _ in range(BLOCK_STEPS)]
            seconds["bare"].append(statistics.mean(took))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["trainer"], seconds["bare"], strict=True)]
    num = arguments.people * arguments.pictures
    return {
        "network": arguments.network,
        "stages": arguments.stages or "all",
        "pictures": num,
        "precision": arguments.precision,
        "device": device,
        "threads": arguments.threads,
        "workers": arguments.workers,
        "trainer_ms": round(medians["trainer"] * 1000, 1),
        "bare_ms": round(medians["bare"] * 1000, 1),
        "ratio": round(statistics.median(ratios), 3),
        "pictures_per_s": round(num / medians["trainer"], 1),
        "rounds": arguments.rounds,
    }


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="mobilefacenet", help="default: mobilefacenet")
    parser.add_argument("--stages", type=int, default=0, help="train the last so many (default: all)")
    parser.add_argument("--people", type=int, default=32, help="P (default: 32)")
    parser.add_argument("--pictures", type=int, default=4, help="K (default: 4)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--workers", type=int, default=1, help="that load and augment (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="of some steps each (default: 5)")
    parser.add_argument("--json", type=Path, help="write the row there, too")
    arguments = parser.parse_args(given)
    row = measure(arguments)
    width = max(map(len, row))
    table = "\n".join(f"{name:<{width}}  {value}" for name, value in row.items())
    print(table)
    name = f"train-step-{arguments.network.replace(':', '-')}"
    options = " ".join(f"--{option} {value}" for option, value in vars(arguments).items() if option != "json")
    command = f"python -m benchmarks.train_step {options}"
    print(write_report(name, "A step of training against the bare network", f"```\n{table}\n```", command))
    if arguments.json:
        arguments.json.write_text(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
