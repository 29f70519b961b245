"""Memory of a process and its children, and the page cache of files. Linux only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

KIB = 1024


def family(pid: int) -> list[int]:
    """The process and all below it that live."""
    found = [pid]
    for process in found:
        with contextlib.suppress(OSError):  # it ended meanwhile
            for children in Path(f"/proc/{process}/task").glob("*/children"):
                found.extend(int(child) for child in children.read_text().split())
    return found


def pss_bytes(pid: int) -> int:
    """Proportional share of a process: pages that several map are divided among them."""
    return _rollup(pid, "Pss:")


def rss_bytes(pid: int) -> int:
    """Pages that a process maps and that are in memory, shared ones in full."""
    return _rollup(pid, "Rss:")


def anonymous_bytes(pid: int) -> int:
    """Private memory of a process that no file stands behind."""
    return _rollup(pid, "Anonymous:")


def drop_page_cache(folder: Path) -> None:
    """Ask the system to forget the pages of all files below a folder; they must not be in use."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _rollup(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it ended meanwhile
    return sum(int(line.split()[1]) * KIB for line in lines if line.startswith(name))
