"""The open-set protocol of LFW's folds 7 and 8, of one or two networks: a table with intervals over people.

``python -m benchmarks.lfw_open_set --root lfw --model dlib-resnet [--model OTHER]``

* gallery: the first picture of each of the 886 people of folds 7 and 8
* mated probes: their 1,699 other pictures
* strangers: the 1,041 pictures of the people of fold 0, who are in no pair
* `errata.tsv`: one person under two names is no non-mated comparison
* pairs: those of folds 7 and 8, each judged with the threshold that is best on the other

Nobody of folds 1 to 6 is looked at: those are for training. With two models each rate's difference has a
paired interval: the same people drawn for both, the thresholds found anew in each resample.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import markdown
from benchmarks.lfw_people import STRANGERS_FOLD, read_people
from benchmarks.machine import write_report
from engine import config
from engine.assembly import EmbeddingSettings, build_pipeline
from engine.errors import InvalidInputError
from engine.outputs import make_folder, whole_file
from engine.trainer.bootstrap import (
    BootstrapSettings,
    Interval,
    OpenSetIntervals,
    bootstrap_open_set,
    paired_bootstrap,
)
from engine.trainer.evaluate import (
    PairsReport,
    PictureTemplates,
    embed_pictures,
    judge_pairs,
    pair_similarities,
)
from engine.trainer.lists import read_errata
from engine.trainer.open_set import OpenSetReport, OpenSetSimilarities, judge_measured, measure_open_set
from engine.trainer.pairs import PairSet, read_pairs

FOLDS_JUDGED = (7, 8)
FPIRS = (0.1, 0.03, 0.01)
MODELS_MAX = 2


@dataclass(frozen=True)
class Protocol:
    """Which pictures are which, as paths in order of name."""

    gallery: tuple[Path, ...]
    mated: tuple[Path, ...]
    strangers: tuple[Path, ...]
    same: tuple[tuple[str, str], ...]
    """Names of one person."""
    pairs: PairSet
    """Of the folds judged; all of its pictures are in gallery and mated."""

    @property
    def pictures(self) -> tuple[Path, ...]:
        """All, in the order gallery, mated, strangers."""
        return self.gallery + self.mated + self.strangers


@dataclass(frozen=True)
class Judged:
    """What the protocol gives of one network."""

    model: str
    measured: OpenSetSimilarities
    report: OpenSetReport
    intervals: OpenSetIntervals
    pairs: PairsReport


def lfw_protocol(root: Path) -> Protocol:
    """Read people.tsv, errata.tsv and pairs.txt of a folder, and find the pictures below its images/.

    Raises InvalidInputError where a file or picture is missing.
    """
    gallery: list[Path] = []
    mated: list[Path] = []
    strangers: list[Path] = []
    for person in read_people(root):
        if person.fold != STRANGERS_FOLD and person.fold not in FOLDS_JUDGED:
            continue
        found = sorted((root / "images" / person.name).glob("*.jpg"))
        if len(found) != person.num_pictures:
            raise InvalidInputError(
                f"{person.name} has {len(found)} pictures, people.tsv says {person.num_pictures}"
            )
        if person.fold == STRANGERS_FOLD:
            strangers += found
        else:
            gallery.append(found[0])
            mated += found[1:]
    pairs = read_pairs(root / "pairs.txt", root / "images")
    judged = PairSet(tuple(pairs.folds[fold - 1] for fold in FOLDS_JUDGED))
    same = read_errata(root / "errata.tsv")
    return Protocol(tuple(gallery), tuple(mated), tuple(strangers), same, judged)


def embed(
    model: str, pictures: Sequence[Path], cache: Path | None, num_threads: int | None
) -> PictureTemplates:
    """Embed pictures through the pipeline that serves, or read them from an earlier run's cache.

    A picture whose size or time of change is another than in that run is not taken from it.
    """
    settings = EmbeddingSettings(model=model, num_threads=num_threads)
    with build_pipeline(settings) as pipeline:
        states = ((path, path.stat()) for path in pictures)
        names = "\n".join(f"{path}\t{state.st_size}\t{state.st_mtime_ns}" for path, state in states)
        digest = hashlib.sha256(f"{pipeline.embedder.contract.digest}\n{names}".encode()).hexdigest()
        path = None if cache is None else cache / f"{digest[:16]}.npz"
        if path is not None and path.is_file():
            with np.load(path) as saved:
                return PictureTemplates(saved["vectors"], saved["is_detected"])
        templates = embed_pictures(pipeline, pictures)
    if path is not None:
        make_folder(path.parent)
        with whole_file(path) as file:
            np.savez(file, vectors=templates.vectors, is_detected=templates.is_detected)
    return templates


def judge(model: str, protocol: Protocol, templates: PictureTemplates, settings: BootstrapSettings) -> Judged:
    """Count the rates of one network's templates, in the order of `protocol.pictures`."""
    labels = np.array([path.parent.name for path in protocol.pictures])
    ends = np.cumsum([len(protocol.gallery), len(protocol.mated)])
    vectors = np.split(templates.vectors, ends)
    names = np.split(labels, ends)
    measured = measure_open_set(
        (vectors[0], names[0]), (vectors[1], names[1]), (vectors[2], names[2]), same=protocol.same
    )
    row_of = {path: row for row, path in enumerate(protocol.pictures)}
    rows = np.array([row_of[path] for path in protocol.pairs.pictures])
    of_pairs = PictureTemplates(templates.vectors[rows], templates.is_detected[rows])
    similarities = pair_similarities(protocol.pairs, of_pairs)
    return Judged(
        model,
        measured,
        judge_measured(measured, FPIRS),
        bootstrap_open_set(measured, FPIRS, settings),
        judge_pairs(protocol.pairs, similarities, of_pairs.num_not_detected),
    )


def table(judged: Sequence[Judged], settings: BootstrapSettings) -> str:
    """One row a rate, in Markdown; with two models also the second less the first."""
    difference = (
        paired_bootstrap(judged[0].measured, judged[1].measured, FPIRS, settings) if judged[1:] else None
    )
    rows = [["", *(one.model for one in judged), *(["second less first"] if difference else [])]]
    rows.append(["rank-1", *(_told(one.intervals.rank1) for one in judged)])
    rows.append(["rank-1, mean of people", *(f"{one.report.rank1_per_person:.4f}" for one in judged)])
    if difference:
        rows[1].append(_told(difference.rank1, signed=True))
    for target in FPIRS:
        name = f"FNIR at FPIR {target:g}"
        rows.append([name, *(_told(one.intervals.fnir_at_fpir[target]) for one in judged)])
        if difference:
            rows[-1].append(_told(difference.fnir_at_fpir[target], signed=True))
        means = (f"{one.report.point(target).fnir_per_person:.4f}" for one in judged)
        rows.append([f"{name}, mean of people", *means])
        rows.append(
            [
                f"threshold at FPIR {target:g}",
                *(f"{one.report.point(target).threshold:.4f}" for one in judged),
            ]
        )
    rows.append(["pair accuracy", *(f"{one.pairs.accuracy_mean:.4f}" for one in judged)])
    rows.append(
        ["pair accuracy, mean of people", *(f"{one.pairs.per_person_accuracy:.4f}" for one in judged)]
    )
    rows.append(["pairs AUC", *(f"{one.pairs.auc:.5f}" for one in judged)])
    rows.append(["TAR at FAR 1e-3", *(f"{one.pairs.tar_at_far['1e-3']:.4f}" for one in judged)])
    return markdown.table(rows[0], rows[1:])


def as_json(judged: Sequence[Judged], settings: BootstrapSettings) -> dict[str, Any]:
    """Give all that was measured as plain values."""
    models = {
        one.model: {
            "open_set": one.report.as_json(),
            "intervals": one.intervals.as_json(),
            "pairs": one.pairs.as_json(),
        }
        for one in judged
    }
    if len(judged) < MODELS_MAX:
        return {"models": models}
    difference = paired_bootstrap(judged[0].measured, judged[1].measured, FPIRS, settings)
    return {"models": models, "second_less_first": difference.as_json()}


def main(given: Sequence[str] | None = None) -> None:
    """Embed, judge, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, required=True, help="holds images/, people.tsv, errata.tsv, pairs.txt"
    )
    parser.add_argument("--model", action="append", required=True, help="network; give two to compare them")
    parser.add_argument("--cache", type=Path, help="folder that keeps templates for the next run")
    parser.add_argument("--threads", type=int, help="CPU threads of the network (default: torch's choice)")
    parser.add_argument(
        "--resamples", type=int, default=1000, help="of people, for the intervals (default: 1000)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--report", metavar="NAME", help="write the table to benchmarks/reports under this name"
    )
    arguments = parser.parse_args(given)
    if len(arguments.model) > MODELS_MAX:
        parser.error(f"{len(arguments.model)} models: give one, or two to compare them")
    settings = config.build(BootstrapSettings, {"num_resamples": arguments.resamples})
    protocol = lfw_protocol(arguments.root)
    judged = [
        judge(model, protocol, embed(model, protocol.pictures, arguments.cache, arguments.threads), settings)
        for model in arguments.model
    ]
    if arguments.json:
        print(json.dumps(as_json(judged, settings)))
    else:
        print(table(judged, settings))
    if arguments.report:
        models = " ".join(f"--model {model}" for model in arguments.model)
        command = f"python -m benchmarks.lfw_open_set --root lfw {models} --resamples {arguments.resamples}"
        print(write_report(arguments.report, "LFW in an open set", _body(judged, settings), command))


def _body(judged: Sequence[Judged], settings: BootstrapSettings) -> str:
    first = judged[0].report
    return (
        f"N = {first.num_enrolled} enrolled with one picture each, {first.num_mated:,} mated probes of"
        f" {first.num_mated_people} people, {first.num_strangers:,} pictures of"
        f" {first.num_stranger_people:,} strangers; intervals of {settings.level:.0%} from"
        f" {settings.num_resamples:,} resamples of people.\n\n{table(judged, settings)}"
    )


def _told(interval: Interval, *, signed: bool = False) -> str:
    form = "+.4f" if signed else ".4f"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


if __name__ == "__main__":
    main()
