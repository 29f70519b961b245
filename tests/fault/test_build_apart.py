"""Builds in a process of their own: killed, orphaned, cancelled, out of disk, asked for twice at once."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine import builder
from engine.errors import StorageFullError, UnavailableError
from engine.galleries import Galleries
from engine.gallery import Gallery
from engine.generations import Generations
from engine.live_index import report_nothing
from tests.contract.peer import (
    CONTRACT,
    Peer,
    PeerError,
    children_of,
    enroll,
    is_alive,
    opened_by,
    settings,
    together,
    top,
    wait_until,
)

pytestmark = pytest.mark.fault
NUM_ROWS = 1000


@contextlib.contextmanager
def opened(data: Path) -> Iterator[Galleries]:
    with contextlib.closing(Galleries.open(data, settings(build_inline_rows_max=0))) as galleries:
        yield galleries


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """With a generation of p0 to p999, and p1000 in the delta; builds run in processes of their own."""
    with opened(tmp_path) as galleries:
        galleries.create("people", CONTRACT)
        made = galleries.get("people")
        enroll(made, 0, NUM_ROWS)
        assert made.build(report_nothing) == (1, 1)
        enroll(made, NUM_ROWS, 1)
        yield made


def folder(data: Path) -> Path:
    (only,) = (data / "galleries").iterdir()
    return only


def generations(data: Path) -> list[str]:
    return sorted(path.name for path in (folder(data) / "index").iterdir())


def check(gallery: Gallery) -> None:
    for row in (0, NUM_ROWS // 2, NUM_ROWS - 1, NUM_ROWS):
        assert top(gallery, row) == (f"p{row}", 2)


def test_it_reports_progress_and_takes_the_delta_along(gallery: Gallery, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    assert gallery.build(lambda done, total: reports.append((done, total))) == (2, 2)
    assert reports[-1] == (NUM_ROWS + 1, NUM_ROWS + 1)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    snapshot = gallery._index._snapshot
    assert (snapshot.generation_number, snapshot.delta.num_rows) == (2, 0)
    assert children_of(os.getpid()) == []
    check(gallery)


def test_a_killed_builder_is_an_error_that_can_be_tried_again(gallery: Gallery, tmp_path: Path) -> None:
    def kill(_done: int, _total: int) -> None:
        for child in children_of(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    left = folder(tmp_path) / "index" / "2.building"
    left.mkdir()
    with pytest.raises(UnavailableError, match=r"ended before it was done \(exit -9\)") as caught:
        gallery.build(kill)
    assert caught.value.retry_after_s
    assert generations(tmp_path) == ["1"]
    check(gallery)
    assert gallery.build(report_nothing) == (3, 2)
    assert generations(tmp_path) == ["3"]
    check(gallery)


def test_a_builder_that_hangs_is_killed(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_done: int, _total: int) -> None:
        for child in children_of(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGSTOP)

    with monkeypatch.context() as patched:
        patched.setattr(builder, "SILENT_S_MAX", 0.3)
        with pytest.raises(UnavailableError, match="said nothing"):
            gallery.build(stop)
    assert children_of(os.getpid()) == []
    assert generations(tmp_path) == ["1"]
    check(gallery)
    gallery.build(report_nothing)
    check(gallery)


def test_a_gallery_deleted_while_its_builder_runs_stays_deleted(tmp_path: Path) -> None:
    with together(tmp_path, build_inline_rows_max=0) as (galleries, (peer,)):
        galleries.create("people", CONTRACT)
        enroll(galleries.get("people"), 0, NUM_ROWS)
        running = started(tmp_path, peer)
        os.kill(running, signal.SIGSTOP)
        galleries.delete("people")
        os.kill(running, signal.SIGCONT)
        with pytest.raises(PeerError, match="GalleryNotFoundError"):
            peer.answer()
        assert list((tmp_path / "galleries").iterdir()) == []


def test_a_cancelled_build_ends_its_process(gallery: Gallery, tmp_path: Path) -> None:
    def give_up(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gallery.build(give_up)
    assert children_of(os.getpid()) == []
    assert generations(tmp_path) == ["1"]
    check(gallery)


def test_closing_ends_a_build_under_way(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, opened(tmp_path) as galleries:
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, 0, NUM_ROWS)
        building = pool.submit(gallery.build, report_nothing)
        wait_until(lambda: children_of(os.getpid()))
        galleries.close()
        with pytest.raises(UnavailableError, match="closing"):
            building.result()
        assert children_of(os.getpid()) == []


def test_a_full_disk_in_the_builder_is_storage_full_here(gallery: Gallery, tmp_path: Path) -> None:
    """Its files may not grow beyond a few pages: the store's need not, the index's vectors must."""

    def fill(_done: int, _total: int) -> None:
        for child in children_of(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(child, resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    (data_file,) = folder(tmp_path).rglob("store/*/data.mdb")
    assert data_file.stat().st_size > 1 << 16
    with pytest.raises(StorageFullError):
        gallery.build(fill)
    assert generations(tmp_path) == ["1"]
    check(gallery)
    gallery.build(report_nothing)
    check(gallery)


def started(tmp_path: Path, peer: Peer) -> int:
    """Let a peer begin to build; returns its builder's process id."""
    peer.begin("build", "people")
    wait_until(lambda: children_of(peer.process.pid))
    return children_of(peer.process.pid)[0]


def test_a_builder_ends_with_its_parent(tmp_path: Path) -> None:
    with together(tmp_path, build_inline_rows_max=0) as (galleries, (peer,)):
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, 0, NUM_ROWS)
        running = started(tmp_path, peer)
        peer.process.kill()
        peer.process.wait()
        wait_until(lambda: not is_alive(running))
        assert gallery.generation() in (0, 1)
        # The lock ended with both of them.
        number, sequence = gallery.build(report_nothing)
        assert (gallery.generation(), sequence) == (number, 1)
        assert generations(tmp_path) == [str(number)]


def test_two_processes_asked_at_once_build_once(tmp_path: Path) -> None:
    with together(tmp_path, 2, build_inline_rows_max=0) as (galleries, peers):
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, 0, NUM_ROWS)
        index = folder(tmp_path) / "index"
        with Generations(index, CONTRACT.digest).building():
            for peer in peers:
                peer.tell("generation", "people")
                peer.begin("build", "people")
                wait_until(lambda peer=peer: str(index) in opened_by(peer.process.pid))  # type: ignore[misc]
        assert [peer.answer() for peer in peers] == [[1, 1], [1, 1]]
        assert generations(tmp_path) == ["1"]


def test_who_waits_for_a_build_can_give_up(gallery: Gallery, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []

    def give_up(done: int, total: int) -> None:
        reports.append((done, total))
        if len(reports) == 3:
            raise KeyboardInterrupt

    with Generations(folder(tmp_path) / "index", CONTRACT.digest).building():
        with pytest.raises(KeyboardInterrupt):
            gallery.build(give_up)
        assert reports == [(0, NUM_ROWS + 1)] * 3
        # Housekeeping does not wait.
        gallery._index._withdrawn = 1
        gallery._index.build_if_due(report_nothing)
        assert gallery.generation() == 1
    gallery._index.build_if_due(report_nothing)
    assert gallery.generation() == 2
