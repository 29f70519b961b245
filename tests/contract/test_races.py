"""What happens at the worst moment: files gone, marks not made, galleries closed or deleted in the middle."""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from engine.builder import Arguments, build_here
from engine.errors import DataFolderError, UnavailableError
from engine.galleries import Galleries
from engine.generations import DAMAGED, Generations
from engine.index.generation import VECTORS
from engine.index.search import Snapshot
from engine.live_index import LiveIndex, report_nothing
from engine.store import folders
from engine.store.tables import Writer
from engine.types import Consistency
from tests.contract.peer import (
    CONTRACT,
    FACES,
    Peer,
    enroll,
    files_with,
    opened_by,
    settings,
    together,
    top,
    wait_until,
)


def folder(data: Path) -> Path:
    (only,) = (data / "galleries").iterdir()
    return only


def test_a_folder_opened_twice_in_one_process_is_refused_and_stays_open(tmp_path: Path) -> None:
    lock_fd = folders.lock_folder(tmp_path)
    with closing(Galleries.open(tmp_path, settings(), lock_fd=lock_fd)) as galleries:
        with pytest.raises(DataFolderError, match="already open in this process"):
            Galleries.open(tmp_path, settings(), lock_fd=lock_fd)
        galleries.create("people", CONTRACT)
        assert enroll(galleries.get("people"), 0, 1) == 1
        with pytest.raises(DataFolderError, match="in use"):
            Galleries.open(tmp_path, settings())
    os.close(lock_fd)


def test_a_search_while_the_gallery_closes_is_refused_and_not_answered_by_nothing(tmp_path: Path) -> None:
    with closing(Galleries.open(tmp_path, settings())) as galleries:
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, 0, 10)
        gallery.build(report_nothing)
        gallery._index.close()
        for consistency in Consistency:
            with pytest.raises(UnavailableError, match="closing"):
                top(gallery, 3, consistency)


def test_a_journal_trimmed_behind_a_generation_just_opened_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with together(tmp_path) as (galleries, (peer,)):
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        peer.tell("enroll", "people", 0, 20)
        peer.tell("build", "people")
        opened, numbers = LiveIndex._opened, []

        def opened_early(self: LiveIndex) -> Snapshot:
            snapshot = opened(self)
            numbers.append(snapshot.generation_number)
            if len(numbers) == 1:
                peer.tell("enroll", "people", 20, 1)
                peer.tell("build", "people")
            return snapshot

        monkeypatch.setattr(LiveIndex, "_opened", opened_early)
        galleries.refresh()
        assert numbers == [1, 2]
        assert top(gallery, 20) == ("p20", 2)


def test_damage_that_cannot_be_marked_is_withdrawn_all_the_same(tmp_path: Path) -> None:
    with closing(Galleries.open(tmp_path, settings())) as galleries:
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, 0, 20)
        gallery.build(report_nothing)
        generation = folder(tmp_path) / "index" / "1"
        # As on a full disk: the mark cannot be made.
        (generation / DAMAGED).symlink_to(tmp_path / "nowhere" / "mark")
        with (generation / VECTORS).open("r+b") as file:
            file.seek(-3, os.SEEK_END)
            file.write(b"\xff")
        gallery._index.verify()
        assert gallery._index._snapshot.generation is None
        assert top(gallery, 7) == ("p7", 1)
        galleries.maintain()
        assert gallery._index._snapshot.generation_number == 2
        assert top(gallery, 7) == ("p7", 1)


def test_closing_does_not_wait_for_an_erasure_that_waits_for_another_build(tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        closing(Galleries.open(tmp_path, settings(maintenance_s=0.02))) as galleries,
    ):
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, 0, 10)
        index = folder(tmp_path) / "index"
        with Generations(index, CONTRACT.digest).building():
            gallery._store.write(_promise_erasure)
            # Once here, and once in the waiting thread.
            wait_until(lambda: opened_by(os.getpid()).count(str(index)) == 2)
            pool.submit(galleries.close).result(60)


def _promise_erasure(writer: Writer) -> None:
    state = writer.state()
    state.erase_sequence = state.sequence
    writer.put_state(state)


def test_a_build_in_a_gallery_that_is_deleted_leaves_nothing(tmp_path: Path) -> None:
    with closing(Galleries.open(tmp_path, settings())) as galleries:
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, 0, 10)
        gone = folder(tmp_path)
        told = Arguments(1, 100, 1, gallery._store.settings)
        with pytest.raises(DataFolderError):
            build_here(gallery._store, told, lambda _done, _total: folders.unlink(gone))
        assert not gone.exists()


def test_builds_and_erasures_leave_no_descriptors_and_no_mappings(tmp_path: Path) -> None:
    with closing(Galleries.open(tmp_path, settings())) as galleries:
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, 0, 60)
        opened = []
        for row in range(24):
            gallery.remove_identities([f"p{row}"], erase=True)
            gallery.build(report_nothing)
            galleries.maintain()
            assert top(gallery, 59)[0] == "p59"
            gc.collect()
            names = opened_by(os.getpid())
            opened.append(Counter(name.split("/")[-1] for name in names if str(tmp_path) in name))
        assert opened[-1].total() <= opened[2].total()
        assert not [name for name in opened_by(os.getpid()) if str(tmp_path) in name and "(deleted)" in name]


class Schedule:
    """Three processes that do things to one gallery at once, and a model of what must be found."""

    NUM_ROWS = 60

    def __init__(self, galleries: Galleries, peers: list[Peer], seed: int):
        self.galleries = galleries
        self.peers = peers
        self.random = random.Random(seed)
        self.present: set[int] = set()
        self.num_writes = 0

    def step(self, data: Path) -> None:
        """Each peer writes rows of its own, while this process searches for a row that nobody writes."""
        rows = self.random.sample(range(self.NUM_ROWS), len(self.peers) + 1)
        *written, quiet = rows
        deeds = [self.random.choice(["enroll", "enroll", "enroll", "erase", "build"]) for _ in written]
        for peer, row, deed in zip(self.peers, written, deeds, strict=True):
            arguments = {"enroll": (row, 1), "erase": (row,), "build": ()}[deed]
            peer.begin(deed, "people", *arguments)
        for _ in range(10):
            self.check_here(quiet)
        answers = [peer.answer() for peer in self.peers]
        for row, deed, answer in zip(written, deeds, answers, strict=True):
            if deed == "enroll":
                self.num_writes = max(self.num_writes, answer)
                self.present.add(row)
            elif deed == "erase":
                assert answer is True
                self.present.discard(row)
                assert files_with(data, row) == []
        for row in rows:
            self.check_here(row)
            for peer in self.peers:
                self.check(row, *peer.tell("top", "people", row))

    def check_here(self, row: int) -> None:
        self.check(row, *top(self.galleries.get("people"), row))

    def check(self, row: int, found: str, sequence: int) -> None:
        assert (found == f"p{row}") == (row in self.present)
        assert sequence >= self.num_writes

    def make_anew(self) -> None:
        """Delete the gallery in one process and make it in another."""
        self.random.choice(self.peers).tell("delete", "people")
        self.random.choice(self.peers).tell("create", "people")
        self.present.clear()
        self.num_writes = 0


@pytest.mark.parametrize("seed", [1, 2])
def test_what_three_processes_do_at_once_is_found_as_answered(tmp_path: Path, seed: int) -> None:
    assert len(FACES) > Schedule.NUM_ROWS
    fields = {"maintenance_s": 0.05, "delta_rows_max": 5, "journal_rows_max": 20}
    with together(tmp_path, 2, **fields) as (galleries, peers):
        galleries.create("people", CONTRACT)
        schedule = Schedule(galleries, peers, seed)
        for number in range(24):
            schedule.step(tmp_path)
            if number % 8 == 7:
                schedule.make_anew()
        assert len(list((tmp_path / "galleries").iterdir())) == 1
