"""Places of galleries that may be open, and how many may be. Knows nothing of how they are found."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
from dataclasses import dataclass, field

from engine.gallery import Gallery

MAINTENANCE_PAUSE_S_MAX = 300.0
"""Longest pause after housekeeping of a gallery failed."""
FILES_PER_GALLERY = 12
"""File descriptors of an open gallery, and some to spare while it is rebuilt."""
FILES_ELSEWHERE = 256
"""File descriptors left to connections, libraries and logs."""


@dataclass
class Slot:
    """Place of one gallery, open or not; whoever opens, closes or deletes it holds the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    gallery: Gallery | None = None

    maintain_from: float = 0.0
    """On the clock of time.monotonic, seconds."""
    maintenance_pause_s: float = 0.0
    problem: str = ""
    """That the last refresh was logged with."""

    def postpone(self) -> None:
        """Leave housekeeping alone for twice as long as last time."""
        self.maintenance_pause_s = min(MAINTENANCE_PAUSE_S_MAX, max(1.0, 2 * self.maintenance_pause_s))
        self.maintain_from = time.monotonic() + self.maintenance_pause_s

    def close(self) -> None:
        """Close the gallery if it is open; nobody can open it meanwhile."""
        with self.lock:
            gallery, self.gallery = self.gallery, None
            if gallery is not None:
                gallery.close()


def galleries_that_fit() -> int:
    """Galleries that the system lets this process keep open, after raising its own limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return (
        sys.maxsize
        if soft == resource.RLIM_INFINITY
        else max(1, (soft - FILES_ELSEWHERE) // FILES_PER_GALLERY)
    )
