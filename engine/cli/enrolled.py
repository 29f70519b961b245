"""The verbs `enroll`, `remove` and `list`: who is enrolled. Knows nothing of searching."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence

from engine.cli import output
from engine.cli.arguments import (
    UsageError,
    Verbs,
    add_face_options,
    add_server_options,
    attribute,
    gallery_name,
    identity_name,
    template_id,
)
from engine.cli.connection import open_client
from engine.cli.layout import print_json, print_lines
from engine.cli.pictures import (
    OVERHEAD_BYTES,
    PictureFile,
    add_pictures,
    find_pictures,
    item_name,
    name_items,
)
from engine.client import Client, EnrollOptions, FaceEnrollResult, Picture
from engine.errors import EngineError, InvalidInputError
from engine.limits import TEMPLATES_PER_IDENTITY_MAX
from engine.types import FaceChoice
from engine.wire.limits import MESSAGE_SIZE_BYTES_MAX

_ENROLL = """\
All pictures of a call are enrolled together or, where one of them cannot be, none. With --evict more than
16 are taken, too, in groups of 16 of which this holds.

example:
  identiface enroll staff ada ada1.jpg ada2.jpg --attribute team=engines
  identiface enroll staff grace photos/grace/
"""
_REMOVE = """\
example:
  identiface remove staff ada
  identiface remove staff ada --template 17
  identiface remove staff ada --erase    answers once no file of the gallery holds the vectors
"""
_LIST = """\
example:
  identiface list staff
  identiface list staff --json | head -3    one identity a line
"""
PAGE_ITEMS = 200
"""Identities of a page; the columns of a long table may widen from page to page."""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs."""
    _add_enroll(verbs)
    remove = verbs.add_parser(
        "remove",
        help="forget an identity, or one of its templates",
        description="Forget an identity and all its templates, or one of them.",
        epilog=_REMOVE,
    )
    remove.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    remove.add_argument("identity", metavar="IDENTITY", type=identity_name, help="whom to forget")
    remove.add_argument(
        "--template", metavar="ID", type=template_id, help="forget only this template; the identity stays"
    )
    remove.add_argument(
        "--erase",
        action="store_true",
        help="wipe the vectors from every file of the gallery, too; takes longer",
    )
    remove.set_defaults(run=_remove)
    add_server_options(remove)
    listed = verbs.add_parser(
        "list", help="list who is enrolled", description="List who is enrolled, by id.", epilog=_LIST
    )
    listed.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    listed.set_defaults(run=_list)
    add_server_options(listed)


def _add_enroll(verbs: Verbs) -> None:
    enroll = verbs.add_parser(
        "enroll",
        help="enroll a person from pictures",
        description="Enroll a person from pictures: one face of each becomes a template.",
        epilog=_ENROLL,
    )
    enroll.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    enroll.add_argument(
        "identity", metavar="IDENTITY", type=identity_name, help="who it is, at most 255 bytes of UTF-8"
    )
    add_pictures(enroll)
    enroll.add_argument(
        "--attribute",
        metavar="KEY=VALUE",
        type=attribute,
        action="append",
        default=[],
        help="a note to keep with the identity; may be repeated",
    )
    add_face_options(enroll, ("largest", "centre"), "largest")
    enroll.add_argument(
        "--replace", action="store_true", help="forget the templates and attributes of before"
    )
    enroll.add_argument(
        "--evict",
        action="store_true",
        help="beyond the gallery's most templates let the one of lowest quality go, instead of failing",
    )
    enroll.set_defaults(run=_enroll)
    add_server_options(enroll)


def _enroll(arguments: argparse.Namespace) -> None:
    keys = [key for key, _ in arguments.attribute]
    if len(set(keys)) < len(keys):
        raise UsageError("--attribute names a key twice")
    files = find_pictures(arguments.pictures)
    if len(files) > TEMPLATES_PER_IDENTITY_MAX and not arguments.evict:
        what = f"{arguments.pictures[0]} holds" if len(arguments.pictures) == 1 else "given are"
        raise InvalidInputError(
            f"{what} {len(files)} pictures, but an identity keeps at most"
            f" {TEMPLATES_PER_IDENTITY_MAX} templates",
            hint="Choose some of them, or give --evict to keep those of the highest quality.",
        )
    first = _read(arguments, files[:TEMPLATES_PER_IDENTITY_MAX])  # before a server is asked or waited for
    with open_client(arguments) as client:
        result = _enroll_all(arguments, client, files, first)
    if arguments.json:
        print_json(output.enroll_json(result))
    else:
        print_lines(output.enroll_lines(result))


def _enroll_all(
    arguments: argparse.Namespace, client: Client, files: Sequence[PictureFile], first: Sequence[Picture]
) -> FaceEnrollResult:
    """Enroll in as many messages as are needed; the ids of templates that a later one evicted become 0."""
    results: list[FaceEnrollResult] = []
    for start in range(0, len(files), TEMPLATES_PER_IDENTITY_MAX):
        chunk = files[start : start + TEMPLATES_PER_IDENTITY_MAX]
        try:
            pictures = _read(arguments, chunk) if start else first
            names = [file.name for file in chunk]
            results.append(_send(arguments, client, pictures, names, is_first=start == 0))
        except EngineError as error:
            if start == 0:
                raise
            message = (
                f"{error.message.rstrip('. ')} (the {start} pictures before {chunk[0].name} are enrolled)"
            )
            raise type(error)(message, hint=error.hint) from error
    if len(results) == 1:
        return results[0]
    kept = set(client.get_identity(arguments.gallery, arguments.identity).template_ids)
    given = itertools.chain.from_iterable(result.template_ids for result in results)
    return dataclasses.replace(
        results[-1],
        template_ids=tuple(template_id if template_id in kept else 0 for template_id in given),
        num_added=sum(result.num_added for result in results),
        num_ignored=sum(result.num_ignored for result in results),
        num_evicted=sum(result.num_evicted for result in results),
        is_new_identity=results[0].is_new_identity,
        num_replaced=results[0].num_replaced,
        faces=tuple(itertools.chain.from_iterable(result.faces for result in results)),
    )


def _read(arguments: argparse.Namespace, files: Sequence[PictureFile]) -> list[Picture]:
    """Read the pictures of one message. Raises InvalidInputError where they do not fit into it."""
    choice = FaceChoice(arguments.face)
    pictures = [Picture(file.read(), choice, arguments.min_face_px, file.source) for file in files]
    size = sum(len(picture.data) + OVERHEAD_BYTES for picture in pictures)
    if size > MESSAGE_SIZE_BYTES_MAX:
        raise InvalidInputError(
            f"{len(pictures)} pictures of {size / 2**20:.0f} MiB are over the limit of"
            f" {MESSAGE_SIZE_BYTES_MAX // 2**20} MiB a message",
            hint="Enroll fewer of them at once: the same identity may be enrolled again.",
        )
    return pictures


def _send(
    arguments: argparse.Namespace,
    client: Client,
    pictures: Sequence[Picture],
    names: Sequence[str],
    *,
    is_first: bool,
) -> FaceEnrollResult:
    """Enroll the pictures of one message; what was there before is replaced by the first only."""
    options = EnrollOptions(replace=arguments.replace and is_first, evict_lowest_quality=arguments.evict)
    try:
        return client.enroll(
            arguments.gallery,
            arguments.identity,
            pictures,
            attributes=dict(arguments.attribute),
            options=options,
        )
    except EngineError as error:
        named = name_items(error, names)
        if arguments.json and (picture := item_name(error, names)) is not None:
            print_json({"picture": picture} | output.error_json(named))
        raise named from error


def _remove(arguments: argparse.Namespace) -> None:
    with open_client(arguments) as client:
        if arguments.template is None:
            result = client.remove_identity(arguments.gallery, arguments.identity, erase=arguments.erase)
        else:
            result = client.remove_template(
                arguments.gallery, arguments.identity, arguments.template, erase=arguments.erase
            )
    if arguments.json:
        print_json(output.removal_json(arguments.identity, result))
    else:
        print_lines(output.removal_lines(arguments.identity, result))


def _list(arguments: argparse.Namespace) -> None:
    with open_client(arguments) as client:
        identities = client.list_identities(arguments.gallery, page_size=PAGE_ITEMS)
        if arguments.json:
            for identity in identities:
                print_json(output.identity_json(identity))
            return
        is_first = True
        while page := list(itertools.islice(identities, PAGE_ITEMS)):
            print_lines(output.identity_lines(page, has_header=is_first))
            is_first = False
        if is_first:
            print_lines([f"nobody is enrolled in {arguments.gallery}"])
