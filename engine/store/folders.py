"""Folders on disk: synced, locked among processes, unlinked. Knows nothing of LMDB, and imports little.

A folder that is in use is held by a shared lock on the folder itself (flock on its descriptor): who wants to
remove it asks for an exclusive one, and gets it when no living process uses the folder any more. The kernel
drops the locks of a process that dies, however it dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path

from engine.disk import sync
from engine.errors import DataFolderError, EngineError, StorageFullError

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p",
        "afs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    }
)
"""LMDB's locks and mmap do not hold on these."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""How the operating system says that there is no room."""
_UNLINK_TRIES = 20


def from_os_error(error: OSError, folder: Path) -> EngineError:
    """Name the folder and what the operating system said."""
    if error.errno in FULL:
        return StorageFullError(f"no space left under {folder}")
    return DataFolderError(f"{folder} cannot be used: {error.strerror or error}")


def refuse_network_file_system(folder: Path, mounts: str | None = None) -> None:
    """Raise DataFolderError where `folder` lies on a file system on which LMDB is not safe.

    `mounts` is the text of /proc/mounts, read where it is not given; without one nothing is refused.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:
            return
    resolved = str(folder.resolve())
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, type_, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if (resolved == point or resolved.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, type_
    if kind in NETWORK_FILE_SYSTEMS:
        raise DataFolderError(f"{folder} is on a network file system ({kind}), where a store is not safe")


def lock_folder(data: Path) -> int:
    """Take the data folder for this process and those that inherit the descriptor; returns that.

    The lock lasts until the last of them is gone. Raises DataFolderError where the folder cannot be made, is
    in use, or lies on a network file system.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        refuse_network_file_system(data)
        descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise from_os_error(error, data) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(descriptor, 20).decode() or "unknown"
        os.close(descriptor)
        raise DataFolderError(f"{data} is in use by another process (pid {owner})") from None
    # For people to read; the lock holds without it, too, where the disk is full.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def check_lock(data: Path, descriptor: int) -> None:
    """Raise DataFolderError where an inherited descriptor does not hold the data folder."""
    try:
        is_lock = os.path.samestat(os.fstat(descriptor), (data / "lock").stat())
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DataFolderError(f"descriptor {descriptor} does not hold {data}: {error.strerror}") from error
    if not is_lock:
        raise DataFolderError(f"descriptor {descriptor} is not the lock of {data}")


def hold(folder: Path) -> int | None:
    """Hold a folder, together with others, against removal; None where there is none (any more).

    Waits for a removal that has begun. The hold ends when the descriptor returned is closed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if _is_at(descriptor, folder):
        return descriptor
    os.close(descriptor)
    return None


def hold_alone(folder: Path) -> int | None:
    """Hold a folder that nobody else holds, against all others; None where somebody does or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if _is_at(descriptor, folder):
        return descriptor
    os.close(descriptor)
    return None


def share(descriptor: int) -> None:
    """Let others hold, too, what was held alone."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def remove_unheld(folder: Path) -> bool:
    """Unlink a folder that nobody holds, synced; returns whether it is gone."""
    descriptor = hold_alone(folder)
    if descriptor is None:
        return not folder.is_dir()
    try:
        unlink(folder)
    finally:
        os.close(descriptor)
    return True


def unlink(folder: Path) -> None:
    """Unlink a folder and all in it, also while others do the same or still write into it, synced.

    Raises OSError where some of it stays.
    """
    for num_left in reversed(range(_UNLINK_TRIES)):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.is_dir():
                break
        except OSError:
            if not num_left:
                raise
        else:
            break
    with contextlib.suppress(FileNotFoundError):
        sync(folder.parent)


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether the folder opened is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False
