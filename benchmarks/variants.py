"""What a long delta and many removed templates add to a search, measured alternately with a plain gallery."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.cache import kept
from benchmarks.contestants import Contestant, measured_agreement, our_search
from benchmarks.enrolled import catch_up, enroll, enrolled, index_bytes, opened, remove, scratch_copy
from benchmarks.measuring import Rounds, Timings, alternate
from benchmarks.probe_sets import SEED, TRUTH_K, ProbeSet, source_of
from benchmarks.truth import Rows, exact_top
from engine.types import SearchOptions, Vectors

DELTA_ROWS = 10_000
REMOVED_SHARE = 0.1
_PLAIN = "identiface"


def variants(
    cache: Path, probe_set: ProbeSet, rounds: Rounds
) -> tuple[list[tuple[Contestant, Timings]], str]:
    """The two variants with what they took, and a text that says what they add."""
    data = enrolled(cache, probe_set)
    delta = with_delta(probe_set)
    removed = removed_rows(probe_set.size)
    left = without_rows(cache, probe_set, removed)
    with ExitStack() as parts:
        grown = parts.enter_context(opened(parts.enter_context(scratch_copy(cache, data))))
        enroll(grown, delta.vectors[probe_set.size :], probe_set.size)
        shrunk = parts.enter_context(opened(parts.enter_context(scratch_copy(cache, data))))
        remove(shrunk, removed.tolist())
        for gallery in (grown, shrunk):
            catch_up(gallery)
        plain = parts.enter_context(opened(data))
        per_template = index_bytes(data) / probe_set.size
        contestants = []
        for name, gallery, judged in (
            (_PLAIN, plain, probe_set),
            (f"{_PLAIN}, {DELTA_ROWS:,} in the delta", grown, delta),
            (f"{_PLAIN}, {REMOVED_SHARE:.0%} removed", shrunk, left),
        ):
            search = our_search(gallery, SearchOptions())
            agreement = measured_agreement(search, judged)
            contestants.append(Contestant(name, search, agreement, 0.0, 0.0, per_template))
        probes = np.random.default_rng(SEED).permutation(
            np.concatenate([probe_set.mated, probe_set.nonmated])
        )
        timings = alternate({one.name: one.search for one in contestants}, probes, rounds)
    changed = [(one, timings[one.name]) for one in contestants[1:]]
    return changed, _text(contestants, timings, probe_set)


def with_delta(probe_set: ProbeSet) -> ProbeSet:
    """The set with DELTA_ROWS more templates behind the others."""
    added, _ = source_of(probe_set.kind).enrolled(np.random.default_rng((SEED, 1)), DELTA_ROWS)
    vectors = np.concatenate([probe_set.vectors, added])
    return ProbeSet(
        probe_set.kind,
        len(vectors),
        vectors,
        probe_set.mated,
        probe_set.mated_rows,
        probe_set.nonmated,
        _merged(probe_set.truth_mated, vectors, probe_set.mated, probe_set.size),
        _merged(probe_set.truth_nonmated, vectors, probe_set.nonmated, probe_set.size),
        probe_set.num_real,
    )


def removed_rows(size: int) -> Rows:
    """Rows that are removed, in random order."""
    rows: Rows = np.random.default_rng((SEED, 2)).choice(size, round(size * REMOVED_SHARE), replace=False)
    return rows


def without_rows(cache: Path, probe_set: ProbeSet, removed: Rows) -> ProbeSet:
    """The set as it is answered for without these rows."""
    living = np.setdiff1d(np.arange(probe_set.size), removed)

    def make(target: Path) -> None:
        vectors = probe_set.vectors[living]
        for name, probes in (("mated", probe_set.mated), ("nonmated", probe_set.nonmated)):
            np.save(target / f"{name}.npy", living[exact_top(vectors, probes, TRUTH_K)])

    folder = kept(cache, f"removed/{probe_set.kind}-{probe_set.size}-{len(probe_set.mated)}-{SEED}", make)
    return ProbeSet(
        probe_set.kind,
        probe_set.size,
        probe_set.vectors,
        probe_set.mated,
        probe_set.mated_rows,
        probe_set.nonmated,
        np.load(folder / "mated.npy"),
        np.load(folder / "nonmated.npy"),
        probe_set.num_real,
    )


def _merged(truth: Rows, vectors: Vectors, probes: Vectors, first_new: int) -> Rows:
    """Exact rows among all, from those among the first ones: only the new ones are scanned."""
    new = exact_top(vectors[first_new:], probes, TRUTH_K) + first_new
    rows = np.concatenate([truth, new], axis=1)
    similarities = np.einsum("mrd,md->mr", vectors[rows].astype(np.float64), probes.astype(np.float64))
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :TRUTH_K]
    merged: Rows = np.take_along_axis(rows, order, axis=1)
    return merged


def _text(contestants: list[Contestant], timings: dict[str, Timings], probe_set: ProbeSet) -> str:
    plain = timings[_PLAIN].p_ms(50)
    lines = [
        f"## What a delta and removals add ({probe_set.kind}, {probe_set.size:,})\n",
        "| | p50 ms | p99 ms | p99/p50 | added to p50 | top-1 mated | top-1 non-mated |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in contestants:
        p50, p99 = timings[one.name].p_ms(50), timings[one.name].p_ms(99)
        lines.append(
            f"| {one.name} | {p50:.3f} | {p99:.3f} | {p99 / p50:.2f} | {p50 / plain - 1:+.1%} "
            f"| {one.agreement.top1_mated:.4f} | {one.agreement.top1_nonmated:.4f} |"
        )
    return "\n".join(lines) + "\n"
