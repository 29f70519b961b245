"""Which galleries there are: ids and aliases to folders. Knows nothing of what is inside a gallery.

::

    DATA/lock                 held exclusively while a server (or an offline job) uses DATA
    DATA/catalog/             LMDB: galleries, aliases, deleting, receipts
    DATA/galleries/<uuid>/    one gallery, see gallery_store

A gallery's folder is complete before the catalogue names it, and unnamed before it is unlinked; what a crash
leaves between the two is removed at the next start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import lmdb

from engine.disk import sync
from engine.errors import (
    AlreadyExistsError,
    CorruptDataError,
    GalleryNotFoundError,
    NewerFormatError,
    PreconditionError,
)
from engine.store import folders
from engine.store.environment import StoreSettings, open_environment, translated
from engine.store.gallery_store import GalleryStore, find_receipt
from engine.store.records import ReceiptRecord, pack, unpack
from engine.store.tables import Reader, Writer
from engine.types import AnsweredBefore, EmbeddingContract, GallerySettings, Receipt

T = TypeVar("T")
FORMAT_VERSION = 1
"""Of the catalogue and of how folders are named; galleries have a format of their own."""
TABLES = ("meta", "galleries", "aliases", "deleting", "receipts", "ages")
MAP_SIZE_BYTES_MAX = 1 << 30
"""Address space of the catalogue: millions of galleries."""


class _CatalogReader(Reader):
    """Rows of the catalogue."""

    def folder_name(self, gallery_id: str) -> str | None:
        """Folder of a gallery, None where there is no such gallery."""
        return self._text("galleries", gallery_id)

    def alias(self, alias: str) -> str | None:
        """Gallery that an alias names."""
        return self._text("aliases", alias)

    def rows(self, table: str) -> list[tuple[str, str]]:
        """All rows of a table of texts, in order."""
        with self._transaction.cursor(self._tables[table]) as cursor:
            return [(key.decode(), unpack(value, str)) for key, value in cursor]

    def _text(self, table: str, key: str) -> str | None:
        data = self._get(table, key.encode())
        return None if data is None else unpack(data, str)


class _CatalogWriter(Writer, _CatalogReader):
    """Rows of the catalogue, to change."""

    def put(self, table: str, key: str, value: str) -> None:
        """Set a row of a table of texts."""
        self._put(table, key.encode(), pack(value))

    def delete(self, table: str, key: str) -> None:
        """Forget a row of a table of texts."""
        self._delete(table, key.encode())


class Catalog:
    """The galleries of one data folder, held by this process, or by several together. Thread-safe."""

    def __init__(
        self,
        data: Path,
        settings: StoreSettings,
        *,
        clock: Callable[[], float] = time.time,
        lock_fd: int | None = None,
    ):
        """Open or make the data folder.

        `lock_fd` is the descriptor that `folders.lock_folder` returned, here or in the process that this one
        inherited it from: the folder is then used together with all that share it. It stays the caller's.
        Without one the folder is taken for this process alone. Whoever opens it while no other process has
        it open removes what a crash left.

        Raises DataFolderError (unwritable, in use, on a network file system), NewerFormatError,
        CorruptDataError where there are galleries but no catalogue of them.
        """
        self.data = data
        self._root = data / "galleries"
        self._settings = settings
        self._clock = clock
        self.is_shared = lock_fd is not None
        """Whether other processes may use the folder, too."""
        self._writing = threading.Lock()
        with contextlib.ExitStack() as held:
            if lock_fd is None:
                held.callback(os.close, folders.lock_folder(data))
            else:
                folders.check_lock(data, lock_fd)
            self._open(held)
            self._held = held.pop_all()

    def _open(self, held: contextlib.ExitStack) -> None:
        folder = self.data / "catalog"
        with translated(self.data):
            folder.mkdir(exist_ok=True)
            alone = folders.hold_alone(folder)
            # Waits while the first process to open it looks for leftovers.
            descriptor = folders.hold(folder) if alone is None else alone
            assert descriptor is not None, "nobody removes the catalogue"
            held.callback(os.close, descriptor)
            self._environment: lmdb.Environment = open_environment(folder, len(TABLES), MAP_SIZE_BYTES_MAX)
            held.callback(self._environment.close)
            self._tables = {name: self._environment.open_db(name.encode()) for name in TABLES}
            self._write(self._check_format, None)
            if alone is not None:
                self._remove_leftovers()
                folders.share(alone)

    def create(
        self,
        gallery_id: str,
        contract: EmbeddingContract,
        gallery_settings: GallerySettings,
        receipt: Receipt | None,
        describe: Callable[[float], object],
    ) -> Path:
        """Make an empty gallery; returns its folder.

        `describe(create_time)` is what the receipt's answer is encoded from. Raises AlreadyExistsError,
        AnsweredBefore, RequestIdReusedError.
        """
        name = uuid.uuid4().hex
        folder = self._folder(name)
        # As the store keeps it, in milliseconds: the first answer and later ones are equal.
        create_time = round(self._clock() * 1e3) / 1e3

        def apply(writer: _CatalogWriter) -> object:
            if writer.folder_name(gallery_id) is not None:
                raise AlreadyExistsError(f"gallery {gallery_id!r} exists")
            if writer.alias(gallery_id) is not None:
                raise AlreadyExistsError(f"{gallery_id!r} is an alias")
            try:
                GalleryStore.create(folder, contract, gallery_settings, self._settings, create_time)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            writer.put("galleries", gallery_id, name)
            return describe(create_time)

        # Where the commit fails the folder stays: it may be named on disk all the same. If it is not, the
        # next start removes it.
        self._write(apply, receipt)
        return folder

    def find(self, name: str) -> tuple[str, Path]:
        """Gallery id and folder of a gallery or alias. Raises GalleryNotFoundError."""
        with translated(self.data), self._environment.begin() as transaction:
            reader = _CatalogReader(transaction, self._tables)
            gallery_id = reader.alias(name) or name
            folder_name = reader.folder_name(gallery_id)
        if folder_name is None:
            raise GalleryNotFoundError(f"no gallery or alias is named {name[:80]!r}")
        return gallery_id, self._folder(folder_name)

    def gallery_ids(self) -> list[str]:
        """Ids of all galleries, in order."""
        return [gallery_id for gallery_id, _ in self._rows("galleries")]

    def aliases(self) -> dict[str, str]:
        """Alias to gallery id."""
        return dict(self._rows("aliases"))

    def begin_delete(self, gallery_id: str, receipt: Receipt | None) -> Path:
        """Forget a gallery's name; returns its folder, to be given to `finish_delete` once nobody uses it.

        Raises GalleryNotFoundError, PreconditionError while an alias names it.
        """

        def apply(writer: _CatalogWriter) -> str:
            name = writer.folder_name(gallery_id)
            if name is None:
                hint = "Name the gallery itself, not its alias." if writer.alias(gallery_id) else None
                raise GalleryNotFoundError(f"no gallery is named {gallery_id[:80]!r}", hint=hint)
            if naming := [alias for alias, target in writer.rows("aliases") if target == gallery_id]:
                raise PreconditionError(
                    f"gallery {gallery_id!r} is named by alias {naming[0]!r}",
                    hint="Move or delete the alias first.",
                )
            writer.delete("galleries", gallery_id)
            writer.put("deleting", name, gallery_id)
            return name

        return self._folder(self._write(apply, receipt))

    def finish_delete(self, folder: Path) -> None:
        """Unlink a deleted gallery's files; may be repeated.

        Processes that have it open keep the files until they close it. Raises DataFolderError where some stay
        until this is called again, or the next start.
        """
        with translated(folder):
            folders.unlink(folder)
        self._write(lambda writer: writer.delete("deleting", folder.name), None)

    def deletions(self) -> list[Path]:
        """Folders of galleries whose deletion began and is not finished."""
        return [self._folder(name) for name, _ in self._rows("deleting")]

    def folders(self) -> set[Path]:
        """Folders of all galleries."""
        return {self._folder(name) for _, name in self._rows("galleries")}

    def version(self) -> int:
        """A number that grows with every write to the catalogue, whoever makes it."""
        with translated(self.data):
            return int(self._environment.info()["last_txnid"])

    def set_alias(self, alias: str, gallery_id: str, receipt: Receipt | None) -> str:
        """Make or move an alias; returns what it named before, or an empty text."""

        def apply(writer: _CatalogWriter) -> str:
            if writer.folder_name(alias) is not None:
                raise AlreadyExistsError(f"{alias!r} is a gallery")
            if writer.folder_name(gallery_id) is None:
                raise GalleryNotFoundError(f"no gallery is named {gallery_id[:80]!r}")
            previous = writer.alias(alias) or ""
            writer.put("aliases", alias, gallery_id)
            return previous

        return self._write(apply, receipt)

    def delete_alias(self, alias: str, receipt: Receipt | None) -> None:
        """Forget an alias. Raises GalleryNotFoundError."""

        def apply(writer: _CatalogWriter) -> None:
            if writer.alias(alias) is None:
                raise GalleryNotFoundError(f"no alias is named {alias[:80]!r}")
            writer.delete("aliases", alias)

        self._write(apply, receipt)

    def find_receipt(self, receipt: Receipt) -> bytes | None:
        """The first answer to this write, or None. Raises RequestIdReusedError for another body."""
        with translated(self.data), self._environment.begin() as transaction:
            return find_receipt(Reader(transaction, self._tables), receipt, self._oldest_ms())

    def close(self) -> None:
        """Close and let another process use the data folder."""
        with self._writing:
            self._held.close()

    def _folder(self, name: str) -> Path:
        return self._root / name

    def _rows(self, table: str) -> list[tuple[str, str]]:
        with translated(self.data), self._environment.begin() as transaction:
            return _CatalogReader(transaction, self._tables).rows(table)

    def _oldest_ms(self) -> int:
        return round((self._clock() - self._settings.receipts_s) * 1e3)

    def _write(self, apply: Callable[[_CatalogWriter], T], receipt: Receipt | None) -> T:
        with self._writing, translated(self.data), self._environment.begin(write=True) as transaction:
            writer = _CatalogWriter(transaction, self._tables)
            if receipt is None:
                return apply(writer)
            if (answer := find_receipt(writer, receipt, self._oldest_ms())) is not None:
                raise AnsweredBefore(answer)
            result = apply(writer)
            record = ReceiptRecord(receipt.body_sha256, round(self._clock() * 1e3), receipt.encode(result))
            writer.put_receipt(receipt.key, record, self._oldest_ms())
            return result

    def _remove_leftovers(self) -> None:
        known = {name for _, name in self._rows("galleries")}
        self._root.mkdir(exist_ok=True)
        sync(self.data)
        for folder in self._root.iterdir():
            if folder.name not in known and folder.is_dir():
                shutil.rmtree(folder)
        for name, _ in self._rows("deleting"):
            self._write(lambda writer, name=name: writer.delete("deleting", name), None)  # type: ignore[misc]

    def _check_format(self, writer: _CatalogWriter) -> None:
        found = dict(writer.rows("meta")).get("format")
        if found is None and self._root.is_dir() and any(self._root.iterdir()):
            # Going on would take them for leftovers of a crash, and remove them.
            raise CorruptDataError(f"{self._root} holds galleries, but {self.data / 'catalog'} names none")
        if found is None:
            writer.put("meta", "format", str(FORMAT_VERSION))
        elif int(found) > FORMAT_VERSION:
            raise NewerFormatError(
                f"the data folder has format {found}, this version reads up to {FORMAT_VERSION}"
            )
