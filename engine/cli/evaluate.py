"""The verb `evaluate pairs`: how well a network tells people apart, without a server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.arguments import Verbs, add_json_option, face_px
from engine.cli.layout import print_json, print_lines, table
from engine.wire.limits import FACE_PX_MIN

if TYPE_CHECKING:
    from engine.trainer.evaluate import PairsReport

_PAIRS = """\
FILE is in the format of LFW's pairs.txt. Each fold is judged with the threshold that is best on the others; a
picture without a face makes its pairs wrong. Two cores take a few minutes for the 4,800 pairs of eight folds.

example:
  identiface evaluate pairs --root lfw/images --pairs lfw/pairs.txt
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb `evaluate` and those below it."""
    summary = "measure how well a network tells people apart"
    evaluate = verbs.add_parser("evaluate", help=summary, description=f"{summary.capitalize()}.")
    below = evaluate.add_subparsers(dest="evaluate_verb", metavar="VERB", required=True, title="verbs")
    pairs = below.add_parser(
        "pairs",
        help="judge pairs of pictures, as LFW does",
        description="Judge pairs of pictures, as LFW's View 2 does, on this machine without a server.",
        epilog=_PAIRS,
    )
    pairs.add_argument(
        "--root",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="holds a folder of pictures for each person",
    )
    pairs.add_argument("--pairs", metavar="FILE", type=Path, required=True, help="list of pairs")
    pairs.add_argument(
        "--model",
        metavar="SPEC",
        default="dlib-resnet",
        help="name of a network, NAME=PATH, or the path of its weights (default: dlib-resnet)",
    )
    pairs.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where it runs; auto takes CUDA where it is (default: auto)",
    )
    pairs.add_argument(
        "--face",
        choices=("centre", "largest"),
        default="centre",
        help="which of a picture's faces is meant (default: centre, the rule of LFW)",
    )
    pairs.add_argument(
        "--min-face-px",
        metavar="PIXELS",
        type=face_px,
        help=f"size of face at which the search starts, in pixels of its box's side, {FACE_PX_MIN} or more;"
        " boxes may come out down to about half of it (default: that for LFW's pictures, which the answer"
        " names)",
    )
    add_json_option(pairs)
    pairs.set_defaults(run=_pairs)


def _pairs(arguments: argparse.Namespace) -> None:
    from engine.assembly import EmbeddingSettings, build_pipeline
    from engine.trainer.evaluate import MIN_FACE_PX, evaluate_pairs
    from engine.trainer.pairs import read_pairs
    from engine.types import FaceChoice

    # A wrong list is said before the network is loaded, which takes seconds.
    read_pairs(arguments.pairs, arguments.root)
    with build_pipeline(EmbeddingSettings(model=arguments.model, device=arguments.device)) as pipeline:
        report = evaluate_pairs(
            pipeline,
            arguments.root,
            arguments.pairs,
            choice=FaceChoice(arguments.face),
            min_face_px=arguments.min_face_px or MIN_FACE_PX,
            progress=sys.stderr.isatty(),
        )
    if arguments.json:
        print_json(report.as_json())
    else:
        print_lines(report_lines(report))


def report_lines(report: PairsReport) -> list[str]:
    """Say how well pairs were told apart."""
    told = report.as_json()
    rates = [(f"TAR at FAR {far}", f"{tar:.2%}") for far, tar in report.tar_at_far.items()]
    rows = [
        ("pairs", f"{report.pairs:,} in {report.folds} folds"),
        ("accuracy", f"{report.accuracy_mean:.2%} +- {report.accuracy_std:.2%} over folds"),
        ("AUC", f"{report.auc:.5f}"),
        ("EER", f"{report.eer:.2%}"),
        *rates,
        ("threshold", f"{report.threshold:.4f}, mean of the folds'"),
        ("pictures", f"{told['pictures']:,}, {report.not_detected} without a face"),
        ("contract", f"{told['contract']} on {told['device']}"),
        ("faces", f"{told['face_choice']}, at least {told['min_face_px']} pixels"),
        ("time", f"{told['seconds']:.0f} s"),
    ]
    return table(("", ""), rows)
