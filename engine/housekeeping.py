"""What an open gallery needs besides its requests: expiry, builds, verification, erasures brought to an end.

Every process that has the gallery open does this; what one has done the others find done. Knows nothing of
what is asked of a gallery.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import UnavailableError
from engine.live_index import LiveIndex, report_nothing
from engine.store import changes
from engine.store.gallery_store import GalleryStore
from engine.types import Vector

EXPIRED_MAX = 1000
"""Identities whose time is over that one step removes."""
ERASE_WAIT_S_MAX = 10.0
"""Longest wait for processes to close files that hold what was erased: idle ones do within half a second,
busy ones at the end of a read."""
ERASE_POLL_S = 0.01
ERASE_RETRY_AFTER_S = 1.0


class Housekeeping:
    """Housekeeping of one gallery. Thread-safe."""

    def __init__(self, store: GalleryStore, index: LiveIndex):
        self._store = store
        self._index = index
        self._erasing = threading.Lock()

    def maintain(self, progress: Callable[[int, int], None] = report_nothing) -> None:
        """One step: forget who expired, verify and rebuild the index where due, go on with erasures.

        `progress` is that of a build, and what it raises ends the build or the wait for one.
        """
        self._index.refresh()
        self._store.forget_dead_readers()
        now_ms = self._store.now_ms()
        with self._store.read() as reader:
            has_expired = bool(reader.expired(now_ms, 1))
        if has_expired:
            self._store.write(lambda writer: changes.remove_expired(writer, now_ms, EXPIRED_MAX))
        self._index.verify()
        self._index.build_if_due(progress)
        if self._erasing.acquire(blocking=False):
            try:
                # Old files that a process has open are left to the next round, of whichever process.
                self._erase((), progress)
            finally:
                self._erasing.release()

    def erase(self, removed: Sequence[Vector] = (), *, wait_s: float = ERASE_WAIT_S_MAX) -> None:
        """Where an erasure was promised and not yet done, write store and index anew.

        Returns after no file of the gallery holds what was removed, and no process has an old one open.
        `removed` are vectors that the new files are searched for. Raises UnavailableError where a process
        keeps an old file open for `wait_s`: the erasure then stays pending, and housekeeping ends it;
        GalleryNotFoundError where the gallery was deleted meanwhile.
        """
        give_up = time.monotonic() + wait_s
        with self._erasing, self._store.unless_deleted():
            while held := self._erase(removed):
                if time.monotonic() > give_up:
                    names = ", ".join(f"{path.parent.name}/{path.name}" for path in held)
                    raise UnavailableError(
                        f"removed, but not yet erased: a process still has old files open ({names})",
                        hint="Repeat the request with the same request_id to be told when they are gone.",
                        retry_after_s=ERASE_RETRY_AFTER_S,
                    )
                time.sleep(ERASE_POLL_S)
                # This process may be the one.
                self._index.refresh()

    def close(self) -> None:
        """Wait for an erasure under way, which ends once the store is closed."""
        with self._erasing:
            pass

    def _erase(
        self, removed: Sequence[Vector], progress: Callable[[int, int], None] = report_nothing
    ) -> list[Path]:
        """Do what is to be done for a pending erasure; returns old files that some process has open."""
        with self._store.read() as reader:
            sequence = reader.state().erase_sequence
        if sequence:
            self._index.forget(sequence, progress)
            self._store.erase(removed)
        # Also where nothing is pending: another process may have done the work and not have unlinked them.
        return [*self._index.remove_older(), *self._store.remove_retired()]
