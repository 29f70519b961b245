"""The verbs `index run`, `index status` and `index report`: bulk jobs."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.arguments import (
    UsageError,
    Verbs,
    add_folder_or_server,
    add_json_option,
    add_timeout_option,
    gallery_name,
    similarity,
    whole,
)
from engine.cli.layout import print_json, print_lines, table

if TYPE_CHECKING:
    from engine.types import EmbeddingContract
    from indexer.items import PictureSource, VectorSource
    from indexer.job import Pictures, Summary
    from indexer.record import JobFolder, JobSettings
    from indexer.runners import Runner
    from indexer.target import Target

WORKERS_DEFAULT_MAX = 8
"""Each takes some 700 MB."""
JOBS_FOLDER = "jobs"
"""Of a data folder."""
_RUN = """\
SOURCE is recognised: a folder with a folder of pictures for each identity; a CSV or Parquet file with the
columns path and identity_id; tar shards in WebDataset form; an HDF5 file of images and labels; an .npy file
of vectors with --ids; a Parquet file with the columns identity_id and vector.

Kill it at any moment and run the same command again: it goes on where it was. Run again when it is done, it
changes nothing. A gallery that is not there yet is filled and built under a name of its own and published at
the end, by an alias; one that is there is added to.

Until all is loaded and verified, a job's folder holds the templates of its pictures, where `remove --erase`
does not reach; from then on the gallery alone has them. Names, reasons and digests of pictures stay there.

examples:
  identiface index run people/ --gallery staff --data identiface-data --workers 2
  identiface index run vectors.npy --ids ids.txt --gallery others --data identiface-data \\
      --contract arcface --threshold 0.4
  identiface index run staff.parquet --gallery staff --server 127.0.0.1:7300
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb `index` and those below it."""
    summary = "load pictures or vectors by the million"
    index = verbs.add_parser("index", help=summary, description=f"{summary.capitalize()}.")
    below = index.add_subparsers(dest="index_verb", metavar="VERB", required=True, title="verbs")
    run = below.add_parser(
        "run",
        help="load a source into a gallery, or go on with it",
        description="Load pictures or vectors into a gallery, or go on where an earlier run ended.",
        epilog=_RUN,
    )
    run.add_argument("source", metavar="SOURCE", type=Path, help="folder or file")
    run.add_argument(
        "--gallery", metavar="GALLERY", type=gallery_name, required=True, help="made where it is missing"
    )
    _add_target(run)
    run.add_argument("--ids", metavar="FILE", type=Path, help="identity of each row of an .npy file")
    run.add_argument("--images", metavar="NAME", default="", help="of an HDF5 file: data set of the images")
    run.add_argument("--labels", metavar="NAME", default="", help="of an HDF5 file: data set of the labels")
    run.add_argument("--replace", action="store_true", help="replace the gallery that the alias names")
    run.add_argument(
        "--replan", action="store_true", help="look at everything again where the source has changed"
    )
    run.add_argument(
        "--verify",
        action="store_true",
        help="read the whole source again, to see whether it changed (default: names, sizes and times)",
    )
    run.add_argument(
        "--runner",
        choices=("inline", "processes", "ray"),
        default="processes",
        help="who embeds pictures: this process, several of this machine, or a Ray cluster (RAY_ADDRESS, else"
        " one started here; needs the extra ray) (default: processes)",
    )
    run.add_argument(
        "--workers",
        metavar="N",
        type=workers,
        default=min(WORKERS_DEFAULT_MAX, len(os.sched_getaffinity(0))),
        help="processes that embed pictures, one thread each (default: %(default)s, by the cores here)",
    )
    add_timeout_option(run)
    _add_pictures(run)
    _add_vectors(run)
    add_json_option(run)
    run.set_defaults(run=_run)
    for verb, what, function in (
        ("status", "tell how far the jobs of a data folder or server are", _status),
        ("report", "tell where a job's report is, and its counts", _report),
    ):
        example = f"example:\n  identiface index {verb} --data identiface-data\n"
        parser = below.add_parser(verb, help=what, description=f"{what.capitalize()}.", epilog=example)
        _add_target(parser)
        parser.add_argument("job", metavar="JOB", nargs="?", help="its id (default: all, or the latest)")
        add_json_option(parser)
        parser.set_defaults(run=function)


def _add_target(parser: argparse.ArgumentParser) -> None:
    add_folder_or_server(parser)
    parser.add_argument(
        "--jobs",
        metavar="FOLDER",
        type=Path,
        help="where jobs keep what they have done (default: in the data folder; with --server"
        " ~/.local/state/identiface/jobs)",
    )


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--model", metavar="SPEC", default="dlib-resnet", help="network, as `serve --model` takes it"
    )
    pictures.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it runs")
    pictures.add_argument("--keep-crops", action="store_true", help="make the gallery with --keep-crops")
    pictures.add_argument(
        "--gate",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a limit of the quality gate: faces (refuse, largest, centre or all), min_face_px,"
        " min_confidence, min_sharpness, max_yaw_deg, max_pitch_deg, duplicates (refuse or accept),"
        " near_another_identity (refuse, flag or accept); may be repeated",
    )


def _add_vectors(parser: argparse.ArgumentParser) -> None:
    vectors = parser.add_argument_group("vectors")
    vectors.add_argument("--normalize", action="store_true", help="bring vectors to unit length")
    vectors.add_argument("--contract", metavar="NAME", help="what made them, for a new gallery")
    vectors.add_argument(
        "--threshold", metavar="SIMILARITY", type=similarity, help="of a new gallery; needed with --contract"
    )


def _run(arguments: argparse.Namespace) -> None:
    from engine.types import GallerySettings
    from indexer.items import VectorSource
    from indexer.job import Job
    from indexer.record import JobFolder
    from indexer.sources import open_source

    # A link is the file that it leads to: the same job, with the same keys.
    ids = arguments.ids.resolve() if arguments.ids else None
    source = open_source(arguments.source.resolve(), ids, images=arguments.images, labels=arguments.labels)
    what = source if isinstance(source, VectorSource) else _pictures(arguments, source)
    given = _contract_of(arguments, source) if isinstance(source, VectorSource) else None
    with opened_target(arguments) as target:
        settings = _settings(arguments, target.name, has_vectors=isinstance(source, VectorSource))
        folder = JobFolder(_jobs(arguments), settings.id)
        with folder.locked(settings):
            summary = Job(folder, settings, target, say).run(
                what,
                lambda: given if isinstance(what, VectorSource) else what.mapper.contract,
                GallerySettings(keep_crops=arguments.keep_crops),
                is_replanned=arguments.replan,
                is_reread=arguments.verify,
            )
    if arguments.json:
        print_json(_as_json(summary))
    else:
        print_lines(_lines(summary))


def say(line: str) -> None:
    """Tell whoever waits; the answer alone goes to stdout."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def workers(text: str) -> int:
    """Take a number of processes."""
    from indexer.runners import WORKERS_MAX

    return whole(text, 1, WORKERS_MAX)


def _settings(arguments: argparse.Namespace, target: str, *, has_vectors: bool) -> JobSettings:
    from engine import config
    from indexer.gate import GateSettings
    from indexer.record import JobSettings

    return JobSettings(
        source=str(arguments.source.resolve()),
        gallery=arguments.gallery,
        target=target,
        ids=str(arguments.ids.resolve()) if arguments.ids else "",
        model="" if has_vectors else arguments.model,
        normalize=arguments.normalize,
        replace=arguments.replace,
        gate=config.build(GateSettings, _limits(arguments.gate)),
        images=arguments.images,
        labels=arguments.labels,
    )


def _limits(given: list[str]) -> dict[str, str | float]:
    limits: dict[str, str | float] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--gate takes NAME=VALUE, not {text!r}")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = value
    return limits


def _contract_of(arguments: argparse.Namespace, source: VectorSource) -> EmbeddingContract | None:
    from engine.types import EmbeddingContract

    if arguments.gate or arguments.keep_crops:
        raise UsageError("--gate and --keep-crops are for pictures; SOURCE holds vectors")
    if arguments.contract is None:
        if arguments.threshold is not None:
            raise UsageError("--threshold needs --contract, and is for a new gallery")
        return source.contract
    if arguments.threshold is None:
        raise UsageError("--contract needs --threshold: nothing is known of vectors made elsewhere")
    return EmbeddingContract(
        arguments.contract, "", "", mirror=False, dimension=source.dimension, threshold=arguments.threshold
    )


def _pictures(arguments: argparse.Namespace, source: PictureSource) -> Pictures:
    from engine import config
    from engine.assembly import EmbeddingSettings
    from indexer.gate import GateSettings
    from indexer.job import Pictures
    from indexer.mapper import PictureMapper
    from indexer.runners import Inline, Processes

    if arguments.normalize or arguments.contract or arguments.threshold is not None:
        raise UsageError("--normalize, --contract and --threshold are for vectors; SOURCE holds pictures")
    # One thread each: a network's last bits depend on their number, and every runner must give the same.
    embedding = EmbeddingSettings(model=arguments.model, device=arguments.device, num_threads=1)
    mapper = PictureMapper(source, embedding, config.build(GateSettings, _limits(arguments.gate)))
    runner: Runner
    if arguments.runner == "ray":
        from indexer.ray_runner import Ray

        runner = Ray(arguments.workers)
    else:
        runner = Inline() if arguments.runner == "inline" else Processes(arguments.workers)
    return Pictures(source, mapper, runner, 1 if arguments.runner == "inline" else arguments.workers)


@contextlib.contextmanager
def opened_target(arguments: argparse.Namespace) -> Iterator[Target]:
    """Open the data folder or the server that --data or --server names."""
    from indexer.target import LocalTarget, ServerTarget

    opened = (
        LocalTarget.open(arguments.data)
        if arguments.data is not None
        else ServerTarget.open(arguments.server, arguments.timeout_s)
    )
    with opened as target:
        yield target


def _jobs(arguments: argparse.Namespace) -> Path:
    if arguments.jobs is not None:
        return Path(arguments.jobs)
    if arguments.data is not None:
        return Path(arguments.data) / JOBS_FOLDER
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "identiface" / JOBS_FOLDER


def _status(arguments: argparse.Namespace) -> None:
    told = [_state_of(folder) for folder in _chosen(arguments)]
    if arguments.json:
        print_json({"jobs": [dict(zip(_STATE, row, strict=True)) for row in told]})
    else:
        print_lines(table(_STATE, told))


def _report(arguments: argparse.Namespace) -> None:
    from collections import Counter

    *_, folder = [None, *_chosen(arguments)]
    planned = folder.read_plan() if folder else None
    if folder is None or planned is None or not folder.report.exists():
        raise UsageError(
            "there is no job yet" if folder is None else f"job {folder.job_id} is not loaded yet"
        )
    counts = Counter(str(refusal.reason) for refusal in folder.refusals(planned))
    judged = folder.judged()
    flagged = Counter(str(flag.reason) for flag in judged.flagged) if judged else Counter[str]()
    if arguments.json:
        print_json(
            {
                "job": folder.job_id,
                "report": str(folder.report),
                "refused": dict(counts),
                "flagged": dict(flagged),
            }
        )
    else:
        rows = [("report", str(folder.report / "report.html")), ("items", f"{planned.num_items:,}")]
        rows += [(reason, f"{num:,}") for reason, num in counts.most_common()]
        rows += [(f"{reason}, enrolled", f"{num:,}") for reason, num in flagged.most_common()]
        print_lines(table(("", ""), rows))


_STATE = ("job", "gallery", "source", "items", "embedded", "loaded", "state")


def _state_of(folder: JobFolder) -> tuple[str, ...]:
    settings, planned = folder.settings(), folder.read_plan()
    if planned is None:
        return (folder.job_id, settings.gallery, settings.source, "", "", "", "being planned")
    embedded, loaded = (
        planned.num_items - sum(map(planned.items_of, folder.left(step, planned)))
        for step in ("embedded", "loaded")
    )
    state = "done" if folder.state.is_done else "not done: run the same command again"
    shown = f"{embedded:,}" if planned.is_pictures else ""
    return (
        folder.job_id,
        settings.gallery,
        settings.source,
        f"{planned.num_items:,}",
        shown,
        f"{loaded:,}",
        state,
    )


def _chosen(arguments: argparse.Namespace) -> list[JobFolder]:
    """The job named, or all, the one that began last at the end."""
    from indexer.record import JobFolder

    jobs = _jobs(arguments)
    paths = [path for path in jobs.iterdir() if (path / "settings").exists()] if jobs.is_dir() else []
    if arguments.job is not None:
        paths = [path for path in paths if path.name == arguments.job]
        if not paths:
            raise UsageError(f"there is no job {arguments.job!r} in {jobs}")
    paths.sort(key=lambda path: (path / "settings").stat().st_mtime)
    return [JobFolder(jobs, path.name) for path in paths]


def _as_json(summary: Summary) -> dict[str, object]:
    return {
        "job": summary.job_id,
        "gallery": summary.gallery_id,
        "items": summary.num_items,
        "refused": summary.num_refused,
        "flagged": summary.num_flagged,
        "templates": summary.num_templates,
        "seconds": {step: round(value, 3) for step, value in summary.seconds.items()},
        "unchanged": summary.is_unchanged,
        "report": str(summary.report),
    }


def _lines(summary: Summary) -> list[str]:
    if summary.is_unchanged:
        return [f"nothing to do: job {summary.job_id} is done and its source has not changed"]
    steps = ", ".join(f"{step} {value:.1f} s" for step, value in summary.seconds.items())
    return table(
        ("", ""),
        [
            ("job", summary.job_id),
            ("gallery", summary.gallery_id),
            (
                "items",
                f"{summary.num_items:,}, {summary.num_refused:,} refused, {summary.num_flagged:,} flagged",
            ),
            ("templates", f"{summary.num_templates:,} in the gallery"),
            ("time", steps),
            ("report", str(summary.report / "report.html")),
        ],
    )
