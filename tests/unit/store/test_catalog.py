"""The catalogue: names, aliases, deletion, leftovers, the lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from engine.errors import (
    AlreadyExistsError,
    CorruptDataError,
    DataFolderError,
    GalleryNotFoundError,
    NewerFormatError,
    PreconditionError,
    RequestIdReusedError,
)
from engine.store.catalog import Catalog
from engine.store.records import pack
from engine.types import AnsweredBefore, GallerySettings, Receipt
from tests.contract.clock import Clock
from tests.unit.store.conftest import CONTRACT, SETTINGS, flipped, raw_rows


@contextmanager
def opened(data: Path, clock: Clock | None = None) -> Iterator[Catalog]:
    with closing(Catalog(data, SETTINGS, clock=clock or Clock())) as catalog:
        yield catalog


def create(catalog: Catalog, gallery_id: str, receipt: Receipt | None = None) -> Path:
    return catalog.create(gallery_id, CONTRACT, GallerySettings(), receipt, lambda create_time: create_time)


def receipt(key: int, body: int) -> Receipt:
    return Receipt(bytes([key]) * 32, bytes([body]) * 32, lambda result: repr(result).encode())


def test_an_empty_data_folder_has_no_galleries(tmp_path: Path) -> None:
    with opened(tmp_path / "new" / "deep") as catalog:
        assert catalog.gallery_ids() == []
        assert catalog.aliases() == {}
        for name in ("nobody", "", "n" * 1000):
            with pytest.raises(GalleryNotFoundError):
                catalog.find(name)


def test_galleries_are_found_again_after_reopening_in_the_order_of_their_ids(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        folders = {name: create(catalog, name) for name in ("b", "a", "c")}
    with opened(tmp_path) as catalog:
        assert catalog.gallery_ids() == ["a", "b", "c"]
        assert {name: catalog.find(name) for name in folders} == {
            name: (name, folder) for name, folder in folders.items()
        }


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        create(catalog, "a")
        catalog.set_alias("alias", "a", None)
        with pytest.raises(AlreadyExistsError, match="exists"):
            create(catalog, "a")
        with pytest.raises(AlreadyExistsError, match="alias"):
            create(catalog, "alias")
        with pytest.raises(AlreadyExistsError, match="is a gallery"):
            catalog.set_alias("a", "a", None)
        assert len(list((tmp_path / "galleries").iterdir())) == 1


def test_an_alias_is_made_moved_and_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        create(catalog, "a")
        create(catalog, "b")
        assert catalog.set_alias("now", "a", None) == ""
        assert catalog.find("now")[0] == "a"
        assert catalog.set_alias("now", "b", None) == "a"
        assert catalog.find("now")[0] == "b"
        assert catalog.aliases() == {"now": "b"}
        with pytest.raises(GalleryNotFoundError):
            catalog.set_alias("other", "nobody", None)
        with pytest.raises(GalleryNotFoundError):
            catalog.set_alias("other", "now", None)
        catalog.delete_alias("now", None)
        with pytest.raises(GalleryNotFoundError):
            catalog.find("now")
        with pytest.raises(GalleryNotFoundError):
            catalog.delete_alias("now", None)


def test_a_gallery_that_an_alias_names_is_not_deleted(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        create(catalog, "a")
        catalog.set_alias("now", "a", None)
        with pytest.raises(PreconditionError, match="'now'"):
            catalog.begin_delete("a", None)
        with pytest.raises(GalleryNotFoundError) as caught:
            catalog.begin_delete("now", None)
        assert "alias" in caught.value.hint
        assert catalog.find("a")[0] == "a"


def test_a_deleted_gallery_can_be_made_again_in_another_folder(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        old = create(catalog, "a")
        assert catalog.begin_delete("a", None) == old
        with pytest.raises(GalleryNotFoundError):
            catalog.find("a")
        new = create(catalog, "a")
        catalog.finish_delete(old)
        assert new != old
        assert not old.exists()
        assert catalog.find("a") == ("a", new)


def test_what_a_crash_left_is_removed_when_opened(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        kept, deleted = create(catalog, "kept"), create(catalog, "deleted")
        catalog.begin_delete("deleted", None)
    orphan = tmp_path / "galleries" / "0123"
    (orphan / "store" / "1").mkdir(parents=True)
    stray = tmp_path / "galleries" / "notes.txt"
    stray.write_text("an operator's file")
    with opened(tmp_path) as catalog:
        assert catalog.gallery_ids() == ["kept"]
        assert sorted((tmp_path / "galleries").iterdir()) == sorted([kept, stray])
        assert not deleted.exists()
        assert not orphan.exists()


def test_galleries_without_a_catalogue_are_not_taken_for_leftovers(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        folder = create(catalog, "a")
    for file in (tmp_path / "catalog").iterdir():
        file.unlink()
    for _ in range(2):
        with pytest.raises(CorruptDataError, match="names none"):
            Catalog(tmp_path, SETTINGS)
    assert (folder / "store" / "1" / "data.mdb").is_file()


def test_a_damaged_row_is_corrupt_data_and_nothing_is_removed(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        folder = create(catalog, "a")
    with raw_rows(tmp_path / "catalog", "galleries") as rows:
        rows.put(b"a", flipped(rows.get(b"a")))
    with pytest.raises(CorruptDataError):
        Catalog(tmp_path, SETTINGS)
    assert folder.is_dir()


def test_a_newer_format_is_refused_again_and_again(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with raw_rows(tmp_path / "catalog", "meta") as rows:
        rows.put(b"format", pack("2"))
    for _ in range(2):
        with pytest.raises(NewerFormatError, match="format 2"):
            Catalog(tmp_path, SETTINGS)


def test_a_repeated_write_gets_its_first_answer_for_a_day(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as catalog:
        assert catalog.find_receipt(receipt(1, 1)) is None
        create(catalog, "a", receipt(1, 1))
        first = repr(clock.now).encode()
        clock.now += 24 * 3600
        assert catalog.find_receipt(receipt(1, 1)) == first
        with pytest.raises(AnsweredBefore) as caught:
            create(catalog, "b", receipt(1, 1))
        assert caught.value.answer == first
        with pytest.raises(RequestIdReusedError):
            create(catalog, "b", receipt(1, 2))
        assert catalog.gallery_ids() == ["a"]
        assert len(list((tmp_path / "galleries").iterdir())) == 1
    clock.now += 0.001
    with opened(tmp_path, clock) as catalog:
        assert catalog.find_receipt(receipt(1, 1)) is None
        create(catalog, "b", receipt(1, 2))
        assert catalog.gallery_ids() == ["a", "b"]


def test_a_folder_in_use_is_refused_with_the_pid_of_who_uses_it(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from engine.store.catalog import Catalog;"
        "from engine.store.environment import StoreSettings;"
        "c = Catalog(Path(sys.argv[1]), StoreSettings()); print('held', flush=True);"
        "sys.stdin.read(); c.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataFolderError, match=f"in use by another process .pid {holder.pid}."):
            Catalog(tmp_path, SETTINGS)
        holder.stdin.close()
    with opened(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError, match="file"):
        Catalog(tmp_path / "file" / "data", SETTINGS)
