"""SIGTERM and SIGINT as something to wait for. Knows nothing of what is stopped."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from types import FrameType
from typing import Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TOLD = b"!"
"""The interpreter writes the number of the signal, which is another."""


class StopSignals:
    """SIGTERM and SIGINT as something to wait for.

    The handler only writes to a pipe: whatever it did under a lock, it could do while this very thread holds
    that lock. Python runs it in the main thread when that is awake; the interpreter itself writes to the pipe
    as well, at once and whichever thread the system gave the signal to, or the main thread could sleep on.
    """

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._is_stopped = False
        self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        self._previous_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            # Once stopped, one more signal must not make a kill of the exit.
            signal.signal(number, signal.SIG_IGN if self._is_stopped else previous)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """Descriptor that can be read once a signal came, to be waited for with others; then ask `wait`."""
        return self._read

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for one signal; False where none came in time."""
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if give_up is None else max(0.0, give_up - time.monotonic())
            ready, _, _ = select.select([self._read], [], [], left_s)
            if not ready:
                return False
            # Anything else is the interpreter's: the handler has run by now, or is about to.
            if os.read(self._read, 1) == _TOLD:
                self._is_stopped = True
                return True

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, _TOLD)


class WorkerSignals(StopSignals):
    """What stops a worker: its parent's word, or one SIGTERM.

    Ctrl-C in a terminal and the stop of a service go to every process of the group: the first is the parent's
    business alone, and the second must not count twice, as SIGTERM and as the parent's word.
    """

    def __enter__(self) -> Self:
        self._is_told = False
        super().__enter__()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # The parent starts workers with both blocked: what came meanwhile comes now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    def stop(self) -> None:
        """Stop, on the parent's word."""
        if not self._is_told:
            self._is_told = True
            self._tell()

    def end_grace(self) -> None:
        """End the time that work in progress gets, on the parent's word."""
        self._is_told = True
        self._tell()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()
