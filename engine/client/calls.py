"""What the calls of all services share: the pool, the time allowed, the ids of requests."""

from __future__ import annotations

import uuid

from engine.client.channels import ChannelPool
from engine.errors import InvalidInputError


class Calls:
    """Base of the calls of one service."""

    def __init__(self, pool: ChannelPool, timeout_s: float):
        self._pool = pool
        self._timeout_s = timeout_s

    def _seconds(self, timeout_s: float | None) -> float:
        seconds = self._timeout_s if timeout_s is None else timeout_s
        if seconds <= 0:
            raise InvalidInputError(f"timeout_s of {seconds}: expected more than 0")
        return seconds


def fresh(request_id: str | None) -> str:
    """Return the caller's request id or, without one, a new one, so that a retry is never done twice."""
    return request_id or uuid.uuid4().hex
