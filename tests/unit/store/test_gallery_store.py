"""One gallery on disk: commits, receipts, full maps, damage, leftovers, erasure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from engine.errors import (
    CorruptDataError,
    EngineError,
    NewerFormatError,
    RequestIdReusedError,
    StorageFullError,
    UnavailableError,
)
from engine.store import changes, records
from engine.store.environment import StoreSettings
from engine.store.gallery_store import GalleryStore
from engine.store.records import Journal, ReceiptRecord
from engine.store.tables import Writer
from engine.types import (
    AnsweredBefore,
    Enrollment,
    EnrollResult,
    GallerySettings,
    Receipt,
    Template,
    Vector,
)
from tests.contract.clock import Clock
from tests.contract.naive import unit_vectors
from tests.unit.store.conftest import CONTRACT, SETTINGS, flipped, raw_rows

VECTORS = unit_vectors(np.random.default_rng(1), 2000, 4)


@contextmanager
def opened(folder: Path, settings: StoreSettings = SETTINGS) -> Iterator[GalleryStore]:
    with closing(GalleryStore(folder, settings, clock=Clock())) as store:
        yield store


def enrolling(*identity_ids: str, vector: Vector = VECTORS[0]) -> Callable[[Writer], str]:
    """A write that enrolls each identity with one template, and answers with what it did."""
    enrollments = [Enrollment(identity_id, (Template(vector),)) for identity_id in identity_ids]

    def apply(writer: Writer) -> str:
        return repr(changes.enroll(writer, enrollments, 1, 16))

    return apply


def removing(*identity_ids: str, erase: bool = False) -> Callable[[Writer], int]:
    return lambda writer: changes.remove_identities(writer, identity_ids, 1, erase=erase)[0].sequence


def ids(store: GalleryStore) -> list[str]:
    with store.read() as reader:
        return [identity_id for identity_id, _ in reader.identities("")]


def receipt(key: int, body: int) -> Receipt:
    return Receipt(bytes([key]) * 32, bytes([body]) * 32, lambda result: str(result).encode())


def files_with(folder: Path, vector: Vector) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and vector.tobytes() in path.read_bytes()]


def damage(folder: Path, table: str, key: bytes) -> None:
    with raw_rows(folder / "store" / "1", table) as rows:
        rows.put(key, flipped(rows.get(key)))


def test_a_new_store_is_empty_and_knows_what_it_was_made_with(store: GalleryStore) -> None:
    with store.read() as reader:
        assert reader.contract() == CONTRACT
        assert reader.settings() == GallerySettings()
        assert reader.create_time() == 1.5
        assert (reader.state().sequence, reader.state().num_identities, reader.state().dimension) == (0, 0, 4)
        assert list(reader.identities("")) == []
        assert list(reader.templates()) == []
        assert reader.identity("") is None
        assert reader.identity("n" * 2000) is None
        assert reader.expired(1 << 60, 10) == []


def test_writes_are_there_after_reopening(gallery_folder: Path) -> None:
    with opened(gallery_folder) as store:
        for number in range(5):
            store.write(enrolling(f"p{number}"))
        store.write(removing("p3"))
    with opened(gallery_folder) as store:
        assert ids(store) == ["p0", "p1", "p2", "p4"]
        with store.read() as reader:
            assert reader.state().sequence == 6
            assert [(row.added, row.removed) for row in reader.journal(1, 6)] == [
                *(([number], []) for number in range(1, 6)),
                ([], [4]),
            ]


def test_identities_are_listed_by_their_bytes_from_behind_an_id(store: GalleryStore) -> None:
    names = ["", "Z", "a", "aa", "b", "ä", "中", "🙂"]
    store.write(enrolling(*names[1:]))
    with store.read() as reader:
        for position, name in enumerate(names):
            assert [identity_id for identity_id, _ in reader.identities(name)] == names[position + 1 :]
        assert [identity_id for identity_id, _ in reader.identities("aaa")] == names[4:]


def test_a_write_that_fails_leaves_nothing(store: GalleryStore) -> None:
    def fail(writer: Writer) -> None:
        enrolling("half")(writer)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        store.write(fail)
    store.write(enrolling("whole"))
    assert ids(store) == ["whole"]
    with store.read() as reader:
        assert reader.state().sequence == 1


def test_a_reader_keeps_its_view_while_others_write(store: GalleryStore) -> None:
    store.write(enrolling("a"))
    with store.read() as reader:
        writing = threading.Thread(target=store.write, args=(enrolling("b"),))
        writing.start()
        writing.join()
        assert [identity_id for identity_id, _ in reader.identities("")] == ["a"]
    assert ids(store) == ["a", "b"]


def test_a_closed_store_is_unavailable(gallery_folder: Path) -> None:
    with opened(gallery_folder) as store:
        pass
    with pytest.raises(UnavailableError), store.read():
        pass
    with pytest.raises(UnavailableError):
        store.write(enrolling("a"))
    store.close()


class TestReceipts:
    def test_the_same_body_gets_the_same_bytes_and_changes_nothing(self, store: GalleryStore) -> None:
        answer = store.write(enrolling("a"), receipt=receipt(1, 1))
        for _ in range(2):
            with pytest.raises(AnsweredBefore) as caught:
                store.write(enrolling("b"), receipt=receipt(1, 1))
            assert caught.value.answer == answer.encode()
        assert store.find_receipt(receipt(1, 1)) == answer.encode()
        assert store.find_receipt(receipt(2, 1)) is None
        assert ids(store) == ["a"]

    def test_another_body_is_refused(self, store: GalleryStore) -> None:
        store.write(enrolling("a"), receipt=receipt(1, 1))
        with pytest.raises(RequestIdReusedError):
            store.write(enrolling("b"), receipt=receipt(1, 2))
        with pytest.raises(RequestIdReusedError):
            store.find_receipt(receipt(1, 2))
        assert ids(store) == ["a"]

    def test_a_write_that_failed_left_no_receipt(self, store: GalleryStore) -> None:
        def fail(writer: Writer) -> str:
            enrolling("half")(writer)
            raise RuntimeError("half-way")

        with pytest.raises(RuntimeError):
            store.write(fail, receipt=receipt(1, 1))
        store.write(enrolling("a"), receipt=receipt(1, 1))
        assert ids(store) == ["a"]

    def test_it_is_kept_for_a_day(self, store: GalleryStore, clock: Clock) -> None:
        answer = store.write(enrolling("a"), receipt=receipt(1, 1))
        clock.now += 24 * 3600
        assert store.find_receipt(receipt(1, 1)) == answer.encode()
        clock.now += 0.001
        assert store.find_receipt(receipt(1, 1)) is None
        store.write(enrolling("b"), receipt=receipt(1, 2))
        assert ids(store) == ["a", "b"]

    def test_old_ones_are_forgotten_as_new_ones_come(self, store: GalleryStore, clock: Clock) -> None:
        for key in range(10):
            store.write(enrolling("a"), receipt=receipt(key, 1))
        clock.now += 24 * 3600 + 1
        store.write(enrolling("a"), receipt=receipt(100, 1))
        with store.read() as reader:
            assert [reader.receipt(bytes([key]) * 32) for key in range(10)] == [None] * 10
            assert reader.receipt(bytes([100]) * 32) is not None

    def test_a_key_used_again_after_a_day_is_not_forgotten_with_its_first_use(
        self, store: GalleryStore, clock: Clock
    ) -> None:
        """More old receipts than one write forgets stand before the key's first use."""
        for key in range(70):
            store.write(enrolling("a"), receipt=receipt(key, 1))
        store.write(enrolling("a"), receipt=receipt(200, 1))
        clock.now += 24 * 3600 + 1
        answer = store.write(enrolling("b"), receipt=receipt(200, 2))
        store.write(enrolling("a"), receipt=receipt(201, 1))
        assert store.find_receipt(receipt(200, 2)) == answer.encode()

    def test_two_at_once_make_one_write(self, store: GalleryStore) -> None:
        answers: list[object] = []

        def repeat() -> None:
            try:
                answers.append(store.write(enrolling("a"), receipt=receipt(1, 1)).encode())
            except AnsweredBefore as before:
                answers.append(before.answer)

        threads = [threading.Thread(target=repeat) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 16
        assert len(set(answers)) == 1
        with store.read() as reader:
            assert reader.state().sequence == 1


class TestFullMap:
    SETTINGS = StoreSettings(map_size_bytes_max=1 << 20)

    @pytest.fixture
    def full(self, tmp_path: Path) -> Iterator[tuple[GalleryStore, list[str]]]:
        """A store filled up to the refusal of the first write, and who is in it."""
        GalleryStore.create(tmp_path / "g", CONTRACT, GallerySettings(), self.SETTINGS, 0.0)
        with opened(tmp_path / "g", self.SETTINGS) as store:
            there: list[str] = []
            with pytest.raises(StorageFullError, match="largest size"):
                for number in range(10_000):
                    batch = [f"{number:05d}-{row}-{'x' * 100}" for row in range(8)]
                    store.write(enrolling(*batch, vector=VECTORS[number % len(VECTORS)]), num_records=8)
                    there += batch
            yield store, there

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
        with opened(store.folder, self.SETTINGS) as store:
            assert ids(store) == there

    def test_removals_still_work_and_make_room_for_writes(self, full: tuple[GalleryStore, list[str]]) -> None:
        store, there = full
        for identity_id in there[:200]:
            store.write(removing(identity_id))
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
                reader.contract()
                reader.settings()

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
            body[0] += 1
            rows.put(b"state", records._seal(bytes(body)))
        for _ in range(2):
            with pytest.raises(NewerFormatError, match="format 2"), opened(filled):
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
        with opened(store.folder) as store:
            assert ids(store) == ["a", "c", "d"]

    def test_the_same_vector_of_somebody_else_is_kept(self, store: GalleryStore) -> None:
        store.write(enrolling("a", "twin", vector=VECTORS[0]))
        self.erase(store, "a", vectors=[VECTORS[0]])
        with store.read() as reader:
            assert [record.vector.tobytes() for _, record in reader.templates()] == [VECTORS[0].tobytes()]

    def test_a_vector_that_is_still_there_is_an_error_and_the_old_epoch_goes_on(
        self, store: GalleryStore
    ) -> None:
        """Told to look for bytes that a receipt keeps, the scan must find them; nothing is swapped."""
        leak = Receipt(b"k" * 32, b"b" * 32, lambda _: VECTORS[1].tobytes())
        store.write(enrolling("a"), receipt=leak)
        for _ in range(2):
            with pytest.raises(CorruptDataError, match="still in the compact copy"):
                self.erase(store, "a", vectors=[VECTORS[1]])
            assert [path.name for path in (store.folder / "store").iterdir()] == ["1"]
            store.write(enrolling("b"))
        store.close()
        with opened(store.folder) as store:
            assert ids(store) == ["b"]
            store.erase([])
            assert [path.name for path in (store.folder / "store").iterdir()] == ["2"]
            assert ids(store) == ["b"]

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
        problems: list[BaseException] = []

        def repeat(action: Callable[[int], object]) -> None:
            number = 0
            try:
                while not stop.is_set():
                    action(number)
                    number += 1
            except BaseException as error:
                problems.append(error)

        actions = [
            lambda number: store.write(enrolling(f"w{number}", vector=VECTORS[1])),
            lambda _: ids(store).index("kept"),
            lambda _: ids(store).index("kept"),
        ]
        threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
        for thread in threads:
            thread.start()
        for number in range(20):
            store.write(enrolling(f"e{number}", vector=VECTORS[2 + number]))
            self.erase(store, f"e{number}", vectors=[VECTORS[2 + number]])
        stop.set()
        for thread in threads:
            thread.join()
        assert not problems
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


def test_a_full_receipt_record_is_what_it_was(store: GalleryStore, clock: Clock) -> None:
    store.write(enrolling("a"), receipt=receipt(1, 2))
    with store.read() as reader:
        found = reader.receipt(bytes([1]) * 32)
    assert isinstance(found, ReceiptRecord)
    assert (found.body_sha256, found.create_ms) == (bytes([2]) * 32, round(clock.now * 1e3))


def test_many_threads_write_and_each_sees_its_own_write_at_once(store: GalleryStore) -> None:
    def work(name: str) -> None:
        for number in range(10):
            identity_id = f"{name}{number}"
            outcome = store.write(
                lambda writer, identity_id=identity_id: changes.enroll(  # type: ignore[misc]
                    writer, [Enrollment(identity_id)], 1, 16
                )
            )[0]
            assert isinstance(outcome, EnrollResult)
            with store.read() as reader:
                assert reader.identity(identity_id) is not None
                assert reader.state().sequence >= outcome.sequence

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() > started
    assert len(ids(store)) == 80
