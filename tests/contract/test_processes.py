"""Several processes on one data folder: what one writes, builds, erases or deletes the others see."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from engine.errors import AlreadyExistsError, DataFolderError, GalleryNotFoundError, UnavailableError
from engine.galleries import Galleries
from engine.gallery import Gallery
from engine.generations import Generations
from engine.index.generation import VECTORS, Generation
from engine.live_index import report_nothing
from engine.store import folders
from engine.store.tables import Writer
from engine.types import AnsweredBefore, Consistency, Enrollment, Template
from tests.contract.peer import (
    CONTRACT,
    FACES,
    Peer,
    PeerError,
    enroll,
    files_with,
    opened_by,
    receipt,
    settings,
    together,
    top,
    wait_until,
)

Pair = tuple[Galleries, Peer]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """This process and another, with the gallery "people" open in both; housekeeping by hand."""
    with together(tmp_path) as (galleries, (peer,)):
        galleries.create("people", CONTRACT)
        peer.tell("generation", "people")
        yield galleries, peer


def folder(data: Path) -> Path:
    (only,) = (data / "galleries").iterdir()
    return only


def numbers(data: Path, what: str) -> list[str]:
    return sorted(path.name for path in (folder(data) / what).iterdir())


class TestWrites:
    def test_each_process_finds_at_once_what_the_other_wrote(self, pair: Pair) -> None:
        galleries, peer = pair
        gallery = galleries.get("people")
        for row in range(0, 60, 2):
            sequence = peer.tell("enroll", "people", row, 1)
            assert top(gallery, row) == (f"p{row}", sequence)
            sequence = enroll(gallery, row + 1, 1)
            assert peer.tell("top", "people", row + 1) == [f"p{row + 1}", sequence]

    def test_both_write_at_once_and_nothing_is_lost(self, pair: Pair) -> None:
        galleries, peer = pair
        gallery = galleries.get("people")
        for first in range(0, 400, 20):
            peer.begin("enroll", "people", 1000 + first, 20)
            enroll(gallery, first, 20)
            peer.answer()
        info = gallery.info()
        assert (info.num_identities, info.sequence) == (800, 40)
        for row in (0, 399, 1000, 1399):
            assert top(gallery, row)[0] == f"p{row}"
            assert peer.tell("top", "people", row) == [f"p{row}", 40]

    def test_a_request_repeated_at_another_process_is_answered_as_the_first_time(self, pair: Pair) -> None:
        galleries, peer = pair
        assert peer.tell("enroll_once", "people", 3, 7) == "done"
        enrollment = Enrollment("p3", (Template(FACES[3]),))
        with pytest.raises(AnsweredBefore) as caught:
            galleries.get("people").enroll([enrollment], receipt=receipt(7))
        assert peer.tell("enroll_once", "people", 3, 7) == caught.value.answer.decode()
        assert galleries.get("people").info().sequence == 1


class TestGalleries:
    def test_one_deleted_and_made_again_elsewhere_is_the_new_one_here(
        self, pair: Pair, tmp_path: Path
    ) -> None:
        galleries, peer = pair
        old = galleries.get("people")
        enroll(old, 0, 10)
        peer.tell("delete", "people")
        with pytest.raises(GalleryNotFoundError):
            galleries.get("people")
        peer.tell("create", "people")
        assert galleries.get("people").info().num_identities == 0
        assert peer.tell("enroll", "people", 5, 1) == 1
        assert top(galleries.get("people"), 5) == ("p5", 1)
        galleries.refresh()
        with pytest.raises(UnavailableError):
            old.info()
        assert len(list((tmp_path / "galleries").iterdir())) == 1

    def test_an_idle_process_closes_what_another_deleted(self, tmp_path: Path) -> None:
        with together(tmp_path, maintenance_s=0.05) as (galleries, (peer,)):
            galleries.create("people", CONTRACT)
            peer.tell("enroll", "people", 0, 5)
            assert peer.tell("num_open") == 1
            galleries.delete("people")
            wait_until(lambda: peer.tell("num_open") == 0)
            wait_until(lambda: not [name for name in opened_by(peer.process.pid) if "/galleries/" in name])

    def test_an_alias_moved_elsewhere_has_moved_here(self, pair: Pair) -> None:
        galleries, peer = pair
        galleries.create("others", CONTRACT)
        peer.tell("alias", "door", "people")
        assert galleries.get("door").gallery_id == "people"
        peer.tell("alias", "door", "others")
        assert galleries.get("door").gallery_id == "others"
        with pytest.raises(AlreadyExistsError):
            galleries.create("door", CONTRACT)

    def test_one_who_does_not_share_the_lock_is_refused(self, pair: Pair, tmp_path: Path) -> None:
        with pytest.raises(DataFolderError, match="in use"):
            folders.lock_folder(tmp_path)
        with (tmp_path / "other").open("w") as other, pytest.raises(DataFolderError, match="is not the lock"):
            Galleries.open(tmp_path, settings(), lock_fd=other.fileno())

    def test_what_a_killed_process_left_of_a_deletion_is_finished(self, pair: Pair, tmp_path: Path) -> None:
        galleries, peer = pair
        left = galleries._catalog.begin_delete("people", None)
        assert left.is_dir()
        peer.tell("maintain")
        assert not left.is_dir()
        assert galleries._catalog.deletions() == []


class TestErasure:
    def built(self, galleries: Galleries) -> Gallery:
        gallery = galleries.get("people")
        enroll(gallery, 0, 20)
        gallery.build(report_nothing)
        return gallery

    def test_an_idle_process_lets_go_of_old_files_by_itself(self, tmp_path: Path) -> None:
        with together(tmp_path, maintenance_s=0.05) as (galleries, (peer,)):
            galleries.create("people", CONTRACT)
            gallery = self.built(galleries)
            assert peer.tell("top", "people", 3) == ["p3", 1]
            wait_until(lambda: [name for name in opened_by(peer.process.pid) if "/index/1" in name])
            gallery.remove_identities(["p3"], erase=True)
            assert files_with(tmp_path, 3) == []
            assert (numbers(tmp_path, "store"), numbers(tmp_path, "index")) == (["2"], ["2"])
            # Its locks are gone, or the erasure would still wait; mappings end a moment after them.
            wait_until(
                lambda: (
                    not [
                        name
                        for name in opened_by(peer.process.pid)
                        if "/store/1" in name or "/index/1" in name
                    ]
                )
            )
            assert peer.tell("top", "people", 4) == ["p4", 2]

    @pytest.mark.parametrize(("what", "old"), [("read", "store"), ("search", "index")])
    def test_one_that_is_busy_is_waited_for(self, pair: Pair, tmp_path: Path, what: str, old: str) -> None:
        galleries, peer = pair
        gallery = self.built(galleries)
        peer.tell("refresh")
        peer.tell(f"begin_{what}", "people")
        with ThreadPoolExecutor(1) as pool:
            erasing = pool.submit(gallery.remove_identities, ["p3"], erase=True)
            wait_until(lambda: gallery.generation() == 2 and "2" in numbers(tmp_path, "store"))
            # What was removed is not found any more, although it is not yet erased.
            assert top(gallery, 3)[0] != "p3"
            if what == "search":
                peer.tell("refresh")
            assert not erasing.done()
            assert "1" in numbers(tmp_path, old)
            peer.tell(f"end_{what}")
            wait_until(lambda: peer.tell("refresh") or erasing.done())
            erasing.result()
        assert files_with(tmp_path, 3) == []
        assert (numbers(tmp_path, "store"), numbers(tmp_path, "index")) == (["2"], ["2"])

    def test_one_that_stays_busy_is_named_and_housekeeping_ends_the_work(
        self, pair: Pair, tmp_path: Path
    ) -> None:
        galleries, peer = pair
        gallery = self.built(galleries)
        peer.tell("begin_read", "people")
        with gallery._store.read() as reader:
            assert reader.state().erase_sequence == 0
        gallery._index.refresh()
        gallery.remove_identities(["p3"])
        gallery._store.write(_promise_erasure)
        with pytest.raises(UnavailableError, match="store/1"):
            gallery._housekeeping.erase(wait_s=0.0)
        assert files_with(tmp_path, 3)
        peer.tell("end_read")
        peer.tell("maintain")
        peer.tell("maintain")
        assert files_with(tmp_path, 3) == []

    def test_two_processes_erase_at_once(self, tmp_path: Path) -> None:
        with together(tmp_path, 2, maintenance_s=0.05) as (galleries, peers):
            galleries.create("people", CONTRACT)
            gallery = self.built(galleries)
            for number in range(4):
                for position, peer in enumerate(peers):
                    peer.begin("erase", "people", 2 * number + position)
                assert [peer.answer() for peer in peers] == [True, True]
                assert files_with(tmp_path, 2 * number) == []
                assert files_with(tmp_path, 2 * number + 1) == []
            assert gallery.info().num_identities == 12
            assert len(numbers(tmp_path, "store")) == 1

    def test_another_finishes_what_one_killed_in_the_middle_began(self, pair: Pair, tmp_path: Path) -> None:
        galleries, peer = pair
        gallery = self.built(galleries)
        with gallery._store.read():
            peer.begin("erase", "people", 3)
            wait_until(lambda: numbers(tmp_path, "store") == ["1", "2"])
            peer.process.kill()
            peer.process.wait()
        assert files_with(tmp_path, 3)
        galleries.maintain()
        assert files_with(tmp_path, 3) == []
        assert numbers(tmp_path, "store") == ["2"]
        assert top(gallery, 4)[0] == "p4"


def _promise_erasure(writer: Writer) -> None:
    state = writer.state()
    state.erase_sequence = state.sequence
    writer.put_state(state)


class TestCatchingUp:
    def test_a_search_that_is_far_behind_is_refused_or_answered_from_what_is_there(
        self, tmp_path: Path
    ) -> None:
        with together(tmp_path, catch_up_rows_max=1000, catch_up_ms_max=60_000.0) as (galleries, (peer,)):
            galleries.create("people", CONTRACT)
            gallery = galleries.get("people")
            for first in range(0, 4000, 100):
                peer.tell("enroll", "people", first, 100)
            with pytest.raises(UnavailableError) as caught:
                top(gallery, 0)
            assert caught.value.retry_after_s
            # What it did is kept: each search comes closer.
            found, sequence = top(gallery, 0, Consistency.EVENTUAL)
            assert (found, sequence) == ("p0", 20)
            with pytest.raises(UnavailableError):
                top(gallery, 3999)
            assert top(gallery, 3999) == ("p3999", 40)

    def test_housekeeping_catches_up_however_far_it_is(self, tmp_path: Path) -> None:
        with together(tmp_path, catch_up_rows_max=1) as (galleries, (peer,)):
            galleries.create("people", CONTRACT)
            gallery = galleries.get("people")
            for first in range(0, 3000, 100):
                peer.tell("enroll", "people", first, 100)
            galleries.refresh()
            assert top(gallery, 2999) == ("p2999", 30)

    def test_no_time_is_enough_for_one_block(self, tmp_path: Path) -> None:
        with together(tmp_path, catch_up_ms_max=1e-6) as (galleries, (peer,)):
            galleries.create("people", CONTRACT)
            peer.tell("enroll", "people", 0, 10)
            assert top(galleries.get("people"), 9) == ("p9", 1)


class TestGenerations:
    def test_a_generation_built_elsewhere_is_taken_up(self, pair: Pair, tmp_path: Path) -> None:
        galleries, peer = pair
        gallery = galleries.get("people")
        enroll(gallery, 0, 50)
        assert peer.tell("build", "people") == [1, 1]
        # The journal is trimmed, and this process was behind or not: it answers either way.
        assert top(gallery, 7) == ("p7", 1)
        enroll(gallery, 50, 1)
        peer.tell("build", "people")
        galleries.refresh()
        assert gallery._index._snapshot.generation_number == 2
        galleries.maintain()
        assert numbers(tmp_path, "index") == ["2"]
        assert top(gallery, 50) == ("p50", 2)

    def test_one_far_behind_a_trimmed_journal_opens_the_generation(self, pair: Pair) -> None:
        galleries, peer = pair
        gallery = galleries.get("people")
        peer.tell("enroll", "people", 0, 50)
        peer.tell("build", "people")
        assert top(gallery, 7) == ("p7", 1)
        assert gallery._index._snapshot.generation_number == 1

    def test_one_replaced_while_it_is_opened_is_not_taken_for_damaged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with together(tmp_path) as (galleries, (peer,)):
            peer.tell("create", "people")
            peer.tell("enroll", "people", 0, 50)
            peer.tell("build", "people")
            open_, asked = Generations.open, []

            def open_late(self: Generations, number: int) -> Generation:
                asked.append(number)
                if len(asked) == 1:
                    peer.tell("build", "people")
                return open_(self, number)

            monkeypatch.setattr(Generations, "open", open_late)
            with caplog.at_level(logging.ERROR):
                assert top(galleries.get("people"), 7)[0] == "p7"
            assert asked == [1, 2]
            assert not caplog.records

    def test_damaged_vectors_are_found_marked_withdrawn_and_built_anew(self, tmp_path: Path) -> None:
        with together(tmp_path) as (galleries, (peer,)):
            galleries.create("people", CONTRACT)
            gallery = galleries.get("people")
            enroll(gallery, 0, 50)
            gallery.build(report_nothing)
        file = folder(tmp_path) / "index" / "1" / VECTORS
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
        with together(tmp_path, 2, maintenance_s=0.1) as (galleries, peers):
            began = time.monotonic()
            assert [peer.tell("top", "people", 3)[0] for peer in peers] == ["p3", "p3"]
            gallery = galleries.get("people")
            wait_until(lambda: gallery.generation() == 2)
            wait_until(lambda: numbers(tmp_path, "index") == ["2"])
            assert time.monotonic() - began < 60
            for peer in peers:
                assert peer.tell("top", "people", 49) == ["p49", 1]

    def test_a_mark_is_enough_for_every_process_to_search_the_store(self, pair: Pair, tmp_path: Path) -> None:
        galleries, peer = pair
        gallery = galleries.get("people")
        enroll(gallery, 0, 50)
        gallery.build(report_nothing)
        peer.tell("refresh")
        (folder(tmp_path) / "index" / "1" / "damaged").touch()
        galleries.refresh()
        assert gallery._index._snapshot.generation is None
        assert top(gallery, 7) == ("p7", 1)
        peer.tell("maintain")
        assert peer.tell("generation", "people") == 2
        galleries.refresh()
        assert gallery._index._snapshot.generation_number == 2

    def test_only_one_process_verifies(self, pair: Pair) -> None:
        galleries, peer = pair
        gallery = galleries.get("people")
        enroll(gallery, 0, 50)
        gallery.build(report_nothing)
        peer.tell("refresh")
        peer.tell("maintain")
        generation = gallery._index._snapshot.generation
        assert generation is not None
        assert gallery._index._generations.verify(generation) is None
        peer.close()
        assert gallery._index._generations.verify(generation) is True


def test_a_gallery_that_grows_is_built_anew_at_a_tenth_of_its_size(tmp_path: Path) -> None:
    with closing(Galleries.open(tmp_path, settings(delta_rows_max=50))) as galleries:
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, 0, 1000)
        galleries.maintain()
        enroll(gallery, 1000, 100)
        galleries.maintain()
        assert gallery.generation() == 1
        enroll(gallery, 1100, 1)
        galleries.maintain()
        assert gallery.generation() == 2


def test_a_peer_says_what_it_was_refused(pair: Pair) -> None:
    _, peer = pair
    with pytest.raises(PeerError, match="GalleryNotFoundError"):
        peer.tell("top", "nobody", 0)
