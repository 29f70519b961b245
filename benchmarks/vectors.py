"""The same work through what one would run instead: pgvector, Milvus Lite, and Identiface's own server.

    python -m benchmarks.vectors [--size 100000] [--json FILE]

Each service runs in processes of its own and is asked by one client: exactly, by its index as it comes, and
by its index with its setting raised until it agrees with the exact answers as often as Identiface's default.
Prints a table, writes a dated report to ``benchmarks/reports`` and, with ``--json FILE``, the rows as JSON.
What is not installed (``pip install -e '.[bench]'``) is in the table as such.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache import add_option
from benchmarks.machine import write_report
from benchmarks.probe_sets import ProbeSet, load_set
from benchmarks.services import SERVICES, Service
from benchmarks.truth import top1_agreement
from engine.types import Vectors

WARM_UP_SEARCHES = 50
BATCH_PROBES = 64
BATCHED_S_MIN = 3.0
"""Batches are sent for at least so long."""

Row = dict[str, Any]


def measure(
    services: list[type[Service]], probe_set: ProbeSet, num_probes: int
) -> tuple[list[Row], list[str]]:
    """Rows of each service, exact and indexed, and what each was; Identiface, the first, sets the mark."""
    rows: list[Row] = []
    described: list[str] = []
    mark: tuple[float, float] | None = None
    for kind in services:
        lacking = kind.missing()
        if lacking:
            rows.append({"name": kind.name, "size": probe_set.size, "missing": lacking})
            continue
        # Beside other temporary files: PostgreSQL runs as a user of its own where we are root.
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            service = kind()
            with service.serve(Path(folder)):
                described.append(f"{kind.name}: {service.describe()}")
                rows += _of_service(service, probe_set, num_probes, mark)
        mark = mark or (rows[-1]["top1_mated"], rows[-1]["top1_nonmated"])
    return rows, described


def _of_service(
    service: Service, probe_set: ProbeSet, num_probes: int, mark: tuple[float, float] | None
) -> list[Row]:
    load_s = _seconds(lambda: service.load(probe_set.vectors))
    build_s: float | None = None
    if service.exact_needs_index:
        build_s = _seconds(service.build)
    exact = _measured(service, None, probe_set, num_probes) | {"load_s": load_s, "build_s": build_s}
    if not service.exact_needs_index:
        build_s = _seconds(service.build)
    settings = [service.default]
    if mark is not None:
        settings.append(_setting(service, probe_set, num_probes, mark))
    indexed = [_measured(service, setting, probe_set, num_probes) for setting in dict.fromkeys(settings)]
    return [exact, *(row | {"load_s": load_s, "build_s": build_s} for row in indexed)]


def _setting(service: Service, probe_set: ProbeSet, num_probes: int, mark: tuple[float, float]) -> int:
    """The quickest setting that agrees as often as the mark, the most thorough where none does."""
    for setting in service.settings:
        service.use(setting)
        agreements = [
            top1_agreement(_batched(service, probes[:num_probes]), truth[: len(probes[:num_probes])])
            for probes, truth in _asked(probe_set)
        ]
        if all(one >= other for one, other in zip(agreements, mark, strict=True)):
            return setting
    return service.settings[-1]


def _measured(service: Service, setting: int | None, probe_set: ProbeSet, num_probes: int) -> Row:
    """One row: searches one after another, and in batches; answers are compared with the exact ones."""
    how = service.use(setting)
    for probe in probe_set.nonmated[-WARM_UP_SEARCHES:]:
        service.search(probe)
    times_ms: list[float] = []
    agreements: list[float] = []
    for probes, truth in _asked(probe_set):
        found = []
        for probe in probes[:num_probes]:
            started = time.perf_counter()
            found.append(service.search(probe))
            times_ms.append((time.perf_counter() - started) * 1e3)
        agreements.append(top1_agreement(np.array(found), truth[: len(found)]))
    p50_ms, p99_ms = np.percentile(times_ms, [50, 99])
    return {
        "name": f"{service.name}, {how}",
        "size": probe_set.size,
        "p50_ms": float(p50_ms),
        "p99_ms": float(p99_ms),
        "searches_per_s": _searches_per_s(service, probe_set.nonmated),
        "top1_mated": agreements[0],
        "top1_nonmated": agreements[1],
    }


def _asked(probe_set: ProbeSet) -> list[tuple[Vectors, NDArray[np.int64]]]:
    return [(probe_set.mated, probe_set.truth_mated), (probe_set.nonmated, probe_set.truth_nonmated)]


def _batched(service: Service, probes: Vectors) -> NDArray[np.int64]:
    found: list[list[int]] = []
    for start in range(0, len(probes), BATCH_PROBES):
        found += service.search_many(probes[start : start + BATCH_PROBES])
    return np.array(found)


def _searches_per_s(service: Service, probes: Vectors) -> float:
    num_searches = 0
    started = time.perf_counter()
    while (seconds := time.perf_counter() - started) < BATCHED_S_MIN:
        first = num_searches % (len(probes) - BATCH_PROBES + 1)
        num_searches += len(service.search_many(probes[first : first + BATCH_PROBES]))
    return num_searches / seconds


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| service | templates | load s | build s | p50 ms | p99 ms | searches per second, batched "
        "| top-1 mated | top-1 non-mated |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "missing" in row:
            what = f"not installed: {', '.join(row['missing'])}"
            lines.append(f"| {row['name']} ({what}) | {row['size']:,} | | | | | | | |")
            continue
        build_s = "" if row["build_s"] is None else f"{row['build_s']:.1f}"
        lines.append(
            f"| {row['name']} | {row['size']:,} | {row['load_s']:.1f} | {build_s} | {row['p50_ms']:.2f} "
            f"| {row['p99_ms']:.2f} | {row['searches_per_s']:,.0f} | {row['top1_mated']:.4f} "
            f"| {row['top1_nonmated']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100_000, help="templates, one identity each")
    parser.add_argument("--probes", type=int, default=500, help="mated and non-mated probes, each")
    parser.add_argument("--only", action="append", help="name of a service; may be repeated (default: all)")
    parser.add_argument("--json", type=Path, help="file for the rows")
    add_option(parser)
    arguments = parser.parse_args()
    services = [kind for kind in SERVICES if arguments.only is None or kind.name in arguments.only]
    probe_set = load_set(arguments.cache, "contract", arguments.size)
    rows, described = measure(services, probe_set, arguments.probes)
    print(table(rows))
    body = (
        f"Templates drawn to the default network's distribution, {probe_set.num_real} real mated probes. "
        f"k = 10, one client; batched: {BATCH_PROBES} probes in one request (pgvector: in one pipeline). "
        f"Top-1: share of {arguments.probes} probes whose first answer is that of an exact scan. Of each "
        "index: its default, and the least setting tried that agrees as often as Identiface's default "
        "(the most thorough one where none does).\n\n"
        + table(rows)
        + "\n\n"
        + "\n".join(f"- {line}" for line in described)
    )
    command = f"python -m benchmarks.vectors --size {arguments.size} --probes {arguments.probes}"
    if arguments.only is None:
        print(write_report("vectors", "The same searches through other services", body, command))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
