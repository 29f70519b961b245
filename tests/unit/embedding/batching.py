"""What the tests of the batcher are made with: a clock, a gate, callers on threads of their own."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from engine.embedding.batcher import Batcher, IsLate
from engine.errors import (
    EngineError,
    NoFaceError,
)

WAIT_S = 30.0
"""Longest that a test waits for another thread before it fails."""


def squares(items: Sequence[int], is_late: IsLate) -> list[int | EngineError]:
    return [NoFaceError(f"{item} is negative") if item < 0 else item * item for item in items]


def expected(items: Sequence[int]) -> list[int | EngineError]:
    return squares(items, lambda _: False)


def submit(
    batcher: Batcher[int, int], items: Sequence[int], deadline: float | None = None
) -> list[int | EngineError]:
    """Items of one pixel each."""
    return batcher.submit(items, [1] * len(items), deadline)


class Clock:
    """Time that stands still until moved, and tells when a submit with a deadline has joined the queue."""

    def __init__(self) -> None:
        self.now = 100.0
        self.joined = threading.Semaphore(0)
        self._num_left: Counter[int] = Counter()

    def submit(
        self, batcher: Batcher[int, int], items: Sequence[int], in_s: float = WAIT_S
    ) -> list[int | EngineError]:
        # Asked when it is admitted, after each item is made, and once it has joined the queue.
        self._num_left[threading.get_ident()] = 2 + len(items)
        return submit(batcher, items, self.now + in_s)

    def __call__(self) -> float:
        caller = threading.get_ident()
        self._num_left[caller] -= 1
        if self._num_left[caller] == 0:
            self.joined.release()
        return self.now


class Gate:
    """A process that waits at a gate, and remembers what went through."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int], is_late: IsLate) -> list[int | EngineError]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.opened.wait(WAIT_S)
        return squares(items, is_late)


class Caller(threading.Thread):
    """A thread of its own for one call, with what came of it."""

    def __init__(self, call: Callable[[], object]):
        super().__init__(daemon=True)
        self._call = call
        self.result: object = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001
            self.result = error

    def outcome(self) -> object:
        self.join(WAIT_S)
        assert not self.is_alive()
        return self.result
