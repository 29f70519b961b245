"""What a service may know of the rpc it answers: how long it may take, whether anybody still waits.

Knows nothing of what is asked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator

import grpc

from engine.errors import DeadlineError, UnavailableError
from engine.telemetry import RequestRecord

DEADLINE_S_MAX = 1e7
"""A deadline farther away than this (116 days) is none: gRPC says so where the caller set none."""
DEADLINE_ROUNDING_S = 1e-3
"""gRPC counts deadlines in whole milliseconds and rounds up: what it says is left may be past by so much."""
READ_AHEAD_MESSAGES_MAX = 1
"""Messages of a stream kept ready while one is worked on."""


class ClientGone(Exception):  # noqa: N818 - not an error of the engine: nobody is left to be told
    """The caller cancelled, hung up, or ran out of time while its rpc was worked on."""


class Call:
    """One rpc in progress; used by the thread that answers it."""

    __slots__ = ("_context", "_stopping", "deadline", "record")

    def __init__(self, context: grpc.ServicerContext, record: RequestRecord, stopping: threading.Event):
        self._context = context
        self._stopping = stopping
        self.record = record
        """Its log line."""
        remaining_s = context.time_remaining()
        self.deadline = (
            None
            if remaining_s is None or remaining_s > DEADLINE_S_MAX
            else time.monotonic() + remaining_s - DEADLINE_ROUNDING_S
        )
        """On the clock of time.monotonic, seconds; None: the caller set none."""

    def check(self) -> None:
        """Ask before each stage of work whether it is still worth doing.

        Raises DeadlineError where the deadline is past, ClientGone where nobody waits for the answer.
        """
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineError("the deadline passed before the work was done")
        if not self._context.is_active():
            raise ClientGone

    def check_stream(self) -> None:
        """As `check`, and raises UnavailableError where the server is stopping: streams end early then."""
        self.check()
        if self._stopping.is_set():
            raise stopping_error()

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Check, then time what is done inside under that name in the log line."""
        self.check()
        return self.record.stage(name)


class Inbox(Iterator[bytes]):
    """The messages of one stream, read by a thread of its own.

    gRPC's own iterator waits for the next message without end: a stream whose caller is silent could not be
    told that the server is stopping.
    """

    def __init__(self, messages: Iterator[bytes]):
        self._messages = messages
        self._changed = threading.Condition()
        self._ready: deque[bytes] = deque()
        self._is_ended = False
        self._is_gone = False
        self._is_stopping = False
        self._is_closed = False
        threading.Thread(target=self._read, name="stream-reader", daemon=True).start()

    def __next__(self) -> bytes:
        """Wait for the next message.

        Raises UnavailableError once the server is stopping, ClientGone where the caller is.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._is_ended or self._is_stopping)
            if self._is_gone:
                raise ClientGone
            if self._is_stopping:
                raise stopping_error()
            if not self._ready:
                raise StopIteration
            self._changed.notify_all()
            return self._ready.popleft()

    def stop(self) -> None:
        """End the waiting: the server is stopping; messages not begun are dropped."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let the reader go; the rpc is over."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _read(self) -> None:
        is_gone = False
        try:
            for message in self._messages:
                with self._changed:
                    self._ready.append(message)
                    self._changed.notify_all()
                    self._changed.wait_for(
                        lambda: len(self._ready) < READ_AHEAD_MESSAGES_MAX or self._is_closed
                    )
                    if self._is_closed:
                        return
        except grpc.RpcError:
            # So gRPC says that the caller cancelled, hung up or ran out of time.
            is_gone = True
        finally:
            with self._changed:
                self._is_ended = True
                self._is_gone = is_gone
                self._changed.notify_all()


def stopping_error() -> UnavailableError:
    """Say that the server is going down; another one, or this one later, may answer."""
    return UnavailableError(
        "the server is stopping",
        hint="Send what was not answered to another server, or later.",
        retry_after_s=1.0,
    )
