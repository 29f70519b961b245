"""The truth of one gallery: a store epoch on disk, read in short transactions, written in group commits.

::

    FOLDER/store/<epoch>/    LMDB. A store whose state says retired_by = N is a leftover of epoch N.
    FOLDER/index/<n>/        generations, caches of the store

Erasing replaces the store: LMDB keeps deleted records in free pages, and overwriting or filling the free
list does not remove them; a copy made row by row holds none. Every transaction first reads `retired_by`,
which another process may have set, and moves on to the next epoch. Knows nothing of what is searched or
decided.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from engine.disk import sync
from engine.errors import EngineError, GalleryNotFoundError, RequestIdReusedError, UnavailableError
from engine.store import epochs
from engine.store.environment import StoreSettings, translated
from engine.store.epochs import Epoch
from engine.store.group_commit import GroupCommit
from engine.store.records import ReceiptRecord, State, format_of
from engine.store.tables import Reader, Writer
from engine.types import AnsweredBefore, EmbeddingContract, GallerySettings, Receipt, Vector

T = TypeVar("T")
STORE_FOLDER = "store"
INDEX_FOLDER = "index"


class GalleryStore:
    """One gallery on disk, for all threads, and for several processes at once."""

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        *,
        clock: Callable[[], float] = time.time,
        is_shared: bool = False,
    ):
        """Open the current epoch in `folder` and unlink what earlier ones left that no process uses.

        `is_shared`: other processes may write, too, and bulk writes pause to let them. Raises
        CorruptDataError where there is no store, NewerFormatError, DataFolderError.
        """
        self.folder = folder
        self.settings = settings
        self._clock = clock
        self._epoch = epochs.open_current(self._root, settings.map_size_bytes_max)
        self._successor: Epoch | None = None
        self._swap = threading.Lock()
        self._moving = threading.Lock()
        self._is_closed = False
        self._commits = GroupCommit(
            self._begin_write,
            name=folder.name[:8],
            records_max=settings.commit_records_max,
            ms_max=settings.commit_ms_max,
            queue_max=settings.queue_writes_max,
            pause_s=settings.commit_pause_ms / 1e3 if is_shared else 0.0,
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
        epoch = epochs.create(folder / STORE_FOLDER / "1", settings.map_size_bytes_max)
        try:
            with translated(folder), epoch.environment.begin(write=True) as transaction:
                writer = Writer(transaction, epoch.tables)
                writer.put_state(State(contract.dimension, format=format_of(gallery_settings)))
                writer.put_contract(contract)
                writer.put_settings(gallery_settings)
                writer.put_create_time(round(create_time * 1e3))
            (folder / INDEX_FOLDER).mkdir(exist_ok=True)
            sync(folder)
            sync(folder.parent)
        finally:
            epoch.retire()

    @property
    def _root(self) -> Path:
        return self.folder / STORE_FOLDER

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
        while True:
            epoch = self._acquire()
            try:
                with translated(epoch.folder), epoch.environment.begin() as transaction:
                    reader = Reader(transaction, epoch.tables)
                    if not reader.state().retired_by:
                        yield reader
                        return
            finally:
                epoch.release()
            self._move_on(epoch)

    @contextlib.contextmanager
    def unless_deleted(self) -> Iterator[None]:
        """Around work on the gallery's files: what fails once they are gone is GalleryNotFoundError."""
        try:
            yield
        except EngineError as error:
            if self.folder.is_dir():
                raise
            raise GalleryNotFoundError("the gallery was deleted meanwhile") from error

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

    def erase(self, vectors: Sequence[Vector]) -> list[Path]:
        """Replace the store by a copy in which no freed page holds old records.

        Does nothing where no erasure is pending. What was removed after the current generation was built is
        still in that: its erasure stays pending. `vectors` are those just removed: the copy is scanned for
        some of them, and CorruptDataError raised where one is still there without a live template that equals
        it. Returns the old epochs that some process still has open: the erasure is done when
        `remove_retired` returns none. Any number of threads and processes may erase at once; one that dies in
        here leaves the old epoch either as the current one or retired.
        """
        self._commits.write(lambda writer: self._copy_and_retire(writer, vectors), is_alone=True)
        return self.remove_retired()

    def remove_retired(self) -> list[Path]:
        """Unlink epochs that were replaced; returns those that some process still has open."""
        epoch = self._acquire()
        try:
            with translated(self.folder):
                return epochs.remove_retired(epoch)
        finally:
            epoch.release()

    def refresh(self) -> None:
        """Leave an epoch that another process replaced; to be called now and then while nobody reads."""
        with self.read():
            pass

    def forget_dead_readers(self) -> None:
        """Free what processes that died in the middle of a read held back from reuse."""
        epoch = self._acquire()
        try:
            with translated(self.folder):
                epoch.environment.reader_check()
        finally:
            epoch.release()

    def close(self) -> None:
        """Finish waiting writes and close."""
        self._commits.close()
        with self._moving:
            self._is_closed = True
            self._epoch.retire()

    def _oldest_ms(self) -> int:
        return self.now_ms() - round(self.settings.receipts_s * 1e3)

    def _acquire(self) -> Epoch:
        while True:
            with self._swap:
                epoch = self._epoch
            if epoch.acquire():
                return epoch
            with self._swap:
                if epoch is self._epoch:
                    raise UnavailableError("the gallery is closing")

    def _move_on(self, epoch: Epoch) -> None:
        """Open what replaced this epoch; it is closed when its last user is done."""
        with self._moving:
            with self._swap:
                is_done = self._epoch is not epoch
            if is_done:
                return
            if self._is_closed:
                raise UnavailableError("the gallery is closing")
            opened = epochs.open_current(self._root, self.settings.map_size_bytes_max, after=epoch.number)
            with self._swap:
                self._epoch = opened
            epoch.leave()

    @contextlib.contextmanager
    def _begin_write(self) -> Iterator[Writer]:
        while True:
            epoch = self._acquire()
            try:
                with translated(epoch.folder), epoch.environment.begin(write=True) as transaction:
                    writer = Writer(transaction, epoch.tables, self.settings.map_size_bytes_max)
                    is_current = not writer.state().retired_by
                    if is_current:
                        yield writer
                if self._successor is not None:
                    # Only after the commit, and still on the committing thread: no write can fall between.
                    with self._swap:
                        self._epoch = self._successor
            except BaseException:
                self._end_failed_write(epoch)
                raise
            if self._successor is not None:
                self._successor = None
                self._moving.release()
                epoch.leave()
            epoch.release()
            if is_current:
                return
            self._move_on(epoch)

    def _end_failed_write(self, epoch: Epoch) -> None:
        successor, self._successor = self._successor, None
        is_in_doubt = successor is not None or epoch.has_failed()
        epoch.release()
        if successor is not None:
            # The commit that names it may be on disk although it failed: its files must stay.
            successor.retire()
        elif is_in_doubt:
            self._moving.acquire()
        if is_in_doubt:
            try:
                self._reopen(epoch)
            finally:
                self._moving.release()

    def _reopen(self, epoch: Epoch) -> None:
        """Open anew what a failed commit left in doubt; calls meanwhile are answered UNAVAILABLE."""
        epoch.retire()
        opened = epochs.open_current(self._root, self.settings.map_size_bytes_max)
        with self._swap:
            self._epoch = opened

    def _copy_and_retire(self, writer: Writer, vectors: Sequence[Vector]) -> None:
        # Inside a write transaction: its lock keeps every other writer out while the copy is made.
        state = writer.state()
        if not state.erase_sequence:
            return
        map_size_bytes = self.settings.map_size_bytes_max
        successor = epochs.copied(self._epoch, vectors, writer, map_size_bytes)
        try:
            if not state.generation or state.generation_sequence >= state.erase_sequence:
                state.erase_sequence = 0
            with translated(successor.folder), successor.environment.begin(write=True) as transaction:
                Writer(transaction, successor.tables).put_state(state)
            state.retired_by = successor.number
            writer.put_state(state)
        except BaseException:
            epochs.discard(successor)
            raise
        # Last of all: from here on the end of this transaction makes it the current one. A reader that finds
        # its epoch retired must wait for that: LMDB allows no second opening of the successor.
        self._moving.acquire()
        self._successor = successor


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
