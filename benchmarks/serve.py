"""Search over gRPC, load generators in other processes than the server: ``python -m benchmarks.serve``.

Closed loop (each client sends when it was answered) for modes unary, batch of 64 and stream, by number of
clients and of workers; the same work in process on the same gallery, in turns with it; an open loop at a
share of the capacity, quiet and during enrollment and builds, with latency from the intended send time. Every
answer is checked: who has to come first must. Prints tables, writes a dated report to ``benchmarks/reports``
and, with ``--json FILE``, the rows. ``--enroll`` measures enrollment and search on fresh galleries instead.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import enrolling
from benchmarks.cache import add_option
from benchmarks.disturbance import Disturbance
from benchmarks.enrolled import GALLERY, enrolled, opened, rebuilt, scratch_copy
from benchmarks.load import PROBES_PER_CALL, run_load
from benchmarks.machine import write_report
from benchmarks.probe_sets import KINDS, SEED, load_set
from benchmarks.schedule import Calls, serve_row
from benchmarks.server import ServerProcess, serving
from benchmarks.side_by_side import Asked, compare, comparison_text, sure_probes

Row = dict[str, Any]
_HEAD = (
    "| mode | clients | workers | offered/s | calls/s | probes/s | p50 ms | p99 ms | errors |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [
        f"| {row['mode']} | {row['clients']} | {row['workers']} | {row['offered'] or 'closed loop'} "
        f"| {row['calls_per_s']:,.0f} | {row['probes_per_s']:,.0f} "
        f"| {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['errors']} |"
        for row in rows
    ]
    return "\n".join([_HEAD, *lines])


class Runs:
    """All runs against one server."""

    def __init__(self, server: ServerProcess, asked: Asked, workers: int):
        self._server, self._asked, self._workers = server, asked, workers
        self.rows: list[Row] = []

    def load(self, mode: str, clients: int, duration_s: float, offered: float = 0.0, what: str = "") -> Calls:
        """One run; adds its row."""
        calls = run_load(
            self._server.address,
            GALLERY,
            (self._asked.probes, self._asked.expected),
            mode=mode,
            num_clients=clients,
            duration_s=duration_s,
            offered_per_s=offered,
        )
        row = serve_row(mode + what, clients, self._workers, offered, calls, PROBES_PER_CALL[mode])
        self.rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
        return calls


def closed_loops(runs: Runs, clients: list[int], duration_s: float) -> float:
    """Every mode with every number of clients; returns the most unary calls a second."""
    for mode in PROBES_PER_CALL:
        for num in clients:
            runs.load(mode, num, duration_s)
    return max(float(row["calls_per_s"]) for row in runs.rows if row["mode"] == "unary")


def open_loops(runs: Runs, address: str, arguments: argparse.Namespace, capacity: float) -> str:
    """A share of the capacity, quiet and disturbed; returns a text that compares them."""
    offered, clients = capacity * arguments.share, max(2, min(8, max(arguments.clients)))
    quiet = runs.load("unary", clients, arguments.open_s, offered, ", open loop")
    with Disturbance(
        address, GALLERY, arguments.set, arguments.enroll_per_s, is_building=True
    ) as disturbance:
        busy = runs.load("unary", clients, arguments.open_s, offered, ", open loop, enrolling and building")
    errors = "".join(f"\n- {error}" for error in disturbance.errors[:5])
    p99, p99_busy = quiet.p_ms(99), busy.p_ms(99)
    return (
        f"Open loop at {arguments.share:.0%} of capacity ({capacity:,.0f} calls/s), "
        f"{arguments.open_s:.0f} s: p99 {p99:.2f} ms quiet, {p99_busy:.2f} ms during "
        f"{disturbance.describe()}: {p99_busy / p99:.2f} times; {busy.num_errors} of "
        f"{len(busy.is_error):,} searches failed, {busy.num_wrong} were wrong.{errors}\n"
    )


def measure(arguments: argparse.Namespace) -> tuple[list[Row], str]:
    """All of it; rows and the report's text."""
    probe_set = load_set(arguments.cache, arguments.set, arguments.size)
    data = rebuilt(enrolled(arguments.cache, probe_set))
    asked = sure_probes(probe_set)
    rows: list[Row] = []
    texts: list[str] = []
    for workers in arguments.workers:
        with ExitStack() as parts:
            copy = parts.enter_context(scratch_copy(arguments.cache, data))
            flags = ("--model", "none", *(("--workers", str(workers)) if workers > 1 else ()))
            server = parts.enter_context(serving(copy, *flags))
            runs = Runs(server, asked, workers)
            if workers == arguments.workers[0]:
                gallery = parts.enter_context(opened(data))
                comparison = compare(gallery, data, server, asked, arguments.seconds)
                rows += comparison.rows(workers)
                texts.append(comparison_text(comparison))
                print(texts[-1], flush=True)
            capacity = closed_loops(runs, arguments.clients, arguments.seconds)
            with Disturbance(
                server.address, GALLERY, arguments.set, arguments.enroll_per_s, is_building=True
            ):
                runs.load("unary", 4, arguments.seconds, 0.0, ", enrolling and building")
            text = open_loops(runs, server.address, arguments, capacity)
            texts.append(f"{workers} worker{'s' * (workers > 1)}. {text}")
            print(texts[-1], flush=True)
            rows += runs.rows
    return rows, "\n".join([table(rows), "", *texts])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=200_000, help="templates in the gallery")
    parser.add_argument("--set", choices=KINDS, default="faces", help="kind of gallery")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="clients of closed loops")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="worker processes")
    parser.add_argument("--seconds", type=float, default=3.0, help="time of each closed loop")
    parser.add_argument("--open-s", type=float, default=15.0, help="time of each open loop, seconds")
    parser.add_argument("--share", type=float, default=0.3, help="of the capacity, in open loops")
    parser.add_argument("--enroll-per-s", type=float, default=500.0, help="enrollments during a disturbance")
    parser.add_argument("--enroll", action="store_true", help="measure enrollment on fresh galleries instead")
    parser.add_argument("--identities", type=int, default=10_000, help="with --enroll: one vector each")
    parser.add_argument("--searches", type=int, default=2_000, help="with --enroll: timed searches a round")
    parser.add_argument("--rounds", type=int, default=3, help="with --enroll: repetitions")
    parser.add_argument("--json", type=Path, help="file for the rows")
    add_option(parser)
    return parser.parse_args()


def main() -> None:
    """Measure, print, report."""
    arguments = _arguments()
    if arguments.enroll:
        rows = enrolling.measure(arguments.identities, arguments.searches, arguments.rounds)
        body = enrolling.ABOUT + enrolling.table(rows)
        print(enrolling.table(rows))
        flags = f"--enroll --identities {arguments.identities} --searches {arguments.searches}"
        name, title = "serve-enroll", "Enrollment and search over gRPC"
    else:
        print(_HEAD)
        rows, text = measure(arguments)
        body = (
            f"Gallery `{arguments.set}` of {arguments.size:,}, k = 10, seed {SEED}. Up to 4 load "
            "generators, a process each, share the machine with the server; latency is from the intended "
            "send time. A wrong answer counts as an error.\n\n" + text
        )
        clients, workers = (" ".join(map(str, values)) for values in (arguments.clients, arguments.workers))
        flags = f"--size {arguments.size} --set {arguments.set} --clients {clients} --workers {workers}"
        flags += f" --seconds {arguments.seconds:g} --open-s {arguments.open_s:g}"
        name, title = f"serve-{arguments.size}", f"Search over gRPC among {arguments.size:,}"
    print(write_report(name, title, body, f"python -m benchmarks.serve {flags}"))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
