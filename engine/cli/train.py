"""The verbs `train run` and `train export`: a network from people's pictures to what a server loads."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli import train_data
from engine.cli.arguments import UsageError, Verbs, add_json_option, seconds, similarity, whole
from engine.cli.layout import print_json, print_lines, table

if TYPE_CHECKING:
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
The server loads FILE or FOLDER by its path: identiface serve --model FILE. Its contract is its own, and
called as FILE or FOLDER is now (mine of mine.safetensors), so that its templates never meet another
network's; `identiface reembed` moves a gallery to it. A head over a network that is a file is written beside
a copy of it: take both.

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
    train_data.add_options(run)
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
        data, backbone = train_data.read(arguments, settings, device)
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
    from engine.trainer.recipes import settings_of

    return settings_of(arguments.recipe, map(one_setting, arguments.set))


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
