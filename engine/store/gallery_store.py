"""The truth of one gallery: a store epoch on disk, read in short transactions, written in group commits.

::

    FOLDER/store/<epoch>/    LMDB. A store whose state says retired_by = N is a leftover of epoch N.
    FOLDER/index/<n>/        generations, caches of the store

Erasing replaces the store: LMDB keeps deleted records in free pages, and overwriting or filling the free
list does not remove them; a compact copy holds none. Knows nothing of what is searched or decided.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import lmdb

from engine.errors import CorruptDataError, RequestIdReusedError, UnavailableError
from engine.store.environment import StoreSettings, open_environment, sync_folder, translated
from engine.store.group_commit import GroupCommit
from engine.store.records import ReceiptRecord, State
from engine.store.tables import TABLES, Reader, Tables, Writer, open_tables
from engine.types import AnsweredBefore, EmbeddingContract, GallerySettings, Receipt, Vector

T = TypeVar("T")
STORE_FOLDER = "store"
INDEX_FOLDER = "index"
DATA_FILE = "data.mdb"
"""LMDB's own name."""
SCANNED_VECTORS_MAX = 16
"""Erased vectors that a compact copy is searched for: writes wait meanwhile, 0.1 s for each and GB."""


class _Epoch:
    """One open LMDB environment, closed when retired and no longer read."""

    def __init__(self, folder: Path, map_size_bytes: int):
        self.folder = folder
        self.number = int(folder.name)
        self.environment: lmdb.Environment = open_environment(folder, len(TABLES), map_size_bytes)
        try:
            with translated(folder):
                self.tables: Tables = open_tables(self.environment)
        except BaseException:
            self.environment.close()
            raise
        self._num_users = 0
        self._is_retired = False
        self._changed = threading.Condition()

    def acquire(self) -> bool:
        """Begin to use; False where it is being closed."""
        with self._changed:
            if self._is_retired:
                return False
            self._num_users += 1
            return True

    def release(self) -> None:
        """End of use."""
        with self._changed:
            self._num_users -= 1
            self._changed.notify_all()

    def has_failed(self) -> bool:
        """Whether LMDB refuses to go on, after the disk failed a write of its head page."""
        try:
            with self.environment.begin():
                return False
        except lmdb.PanicError:
            return True

    def retire(self) -> None:
        """Wait for the last user, then close."""
        with self._changed:
            self._is_retired = True
            self._changed.wait_for(lambda: self._num_users == 0)
        self.environment.close()


class GalleryStore:
    """One gallery on disk. Thread-safe."""

    def __init__(self, folder: Path, settings: StoreSettings, *, clock: Callable[[], float] = time.time):
        """Open the current epoch in `folder` and remove leftovers of earlier ones.

        Raises CorruptDataError where there is none, NewerFormatError, DataFolderError.
        """
        self.folder = folder
        self._settings = settings
        self._clock = clock
        self._epoch = _open_current(folder, settings.map_size_bytes_max)
        self._successor: _Epoch | None = None
        self._swap = threading.Lock()
        self._commits = GroupCommit(
            self._begin_write,
            name=folder.name[:8],
            records_max=settings.commit_records_max,
            ms_max=settings.commit_ms_max,
            queue_max=settings.queue_writes_max,
        )

    @classmethod
    def create(
        cls,
        folder: Path,
        contract: EmbeddingContract,
        gallery_settings: GallerySettings,
        settings: StoreSettings,
        create_time: float,
    ) -> None:
        """Make the first epoch of a new gallery in `folder`, synced."""
        epoch = _Epoch(folder / STORE_FOLDER / "1", settings.map_size_bytes_max)
        try:
            with translated(folder), epoch.environment.begin(write=True) as transaction:
                writer = Writer(transaction, epoch.tables)
                writer.put_state(State(contract.dimension))
                writer.put_contract(contract)
                writer.put_settings(gallery_settings)
                writer.put_create_time(round(create_time * 1e3))
            (folder / INDEX_FOLDER).mkdir(exist_ok=True)
            sync_folder(folder)
            sync_folder(folder.parent)
        finally:
            epoch.retire()

    @property
    def index_folder(self) -> Path:
        """Where generations live."""
        return self.folder / INDEX_FOLDER

    def now_ms(self) -> int:
        """The injected clock, milliseconds of Unix time."""
        return round(self._clock() * 1e3)

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """Open a consistent view; keep it short, it holds back the reuse of free pages."""
        epoch = self._acquire()
        try:
            with translated(epoch.folder), epoch.environment.begin() as transaction:
                yield Reader(transaction, epoch.tables)
        finally:
            epoch.release()

    def write(
        self,
        apply: Callable[[Writer], T],
        *,
        num_records: int = 1,
        deadline: float | None = None,
        receipt: Receipt | None = None,
    ) -> T:
        """Apply a change; returns its result after it is committed and synced.

        Raises what `apply` raises, AnsweredBefore or RequestIdReusedError where the receipt is known,
        StorageFullError, and what GroupCommit.write raises.
        """

        def applied(writer: Writer) -> T:
            with translated(self.folder):
                if receipt is None:
                    return apply(writer)
                if (answer := find_receipt(writer, receipt, self._oldest_ms())) is not None:
                    raise AnsweredBefore(answer)
                result = apply(writer)
                record = ReceiptRecord(receipt.body_sha256, self.now_ms(), receipt.encode(result))
                writer.put_receipt(receipt.key, record, self._oldest_ms())
                return result

        return self._commits.write(applied, num_records=num_records, deadline=deadline)

    def find_receipt(self, receipt: Receipt) -> bytes | None:
        """The first answer to this write, or None. Raises RequestIdReusedError for another body."""
        with self.read() as reader:
            return find_receipt(reader, receipt, self._oldest_ms())

    def erase(self, vectors: Sequence[Vector]) -> None:
        """Replace the store by a compact copy in which no freed page holds old records.

        Does nothing where no erasure is pending. What was removed after the current generation was built is
        still in that: its erasure stays pending. `vectors` are those just removed: the copy is scanned for
        some of them, and CorruptDataError raised where one is still there without a live template that equals
        it. The old file is unlinked before returning. Not for two threads at once.
        """
        old = self._commits.write(lambda writer: self._copy_and_retire(writer, vectors), is_alone=True)
        if old is None:
            return
        old.retire()
        shutil.rmtree(old.folder)
        sync_folder(old.folder.parent)

    def close(self) -> None:
        """Finish waiting writes and close."""
        self._commits.close()
        self._epoch.retire()

    def _oldest_ms(self) -> int:
        return self.now_ms() - round(self._settings.receipts_s * 1e3)

    def _acquire(self) -> _Epoch:
        while True:
            with self._swap:
                epoch = self._epoch
            if epoch.acquire():
                return epoch
            with self._swap:
                if epoch is self._epoch:
                    raise UnavailableError("the gallery is closing")

    @contextlib.contextmanager
    def _begin_write(self) -> Iterator[Writer]:
        epoch = self._acquire()
        try:
            with translated(epoch.folder), epoch.environment.begin(write=True) as transaction:
                yield Writer(transaction, epoch.tables, self._settings.map_size_bytes_max)
            # Only after the commit, and still on the committing thread: no write can fall between the two.
            with self._swap:
                self._epoch = self._successor or self._epoch
        except BaseException:
            if self._successor is not None:
                # The commit that names it may be on disk although it failed: its files must stay.
                self._successor.retire()
            is_in_doubt = self._successor is not None or epoch.has_failed()
            self._successor = None
            epoch.release()
            if is_in_doubt:
                self._reopen(epoch)
            raise
        self._successor = None
        epoch.release()

    def _reopen(self, epoch: _Epoch) -> None:
        """Open anew what a failed commit left in doubt; calls meanwhile are answered UNAVAILABLE."""
        epoch.retire()
        opened = _open_current(self.folder, self._settings.map_size_bytes_max)
        with self._swap:
            self._epoch = opened

    def _copy_and_retire(self, writer: Writer, vectors: Sequence[Vector]) -> _Epoch | None:
        # Inside a write transaction: its lock keeps every other writer out while the copy is made.
        state = writer.state()
        if not state.erase_sequence:
            return None
        old = self._epoch
        target = self.folder / STORE_FOLDER / str(old.number + 1)
        shutil.rmtree(target, ignore_errors=True)
        try:
            _copy_compact(old.environment, target)
            _scan(target / DATA_FILE, vectors, writer)
            successor = _Epoch(target, self._settings.map_size_bytes_max)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        try:
            if not state.generation or state.generation_sequence >= state.erase_sequence:
                state.erase_sequence = 0
            with translated(target), successor.environment.begin(write=True) as transaction:
                Writer(transaction, successor.tables).put_state(state)
            state.retired_by = successor.number
            writer.put_state(state)
        except BaseException:
            _discard(successor)
            raise
        # Last of all: from here on the end of this transaction makes it the current one.
        self._successor = successor
        return old


def find_receipt(reader: Reader, receipt: Receipt, oldest_ms: int) -> bytes | None:
    """The answer kept under this receipt, None where it is unknown or too old.

    Raises RequestIdReusedError where it was given for another body.
    """
    record = reader.receipt(receipt.key)
    if record is None or record.create_ms < oldest_ms:
        return None
    if record.body_sha256 != receipt.body_sha256:
        raise RequestIdReusedError("this request_id was used for another request within the last day")
    return record.answer


def _open_current(folder: Path, map_size_bytes: int) -> _Epoch:
    root = folder / STORE_FOLDER
    paths = root.iterdir() if root.is_dir() else ()
    numbers = sorted(int(path.name) for path in paths if path.name.isdecimal())
    current: _Epoch | None = None
    for number in numbers:
        path = root / str(number)
        # After the current one: a copy that no store names as its successor, of an erase that did not finish.
        if current is not None or not (path / DATA_FILE).is_file():
            shutil.rmtree(path)
            continue
        epoch = _Epoch(path, map_size_bytes)
        if _is_retired(epoch):
            _discard(epoch)
        else:
            current = epoch
    if current is None:
        raise CorruptDataError(f"{folder} holds no store")
    return current


def _is_retired(epoch: _Epoch) -> bool:
    """Whether another epoch replaced this one. Raises CorruptDataError where that one is missing."""
    try:
        with translated(epoch.folder), epoch.environment.begin() as transaction:
            successor = Reader(transaction, epoch.tables).state().retired_by
        if successor and not (epoch.folder.parent / str(successor) / DATA_FILE).is_file():
            raise CorruptDataError(f"{epoch.folder} was replaced by epoch {successor}, which is missing")
    except BaseException:
        epoch.retire()
        raise
    return successor > 0


def _discard(epoch: _Epoch) -> None:
    epoch.retire()
    shutil.rmtree(epoch.folder, ignore_errors=True)


def _copy_compact(environment: lmdb.Environment, target: Path) -> None:
    with translated(target):
        target.mkdir()
        environment.copy(str(target), compact=True)
        descriptor = os.open(target / DATA_FILE, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(target)
        sync_folder(target.parent)


def _scan(file: Path, vectors: Sequence[Vector], reader: Reader) -> None:
    wanted = {vector.astype("<f4").tobytes() for vector in vectors[:SCANNED_VECTORS_MAX]}
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = {data for data in wanted if content.find(data) >= 0}
    if found:
        # Somebody else may have enrolled the very same vector; only what no live template holds is a leak.
        found -= {record.vector.tobytes() for _, record in reader.templates()}
    if found:
        raise CorruptDataError(f"{len(found)} erased vectors are still in the compact copy {file}")
