"""A full disk: by a limit on the size of files, and on a small file system where one can be mounted."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fault.full_disk import Scene, build_on_a_full_disk, enroll_until_full, erase_on_a_full_disk

PLAYS = [enroll_until_full, build_on_a_full_disk, erase_on_a_full_disk]
PAGE_BYTES = 4096
DISK_BYTES = 24 << 20


def play_with_file_size_limit(play: Callable[[Scene], None], data: Path) -> None:
    """Files may grow by a few pages from the moment that the disk is "full"."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def fill() -> None:
        size_bytes = max(path.stat().st_size for path in data.rglob("store/*/data.mdb"))
        pages = size_bytes // 8 if play is not enroll_until_full else size_bytes
        limit = (pages // PAGE_BYTES + 16) * PAGE_BYTES
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    def free() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    play(Scene(data, fill, free))


def play_on_small_disk(play: Callable[[Scene], None], disk: Path) -> None:
    """A file takes all but a few pages from the moment that the disk is full."""
    filler = disk / "filler"

    def fill() -> None:
        if filler.exists():
            return
        free_bytes = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler.write_bytes(bytes(max(0, free_bytes - 16 * PAGE_BYTES)))

    play(Scene(disk / "data", fill, lambda: filler.unlink(missing_ok=True)))


def run(target: Callable[[Callable[[Scene], None], Path], None], *args: object) -> None:
    """In a process of its own, which a full disk must not kill."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    process.start()
    process.join()
    assert process.exitcode == 0, "see the traceback of the child above"


@pytest.mark.fault
@pytest.mark.parametrize("play", PLAYS)
def test_when_files_may_not_grow_nothing_is_lost(play: Callable[[Scene], None], tmp_path: Path) -> None:
    run(play_with_file_size_limit, play, tmp_path / "data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={DISK_BYTES}"
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounting.returncode:
        pytest.skip("no right to mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault
@pytest.mark.parametrize("play", PLAYS)
def test_when_the_disk_is_full_nothing_is_lost(play: Callable[[Scene], None], small_disk: Path) -> None:
    run(play_on_small_disk, play, small_disk)
