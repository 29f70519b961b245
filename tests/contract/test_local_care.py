"""How local galleries are looked after: erasing late, commits in doubt, housekeeping that fails, limits."""

from __future__ import annotations

import resource
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engine.errors import DeadlineError, StorageFullError
from engine.galleries import Galleries, GalleriesSettings
from engine.index.settings import IndexSettings
from engine.live_index import report_nothing
from engine.store.gallery_store import GalleryStore
from engine.types import Enrollment, EnrollResult, Template
from tests.contract.naive import unit_vectors
from tests.contract.test_local_files import CONTRACT, FACES, STORE, files_with, folder, opened, top


def filled(data: Path) -> Path:
    with opened(data) as galleries:
        galleries.create("people", CONTRACT)
        galleries.get("people").enroll([Enrollment(f"p{row}", (Template(FACES[row]),)) for row in range(10)])
    return data


class TestErasingLate:
    def test_who_was_removed_without_erasing_can_still_be_erased(self, tmp_path: Path) -> None:
        with opened(filled(tmp_path)) as galleries:
            gallery = galleries.get("people")
            gallery.build(report_nothing)
            gallery.remove_identities(["p3"], must_exist=True)
            assert files_with(tmp_path, FACES[3])
            result, missing = gallery.remove_identities(["p3"], must_exist=True, erase=True)
            assert (result.num_identities, missing, result.is_erased) == (0, ["p3"], True)
            assert files_with(tmp_path, FACES[3]) == []

    def test_who_has_expired_is_erased_before_housekeeping_comes_by(self, tmp_path: Path) -> None:
        with opened(filled(tmp_path)) as galleries:
            gallery = galleries.get("people")
            gallery.enroll([Enrollment("p3", expire_time=time.time() - 1)])
            result, missing = gallery.remove_identities(["p3"], erase=True)
            assert (result.num_identities, result.num_templates, missing) == (1, 1, [])
            assert files_with(tmp_path, FACES[3]) == []

    def test_an_empty_gallery_has_nothing_to_erase(self, tmp_path: Path) -> None:
        with opened(tmp_path) as galleries:
            galleries.create("empty", CONTRACT)
            result, missing = galleries.get("empty").remove_identities(["nobody"], erase=True)
            assert (result.sequence, missing) == (0, ["nobody"])


class FailsAfterTheCommit:
    """Stands for a disk that reports an error although the commit reached it."""

    def __init__(self, store: GalleryStore):
        self._store = store
        self._lock = threading.Lock()
        self.is_armed = True

    def __enter__(self) -> None:
        # With a successor set, the only use of this lock is right behind the commit that names it.
        if self.is_armed and self._store._successor is not None:
            self.is_armed = False
            raise StorageFullError("the disk says no, but has written")
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_an_erasure_whose_commit_is_in_doubt_loses_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    with opened(tmp_path) as galleries:
        gallery = galleries.get("people")
        store = gallery._store
        store._swap = FailsAfterTheCommit(store)  # type: ignore[assignment]
        with pytest.raises(StorageFullError):
            gallery.remove_identities(["p3"], erase=True)
        assert [path.name for path in (folder(tmp_path) / "store").iterdir()] == ["2"]
        gallery.enroll([Enrollment("p20", (Template(FACES[20]),))])
        assert top(gallery, FACES[20])[0] == "p20"
    with opened(tmp_path) as galleries:
        gallery = galleries.get("people")
        galleries.maintain()
        assert gallery.info().num_identities == 10
        assert top(gallery, FACES[20])[0] == "p20"
        assert files_with(tmp_path, FACES[3]) == []


class TestTwins:
    def test_one_picture_embedded_in_two_batches_is_one_template(self, tmp_path: Path) -> None:
        with opened(filled(tmp_path)) as galleries:
            again = FACES[3] + np.float32(1e-7)
            (outcome,) = galleries.get("people").enroll([Enrollment("p3", (Template(again),))])
            assert isinstance(outcome, EnrollResult)
            assert (outcome.num_added, outcome.num_ignored, outcome.template_ids) == (0, 1, (4,))

    def test_what_differs_by_more_is_another_template(self, tmp_path: Path) -> None:
        with opened(filled(tmp_path)) as galleries:
            other = FACES[3].copy()
            other[0] += 1e-5
            (outcome,) = galleries.get("people").enroll([Enrollment("p3", (Template(other),))])
            assert isinstance(outcome, EnrollResult)
            assert outcome.num_added == 1


class TestHousekeeping:
    def test_what_failed_is_not_tried_again_at_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with opened(filled(tmp_path), delta_rows_max=5) as galleries:
            galleries.get("people")
            index = folder(tmp_path) / "index"
            index.rmdir()
            index.write_text("in the way of every build")
            for _ in range(5):
                galleries.maintain()
            assert caplog.text.count("maintenance of gallery people, again in 1 s") == 1

    def test_a_long_journal_is_reason_enough_for_a_build(self, tmp_path: Path) -> None:
        settings = GalleriesSettings(store=STORE, index=IndexSettings(journal_rows_max=10), maintenance_s=0)
        filled(tmp_path)
        galleries = Galleries.open(tmp_path, settings)
        gallery = galleries.get("people")
        for number in range(12):
            gallery.enroll([Enrollment("p1", attributes={"number": str(number)})])
        galleries.maintain()
        assert gallery.generation() == 1
        galleries.close()

    def test_galleries_that_are_closed_get_their_turn(self, tmp_path: Path) -> None:
        with opened(tmp_path) as galleries:
            for name in ("one", "two", "three"):
                galleries.create(name, CONTRACT)
                galleries.get(name).enroll(
                    [Enrollment("a", (Template(FACES[0]),), expire_time=time.time() - 1)]
                )
        settings = GalleriesSettings(store=STORE, open_galleries_max=1, maintenance_s=0.01)
        galleries = Galleries.open(tmp_path, settings)
        galleries.get("one")
        give_up = time.monotonic() + 30
        while sum(info.num_identities for info in galleries.infos()) and time.monotonic() < give_up:
            threading.Event().wait(0.02)
        assert [info.num_identities for info in galleries.infos()] == [0, 0, 0]
        galleries.close()


def test_a_damaged_gallery_is_left_out_of_the_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    (folder(tmp_path) / "store" / "1" / "data.mdb").unlink()
    with opened(tmp_path) as galleries:
        galleries.create("others", CONTRACT)
        assert [info.gallery_id for info in galleries.infos()] == ["others"]
        assert "people cannot be listed" in caplog.text


def test_listing_does_not_open_what_is_closed(tmp_path: Path) -> None:
    with opened(tmp_path, open_galleries_max=1) as galleries:
        for name in ("one", "two"):
            galleries.create(name, CONTRACT)
        held = galleries.get("two")
        assert [info.gallery_id for info in galleries.infos()] == ["one", "two"]
        assert galleries.get("two") is held


def test_no_more_galleries_are_open_than_the_system_lets_files_be(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
        with opened(tmp_path, open_galleries_max=100_000):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_probes_are_searched_block_by_block_and_stop_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(filled(tmp_path)) as galleries:
        gallery = galleries.get("people")
        probes = unit_vectors(np.random.default_rng(1), 50, 128)
        at_once = gallery.identify(probes, 3)
        monkeypatch.setattr("engine.candidates.BLOCK_SIMILARITIES_MAX", 1000)
        assert [answer.candidates for answer in gallery.identify(probes, 3)] == [
            answer.candidates for answer in at_once
        ]
        with pytest.raises(DeadlineError):
            gallery.identify(probes, 3, deadline=time.monotonic() - 1)
