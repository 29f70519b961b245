"""What the local implementation promises of its files: erasure, damage, crashes, galleries kept open."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from engine.errors import CorruptDataError, GalleryNotFoundError, NewerFormatError, UnavailableError
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.index.generation import FORMAT_VERSION, IDENTITY_NUMBERS, MANIFEST, TEMPLATE_IDS, VECTORS
from engine.index.settings import IndexSettings
from engine.live_index import LiveIndex, report_nothing
from engine.store import changes
from engine.store.environment import StoreSettings
from engine.store.gallery_store import GalleryStore
from engine.types import AnsweredBefore, EmbeddingContract, Enrollment, Receipt, Template, Vector
from tests.contract.naive import cosine, unit_vectors

CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=128)
FACES = unit_vectors(np.random.default_rng(6), 300, 128)
STORE = StoreSettings(map_size_bytes_max=1 << 28)


@contextmanager
def opened(data: Path, **limits: int) -> Iterator[Galleries]:
    settings = GalleriesSettings(
        store=STORE,
        index=IndexSettings(delta_rows_max=limits.get("delta_rows_max", 1000)),
        open_galleries_max=limits.get("open_galleries_max", 16),
        maintenance_s=0,
    )
    galleries = Galleries.open(data, settings)
    try:
        yield galleries
    finally:
        galleries.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with the gallery "people" of p0 to p9, without a generation."""
    with opened(tmp_path) as galleries:
        galleries.create("people", CONTRACT)
        galleries.get("people").enroll([Enrollment(f"p{row}", (Template(FACES[row]),)) for row in range(10)])
    return tmp_path


def folder(data: Path) -> Path:
    (only,) = (data / "galleries").iterdir()
    return only


def files_with(data: Path, vector: Vector) -> list[str]:
    files = [path for path in data.rglob("*") if path.is_file()]
    return [str(path.relative_to(data)) for path in files if vector.tobytes() in path.read_bytes()]


def top(gallery: Gallery, vector: Vector) -> tuple[str, float]:
    (answer,) = gallery.identify(vector[None], 1)
    return answer.candidates[0].identity_id, answer.candidates[0].similarity


def check_all(gallery: Gallery, *rows: int) -> None:
    for row in rows:
        assert top(gallery, FACES[row]) == (f"p{row}", cosine(FACES[row], FACES[row]))
    assert gallery.info().num_templates == len(rows)


class TestErasure:
    @pytest.mark.parametrize("num_builds", [0, 1, 2])
    @pytest.mark.parametrize("what", ["identity", "template"])
    def test_after_the_answer_no_file_holds_the_vector(self, data: Path, num_builds: int, what: str) -> None:
        with opened(data) as galleries:
            gallery = galleries.get("people")
            for _ in range(num_builds):
                gallery.build(report_nothing)
            assert files_with(data, FACES[3])
            if what == "identity":
                result, _ = gallery.remove_identities(["p3"], erase=True)
            else:
                result = gallery.remove_template("p3", 4, erase=True)
            assert result.is_erased
            assert files_with(data, FACES[3]) == []
            check_all(gallery, 0, 1, 2, 4, 5, 6, 7, 8, 9)
        assert files_with(data, FACES[3]) == []
        with opened(data) as galleries:
            check_all(galleries.get("people"), 0, 1, 2, 4, 5, 6, 7, 8, 9)

    def test_a_vector_replaced_or_evicted_goes_with_the_next_erasure(self, data: Path) -> None:
        with opened(data) as galleries:
            gallery = galleries.get("people")
            gallery.enroll([Enrollment("p3", (Template(FACES[50]),), replace=True)])
            assert files_with(data, FACES[3])
            gallery.remove_identities(["p4"], erase=True)
            assert files_with(data, FACES[3]) == []

    def test_the_same_vector_of_another_identity_is_kept(self, data: Path) -> None:
        with opened(data) as galleries:
            gallery = galleries.get("people")
            gallery.enroll([Enrollment("twin", (Template(FACES[3]),))])
            gallery.build(report_nothing)
            gallery.remove_identities(["p3"], erase=True)
            assert top(gallery, FACES[3])[0] == "twin"
            assert files_with(data, FACES[3])

    @pytest.mark.parametrize("is_built", [False, True])
    def test_a_crash_between_removal_and_erasure_is_made_good_by_housekeeping(
        self, data: Path, is_built: bool
    ) -> None:
        if is_built:
            with opened(data) as galleries:
                galleries.get("people").build(report_nothing)
        store = GalleryStore(folder(data), STORE)
        store.write(lambda writer: changes.remove_identities(writer, ["p3"], 1, erase=True))
        store.close()
        assert files_with(data, FACES[3])
        with opened(data) as galleries:
            galleries.get("people")
            galleries.maintain()
            assert files_with(data, FACES[3]) == []
            check_all(galleries.get("people"), 0, 1, 2, 4, 5, 6, 7, 8, 9)

    def test_a_repeated_request_is_answered_after_the_erasure(self, data: Path) -> None:
        receipt = Receipt(b"k" * 32, b"b" * 32, lambda _: b"erased")
        store = GalleryStore(folder(data), STORE)
        store.write(lambda writer: changes.remove_identities(writer, ["p3"], 1, erase=True), receipt=receipt)
        store.close()
        with opened(data) as galleries:
            with pytest.raises(AnsweredBefore):
                galleries.get("people").remove_identities(["p3"], erase=True, receipt=receipt)
            assert files_with(data, FACES[3]) == []
            assert galleries.get("people").find_receipt(receipt) == b"erased"

    def test_a_build_under_way_when_the_vector_is_removed_does_not_bring_it_back(self, data: Path) -> None:
        """The first generation, written from the time before the removal, must not outlive the answer."""
        is_reading, may_go_on = threading.Event(), threading.Event()

        def wait(_done: int, _total: int) -> None:
            is_reading.set()
            assert may_go_on.wait(60)

        with opened(data) as galleries, ThreadPoolExecutor(2) as pool:
            gallery = galleries.get("people")
            building = pool.submit(gallery.build, wait)
            assert is_reading.wait(60)
            erasing = pool.submit(gallery.remove_identities, ["p3"], erase=True)
            while gallery.info().num_identities == 10:
                pass
            may_go_on.set()
            erasing.result()
            assert files_with(data, FACES[3]) == []
            building.result()
            assert files_with(data, FACES[3]) == []

    def test_an_erasure_does_not_take_a_later_one_for_done(self, data: Path) -> None:
        """Removed after the first one's generation was built, the second vector is still in that."""
        store = GalleryStore(folder(data), STORE)
        index = LiveIndex(store, CONTRACT, IndexSettings())
        index.build(report_nothing)
        store.write(lambda writer: changes.remove_identities(writer, ["p3"], 1, erase=True))
        index.forget(2)
        store.write(lambda writer: changes.remove_identities(writer, ["p4"], 1, erase=True))
        store.erase([FACES[3]])
        assert files_with(data, FACES[3]) == []
        assert files_with(data, FACES[4])
        index.close()
        store.close()
        with opened(data) as galleries:
            galleries.get("people").erase()
        assert files_with(data, FACES[4]) == []

    def test_many_erasures_at_once_each_keep_their_promise(self, data: Path) -> None:
        with opened(data) as galleries, ThreadPoolExecutor(8) as pool:
            gallery = galleries.get("people")
            gallery.build(report_nothing)

            def erase(row: int) -> list[str]:
                gallery.remove_identities([f"p{row}"], erase=True)
                return files_with(folder(data) / "index", FACES[row])

            assert list(pool.map(erase, range(8))) == [[]] * 8
            assert [files_with(data, FACES[row]) for row in range(8)] == [[]] * 8
            check_all(gallery, 8, 9)


class TestGenerations:
    @pytest.fixture
    def built(self, data: Path) -> Path:
        """With a generation of p0 to p9, p9 removed since, and p10 in the delta."""
        with opened(data) as galleries:
            gallery = galleries.get("people")
            gallery.build(report_nothing)
            gallery.remove_identities(["p9"])
            gallery.enroll([Enrollment("p10", (Template(FACES[10]),))])
        return data

    @pytest.mark.parametrize("name", [MANIFEST, VECTORS, TEMPLATE_IDS, IDENTITY_NUMBERS])
    @pytest.mark.parametrize("how", ["missing", "flipped"])
    def test_a_damaged_generation_is_withdrawn_and_built_anew(
        self, built: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = folder(built) / "index" / "1" / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.unlink() if how == "missing" else file.write_bytes(content)
        with opened(built) as galleries, caplog.at_level(logging.ERROR):
            gallery = galleries.get("people")
            if (name, how) == (VECTORS, "flipped"):
                # The one file that is not read before it serves, but by housekeeping.
                galleries.maintain()
            check_all(gallery, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10)
            assert "generation withdrawn" in caplog.text
            gallery.enroll([Enrollment("p11", (Template(FACES[11]),))])
            check_all(gallery, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11)
            galleries.maintain()
            assert gallery.generation() == 2
            check_all(gallery, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11)
            caplog.clear()
            galleries.maintain()
            assert gallery.generation() == 2
        with opened(built) as galleries:
            check_all(galleries.get("people"), 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11)
        assert "withdrawn" not in caplog.text

    def test_a_gallery_without_any_index_folder_answers_from_the_store(self, built: Path) -> None:
        shutil.rmtree(folder(built) / "index")
        with opened(built) as galleries:
            check_all(galleries.get("people"), 0, 1, 2, 3, 4, 5, 6, 7, 8, 10)

    def test_what_an_interrupted_build_left_is_removed_when_opened(self, built: Path) -> None:
        index = folder(built) / "index"
        shutil.copytree(index / "1", index / "2")
        (index / "3.building").mkdir()
        (index / "3.building" / VECTORS).write_bytes(b"half")
        with opened(built) as galleries:
            gallery = galleries.get("people")
            assert [path.name for path in index.iterdir()] == ["1"]
            check_all(gallery, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10)
            gallery.build(report_nothing)
            assert [path.name for path in index.iterdir()] == ["2"]

    def test_a_build_that_is_given_up_leaves_the_old_generation(self, built: Path) -> None:
        def give_up(_done: int, _total: int) -> None:
            raise KeyboardInterrupt

        with opened(built) as galleries:
            gallery = galleries.get("people")
            with pytest.raises(KeyboardInterrupt):
                gallery.build(give_up)
            assert gallery.generation() == 1
            assert [path.name for path in (folder(built) / "index").iterdir()] == ["1"]
            check_all(gallery, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10)
            assert gallery.build(report_nothing)[0] == 3

    def test_it_is_built_when_the_delta_is_large_or_much_is_dead(self, built: Path) -> None:
        with opened(built, delta_rows_max=5) as galleries:
            gallery = galleries.get("people")
            gallery.maintain()
            assert gallery.generation() == 1
            gallery.enroll([Enrollment(f"p{row}", (Template(FACES[row]),)) for row in range(11, 17)])
            gallery.maintain()
            assert gallery.generation() == 2
            gallery.remove_identities(["p1", "p2"])
            gallery.maintain()
            assert gallery.generation() == 3
            check_all(gallery, 0, 3, 4, 5, 6, 7, 8, *range(10, 17))


class TestOpenGalleries:
    def test_the_least_recently_used_are_closed_while_others_use_them(self, tmp_path: Path) -> None:
        """A call may be told to come again; nothing else may go wrong, and nothing answered is lost."""
        names = [f"g{number}" for number in range(6)]
        with opened(tmp_path, open_galleries_max=2) as galleries:
            for name in names:
                galleries.create(name, CONTRACT)

            def work(thread: int) -> int:
                rng = np.random.default_rng(thread)
                num_done = 0
                for step in range(60):
                    gallery_id = names[rng.integers(len(names))]
                    vector = FACES[rng.integers(len(FACES))]
                    identity_id = f"{thread}-{step}"
                    try:
                        gallery = galleries.get(gallery_id)
                        gallery.enroll([Enrollment(identity_id, (Template(vector),))])
                        num_done += 1
                        assert identity_id in [
                            one.identity_id for one in gallery.identify(vector[None], 100)[0].candidates
                        ]
                        galleries.maintain()
                    except UnavailableError:
                        continue
                return num_done

            with ThreadPoolExecutor(8) as pool:
                num_done = sum(pool.map(work, range(8)))
            assert num_done > 100
            assert sum(info.num_identities for info in galleries.infos()) == num_done

    def test_galleries_deleted_and_made_again_meanwhile_are_found_or_not_found(self, tmp_path: Path) -> None:
        with opened(tmp_path, open_galleries_max=2) as galleries:
            stop = threading.Event()

            def use(_: int) -> None:
                while not stop.is_set():
                    try:
                        galleries.get("people").enroll([Enrollment("x", (Template(FACES[0]),))])
                    except (GalleryNotFoundError, UnavailableError):
                        continue

            with ThreadPoolExecutor(4) as pool:
                using = pool.map(use, range(4))
                for _ in range(25):
                    galleries.create("people", CONTRACT)
                    galleries.delete("people")
                stop.set()
                list(using)
            assert galleries.infos() == []
            assert list((tmp_path / "galleries").iterdir()) == []

    def test_one_damaged_gallery_does_not_keep_the_others_from_being_served(
        self, data: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (folder(data) / "store" / "1" / "data.mdb").unlink()
        with opened(data) as galleries:
            galleries.create("others", CONTRACT)
            galleries.warm_up()
            assert "people cannot be opened" in caplog.text
            for _ in range(2):
                with pytest.raises(CorruptDataError):
                    galleries.get("people")
            assert galleries.get("others").info().num_identities == 0

    def test_a_gallery_that_could_not_be_opened_can_be_once_it_is_repaired(self, data: Path) -> None:
        with opened(data) as galleries:
            galleries.get("people").build(report_nothing)
        manifest = folder(data) / "index" / "1" / MANIFEST
        whole = manifest.read_bytes()
        newer = FORMAT_VERSION + 1
        manifest.write_bytes(whole.replace(b'"format": %d' % FORMAT_VERSION, b'"format": %d' % newer))
        with opened(data) as galleries:
            for _ in range(2):
                with pytest.raises(NewerFormatError, match=f"format {newer}"):
                    galleries.get("people")
            manifest.write_bytes(whole)
            check_all(galleries.get("people"), *range(10))

    def test_after_closing_everything_is_unavailable(self, data: Path) -> None:
        with opened(data) as galleries:
            gallery = galleries.get("people")
        with pytest.raises(UnavailableError):
            galleries.get("people")
        with pytest.raises(UnavailableError):
            gallery.identify(FACES[:1])
        with pytest.raises(UnavailableError):
            gallery.enroll([Enrollment("x")])
        galleries.maintain()


def test_housekeeping_runs_by_itself(tmp_path: Path) -> None:
    settings = GalleriesSettings(store=STORE, index=IndexSettings(delta_rows_max=0), maintenance_s=0.001)
    galleries = Galleries.open(tmp_path, settings)
    try:
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        gallery.enroll([Enrollment("x", (Template(FACES[0]),))])
        for _ in range(10_000):
            if gallery.generation():
                break
            threading.Event().wait(0.001)
        assert gallery.generation() > 0
    finally:
        galleries.close()
