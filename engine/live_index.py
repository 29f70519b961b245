"""A gallery's index kept in step with its store: opened, caught up from the journal, rebuilt.

Several processes do this beside each other on one gallery. The store tells each of them which generation is
current and what was written since; nobody sends messages. A new generation is taken up by housekeeping, while
searches go on with the old one and the journal. Knows nothing of identities' names, thresholds or the wire.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.builder import Arguments, build_apart, build_here
from engine.errors import CorruptDataError, UnavailableError
from engine.generations import Generations
from engine.index.generation import Generation
from engine.index.neighbours import lacks_neighbours
from engine.index.search import Snapshot
from engine.index.settings import IndexSettings
from engine.store import changes
from engine.store.columns import collect, columns_of
from engine.store.gallery_store import GalleryStore
from engine.store.records import State
from engine.store.tables import Reader
from engine.types import Consistency, EmbeddingContract

CATCH_UP_BLOCK_ROWS = 1000
"""Rows of the journal applied at once: what a search waits for between two looks at the clock."""
OPEN_BLOCK_ROWS = 50_000
"""The same while a gallery is opened and nobody waits for less."""
VIEWS_MAX = 32
"""Views of the store opened for one search while other threads are ahead of each of them."""
RETRY_AFTER_S = 0.25
"""When to ask again a process that is behind: by then its housekeeping has caught up."""
_log = logging.getLogger(__name__)


def report_nothing(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


class LiveIndex:
    """The searchable state of one gallery in this process. Thread-safe."""

    def __init__(
        self,
        store: GalleryStore,
        contract: EmbeddingContract,
        settings: IndexSettings,
        *,
        is_auto_off: bool = False,
    ):
        """`is_auto_off` where the crowding correction AUTO corrects nothing, whatever a build would find."""
        self._store = store
        self._is_auto_off = is_auto_off
        self._contract = contract
        self._settings = settings
        self._generations = Generations(store.index_folder, contract.digest, settings.search_device)
        self._opening = threading.Lock()
        """Held by who opens a generation; taken before the next one."""
        self._advancing = threading.Lock()
        """Held by who replaces the snapshot."""
        self._building = threading.Condition()
        self._num_building = 0
        self._is_closing = False
        self._withdrawn = 0
        """Number of a generation found damaged; it is not opened again."""
        self._verified = 0
        self._snapshot = self._opened()
        with self._generations.building() as lock:
            if lock is not None:
                self._remove_unfinished()

    @contextmanager
    def view(self, consistency: Consistency = Consistency.STRONG) -> Iterator[tuple[Reader, Snapshot]]:
        """A view of the store and the snapshot at its sequence; for EVENTUAL, or at an earlier one.

        Another thread may bring the snapshot past a view. Of an identity whose templates were replaced in
        between, that view knows only the old ones and the snapshot only the new: a newer view is opened then.
        Raises what `current` raises.
        """
        for _ in range(VIEWS_MAX):
            with self._store.read() as reader:
                snapshot = self.current(reader, consistency)
                if snapshot.sequence <= reader.state().sequence:
                    yield reader, snapshot
                    return
        raise UnavailableError(
            "writes outran every view of the gallery that a search opened", retry_after_s=RETRY_AFTER_S
        )

    def current(self, reader: Reader, consistency: Consistency = Consistency.STRONG) -> Snapshot:
        """The snapshot at the reader's sequence, or a later one.

        Where that would take longer than the settings allow: UnavailableError, or for EVENTUAL the snapshot
        that is there. What was caught up is kept for the next search.
        """
        state = reader.state()
        snapshot = self._snapshot
        if snapshot.sequence >= state.sequence:
            return snapshot
        give_up = time.monotonic() + self._settings.catch_up_ms_max / 1e3
        is_eventual = consistency is Consistency.EVENTUAL
        if snapshot.sequence < state.generation_sequence and not is_eventual:
            # The journal no longer reaches back to the snapshot.
            self._take_up(give_up)
        if self._advancing.acquire(timeout=0 if is_eventual else self._settings.catch_up_ms_max / 1e3):
            try:
                self._catch_up(reader, state, give_up)
            finally:
                self._advancing.release()
        snapshot = self._snapshot
        if self._is_closing:
            # The snapshot may have been let go of: nothing found in it would be no answer.
            raise UnavailableError("the gallery is closing")
        if snapshot.sequence < state.sequence and not is_eventual:
            raise UnavailableError(
                f"this process has applied {snapshot.sequence} of the gallery's {state.sequence} writes",
                hint="Ask again shortly, or ask for EVENTUAL consistency.",
                retry_after_s=RETRY_AFTER_S,
            )
        return snapshot

    def refresh(self) -> None:
        """Take up a new generation, withdraw a damaged one, and apply the whole journal.

        To be called a few times a second: searches then find little left to do, and other processes that
        erase need not wait for this one to leave old files. Searches go on meanwhile.
        """
        self._take_up(None)
        while True:
            with self._store.read() as reader, self._advancing:
                state = reader.state()
                if not state.generation_sequence <= self._snapshot.sequence < state.sequence:
                    return
                self._apply_block(reader, state)

    def build(self, progress: Callable[[int, int], None]) -> tuple[int, int]:
        """Build a new generation and make it current; returns its number and the sequence it covers.

        While another thread or process builds, waits for it, and answers with its generation where that
        covers every write up to now. Searches and writes go on meanwhile. `progress` may raise to end wait or
        build. Raises StorageFullError, UnavailableError where the building process was killed; the old
        generation then stays.
        """
        asked = self._state()
        with self._locked_build(progress, asked.num_templates) as lock:
            state = self._state()
            is_new = state.generation > asked.generation and state.generation_sequence >= asked.sequence
            if is_new and not self._is_withdrawn(state.generation):
                self.refresh()
                return state.generation, state.generation_sequence
            return self._build(lock, progress)

    def forget(self, sequence: int, progress: Callable[[int, int], None] = report_nothing) -> None:
        """See to it that no new file of the index holds what was removed up to `sequence`.

        The old ones are gone when `remove_older` returns none. `progress` and errors are those of `build`.
        """
        # Behind the lock: a build under way may have read what was removed since.
        with self._locked_build(progress, 0) as lock:
            state = self._state()
            if state.generation and state.generation_sequence < sequence:
                self._build(lock, progress)
            else:
                self._remove_unfinished()

    def remove_older(self) -> list[Path]:
        """Unlink generations that were replaced; returns those that some process still has open."""
        return self._generations.remove_older(self._state().generation)

    def is_build_due(self) -> bool:
        """Whether delta or journal is long, a good part of the generation is dead, or it was withdrawn.

        Also where thresholds lack what a build tells of the gallery's people.
        """
        with self._store.read() as reader:
            state, chosen = reader.state(), reader.settings()
        settings, snapshot = self._settings, self._snapshot
        generation = snapshot.generation
        tenth = generation.num_rows // 10 if generation else 0
        return (
            snapshot.delta.num_rows > max(settings.delta_rows_max, tenth)
            or snapshot.dead_share > settings.dead_share_max
            or state.sequence - state.generation_sequence > max(settings.journal_rows_max, tenth)
            or self._withdrawn > 0
            or lacks_neighbours(
                chosen,
                generation,
                state.num_identities,
                snapshot.delta.num_rows,
                settings.crowding_templates_max,
                is_auto_off=self._is_auto_off,
            )
        )

    def build_if_due(self, progress: Callable[[int, int], None]) -> None:
        """Build where it is due, and no other thread or process is already building. Raises as `build`."""
        if not self.is_build_due():
            return
        with self._counted(), self._generations.building() as lock:
            if lock is None:
                return
            # Again: another process may just have done it.
            self.refresh()
            if self.is_build_due():
                self._build(lock, self._closable(progress))

    def verify(self) -> None:
        """Verify the vectors of the current generation once, in one of the processes that have it open.

        Where they are damaged every process withdraws it at its next `refresh`.
        """
        generation = self._snapshot.generation
        if generation is None or generation.manifest.number == self._verified:
            return
        is_whole = self._generations.verify(generation)
        if is_whole is None:
            return
        self._verified = generation.manifest.number
        if not is_whole:
            if not self._generations.is_damaged(self._verified):
                self._withdrawn = self._verified  # it could not be marked, on a full disk
            self.refresh()

    def close(self) -> None:
        """End a build under way, and let go of the files."""
        with self._building:
            self._is_closing = True
            self._building.wait_for(lambda: not self._num_building)
        with self._opening, self._advancing:
            self._snapshot = Snapshot.base(None, 0, self._contract.dimension)

    def _state(self) -> State:
        with self._store.read() as reader:
            return reader.state()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._building:
            if self._is_closing:
                raise UnavailableError("the gallery is closing")
            self._num_building += 1
        try:
            yield
        finally:
            with self._building:
                self._num_building -= 1
                self._building.notify_all()

    def _closable(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """The same progress, that ends the build where the gallery is being closed."""

        def report(done: int, total: int) -> None:
            if self._is_closing:
                raise UnavailableError("the gallery is closing; the build was ended")
            progress(done, total)

        return report

    @contextmanager
    def _locked_build(self, progress: Callable[[int, int], None], num_rows: int) -> Iterator[int]:
        report = self._closable(progress)
        with self._counted(), self._generations.building(lambda: report(0, num_rows)) as lock:
            assert lock is not None, "it was waited for"
            yield lock

    def _build(self, lock: int, progress: Callable[[int, int], None]) -> tuple[int, int]:
        progress = self._closable(progress)
        number = self._store.write(changes.next_generation)
        self._remove_unfinished()
        try:
            num_rows, settings = self._state().num_templates, self._settings
            told = Arguments(
                number,
                settings.flat_rows_max,
                settings.build_threads,
                self._store.settings,
                settings.crowding_templates_max,
                self._is_auto_off,
            )
            if num_rows <= settings.build_inline_rows_max:
                sequence = build_here(self._store, told, progress)
            else:
                sequence = build_apart(self._store.folder, told, progress, lock)
        except BaseException:
            # A killed builder leaves what it had written.
            self._remove_unfinished()
            raise
        progress(num_rows, num_rows)
        self.refresh()
        self._generations.remove_older(number)
        return number, sequence

    def _remove_unfinished(self) -> None:
        self._generations.remove_unfinished(self._state().generation)

    def _take_up(self, give_up: float | None) -> None:
        """Make the snapshot one of the current generation; `give_up` bounds the wait for others who do."""
        if not self._opening.acquire(timeout=-1 if give_up is None else max(0.0, give_up - time.monotonic())):
            return
        try:
            if self._is_closing or self._is_generation_current(self._state()):
                return
            opened = self._opened()
            while not self._is_taken(opened):
                if opened.sequence < self._state().generation_sequence:
                    opened = self._opened()
        finally:
            self._opening.release()

    def _is_taken(self, opened: Snapshot) -> bool:
        """Go on with this snapshot; False where the journal was trimmed behind it or this view is too old."""
        with self._store.read() as reader, self._advancing:
            state = reader.state()
            # What other threads searched already must stay found.
            if opened.sequence < state.generation_sequence or state.sequence < self._snapshot.sequence:
                return False
            while opened.sequence < state.sequence:
                opened = self._advanced(opened, reader, state, CATCH_UP_BLOCK_ROWS)[0]
            self._snapshot = opened
            return True

    def _is_generation_current(self, state: State) -> bool:
        number = self._snapshot.generation_number
        if number and self._is_withdrawn(number):
            return False
        return state.generation in (number, self._withdrawn)

    def _is_withdrawn(self, number: int) -> bool:
        return self._withdrawn == number or self._generations.is_damaged(number)

    def _opened(self) -> Snapshot:
        """The current generation with all that the journal added since."""
        while True:
            state = self._state()
            generation = self._generation(state) if state.generation else None
            with self._store.read() as reader:
                now = reader.state()
                if now.generation != state.generation:
                    continue  # replaced meanwhile, and its files perhaps removed
                if generation is None and state.generation:
                    return self._from_store(reader, now)
                base = Snapshot.base(generation, now.generation_sequence, self._contract.dimension)
                self._withdrawn = 0
                while base.sequence < now.sequence:
                    base = self._advanced(base, reader, now, OPEN_BLOCK_ROWS)[0]
                return base

    def _generation(self, state: State) -> Generation | None:
        """The current generation opened; None where it is damaged, or was replaced meanwhile."""
        if self._withdrawn == state.generation:
            return None
        try:
            return self._generations.open(state.generation)
        except CorruptDataError as error:
            if self._state().generation == state.generation:
                # The index is only a cache: the store has everything, at the price of memory until a build.
                # As text: with its traceback a kept record would keep callers' frames, and so the generation.
                _log.error("generation withdrawn, searching the store's own vectors: %s", str(error))
                self._withdrawn = state.generation
            return None

    def _from_store(self, reader: Reader, state: State) -> Snapshot:
        columns = collect(reader, report_nothing)
        return Snapshot.base(None, 0, self._contract.dimension).advanced(state.sequence, columns, ())

    def _catch_up(self, reader: Reader, state: State, give_up: float) -> None:
        """Bring the snapshot forward as far as one search may."""
        num_rows = 0
        while state.generation_sequence <= self._snapshot.sequence < state.sequence:
            if num_rows >= self._settings.catch_up_rows_max or (num_rows and time.monotonic() > give_up):
                return
            num_rows += self._apply_block(reader, state)

    def _apply_block(self, reader: Reader, state: State) -> int:
        self._snapshot, num_rows = self._advanced(self._snapshot, reader, state, CATCH_UP_BLOCK_ROWS)
        return num_rows

    def _advanced(
        self, snapshot: Snapshot, reader: Reader, state: State, rows_max: int
    ) -> tuple[Snapshot, int]:
        """The snapshot with about `rows_max` rows more of the journal, and how many they were.

        A template that a later write removed is left out at once.
        """
        added, removed = list[int](), list[int]()
        num_rows, sequence = 0, snapshot.sequence
        for row in reader.journal(sequence + 1, state.sequence):
            sequence += 1
            added += row.added
            removed += row.removed
            num_rows += 1 + len(row.added) + len(row.removed)
            if num_rows >= rows_max:
                break
        return snapshot.advanced(sequence, columns_of(reader, added), removed), num_rows
