"""The verbs `status`, `build` and `recall`, for operators. Knows nothing of faces."""

from __future__ import annotations

import argparse
import sys

from engine.cli import output_admin as output
from engine.cli.arguments import Verbs, add_server_options, gallery_name, whole
from engine.cli.connection import open_client
from engine.cli.layout import print_json, print_lines
from engine.errors import EngineError
from engine.limits import RECALL_PROBES_DEFAULT, RECALL_PROBES_MAX

_STATUS = """\
Say what the server is and holds. Of each gallery:
  sequence      number of its last write
  generation    number of its index; - until one is built, which a small gallery does without
  kind          what the index is: flat compares with everybody, codes finds the nearest by compressed
                templates first; on a GPU, where and in how much of its memory
  top-1, top-10 what `identiface recall` last measured of it; - is not measured
Below, by which threshold it decides, with the interval that it lies in where it follows from a rate, the
share of strangers who would reach it and of the enrolled who would be missed; warnings; and what was counted
of its probes where it has --probe-statistics."""
_BUILD = """\
Build a gallery's index anew and make the new one current. Searches and writes go on meanwhile. The server
does this by itself when enough was written; asked for, it is done now. It takes as long as it takes:
--timeout-s is only for finding the server."""
_RECALL = """\
Measure how often a default search finds what an exact scan finds, with probes made from the gallery's own
templates, and keep the result with the index, for `identiface status` to show. Searches go on meanwhile. It
needs an index: see `identiface build`. It takes as long as it takes: --timeout-s is only for finding the
server."""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs."""
    status = verbs.add_parser(
        "status",
        help="say what the server is and holds",
        description=_STATUS,
    )
    status.set_defaults(run=_status)
    add_server_options(status)
    build = verbs.add_parser(
        "build",
        help="build a gallery's index anew",
        description=_BUILD,
        epilog="example:\n  identiface build staff\n",
    )
    build.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    build.set_defaults(run=_build)
    add_server_options(build)
    _add_recall(verbs)


def _add_recall(verbs: Verbs) -> None:
    recall = verbs.add_parser(
        "recall",
        help="measure how often a search finds what an exact scan finds",
        description=_RECALL,
        epilog="example:\n  identiface recall staff --probes 2000\n",
    )
    recall.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    recall.add_argument(
        "--probes",
        metavar="NUMBER",
        type=lambda text: whole(text, 1, RECALL_PROBES_MAX),
        default=RECALL_PROBES_DEFAULT,
        help=f"probes to compare, 1 to {RECALL_PROBES_MAX:,} (default: {RECALL_PROBES_DEFAULT:,})",
    )
    recall.add_argument(
        "--seed",
        metavar="NUMBER",
        type=lambda text: whole(text, 0, 2**64 - 1),
        default=0,
        help="of the choice of probes: the same seed measures the same (default: 0)",
    )
    recall.set_defaults(run=_recall)
    add_server_options(recall)


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


def _recall(arguments: argparse.Namespace) -> None:
    is_watched = sys.stderr.isatty() and not arguments.json
    last = None
    with open_client(arguments) as client:
        for last in client.measure_recall(
            arguments.gallery, num_probes=arguments.probes, seed=arguments.seed
        ):
            if is_watched:
                sys.stderr.write(f"\r{last.num_done:,} of {last.num_total:,} probes compared")
    if is_watched:
        sys.stderr.write("\r\033[K")
    if last is None or last.agreement is None:
        raise EngineError(f"the server ended the measurement of {arguments.gallery} without an answer")
    if arguments.json:
        print_json(output.recall_json(arguments.gallery, last))
    else:
        print_lines(output.recall_lines(arguments.gallery, last, last.agreement))
