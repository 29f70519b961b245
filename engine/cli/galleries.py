"""The verbs `gallery create|list|show|update|delete|alias`. Knows nothing of faces."""

from __future__ import annotations

import argparse

from engine.cli import output
from engine.cli.arguments import UsageError, Verbs, add_server_options, gallery_name, name, whole
from engine.cli.connection import open_client
from engine.cli.gallery_options import add_clear_options, add_settings_options, changes_of, settings_of
from engine.cli.layout import print_json, print_lines
from engine.limits import DIMENSION_MAX, DIMENSION_MIN
from engine.types import EmbeddingContract

VECTORS = "vectors"
"""Name of the contract of vectors of which nothing else is known."""

_CREATE = """\
example:
  identiface gallery create staff
  identiface gallery create staff --target-fpir 0.001 --review-fpir 0.01    one stranger in a thousand
  identiface gallery create staff --keep-crops    to be moved to another network one day
  identiface gallery create others --dimension 512 --threshold 0.4    for vectors made elsewhere
"""
_UPDATE = """\
A fixed threshold and a target rate exclude each other: setting one clears the other.

example:
  identiface gallery update staff --target-fpir 0.001
  identiface gallery update staff --threshold 0.95
"""
_ALIAS = """\
An alias is a second name that can move to another gallery at once, without downtime.

example:
  identiface gallery alias staff staff-2026
  identiface gallery alias staff --delete
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb `gallery` and those below it."""
    summary = "make, list, describe, change and remove galleries, and give them aliases"
    gallery = verbs.add_parser("gallery", help=summary, description=f"{summary.capitalize()}.")
    below = gallery.add_subparsers(dest="gallery_verb", metavar="VERB", required=True, title="verbs")
    _add_create(below)
    listed = below.add_parser("list", help="list galleries", description="List galleries.")
    listed.set_defaults(run=_list)
    add_server_options(listed)
    show = below.add_parser("show", help="describe one gallery", description="Describe one gallery.")
    show.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    show.set_defaults(run=_show)
    add_server_options(show)
    _add_update(below)
    delete = below.add_parser(
        "delete",
        help="remove a gallery and all its files",
        description="Remove a gallery and all its files, without asking. An alias does not do here.",
    )
    delete.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="its own name")
    delete.set_defaults(run=_delete)
    add_server_options(delete)
    alias = below.add_parser(
        "alias", help="make, move or forget an alias", description="Make or move an alias.", epilog=_ALIAS
    )
    alias.add_argument("alias", metavar="ALIAS", type=gallery_name, help="the second name")
    alias.add_argument(
        "gallery", metavar="GALLERY", type=gallery_name, nargs="?", help="the gallery it shall name"
    )
    alias.add_argument("--delete", action="store_true", help="forget the alias; its gallery stays")
    alias.set_defaults(run=_alias)
    add_server_options(alias)


def _add_create(below: Verbs) -> None:
    create = below.add_parser(
        "create",
        help="make an empty gallery",
        description="Make an empty gallery, bound to the server's network or, with --dimension, to vectors"
        " made elsewhere.",
        epilog=_CREATE,
    )
    create.add_argument(
        "gallery",
        metavar="GALLERY",
        type=gallery_name,
        help="lower-case letters, digits, - and _, at most 63",
    )
    create.add_argument(
        "--dimension",
        metavar="FLOATS",
        type=lambda text: whole(text, DIMENSION_MIN, DIMENSION_MAX),
        help=f"for vectors made elsewhere: floats of each, {DIMENSION_MIN} to {DIMENSION_MAX}",
    )
    create.add_argument(
        "--contract",
        metavar="NAME",
        type=name,
        help=f"with --dimension: name of what made them (default: {VECTORS})",
    )
    add_settings_options(create, is_update=False)
    create.add_argument(
        "--keep-crops",
        action="store_true",
        help="keep the face of each enrolled picture beside its template, as a JPEG of 256 px a side at most,"
        " so that `reembed` can move the gallery to another network without new pictures; cannot be changed"
        " later (default: no)",
    )
    create.set_defaults(run=_create)
    add_server_options(create)


def _add_update(below: Verbs) -> None:
    update = below.add_parser(
        "update",
        help="change a gallery's settings",
        description="Change a gallery's settings; searches from then on go by them.",
        epilog=_UPDATE,
    )
    update.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    add_settings_options(update, is_update=True)
    add_clear_options(update)
    update.set_defaults(run=_update)
    add_server_options(update)


def _create(arguments: argparse.Namespace) -> None:
    contract = None
    if arguments.dimension is not None:
        if arguments.threshold is None:
            raise UsageError("--dimension needs --threshold: nothing is known of vectors made elsewhere")
        contract = EmbeddingContract(
            arguments.contract or VECTORS,
            "",
            "",
            mirror=False,
            dimension=arguments.dimension,
            threshold=arguments.threshold,
        )
    elif arguments.contract is not None:
        raise UsageError("--contract needs --dimension: without it the gallery is of the server's network")
    settings = settings_of(arguments)
    with open_client(arguments) as client:
        gallery = client.create_gallery(arguments.gallery, contract, settings)
    if arguments.json:
        print_json(output.gallery_json(gallery))
    else:
        told = output.gallery_json(gallery)
        model = f"{told['model']}, {told['dimension']} floats, threshold {output.threshold_text(gallery)}"
        print_lines([f"made gallery {gallery.gallery_id} ({model})"])


def _list(arguments: argparse.Namespace) -> None:
    with open_client(arguments) as client:
        galleries = client.list_galleries()
    if arguments.json:
        print_json({"galleries": [output.gallery_json(gallery) for gallery in galleries]})
    else:
        print_lines(output.galleries_lines(galleries))


def _show(arguments: argparse.Namespace) -> None:
    with open_client(arguments) as client:
        gallery = client.get_gallery(arguments.gallery)
    if arguments.json:
        print_json(output.gallery_json(gallery))
    else:
        print_lines(output.gallery_lines(gallery))


def _update(arguments: argparse.Namespace) -> None:
    changes = changes_of(arguments)
    with open_client(arguments) as client:
        gallery = client.update_gallery(arguments.gallery, **changes)
    if arguments.json:
        print_json(output.gallery_json(gallery))
    else:
        print_lines(output.gallery_lines(gallery))


def _delete(arguments: argparse.Namespace) -> None:
    with open_client(arguments) as client:
        client.delete_gallery(arguments.gallery)
    if arguments.json:
        print_json({"id": arguments.gallery, "is_deleted": True})
    else:
        print_lines([f"removed gallery {arguments.gallery} and all its files"])


def _alias(arguments: argparse.Namespace) -> None:
    if (arguments.gallery is None) != arguments.delete:
        raise UsageError("give either the GALLERY that the alias shall name, or --delete")
    previous = None
    with open_client(arguments) as client:
        if arguments.delete:
            previous = client.get_gallery(arguments.alias).gallery_id
            client.delete_alias(arguments.alias)
            line = f"forgot alias {arguments.alias} of {previous}"
        else:
            previous = client.set_alias(arguments.alias, arguments.gallery) or None
            before = f", before it named {previous}" if previous else ""
            line = f"{arguments.alias} names {arguments.gallery}{before}"
    if arguments.json:
        print_json({"alias": arguments.alias, "id": arguments.gallery, "previous_id": previous})
    else:
        print_lines([line])
