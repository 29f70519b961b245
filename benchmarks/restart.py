"""Time from starting a server to its first correct answer, and its memory: ``python -m benchmarks.restart``.

Cold: the page cache holds nothing of the data folder; warm: all of it. Server processes without a network,
one and several workers. Prints a table, writes a dated report to ``benchmarks/reports`` and, with ``--json
FILE``, the rows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache import add_option
from benchmarks.enrolled import GALLERY, enrolled, rebuilt, scratch_copy
from benchmarks.load import run_load
from benchmarks.machine import write_report
from benchmarks.memory import drop_page_cache, family, pss_bytes, rss_bytes
from benchmarks.probe_sets import KINDS, SEED, load_set
from benchmarks.server import ServerProcess
from benchmarks.side_by_side import Asked, sure_probes
from engine.client import Client

WARM_UP_CLIENTS, WARM_UP_S = 16, 2.0
"""Searches on many connections before memory is read, so that every worker has searched."""


def restart(data: Path, asked: Asked, workers: int) -> tuple[float, float, ServerProcess]:
    """Start a server; seconds to its port file, seconds to its first correct answer, the server.

    Raises RuntimeError where the first answer names somebody else.
    """
    flags = ("--workers", str(workers)) if workers > 1 else ()
    start_s = time.perf_counter()
    server = ServerProcess(data, "--model", "none", *flags)
    ready_s = time.perf_counter() - start_s
    with Client(server.address) as client:
        found = client.identify(GALLERY, asked.probes[0])[0].candidates[0].identity_id
        answered_s = time.perf_counter() - start_s
    if found != asked.expected[0]:
        server.stop()
        raise RuntimeError(f"the first answer after a restart named {found}, not {asked.expected[0]}")
    return ready_s, answered_s, server


def memory_of(server: ServerProcess, asked: Asked) -> tuple[int, int, int]:
    """Sum of PSS, largest RSS, number of processes, once every worker has searched."""
    run_load(
        server.address,
        GALLERY,
        (asked.probes, asked.expected),
        mode="unary",
        num_clients=WARM_UP_CLIENTS,
        duration_s=WARM_UP_S,
    )
    processes = family(server.pid)
    return (
        sum(pss_bytes(pid) for pid in processes),
        max(rss_bytes(pid) for pid in processes),
        len(processes),
    )


def measure(data: Path, asked: Asked, workers: list[int], rounds: int) -> list[dict[str, Any]]:
    """Each number of workers, cold and warm in turns; one row each."""
    times: dict[tuple[int, str], list[tuple[float, float]]] = {}
    memory: dict[int, tuple[int, int, int]] = {}
    for round_ in range(rounds):
        for num in workers:
            for cache in ("cold", "warm"):
                if cache == "cold":
                    drop_page_cache(data)
                ready_s, answered_s, server = restart(data, asked, num)
                times.setdefault((num, cache), []).append((ready_s, answered_s))
                if round_ == rounds - 1 and cache == "warm":
                    memory[num] = memory_of(server, asked)
                server.stop()
    rows = []
    for (num, cache), both in times.items():
        ready_s, answered_s = np.median(both, axis=0).tolist()
        pss, rss, processes = memory[num]
        row = {"workers": num, "cache": cache, "ready_s": ready_s, "answered_s": answered_s}
        row["answered_s_max"] = max(one for _, one in both)
        rows.append({**row, "pss_bytes": pss, "rss_bytes_max": rss, "processes": processes})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| workers | page cache | ready s | first correct answer s | slowest | processes | sum of PSS MB "
        "| largest RSS MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['workers']} | {row['cache']} | {row['ready_s']:.2f} | {row['answered_s']:.2f} "
        f"| {row['answered_s_max']:.2f} | {row['processes']} | {row['pss_bytes'] / 1e6:.0f} "
        f"| {row['rss_bytes_max'] / 1e6:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=200_000, help="templates in the gallery")
    parser.add_argument("--set", choices=KINDS, default="faces", help="kind of gallery")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4], help="worker processes")
    parser.add_argument("--rounds", type=int, default=5, help="restarts of each kind; medians are told")
    parser.add_argument("--json", type=Path, help="file for the rows")
    add_option(parser)
    arguments = parser.parse_args()
    probe_set = load_set(arguments.cache, arguments.set, arguments.size)
    kept_data = rebuilt(enrolled(arguments.cache, probe_set))
    with scratch_copy(arguments.cache, kept_data) as data:
        rows = measure(data, sure_probes(probe_set), arguments.workers, arguments.rounds)
    print(table(rows))
    body = (
        f"Gallery `{arguments.set}` of {arguments.size:,}, seed {SEED}, {arguments.rounds} restarts each, "
        "medians. The time begins before the process is started and ends with an answer over gRPC that names "
        "the right person. Memory is read after searches on 16 connections.\n\n" + table(rows)
    )
    flags = f"--size {arguments.size} --set {arguments.set} --rounds {arguments.rounds}"
    flags += f" --workers {' '.join(map(str, arguments.workers))}"
    title = f"Restart among {arguments.size:,}"
    print(write_report(f"restart-{arguments.size}", title, body, f"python -m benchmarks.restart {flags}"))
    if arguments.json:
        sized = [{"size": arguments.size, "set": arguments.set, **row} for row in rows]
        arguments.json.write_text(json.dumps(sized, indent=1))


if __name__ == "__main__":
    main()
