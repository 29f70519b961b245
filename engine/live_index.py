"""A gallery's index kept in step with its store: opened, caught up from the journal, rebuilt.

Knows nothing of identities' names, thresholds or the wire.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Annotated

from msgspec import Meta

from engine.config import Settings
from engine.errors import CorruptDataError
from engine.index.build import build, collect, remove_other_generations
from engine.index.generation import Generation
from engine.index.search import Row, Snapshot
from engine.store import changes
from engine.store.gallery_store import GalleryStore
from engine.store.records import State
from engine.store.tables import Reader
from engine.types import EmbeddingContract, Vector

_log = logging.getLogger(__name__)


class IndexSettings(Settings, frozen=True):
    """When a gallery's index is rebuilt."""

    delta_rows_max: Annotated[int, Meta(ge=0)] = 50_000
    """Templates searched in memory before a generation is built."""
    dead_share_max: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Share of a generation's rows removed before it is built anew."""
    journal_rows_max: Annotated[int, Meta(ge=1)] = 100_000
    """Writes since the generation before it is built anew: all are read when the gallery is opened."""


def report_nothing(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


class LiveIndex:
    """The searchable state of one gallery. Thread-safe."""

    def __init__(self, store: GalleryStore, contract: EmbeddingContract, settings: IndexSettings):
        self._store = store
        self._contract = contract
        self._settings = settings
        self._catching_up = threading.Lock()
        self._building = threading.Lock()
        self._withdrawn = 0
        """Number of a generation found damaged; it is not opened again."""
        self._built: Generation | None = None
        """Just built, to be taken up by whoever searches next."""
        with store.read() as reader:
            state = reader.state()
            self._snapshot = self._opened(reader, state)
        remove_other_generations(store.index_folder, keep=state.generation)

    def current(self, reader: Reader) -> Snapshot:
        """The snapshot at the reader's sequence, or a later one."""
        state = reader.state()
        snapshot = self._snapshot
        if snapshot.sequence >= state.sequence and self._is_generation_current(snapshot, state):
            return snapshot
        with self._catching_up:
            snapshot = self._snapshot
            if snapshot.sequence < state.generation_sequence or not self._is_generation_current(
                snapshot, state
            ):
                snapshot = self._opened(reader, state)
            elif snapshot.sequence < state.sequence:
                snapshot = self._advanced(snapshot, reader, state)
            self._snapshot = snapshot
        return snapshot

    def build(self, progress: Callable[[int, int], None]) -> tuple[int, int]:
        """Build a new generation and make it current; returns its number and the sequence it covers.

        Searches and writes go on meanwhile. Raises StorageFullError; the old generation then stays.
        """
        with self._building:
            return self._build(progress)

    def forget(self, sequence: int) -> None:
        """See to it that no file of the index holds what was removed up to `sequence`.

        Raises as `build`.
        """
        # Behind the lock: a build under way may have read what was removed since.
        with self._building:
            with self._store.read() as reader:
                state = reader.state()
            if state.generation and state.generation_sequence < sequence:
                self._build(report_nothing)
            else:
                remove_other_generations(self._store.index_folder, keep=state.generation)

    def is_build_due(self) -> bool:
        """Whether delta or journal is long, a good part of the generation is dead, or it was withdrawn."""
        settings = self._settings
        with self._store.read() as reader:
            state = reader.state()
            snapshot = self.current(reader)
        return (
            snapshot.delta.num_rows > settings.delta_rows_max
            or snapshot.dead_share > settings.dead_share_max
            or state.sequence - state.generation_sequence > settings.journal_rows_max
            or self._withdrawn > 0
        )

    def close(self) -> None:
        """Wait for a build under way."""
        with self._building:
            pass

    def _build(self, progress: Callable[[int, int], None]) -> tuple[int, int]:
        number = self._store.write(changes.next_generation)
        # The view of the store is let go before anything is written: it holds back the reuse of pages.
        with self._store.read() as reader:
            state = reader.state()
            columns = collect(_rows(reader), state.num_templates, self._contract.dimension, progress)
        progress(state.num_templates, state.num_templates)
        self._built = build(
            self._store.index_folder,
            columns,
            number=number,
            sequence=state.sequence,
            contract_digest=self._contract.digest,
        )
        self._store.write(lambda writer: changes.make_current(writer, number, state.sequence))
        with self._store.read() as reader:
            self.current(reader)
        remove_other_generations(self._store.index_folder, keep=number)
        return number, state.sequence

    def _opened(self, reader: Reader, state: State) -> Snapshot:
        """The current generation with all that the journal added since."""
        dimension = self._contract.dimension
        if not state.generation:
            base = Snapshot.base(None, 0, dimension)
        else:
            try:
                opened = self._generation(state.generation)
                base = Snapshot.base(opened, state.generation_sequence, dimension)
                self._withdrawn = 0
            except CorruptDataError as error:
                # The index is only a cache: the store still has everything, at the price of memory until the
                # next build.
                _log.error("generation withdrawn, searching the store's own vectors: %s", error)
                self._withdrawn = state.generation
                rows = list(_as_rows(_rows(reader)))
                return Snapshot.base(None, 0, dimension).advanced(state.sequence, rows, ())
        return self._advanced(base, reader, state)

    def _generation(self, number: int) -> Generation:
        # What was just built is verified and open: searches must not wait while it is verified once more.
        built, self._built = self._built, None
        if built is not None and built.manifest.number == number:
            return built
        return Generation(self._store.index_folder / str(number), self._contract.digest)

    def _is_generation_current(self, snapshot: Snapshot, state: State) -> bool:
        return snapshot.generation_number >= state.generation or self._withdrawn == state.generation

    def _advanced(self, snapshot: Snapshot, reader: Reader, state: State) -> Snapshot:
        added: list[Row] = []
        removed: list[int] = []
        for entry in reader.journal(snapshot.sequence + 1, state.sequence):
            for template_id in entry.added:
                record = reader.template(template_id)
                if record is not None:  # None: removed again by a later row of this very journal
                    added.append(Row(template_id, record.identity_number, record.vector))
            removed.extend(entry.removed)
        return snapshot.advanced(state.sequence, added, removed)


def _rows(reader: Reader) -> Iterator[tuple[int, int, Vector]]:
    for template_id, record in reader.templates():
        yield template_id, record.identity_number, record.vector


def _as_rows(rows: Iterator[tuple[int, int, Vector]]) -> Iterator[Row]:
    for row in rows:
        yield Row(*row)
