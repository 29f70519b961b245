"""The verbs `status` and `build`, for operators. Knows nothing of faces."""

from __future__ import annotations

import argparse
import sys

from engine.cli import output
from engine.cli.arguments import Verbs, add_server_options, gallery_name
from engine.cli.connection import open_client
from engine.cli.layout import print_json, print_lines
from engine.errors import EngineError


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs."""
    status = verbs.add_parser(
        "status",
        help="say what the server is and holds",
        description="Say what the server is and holds. Of each gallery, sequence is the number of its last"
        " write, and generation the number of its index, 0 or - until one is built.",
    )
    status.set_defaults(run=_status)
    add_server_options(status)
    build = verbs.add_parser(
        "build",
        help="build a gallery's index anew",
        description="Build a new generation of a gallery's index and make it current; searches go on;"
        " --timeout-s does not apply.",
        epilog="example:\n  identiface build staff\n",
    )
    build.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    build.set_defaults(run=_build)
    add_server_options(build)


def _status(arguments: argparse.Namespace) -> None:
    with open_client(arguments) as client:
        status = client.status()
    if arguments.json:
        print_json(output.status_json(status))
    else:
        print_lines(output.status_lines(arguments.server, status))


def _build(arguments: argparse.Namespace) -> None:
    is_watched = sys.stderr.isatty() and not arguments.json
    last = None
    with open_client(arguments) as client:
        for last in client.build_index(arguments.gallery):
            if is_watched:
                sys.stderr.write(f"\r{last.num_done:,} of {last.num_total:,} templates written")
    if is_watched:
        sys.stderr.write("\r\033[K")
    if last is None or not last.is_done:
        raise EngineError(f"the server ended the build of {arguments.gallery} without an answer")
    if arguments.json:
        print_json(output.build_json(arguments.gallery, last))
    else:
        print_lines(output.build_lines(arguments.gallery, last))
