"""The verb `project`: learns a map of a network's templates to fewer numbers, and says what it costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.arguments import (
    Verbs,
    add_embedding_options,
    add_json_option,
    seed,
    share,
    similarity,
    whole,
)
from engine.cli.layout import print_json, print_lines, table
from engine.errors import SettingsError
from engine.limits import DIMENSION_MAX

if TYPE_CHECKING:
    from engine.trainer.bootstrap import Interval
    from engine.trainer.open_set import OpenSetReport
    from engine.trainer.project import ProjectionReport

DIMENSION_SMALLEST = 64
"""The smallest that a contract may have."""

_PROJECT = """\
Templates of fewer numbers are compared faster and take less memory. The map is linear: `pca` keeps the
strongest directions, `trained` refines these by triplets. It is learnt on one part of the people and judged
by the others, against the full templates: rank 1 and FNIR at FPIRs, with N, and intervals over people of the
difference.

FILE.safetensors is a network of its own, whose contract is called FILE: serve it with --model
FILE.safetensors. It must lie beside the larger network's file, which it names. Templates of the two never
meet.

example:
  identiface project --model models/big.onnx --data staff-pictures --to models/big-128.safetensors
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    summary = "learn a map of a larger network's templates to fewer numbers"
    project = verbs.add_parser(
        "project", help=summary, description=f"{summary.capitalize()}.", epilog=_PROJECT
    )
    project.add_argument(
        "--model",
        metavar="SPEC",
        required=True,
        help="a network's name, NAME=PATH, or the path of its weights",
    )
    project.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="a folder of pictures for each person",
    )
    project.add_argument(
        "--to", metavar="FILE.safetensors", type=_safetensors, required=True, help="file to write"
    )
    project.add_argument(
        "--dimension", metavar="NUMBER", type=_dimension, default=128, help="of the map (default: 128)"
    )
    project.add_argument(
        "--method", choices=("pca", "trained"), default="pca", help="how it is learnt (default: pca)"
    )
    project.add_argument(
        "--held-out",
        metavar="SHARE",
        type=share,
        default=0.3,
        help="of the people, to judge the map by (default: 0.3)",
    )
    project.add_argument(
        "--threshold",
        metavar="SIMILARITY",
        type=similarity,
        help="default similarity of its contract (default: that which lets in as many pairs of different"
        " people learnt on as the larger network's)",
    )
    project.add_argument("--seed", metavar="NUMBER", type=seed, default=0, help="of all draws (default: 0)")
    project.add_argument("--overwrite", action="store_true", help="replace the file where there is one")
    add_embedding_options(project)
    add_json_option(project)
    project.set_defaults(run=_project)


def _project(arguments: argparse.Namespace) -> None:
    from engine.assembly import EmbeddingSettings, build_pipeline
    from engine.trainer.evaluate import MIN_FACE_PX
    from engine.trainer.people import embed_people, find_pictures
    from engine.trainer.project import ProjectionSettings, learn_projection
    from engine.trainer.project_file import check_target, write_projection
    from engine.types import FaceChoice

    target: Path = arguments.to
    if target.exists() and not arguments.overwrite:
        raise SettingsError(f"{target} is there already: choose another name, or give --overwrite")
    settings = ProjectionSettings(
        dimension=arguments.dimension,
        method=arguments.method,
        held_out_share=arguments.held_out,
        seed=arguments.seed,
        threshold=arguments.threshold,
    )
    find_pictures(arguments.data)  # what is wrong is said before the work, which takes minutes
    network = check_target(arguments.model, target, settings.dimension)
    with build_pipeline(EmbeddingSettings(model=arguments.model, device=arguments.device)) as pipeline:
        labelled = embed_people(
            pipeline,
            arguments.data,
            choice=FaceChoice(arguments.face),
            min_face_px=arguments.min_face_px or MIN_FACE_PX,
            progress=sys.stderr.isatty(),
        )
    learnt, report = learn_projection(labelled.vectors, labelled.labels, network.threshold, settings)
    write_projection(target, arguments.model, network, learnt, report)
    if arguments.json:
        told = {"file": str(target), "not_detected": labelled.num_not_detected, **report.as_json()}
        print_json(told)
    else:
        print_lines(project_lines(report, target))


def project_lines(report: ProjectionReport, target: Path) -> list[str]:
    """Say what the map costs."""
    kind = "PCA about the mean" if report.is_centred else "PCA about zero"
    networks = [(f"full, {report.dimension_from}", report.full), (f"PCA, {report.dimension}", report.pca)]
    if report.trained is not None:
        networks.append((f"trained, {report.dimension}", report.trained))
    header = ["held-out people", *(name for name, _ in networks), "cost, 95 %"]
    rows = [["rank 1", *(f"{rates.rank1:.4f}" for _, rates in networks), _told(report.cost.rank1)]]
    for target_fpir, cost in report.cost.fnir_at_fpir.items():
        rates = [f"{of.point(target_fpir).fnir:.4f}" for _, of in networks]
        rows.append([f"FNIR at FPIR {target_fpir:g}", *rates, _told(cost)])
    return [
        f"learnt on {report.num_people_learnt:,} people by {kind}, which keeps {report.kept_share:.2%}",
        f"judged by {report.num_people_held_out:,} others: {_sizes(report.full)}",
        *table(header, rows),
        f"wrote {target}, threshold {report.threshold:.4f}",
    ]


def _sizes(rates: OpenSetReport) -> str:
    return (
        f"N = {rates.num_enrolled:,} enrolled, {rates.num_mated:,} mated probes,"
        f" {rates.num_strangers:,} of strangers"
    )


def _told(interval: Interval) -> str:
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _safetensors(text: str) -> Path:
    if not text.lower().endswith(".safetensors"):
        raise argparse.ArgumentTypeError(f"expected the name of a .safetensors file, not {text!r}")
    return Path(text)


def _dimension(text: str) -> int:
    return whole(text, DIMENSION_SMALLEST, DIMENSION_MAX)
