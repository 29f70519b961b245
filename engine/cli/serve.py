"""The verb `serve`: flags and a settings file to a running server. Knows nothing of what it serves."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from engine.cli.arguments import UsageError, Verbs, address, face_px
from engine.wire.address import DEFAULT_ADDRESS

_EPILOG = """\
Flags win over the settings file, which is TOML with the keys of ServeSettings: data, listen, port_file,
threads, tables [embedding] and [galleries], and more. SIGTERM stops it after the work in progress; every
answered write is on disk already, so kill -9 loses nothing, too.

example:
  identiface serve --data faces
  identiface serve --data faces --model none                                   vectors only, without torch
  identiface serve --data faces --listen 127.0.0.1:0 --port-file port.txt      for scripts
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    serve = verbs.add_parser(
        "serve",
        help="serve galleries over gRPC",
        description="Serve galleries over gRPC until SIGTERM or Ctrl-C.",
        epilog=_EPILOG,
    )
    serve.add_argument(
        "--data", metavar="FOLDER", help="keeps all galleries, on a local disk; made where it is missing"
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
        "--min-face-px",
        metavar="PIXELS",
        type=face_px,
        help="smallest face to look for where a request names none, in pixels of its box's side; smaller"
        " takes longer and finds more that is none (default: 40)",
    )
    serve.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        type=address,
        help="show metrics to Prometheus here, with names and sizes of galleries (default: no)",
    )
    serve.add_argument("--config", metavar="FILE.toml", type=Path, help="settings file")
    serve.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    from engine import config
    from engine.server.serve import run
    from engine.server.settings import ServeSettings

    base = {} if arguments.config is None else config.read_file(arguments.config)
    values = config.merge(base, _flags(arguments))
    if "data" not in values:
        raise UsageError("--data is needed: the folder that keeps all galleries")
    run(config.build(ServeSettings, values))


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
        "embedding": embedding,
    }
