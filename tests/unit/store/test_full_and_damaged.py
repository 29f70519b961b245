"""A store that is full, and one whose rows are damaged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import (
    CorruptDataError,
    EngineError,
    NewerFormatError,
    StorageFullError,
)
from engine.store import records
from engine.store.environment import StoreSettings
from engine.store.gallery_store import GalleryStore
from engine.store.records import Journal
from engine.types import (
    GallerySettings,
    Receipt,
)
from tests.unit.store.conftest import (
    CONTRACT,
    VECTORS,
    enrolling,
    flipped,
    ids,
    opened,
    raw_rows,
    removing,
    repr_bytes,
)


def damage(folder: Path, table: str, key: bytes) -> None:
    with raw_rows(folder / "store" / "1", table) as rows:
        rows.put(key, flipped(rows.get(key)))


class TestFullMap:
    SETTINGS = StoreSettings(map_size_bytes_max=1 << 20)

    @pytest.fixture
    def full(self, tmp_path: Path) -> Iterator[tuple[GalleryStore, list[str]]]:
        """A store filled up to the refusal of the first write, and who is in it."""
        GalleryStore.create(tmp_path / "g", CONTRACT, GallerySettings(), self.SETTINGS, 0.0)
        with opened(tmp_path / "g", self.SETTINGS) as store:
            there: list[str] = []
            with pytest.raises(StorageFullError, match="largest size"):
                self.fill(store, there)
            yield store, there

    def fill(self, store: GalleryStore, there: list[str]) -> None:
        for number in range(10_000):
            batch = [f"{number:05d}-{row}-{'x' * 100}" for row in range(8)]
            store.write(enrolling(*batch, vector=VECTORS[number]), num_records=8)
            there += batch

    def test_nothing_is_lost(self, full: tuple[GalleryStore, list[str]]) -> None:
        store, there = full
        assert ids(store) == there
        with store.read() as reader:
            state = reader.state()
            assert (state.num_identities, state.num_templates) == (len(there), len(there))
            assert len(list(reader.templates())) == len(there)

    def test_it_opens_again(self, full: tuple[GalleryStore, list[str]]) -> None:
        store, there = full
        store.close()
        with opened(store.folder, self.SETTINGS) as again:
            assert ids(again) == there

    def test_removals_still_work_and_make_room_for_writes(self, full: tuple[GalleryStore, list[str]]) -> None:
        store, there = full
        for identity_id in there[:200]:
            store.write(removing(identity_id), receipt=Receipt(identity_id.encode()[:32], b"", repr_bytes))
        for number in range(50):
            store.write(enrolling(f"new {number:03d}"))
        assert ids(store) == there[200:] + [f"new {number:03d}" for number in range(50)]

    def test_one_write_too_large_does_not_fail_those_beside_it(self, store: GalleryStore) -> None:
        outcomes: dict[int, object] = {}

        def write(number: int) -> None:
            names = [f"{number}-{row}-{'x' * 200}" for row in range(200_000 if number == 3 else 1)]
            try:
                outcomes[number] = bool(store.write(enrolling(*names)))
            except EngineError as error:
                outcomes[number] = type(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == {number: StorageFullError if number == 3 else True for number in range(6)}
        assert len(ids(store)) == 5


class TestDamage:
    @pytest.fixture
    def filled(self, gallery_folder: Path) -> Path:
        with opened(gallery_folder) as store:
            store.write(enrolling("a"))
        return gallery_folder

    @pytest.mark.parametrize("key", [b"state", b"contract", b"settings"])
    def test_a_flipped_bit_in_what_all_rests_on_is_found(self, filled: Path, key: bytes) -> None:
        damage(filled, "meta", key)
        for _ in range(2):
            with pytest.raises(CorruptDataError), opened(filled) as store, store.read() as reader:
                assert [reader.contract(), reader.settings()]

    @pytest.mark.parametrize(
        ("table", "key"),
        [
            ("identities", b"a"),
            ("numbers", records.key(1)),
            ("templates", records.key(1)),
            ("journal", records.key(1)),
        ],
    )
    def test_a_flipped_bit_in_a_row_is_found_when_it_is_read(
        self, filled: Path, table: str, key: bytes
    ) -> None:
        damage(filled, table, key)
        with opened(filled) as store, store.read() as reader:
            reads: dict[str, Callable[[], object]] = {
                "identities": lambda: reader.identity("a"),
                "numbers": lambda: reader.identity_id(1),
                "templates": lambda: reader.template(1),
                "journal": lambda: list(reader.journal(1, 1)),
            }
            for name, read in reads.items():
                if name == table:
                    with pytest.raises(CorruptDataError):
                        read()
                else:
                    assert read()

    def test_a_missing_journal_row_is_found(self, filled: Path) -> None:
        with raw_rows(filled / "store" / "1", "journal") as rows:
            rows.delete(records.key(1))
        with opened(filled) as store, store.read() as reader, pytest.raises(CorruptDataError):
            list(reader.journal(1, 1))

    def test_a_newer_format_is_refused_again_and_again(self, filled: Path) -> None:
        with raw_rows(filled / "store" / "1", "meta") as rows:
            state = records.unpack_state(rows.get(b"state"))
            body = bytearray(records.pack_state(state)[4:])
            body[0] = records.FORMAT_VERSION + 1
            rows.put(b"state", records._seal(bytes(body)))
        for _ in range(2):
            with (
                pytest.raises(NewerFormatError, match=f"format {records.FORMAT_VERSION + 1}"),
                opened(filled),
            ):
                pass

    def test_a_number_that_is_not_the_greatest_is_refused_instead_of_dropped(
        self, store: GalleryStore
    ) -> None:
        store.write(enrolling("a"))
        with pytest.raises(CorruptDataError, match="behind all others"):
            store.write(lambda writer: writer.put_journal(1, Journal([9], [])))
        with store.read() as reader:
            assert next(reader.journal(1, 1)).added == [1]

    def test_a_folder_without_a_store_is_corrupt(self, tmp_path: Path) -> None:
        with pytest.raises(CorruptDataError, match="holds no store"), opened(tmp_path):
            pass
