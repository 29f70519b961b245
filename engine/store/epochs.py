"""Epochs of one gallery's store: opened, left for the next, copied, unlinked when nobody has them open.

::

    FOLDER/store/<epoch>/    LMDB. A store whose state says retired_by = N was replaced by epoch N.

An open epoch's folder is held (see folders) by each process that has it open. A retired one is unlinked by
whoever finds it held by nobody; one that no store names as its successor, of an erasure that did not finish,
only under the write lock of the current one. Knows nothing of what is stored.
"""

from __future__ import annotations

import mmap
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import lmdb

from engine.disk import sync
from engine.errors import CorruptDataError
from engine.store import folders
from engine.store.environment import open_environment, translated
from engine.store.tables import TABLES, Reader, Tables, open_tables, upgrade
from engine.types import Vector

DATA_FILE = "data.mdb"
"""LMDB's own name."""
SCANNED_VECTORS_MAX = 16
"""Erased vectors that the copy is searched for: writes wait meanwhile, for each of them and each GB."""
COPY_COMMIT_BYTES = 16 << 20
"""Keys and values copied in one commit."""
_OPEN_TRIES = 100
"""Successors followed before the store is taken for damaged: erasures come one after the other."""


class Epoch:
    """One open LMDB environment, closed when left and no longer used by this process."""

    def __init__(self, folder: Path, map_size_bytes: int):
        """Open or make the epoch in `folder`, which must be there.

        Raises FileNotFoundError where it is not (any more).
        """
        self.folder = folder
        self.number = int(folder.name)
        held = folders.hold(folder)
        if held is None:
            raise FileNotFoundError(folder)
        self._held = held
        try:
            self.environment: lmdb.Environment = open_environment(folder, len(TABLES), map_size_bytes)
        except BaseException:
            os.close(held)
            raise
        self._num_users = 0
        self._is_left = False
        self._is_closed = False
        self._changed = threading.Condition()
        try:
            with translated(folder):
                self.tables: Tables = open_tables(self.environment)
        except BaseException:
            self.leave()
            raise

    def acquire(self) -> bool:
        """Begin to use; False where it was left."""
        with self._changed:
            if self._is_left:
                return False
            self._num_users += 1
            return True

    def release(self) -> None:
        """End of use."""
        with self._changed:
            self._num_users -= 1
            self._close_unused()

    def leave(self) -> None:
        """Begin no more uses, and close after the last."""
        with self._changed:
            self._is_left = True
            self._close_unused()

    def retire(self) -> None:
        """Leave, and wait until it is closed."""
        self.leave()
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed)

    def has_failed(self) -> bool:
        """Whether LMDB refuses to go on, after the disk failed a write of its head page."""
        try:
            with self.environment.begin():
                return False
        except lmdb.PanicError:
            return True

    def successor(self) -> int:
        """Number of the epoch that replaced this one; 0: it is the current one."""
        with translated(self.folder), self.environment.begin() as transaction:
            return Reader(transaction, self.tables).state().retired_by

    def _close_unused(self) -> None:
        if self._is_left and not self._num_users and not self._is_closed:
            self.environment.close()
            # After the environment: whoever waits for the folder may unlink it from now on.
            os.close(self._held)
            self._is_closed = True
            self._changed.notify_all()


def create(folder: Path, map_size_bytes: int) -> Epoch:
    """Make an empty epoch."""
    with translated(folder):
        folder.mkdir(parents=True)
        return Epoch(folder, map_size_bytes)


def open_current(root: Path, map_size_bytes: int, *, after: int = 0) -> Epoch:
    """Open the epoch that no other one replaced, upgraded, and unlink what others left that nobody uses.

    `after` is the number of one that was, and that this process may still have open: LMDB allows no second
    opening. Raises CorruptDataError where there is none, NewerFormatError, DataFolderError.
    """
    for _ in range(_OPEN_TRIES):
        numbers = [number for number in _numbers(root) if number > after]
        if not numbers:
            raise CorruptDataError(f"{root.parent} holds no store")
        current = _first_current(root, numbers, map_size_bytes)
        if current is not None:
            break
    else:
        raise CorruptDataError(f"{root} holds no epoch that can be opened")
    try:
        with translated(current.folder):
            upgrade(current.environment, current.tables)
            remove_retired(current)
            _remove_unnamed(current)
    except BaseException:
        current.retire()
        raise
    return current


def _first_current(root: Path, numbers: Sequence[int], map_size_bytes: int) -> Epoch | None:
    """The first of these that was not replaced; None where they were unlinked meanwhile."""
    for number in numbers:
        try:
            epoch = Epoch(root / str(number), map_size_bytes)
        except FileNotFoundError:
            continue
        try:
            successor = epoch.successor()
            if not successor:
                return epoch
            # It may itself have been replaced and unlinked since, but then a later one is there.
            if max(_numbers(root), default=0) < successor:
                raise CorruptDataError(f"{epoch.folder} was replaced by epoch {successor}, which is missing")
        except BaseException:
            epoch.retire()
            raise
        epoch.retire()
    return None


def remove_retired(current: Epoch) -> list[Path]:
    """Unlink epochs that were replaced and that no process has open; returns those that one still has."""
    older = [number for number in _numbers(current.folder.parent, is_whole=False) if number < current.number]
    paths = [current.folder.parent / str(number) for number in older]
    return [path for path in paths if not folders.remove_unheld(path)]


def _remove_unnamed(current: Epoch) -> None:
    """Unlink what follows the current epoch without being its successor, unless it is just being made."""
    root = current.folder.parent
    for number in _numbers(root, is_whole=False):
        path = root / str(number)
        if number <= current.number or not _is_unheld(path):
            continue
        # Nobody makes a successor without this lock.
        with current.environment.begin(write=True) as transaction:
            if not Reader(transaction, current.tables).state().retired_by:
                folders.remove_unheld(path)


def _is_unheld(path: Path) -> bool:
    descriptor = folders.hold_alone(path)
    if descriptor is not None:
        # At once, and not only after the write lock is had: who makes an epoch holds that and waits for this.
        os.close(descriptor)
    return descriptor is not None


def _numbers(root: Path, *, is_whole: bool = True) -> list[int]:
    """Numbers of the epochs there are, ascending; `is_whole`: of those with a data file only."""
    try:
        paths = list(root.iterdir())
    except FileNotFoundError:
        return []
    return sorted(
        int(path.name)
        for path in paths
        if path.name.isdecimal() and path.is_dir() and (not is_whole or (path / DATA_FILE).is_file())
    )


def copied(current: Epoch, vectors: Sequence[Vector], reader: Reader, map_size_bytes: int) -> Epoch:
    """Copy the current epoch's rows into its successor, scanned and synced; returns that, open.

    Only inside a write transaction of `current`, to whose `reader` the `vectors` are not live any more:
    CorruptDataError where the copy still holds one of them. On any error nothing of the copy is left.
    """
    target = current.folder.parent / str(current.number + 1)
    # Left by a process that died in here: the write lock keeps everybody else out.
    shutil.rmtree(target, ignore_errors=True)
    with translated(target):
        target.mkdir()
        held = folders.hold(target)
        assert held is not None, "only who has the write lock unlinks it"
        try:
            _copy_rows(current, target, map_size_bytes)
            _scan(target / DATA_FILE, vectors, reader)
            return Epoch(target, map_size_bytes)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        finally:
            os.close(held)


def discard(epoch: Epoch) -> None:
    """Close and unlink a successor that was not named."""
    epoch.retire()
    shutil.rmtree(epoch.folder, ignore_errors=True)


def _copy_rows(current: Epoch, target: Path, map_size_bytes: int) -> None:
    """Write all rows of an epoch into an environment of its own, in which nothing erased ever was.

    Not by LMDB's own compact copy. That takes pages over with what lies behind the last byte of a value of
    half a page and more, which may be rows removed long ago; and (0.9.36) it ends the process where a key of
    `SEVERAL_VALUES` has more values than fit into a page.
    """
    copy = open_environment(target, len(TABLES), map_size_bytes)
    try:
        tables = open_tables(copy)
        with current.environment.begin() as source:
            for name in TABLES:
                with source.cursor(current.tables[name]) as rows:
                    for part in _parts(iter(rows)):
                        with copy.begin(write=True) as written, written.cursor(tables[name]) as end:
                            end.putmulti(part, dupdata=True, append=True)
    finally:
        copy.close()
    sync(target)
    sync(target.parent)


def _parts(rows: Iterator[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """The same in order, in parts of which each is one commit: LMDB holds in memory what is not committed."""
    part: list[tuple[bytes, bytes]] = []
    num_bytes = 0
    for key, value in rows:
        part.append((key, value))
        num_bytes += len(key) + len(value)
        if num_bytes >= COPY_COMMIT_BYTES:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part


def _scan(file: Path, vectors: Sequence[Vector], reader: Reader) -> None:
    wanted = {vector.astype("<f4").tobytes() for vector in vectors[:SCANNED_VECTORS_MAX]}
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = {data for data in wanted if content.find(data) >= 0}
    if found:
        # Somebody else may have enrolled the very same vector; only what no live template holds is a leak.
        found -= {record.vector.tobytes() for _, record in reader.templates()}
    if found:
        raise CorruptDataError(f"{len(found)} erased vectors are still in the copy {file}")
