"""Calls of many threads gathered into batches that one thread works off. Knows nothing of pictures.

::

    submit (many threads) -> bounded queue of items -> worker thread: process(batch) -> each call its own

While the worker is busy the queue grows, and the next batch with it: load makes batches, waiting does not.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Annotated, Generic, Self, TypeVar, cast

import msgspec

from engine.config import Settings
from engine.errors import DeadlineError, EngineError, InvalidInputError, OverloadedError, UnavailableError

In = TypeVar("In")
Out = TypeVar("Out")

RETRY_AFTER_S_MIN = 0.05
"""Least time that an overloaded caller is told to wait; less only makes it knock again at once."""
SMOOTHING = 0.2
"""Weight of the newest batch in the running mean of seconds per item."""


class BatcherSettings(Settings, frozen=True, kw_only=True):
    """How much is done at once, and how much may wait."""

    batch_items_max: Annotated[int, msgspec.Meta(ge=1)] = 16
    """Items processed at once. More costs memory, and everyone waits for the slowest of the batch."""
    wait_ms_max: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """How long an idle worker waits for more items before it starts with fewer; adds to every lone call."""
    queue_items_max: Annotated[int, msgspec.Meta(ge=1)] = 128
    """Items that may wait; beyond it calls are refused at once. Bounds memory and time spent waiting."""


DEFAULT_SETTINGS = BatcherSettings()


class _Call(Generic[Out]):
    """One submit: its results as they come in, and how it failed as a whole."""

    def __init__(self, num_items: int, deadline: float | None):
        self.results: list[Out | EngineError | None] = [None] * num_items
        self.num_missing = num_items
        self.deadline = deadline
        self.failure: BaseException | None = None

    @property
    def is_over(self) -> bool:
        return self.num_missing == 0 or self.failure is not None


class Batcher(Generic[In, Out]):
    """Runs `process` on batches of items from any number of threads, in one thread of its own.

    `process` takes 1..batch_items_max items and answers each with a result or with the EngineError that is
    that item's own. An EngineError that it raises becomes the answer of every item of the batch; any other
    exception is raised as it is from every submit that had an item in the batch. Neither stops the worker.
    """

    def __init__(
        self,
        process: Callable[[Sequence[In]], Sequence[Out | EngineError]],
        settings: BatcherSettings = DEFAULT_SETTINGS,
        *,
        clock: Callable[[], float] = time.monotonic,
        name: str = "batcher",
    ):
        self.settings = settings
        self._process = process
        self._clock = clock
        self._waiting: deque[tuple[_Call[Out], int, In]] = deque()
        self._item_s = 0.0
        self._is_closing = False
        # One lock for all state; two conditions on it, so that results do not wake the worker.
        self._lock = threading.Lock()
        self._has_work = threading.Condition(self._lock)
        self._has_results = threading.Condition(self._lock)
        self._worker = threading.Thread(target=self._work, name=name, daemon=True)
        self._worker.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def submit(self, items: Sequence[In], deadline: float | None = None) -> list[Out | EngineError]:
        """Process items and wait for their answers, in the items' order; no items, no work.

        `deadline` is in seconds of `time.monotonic`. Raises OverloadedError, with nothing begun, where the
        queue has no room for all; InvalidInputError where it never could; DeadlineError once the deadline
        has passed, and items not yet begun then never are; UnavailableError after `close`.
        """
        call: _Call[Out] = _Call(len(items), deadline)
        with self._lock:
            self._admit(len(items), deadline)
            self._waiting.extend((call, position, item) for position, item in enumerate(items))
            self._has_work.notify()
            while not call.is_over:
                remaining = None if deadline is None else deadline - self._clock()
                if remaining is not None and remaining <= 0:
                    self._waiting = deque(entry for entry in self._waiting if entry[0] is not call)
                    raise _late()
                self._has_results.wait(None if remaining is None else min(remaining, threading.TIMEOUT_MAX))
            if call.failure is not None:
                raise call.failure
        return cast("list[Out | EngineError]", call.results)

    def refuse_if_full(self, num_items: int, deadline: float | None = None) -> None:
        """Raise what `submit` would raise now for this many items; to be asked before costly preparation."""
        with self._lock:
            self._admit(num_items, deadline)

    def close(self) -> None:
        """Finish everything that waits, then stop; later submits raise UnavailableError. May be repeated."""
        with self._lock:
            self._is_closing = True
            self._has_work.notify()
        self._worker.join()

    def _admit(self, num_items: int, deadline: float | None) -> None:
        if self._is_closing:
            raise UnavailableError("the batcher is closed: the server is stopping")
        if deadline is not None and self._clock() >= deadline:
            raise _late()
        most = self.settings.queue_items_max
        if num_items > most:
            raise InvalidInputError(f"{num_items} items in one call; at most {most} fit: send them in parts")
        if len(self._waiting) + num_items > most:
            raise OverloadedError(
                f"{len(self._waiting)} items are waiting; {num_items} more would pass the limit of {most}",
                retry_after_s=max(RETRY_AFTER_S_MIN, len(self._waiting) * self._item_s),
            )

    def _work(self) -> None:
        while batch := self._next_batch():
            start = time.perf_counter()
            try:
                outputs: Sequence[Out | EngineError] = self._process([item for _, _, item in batch])
                if len(outputs) != len(batch):
                    raise RuntimeError(f"process gave {len(outputs)} answers to {len(batch)} items")
                self._answer(batch, outputs, time.perf_counter() - start)
            except EngineError as error:
                self._answer(batch, [error] * len(batch), time.perf_counter() - start)
            except BaseException as error:  # noqa: BLE001  (raised again in every thread that waits for it)
                self._fail(batch, error)

    def _next_batch(self) -> list[tuple[_Call[Out], int, In]]:
        """Wait for items and take up to batch_items_max of them; none once closed and drained."""
        most = self.settings.batch_items_max
        with self._lock:
            while True:
                while not self._waiting and not self._is_closing:
                    self._has_work.wait()
                self._wait_for_more(most)
                self._drop_expired()
                if self._waiting or self._is_closing:
                    return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _wait_for_more(self, most: int) -> None:
        until = self._clock() + self.settings.wait_ms_max / 1e3
        while len(self._waiting) < most and not self._is_closing:
            remaining = until - self._clock()
            if remaining <= 0 or not self._has_work.wait(remaining):
                return

    def _drop_expired(self) -> None:
        now = self._clock()
        for call, _, _ in self._waiting:
            if call.deadline is not None and now >= call.deadline:
                call.failure = _late()
        if any(call.failure for call, _, _ in self._waiting):
            # Those of a call that failed with an earlier batch go too.
            self._waiting = deque(entry for entry in self._waiting if entry[0].failure is None)
            self._has_results.notify_all()

    def _answer(
        self,
        batch: Sequence[tuple[_Call[Out], int, In]],
        outputs: Sequence[Out | EngineError],
        duration_s: float,
    ) -> None:
        with self._lock:
            for (call, position, _), output in zip(batch, outputs, strict=True):
                call.results[position] = output
                call.num_missing -= 1
            newest = duration_s / len(batch)
            self._item_s += (SMOOTHING if self._item_s else 1.0) * (newest - self._item_s)
            self._has_results.notify_all()

    def _fail(self, batch: Sequence[tuple[_Call[Out], int, In]], error: BaseException) -> None:
        with self._lock:
            for call, _, _ in batch:
                call.failure = error
            self._has_results.notify_all()


def _late() -> DeadlineError:
    return DeadlineError(
        "the deadline passed before the work was done", hint="Allow more time, then try again."
    )
