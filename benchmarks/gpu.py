"""Exact search on a GPU, at the engine's own door (`engine.index.gpu`): single probes and batches.

    python -m benchmarks.gpu [--json FILE]

Needs a CUDA device; where there is none it says so and exits 1. Prints a table, writes a dated report to
``benchmarks/reports`` and, with ``--json FILE``, the rows as JSON. Answers of the first probes are compared
with a full scan before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import write_report
from benchmarks.probe_sets import draw_vectors
from benchmarks.truth import exact_top
from engine.errors import DeviceError
from engine.index.gpu import GpuSearcher, refuse_if_absent
from engine.types import Vectors

SIZES = (1_000_000, 10_000_000)
BATCHES = (1, 64, 1024)
K = 10
NUM_CHECKED = 16
SECONDS_MIN = 3.0
"""Each row is timed for at least so long, and for RUNS_MIN searches."""
RUNS_MIN = 100
WARM_UP_RUNS = 10


def measure(vectors: Vectors, probes: Vectors, device: str, seconds_min: float) -> list[dict[str, Any]]:
    """One row for each size of batch: times of one search, in the searcher's caller."""
    started = time.perf_counter()
    searcher = GpuSearcher(vectors, device)
    load_s = time.perf_counter() - started
    try:
        _check(searcher, vectors, probes[:NUM_CHECKED])
        common = {"device": searcher.name, "size": len(vectors), "load_s": load_s}
        return [
            {**common, "batch": batch, **_timed(searcher, probes, batch, seconds_min)} for batch in BATCHES
        ]
    finally:
        searcher.close()


def _check(searcher: GpuSearcher, vectors: Vectors, probes: Vectors) -> None:
    _, rows = searcher.search(probes, K, None)
    if not (rows == exact_top(vectors, probes, K)).all():
        raise RuntimeError("the device's answers are not those of a full scan: nothing is measured")


def _timed(searcher: GpuSearcher, probes: Vectors, batch: int, seconds_min: float) -> dict[str, Any]:
    times_s: list[float] = []
    run = 0
    while run < WARM_UP_RUNS + RUNS_MIN or sum(times_s) < seconds_min:
        first = run * batch % (len(probes) - batch + 1)
        started = time.perf_counter()
        searcher.search(probes[first : first + batch], K, None)
        if run >= WARM_UP_RUNS:
            times_s.append(time.perf_counter() - started)
        run += 1
    p50_ms, p99_ms = np.percentile(times_s, [50, 99]) * 1e3
    return {
        "p50_ms": float(p50_ms),
        "p99_ms": float(p99_ms),
        "probes_per_s": batch * len(times_s) / sum(times_s),
        "runs": len(times_s),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| templates | probes at once | p50 ms | p99 ms | probes per second | load s |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['size']:,} | {row['batch']:,} | {row['p50_ms']:.3f} | {row['p99_ms']:.3f} "
        f"| {row['probes_per_s']:,.0f} | {row['load_s']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda or cuda:<n> (default: cuda)")
    parser.add_argument("--size", type=int, action="append", help="templates; may be repeated")
    parser.add_argument("--kind", default="contract", help="how they are drawn (default: contract)")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    try:
        refuse_if_absent(arguments.device)
    except DeviceError as error:
        sys.exit(f"nothing measured: {error.message}. {error.hint}")
    rows: list[dict[str, Any]] = []
    for size in arguments.size or SIZES:
        drawn = draw_vectors(arguments.kind, size + 2 * max(BATCHES))
        rows += measure(drawn[:size], drawn[size:], arguments.device, SECONDS_MIN)
    print(table(rows))
    body = (
        f"{rows[-1]['device']}. Exact, k = {K}; probes are drawn as the templates are; the first "
        f"{NUM_CHECKED} answers of each size equal a full scan's. Times are those of one caller, from numpy "
        "array to numpy array.\n\n" + table(rows)
    )
    flags = "".join(f" --size {size}" for size in arguments.size or ())
    print(write_report("gpu", "Exact search on a GPU", body, f"python -m benchmarks.gpu{flags}"))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
