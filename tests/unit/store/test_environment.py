"""Which folders can hold a store, and what LMDB's errors become."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from engine.errors import (
    CorruptDataError,
    DataFolderError,
    NewerFormatError,
    StorageFullError,
    UnavailableError,
)
from engine.store.environment import open_environment, translated
from engine.store.folders import refuse_network_file_system

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/export /mnt/share nfs4 rw 0 0
/dev/vdb /mnt/share/local ext4 rw 0 0
//host/share /mnt/with\\040blank cifs rw 0 0
/dev/vdc /mnt/twice ext4 rw 0 0
server:/export /mnt/twice nfs rw 0 0
"""


@pytest.mark.parametrize("folder", ["/", "/data", "/mnt", "/mnt/shared", "/mnt/share/local/data"])
def test_a_local_folder_is_accepted(folder: str) -> None:
    refuse_network_file_system(Path(folder), MOUNTS)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/mnt/share", "nfs4"),
        ("/mnt/share/data/deep", "nfs4"),
        ("/mnt/with blank/data", "cifs"),
        ("/mnt/twice/data", "nfs"),
    ],
)
def test_a_folder_on_a_network_file_system_is_refused_by_its_kind(folder: str, kind: str) -> None:
    with pytest.raises(DataFolderError, match=kind):
        refuse_network_file_system(Path(folder), MOUNTS)


def test_without_any_mounts_nothing_is_refused() -> None:
    refuse_network_file_system(Path("/data"), "")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_storage_full(code: int) -> None:
    with pytest.raises(StorageFullError), translated(Path("/data")):
        raise OSError(code, "full")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lmdb.MapFullError("put"), StorageFullError),
        (lmdb.DiskError("write"), StorageFullError),
        (lmdb.CorruptedError("page"), CorruptDataError),
        (lmdb.InvalidError("not LMDB"), CorruptDataError),
        (lmdb.PageNotFoundError("page"), CorruptDataError),
        (lmdb.PanicError("panic"), UnavailableError),
        (lmdb.VersionMismatchError("version"), NewerFormatError),
        (lmdb.LockError("busy"), DataFolderError),
        (PermissionError(errno.EACCES, "denied"), DataFolderError),
    ],
)
def test_each_error_becomes_the_engines(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="/data"), translated(Path("/data")):
        raise error


def test_a_folder_below_a_file_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError, match="file"):
        open_environment(tmp_path / "file" / "store", 1, 1 << 20)


def test_who_opens_it_twice_in_one_process_is_refused_and_keeps_the_locks(tmp_path: Path) -> None:
    program = "import lmdb, sys; print(lmdb.Environment(sys.argv[1], max_readers=8).readers())"
    folder = tmp_path / "store"
    with contextlib.closing(open_environment(folder, 1, 1 << 20)) as environment, environment.begin():
        with pytest.raises(DataFolderError, match="already open in this process"):
            open_environment(folder, 1, 1 << 20)
        # Another process does not take itself for the first one, nor our reader for dead.
        arguments = [sys.executable, "-c", program, str(folder)]
        ran = subprocess.run(arguments, capture_output=True, check=True, text=True)
        assert str(os.getpid()) in ran.stdout


def test_a_file_that_is_no_store_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"\x01" * 8192)
    with pytest.raises(CorruptDataError):
        open_environment(tmp_path, 1, 1 << 20)
