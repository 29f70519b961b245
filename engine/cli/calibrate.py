"""The verb `calibrate`: which threshold lets in so many strangers, of people or of a gallery."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.arguments import (
    UsageError,
    Verbs,
    add_embedding_options,
    add_server_options,
    gallery_name,
    seed,
    share,
    whole,
)
from engine.cli.layout import print_json, print_lines
from engine.errors import InvalidInputError, SettingsError

if TYPE_CHECKING:
    from engine.trainer.calibrate import Calibrated, Choices
    from engine.trainer.vectors_file import LabelledVectors
    from engine.types import EmbeddingContract

MODEL = "dlib-resnet"
FPIRS = (0.1, 0.03, 0.01, 0.003, 0.001)
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
SIZE_MAX = 10**12
RESAMPLES_MIN, RESAMPLES_MAX = 20, 10_000
_CALIBRATE = """\
Of people: --data FOLDER with a folder of pictures for each person, embedded on this machine with --model; or
vectors made with it anywhere: --vectors FILE.npy or FILE.csv (one vector a line) with --labels FILE (a name a
line), or a Parquet file of `identiface export`. The first picture of each person (by name; of vectors the
first row) is a stranger to all others; the others tell what is missed. Take people like those who will stand
before the camera, all of them different: names that are probably one person are found, named and left out.

At least 120 people are needed, and 1 / FPIR; 10 / FPIR of them carry a threshold. The answer is written
beside the weights where --model is a path, else to --out.

Of a gallery: --gallery NAME asks a server which threshold --target-fpir takes there now, by the network's
calibration and by the gallery's own people. It changes nothing.

example:
  identiface calibrate --model models/mine.safetensors --data staff-pictures --people "2,000 of our staff"
  identiface calibrate --vectors vectors.npy --labels labels.csv --out mine.calibration.json
  identiface calibrate --gallery staff --target-fpir 0.001
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    summary = "find the thresholds that let in so many strangers"
    calibrate = verbs.add_parser(
        "calibrate", help=summary, description=f"{summary.capitalize()}.", epilog=_CALIBRATE
    )
    source = calibrate.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="FOLDER", type=Path, help="a folder of pictures for each person")
    source.add_argument("--vectors", metavar="FILE", type=Path, help="vectors of people, made elsewhere")
    source.add_argument(
        "--gallery", metavar="NAME", type=gallery_name, help="a gallery of a server, or its alias"
    )
    calibrate.add_argument("--labels", metavar="FILE", type=Path, help="whose each of --vectors is")
    calibrate.add_argument(
        "--model",
        metavar="SPEC",
        help="name of a network, NAME=PATH, or the path of its weights (default: that of the file of vectors"
        f" where it says, else {MODEL})",
    )
    calibrate.add_argument("--only", metavar="FILE", type=Path, help="names to calibrate on, one a line")
    calibrate.add_argument(
        "--same",
        metavar="FILE",
        type=Path,
        help="people under two names: name, name, kind, divided by tabs; of kind `same` the second is left"
        " out, of kind `relative` both stay",
    )
    calibrate.add_argument(
        "--keep", action="store_true", help="name people who are probably there twice, but keep them"
    )
    calibrate.add_argument(
        "--attributes",
        metavar="FILE.csv",
        type=Path,
        help="attributes of people, to judge by group: a first line identity_id,NAME..., then one for each",
    )
    calibrate.add_argument("--people", metavar="WORDS", help="who these people are, kept with the thresholds")
    _add_answer_options(calibrate)
    add_embedding_options(calibrate)
    add_server_options(calibrate)
    calibrate.set_defaults(run=_calibrate)


def _add_answer_options(calibrate: argparse.ArgumentParser) -> None:
    """Which thresholds are told, how surely, and where they are written."""
    calibrate.add_argument(
        "--target-fpir",
        metavar="SHARE",
        type=share,
        nargs="+",
        help="of strangers who may be taken for somebody (default: 0.1 0.03 0.01 0.003 0.001; of a gallery"
        " its own)",
    )
    calibrate.add_argument(
        "--size",
        metavar="NUMBER",
        type=_size,
        nargs="+",
        help="identities searched (default: 100 1000 10000 100000 1000000)",
    )
    calibrate.add_argument("--out", metavar="FILE.json", type=_json, help="file to write")
    calibrate.add_argument(
        "--resamples",
        metavar="NUMBER",
        type=_resamples,
        default=200,
        help="of people, for intervals (default: 200)",
    )
    calibrate.add_argument("--seed", metavar="NUMBER", type=seed, default=0, help="of all draws (default: 0)")


def _calibrate(arguments: argparse.Namespace) -> None:
    if arguments.gallery:
        _gallery(arguments)
    else:
        _people(arguments)


_OF_PEOPLE = ("labels", "model", "only", "same", "attributes", "people", "size", "out")
"""Arguments that a gallery has no use for, nor --keep."""


def _gallery(arguments: argparse.Namespace) -> None:
    from engine.cli.connection import open_client
    from engine.cli.output_thresholds import calibration_json, calibration_lines

    given = [f"--{name}" for name in _OF_PEOPLE if getattr(arguments, name)] + ["--keep"] * arguments.keep
    if given:
        raise UsageError(f"--gallery goes without {', '.join(given)}: its people are those enrolled")
    targets = arguments.target_fpir or [None]
    with open_client(arguments) as client:
        # Every answer is there before the first is printed: JSON is one object.
        found = [client.calibrate_gallery(arguments.gallery, target) for target in targets]
    if arguments.json:
        print_json({"calibrations": [calibration_json(arguments.gallery, one) for one in found]})
    else:
        print_lines(line for one in found for line in calibration_lines(arguments.gallery, one))


def _people(arguments: argparse.Namespace) -> None:
    from engine.cli.output_calibrate import calibrated_json, calibrated_lines
    from engine.decision.estimator import EstimatorSettings
    from engine.trainer.calibrate import Source, calibrate
    from engine.trainer.lists import read_names

    if bool(arguments.labels) and not arguments.vectors:
        raise UsageError("--labels goes with --vectors: the pictures' folders are their labels")
    # What is wrong is said before the work, which takes minutes.
    target = _target(arguments)
    choices = _choices(arguments)
    only = read_names(arguments.only) if arguments.only else None
    labelled, contract = _labelled(arguments, None if only is None else frozenset(only))
    words = arguments.people or f"people of {(arguments.data or arguments.vectors).resolve().name}"
    settings = EstimatorSettings(num_resamples=arguments.resamples, seed=arguments.seed)
    calibrated = calibrate(labelled, Source(contract, words), settings, choices, _say)
    if target is not None:
        _write(target, calibrated)
    targets, sizes = arguments.target_fpir or FPIRS, arguments.size or SIZES
    if arguments.json:
        print_json(calibrated_json(calibrated, targets, sizes, target))
    else:
        print_lines(calibrated_lines(calibrated, targets, sizes, target))


def _choices(arguments: argparse.Namespace) -> Choices:
    from engine.trainer.calibrate import Choices
    from engine.trainer.groups import read_groups
    from engine.trainer.lists import read_errata

    return Choices(
        same=read_errata(arguments.same) if arguments.same else (),
        different=read_errata(arguments.same, "relative") if arguments.same else (),
        has_likely_duplicates=arguments.keep,
        groups=read_groups(arguments.attributes) if arguments.attributes else {},
        target_fpirs=arguments.target_fpir or (),
    )


def _labelled(
    arguments: argparse.Namespace, only: frozenset[str] | None
) -> tuple[LabelledVectors, EmbeddingContract]:
    """Read vectors, or embed pictures; and the contract that they are of."""
    if arguments.vectors:
        labelled, contract = _read(arguments)
        return labelled if only is None else labelled.only(_places(labelled.labels.tolist(), only)), contract
    from engine.assembly import EmbeddingSettings, build_pipeline
    from engine.decision.estimator import check_people
    from engine.trainer.evaluate import MIN_FACE_PX
    from engine.trainer.people import embed_people, find_pictures
    from engine.types import FaceChoice

    people: list[str | int] = sorted({path.parent.name for path in find_pictures(arguments.data)})
    if only is not None:
        people = [people[place] for place in _places(people, only)]
    # Before minutes of embedding: what so many people cannot tell is told at once.
    check_people(len(people), min(arguments.target_fpir or (), default=None))
    with build_pipeline(
        EmbeddingSettings(model=arguments.model or MODEL, device=arguments.device)
    ) as pipeline:
        labelled = embed_people(
            pipeline,
            arguments.data,
            choice=FaceChoice(arguments.face),
            min_face_px=arguments.min_face_px or MIN_FACE_PX,
            progress=sys.stderr.isatty(),
            only=only,
        )
        return labelled, pipeline.embedder.contract


def _places(names: list[str | int], only: frozenset[str]) -> list[int]:
    """Where the names to take are. Raises InvalidInputError where one is nowhere."""
    missing = sorted(only - {str(name) for name in names})
    if missing:
        raise InvalidInputError(
            f"--only names {missing[0]!r}, of whom there is nothing ({len(missing)} such names)"
        )
    return [place for place, name in enumerate(names) if str(name) in only]


def _read(arguments: argparse.Namespace) -> tuple[LabelledVectors, EmbeddingContract]:
    from engine.trainer.vectors_file import read_contract, read_vectors

    labelled = read_vectors(arguments.vectors, arguments.labels)
    told = read_contract(arguments.vectors)
    if told is not None and arguments.model is None:
        return labelled, told
    contract = _contract(arguments)
    if told is not None and told.digest != contract.digest:
        raise SettingsError(
            f"{arguments.vectors} holds templates of contract {told.name} ({told.digest[:12]}), not of"
            f" {contract.name} ({contract.digest[:12]}) of --model {arguments.model}",
            hint="Give the network that they were made with, or leave --model out.",
        )
    return labelled, contract


def _contract(arguments: argparse.Namespace) -> EmbeddingContract:
    from engine.embedding.embed import Embedder
    from engine.embedding.networks import load_network

    return Embedder(load_network(arguments.model or MODEL, "cpu")).contract


def _target(arguments: argparse.Namespace) -> Path | None:
    """The file to write: --out, else beside the weights, else none. Raises InvalidInputError."""
    from engine.decision.calibration import beside, read

    target: Path | None = arguments.out
    if target is None:
        from engine.embedding.networks import ARCHITECTURES

        spec = arguments.model or MODEL
        if spec in ARCHITECTURES:
            return None
        # Of NAME=PATH the path; a wrong spec is refused where the network is loaded.
        name, _, path = spec.partition("=")
        target = beside(Path(path if name in ARCHITECTURES and path else spec))
    if not target.parent.is_dir():
        raise InvalidInputError(f"{target} cannot be written: there is no folder {target.parent}")
    if target.is_dir():
        raise InvalidInputError(f"{target} cannot be written: it is a folder")
    if target.exists():
        try:
            read(target)
        except SettingsError as error:
            raise InvalidInputError(
                f"{target} is there and holds no calibration: it is not replaced. Choose another name"
            ) from error
    return target


def _write(target: Path, calibrated: Calibrated) -> None:
    from engine.decision.calibration import encode
    from engine.outputs import whole_file

    with whole_file(target) as file:
        file.write(encode(calibrated.calibration))


def _say(step: str) -> None:
    sys.stderr.write(f"calibrating: {step}\n")


def _json(text: str) -> Path:
    if not text.lower().endswith(".json"):
        raise argparse.ArgumentTypeError(f"expected the name of a .json file, not {text!r}")
    return Path(text)


def _size(text: str) -> int:
    return whole(text, 1, SIZE_MAX)


def _resamples(text: str) -> int:
    return whole(text, RESAMPLES_MIN, RESAMPLES_MAX)
