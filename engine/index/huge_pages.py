"""Files mapped by pages of 2 MB where the kernel has them for files; elsewhere as ever.

Rows looked at here and there cost more to find in the page tables than to read: 40 ns a row by pages of 4 KB,
13 by pages of 2 MB. Linux decides on the size of its pages when it reads a file for the first time, so what
was just written is first to be forgotten.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def mapped(path: Path) -> NDArray[np.uint8]:
    """A file's content, read-only. Raises OSError."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty(0, np.uint8)
        content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with contextlib.suppress(OSError):  # a kernel without them
        content.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(content, np.uint8)


def forget(path: Path) -> None:
    """Have the next reader of a synced file read it from the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
