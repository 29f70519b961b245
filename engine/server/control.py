"""What the parent and its processes say to each other: messages, one JSON a line, over a socket pair.

::

    parent                     worker or embed worker
    Orders           ->                                  once, first
    EmbedderFound    ->                                  once its contract is known
                     <-        Ready or Failed           once
    Beat             ->                                  each second
                     <-        Alive                     at once
    Stop, EndGrace   ->

The end of the line is the end of the other process. Knows neither gRPC nor galleries.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from engine.errors import EngineError, OperatorError, class_of_reason
from engine.server.settings import ServeSettings

READ_BYTES = 1 << 16


class EmbedderFound(msgspec.Struct, tag=True, frozen=True):
    """What pictures are embedded with."""

    contract: dict[str, Any]
    """An EmbeddingContract as plain values: reading it takes numpy, which the parent does without."""
    device: str


class Orders(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """What a process is to be."""

    name: str
    """In logs, metrics and answers: 0, 1, ... or embed-0, embed-1, ..."""
    settings: ServeSettings
    is_embedder: bool = False
    port: int = 0
    """Held by the parent; of workers."""
    lock_descriptor: int = -1
    """Of the data folder's lock, inherited; of workers."""
    sockets: list[str]
    """Paths where pictures are embedded; an embed worker's own path alone."""
    embedder: EmbedderFound | None = None
    """None: not yet known."""


class Beat(msgspec.Struct, tag=True, frozen=True):
    """Asks for a sign of life."""

    number: int
    has_counts: bool = False
    """Whether metrics are wanted with it."""
    has_galleries: bool = False
    """Whether sizes of galleries are wanted, too; one worker knows them as well as all."""


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Stop in good order."""


class EndGrace(msgspec.Struct, tag=True, frozen=True):
    """Wait no longer for work in progress."""


class Sample(msgspec.Struct, array_like=True, frozen=True):
    """One number of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, array_like=True, frozen=True):
    """One metric."""

    name: str
    documentation: str
    kind: str
    """As Prometheus says it: counter, histogram, gauge or info."""
    samples: list[Sample]


class Alive(msgspec.Struct, tag=True, frozen=True):
    """The answer to a Beat."""

    number: int
    counts: list[Family] | None = None
    galleries: list[Family] | None = None


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The process serves."""

    embedder: EmbedderFound | None = None
    """Of an embed worker."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The process cannot serve; it ends."""

    reason: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: EngineError) -> Failed:
        """Say what was raised."""
        return cls(error.reason, error.message, error.hint)

    def error(self) -> EngineError:
        """Make the error again."""
        return (class_of_reason(self.reason) or OperatorError)(self.message, hint=self.hint)


ToChild = Orders | EmbedderFound | Beat | Stop | EndGrace
ToParent = Alive | Ready | Failed
M = TypeVar("M")


class Line(Generic[M]):
    """One end of the conversation, for messages of a kind `M` to come."""

    def __init__(self, end: socket.socket, kind: Any, *, is_patient: bool = True):
        """Without `is_patient` nobody is waited for: what the other end does not read in time is lost.

        The parent's ends are so, or one process that hangs would hold up all others.
        """
        self._end = end
        self._is_patient = is_patient
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(kind)
        self._sending = threading.Lock()
        self._rest = b""

    def fileno(self) -> int:
        """Descriptor that can be read once a message came."""
        return self._end.fileno()

    def send(self, message: object) -> None:
        """Send a message; to an end that is gone it is lost, which `receive` tells."""
        data = msgspec.json.encode(message) + b"\n"
        with self._sending, contextlib.suppress(OSError):
            if self._is_patient:
                self._end.sendall(data)
            elif self._end.send(data, socket.MSG_DONTWAIT) < len(data):
                # Its rest would be read as a part of the next one: nothing more can be said.
                self._end.shutdown(socket.SHUT_WR)

    def receive(self) -> list[M] | None:
        """Wait for something and return the messages that are complete; None: the other end is gone."""
        try:
            data = self._end.recv(READ_BYTES)
        except ConnectionError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [self._decoder.decode(line) for line in lines]

    def messages(self) -> Iterator[M]:
        """All messages until the other end is gone."""
        while (received := self.receive()) is not None:
            yield from received

    def close(self) -> None:
        """Hang up."""
        self._end.close()
