"""What it costs a build to find its templates' neighbours: ``python -m benchmarks.neighbours``.

Of each size, face-like templates, one an identity: the build alone, crowding of every template, and the
leave-one-out tops of a sample of people, in alternating rounds in one process on one thread, medians. Beyond
the size up to which a build computes crowding unasked it is timed on a sample of blocks and marked so. Tells,
too, how far crowding by the default search is from that by an exact one, and how long a request takes to look
32 of them up. Prints a table and writes a dated report to ``benchmarks/reports``. Knows nothing of galleries:
reading the templates from the store, some 1.5 s a million, is not in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import write_report
from benchmarks.probe_sets import KINDS, SEED, draw_vectors
from engine.index.build import build
from engine.index.generation import Generation
from engine.index.neighbours import (
    CROWDING_NEIGHBOURS,
    crowding,
    mean_similarity,
    nearest_others,
    own_tops,
    store_neighbours,
)
from engine.index.parameters import CROWDING_TEMPLATES_MAX
from engine.index.search import Snapshot
from engine.types import Columns, CrowdingCorrection

SAMPLE_ROWS = 8_192
"""Timed in the place of all where a build would not compute crowding."""
COMPARED_ROWS = 512
"""Whose crowding is compared with that by an exact scan."""
IDS_LOOKED_UP = 32
LOOK_UPS = 2_000

Row = dict[str, Any]


@dataclass(frozen=True)
class Round:
    """Processor seconds of one round: a busy machine changes them least."""

    build_s: float
    crowding_s: float
    own_people_s: float


def measure(kind: str, size: int, num_rounds: int) -> Row:
    """One size."""
    numbers = np.arange(size, dtype=np.uint64)
    columns = Columns(numbers, numbers, draw_vectors(kind, size))
    rounds = []
    for _ in range(num_rounds):
        with tempfile.TemporaryDirectory() as folder:
            one, generation = _round(Path(folder), columns)
            rounds.append(one)
            if len(rounds) == num_rounds:
                told = _compared(generation) | {"look_up_us": _look_up_us(generation)}
            del generation
    seconds = {
        name: float(np.median([getattr(one, name) for one in rounds])) for name in Round.__annotations__
    }
    has_crowding = size <= CROWDING_TEMPLATES_MAX
    # Where crowding is computed the tops come with it.
    added_s = seconds["crowding_s" if has_crowding else "own_people_s"]
    ratio = (seconds["build_s"] + added_s) / seconds["build_s"]
    return {"set": kind, "size": size, **seconds, "has_crowding": has_crowding, "ratio": ratio, **told}


def _round(folder: Path, columns: Columns) -> tuple[Round, Generation]:
    made: list[Generation] = []

    def make() -> None:
        made.append(build(folder, columns, number=1, sequence=1, contract_digest="bench", threads=1))

    build_s = _seconds(make)
    (generation,) = made
    size = generation.num_rows
    if size <= CROWDING_TEMPLATES_MAX:
        crowding_s = _seconds(lambda: crowding(generation))
    else:
        rows = np.sort(np.random.default_rng(SEED).choice(size, SAMPLE_ROWS, replace=False))
        crowding_s = _seconds(lambda: nearest_others(generation, rows, CROWDING_NEIGHBOURS))
        crowding_s *= size / SAMPLE_ROWS
    own_people_s = _seconds(lambda: own_tops(generation))
    return Round(build_s, crowding_s, own_people_s), generation


def _compared(generation: Generation) -> Row:
    """Crowding of a sample by the default search and by an exact scan."""
    size = generation.num_rows
    rows = np.sort(np.random.default_rng(SEED).choice(size, min(COMPARED_ROWS, size), replace=False))
    found = mean_similarity(nearest_others(generation, rows, CROWDING_NEIGHBOURS)[0])
    scanned, places = generation.scan(generation.columns_of(rows).vectors, CROWDING_NEIGHBOURS + 1, None)
    scanned[places == rows[:, None]] = -np.inf
    exact = mean_similarity(np.sort(scanned, axis=1)[:, ::-1][:, :CROWDING_NEIGHBOURS])
    gaps = np.abs(found - exact)
    return {"spread": float(exact.std()), "gap_mean": float(gaps.mean()), "gap_max": float(gaps.max())}


def _look_up_us(generation: Generation) -> float:
    """Microseconds, median, of one look-up in a snapshot."""
    if generation.num_rows <= CROWDING_TEMPLATES_MAX:
        store_neighbours(generation, CrowdingCorrection.ON, CROWDING_TEMPLATES_MAX)
    else:  # any figures will do
        generation.crowding = np.zeros(generation.num_rows, np.float32)
    if generation.crowding is None:
        generation = Generation(generation.folder, "bench")
    snapshot = Snapshot.base(generation, 1, generation.manifest.dimension)
    rng = np.random.default_rng(SEED)
    times = []
    for _ in range(LOOK_UPS):
        ids = generation.template_ids[rng.integers(generation.num_rows, size=IDS_LOOKED_UP)]
        start_s = time.perf_counter()
        snapshot.crowding_of(ids)
        times.append(time.perf_counter() - start_s)
    return float(np.median(times)) * 1e6


def _seconds(work: Callable[[], object]) -> float:
    start_s = time.process_time()
    work()
    return time.process_time() - start_s


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| templates | build s | crowding s | own people s | build with / without | spread of crowding "
        "| off exact, mean | off exact, most | look-up of 32, us |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['size']:,} | {row['build_s']:.2f} | {row['crowding_s']:.2f}"
        f"{'' if row['has_crowding'] else ' (not unasked; of a sample)'} | {row['own_people_s']:.2f} "
        f"| {row['ratio']:.1f} | {row['spread']:.4f} | {row['gap_mean']:.5f} | {row['gap_max']:.4f} "
        f"| {row['look_up_us']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs="+", default=[10_000, 50_000, 100_000], help="templates")
    parser.add_argument("--set", choices=KINDS, default="faces", help="kind of gallery")
    parser.add_argument("--rounds", type=int, default=2, help="builds of each size")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args(given)
    rows = []
    for size in arguments.size:
        rows.append(measure(arguments.set, size, arguments.rounds))
        print(table(rows).splitlines()[-1] if len(rows) > 1 else table(rows), flush=True)
    body = (
        f"Galleries `{arguments.set}`, seed {SEED}, one template an identity, one thread, processor seconds, "
        f"medians of {arguments.rounds} rounds. In galleries with a target_fpir crowding is computed up to "
        f"{CROWDING_TEMPLATES_MAX:,}; the tops of own people then come with it, and are searched for alone "
        "above.\n\n" + table(rows)
    )
    sizes = " ".join(str(size) for size in arguments.size)
    command = (
        f"python -m benchmarks.neighbours --size {sizes} --set {arguments.set} --rounds {arguments.rounds}"
    )
    print(write_report("neighbours", "Neighbours found by a build", body, command))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
