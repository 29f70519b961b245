"""The verb `serve`: flags and a settings file to a running server. Knows nothing of what it serves."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from engine.cli.arguments import UsageError, Verbs, address, face_px, whole
from engine.wire.address import DEFAULT_ADDRESS
from engine.wire.limits import FACE_PX_MIN

_EPILOG = """\
SIGTERM stops it after the work in progress; every answered write is on disk already, so kill -9 loses
nothing, too.

tables and keys of the settings file; flags win over it:
  (above all tables)  data, listen, port_file, insecure, metrics_listen, threads, unary_queue_max,
      streams_max, message_size_bytes_max, keepalive_s, max_connection_age_s, grace_s, workers,
      embed_workers, worker_silence_s, calibrations
  [embedding]  model, device, num_threads
  [embedding.pipeline.limits]  bytes_max, pixels_max, side_px_max, frames_max
  [embedding.pipeline.detector]  min_face_px, thresholds, factor, pyramid_pixels_max, faces_max,
      candidates_max
  [embedding.pipeline.batcher]  batch_items_max, batch_pixels_max, wait_ms_max, queue_items_max,
      queue_pixels_max
  [galleries]  open_galleries_max, maintenance_s
  [galleries.store]  map_size_bytes_max, commit_records_max, commit_ms_max, commit_pause_ms,
      queue_writes_max, receipts_s
  [galleries.index]  delta_rows_max, dead_share_max, journal_rows_max, flat_rows_max,
      build_inline_rows_max, build_threads, crowding_templates_max, catch_up_rows_max, catch_up_ms_max,
      search_device

search_device = "cuda" searches galleries on a GPU, exactly; every worker holds a copy of its own there.

example:
  identiface serve --data faces
  identiface serve --data faces --model none                                   vectors only, without torch
  identiface serve --data faces --workers 4                                    on several cores
  identiface serve --data faces --listen 127.0.0.1:0 --port-file port.txt      for scripts
"""


def workers(text: str) -> int:
    """Take a number of processes."""
    from engine.server.settings import WORKERS_MAX

    return whole(text, 1, WORKERS_MAX)


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    serve = verbs.add_parser(
        "serve",
        help="serve galleries over gRPC",
        description="Serve galleries over gRPC until SIGTERM or Ctrl-C.",
        epilog=_EPILOG,
    )
    serve.add_argument(
        "--data",
        metavar="FOLDER",
        help="keeps all galleries, on a local disk; made where it is missing; needed, here or in the settings"
        " file",
    )
    serve.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=address,
        help=f"port 0 takes a free one (default: {DEFAULT_ADDRESS})",
    )
    serve.add_argument(
        "--port-file", metavar="FILE", help="write the port to this file once the server is ready, in decimal"
    )
    serve.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="listen and show metrics beyond this machine although nothing is encrypted and anybody may ask",
    )
    _add_embedding(serve)
    serve.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        type=address,
        help="show metrics to Prometheus here, with names and sizes of galleries (default: no)",
    )
    _add_processes(serve)
    serve.add_argument("--config", metavar="FILE.toml", type=Path, help="settings file")
    serve.set_defaults(run=_serve)


def _add_embedding(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--model",
        metavar="SPEC",
        help="name of a network, NAME=PATH, the path of its weights, or none to take vectors only"
        " (default: dlib-resnet)",
    )
    serve.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="where pictures are embedded; auto takes CUDA where it is, cuda refuses to start without it"
        " (default: auto)",
    )
    serve.add_argument(
        "--calibration",
        metavar="FILE",
        action="append",
        help="calibration of a network, from `identiface calibrate`; goes before the one beside the network's"
        " weights and the one that comes with it; may be given several times, once for a network",
    )
    serve.add_argument(
        "--min-face-px",
        metavar="PIXELS",
        type=face_px,
        help="size of face at which the search starts where a request names none, in pixels of its box's"
        f" side, {FACE_PX_MIN} or more; boxes may come out down to about half of it; smaller takes longer and"
        " finds more that is none (default: 40)",
    )


def _add_processes(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--workers",
        metavar="N",
        type=workers,
        help="processes that serve one port and one data folder as equals, about one for each core; clients"
        " need several connections to use them all (default: 1)",
    )
    serve.add_argument(
        "--embed-workers",
        metavar="N",
        type=workers,
        help="with several workers: processes that embed their pictures, about one for each device"
        " (default: 1)",
    )


def _serve(arguments: argparse.Namespace) -> None:
    from engine import config
    from engine.server.settings import ServeSettings

    base = {} if arguments.config is None else config.read_file(arguments.config)
    values = config.merge(base, _flags(arguments))
    if "data" not in values:
        # A misspelt key, perhaps of this very one, is named first.
        config.build(ServeSettings, {**values, "data": "."})
        raise UsageError("--data is needed: the folder that keeps all galleries")
    settings = config.build(ServeSettings, values)
    if settings.workers > 1:
        from engine.server import parent

        parent.run(settings)
    else:
        from engine.server import serve

        serve.run(settings)


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """Lay out flags as the settings file has them; None: not given."""
    embedding: dict[str, Any] = {"model": arguments.model, "device": arguments.device}
    if arguments.min_face_px is not None:
        embedding["pipeline"] = {"detector": {"min_face_px": arguments.min_face_px}}
    return {
        "data": arguments.data,
        "listen": arguments.listen,
        "port_file": arguments.port_file,
        "insecure": arguments.insecure,
        "metrics_listen": arguments.metrics_listen,
        "workers": arguments.workers,
        "embed_workers": arguments.embed_workers,
        "embedding": embedding,
        "calibrations": arguments.calibration,
    }
