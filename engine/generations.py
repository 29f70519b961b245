"""Generations of one gallery on disk, used by several processes: opened, built one at a time, removed.

::

    index/             held alone (flock) by the one process that builds
    index/<n>/         held, together with others, by each process that has generation n open
    index/<n>/damaged  says that its vectors do not fit their checksum: nobody opens it again

All locks are the kernel's and end with the process. Knows nothing of snapshots or what the store holds.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import CorruptDataError, DeviceError
from engine.index.generation import TEMPLATE_IDS, Generation
from engine.store import folders
from engine.store.environment import translated

DAMAGED = "damaged"
LOCK_POLL_S = 0.05
"""Pause between two looks whether a build is over."""

_log = logging.getLogger(__name__)


class Generations:
    """The generations in a gallery's index folder. Thread-safe."""

    def __init__(self, folder: Path, contract_digest: str, search_device: str = "cpu"):
        self.folder = folder
        self._search_device = search_device
        self._contract_digest = contract_digest

    def open(self, number: int) -> Generation:
        """Open a generation; its folder is held against removal as long as the object lives.

        Raises CorruptDataError where it is damaged or gone.
        """
        folder = self._folder(number)
        held = folders.hold(folder)
        if held is None:
            raise CorruptDataError(f"generation {folder} is missing")
        try:
            if self.is_damaged(number):
                raise CorruptDataError(f"the vectors of generation {folder} were found damaged")
            generation = Generation(folder, self._contract_digest)
        except BaseException:
            os.close(held)
            raise
        weakref.finalize(generation, os.close, held)
        self._use_device(generation)
        return generation

    def _use_device(self, generation: Generation) -> None:
        if self._search_device == "cpu":
            return
        try:
            generation.use_device(self._search_device)
        except DeviceError as error:
            # Answers matter more than where they come from: the device was there when we started, but its
            # memory may be taken, by the generation before this one as well.
            _log.error("%s is searched on the CPU: %s %s", generation.folder, error, error.hint)

    def is_damaged(self, number: int) -> bool:
        """Whether some process found that its vectors do not fit their checksum."""
        return (self._folder(number) / DAMAGED).exists()

    def verify(self, generation: Generation) -> bool | None:
        """Verify a generation's vectors, reading the whole file; False: they are damaged.

        None where a process that has it open has verified them, or is about to. What does not hold is marked
        for all processes.
        """
        number = generation.manifest.number
        if not self._is_first_to_verify(generation):
            return None
        try:
            generation.verify_vectors()
        except CorruptDataError as error:
            # As text: with its traceback a kept record would keep the generation and its folder open.
            _log.error("generation %s will be withdrawn: %s", generation.folder, str(error))
            try:
                (self._folder(number) / DAMAGED).touch()
            except OSError as problem:
                _log.error("generation %s could not be marked as damaged: %s", generation.folder, problem)
            return False
        return True

    @contextmanager
    def building(self, waiting: Callable[[], None] | None = None) -> Iterator[int | None]:
        """Be the only process and thread that builds here; gives the lock's descriptor.

        While another one builds, `waiting` is called again and again, and ends the wait by raising; without
        it None is given at once.
        """
        with translated(self.folder):
            self.folder.mkdir(exist_ok=True)
            descriptor: int | None = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        assert descriptor is not None
        try:
            while not _is_locked(descriptor):
                if waiting is None:
                    yield None
                    return
                waiting()
                time.sleep(LOCK_POLL_S)
            yield descriptor
        finally:
            os.close(descriptor)

    def remove_older(self, than: int) -> list[Path]:
        """Unlink generations before this one; returns those that some process still has open."""
        with translated(self.folder):
            older = [path for number, path in self._numbered() if number < than]
            return [path for path in older if not folders.remove_unheld(path)]

    def remove_unfinished(self, current: int) -> None:
        """Unlink what builds left that did not finish; only for who builds."""
        with translated(self.folder):
            for path in self.folder.iterdir():
                is_unfinished = not path.name.isdecimal() or int(path.name) > current
                if is_unfinished and path.is_dir():
                    folders.unlink(path)

    def _numbered(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        return sorted((int(path.name), path) for path in self.folder.iterdir() if path.name.isdecimal())

    def _folder(self, number: int) -> Path:
        return self.folder / str(number)

    def _is_first_to_verify(self, generation: Generation) -> bool:
        # Any file of the generation that nobody locks for another purpose; kept while it is open here.
        try:
            descriptor = os.open(generation.folder / TEMPLATE_IDS, os.O_RDONLY)
        except OSError:
            return False  # removed meanwhile
        if not _is_locked(descriptor):
            os.close(descriptor)
            return False
        weakref.finalize(generation, os.close, descriptor)
        return True


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
