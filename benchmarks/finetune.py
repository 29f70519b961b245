"""Choose how to train inside LFW's folds 1 to 6: ``python -m benchmarks.finetune --root lfw --recipe NAME``.

Three times a third of the people is held out, the network is trained on the rest by `identiface train run`'s
own loop, and judged by the people held out: 55 % of them enrolled with their first picture, the others being
strangers, over six such draws. Folds 7 and 8 and fold 0 are not looked at: they are for reporting, by
``benchmarks.lfw_open_set``. Prints a row of Markdown, for the table of what was tried.

``--set KEY=VALUE`` changes a setting as `identiface train run` does; ``--start`` judges the network that
training starts from instead.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.lfw_people import read_people
from benchmarks.markdown import table
from engine.cli.train import one_setting
from engine.embedding.embed import Embedder
from engine.errors import InvalidInputError
from engine.trainer.backbones import as_network, backbone_of
from engine.trainer.crop_set import CropSet
from engine.trainer.crops import build_crops
from engine.trainer.lists import read_errata
from engine.trainer.loop import Data, Options, train
from engine.trainer.open_set import OpenSetReport, judge_open_set
from engine.trainer.recipes import settings_of
from engine.trainer.run_folder import RunFolder
from engine.trainer.soup import mean_of
from engine.trainer.split import hold_out, merge_identities
from engine.types import Vectors
from indexer.items import VectorSource
from indexer.sources import open_source

FOLDS = range(1, 7)
PARTS = 3
DRAWS = 6
STRANGERS_SHARE = 0.45
FPIRS = (0.1, 0.03, 0.01)
SEED = 5
EMBED_CROPS = 64


def people_of(root: Path) -> list[str]:
    """Names of the people of folds 1 to 6, sorted."""
    return [person.name for person in read_people(root) if person.fold in FOLDS]


def thirds(crops: CropSet) -> list[list[str]]:
    """Who is held out each time."""
    drawn = np.random.default_rng(SEED).permutation(crops.num_identities)
    return [[crops.identities[label] for label in sorted(drawn[part::PARTS])] for part in range(PARTS)]


def judge(crops: CropSet, embed: Callable[[NDArray[np.uint8]], Vectors]) -> list[OpenSetReport]:
    """Judge by the people held out, with other strangers each time."""
    starts = range(0, len(crops), EMBED_CROPS)
    templates = np.concatenate([embed(crops.crops[start : start + EMBED_CROPS]) for start in starts])
    is_first = np.zeros(len(crops), bool)
    is_first[np.unique(crops.labels, return_index=True)[1]] = True
    reports = []
    for draw in range(DRAWS):
        order = np.random.default_rng((SEED, draw)).permutation(crops.num_identities)
        strangers = np.isin(crops.labels, order[: int(STRANGERS_SHARE * crops.num_identities)])
        rows = (~strangers & is_first, ~strangers & ~is_first, strangers)
        gallery, mated, others = ((templates[kind], crops.labels[kind]) for kind in rows)
        reports.append(judge_open_set(gallery, mated, others, FPIRS))
    return reports


def row_of(name: str, parts: list[list[OpenSetReport]]) -> list[str]:
    """Means over draws and parts, FNIR at the last FPIR of each part, and the threshold at the first."""
    every = [report for reports in parts for report in reports]
    cells = [f"{np.mean([report.rank1 for report in every]):.4f}"]
    cells += [f"{np.mean([report.point(target).fnir for report in every]):.4f}" for target in FPIRS]
    each = [np.mean([report.point(FPIRS[-1]).fnir for report in reports]) for reports in parts]
    cells.append(", ".join(f"{value:.3f}" for value in each))
    cells.append(f"{np.mean([report.point(FPIRS[0]).threshold for report in every]):.4f}")
    return [name, *cells]


def measure(arguments: argparse.Namespace) -> list[str]:
    """Train and judge each third; a row of the table."""
    settings = settings_of(arguments.recipe, [*map(one_setting, arguments.set), {"validation_share": 0.0}])
    torch.set_num_threads(arguments.threads)
    source = open_source((arguments.root / "images").resolve())
    if isinstance(source, VectorSource):
        raise InvalidInputError(f"{arguments.root / 'images'} holds vectors: a network learns from pictures")
    crops = build_crops(source, arguments.crops, backbone_of(settings).alignment)
    crops = crops.subset(crops.rows_of(people_of(arguments.root)))
    crops = merge_identities(crops, read_errata(arguments.root / "errata.tsv"))
    parts = []
    for held_names in thirds(crops):
        learnt, held = hold_out(crops, held_names)
        with tempfile.TemporaryDirectory() as folder:
            if arguments.start:
                network = as_network(backbone_of(settings))
            else:
                trained = []
                for seed in range(settings.seed, settings.seed + arguments.seeds):
                    run = RunFolder(Path(folder) / str(seed))
                    seeded = msgspec.structs.replace(settings, seed=seed)
                    train(run, seeded, Data(learnt), Options(num_threads=arguments.threads))
                    trained.append(backbone_of(seeded, run.network))
                network = as_network(mean_of(trained))
            parts.append(judge(held, Embedder(network).embed))
    name = " ".join(["start" if arguments.start else arguments.recipe or "defaults", *arguments.set])
    if arguments.seeds > 1:
        name += f", mean of {arguments.seeds}"
    return row_of(name, parts)


def main(given: Sequence[str] | None = None) -> None:
    """Measure one way to train and print its row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="holds images/, people.tsv, errata.tsv")
    parser.add_argument("--crops", type=Path, required=True, help="where faces are kept between runs")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="as of identiface train run")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a setting")
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="train so many times and judge the mean of the weights (default: 1)",
    )
    parser.add_argument("--start", action="store_true", help="judge the network before training")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    arguments = parser.parse_args(given)
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; at least one run is needed")
    rates = [f"FNIR at FPIR {fpir:g}" for fpir in FPIRS]
    heads = ["way", "rank-1", *rates, "by third", f"threshold at {FPIRS[0]:g}"]
    print(table(heads, [measure(arguments)]))


if __name__ == "__main__":
    main()
