"""Neighbours of other identities, against all similarities in float64; what a build keeps of them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.decision import crowding as measured
from engine.errors import CorruptDataError, StorageFullError
from engine.index.alive import without
from engine.index.build import file_entry, replace_manifest
from engine.index.generation import MANIFEST, Generation, Manifest, read_manifest
from engine.index.neighbours import (
    CROWDING_IDENTITIES_MIN,
    CROWDING_NEIGHBOURS,
    OWN_PEOPLE_PROBES_MAX,
    crowding,
    mean_similarity,
    nearest_others,
    own_tops,
    store_neighbours,
)
from engine.index.population import CROWDING, OWN_PEOPLE, OwnTops
from engine.index.search import Snapshot
from engine.types import Columns, CrowdingCorrection
from tests.contract.naive import unit_vectors
from tests.unit.index.peopled import DIMENSION, LIMIT, made, oracle, people

AUTO, ON, OFF = CrowdingCorrection.AUTO, CrowdingCorrection.ON, CrowdingCorrection.OFF


def check(
    generation: Generation, found: tuple[NDArray[np.float32], NDArray[np.int64]], rows: NDArray[np.int64]
) -> None:
    """Each row found is of another identity, each of another one, best first and as alike as is said."""
    for row, similarities, places in zip(rows, *found, strict=True):
        is_there = places >= 0
        assert (is_there == np.isfinite(similarities)).all()
        assert (np.diff(is_there.astype(int)) <= 0).all()
        numbers = generation.identity_numbers[places[is_there]]
        assert len(set(numbers.tolist())) == len(numbers)
        assert generation.identity_numbers[row] not in numbers
        assert (np.diff(similarities[is_there]) <= 0).all()
        truth = generation.vectors[places[is_there]].astype(np.float64) @ generation.vectors[row]
        np.testing.assert_allclose(similarities[is_there], truth, atol=1e-6, rtol=0)


@pytest.mark.parametrize("counts", [(1,), (1, 2, 5), (1,) * 20 + (16,)])
@pytest.mark.parametrize("num_identities", [1, 2, 8, 11, 12, 300])
def test_a_flat_generation_finds_the_neighbours_of_a_naive_scan(
    tmp_path: Path, num_identities: int, counts: tuple[int, ...]
) -> None:
    generation = made(tmp_path, *people(num_identities, 1, counts))
    rows = np.arange(generation.num_rows)[::3]
    for wanted in (1, 10):
        found = nearest_others(generation, rows, wanted)
        check(generation, found, rows)
        np.testing.assert_allclose(found[0], oracle(generation, rows, wanted), atol=1e-6, rtol=0)


def test_no_rows_and_no_templates_have_no_neighbours(tmp_path: Path) -> None:
    generation = made(tmp_path, *people(5, 1))
    similarities, rows = nearest_others(generation, np.empty(0, np.int64), 3)
    assert similarities.shape == rows.shape == (0, 3)
    (tmp_path / "none").mkdir()
    nobody = made(tmp_path / "none", np.empty((0, DIMENSION), np.float32), np.empty(0, np.uint64))
    assert crowding(nobody).shape == (0,)
    assert own_tops(nobody).num_identities == 0


def test_templates_of_one_identity_that_crowd_out_all_others_are_passed_over(tmp_path: Path) -> None:
    """Far more rows than are fetched at first are of the probe's own identity, and then of one other."""
    rng = np.random.default_rng(3)
    one = unit_vectors(rng, 1, DIMENSION)
    wide = np.concatenate(
        [one + 1e-3 * rng.standard_normal((400, DIMENSION)), unit_vectors(rng, 500, DIMENSION)]
    )
    vectors = np.ascontiguousarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)
    numbers = np.concatenate([np.repeat([1, 2], 200), np.arange(3, 503)]).astype(np.uint64)
    generation = made(tmp_path, vectors, numbers)
    rows = np.array([0, 199, 200, 399, 400, 899])
    found = nearest_others(generation, rows, 5)
    check(generation, found, rows)
    np.testing.assert_allclose(found[0], oracle(generation, rows, 5), atol=1e-6, rtol=0)
    assert (generation.identity_numbers[found[1][:2, 0]] == 2).all()


def test_equal_templates_of_two_identities_are_each_others_nearest(tmp_path: Path) -> None:
    vectors, numbers = people(40, 4)
    vectors[7] = vectors[31]
    generation = made(tmp_path, vectors, numbers)
    similarities, rows = nearest_others(generation, np.array([7, 31]), 2)
    assert rows[:, 0].tolist() == [31, 7]
    np.testing.assert_allclose(similarities[:, 0], 1.0, atol=1e-6)


def test_removed_rows_are_nobodys_neighbours(tmp_path: Path) -> None:
    generation = made(tmp_path, *people(100, 5, (1, 3)))
    is_alive = np.random.default_rng(5).random(generation.num_rows) < 0.4
    alive = without(None, np.flatnonzero(~is_alive), generation.num_rows)
    rows = np.arange(generation.num_rows)
    found = nearest_others(generation, rows, 60, alive=alive)
    check(generation, found, rows)
    assert is_alive[found[1][found[1] >= 0]].all()
    np.testing.assert_allclose(found[0], oracle(generation, rows, 60, is_alive), atol=1e-6, rtol=0)
    told = own_tops(generation, alive=alive)
    living = np.unique(generation.identity_numbers[is_alive])
    assert told.num_identities == len(told.tops) == len(living)


@pytest.mark.parametrize("counts", [(1,), (1, 1, 6)])
def test_a_coded_generation_finds_them_nearly_always(
    tmp_path: Path, scan: str, counts: tuple[int, ...]
) -> None:
    generation = made(tmp_path, *people(1_200, 6, counts), flat=False)
    assert not generation.is_exact
    rows = np.arange(generation.num_rows)[::7]
    found = nearest_others(generation, rows, 10)
    check(generation, found, rows)
    truth = oracle(generation, rows, 10)
    assert (found[0] <= truth + 1e-6).all()
    assert (found[0][:, 0] >= truth[:, 0] - 1e-6).mean() > 0.99
    assert np.abs(found[0] - truth).mean() < 1e-3


def test_neighbours_are_the_same_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = made(tmp_path, *people(90, 7, (1, 2)))
    whole = crowding(generation)
    reports: list[tuple[int, int]] = []
    monkeypatch.setattr("engine.index.neighbours.BLOCK_PROBES", 10)
    np.testing.assert_allclose(
        crowding(generation, lambda done, total: reports.append((done, total))), whole, atol=1e-6
    )
    num_rows = generation.num_rows
    assert reports == [(min(done, num_rows), num_rows) for done in range(10, num_rows + 10, 10)]


def test_crowding_is_the_mean_of_the_ten_nearest_or_of_those_there_are(tmp_path: Path) -> None:
    for num_identities in (1, 2, 6, 11, 40):
        folder = tmp_path / str(num_identities)
        folder.mkdir()
        generation = made(folder, *people(num_identities, num_identities, (2, 1)))
        truth = oracle(generation, np.arange(generation.num_rows), CROWDING_NEIGHBOURS)
        expected = [
            np.mean(values[np.isfinite(values)]) if num_identities > 1 else np.nan for values in truth
        ]
        np.testing.assert_allclose(crowding(generation), expected, atol=1e-6)
    assert np.isnan(mean_similarity(np.full((2, 3), -np.inf, np.float32))).all()
    assert mean_similarity(np.array([[0.5, 0.25, -np.inf]], np.float32)).tolist() == [0.375]


def test_what_is_kept_is_what_a_calibration_measured_the_correction_with() -> None:
    assert (CROWDING_NEIGHBOURS, CROWDING_IDENTITIES_MIN) == (measured.NEIGHBOURS, measured.SIZE_MIN)


def test_own_tops_are_one_of_each_identity_ascending_and_the_same_each_time(tmp_path: Path) -> None:
    generation = made(tmp_path, *people(60, 8, (1, 4)))
    told = own_tops(generation)
    assert told.num_identities == len(told.tops) == 60
    assert (np.diff(told.tops) >= 0).all()
    assert told.tops.dtype == np.float32
    np.testing.assert_array_equal(told.tops, own_tops(generation).tops)
    # Every top is that of some template, and of no identity twice as often as it has templates.
    possible = oracle(generation, np.arange(generation.num_rows), 1)[:, 0]
    nearest = np.abs(possible[None] - told.tops[:, None]).min(axis=1)
    assert nearest.max() < 1e-6
    single = np.isin(generation.identity_numbers, np.unique(generation.identity_numbers)[::2])
    for top in possible[
        single & (np.bincount(generation.identity_numbers)[generation.identity_numbers] == 1)
    ]:
        assert np.abs(told.tops - top).min() < 1e-6


def test_own_tops_of_many_identities_are_of_a_sample(tmp_path: Path) -> None:
    generation = made(tmp_path, *people(OWN_PEOPLE_PROBES_MAX + 500, 9))
    told = own_tops(generation)
    assert (len(told.tops), told.num_identities) == (OWN_PEOPLE_PROBES_MAX, OWN_PEOPLE_PROBES_MAX + 500)
    everybody = np.sort(nearest_others(generation, np.arange(generation.num_rows), 1)[0][:, 0])
    np.testing.assert_allclose(np.quantile(told.tops, 0.5), np.quantile(everybody, 0.5), atol=5e-3)
    assert np.isin(told.tops.round(5), everybody.round(5)).mean() > 0.99


def test_a_single_identity_has_no_top(tmp_path: Path) -> None:
    told = own_tops(made(tmp_path, *people(1, 10, (3,))))
    assert (len(told.tops), told.num_identities) == (0, 1)


def stored(generation: Generation, correction: CrowdingCorrection, limit: int = LIMIT) -> Generation:
    store_neighbours(generation, correction, limit)
    return Generation(generation.folder, "digest")


@pytest.mark.parametrize(
    ("num_identities", "correction", "limit", "has_crowding", "has_own_people"),
    [
        (1, AUTO, LIMIT, False, False),
        (1, ON, LIMIT, True, False),
        (299, AUTO, LIMIT, False, False),
        (299, ON, 0, True, False),
        (300, AUTO, LIMIT, True, False),
        (300, AUTO, 299, False, False),
        (300, OFF, LIMIT, False, False),
        (999, AUTO, LIMIT, True, False),
        (1_000, AUTO, LIMIT, True, True),
        (1_000, AUTO, 999, False, True),
        (1_000, OFF, LIMIT, False, True),
        (1_000, ON, 0, True, True),
    ],
)
def test_what_is_kept_depends_on_identities_setting_and_limit(
    tmp_path: Path,
    num_identities: int,
    correction: CrowdingCorrection,
    limit: int,
    has_crowding: bool,
    has_own_people: bool,
) -> None:
    opened = stored(made(tmp_path, *people(num_identities, 11)), correction, limit)
    assert (opened.crowding is not None, opened.own_tops is not None) == (has_crowding, has_own_people)
    names = {path.name for path in opened.folder.iterdir()}
    assert names == {*opened.manifest.files, MANIFEST}
    if opened.crowding is not None:
        np.testing.assert_allclose(opened.crowding, crowding(opened), atol=1e-6)
        assert not opened.crowding.flags.writeable
    if opened.own_tops is not None:
        np.testing.assert_allclose(opened.own_tops.tops, own_tops(opened).tops, atol=1e-6)
        assert opened.own_tops.num_identities == num_identities


def test_a_manifest_counts_identities_by_their_templates(tmp_path: Path) -> None:
    generation = made(tmp_path, *people(10, 12, (1, 1, 4)))
    assert generation.manifest.templates_histogram == (0, 7, 0, 0, 3)
    (tmp_path / "none").mkdir()
    nobody = made(tmp_path / "none", np.empty((0, DIMENSION), np.float32), np.empty(0, np.uint64))
    assert sum(nobody.manifest.templates_histogram) == 0


def test_generations_built_before_any_of_this_open_as_before(tmp_path: Path) -> None:
    folder = made(tmp_path, *people(50, 13, (1, 2))).folder
    fields = msgspec.json.decode((folder / MANIFEST).read_bytes())
    del fields["templates_histogram"]
    content = msgspec.json.encode(fields | {"checksum": ""})
    checksum = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_bytes(msgspec.json.encode(fields | {"checksum": checksum}))
    old = Generation(folder, "digest")
    assert (old.manifest.templates_histogram, old.crowding, old.own_tops) == ((), None, None)
    rows = np.arange(old.num_rows)
    np.testing.assert_allclose(nearest_others(old, rows, 10)[0], oracle(old, rows, 10), atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """A generation with both files."""
    return stored(made(tmp_path_factory.mktemp("whole"), *people(1_000, 14)), AUTO)


@pytest.mark.parametrize("name", [CROWDING, OWN_PEOPLE])
def test_a_damaged_file_is_corrupt_data(tmp_path: Path, whole: Generation, name: str) -> None:
    folder = shutil.copytree(whole.folder, tmp_path / "1")
    path = folder / name
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    for damaged in (bytes(changed), content[:-1], b""):
        path.write_bytes(damaged)
        with pytest.raises(CorruptDataError, match=name):
            Generation(folder, "digest")
    path.unlink()
    with pytest.raises(CorruptDataError, match=name):
        Generation(folder, "digest")


def test_a_file_of_another_shape_is_corrupt_data_though_its_checksum_holds(tmp_path: Path) -> None:
    folder = stored(made(tmp_path, *people(1_000, 15)), AUTO).folder
    manifest = read_manifest(folder)

    def refuse(name: str) -> None:
        sealed(folder, manifest, name)
        with pytest.raises(CorruptDataError, match=name):
            Generation(folder, "digest")

    good = (folder / OWN_PEOPLE).read_bytes()
    for values in (np.zeros(1_000), np.zeros(999, np.float32)):
        np.save(folder / CROWDING, values)
        refuse(CROWDING)
    np.save(folder / CROWDING, np.zeros(1_000, np.float32))
    sealed(folder, manifest, CROWDING)
    manifest = read_manifest(folder)
    OwnTops(np.zeros(9, np.float32), 8).write(folder / OWN_PEOPLE)
    refuse(OWN_PEOPLE)
    np.savez(folder / OWN_PEOPLE, tops=np.zeros(9, np.float32))
    refuse(OWN_PEOPLE)
    (folder / OWN_PEOPLE).write_bytes(b"no zip file")
    refuse(OWN_PEOPLE)
    (folder / OWN_PEOPLE).write_bytes(good)
    sealed(folder, manifest, OWN_PEOPLE)
    assert Generation(folder, "digest").own_tops is not None


def sealed(folder: Path, manifest: Manifest, name: str) -> None:
    files = manifest.files | {name: file_entry(folder / name)}
    replace_manifest(folder, msgspec.structs.replace(manifest, files=files))


def test_what_ends_the_work_leaves_a_generation_that_opens(tmp_path: Path) -> None:
    generation = made(tmp_path, *people(1_000, 16))

    def give_up(done: int, total: int) -> None:
        assert total == 1_000
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_neighbours(generation, ON, LIMIT, give_up)
    assert Generation(generation.folder, "digest").crowding is None
    assert stored(generation, ON).crowding is not None


def test_a_full_disk_is_storage_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = made(tmp_path, *people(1_000, 17))

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageFullError, match="generation 1 could not be written"):
            store_neighbours(generation, ON, LIMIT)
    assert Generation(generation.folder, "digest").crowding is None


def test_a_snapshot_knows_the_crowding_of_its_generations_templates(whole: Generation) -> None:
    assert whole.crowding is not None
    rng = np.random.default_rng(18)
    snapshot = Snapshot.base(whole, 1, DIMENSION)
    ids = whole.template_ids
    added = Columns(ids[-1] + np.array([1, 2], np.uint64), ids[:2], unit_vectors(rng, 2, DIMENSION))
    snapshot = snapshot.advanced(2, added, [int(ids[5])])
    asked = np.array([ids[3], added.template_ids[0], ids[5], ids[0] + np.uint64(1), ids[-1]], np.uint64)
    nan = np.nan
    expected = np.array([whole.crowding[3], nan, whole.crowding[5], nan, whole.crowding[-1]], np.float32)
    np.testing.assert_array_equal(snapshot.crowding_of(asked), expected)
    np.testing.assert_array_equal(snapshot.crowding_of(ids), whole.crowding)
    assert snapshot.crowding_of(asked[:0]).shape == (0,)
    found = snapshot.crowding_of(ids)
    found[0] = 7.0  # a copy
    assert whole.crowding[0] != 7.0


def test_a_snapshot_without_crowding_says_so_of_every_template(tmp_path: Path) -> None:
    plain = Snapshot.base(made(tmp_path, *people(5, 19)), 1, DIMENSION)
    for snapshot in (plain, Snapshot.base(None, 0, DIMENSION)):
        known = snapshot.crowding_of(np.array([0, 2], np.uint64))
        assert known.dtype == np.float32
        assert np.isnan(known).all()
