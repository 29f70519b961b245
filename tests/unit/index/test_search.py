"""Snapshots of generation + delta - removed, against brute force in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from engine.index.build import build
from engine.index.delta import DELTA_ROWS_FIRST, Delta, Found
from engine.index.generation import Generation
from engine.index.search import Snapshot
from engine.types import Columns, Vector, Vectors
from tests.contract.naive import unit_vectors

DIMENSION = 16
CONTRACT = "digest"


@dataclass(frozen=True)
class Row:
    template_id: int
    identity_number: int
    vector: Vector


def columns(of: Sequence[Row]) -> Columns:
    return Columns(
        np.array([row.template_id for row in of], np.uint64),
        np.array([row.identity_number for row in of], np.uint64),
        np.array([row.vector for row in of], np.float32).reshape(len(of), DIMENSION),
    )


NOTHING = columns(())


def rows(rng: np.random.Generator, first: int, num: int) -> list[Row]:
    vectors = unit_vectors(rng, num, DIMENSION)
    # Every third template belongs to the identity before it.
    return [
        Row(first + position, 1000 + (first + position) // 3, vector)
        for position, vector in enumerate(vectors)
    ]


def generation(folder: Path, of: Sequence[Row], number: int = 1) -> Generation:
    folder.mkdir(exist_ok=True)
    return build(folder, columns(of), number=number, sequence=1, contract_digest=CONTRACT)


def check(found: Found, probes: Vectors, of: Sequence[Row], num_rows: int) -> None:
    """What was found is what a full scan in float64 finds, best first."""
    numbers = {row.template_id: row.identity_number for row in of}
    position = {row.template_id: index for index, row in enumerate(of)}
    vectors = np.array([row.vector for row in of], np.float64).reshape(len(of), DIMENSION)
    assert len(found.similarities) == len(probes)
    for probe, similarities, ids, identities in zip(
        probes, found.similarities, found.template_ids, found.identity_numbers, strict=True
    ):
        is_found = similarities > -np.inf
        exact = vectors @ probe.astype(np.float64)
        assert is_found.sum() == min(num_rows, len(of))
        assert not is_found[is_found.sum() :].any()
        np.testing.assert_allclose(
            similarities[is_found], np.sort(exact)[::-1][: is_found.sum()], atol=1e-6, rtol=0
        )
        chosen = [int(template_id) for template_id in ids[is_found]]
        assert len(set(chosen)) == len(chosen)
        np.testing.assert_allclose(
            [exact[position[template_id]] for template_id in chosen],
            similarities[is_found],
            atol=1e-6,
            rtol=0,
        )
        assert [int(number) for number in identities[is_found]] == [numbers[one] for one in chosen]


@pytest.mark.parametrize("num_probes", [0, 1, 3, 70])
@pytest.mark.parametrize(("num_covered", "num_added"), [(0, 0), (1, 0), (0, 1), (5, 3), (500, 0), (400, 300)])
@pytest.mark.parametrize("removed_share", [0.0, 0.4, 1.0])
def test_the_nearest_rows_are_those_of_a_full_scan(
    tmp_path: Path,
    rng: np.random.Generator,
    num_probes: int,
    num_covered: int,
    num_added: int,
    removed_share: float,
) -> None:
    covered, added = rows(rng, 1, num_covered), rows(rng, 10_000, num_added)
    base = Snapshot.base(generation(tmp_path, covered) if num_covered else None, 1, DIMENSION)
    grown = base.advanced(2, columns(added), ())
    gone = [row.template_id for row in (*covered, *added) if rng.random() < removed_share]
    snapshot = grown.advanced(3, NOTHING, gone)
    alive = [row for row in (*covered, *added) if row.template_id not in gone]
    probes = unit_vectors(rng, num_probes, DIMENSION)
    assert snapshot.num_alive == len(alive)
    for num_rows in (1, 7, 10_000):
        check(snapshot.search(probes, num_rows), probes, alive, num_rows)
        check(grown.search(probes, num_rows), probes, [*covered, *added], num_rows)


def test_a_snapshot_does_not_change_when_later_ones_are_made(rng: np.random.Generator) -> None:
    probes = unit_vectors(rng, 2, DIMENSION)
    first_rows, more, others = rows(rng, 1, 10), rows(rng, 11, 5), rows(rng, 50, 7)
    first = Snapshot.base(None, 0, DIMENSION).advanced(1, columns(first_rows), ())
    second = first.advanced(2, columns(more), [3])
    branch = first.advanced(2, columns(others), [4])
    third = second.advanced(3, columns(rows(rng, 100, 2000)), [11])
    check(first.search(probes, 100), probes, first_rows, 100)
    check(
        second.search(probes, 100), probes, [row for row in (*first_rows, *more) if row.template_id != 3], 100
    )
    check(
        branch.search(probes, 100),
        probes,
        [row for row in (*first_rows, *others) if row.template_id != 4],
        100,
    )
    assert (first.num_alive, second.num_alive, branch.num_alive, third.num_alive) == (10, 14, 16, 2013)


@pytest.mark.parametrize("num", [DELTA_ROWS_FIRST - 1, DELTA_ROWS_FIRST, DELTA_ROWS_FIRST + 1])
def test_a_delta_grows_beyond_its_first_memory(rng: np.random.Generator, num: int) -> None:
    delta, there = Delta.empty(DIMENSION), rows(rng, 1, num)
    for start in range(0, num, 200):
        delta = delta.extended(columns(there[start : start + 200]), ())
    probes = unit_vectors(rng, 1, DIMENSION)
    assert (delta.num_rows, delta.num_alive) == (num, num)
    snapshot = replace(Snapshot.base(None, 0, DIMENSION), delta=delta)
    check(snapshot.search(probes, 5), probes, there, 5)


def test_removing_what_is_not_there_changes_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    covered, added = rows(rng, 10, 9), rows(rng, 30, 4)
    snapshot = Snapshot.base(generation(tmp_path, covered), 1, DIMENSION).advanced(2, columns(added), ())
    same = snapshot.advanced(3, NOTHING, [1, 9, 19, 25, 29, 34, 1 << 63])
    assert (same.num_alive, same.num_removed, same.alive) == (13, 0, None)
    again = snapshot.advanced(3, NOTHING, [10]).advanced(4, NOTHING, [18, 30])
    assert (again.num_alive, again.num_removed) == (10, 2)
    assert again.dead_share == pytest.approx(2 / 9)


def test_the_first_and_last_rows_of_a_bitmap_can_be_removed(tmp_path: Path, rng: np.random.Generator) -> None:
    for num in (1, 7, 8, 9, 16, 17):
        covered = rows(rng, 1, num)
        base = Snapshot.base(generation(tmp_path / str(num), covered), 1, DIMENSION)
        probes = unit_vectors(rng, 1, DIMENSION)
        for gone in (1, num):
            alive = [row for row in covered if row.template_id != gone]
            check(base.advanced(2, NOTHING, [gone]).search(probes, 100), probes, alive, 100)
