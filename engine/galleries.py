"""All galleries of one data folder: created, found by name or alias, kept open, maintained, deleted.

Knows nothing of pictures or the wire.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from engine import rules
from engine.config import Settings
from engine.decision.calibration import Calibration, shipped
from engine.errors import (
    CorruptDataError,
    EngineError,
    GalleryNotFoundError,
    NewerFormatError,
    UnavailableError,
)
from engine.gallery import Gallery
from engine.index.gpu import refuse_if_absent
from engine.index.settings import IndexSettings
from engine.limits import PAGE_ITEMS_DEFAULT
from engine.probe_statistics import ProbeCounters
from engine.slots import Slot, galleries_that_fit
from engine.store import changes
from engine.store.catalog import Catalog
from engine.store.environment import StoreSettings
from engine.store.gallery_store import GalleryStore
from engine.thresholds import Thresholds
from engine.types import EmbeddingContract, GalleryInfo, GallerySettings, Receipt

_log = logging.getLogger(__name__)

REFRESH_S = 0.25
"""Pause between two looks at what other processes wrote, where housekeeping runs by itself."""


class GalleriesSettings(Settings, frozen=True):
    """How the galleries of a data folder are kept."""

    store: StoreSettings = StoreSettings()
    index: IndexSettings = IndexSettings()
    open_galleries_max: Annotated[int, Meta(ge=1)] = 256
    """Galleries kept open; the least recently used is closed. A call that was just about to use that one is
    answered UNAVAILABLE and may be retried."""
    maintenance_s: Annotated[float, Meta(ge=0)] = 1.0
    """Pause between two rounds of housekeeping, seconds; 0: none, `maintain` is called by hand."""


class Galleries:
    """The galleries of one data folder, for this process or several together. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        settings: GalleriesSettings,
        clock: Callable[[], float],
        calibrations: Mapping[str, Calibration],
    ):
        self._catalog = catalog
        self.calibrations = calibrations
        """By the digest of their contract."""
        self.probe_counters = ProbeCounters()
        self._settings = settings
        self._clock = clock
        self._slots: OrderedDict[Path, Slot] = OrderedDict()
        self._slots_lock = threading.Lock()
        self._num_open_max = min(settings.open_galleries_max, galleries_that_fit())
        self._unvisited: list[str] = []
        self._stop = threading.Event()
        self._catalog_version = 0
        # Two, for a build must not keep this process from following what others write.
        self._threads = [
            threading.Thread(target=self._maintain_always, name="maintenance", daemon=True),
            threading.Thread(target=self._refresh_always, name="refresh", daemon=True),
        ]
        if settings.maintenance_s > 0:
            for thread in self._threads:
                thread.start()

    @classmethod
    def open(
        cls,
        data: Path,
        settings: GalleriesSettings = GalleriesSettings(),  # noqa: B008 - frozen
        *,
        clock: Callable[[], float] = time.time,
        lock_fd: int | None = None,
        calibrations: Mapping[str, Calibration] | None = None,
    ) -> Galleries:
        """Open or make a data folder, alone or, with `lock_fd`, together with other processes.

        `calibrations` by the digest of their contract; None: those that come with the engine.
        `lock_fd` is what `engine.store.folders.lock_folder(data)` returned here or in the process that this
        one inherited the descriptor from; it stays the caller's.

        Raises DataFolderError (unwritable, in use, on a network file system), NewerFormatError,
        CorruptDataError, StorageFullError; DeviceError where the device to search on is not there.
        """
        refuse_if_absent(settings.index.search_device)
        known = shipped() if calibrations is None else calibrations
        return cls(Catalog(data, settings.store, clock=clock, lock_fd=lock_fd), settings, clock, known)

    def create(
        self,
        gallery_id: str,
        contract: EmbeddingContract,
        settings: GallerySettings = GallerySettings(),  # noqa: B008 - frozen
        *,
        receipt: Receipt | None = None,
    ) -> GalleryInfo:
        """Make an empty gallery.

        Raises InvalidIdError, InvalidInputError, AlreadyExistsError, AnsweredBefore, RequestIdReusedError;
        PreconditionError for a target rate where there is no calibration of the contract.
        """
        rules.check_gallery_id(gallery_id)
        rules.check_contract(contract)
        rules.check_settings(settings)
        Thresholds(gallery_id, contract, self.calibrations.get(contract.digest)).check(settings)

        def describe(create_time: float) -> GalleryInfo:
            return GalleryInfo(gallery_id, contract, settings, 0, 0, 0, create_time)

        self._catalog.create(gallery_id, contract, settings, receipt, describe)
        return self.get(gallery_id).info()

    def get(self, name: str) -> Gallery:
        """The gallery of that id or alias, opened if need be.

        Raises GalleryNotFoundError, CorruptDataError, UnavailableError while closing.
        """
        self._refuse_while_closing()
        gallery_id, folder = self._catalog.find(name)
        with self._slots_lock:
            slot = self._slots.setdefault(folder, Slot())
            self._slots.move_to_end(folder)
            gallery = slot.gallery
        if gallery is not None:
            return gallery
        with slot.lock:
            if slot.gallery is None:
                slot.gallery = self._open(gallery_id, folder)
            gallery = slot.gallery
        self._close_beyond_limit()
        return gallery

    def get_where_it_fits(self, gallery_id: str) -> Gallery | None:
        """The gallery where it is open, or need close no other one to be; else None. Raises as `get`."""
        _, folder = self._catalog.find(gallery_id)
        with self._slots_lock:
            slot = self._slots.get(folder)
            num_open = sum(slot.gallery is not None for slot in self._slots.values())
        if slot is not None and slot.gallery is not None:
            return slot.gallery
        return self.get(gallery_id) if num_open < self._num_open_max else None

    def infos(self, *, after: str = "", limit: int = PAGE_ITEMS_DEFAULT) -> list[GalleryInfo]:
        """At most `limit` galleries with ids after `after`, in order of their ids."""
        ids = self._catalog.gallery_ids()
        listed: list[GalleryInfo] = []
        for gallery_id in ids[bisect.bisect_right(ids, after) :]:
            if len(listed) == limit:
                break
            # One that is deleted meanwhile is not there; the page is filled with those after it.
            with contextlib.suppress(GalleryNotFoundError):
                try:
                    listed.append(self._info(gallery_id))
                except (CorruptDataError, NewerFormatError) as error:
                    # It must not keep the others from being listed; asked for by name it answers so itself.
                    _log.error("gallery %s cannot be listed: %s", gallery_id, error)
        return listed

    def delete(self, gallery_id: str, *, receipt: Receipt | None = None) -> None:
        """Remove a gallery and its files; it is not found from the moment this begins.

        Raises GalleryNotFoundError, PreconditionError while an alias names it.
        """
        folder = self._catalog.begin_delete(gallery_id, receipt)
        with self._slots_lock:
            slot = self._slots.setdefault(folder, Slot())
        slot.close()
        self._catalog.finish_delete(folder)
        self.probe_counters.forget(gallery_id)
        with self._slots_lock:
            self._slots.pop(folder, None)

    def set_alias(self, alias: str, gallery_id: str, *, receipt: Receipt | None = None) -> str:
        """Make or move an alias; returns what it named before, or an empty text.

        Raises InvalidIdError, AlreadyExistsError, GalleryNotFoundError.
        """
        rules.check_gallery_id(alias, "alias")
        return self._catalog.set_alias(alias, gallery_id, receipt)

    def delete_alias(self, alias: str, *, receipt: Receipt | None = None) -> None:
        """Forget an alias. Raises GalleryNotFoundError."""
        self._catalog.delete_alias(alias, receipt)

    def aliases(self) -> dict[str, str]:
        """Alias to gallery id."""
        return self._catalog.aliases()

    def find_receipt(self, receipt: Receipt) -> bytes | None:
        """The first answer to a create, delete or alias write, or None."""
        return self._catalog.find_receipt(receipt)

    def warm_up(self) -> None:
        """Open galleries, as many as are kept open, so that the first search need not.

        A damaged one is logged: it must not keep the others from being served.
        """
        for gallery_id in self._catalog.gallery_ids()[: self._num_open_max]:
            try:
                self.get(gallery_id)
            except EngineError as error:
                _log.error("gallery %s cannot be opened: %s", gallery_id, error)

    def refresh(self) -> None:
        """Follow what other processes wrote, in every open gallery; close those that were deleted.

        An error of one is logged once, the others go on.
        """
        self._close_deleted()
        for slot in self._all_slots():
            gallery = slot.gallery
            if gallery is None or self._stop.is_set():
                continue
            try:
                gallery.refresh()
                slot.problem = ""
            except UnavailableError:
                continue  # closed meanwhile
            except Exception as error:  # noqa: BLE001 - logged, and the others must go on
                # The boundary of the refreshing thread, which nobody would start again.
                if slot.problem != str(error):
                    slot.problem = str(error)
                    _log.exception("gallery %s cannot follow its store", gallery.gallery_id)

    def maintain(self) -> None:
        """One round of housekeeping over the open galleries; an error of one is logged, the others go on.

        A gallery whose housekeeping failed is left alone for twice as long each time, up to
        MAINTENANCE_PAUSE_S_MAX: on a full disk another try at once would only fill it again.
        """
        self._close_deleted()
        self._finish_deletions()
        for slot in self._all_slots():
            gallery = slot.gallery
            if gallery is None or self._stop.is_set() or time.monotonic() < slot.maintain_from:
                continue
            try:
                gallery.maintain(self._report)
                slot.maintenance_pause_s = 0.0
            except (UnavailableError, GalleryNotFoundError):
                continue  # closed or deleted meanwhile
            except Exception:  # noqa: BLE001 - logged, and the others must go on
                # The boundary of the housekeeping thread, which nobody would start again.
                slot.postpone()
                _log.exception(
                    "maintenance of gallery %s, again in %g s", gallery.gallery_id, slot.maintenance_pause_s
                )

    def close(self) -> None:
        """Finish waiting writes, close every gallery, let another process use the folder."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        for slot in self._all_slots():
            slot.close()
        self._catalog.close()

    def _open(self, gallery_id: str, folder: Path) -> Gallery:
        store = self._open_store(gallery_id, folder)
        try:
            return Gallery(gallery_id, store, self._settings.index, self.calibrations, self.probe_counters)
        except BaseException as error:
            store.close()
            if isinstance(error, EngineError):
                # As above.
                self._refuse_deleted(gallery_id, folder)
            raise

    def _open_store(self, gallery_id: str, folder: Path) -> GalleryStore:
        # Again, now that nobody else here can close or delete it: either may have happened meanwhile.
        self._refuse_while_closing()
        self._refuse_deleted(gallery_id, folder)
        try:
            return GalleryStore(
                folder, self._settings.store, clock=self._clock, is_shared=self._catalog.is_shared
            )
        except EngineError:
            # Another process may be unlinking it.
            self._refuse_deleted(gallery_id, folder)
            raise

    def _refuse_deleted(self, gallery_id: str, folder: Path) -> None:
        if self._catalog.find(gallery_id)[1] != folder:
            raise GalleryNotFoundError(f"gallery {gallery_id!r} was deleted")

    def _all_slots(self) -> list[Slot]:
        with self._slots_lock:
            return list(self._slots.values())

    def _close_deleted(self) -> None:
        """Close galleries that another process deleted."""
        if self._stop.is_set():
            return
        with self._slots_lock:
            opened = dict(self._slots)
        version = self._catalog.version()
        if version == self._catalog_version:
            return
        for folder in opened.keys() - self._catalog.folders():
            gallery = opened[folder].gallery
            opened[folder].close()
            if gallery is not None:
                self.probe_counters.forget(gallery.gallery_id)
            with self._slots_lock:
                if self._slots.get(folder) is opened[folder]:
                    del self._slots[folder]
        self._catalog_version = version

    def _finish_deletions(self) -> None:
        """Unlink what a process that was killed in the middle of a deletion left."""
        for folder in [] if self._stop.is_set() else self._catalog.deletions():
            try:
                self._catalog.finish_delete(folder)
            except EngineError as error:
                _log.error("the deleted gallery in %s cannot be unlinked: %s", folder, error)

    def _refuse_while_closing(self) -> None:
        if self._stop.is_set():
            raise UnavailableError("the server is closing")

    def _close_beyond_limit(self) -> None:
        with self._slots_lock:
            opened = [slot for slot in self._slots.values() if slot.gallery is not None]
            idle = opened[: max(0, len(opened) - self._num_open_max)]
        for slot in idle:
            slot.close()

    def _maintain_always(self) -> None:
        while not self._stop.wait(self._settings.maintenance_s):
            self.maintain()
            self._visit_next()

    def _refresh_always(self) -> None:
        while not self._stop.wait(REFRESH_S):
            self.refresh()

    def _visit_next(self) -> None:
        """Open one of the galleries that are not, in turn, so that nobody's erasure stays pending."""
        with self._slots_lock:
            num_open = sum(slot.gallery is not None for slot in self._slots.values())
        try:
            if not self._unvisited and num_open >= self._num_open_max:
                self._unvisited = self._catalog.gallery_ids()
            if self._unvisited:
                self.get(self._unvisited.pop())
        except EngineError as error:
            _log.error("housekeeping: %s", error)

    def _report(self, _done: int, _total: int) -> None:
        """Progress of a build; a server that stops does not wait for its end."""
        self._refuse_while_closing()

    def _info(self, gallery_id: str) -> GalleryInfo:
        """A gallery as it is now; one that is closed is not opened for it, only its store."""
        gallery_id, folder = self._catalog.find(gallery_id)
        with self._slots_lock:
            slot = self._slots.setdefault(folder, Slot())
            gallery = slot.gallery
        if gallery is not None:
            return gallery.info()
        with slot.lock:
            if slot.gallery is not None:
                return slot.gallery.info()
            store = self._open_store(gallery_id, folder)
            try:
                with store.read() as reader:
                    return changes.describe_gallery(gallery_id, reader)
            finally:
                store.close()
