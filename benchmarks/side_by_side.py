"""The same searches in process and over gRPC, in turns on equal galleries, and where the time goes."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.echo import echoing
from benchmarks.enrolled import CONTRACT, GALLERY, identity_id
from benchmarks.load import PROBES_PER_CALL, run_load
from benchmarks.measuring import K
from benchmarks.probe_sets import ProbeSet
from benchmarks.schedule import Calls, serve_row
from benchmarks.server import ServerProcess
from benchmarks.stages import Stages, read_stages
from engine.candidates import ROWS_FETCHED_MIN
from engine.gallery import Gallery
from engine.index.generation import Generation
from engine.types import Vectors

ROUNDS = 3
PAIRS = (("unary", 1), ("batch64", 1), ("batch64", 2))
"""Mode and callers: threads in process, clients over gRPC."""
SURE_MARGIN = 0.1
"""Cosine by which the right person is ahead of the next: nobody enrolled meanwhile comes between."""
NUM_PROBES = 512
NUM_SCANS = 200


@dataclass(frozen=True)
class Asked:
    """Probes, and who has to come first for each."""

    probes: Vectors
    expected: list[str]


def sure_probes(probe_set: ProbeSet) -> Asked:
    """Mated probes whose person is far ahead in the exact scan; the better half where they are close."""
    first, second = probe_set.truth_mated[:, 0], probe_set.truth_mated[:, 1]
    ahead = np.einsum("md,md->m", probe_set.mated, probe_set.vectors[first] - probe_set.vectors[second])
    is_right = first == probe_set.mated_rows
    margin = min(SURE_MARGIN, float(np.median(ahead[is_right])))
    rows = np.flatnonzero(is_right & (ahead >= margin))[:NUM_PROBES]
    return Asked(probe_set.mated[rows], [identity_id(int(row)) for row in first[rows]])


@dataclass
class Comparison:
    """What came out, by mode and callers."""

    here: dict[tuple[str, int], list[Calls]] = field(default_factory=dict)
    """In process, a round each."""
    there: dict[tuple[str, int], list[Calls]] = field(default_factory=dict)
    """Over gRPC."""
    alone: dict[tuple[str, int], list[Calls]] = field(default_factory=dict)
    """Over gRPC, from a server that has its answers beforehand."""
    stages: Stages | None = None
    """Of unary calls, by the server's log."""
    scan_ms: float = 0.0
    """Median of the index's search alone."""

    def rows(self, workers: int) -> list[dict[str, Any]]:
        """Rows of the measurement; workers 0: in process."""
        rows = []
        for (mode, callers), rounds in self.here.items():
            per_call = PROBES_PER_CALL[mode]
            rows.append(_median_row(f"in-process {mode}", callers, 0, rounds, per_call))
            there = self.there[mode, callers]
            rows.append(_median_row(f"{mode}, in turns", callers, workers, there, per_call))
        return rows


def compare(
    gallery: Gallery, data: Path, server: ServerProcess, asked: Asked, duration_s: float
) -> Comparison:
    """Take turns; `gallery` is open in this process on `data`, the server has a copy of it."""
    found = Comparison(scan_ms=_scan_ms(data, asked.probes))
    first_byte = server.log.stat().st_size
    with echoing() as echo:
        for _ in range(ROUNDS):
            for pair in PAIRS:
                mode, callers = pair
                found.here.setdefault(pair, []).append(in_process(gallery, asked, *pair, duration_s))
                for address, calls in ((server.address, found.there), (echo, found.alone)):
                    done = run_load(
                        address,
                        GALLERY,
                        (asked.probes, [""] * len(asked.expected) if address == echo else asked.expected),
                        mode=mode,
                        num_clients=callers,
                        duration_s=duration_s,
                    )
                    calls.setdefault(pair, []).append(done)
    found.stages = read_stages(server.log, "IdentificationService/Identify", first_byte)
    return found


def in_process(gallery: Gallery, asked: Asked, mode: str, threads: int, duration_s: float) -> Calls:
    """A closed loop of threads on the gallery itself."""
    size = PROBES_PER_CALL[mode]
    gallery.identify(asked.probes[:size], K)
    end_s = time.monotonic() + duration_s

    def work(place: int) -> list[tuple[float, float, bool]]:
        done: list[tuple[float, float, bool]] = []
        for number in itertools.count(place * 13):
            rows = (number * size + np.arange(size)) % len(asked.probes)
            start_s = time.monotonic()
            if start_s > end_s:
                return done
            answers = gallery.identify(asked.probes[rows], K)
            finished_s = time.monotonic()
            firsts = [answer.candidates[0].identity_id for answer in answers]
            done.append((start_s, finished_s, firsts != [asked.expected[row] for row in rows]))
        return done

    with ThreadPoolExecutor(threads) as pool:
        all_done = [one for part in pool.map(work, range(threads)) for one in part]
    start_s, finished_s = (np.array([one[place] for one in all_done]) for place in (0, 1))
    is_wrong = np.array([one[2] for one in all_done], bool)
    return Calls(start_s, finished_s, np.zeros(len(all_done), bool), is_wrong)


def comparison_text(found: Comparison) -> str:
    """What gRPC adds, and where the time of a unary call goes."""
    lines = [
        "| in turns | callers | p50 ms in process | over gRPC | times | gRPC alone, ms "
        "| probes/s in process | over gRPC | share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (mode, callers), here in found.here.items():
        there = found.there[mode, callers]
        p50, p50_there = _median_ms(here), _median_ms(there)
        p50_alone = _median_ms(found.alone[mode, callers])
        per_s, per_s_there = (_per_s(rounds) * PROBES_PER_CALL[mode] for rounds in (here, there))
        lines.append(
            f"| {mode} | {callers} | {p50:.2f} | {p50_there:.2f} | {p50_there / p50:.2f} | {p50_alone:.2f} "
            f"| {per_s:,.0f} | {per_s_there:,.0f} | {per_s_there / per_s:.1%} |"
        )
    text = "\n".join(lines) + "\n"
    if found.stages is not None:
        whole = _median_ms(found.there["unary", 1])
        stages = found.stages
        text += (
            f"\nOf a unary call's {whole:.2f} ms (median): gRPC and the handler's own work "
            f"{1 - stages.search_ms / whole:.0%}, the index's scan {found.scan_ms / whole:.0%} "
            f"({found.scan_ms:.2f} ms alone), names, float64 and decisions "
            f"{(stages.search_ms - found.scan_ms) / whole:.0%}; the handler as a whole took "
            f"{stages.handler_ms:.2f} ms.\n"
        )
    return text


def _scan_ms(data: Path, probes: Vectors) -> float:
    """Median time of the current generation's search for as many rows as identify asks for."""
    (index,) = (data / "galleries").glob("*/index")
    number = max(int(path.name) for path in index.iterdir() if path.name.isdigit())
    generation = Generation(index / str(number), CONTRACT.digest)
    times_ms = []
    for row in range(NUM_SCANS):
        probe = probes[row % len(probes)][None]
        start_s = time.perf_counter()
        generation.search(probe, min(ROWS_FETCHED_MIN, generation.num_rows), None)
        times_ms.append((time.perf_counter() - start_s) * 1e3)
    return float(np.median(times_ms))


def _median_ms(rounds: list[Calls]) -> float:
    return float(np.median([calls.p_ms(50) for calls in rounds]))


def _per_s(rounds: list[Calls]) -> float:
    return float(np.median([calls.per_s for calls in rounds]))


def _median_row(mode: str, callers: int, workers: int, rounds: list[Calls], probes: int) -> dict[str, Any]:
    merged = serve_row(mode, callers, workers, 0.0, Calls.merged(rounds), probes)
    # Merged rounds span the pauses between them: throughput is that of the median round.
    merged["calls_per_s"] = round(_per_s(rounds), 1)
    merged["probes_per_s"] = round(_per_s(rounds) * probes, 1)
    return merged
