"""The verb `reembed`: a gallery moved to another network. Knows nothing of networks and crops."""

from __future__ import annotations

import argparse
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
)
from engine.cli.index import opened_target
from engine.cli.layout import count, print_json, print_lines
from engine.errors import DataFolderError, PreconditionError

if TYPE_CHECKING:
    from engine.embedding.embed import Embedder
    from indexer.reembed import Moved

SHOWN_MAX = 20
"""Identities named on the terminal; a report names them all."""
_REEMBED = """\
The templates of two networks cannot be compared, so another network takes another gallery. Where GALLERY was
made with --keep-crops, the new one is made from the faces kept in it, with all identities, attributes, expiry
times and source keys. Nothing of GALLERY changes. Who has no kept face is listed, moved without templates,
and needs new pictures.

Kill it at any moment and run the same command again: it goes on where it was.

exit codes: 0 everybody was moved, or --allow-missing was given; 1 somebody needs new pictures

examples:
  identiface reembed staff-2026 --to staff-2027 --data faces --model dlib-resnet-ft1 --alias staff
  identiface reembed staff --to staff-new --server 127.0.0.1:7300 --model mine.safetensors --report who.csv
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "reembed",
        help="move a gallery to another network, from the faces kept in it",
        description="Make a new gallery for another network from the faces kept in a gallery.",
        epilog=_REEMBED,
    )
    parser.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    parser.add_argument(
        "--to", metavar="NEW_GALLERY", type=gallery_name, required=True, help="made where it is missing"
    )
    add_folder_or_server(parser)
    parser.add_argument(
        "--model", metavar="SPEC", required=True, help="the new network, as `serve --model` takes it"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it runs")
    parser.add_argument(
        "--threshold",
        metavar="SIMILARITY",
        type=similarity,
        help="of the new gallery (default: that of the network; the old gallery's own does not carry over)",
    )
    parser.add_argument("--report", metavar="FILE.csv", type=Path, help="whose templates could not be moved")
    parser.add_argument(
        "--alias", metavar="NAME", type=gallery_name, help="let it name the new gallery, once all were moved"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="be content where some identities need new pictures"
    )
    add_timeout_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=_reembed)


def _reembed(arguments: argparse.Namespace) -> None:
    from indexer.reembed import CropEmbedder, check_alias, find_old, reembed, write_report

    if arguments.data is not None and not (arguments.data / "catalog").is_dir():
        # Opening would make one.
        raise DataFolderError(
            f"{arguments.data} is no data folder", hint="Give --data the folder of `identiface serve --data`."
        )
    if arguments.alias == arguments.to:
        raise UsageError("--alias and --to are one name: an alias is a second name, choose another one")
    with opened_target(arguments) as target:
        if arguments.alias is not None:
            check_alias(target, arguments.alias)
        old = find_old(target, arguments.gallery)
        # After all that needs no network: loading one takes seconds.
        embed = CropEmbedder(_embedder(arguments))
        moved = reembed(target, old, arguments.to, embed, threshold=arguments.threshold)
        if arguments.report is not None:
            write_report(arguments.report, moved)
        is_enough = bool(moved.gallery_id) and (arguments.allow_missing or not moved.in_need)
        is_named = is_enough and arguments.alias is not None
        if is_named:
            target.set_alias(arguments.alias, moved.gallery_id)
    if arguments.json:
        print_json(_as_json(moved, arguments.alias if is_named else None))
    else:
        print_lines(_lines(moved, arguments.alias if is_named else None))
    if not is_enough:
        raise _incomplete(moved, arguments)


def _embedder(arguments: argparse.Namespace) -> Embedder:
    from engine.embedding.embed import Embedder
    from engine.embedding.networks import load_network

    return Embedder(load_network(arguments.model, arguments.device))


def _incomplete(moved: Moved, arguments: argparse.Namespace) -> PreconditionError:
    which = "" if arguments.report else " (--report FILE.csv names them all)"
    if not moved.gallery_id:
        return PreconditionError(
            f"gallery {arguments.gallery!r} keeps no crops: all {count(len(moved.in_need), 'identity')} with"
            f" templates need new pictures{which}, and no gallery was made",
            hint="Enroll the pictures into a new gallery, made with --keep-crops to be spared this again.",
        )
    alias = f", and {arguments.alias!r} was not moved" if arguments.alias else ""
    all_of = count(moved.num_identities, "identity")
    return PreconditionError(
        f"{len(moved.in_need):,} of {all_of} need new pictures{which}{alias}",
        hint="Enroll them into the new gallery and run this again, or give --allow-missing.",
    )


def _as_json(moved: Moved, alias: str | None) -> dict[str, object]:
    return {
        "id": moved.gallery_id or None,
        "identities": moved.num_identities,
        "templates": moved.num_templates,
        "lost_some_templates": len(moved.losers) - len(moved.in_need),
        "need_new_pictures": moved.in_need,
        "not_in_old_gallery": moved.num_others,
        "alias": alias,
    }


def _lines(moved: Moved, alias: str | None) -> list[str]:
    lines = []
    if moved.gallery_id:
        held = f"{count(moved.num_identities, 'identity')} and {count(moved.num_templates, 'template')}"
        lines.append(f"{moved.gallery_id}: {held}")
    if num_partly := len(moved.losers) - len(moved.in_need):
        lines.append(f"{count(num_partly, 'identity')} moved with some of their templates only")
    if moved.in_need:
        lines.append(f"{count(len(moved.in_need), 'identity')} without a template, in need of new pictures:")
        lines += [f"  {name}" for name in moved.in_need[:SHOWN_MAX]]
        if (num_more := len(moved.in_need) - SHOWN_MAX) > 0:
            lines.append(f"  and {num_more:,} more")
    if moved.num_others:
        lines.append(f"{count(moved.num_others, 'identity')} there that the old gallery does not have")
    if alias is not None:
        lines.append(f"{alias} names {moved.gallery_id}")
    return lines
