"""The client: the calls of all services over one pool of channels."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from engine.client.admin import AdminCalls
from engine.client.channels import ChannelPool
from engine.client.embedding import EmbeddingCalls
from engine.client.enrollment import EnrollmentCalls
from engine.client.galleries import GalleryCalls
from engine.client.identification import IdentificationCalls

TIMEOUT_S = 30.0
"""Time allowed for a call that is no stream, where the caller names no other."""
NUM_CHANNELS = 4


class Client(GalleryCalls, EnrollmentCalls, IdentificationCalls, EmbeddingCalls, AdminCalls):
    """Asks one server; safe to use from many threads; raises the engine's own errors.

    Every call takes `timeout_s` and raises DeadlineError beyond it, UnavailableError where no server
    answers. Calls that are no streams are tried again while the server is UNAVAILABLE; every write carries a
    fresh request id, so that a second attempt is never a second write.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:7300",
        *,
        timeout_s: float = TIMEOUT_S,
        num_channels: int = NUM_CHANNELS,
    ):
        """Prepare to talk to `address`, HOST:PORT; the first call connects.

        Raises InvalidInputError for another form of address. A server of many workers needs several channels
        to use them all.
        """
        super().__init__(ChannelPool(address, num_channels), timeout_s)

    def close(self) -> None:
        """Close all connections; calls under way are cancelled."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
