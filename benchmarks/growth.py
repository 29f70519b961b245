"""How build, memory, latency and restart grow with the gallery: ``python -m benchmarks.growth``.

Up to 300,000 templates by default; ``--size 100000 300000 1000000 3000000`` takes disk and minutes. Prints a
table, writes a dated report to ``benchmarks/reports`` and, with ``--json FILE``, the rows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache import add_option
from benchmarks.contestants import our_search
from benchmarks.enrolled import enrolled_vectors, identity_id, index_bytes, opened, scratch_copy
from benchmarks.machine import write_report
from benchmarks.measuring import Rounds, alternate
from benchmarks.probe_sets import SEED, draw_vectors
from benchmarks.restart import memory_of, restart
from benchmarks.side_by_side import Asked
from engine.live_index import report_nothing
from engine.types import SearchOptions, Vectors

KINDS_DRAWN = ("faces", "isotropic")
"""Kinds that are drawn alike with and without probes, so that other benchmarks' data folders serve."""
NUM_PROBES = 512
RESTARTS = 3


def measure(cache: Path, kind: str, size: int) -> dict[str, Any]:
    """One size: build, search in process, restart, memory of a server."""
    vectors = draw_vectors(kind, size)
    asked = themselves(vectors)
    data = enrolled_vectors(cache, f"{kind}-{size}", vectors)
    del vectors
    with scratch_copy(cache, data) as copy:
        with opened(copy) as gallery:
            start_s = time.perf_counter()
            gallery.build(report_nothing)
            build_s = time.perf_counter() - start_s
        with opened(copy) as gallery:
            search = our_search(gallery, SearchOptions())
            timings = alternate({"": search}, asked.probes, Rounds(10, 50, 2.0))[""]
        answered = []
        for number in range(RESTARTS):
            _, answered_s, server = restart(copy, asked, 1)
            answered.append(answered_s)
            if number == RESTARTS - 1:
                pss, rss, _ = memory_of(server, asked)
            server.stop()
        return {
            "set": kind,
            "size": size,
            "build_s": build_s,
            "p50_ms": timings.p_ms(50),
            "p99_ms": timings.p_ms(99),
            "batch_qps": timings.batch_qps,
            "ready_s": float(np.median(answered)),
            "rss_bytes": rss,
            "pss_bytes": pss,
            "index_bytes": index_bytes(copy),
            "store_bytes": _store_bytes(copy),
        }


def themselves(vectors: Vectors) -> Asked:
    """Enrolled templates as probes: each must find itself."""
    rows = np.random.default_rng(SEED).choice(len(vectors), min(NUM_PROBES, len(vectors)), replace=False)
    return Asked(vectors[rows], [identity_id(int(row)) for row in rows])


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| templates | build s | s per million | p50 ms | p99 ms | batch of 64, probes/s | ready s "
        "| RSS MB | PSS MB | index MB | store MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['size']:,} | {row['build_s']:.1f} | {row['build_s'] / row['size'] * 1e6:.1f} "
        f"| {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['batch_qps']:,.0f} | {row['ready_s']:.2f} "
        + "".join(
            f"| {row[key] / 1e6:,.0f} " for key in ("rss_bytes", "pss_bytes", "index_bytes", "store_bytes")
        )
        + "|"
        for row in rows
    ]
    return "\n".join(lines)


def _store_bytes(data: Path) -> int:
    # Blocks that are really there: LMDB's file may have holes.
    return sum(path.stat().st_blocks * 512 for path in data.glob("galleries/*/store/**/*") if path.is_file())


def main() -> None:
    """Measure, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs="+", default=[100_000, 300_000], help="templates")
    parser.add_argument("--set", choices=KINDS_DRAWN, default="faces", help="kind of gallery")
    parser.add_argument("--json", type=Path, help="file for the rows")
    add_option(parser)
    arguments = parser.parse_args()
    rows = []
    for size in arguments.size:
        rows.append(measure(arguments.cache, arguments.set, size))
        print(table(rows).splitlines()[-1] if len(rows) > 1 else table(rows), flush=True)
    body = (
        f"Galleries `{arguments.set}`, seed {SEED}, one template an identity. Build: from the store, until "
        "it serves. Latency in process, one thread, k = 10. Ready: from starting a server without a network "
        f"to its first correct answer over gRPC, median of {RESTARTS}, warm page cache.\n\n" + table(rows)
    )
    sizes = " ".join(str(size) for size in arguments.size)
    command = f"python -m benchmarks.growth --size {sizes} --set {arguments.set}"
    print(write_report("growth", "Growing galleries", body, command))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
