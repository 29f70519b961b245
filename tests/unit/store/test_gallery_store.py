"""One gallery on disk: reads, commits, receipts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import (
    RequestIdReusedError,
    UnavailableError,
)
from engine.store import changes
from engine.store.gallery_store import GalleryStore
from engine.store.records import ReceiptRecord
from engine.store.tables import Writer
from engine.types import (
    AnsweredBefore,
    Enrollment,
    EnrollResult,
    GallerySettings,
)
from tests.contract.clock import Clock
from tests.unit.store.conftest import (
    CONTRACT,
    enrolling,
    ids,
    opened,
    receipt,
    removing,
)


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

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, "abcdefgh"))
    assert len(ids(store)) == 80
