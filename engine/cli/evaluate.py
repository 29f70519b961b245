"""The verbs `evaluate ...`: how well a network tells people apart and finds them, without a server."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.arguments import (
    Parser,
    UsageError,
    Verbs,
    add_embedding_options,
    add_json_option,
    seed,
    share,
    whole,
)
from engine.cli.layout import print_json, print_lines
from engine.cli.output_evaluate import identification_lines, pairs_lines, report_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.embedding.pipeline import Pipeline
    from engine.trainer.evaluation import Extras, PairsEvaluation
    from engine.trainer.open_set import Labels
    from engine.trainer.roles import Roles
    from engine.trainer.vectors_file import LabelledVectors

__all__ = ["add_verbs", "report_lines"]

RESAMPLES_MAX = 1_000_000
FRAMES_MAX = 1000

_SOURCE = """\
Either pictures: --root FOLDER with a folder for each person, embedded on this machine with --model; or
vectors made anywhere: --vectors FILE.npy or FILE.csv (one vector a line) with --labels FILE (a name or number
a line, and after a comma the picture), or a Parquet file of `identiface export`. A picture without a face, or
a row of zeros, is a miss wherever one is counted.

Intervals resample people, not pictures or pairs. --groups FILE.csv has a column identity_id and a column for
each attribute; its groups are judged at the thresholds of all. --plots FOLDER takes PNG files.
"""
_PAIRS = f"""\
With --pairs FILE in the format of LFW's pairs.txt each fold is judged with the threshold that is best on the
others; a picture without a face makes its pairs wrong. With --videos FILE, lines "split, PERSON/VIDEO,
PERSON/VIDEO, 0 or 1" as YouTube Faces has them, folders of frames are compared. With neither every two
pictures are a pair. Two cores take a few minutes for the 4,800 pairs of eight folds of LFW.

{_SOURCE}
example:
  identiface evaluate pairs --root lfw/images --pairs lfw/pairs.txt
  identiface evaluate pairs --vectors vectors.npy --labels labels.csv --plots plots
"""
_IDENTIFICATION = f"""\
Everybody is enrolled with the first picture (by name; of vectors the first row); the others are probes.

{_SOURCE}
example:
  identiface evaluate identification --root staff-pictures --model dlib-resnet
"""
_OPEN_SET = f"""\
Who is enrolled, is so with the first picture (by name; of vectors the first row) and asks with the others;
strangers ask with all of theirs. Without --enrolled and --strangers every second identity is enrolled, in
sorted order. With one of them everybody else plays the other part. FNIR and FPIR hold for the N that the
answer names.

{_SOURCE}
example:
  identiface evaluate open-set --root lfw/images --errata lfw/errata.tsv --fpir 0.1 0.01 --plots plots
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb `evaluate` and those below it."""
    summary = "measure how well a network tells people apart"
    evaluate = verbs.add_parser("evaluate", help=summary, description=f"{summary.capitalize()}.")
    below = evaluate.add_subparsers(dest="evaluate_verb", metavar="VERB", required=True, title="verbs")
    summary = "judge pairs of pictures, as LFW does"
    pairs = below.add_parser(
        "pairs",
        help=summary,
        description="Judge pairs of pictures, as LFW's View 2 does, on this machine without a server.",
        epilog=_PAIRS,
    )
    listed = pairs.add_mutually_exclusive_group()
    listed.add_argument("--pairs", metavar="FILE", type=Path, help="list of pairs of pictures")
    listed.add_argument("--videos", metavar="FILE", type=Path, help="list of pairs of videos")
    pairs.add_argument(
        "--video",
        choices=("mean", "best"),
        default="mean",
        help="two videos are compared by their mean templates or their most alike frames (default: mean)",
    )
    pairs.add_argument(
        "--frames",
        metavar="NUMBER",
        type=_frames,
        default=16,
        help="frames of a video at most, evenly spaced (default: 16)",
    )
    _add_common(pairs)
    pairs.set_defaults(run=_pairs)

    summary = "judge who is found where everybody is enrolled"
    identification = below.add_parser(
        "identification", help=summary, description=f"{summary.capitalize()}.", epilog=_IDENTIFICATION
    )
    _add_common(identification)
    identification.set_defaults(run=_identification)

    summary = "judge who is found, and which strangers are taken for somebody"
    open_set = below.add_parser(
        "open-set", help=summary, description=f"{summary.capitalize()}.", epilog=_OPEN_SET
    )
    open_set.add_argument("--enrolled", metavar="FILE", type=Path, help="names of the enrolled, one a line")
    open_set.add_argument("--strangers", metavar="FILE", type=Path, help="names of strangers, one a line")
    open_set.add_argument(
        "--fpir",
        metavar="SHARE",
        type=share,
        nargs="+",
        help="false positive identification rates to judge at (default: 0.3 0.1 0.03 0.01 0.003)",
    )
    _add_common(open_set)
    open_set.set_defaults(run=_open_set)


def _add_common(parser: Parser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--root", metavar="FOLDER", type=Path, help="holds a folder of pictures for each person"
    )
    source.add_argument("--vectors", metavar="FILE", type=Path, help="vectors made elsewhere")
    parser.add_argument("--labels", metavar="FILE", type=Path, help="whose each of --vectors is")
    parser.add_argument(
        "--model",
        metavar="SPEC",
        default="dlib-resnet",
        help="name of a network, NAME=PATH, or the path of its weights (default: dlib-resnet)",
    )
    add_embedding_options(parser)
    parser.add_argument(
        "--errata",
        metavar="FILE",
        type=Path,
        help="people under two names: name, name, kind, divided by tabs; kind `same` is not compared",
    )
    parser.add_argument(
        "--groups", metavar="FILE.csv", type=Path, help="attributes of people, to judge by group"
    )
    parser.add_argument("--plots", metavar="FOLDER", type=Path, help="draw curves as PNG into this folder")
    parser.add_argument(
        "--resamples",
        metavar="NUMBER",
        type=_resamples,
        default=1000,
        help="of people, for the intervals (default: 1000)",
    )
    parser.add_argument(
        "--seed", metavar="NUMBER", type=seed, default=0, help="of the resamples (default: 0)"
    )
    add_json_option(parser)


def _pairs(arguments: argparse.Namespace) -> None:
    from engine.trainer.evaluation import evaluate_all_pairs, evaluate_named_folds, evaluate_pairs
    from engine.trainer.pairs import read_named_pairs, read_pairs
    from engine.trainer.verification import check_labels

    if arguments.errata and (arguments.pairs or arguments.videos):
        raise UsageError(
            "--errata goes with all pairs of a set: a list of pairs says itself which to compare"
        )
    if arguments.videos and not arguments.root:
        raise UsageError("--videos needs --root: vectors of frames cannot be given")
    extras = _extras(arguments)
    if arguments.videos:
        evaluation = _videos(arguments, extras)
    elif arguments.pairs and arguments.root:
        listed = read_pairs(arguments.pairs, arguments.root)  # a wrong list is said before the network loads
        with _pipeline(arguments) as pipeline:
            evaluation = evaluate_pairs(pipeline, listed, extras=extras, **_faces(arguments))
    elif arguments.pairs:
        labelled, conditions = _vectors(arguments)
        listed = read_named_pairs(arguments.pairs, labelled.keys)
        evaluation = evaluate_named_folds(listed, labelled, conditions, extras)
    else:
        labelled, conditions = _labelled(arguments, check_labels)
        evaluation = evaluate_all_pairs(labelled, extras)
        if arguments.json:
            print_json({**evaluation.as_json(), "not_detected": labelled.num_not_detected, **conditions})
        else:
            print_lines(pairs_lines(evaluation, conditions, labelled.num_not_detected))
        return
    if arguments.json:
        print_json(evaluation.as_json())
    else:
        print_lines(pairs_lines(evaluation, {}, 0))


def _videos(arguments: argparse.Namespace, extras: Extras) -> PairsEvaluation:
    """Embed and judge the pairs of videos that a file lists."""
    from engine.trainer.evaluate import embed_pictures
    from engine.trainer.evaluation import evaluate_folds
    from engine.trainer.videos import VideoRule, num_without_face, read_videos, video_similarities

    videos = read_videos(arguments.videos, arguments.root, arguments.frames)
    start = time.monotonic()
    with _pipeline(arguments) as pipeline:
        templates = embed_pictures(pipeline, videos.pictures, **_faces(arguments))
        conditions = _told(pipeline, arguments, len(videos.pictures), start)
    conditions.update(videos=len(videos.frames), video=arguments.video, frames_max=arguments.frames)
    similarities = video_similarities(videos, templates, VideoRule(arguments.video))
    return evaluate_folds(videos.pairs, similarities, num_without_face(videos, templates), conditions, extras)


def _identification(arguments: argparse.Namespace) -> None:
    from engine.trainer.evaluation import evaluate_roles
    from engine.trainer.roles import closed_roles

    extras = _extras(arguments)
    labelled, conditions = _labelled(arguments, closed_roles)
    evaluation = evaluate_roles(labelled, closed_roles(labelled.labels), conditions, extras=extras)
    _print(arguments, evaluation)


def _open_set(arguments: argparse.Namespace) -> None:
    from engine.trainer.evaluation import evaluate_roles
    from engine.trainer.lists import read_names
    from engine.trainer.open_set import FPIRS
    from engine.trainer.roles import open_roles

    extras = _extras(arguments)
    enrolled = read_names(arguments.enrolled) if arguments.enrolled else None
    strangers = read_names(arguments.strangers) if arguments.strangers else None

    def parts(labels: Labels) -> Roles:
        return open_roles(labels, enrolled, strangers)

    labelled, conditions = _labelled(arguments, parts)
    roles = parts(labelled.labels)
    evaluation = evaluate_roles(labelled, roles, conditions, fpirs=arguments.fpir or FPIRS, extras=extras)
    _print(arguments, evaluation)


def _print(arguments: argparse.Namespace, evaluation: Any) -> None:
    if arguments.json:
        print_json(evaluation.as_json())
    else:
        print_lines(identification_lines(evaluation))


def _extras(arguments: argparse.Namespace) -> Extras:
    """Read what goes beside the rates, before the work."""
    from engine.trainer.bootstrap import BootstrapSettings
    from engine.trainer.evaluation import Extras
    from engine.trainer.groups import read_groups
    from engine.trainer.lists import read_errata
    from engine.trainer.plots import check_plots

    if bool(arguments.labels) and not arguments.vectors:
        raise UsageError("--labels goes with --vectors: the pictures' folders are their labels")
    if arguments.plots:
        check_plots(arguments.plots)
    return Extras(
        name=Path(arguments.vectors or arguments.model).name,
        bootstrap=BootstrapSettings(num_resamples=arguments.resamples, seed=arguments.seed),
        same=read_errata(arguments.errata) if arguments.errata else (),
        groups=read_groups(arguments.groups) if arguments.groups else {},
        plots=arguments.plots,
    )


def _vectors(arguments: argparse.Namespace) -> tuple[LabelledVectors, Mapping[str, Any]]:
    from engine.trainer.vectors_file import read_vectors

    labelled = read_vectors(arguments.vectors, arguments.labels)
    return labelled, {"vectors": str(arguments.vectors), "dimension": labelled.vectors.shape[1]}


def _labelled(
    arguments: argparse.Namespace, check: Callable[[Labels], object]
) -> tuple[LabelledVectors, Mapping[str, Any]]:
    """Read vectors, or embed the pictures; and what they were made with.

    `check` raises for labels that cannot be judged: before the network is loaded, and before pictures are
    embedded.
    """
    from engine.trainer.people import embed_people, find_pictures
    from engine.trainer.vectors_file import as_labels

    if arguments.vectors:
        labelled, conditions = _vectors(arguments)
        check(labelled.labels)
        return labelled, conditions
    check(as_labels([path.parent.name for path in find_pictures(arguments.root)]))
    start = time.monotonic()
    with _pipeline(arguments) as pipeline:
        labelled = embed_people(pipeline, arguments.root, **_faces(arguments))
        return labelled, _told(pipeline, arguments, len(labelled.labels), start)


def _pipeline(arguments: argparse.Namespace) -> Pipeline:
    from engine.assembly import EmbeddingSettings, build_pipeline

    return build_pipeline(EmbeddingSettings(model=arguments.model, device=arguments.device))


def _faces(arguments: argparse.Namespace) -> dict[str, Any]:
    from engine.trainer.evaluate import MIN_FACE_PX
    from engine.types import FaceChoice

    return {
        "choice": FaceChoice(arguments.face),
        "min_face_px": arguments.min_face_px or MIN_FACE_PX,
        "progress": sys.stderr.isatty(),
    }


def _told(
    pipeline: Pipeline, arguments: argparse.Namespace, num_pictures: int, start: float
) -> dict[str, Any]:
    from engine.trainer.evaluate import conditions_of

    faces = _faces(arguments)
    seconds = time.monotonic() - start
    return conditions_of(pipeline, num_pictures, faces["choice"], faces["min_face_px"], seconds)


def _frames(text: str) -> int:
    return whole(text, 1, FRAMES_MAX)


def _resamples(text: str) -> int:
    return whole(text, 1, RESAMPLES_MAX)
