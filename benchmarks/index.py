"""Search in one process, ours against others', side by side: ``python -m benchmarks.index``.

Ours is the whole ``Gallery.identify`` on a gallery enrolled in a data folder and built. Each rival is at its
smallest setting that agrees with the exact scan as well as ours does, on mated and on non-mated probes. All
run on one thread in this one process, in alternating rounds. Prints a table for each kind of gallery
(`benchmarks.probe_sets`), writes a dated report and a plot to ``benchmarks/reports`` and, with ``--json
FILE``, the rows. What is slow to make is kept (``--cache``); the first run at a million takes hours, since
rivals build their graphs node by node: ``python -m benchmarks.prepare``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.cache import add_option
from benchmarks.contestants import Contestant, measured_agreement, our_search, rival_contestant
from benchmarks.enrolled import enrolled, index_bytes, opened
from benchmarks.machine import report_path, write_report
from benchmarks.measuring import Rounds, Timings, alternate
from benchmarks.plots import Curve, plot_recall_against_throughput
from benchmarks.probe_sets import KINDS, SEED, ProbeSet, load_set
from benchmarks.rivals import RIVALS, Rival, is_built
from benchmarks.variants import DELTA_ROWS, REMOVED_SHARE, variants
from engine.gallery import Gallery
from engine.live_index import report_nothing
from engine.types import SearchOptions

OURS, OURS_EXACT = "identiface", "identiface-exact"
KEYS = (
    "name",
    "set",
    "size",
    "p50_ms",
    "p99_ms",
    "batch_qps",
    "top1_mated",
    "top1_nonmated",
    "recall_at_10",
    "build_s",
    "bytes_per_template",
    "load_s",
)


@dataclass(frozen=True)
class Measured:
    """What came out for one gallery."""

    probe_set: ProbeSet
    contestants: list[Contestant]
    timings: dict[str, Timings]
    curves: list[Curve]
    missing: dict[str, str]
    """Who could not be measured, and why."""


def measure(
    cache: Path, probe_set: ProbeSet, rivals: Sequence[type[Rival]], rounds: Rounds, *, builds_slow: bool
) -> Measured:
    """Measure all of them on one gallery; who takes minutes to build is left out unless `builds_slow`."""
    data = enrolled(cache, probe_set)
    with opened(data) as gallery:
        start_s = time.perf_counter()
        gallery.build(report_nothing)
        build_s = time.perf_counter() - start_s
    with ExitStack() as parts:
        start_s = time.perf_counter()
        gallery = parts.enter_context(opened(data))
        gallery.identify(probe_set.mated[:1])
        load_s = time.perf_counter() - start_s
        per_template = index_bytes(data) / probe_set.size
        contestants = _ours(gallery, probe_set, build_s, load_s, per_template)
        ours = contestants[0].agreement
        missing: dict[str, str] = {}
        for kind in rivals:
            _say(probe_set, kind.name)
            if not kind.is_installed():
                missing[kind.name] = f"not installed: pip install {kind.distribution}"
            elif kind.slow_build and not builds_slow and not is_built(cache, kind, probe_set):
                missing[kind.name] = "not built, it takes minutes: see python -m benchmarks.prepare"
            else:
                contestants.append(rival_contestant(cache, kind, probe_set, ours))
        timings = timed(contestants, probe_set, rounds)
        curves = [_curve(one, timings[one.name], probe_set) for one in contestants]
    return Measured(probe_set, contestants, timings, curves, missing)


def timed(contestants: Sequence[Contestant], probe_set: ProbeSet, rounds: Rounds) -> dict[str, Timings]:
    """Time them in alternating rounds, half of the probes mated."""
    rng = np.random.default_rng(SEED)
    probes = rng.permutation(np.concatenate([probe_set.mated, probe_set.nonmated]))
    with tqdm(total=rounds.num, desc=f"{probe_set.kind} {probe_set.size:,}", disable=None) as bar:
        return alternate(
            {one.name: one.search for one in contestants}, probes, rounds, lambda *_: bar.update()
        )


def _ours(
    gallery: Gallery, probe_set: ProbeSet, build_s: float, load_s: float, per_template: float
) -> list[Contestant]:
    found = []
    for name, options in ((OURS, SearchOptions()), (OURS_EXACT, SearchOptions(exact=True))):
        _say(probe_set, name)
        search = our_search(gallery, options)
        agreement = measured_agreement(search, probe_set)
        found.append(Contestant(name, search, agreement, build_s, load_s, per_template))
    return found


def _curve(one: Contestant, timings: Timings, probe_set: ProbeSet) -> Curve:
    """Recall and single-probe throughput at each setting that was tried."""
    points = [(one.agreement.recall_at_10, 1e3 / timings.p_ms(50))]
    for setting, agreement in one.sweep[:-1]:
        if one.rival is not None:
            one.rival.set(setting.value, setting.reorder)
            quick = alternate({one.name: one.search}, probe_set.nonmated, Rounds(1, 40, 1.0))[one.name]
            points.append((agreement.recall_at_10, 1e3 / quick.p_ms(50)))
    if one.rival is not None and one.sweep:
        chosen = one.sweep[-1][0]
        one.rival.set(chosen.value, chosen.reorder)
    return Curve(one.name.split(" ")[0], sorted(points))


def rows_of(measured: Measured) -> list[dict[str, Any]]:
    """Plain rows, with exactly KEYS."""
    return [row(measured.probe_set, one, measured.timings[one.name]) for one in measured.contestants]


def row(probe_set: ProbeSet, one: Contestant, timings: Timings) -> dict[str, Any]:
    """One searcher on one gallery."""
    values = (
        one.name,
        probe_set.kind,
        probe_set.size,
        round(timings.p_ms(50), 4),
        round(timings.p_ms(99), 4),
        round(timings.batch_qps, 1),
        one.agreement.top1_mated,
        one.agreement.top1_nonmated,
        one.agreement.recall_at_10,
        round(one.build_s, 2),
        round(one.bytes_per_template, 1),
        round(one.load_s, 3),
    )
    return dict(zip(KEYS, values, strict=True))


def table(rows: Sequence[dict[str, Any]], notes: dict[str, str], missing: dict[str, str]) -> str:
    """Rows as a Markdown table, each compared with ours; who could not be measured at its end."""
    ours = next((one["p50_ms"] for one in rows if one["name"] == OURS), None)
    lines = [
        "| who | p50 ms | p99 ms | p99/p50 | x ours | batch of 64, probes/s | top-1 mated | top-1 non-mated "
        "| recall@10 | build s | bytes/template | load s | |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        p50, p99 = one["p50_ms"], one["p99_ms"]
        ratio = f"{p50 / ours:.2f}" if ours else ""
        lines.append(
            f"| {one['name']} | {p50:.3f} | {p99:.3f} | {p99 / p50:.2f} | {ratio} "
            f"| {one['batch_qps']:,.0f} | {one['top1_mated']:.4f} | {one['top1_nonmated']:.4f} "
            f"| {one['recall_at_10']:.4f} | {one['build_s']:.1f} | {one['bytes_per_template']:.0f} "
            f"| {one['load_s']:.2f} | {notes.get(one['name'], '')} |"
        )
    lines += [f"| {name} | {why} | | | | | | | | | | | |" for name, why in missing.items()]
    return "\n".join(lines)


def describe(measured: Measured, rows: Sequence[dict[str, Any]]) -> str:
    """One gallery's part of the report."""
    probe_set = measured.probe_set
    searches = ", ".join(
        f"{one.name} {len(measured.timings[one.name].single_ms)}" for one in measured.contestants
    )
    real = f", {probe_set.num_real:,} of the mated ones real" if probe_set.num_real else ""
    return (
        f"## {probe_set.kind}, {probe_set.size:,}\n\n"
        f"{len(probe_set.mated):,} mated and {len(probe_set.nonmated):,} non-mated probes{real}; the exact "
        f"scan finds the right person first for {probe_set.rank_1:.4f} of the mated.\n\n"
        + table(rows, {one.name: one.note for one in measured.contestants}, measured.missing)
        + f"\n\nTimed single searches: {searches}.\n"
    )


def _say(probe_set: ProbeSet, what: str) -> None:
    tqdm.write(f"{probe_set.kind} {probe_set.size:,}: {what}")


def report_name(size: int, sets: Sequence[str]) -> str:
    """Name of the report and the plot: runs of other sets get others."""
    named = "all" if set(sets) == set(KINDS) else "-".join(dict.fromkeys(sets))
    return f"index-{size}-{named}"


def command(given: Sequence[str]) -> str:
    """The command with the arguments given, but for those that only say where this machine keeps files."""
    places = argparse.ArgumentParser(add_help=False)
    _add_places(places)
    _, rest = places.parse_known_args(given)
    return shlex.join(["python", "-m", "benchmarks.index", *rest])


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="file for the rows")
    add_option(parser)


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=200_000, help="templates in a gallery")
    parser.add_argument("--set", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of galleries")
    names = [kind.name for kind in RIVALS]
    parser.add_argument("--rival", nargs="*", choices=names, default=names, help="who else is measured")
    parser.add_argument(
        "--kept-only",
        action="store_true",
        help="leave out rivals that take minutes to build and are not kept",
    )
    parser.add_argument("--rounds", type=int, default=20, help="alternating rounds of 30 single searches")
    _add_places(parser)
    return parser.parse_args(given)


def main(given: Sequence[str]) -> None:
    """Measure, print, plot, report."""
    arguments = _arguments(given)
    rounds = Rounds(arguments.rounds)
    chosen = [kind for kind in RIVALS if kind.name in arguments.rival]
    rows: list[dict[str, Any]] = []
    parts: list[str] = []
    curves: dict[str, list[Curve]] = {}
    for kind in arguments.set:
        probe_set = load_set(arguments.cache, kind, arguments.size)
        measured = measure(arguments.cache, probe_set, chosen, rounds, builds_slow=not arguments.kept_only)
        parts.append(describe(measured, rows_of(measured)))
        rows += rows_of(measured)
        print(parts[-1], flush=True)
        curves[kind] = measured.curves
    first = load_set(arguments.cache, arguments.set[0], arguments.size)
    added, text = variants(arguments.cache, first, rounds)
    rows += [row(first, one, timings) for one, timings in added]
    parts.append(text)
    print(text, flush=True)
    name = report_name(arguments.size, arguments.set)
    picture = report_path(name, "png")
    picture.parent.mkdir(exist_ok=True)
    plot_recall_against_throughput(curves, picture, arguments.size)
    body = _about(arguments) + "\n".join([*parts, f"![recall and throughput]({picture.name})"])
    print(write_report(name, f"Search among {arguments.size:,}", body, command(given)))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def _about(arguments: argparse.Namespace) -> str:
    return (
        f"One thread, k = 10, seed {SEED}, {arguments.rounds} alternating rounds in one process. Ours is "
        "`Gallery.identify` with names resolved and decisions made; the others return rows. Each rival is at "
        "its quickest setting that agrees with the exact scan as well as `identiface`, but for one probe. "
        f"Delta and removals: {DELTA_ROWS:,} templates added, {REMOVED_SHARE:.0%} removed.\n\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
