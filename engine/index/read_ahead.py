"""A mapped file fetched from the disk by whole blocks.

FAISS maps vectors for access at random: Linux then reads a page of 4 KB at a time, a million templates in
10 s instead of 1, and every search waits in the same queue. Only advice: where it cannot be given, reading is
slow, as before.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class ReadAhead:
    """Tells the system which parts of a file will be read; the file may be gone."""

    def __init__(self, path: Path):
        self._descriptor = -1
        with contextlib.suppress(OSError):
            self._descriptor = os.open(path, os.O_RDONLY)

    def will_need(self, first_byte: int, num_bytes: int) -> None:
        """Begin to read this part, which may lie beyond the end, and return."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, first_byte, num_bytes, os.POSIX_FADV_WILLNEED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
