"""The verb `export`: a gallery as a Parquet file, from a server or from a data folder."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.arguments import (
    Verbs,
    add_folder_or_server,
    add_json_option,
    add_timeout_option,
    gallery_name,
)
from engine.cli.connection import open_client
from engine.cli.layout import count, print_json, print_lines
from engine.errors import DataFolderError

if TYPE_CHECKING:
    from engine.types import GalleryInfo
    from indexer.pages import Page

_EXPORT = """\
One row for each template: identity_id, template_id, vector, source, quality, create_time, attributes and
expire_time, times in unix seconds; an identity without templates has one row without a vector. The embedding
contract stands in the file's metadata. Kept faces stay behind. The file holds biometric data: keep it as you
keep the gallery.

With --data no server may hold the folder. While a server takes writes, the file is no snapshot: an identity
that changes meanwhile is in it as it was or as it is.

example:
  identiface export staff staff.parquet
  identiface export staff staff.parquet --data faces --overwrite
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    export = verbs.add_parser(
        "export",
        help="write a gallery to a Parquet file",
        description="Write a gallery to a Parquet file, with its vectors and without loss.",
        epilog=_EXPORT,
    )
    export.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    export.add_argument("file", metavar="FILE.parquet", type=parquet, help="file to write")
    add_folder_or_server(export, is_required=False)
    add_timeout_option(export)
    export.add_argument("--overwrite", action="store_true", help="replace the file where there is one")
    add_json_option(export)
    export.set_defaults(run=_export)


def parquet(text: str) -> Path:
    """Take the path of a Parquet file to write."""
    if not text.lower().endswith(".parquet"):
        raise argparse.ArgumentTypeError(f"expected the name of a .parquet file, not {text!r}")
    return Path(text)


def _export(arguments: argparse.Namespace) -> None:
    from indexer.export import check_target, export_gallery

    target: Path = arguments.file
    check_target(target, overwrite=arguments.overwrite)  # before a server is asked or a folder opened
    with open_pages(arguments) as (info, pages):
        result = export_gallery(
            shown_pages(pages, info.num_identities),
            info.contract,
            target,
            settings=info.settings,
            overwrite=arguments.overwrite,
        )
    size_bytes = target.stat().st_size
    if arguments.json:
        told = {
            "gallery": info.gallery_id,
            "file": str(target),
            "identities": result.num_identities,
            "templates": result.num_templates,
            "size_bytes": size_bytes,
        }
        print_json(told)
        return
    held = f"{count(result.num_identities, 'identity')} and {count(result.num_templates, 'template')}"
    print_lines([f"{info.gallery_id}: {held} in {target}, {size_bytes / 2**20:,.1f} MiB"])


def open_pages(
    arguments: argparse.Namespace,
) -> contextlib.AbstractContextManager[tuple[GalleryInfo, Iterator[Page]]]:
    """Who is enrolled, by the arguments of `add_folder_or_server`, --timeout-s and GALLERY."""
    return _open_server(arguments) if arguments.data is None else _open_folder(arguments)


@contextlib.contextmanager
def _open_server(arguments: argparse.Namespace) -> Iterator[tuple[GalleryInfo, Iterator[Page]]]:
    from indexer.pages import served_pages

    with open_client(arguments) as client:
        info = client.get_gallery(arguments.gallery)
        # By its id: an alias may move before the last page.
        yield info, served_pages(client, info.gallery_id)


@contextlib.contextmanager
def _open_folder(arguments: argparse.Namespace) -> Iterator[tuple[GalleryInfo, Iterator[Page]]]:
    from engine.galleries import Galleries, GalleriesSettings
    from indexer.pages import stored_pages

    data: Path = arguments.data
    # Opening makes what is not there; an export makes no galleries.
    if not (data / "catalog").is_dir():
        raise DataFolderError(
            f"{data} is no data folder", hint="Give --data the folder of `identiface serve --data`."
        )
    with contextlib.closing(Galleries.open(data, GalleriesSettings(maintenance_s=0.0))) as galleries:
        gallery = galleries.get(arguments.gallery)
        yield gallery.info(), stored_pages(gallery)


def shown_pages(pages: Iterator[Page], num_total: int) -> Iterator[Page]:
    """Show on a terminal how far it is."""
    if not sys.stderr.isatty():
        yield from pages
        return
    from tqdm import tqdm

    with tqdm(total=num_total, unit=" identities", leave=False) as bar:
        for page in pages:
            yield page
            bar.update(len(page))
