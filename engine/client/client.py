"""The client: the calls of all services over one pool of channels."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from grpc_health.v1 import health_pb2

from engine.client.admin import AdminCalls
from engine.client.channels import ChannelPool
from engine.client.embedding import EmbeddingCalls
from engine.client.enrollment import EnrollmentCalls
from engine.client.galleries import GalleryCalls
from engine.client.identification import IdentificationCalls
from engine.errors import InvalidInputError, UnavailableError
from engine.wire.address import DEFAULT_ADDRESS
from engine.wire.limits import TIMEOUT_S

NUM_CHANNELS = 4
READY_POLL_S = 0.1
"""Pause between two looks at whether the server is ready."""


class Client(GalleryCalls, EnrollmentCalls, IdentificationCalls, EmbeddingCalls, AdminCalls):
    """Asks one server; safe to use from many threads; raises the engine's own errors.

    Every call takes `timeout_s` and raises DeadlineError beyond it, UnavailableError where no server
    answers. Calls that are no streams are tried again while the server is UNAVAILABLE or cancels them; every
    write carries a fresh request id, so that a second attempt is never a second write.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = TIMEOUT_S,
        num_channels: int = NUM_CHANNELS,
    ):
        """Prepare to talk to `address`, HOST:PORT; the first call connects.

        Raises InvalidInputError for another form of address. A server of many workers needs several channels
        to use them all.
        """
        super().__init__(ChannelPool(address, num_channels), timeout_s)

    def wait_until_ready(self, timeout_s: float, *, on_wait: Callable[[], None] | None = None) -> None:
        """Wait until the server says SERVING (grpc.health.v1); `on_wait` is called once if it does not yet.

        Raises UnavailableError where nobody answers, or the server is still starting or already stopping,
        when `timeout_s` is over; DeadlineError where it is silent.
        """
        if timeout_s <= 0:
            raise InvalidInputError(f"timeout_s of {timeout_s}: expected more than 0")
        end_s = time.monotonic() + timeout_s
        while (problem := self._problem(end_s - time.monotonic())) is not None:
            if time.monotonic() + READY_POLL_S >= end_s:
                raise problem
            if on_wait is not None:
                on_wait()
                on_wait = None
            time.sleep(READY_POLL_S)

    def _problem(self, timeout_s: float) -> UnavailableError | None:
        """Why the server cannot be asked now; None: it can."""
        try:
            with self._pool.lease() as connection:
                answer = connection.health.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except UnavailableError as error:
            return error
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return None
        return UnavailableError(
            f"the server at {self._pool.address} is not ready: it is starting or stopping",
            hint="Try again in a moment, or look at its log.",
        )

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
