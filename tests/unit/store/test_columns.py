"""Templates read in blocks are those read one by one, and damage is found."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import CorruptDataError
from engine.store import changes, columns, records
from engine.store.gallery_store import GalleryStore
from engine.store.tables import Writer
from engine.types import Columns, Enrollment, Template
from tests.unit.store.conftest import VECTORS, flipped, opened, raw_rows, removing

NUM_ROWS = 500


@pytest.fixture
def filled(store: GalleryStore) -> GalleryStore:
    """Templates with sources of many lengths, some of them removed."""
    enrollments = [
        Enrollment(f"p{row % 200}", (Template(VECTORS[row], 0.5, "ä" * (row % 60)),))
        for row in range(NUM_ROWS)
    ]
    store.write(lambda writer: changes.enroll(writer, enrollments, 1, 16))
    store.write(removing(*(f"p{row}" for row in range(0, 200, 7))))
    return store


def one_by_one(store: GalleryStore) -> Columns:
    with store.read() as reader:
        rows = list(reader.templates())
    return Columns(
        np.array([template_id for template_id, _ in rows], np.uint64),
        np.array([record.identity_number for _, record in rows], np.uint64),
        np.array([record.vector for _, record in rows], np.float32),
    )


def assert_equal(given: Columns, expected: Columns) -> None:
    for name in ("template_ids", "identity_numbers", "vectors"):
        one, other = getattr(given, name), getattr(expected, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert given.vectors.flags.c_contiguous


@pytest.mark.parametrize("rows_max", [1, 7, 10_000])
def test_blocks_hold_every_template_in_order(filled: GalleryStore, rows_max: int) -> None:
    with filled.read() as reader:
        blocks = list(columns.template_blocks(reader, rows_max))
    assert max(len(block.template_ids) for block in blocks) <= rows_max
    joined = Columns(
        *(np.concatenate([getattr(block, name) for block in blocks]) for name in Columns.__dataclass_fields__)
    )
    assert_equal(joined, one_by_one(filled))


@pytest.mark.parametrize("at_once", [100, columns.COLLECT_ROWS])
def test_collecting_reports_its_progress(
    filled: GalleryStore, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(columns, "COLLECT_ROWS", at_once)
    reports: list[tuple[int, int]] = []
    with filled.read() as reader:
        collected = columns.collect(reader, lambda done, total: reports.append((done, total)))
    expected = one_by_one(filled)
    assert_equal(collected, expected)
    num = len(expected.template_ids)
    assert reports == [(min(done, num), num) for done in range(at_once, num + at_once, at_once)]


def test_an_empty_store_has_no_templates(store: GalleryStore) -> None:
    with store.read() as reader:
        assert list(columns.template_blocks(reader, 10)) == []
        assert columns.collect(reader, lambda _done, _total: None).vectors.shape == (0, 4)
        assert columns.columns_of(reader, [1, 2]).vectors.shape == (0, 4)


def test_some_are_found_by_their_ids_whatever_their_order(filled: GalleryStore) -> None:
    expected = one_by_one(filled)
    rows = np.random.default_rng(5).choice(len(expected.template_ids), 60, replace=False)
    asked = [int(expected.template_ids[row]) for row in rows]
    removed = next(row for row in range(1, NUM_ROWS) if row not in expected.template_ids)
    with filled.read() as reader:
        given = columns.columns_of(reader, [*asked, asked[0], removed, NUM_ROWS + 1])
    rows.sort()
    picked = (expected.template_ids[rows], expected.identity_numbers[rows], expected.vectors[rows])
    assert_equal(given, Columns(*picked))


@pytest.mark.parametrize("what", ["flipped", "short", "empty", "other dimension"])
def test_a_damaged_record_is_found(filled: GalleryStore, what: str) -> None:
    filled.close()
    with raw_rows(filled.folder / "store" / "1", "templates") as rows:
        key = records.key(4)
        data = rows.get(key)
        if what == "other dimension":
            record = records.unpack_template(data)
            data = records.pack_template(
                records.TemplateRecord(
                    record.identity_number, 1, 0.5, "", np.zeros(len(record.vector) + 1, np.float32)
                )
            )
        rows.put(key, {"flipped": flipped(data), "short": data[:20], "empty": b""}.get(what, data))
    with opened(filled.folder) as store, store.read() as reader:
        with pytest.raises(CorruptDataError):
            columns.collect(reader, lambda _done, _total: None)
        with pytest.raises(CorruptDataError):
            columns.columns_of(reader, [3, 4])
        assert len(columns.columns_of(reader, [3, 5]).template_ids) == 2


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_count_that_does_not_hold_is_found(filled: GalleryStore, difference: int) -> None:
    def miscount(writer: Writer) -> None:
        state = writer.state()
        state.num_templates += difference
        writer.put_state(state)

    filled.write(miscount)
    with filled.read() as reader, pytest.raises(CorruptDataError, match="counts"):
        columns.collect(reader, lambda _done, _total: None)
