"""Processes of a server as their parent sees them: started, heard, replaced. Knows nothing of their work."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import engine
from engine.errors import EngineError
from engine.server.control import Line, Orders, ToParent
from engine.server.signals import STOP_SIGNALS

PAUSE_S_MIN = 0.5
PAUSE_S_MAX = 30.0
"""Pause before a process is started again that keeps dying; it doubles from the first to the last."""
HEALTHY_S = 30.0
"""A process that served for so long dies for a new reason: it is replaced at once again."""
ENDED_WELL = "exit code 0"
"""How a process ends that was asked to."""
_MAIN = (
    f"import sys; sys.path.append({str(Path(engine.__file__).parent.parent)!r});"
    " from engine.server.launch import main; sys.exit(main())"
)
"""Not `-m`: that would look for packages in the working folder first."""


class Child:
    """One process."""

    def __init__(self, orders: Orders):
        """Start it. Raises OSError where the system has no room for one more."""
        self.orders = orders
        self.start_s = time.monotonic()
        self.is_ready = False
        self.heard_s = self.start_s
        """When it last said something, on the clock of time.monotonic."""
        self.failure: EngineError | None = None
        """Why it could not start, in its own words."""
        mine, its = socket.socketpair()
        inherited = [its.fileno()]
        if orders.lock_descriptor >= 0:
            inherited.append(orders.lock_descriptor)
        with its, contextlib.ExitStack() as on_failure:
            on_failure.callback(mine.close)
            with _stop_signals_held():
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _MAIN, str(its.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=inherited,
                )
            on_failure.pop_all()
        self.line: Line[ToParent] = Line(mine, ToParent, is_patient=False)
        self.line.send(orders)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def reap(self) -> str:
        """Take leave of a process that hung up; returns how it ended, as `exit code 1` or `SIGKILL`."""
        self.line.close()
        # It hung up, so it has ended, but for a process that closes its descriptors and lives on.
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"


class Place:
    """The place of one process: whoever dies in it is replaced."""

    def __init__(self, name: str, orders: Callable[[], Orders]):
        """`orders` makes the orders of each process that takes the place."""
        self.name = name
        self.child: Child | None = None
        self.num_restarts = 0
        self._orders = orders
        self._pause_s = 0.0
        self._due_s = 0.0

    @property
    def is_embedder(self) -> bool:
        """Whether pictures are embedded here."""
        return self._orders().is_embedder

    @property
    def is_ready(self) -> bool:
        """Whether a process serves here."""
        return self.child is not None and self.child.is_ready

    def start(self) -> Child:
        """Start a process. Raises OSError where it cannot be; the next try is due later."""
        try:
            self.child = Child(self._orders())
        except OSError:
            self._postpone(time.monotonic())
            raise
        return self.child

    def vacate(self) -> str:
        """Note that the process hung up, and when the next one is due; returns how it ended."""
        assert self.child is not None
        now = time.monotonic()
        if self.child.is_ready and now - self.child.start_s >= HEALTHY_S:
            self._pause_s = 0.0
        how = self.child.reap()
        self.child = None
        self.num_restarts += 1
        self._postpone(now)
        return how

    def due_in_s(self) -> float:
        """Seconds until the next process is to be started; 0 or less: now."""
        return self._due_s - time.monotonic()

    def _postpone(self, now: float) -> None:
        self._due_s = now + self._pause_s
        self._pause_s = min(PAUSE_S_MAX, max(PAUSE_S_MIN, 2 * self._pause_s))


@contextlib.contextmanager
def _stop_signals_held() -> Iterator[None]:
    """Start processes with signals blocked that mean a stop: WorkerSignals, once there, lets them through.

    Ctrl-C in a terminal would otherwise end a process that is still loading, with a stack trace.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
