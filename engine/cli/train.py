"""The verbs `train run` and `train export`: a network from people's pictures to what a server loads."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.arguments import UsageError, Verbs, add_json_option, face_px, seconds, similarity, whole
from engine.cli.layout import print_json, print_lines, table

if TYPE_CHECKING:
    from engine.trainer.backbones import Backbone
    from engine.trainer.crop_set import CropSet
    from engine.trainer.loop import Data
    from engine.trainer.settings import TrainSettings

THREADS_MAX = 1024
RECIPES = sorted(path.stem for path in Path(__file__).parents[1].glob("trainer/recipes/*.toml"))
"""As `recipes.names`, without loading the trainer."""
_RUN = f"""\
SOURCE is what `index run` reads: a folder with a folder of pictures for each person (as LFW), tar shards in
WebDataset form, a manifest, or an HDF5 file of images and labels. Faces are found, aligned and kept once.
Or it is an .npz of faces that another machine has kept: python -m engine.trainer.pack --crops RUN-crops --to
FILE.npz packs them.

Kill it at any moment and run the same command again: it goes on from its newest checkpoint, and ends with
the same weights, bit by bit, as if nothing had happened (same machine, threads and processes). For several
GPUs or processes: torchrun --nproc-per-node N -m engine.cli train run RUN ...

recipes: {", ".join(RECIPES)}

examples:
  identiface train run runs/mine --data people/ --recipe dlib-resnet-ft1
  identiface train run runs/far --data people.npz --recipe dlib-resnet-ft1
  identiface train run runs/new --data people/ --set network.name=mobilefacenet --set num_steps=2000
  tensorboard --logdir runs/mine
"""
_EXPORT = """\
The server loads FILE or FOLDER by its path: identiface serve --model FILE. Its contract is its own, so that
its templates never meet another network's; `identiface reembed` moves a gallery to it. A head over a network
that is a file is written beside a copy of it: take both.

A FOLDER holds contract.json, the model card and the weights in float16 in files under 16 MiB, half of FILE's
size; of dlib-resnet the difference to the packaged weights, in files under 4 MiB. Buffers, such as the
statistics of batch normalisation, stay float32, and so do weights too large or too small for float16.
Templates move by rounding, by less than 1e-5 in cosine distance on the untrained networks of the tests:
FOLDER has another contract than FILE.

examples:
  identiface train export runs/mine --to mine.safetensors --onnx mine.onnx --threshold 0.93
  identiface train export runs/mine --to mine
  identiface train export runs/seed-0 runs/seed-1 runs/seed-2 --to mine        (the mean of their weights)
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb `train` and those below it."""
    summary = "train or fine-tune a network on your own people"
    train = verbs.add_parser("train", help=summary, description=f"{summary.capitalize()}.")
    below = train.add_subparsers(dest="train_verb", metavar="VERB", required=True, title="verbs")
    run = below.add_parser(
        "run",
        help="train a network, or go on with it",
        description="Train a network, or go on where an earlier run ended.",
        epilog=_RUN,
    )
    run.add_argument(
        "run_folder", metavar="RUN", type=Path, help="folder of the run; made where it is missing"
    )
    _add_data(run)
    run.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="settings to start from: one of the recipes below, or a .toml file (default: the settings' own"
        " defaults)",
    )
    run.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, as network.name=mobilefacenet; may be repeated",
    )
    _add_machine(run)
    run.add_argument(
        "--settings", action="store_true", help="print the settings in effect, and train nothing"
    )
    add_json_option(run)
    run.set_defaults(run=_run)
    _add_export(below)


def _add_export(below: Verbs) -> None:
    export = below.add_parser(
        "export",
        help="write the network of a finished run to be served",
        description="Write the network of a finished run, or the mean of several, for a server to load.",
        epilog=_EXPORT,
    )
    export.add_argument(
        "run_folders",
        metavar="RUN",
        type=Path,
        nargs="+",
        help="folder of a finished run; of several that started from the same weights, the mean is written",
    )
    export.add_argument(
        "--to",
        metavar="FILE|FOLDER",
        type=Path,
        required=True,
        help="a .safetensors file; a name without a suffix: a new folder of small float16 files",
    )
    export.add_argument("--onnx", metavar="FILE", type=Path, help="an .onnx file besides")
    export.add_argument(
        "--threshold",
        metavar="SIMILARITY",
        type=similarity,
        help="default similarity of its contract (default: that which let in one stranger in ten at the last"
        " validation; where nobody was held out, that of the weights it started from)",
    )
    export.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="whether templates take the mirrored face in, for twice the time (default: as in the weights it"
        " started from)",
    )
    export.set_defaults(run=_export)


def _add_data(run: argparse.ArgumentParser) -> None:
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


def _add_machine(run: argparse.ArgumentParser) -> None:
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it trains")
    run.add_argument(
        "--threads",
        metavar="N",
        type=lambda text: whole(text, 1, THREADS_MAX),
        default=max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
        help="CPU threads of torch; a resumed run must have as many (default: %(default)s, the cores here)",
    )
    run.add_argument(
        "--workers",
        metavar="N",
        type=lambda text: whole(text, 0, THREADS_MAX),
        default=1,
        help="processes that read and augment ahead; 0: none (default: 1)",
    )
    run.add_argument(
        "--stop-after-s",
        metavar="SECONDS",
        type=seconds,
        help="pause with a checkpoint after so long; the same command goes on",
    )


def _run(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    if arguments.settings:
        import msgspec

        values = msgspec.to_builtins(settings)
        if arguments.json:
            print_json(values)
        else:
            print_lines(json.dumps(values, indent=2).splitlines())
        return
    from engine.embedding.networks import resolve_device
    from engine.trainer import distributed
    from engine.trainer.loop import Options, train
    from engine.trainer.run_folder import RunFolder

    device = resolve_device(arguments.device)
    ranks = distributed.join(device)
    try:
        run = RunFolder(arguments.run_folder)
        run.check()
        data, backbone = _data(arguments, settings, device)
        options = Options(
            device=device,
            num_threads=arguments.threads,
            num_workers=arguments.workers,
            stop_after_s=arguments.stop_after_s,
            ranks=ranks,
            is_bar_shown=sys.stderr.isatty(),
        )
        ended = train(run, settings, data, options, backbone)
    finally:
        distributed.leave(ranks)
    if not ranks.is_first:
        return
    if arguments.json:
        network = str(ended.network) if ended.network else None
        print_json({"step": ended.step, "is_done": ended.is_done, "network": network})
        return
    rows = [("steps", f"{ended.step:,} of {settings.num_steps:,}")]
    if ended.network is not None:
        rows += [("network", str(ended.network)), ("card", str(ended.network.with_name("model-card.md")))]
    else:
        rows.append(("paused", "run the same command again to go on"))
    print_lines(table(("", ""), rows))


def _settings(arguments: argparse.Namespace) -> TrainSettings:
    """The recipe's settings with those of --set laid over them."""
    from engine import config
    from engine.trainer.recipes import read_recipe
    from engine.trainer.settings import TrainSettings

    values = read_recipe(arguments.recipe) if arguments.recipe else {}
    for text in arguments.set:
        values = config.merge(values, one_setting(text))
    return config.build(TrainSettings, values)


def one_setting(text: str) -> dict[str, Any]:
    """Read KEY=VALUE as TOML does; a value that is no TOML is a text. Raises UsageError."""
    key, equals, value = text.partition("=")
    if not key.strip() or not equals:
        raise UsageError(f"--set takes KEY=VALUE, not {text!r}")
    for written in (value, _quoted(value)):
        try:
            return tomllib.loads(f"{key} = {written}")
        except tomllib.TOMLDecodeError:
            continue
    raise UsageError(f"--set takes KEY=VALUE with a KEY like network.name, not {text!r}")


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _data(arguments: argparse.Namespace, settings: TrainSettings, device: str) -> tuple[Data, Backbone]:
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


def _export(arguments: argparse.Namespace) -> None:
    from engine.trainer.run_folder import RunFolder
    from engine.trainer.shipping import ship

    contract = ship(
        [RunFolder(folder) for folder in arguments.run_folders],
        arguments.to,
        onnx=arguments.onnx,
        threshold=arguments.threshold,
        mirror=arguments.mirror,
    )
    rows = [("network", str(arguments.to)), *([("ONNX", str(arguments.onnx))] if arguments.onnx else [])]
    rows += [
        ("contract", f"{contract.name}, digest {contract.digest[:16]}"),
        ("template", f"{contract.dimension} numbers, {'with' if contract.mirror else 'without'} the mirror"),
        ("threshold", f"{contract.threshold:g}"),
    ]
    print_lines(table(("", ""), rows))
