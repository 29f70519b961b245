"""How long `identiface check` compares: ``python -m benchmarks.self_check [--size 200000]``.

Face-like templates, one of each identity, all with all. Prints the time, what it comes to for other sizes by
their squares, and what the trial before it had foretold; with ``--report`` it writes a dated report, too.
On processors that numpy's OpenBLAS does not know, OPENBLAS_CORETYPE=SKYLAKEX in the environment is faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.machine import write_report
from benchmarks.markdown import table
from benchmarks.probe_sets import draw_vectors
from indexer.self_check.compared import NUM_NEAREST
from indexer.self_check.pairs import estimate_s, nearest_others, num_pairs, num_threads

TOLD_SIZES = (100_000, 300_000, 1_000_000)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=200_000, help="templates")
    parser.add_argument("--report", action="store_true", help="write a dated report")
    arguments = parser.parse_args(given)
    vectors = draw_vectors("faces", arguments.size)
    foretold_s = estimate_s(vectors, None)
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    nearest_others(vectors, np.arange(len(vectors)), NUM_NEAREST)
    wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    pairs = num_pairs(len(vectors), None)
    told = (
        f"{arguments.size:,} templates of {vectors.shape[1]} dimensions on {num_threads()} threads:"
        f" {wall_s:.1f} s, {cpu_s:.1f} s of processor time, {foretold_s:.1f} s foretold,"
        f" {pairs / wall_s / 1e6:,.0f} million pairs a second"
    )
    rows = []
    for size in TOLD_SIZES:
        times = num_pairs(size, None) / pairs
        rows.append([f"{size:,}", f"{times * wall_s:,.0f}", f"{times * cpu_s / num_threads():,.0f}"])
    heads = ("templates", "seconds, of this rate", "seconds, were no other work on these cores")
    body = f"{told}\n\n{table(heads, rows)}"
    print(body)
    if arguments.report:
        command = f"python -m benchmarks.self_check --size {arguments.size}"
        print(write_report("self-check", "All templates compared with all", body, command))


if __name__ == "__main__":
    main()
