"""Erasing: what is removed is in no file, what a crash leaves is cleaned up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import (
    CorruptDataError,
    EngineError,
)
from engine.store import changes, records
from engine.store.gallery_store import GalleryStore
from engine.types import (
    Enrollment,
    GallerySettings,
    Receipt,
    Vector,
)
from tests.unit.store.conftest import (
    CONTRACT,
    SETTINGS,
    VECTORS,
    enrolling,
    files_with,
    ids,
    opened,
    raw_rows,
    receipt,
    removing,
)


class TestErasure:
    def erase(self, store: GalleryStore, *names: str, vectors: Sequence[Vector] = ()) -> None:
        store.write(removing(*names, erase=True))
        store.erase(vectors)

    def test_a_removed_vector_stays_in_the_file_and_an_erased_one_does_not(self, store: GalleryStore) -> None:
        for name, vector in zip("ab", VECTORS, strict=False):
            store.write(enrolling(name, vector=vector))
        store.write(removing("a"))
        assert files_with(store.folder, VECTORS[0])
        self.erase(store, "b", vectors=[VECTORS[1]])
        assert not files_with(store.folder, VECTORS[0])
        assert not files_with(store.folder, VECTORS[1])
        assert [path.name for path in (store.folder / "store").iterdir()] == ["2"]

    def test_what_was_not_erased_goes_on_in_the_new_epoch(self, store: GalleryStore) -> None:
        for name, vector in zip("abc", VECTORS, strict=False):
            store.write(enrolling(name, vector=vector), receipt=receipt(ord(name), 1))
        self.erase(store, "b", vectors=[VECTORS[1]])
        store.write(enrolling("d", vector=VECTORS[3]))
        assert ids(store) == ["a", "c", "d"]
        assert store.find_receipt(receipt(ord("a"), 1)) is not None
        with store.read() as reader:
            state = reader.state()
            assert (state.sequence, state.num_templates, state.template_id_last) == (5, 3, 4)
            assert (state.retired_by, state.erase_sequence) == (0, 0)
            assert len(list(reader.journal(1, 5))) == 5
        store.close()
        with opened(store.folder) as again:
            assert ids(again) == ["a", "c", "d"]

    def test_the_same_vector_of_somebody_else_is_kept(self, store: GalleryStore) -> None:
        store.write(enrolling("a", "twin", vector=VECTORS[0]))
        self.erase(store, "a", vectors=[VECTORS[0]])
        with store.read() as reader:
            assert [record.vector.tobytes() for _, record in reader.templates()] == [VECTORS[0].tobytes()]

    def test_nothing_is_left_behind_values_that_take_a_page_of_their_own(self, store: GalleryStore) -> None:
        """LMDB writes such a page out of memory that held another one before."""
        names = [f"somebody {number:04}" for number in range(400)]
        for number in range(0, len(names), 40):
            answer = Receipt(bytes([number % 251]) * 32, b"b" * 32, lambda _: bytes(2500))
            some = names[number : number + 40]
            store.write(enrolling(*some, vector=VECTORS[number]), receipt=answer)
            store.write(removing(*some[1:]))
        self.erase(store, *names[::40], vectors=list(VECTORS[0 : len(names) : 40]))
        (file,) = store.folder.rglob("data.mdb")
        content = file.read_bytes()
        assert [name for name in names if name.encode() in content] == []

    def test_an_attribute_that_many_share_is_copied(self, store: GalleryStore) -> None:
        """More identities than LMDB holds in one page under one key."""
        names = [f"e{number}" for number in range(1000)]
        enrollments = [Enrollment(name, (), {"site": "here", "own": name}) for name in names]
        store.write(lambda writer: changes.enroll(writer, enrollments, 0, 16))
        self.erase(store, "e7")
        store.close()
        with raw_rows(store.folder / "store" / "2", "attributes") as rows:
            keys = rows.keys()
        shared = records.attribute_key("site", "here")
        assert keys.count(shared) == len(names) - 1
        assert len(set(keys)) == len(names)

    def test_a_vector_that_is_still_there_is_an_error_and_the_old_epoch_goes_on(
        self, store: GalleryStore
    ) -> None:
        """Told to look for bytes that a receipt keeps, the scan must find them; nothing is swapped."""
        leak = Receipt(b"k" * 32, b"b" * 32, lambda _: VECTORS[1].tobytes())
        store.write(enrolling("a"), receipt=leak)
        for _ in range(2):
            with pytest.raises(CorruptDataError, match="still in the copy"):
                self.erase(store, "a", vectors=[VECTORS[1]])
            assert [path.name for path in (store.folder / "store").iterdir()] == ["1"]
            store.write(enrolling("b"))
        store.close()
        with opened(store.folder) as again:
            assert ids(again) == ["b"]
            again.erase([])
            assert [path.name for path in (store.folder / "store").iterdir()] == ["2"]
            assert ids(again) == ["b"]

    def test_a_successor_that_cannot_be_written_is_dropped_and_the_old_epoch_goes_on(
        self, tmp_path: Path
    ) -> None:
        """A file where the copy's folder should be stands for any failure of the disk."""
        GalleryStore.create(tmp_path / "g", CONTRACT, GallerySettings(), SETTINGS, 0.0)
        with opened(tmp_path / "g") as store:
            store.write(enrolling("a", "b"))
            (tmp_path / "g" / "store" / "2").write_text("in the way")
            with pytest.raises(EngineError):
                self.erase(store, "a")
            store.write(enrolling("c"))
            (tmp_path / "g" / "store" / "2").unlink(missing_ok=True)
            store.erase([])
        with opened(tmp_path / "g") as store:
            assert ids(store) == ["b", "c"]

    def test_a_pending_erasure_is_kept_over_a_restart(self, gallery_folder: Path) -> None:
        with opened(gallery_folder) as store:
            store.write(enrolling("a"))
            store.write(removing("a", erase=True))
        with opened(gallery_folder) as store:
            with store.read() as reader:
                assert reader.state().erase_sequence == 2
            store.erase([VECTORS[0]])
            assert not files_with(gallery_folder, VECTORS[0])
            store.erase([])
            assert [path.name for path in (gallery_folder / "store").iterdir()] == ["2"]

    def test_what_a_generation_may_still_hold_stays_pending(self, store: GalleryStore) -> None:
        store.write(enrolling("a", "b"))
        store.write(changes.next_generation)
        store.write(lambda writer: changes.make_current(writer, 1, 1))
        self.erase(store, "a")
        with store.read() as reader:
            assert reader.state().erase_sequence == 2
        store.write(changes.next_generation)
        store.write(lambda writer: changes.make_current(writer, 2, 2))
        store.erase([])
        with store.read() as reader:
            assert reader.state().erase_sequence == 0

    def test_reads_and_writes_go_on_during_erasures(self, store: GalleryStore) -> None:
        store.write(enrolling("kept", vector=VECTORS[0]))
        stop = threading.Event()
        num_done = [0, 0, 0]

        def repeat(position: int) -> None:
            while not stop.is_set():
                actions[position](num_done[position])
                num_done[position] += 1

        actions: list[Callable[[int], object]] = [
            lambda number: store.write(enrolling(f"w{number}", vector=VECTORS[1])),
            lambda _: ids(store).index("kept"),
            lambda _: ids(store).index("kept"),
        ]
        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(repeat, position) for position in range(3)]
            for number in range(20):
                store.write(enrolling(f"e{number}", vector=VECTORS[2 + number]))
                self.erase(store, f"e{number}", vectors=[VECTORS[2 + number]])
            stop.set()
            for future in futures:
                future.result()
        assert min(num_done) > 0
        with store.read() as reader:
            assert reader.state().num_identities == len(ids(store))


class TestLeftovers:
    @pytest.fixture
    def filled(self, gallery_folder: Path) -> Path:
        with opened(gallery_folder) as store:
            store.write(enrolling("a"))
        return gallery_folder

    def copy(self, source: Path, target: Path) -> None:
        target.mkdir()
        (target / "data.mdb").write_bytes((source / "data.mdb").read_bytes())

    def test_a_copy_that_no_store_names_is_removed(self, filled: Path) -> None:
        self.copy(filled / "store" / "1", filled / "store" / "2")
        (filled / "store" / "3").mkdir()
        with opened(filled) as store:
            assert ids(store) == ["a"]
        assert [path.name for path in (filled / "store").iterdir()] == ["1"]

    def test_a_retired_epoch_is_removed(self, filled: Path) -> None:
        self.copy(filled / "store" / "1", filled / "store" / "2")
        with raw_rows(filled / "store" / "1", "meta") as rows:
            state = records.unpack_state(rows.get(b"state"))
            state.retired_by = 2
            rows.put(b"state", records.pack_state(state))
        with opened(filled) as store:
            assert ids(store) == ["a"]
        assert [path.name for path in (filled / "store").iterdir()] == ["2"]

    def test_a_retired_epoch_whose_successor_is_missing_is_kept(self, filled: Path) -> None:
        with raw_rows(filled / "store" / "1", "meta") as rows:
            state = records.unpack_state(rows.get(b"state"))
            state.retired_by = 2
            rows.put(b"state", records.pack_state(state))
        with pytest.raises(CorruptDataError, match="epoch 2, which is missing"), opened(filled):
            pass
        assert (filled / "store" / "1" / "data.mdb").is_file()

    def test_folders_of_other_names_are_left_alone(self, filled: Path) -> None:
        (filled / "store" / "1.backup").mkdir()
        with opened(filled) as store:
            assert ids(store) == ["a"]
        assert (filled / "store" / "1.backup").is_dir()
