"""The verb `check`: a gallery looked at by itself. Knows nothing of how anything is found."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Never, Self

from engine.cli.arguments import (
    Verbs,
    add_folder_or_server,
    add_json_option,
    add_timeout_option,
    gallery_name,
    seed,
    similarity,
    whole,
)
from engine.cli.connection import open_client
from engine.cli.export import open_pages, shown_pages
from engine.cli.layout import count, print_json, print_lines, table

if TYPE_CHECKING:
    from tqdm import tqdm

    from engine.types import GalleryInfo
    from indexer.self_check.check import CheckSettings
    from indexer.self_check.findings import Findings, Place
    from indexer.self_check.templates import Templates

SHOWN_MAX = 10
"""Entries of a list that text shows; a page, a table and JSON have all of --limit."""
LIMIT_DEFAULT, LIMIT_MAX = 100, 10_000
ANNOUNCED_S = 10.0
"""Comparisons that take longer are announced."""
_CHECK = f"""\
Finds, worst first: identities that are likely one person (duplicates), templates that are likely of somebody
else than their identity (mix-ups), identities that many others are like (crowded), and templates that are
like nobody (outliers). All is told from similarities, for a person to look at: twins, relatives and bad
pictures look like errors, too. Nothing of the gallery changes.

Two identities count as one person from --duplicate-similarity on; without it from that of the network's
calibration on; without one from the median similarity within the gallery's own identities.

All templates are compared with all, exactly and in memory. Of 128 dimensions, 100,000 take 10 seconds, and
1,000,000, by the squares of what 200,000 take, 12 to 17 minutes of two idle cores; what takes longer than
{ANNOUNCED_S:.0f} seconds is announced. Beyond 1,000,000 templates, or with --probes, a random sample of the
identities is compared with all, and the report says so. With --data no server may hold the folder. The
files hold ids and source keys, no pictures and no vectors.

exit codes: 0 it was looked at, whatever was found; 1 failed

examples:
  identiface check staff
  identiface check staff --data faces --html staff.html --csv staff.csv --limit {LIMIT_DEFAULT}
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    check = verbs.add_parser(
        "check",
        help="look for duplicates, mix-ups and oddities in a gallery",
        description="Look for duplicates, mix-ups and oddities in a gallery, by its own templates.",
        epilog=_CHECK,
    )
    check.add_argument("gallery", metavar="GALLERY", type=gallery_name, help="name or alias")
    add_folder_or_server(check, is_required=False)
    add_timeout_option(check)
    level = check.add_mutually_exclusive_group()
    level.add_argument(
        "--duplicate-similarity",
        metavar="SIMILARITY",
        type=similarity,
        help="from here on two identities are likely one person",
    )
    level.add_argument(
        "--calibration",
        metavar="FILE",
        type=Path,
        help="calibration to take that from (default: that of the network, where one comes with Identiface)",
    )
    check.add_argument(
        "--probes",
        metavar="NUMBER",
        type=lambda text: whole(text, 1, 2**31 - 1),
        help="identities that are compared with all, drawn at random (default: all, within 5e11 pairs)",
    )
    check.add_argument(
        "--seed",
        metavar="NUMBER",
        type=seed,
        default=0,
        help="of the draw of --probes (default: 0)",
    )
    check.add_argument(
        "--limit",
        metavar="NUMBER",
        type=lambda text: whole(text, 1, LIMIT_MAX),
        default=LIMIT_DEFAULT,
        help=f"most entries of each list, up to {LIMIT_MAX} (default: {LIMIT_DEFAULT})",
    )
    check.add_argument("--html", metavar="FILE.html", type=Path, help="page to write, with histograms")
    check.add_argument("--csv", metavar="FILE.csv", type=Path, help="table to write, of all lists")
    check.add_argument("--overwrite", action="store_true", help="replace files where there are any")
    add_json_option(check)
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> None:
    from indexer.export import check_target
    from indexer.self_check.check import check
    from indexer.self_check.templates import Templates

    targets = [path for path in (arguments.html, arguments.csv) if path is not None]
    for target in targets:
        check_target(target, overwrite=arguments.overwrite)  # before anybody is asked
    with open_pages(arguments) as (info, pages):
        settings = _settings(arguments, info)
        templates = Templates.read(shown_pages(pages, info.num_identities), info.contract.dimension)
    templates.require_several(info.gallery_id)
    num_written = 0 if arguments.data is not None else _num_written(arguments, info)
    _announce(templates, settings)
    with _Bar() as bar:
        findings = check(
            info.gallery_id,
            info.contract.name,
            templates,
            settings,
            num_written=num_written,
            progress=bar.show,
        )
    _write(arguments, findings)
    if arguments.json:
        print_json(findings.as_json())
    else:
        print_lines([*_lines(findings), *(f"written: {target}" for target in targets)])


def _settings(arguments: argparse.Namespace, info: GalleryInfo) -> CheckSettings:
    from engine.decision import calibration
    from indexer.self_check.check import CheckSettings
    from indexer.self_check.findings import CALIBRATION, GIVEN, OWN_TEMPLATES

    level, origin = arguments.duplicate_similarity, GIVEN
    if level is None:
        chosen = calibration.shipped().get(info.contract.digest)
        if arguments.calibration is not None:
            chosen = calibration.read(arguments.calibration, info.contract.digest)
        level = None if chosen is None else chosen.duplicate_similarity
        origin = OWN_TEMPLATES if level is None else CALIBRATION
    return CheckSettings(level, origin, arguments.limit, arguments.probes, arguments.seed)


def _num_written(arguments: argparse.Namespace, info: GalleryInfo) -> int:
    """Writes to a server's gallery since its pages were begun."""
    with open_client(arguments) as client:
        return max(0, client.get_gallery(info.gallery_id).sequence - info.sequence)


def _announce(templates: Templates, settings: CheckSettings) -> None:
    """Say how long it will take, where somebody might wonder."""
    from indexer.self_check.check import estimate_s

    seconds = estimate_s(templates, settings)
    if seconds >= ANNOUNCED_S:
        many = count(len(templates.vectors), "template")
        sys.stderr.write(f"comparing {many}: about {seconds:,.0f} s on this machine\n")
        sys.stderr.flush()


class _Bar:
    """Shows on a terminal how far the comparison is."""

    def __init__(self) -> None:
        self._bar: tqdm[Never] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int) -> None:
        """Show that so many of the pairs were compared."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=" pairs", unit_scale=True, leave=False)
        self._bar.update(done - self._bar.n)


def _write(arguments: argparse.Namespace, findings: Findings) -> None:
    from engine.outputs import whole_file
    from indexer.self_check.findings import write_csv
    from indexer.self_check.page import page

    if arguments.html is not None:
        with whole_file(arguments.html) as file:
            file.write(page(findings))
    if arguments.csv is not None:
        with whole_file(arguments.csv) as file:
            write_csv(findings, file)


def _lines(findings: Findings) -> Iterator[str]:
    from indexer.self_check.page import ORIGINS, compared_with_all

    lists, counts = findings.lists, findings.lists.counts
    held = f"{count(findings.num_identities, 'identity')} with {count(findings.num_templates, 'template')}"
    yield f"{findings.gallery_id}: {held}; compared with all: {compared_with_all(findings)}"
    if findings.num_written:
        yield f"{count(findings.num_written, 'write')} to the gallery while it was read"
    origin = ORIGINS[findings.duplicate_origin]
    yield f"likely one person: from similarity {findings.duplicate_similarity:.4f} on, {origin}"
    least = "at least " if counts.is_duplicates_least else ""
    yield f"likely duplicates: {least}{counts.duplicates:,}"
    yield from _shown(
        [f"{pair.similarity:.4f}", _named(pair.first), _named(pair.second)] for pair in lists.duplicates
    )
    near = f"{counts.near_another:,} nearer to another, {counts.near_another_likely:,} of them as one person"
    far = f"{counts.far_from_own:,} far from their own"
    yield f"likely mix-ups, with their similarity to another and to their own: {near}; {far}"
    yield from _shown(
        [f"{one.similarity:.4f}", f"{one.own_similarity:.4f}", _named(one.template), _named(one.nearest)]
        for one in lists.mix_ups
    )
    dense = count(counts.regions, "region")
    yield f"crowded identities: {counts.crowded:,}, in {dense} and alone"
    yield from _shown(
        [f"{one.crowding:.4f}", one.identity_id, one.nearest_identity_id] for one in lists.crowded
    )
    yield f"outliers: {counts.outliers:,}"
    yield from _shown([f"{one.similarity:.4f}", _named(one.template)] for one in lists.outliers)


def _shown(rows: Iterable[Sequence[str]]) -> list[str]:
    first = list(itertools.islice(rows, SHOWN_MAX))
    return table([""] * len(first[0]), first, indent="  ") if first else []


def _named(place: Place) -> str:
    return f"{place.identity_id} ({place.source or place.template_id})"
