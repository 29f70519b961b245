"""One LMDB environment: opened with checks, errors in the engine's words. Knows nothing of records."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import lmdb
from msgspec import Meta

from engine.config import Settings
from engine.disk import sync
from engine.errors import (
    CorruptDataError,
    DataFolderError,
    EngineError,
    NewerFormatError,
    StorageFullError,
    UnavailableError,
)
from engine.store.folders import FULL, from_os_error

READERS_MAX = 1024
"""Read transactions open at once in all processes."""
_LOCK_FILE_BYTES = 64 * READERS_MAX + 4096
"""A cache line for each reader, and more than LMDB's head of the file."""
_BLOCK_BYTES = 512
"""Of st_blocks, whatever the file system's own are."""
_FULL_LMDB = FULL | {errno.EIO}
"""EIO is LMDB's name for a write of which the disk took only a part."""


class StoreSettings(Settings, frozen=True):
    """How stores are opened and written."""

    map_size_bytes_max: Annotated[int, Meta(ge=1 << 20)] = 256 << 30
    """Address space of one gallery's store, and so its largest size on disk. Costs no memory or disk until
    used; a store that comes near it refuses to enroll with STORAGE_FULL: the rest is kept for removals."""
    commit_records_max: Annotated[int, Meta(ge=1)] = 256
    """Records gathered into one commit."""
    commit_ms_max: Annotated[float, Meta(ge=0)] = 5.0
    """Time spent gathering and applying one commit before it is synced, milliseconds."""
    queue_writes_max: Annotated[int, Meta(ge=1)] = 1024
    """Writes waiting for one store; one more is refused with OVERLOADED."""
    commit_pause_ms: Annotated[float, Meta(ge=0)] = 2.0
    """Pause after a commit of more than half of commit_records_max where several processes share the data
    folder, milliseconds: LMDB's lock is unfair, and a bulk load would hold up the writes of all others."""
    receipts_s: Annotated[float, Meta(ge=0)] = 24 * 3600.0
    """How long the answer to a write is kept for its retries, seconds."""


def open_environment(folder: Path, num_tables: int, map_size_bytes: int) -> lmdb.Environment:
    """Open or make the environment in `folder`, synced on every commit.

    Raises DataFolderError where the folder cannot be used, CorruptDataError where the file is damaged.
    """
    with translated(folder):
        folder.mkdir(exist_ok=True)
        _allocate_lock_file(folder / "lock.mdb")
        environment = lmdb.Environment(
            str(folder), map_size=map_size_bytes, max_dbs=num_tables, max_readers=READERS_MAX, readahead=False
        )
        try:
            environment.reader_check()
            sync(folder)
            sync(folder.parent)
        except BaseException:
            environment.close()
            raise
    return environment


def _allocate_lock_file(path: Path) -> None:
    # LMDB maps this file as one large hole: on a full disk the first touch would kill the process by SIGBUS.
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_blocks * _BLOCK_BYTES >= _LOCK_FILE_BYTES:
            # Not even opened: where this process already has the environment open, closing the file would
            # drop LMDB's locks on it, and other processes would take our readers for dead.
            return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_FILE_BYTES)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Turn LMDB's and the file system's errors into the engine's."""
    try:
        yield
    except lmdb.Error as error:
        raise _translate(error, folder) from error
    except OSError as error:
        raise from_os_error(error, folder) from error


def _translate(error: lmdb.Error, folder: Path) -> EngineError:
    code = getattr(error, "code", 0)
    if isinstance(error, lmdb.MapFullError):
        return StorageFullError(f"the store in {folder} has reached its largest size")
    if code in _FULL_LMDB or isinstance(error, lmdb.DiskError):
        return StorageFullError(f"no space left for the store in {folder}, or its disk fails: {error}")
    if isinstance(error, lmdb.VersionMismatchError):
        return NewerFormatError(f"the store in {folder} was written by another version of LMDB: {error}")
    if isinstance(error, lmdb.PanicError):
        return UnavailableError(f"the disk failed a write of the store in {folder}; it is opened anew")
    damaged = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError)
    if isinstance(error, damaged):
        return CorruptDataError(f"the store in {folder} is damaged: {error}")
    return DataFolderError(f"the store in {folder} cannot be used: {error}")
