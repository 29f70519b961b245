"""Whom `train run` learns from and whom it judges by: from the command line's lists to two sets of faces."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.arguments import UsageError, face_px

if TYPE_CHECKING:
    from engine.trainer.backbones import Backbone
    from engine.trainer.crop_set import CropSet
    from engine.trainer.loop import Data
    from engine.trainer.settings import TrainSettings


def add_options(run: argparse.ArgumentParser) -> None:
    """Add the options by which a run's people are named, and where their faces are kept."""
    data = run.add_argument_group("data")
    data.add_argument(
        "--data",
        metavar="SOURCE",
        type=Path,
        required=True,
        help="pictures of people, or an .npz of packed crops, for which --images, --labels, --face and"
        " --min-face-px say nothing",
    )
    data.add_argument("--images", metavar="NAME", default="", help="of an HDF5 file: data set of the images")
    data.add_argument("--labels", metavar="NAME", default="", help="of an HDF5 file: data set of the labels")
    data.add_argument(
        "--people", metavar="FILE", type=Path, help="whom to train on, a name a line (default: all)"
    )
    data.add_argument(
        "--validate-people",
        metavar="FILE",
        type=Path,
        help="whom to judge by, a name a line (default: a share of the people drawn by seed)",
    )
    data.add_argument(
        "--errata",
        metavar="FILE",
        type=Path,
        help="who is there under two names: name, name and same or relative, divided by tabs; nobody is"
        " learnt from under one name and judged by under another",
    )
    data.add_argument(
        "--crops",
        metavar="FOLDER",
        type=Path,
        help="where faces are kept, for several runs on the same SOURCE (default: RUN-crops)",
    )
    data.add_argument(
        "--face", choices=("centre", "largest"), default="centre", help="which of a picture's faces is meant"
    )
    data.add_argument(
        "--min-face-px",
        metavar="PIXELS",
        type=face_px,
        default=70,
        help="smallest face looked for (default: 70)",
    )


def read(arguments: argparse.Namespace, settings: TrainSettings, device: str) -> tuple[Data, Backbone]:
    """Crops of the people to train on and of those to judge by; and the network whose crops they are."""
    from engine.trainer.lists import read_errata, read_names
    from engine.trainer.loop import Data
    from engine.trainer.split import hold_out, merge_identities, names_of_one, split_identities, wholly_listed

    # Lists are read first: a wrong one is said before faces are looked for.
    wanted = read_names(arguments.people) if arguments.people else ()
    judged = read_names(arguments.validate_people) if arguments.validate_people else ()
    same = read_errata(arguments.errata) if arguments.errata else ()
    # By all of their names: a person is learnt from or judged by, never both.
    aliases = names_of_one(same)
    judged_names = frozenset[str]().union(*(aliases.get(name, {name}) for name in judged))
    if wanted and judged_names.issuperset(wanted):
        raise UsageError(
            f"all {len(wanted):,} people of --people are taken for validation by --validate-people: nobody is"
            " left to learn from"
        )
    crops, backbone = _crops(arguments, settings, device)
    _tell_missing("--people", wanted, crops)
    _tell_missing("--validate-people", judged, crops)
    crops = merge_identities(crops, same)
    held = None
    if judged:
        crops, held = hold_out(crops, judged_names)
    if wanted:
        whole_people = wholly_listed(wanted, same)
        _tell_divided(sorted(set(wanted) - whole_people))
        crops = _only(crops, whole_people)
    if not judged and settings.validation_share:
        crops, held = split_identities(crops, settings.validation_share, settings.seed)
    if held is not None:
        crops = _without_pictures_of(held, crops)
    return Data(crops, held), backbone


def _tell_missing(flag: str, names: tuple[str, ...], crops: CropSet) -> None:
    missing = sorted(set(names) - set(crops.identities))
    if missing:
        sys.stderr.write(f"{len(missing):,} names of {flag} have no face in SOURCE, as {missing[0]}\n")


def _tell_divided(names: list[str]) -> None:
    if names:
        sys.stderr.write(
            f"of --people {len(names):,} left out, as {names[0]}: by --errata they have another name, too,"
            " which the list lacks\n"
        )


def _without_pictures_of(held: CropSet, crops: CropSet) -> CropSet:
    """Leave out of training what is a picture of the people held out, too, there under another name."""
    import numpy as np

    from engine.trainer.split import rows_of_others_pictures

    shared = rows_of_others_pictures(crops, held)
    if not len(shared):
        return crops
    told = f"{len(shared):,} pictures learnt from are those of people judged by, as {crops.keys[shared[0]]}"
    if len(shared) == len(crops):
        raise UsageError(f"{told}: none is left to learn from")
    sys.stderr.write(f"{told}: left out of training; --errata says who is one person\n")
    return crops.subset(np.setdiff1d(np.arange(len(crops)), shared))


def _only(crops: CropSet, names: Collection[str]) -> CropSet:
    rows = crops.rows_of(names)
    if not len(rows):
        example = f", as {min(names)!r}" if names else ""
        raise UsageError(
            f"--people names nobody of SOURCE who can be learnt from: of {len(names):,} names{example}"
        )
    return crops.subset(rows)


def _crops(arguments: argparse.Namespace, settings: TrainSettings, device: str) -> tuple[CropSet, Backbone]:
    from engine.trainer.backbones import backbone_of
    from engine.trainer.crops import CropSettings, build_crops
    from engine.trainer.pack import is_pack, unpack
    from indexer.items import VectorSource
    from indexer.sources import open_source

    # Resolved: `.` has no name.
    run_folder = arguments.run_folder.resolve()
    folder = arguments.crops or run_folder.with_name(f"{run_folder.name}-crops")
    if is_pack(arguments.data):
        backbone = backbone_of(settings)
        return unpack(arguments.data, folder, backbone.alignment.name), backbone
    source = open_source(arguments.data.resolve(), images=arguments.images, labels=arguments.labels)
    if isinstance(source, VectorSource):
        raise UsageError("SOURCE holds vectors; a network learns from pictures")
    limits = CropSettings(face_choice=arguments.face, min_face_px=arguments.min_face_px)
    backbone = backbone_of(settings)
    return build_crops(source, folder, backbone.alignment, limits, device=device), backbone
