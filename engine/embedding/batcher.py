"""Calls of many threads gathered into batches that one thread works off. Knows nothing of faces.

::

    submit (many threads): reserve room -> make items -> queue -> worker thread: process(batch) -> answers

While the worker is busy the queue grows, and the next batch with it: load makes batches, waiting does not.

Room is counted in items and in pixels, from before an item is made until it is answered or dropped. So what
all callers hold together is bounded, whether it is being made, waits or is worked on.

Deadlines are looked at between items while they are made, while a call waits, when a batch is put together,
and wherever `process` asks. What has begun is finished.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Annotated, Generic, Self, TypeVar, cast

import msgspec

from engine.config import Settings
from engine.errors import DeadlineError, EngineError, InvalidInputError, OverloadedError, UnavailableError

In = TypeVar("In")
Out = TypeVar("Out")

IsLate = Callable[[int], bool]
"""Whether nobody waits any more for the answer to item i of the batch."""

RETRY_AFTER_S_MIN = 0.05
"""Least time that an overloaded caller is told to wait; less only makes it knock again at once."""
SMOOTHING = 0.2
"""Weight of the newest batch in the running means of seconds per item and per pixel."""


class BatcherSettings(Settings, frozen=True, kw_only=True):
    """How much is done at once, and how much may be in hand."""

    batch_items_max: Annotated[int, msgspec.Meta(ge=1)] = 16
    """Items processed at once. More costs memory, and everyone waits for the slowest of the batch."""
    batch_pixels_max: Annotated[int, msgspec.Meta(ge=1)] = 16_000_000
    """Pixels processed at once, and held by one call; a larger picture goes alone. As batch_items_max."""
    wait_ms_max: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """How long an idle worker waits for more items before it starts with fewer; adds to every lone call."""
    queue_items_max: Annotated[int, msgspec.Meta(ge=1)] = 128
    """Items in hand, of all callers: being decoded, waiting or worked on. Beyond it calls are refused at
    once. Bounds the time spent waiting."""
    queue_pixels_max: Annotated[int, msgspec.Meta(ge=1)] = 128_000_000
    """Pixels in hand, as queue_items_max. A pixel takes 3 bytes while it waits and 7 to 16 while it is being
    decoded. Bounds memory."""


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

    def is_late(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def answer(self, position: int, output: Out | EngineError) -> None:
        self.results[position] = output
        self.num_missing -= 1
        if isinstance(output, DeadlineError):
            # Time is up for all of a call at once.
            self.failure = output


@dataclass(frozen=True, slots=True)
class _Entry(Generic[In, Out]):
    """One item in the queue, and where its answer belongs."""

    call: _Call[Out]
    position: int
    item: In
    num_pixels: int


class Batcher(Generic[In, Out]):
    """Runs `process` on batches of items from any number of threads, in one thread of its own.

    `process` takes 1..batch_items_max items and answers each with a result or with the EngineError that is
    that item's own. It may ask by number whether an item is late, and then answer a DeadlineError, which
    fails that item's call. An EngineError that it raises becomes the answer of every item of the batch; any
    other exception is raised as it is from every submit that had an item in the batch. Neither stops the
    worker.
    """

    def __init__(
        self,
        process: Callable[[Sequence[In], IsLate], Sequence[Out | EngineError]],
        settings: BatcherSettings = DEFAULT_SETTINGS,
        *,
        clock: Callable[[], float] = time.monotonic,
        name: str = "batcher",
    ):
        self.settings = settings
        self._process = process
        self._clock = clock
        self._waiting: deque[_Entry[In, Out]] = deque()
        self._num_held, self._pixels_held = 0, 0
        self._item_s, self._pixel_s = 0.0, 0.0
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

    def submit(
        self, items: Iterable[In | EngineError], pixels: Sequence[int], deadline: float | None = None
    ) -> list[Out | EngineError]:
        """Process items of so many pixels each and wait for their answers, in order; no items, no work.

        Items are taken one by one, in the caller's thread and after room for all is reserved: an iterator
        that makes them is not asked before. An EngineError among them is its own answer. `deadline` is in
        seconds of `time.monotonic`. Raises OverloadedError, with nothing begun, where there is no room for
        all; InvalidInputError where there never could be; DeadlineError once the deadline has passed, and
        items not yet begun then never are; UnavailableError after `close`; and what `items` raises.
        """
        call: _Call[Out] = _Call(len(pixels), deadline)
        with self._lock:
            self._admit(len(pixels), sum(pixels), deadline)
            self._num_held += len(pixels)
            self._pixels_held += sum(pixels)
        self._enqueue(call, items, pixels)
        with self._lock:
            self._wait_for(call)
            if call.failure is not None:
                raise call.failure
        return cast("list[Out | EngineError]", call.results)

    def close(self) -> None:
        """Finish everything that waits, then stop; later submits raise UnavailableError. May be repeated."""
        with self._lock:
            self._is_closing = True
            self._has_work.notify()
        self._worker.join()

    def _admit(self, num_items: int, num_pixels: int, deadline: float | None) -> None:
        self._refuse_if_closed()
        if deadline is not None and self._clock() >= deadline:
            raise late_error()
        self._refuse_if_full(num_items, self._num_held, self.settings.queue_items_max, "items")
        self._refuse_if_full(num_pixels, self._pixels_held, self.settings.queue_pixels_max, "pixels")

    def _refuse_if_full(self, more: int, held: int, most: int, unit: str) -> None:
        if more > most:
            raise InvalidInputError(f"{more} {unit} in one call; at most {most} fit: send them in parts")
        if held + more > most:
            wait_s = max(self._num_held * self._item_s, self._pixels_held * self._pixel_s)
            raise OverloadedError(
                f"{held} {unit} are in hand; {more} more would pass the limit of {most}",
                retry_after_s=max(RETRY_AFTER_S_MIN, wait_s),
            )

    def _refuse_if_closed(self) -> None:
        if self._is_closing:
            raise UnavailableError("the batcher is closed: the server is stopping")

    def _enqueue(self, call: _Call[Out], items: Iterable[In | EngineError], pixels: Sequence[int]) -> None:
        """Make the items of a call that has its room, and let them wait; room that is not needed goes back.

        No item may outlive this in the caller's frames: the worker decides when its memory goes.
        """
        made: list[_Entry[In, Out]] = []
        is_queued = False
        try:
            for position, (item, num_pixels) in enumerate(zip(items, pixels, strict=True)):
                if isinstance(item, EngineError):
                    call.answer(position, item)
                else:
                    made.append(_Entry(call, position, item, num_pixels))
                if call.is_late(self._clock()):
                    raise late_error()
            with self._lock:
                self._refuse_if_closed()
                self._waiting.extend(made)
                self._has_work.notify()
                is_queued = True
        finally:
            with self._lock:
                kept = [entry.num_pixels for entry in made] if is_queued else []
                self._release(len(pixels) - len(kept), sum(pixels) - sum(kept))

    def _wait_for(self, call: _Call[Out]) -> None:
        while not call.is_over:
            remaining = None if call.deadline is None else call.deadline - self._clock()
            if remaining is not None and remaining <= 0:
                call.failure = late_error()
                self._drop_failed()
                return
            self._has_results.wait(None if remaining is None else min(remaining, threading.TIMEOUT_MAX))

    def _release(self, num_items: int, num_pixels: int) -> None:
        self._num_held -= num_items
        self._pixels_held -= num_pixels

    def _work(self) -> None:
        while self._work_off_batch():
            pass

    def _work_off_batch(self) -> bool:
        """Wait for a batch and process it; false once closed and drained.

        A function of its own, so that nothing of the last batch stays in memory while waiting for the next.
        """
        batch = self._next_batch()
        if not batch:
            return False
        start = time.perf_counter()
        try:
            outputs = self._process([entry.item for entry in batch], lambda i: self._is_late(batch[i]))
            if len(outputs) != len(batch):
                raise RuntimeError(f"process gave {len(outputs)} answers to {len(batch)} items")
            self._answer(batch, outputs, time.perf_counter() - start)
        except EngineError as error:
            self._answer(batch, [error] * len(batch), time.perf_counter() - start)
        except BaseException as error:  # noqa: BLE001  (raised again in every thread that waits for it)
            self._fail(batch, error)
        return True

    def _is_late(self, entry: _Entry[In, Out]) -> bool:
        return entry.call.failure is not None or entry.call.is_late(self._clock())

    def _next_batch(self) -> list[_Entry[In, Out]]:
        """Wait for items and take as many as one batch may have; none once closed and drained."""
        with self._lock:
            while True:
                while not self._waiting and not self._is_closing:
                    self._has_work.wait()
                self._wait_for_more()
                self._drop_expired()
                if self._waiting or self._is_closing:
                    return [self._waiting.popleft() for _ in range(self._num_fitting())]

    def _num_fitting(self) -> int:
        """How many of those that have waited longest make a batch: within both limits, or one alone."""
        num_pixels = 0
        num_items = 0
        for entry in islice(self._waiting, self.settings.batch_items_max):
            num_pixels += entry.num_pixels
            if num_items and num_pixels > self.settings.batch_pixels_max:
                break
            num_items += 1
        return num_items

    def _wait_for_more(self) -> None:
        until = self._clock() + self.settings.wait_ms_max / 1e3
        most = self.settings.batch_items_max
        while self._num_fitting() == len(self._waiting) < most and not self._is_closing:
            remaining = until - self._clock()
            if remaining <= 0 or not self._has_work.wait(remaining):
                return

    def _drop_expired(self) -> None:
        now = self._clock()
        for entry in self._waiting:
            if entry.call.failure is None and entry.call.is_late(now):
                entry.call.failure = late_error()
        # Those of a call that failed with an earlier batch go too.
        if self._drop_failed():
            self._has_results.notify_all()

    def _drop_failed(self) -> bool:
        """Drop what waits of calls that have failed; whether there was any."""
        failed = [entry for entry in self._waiting if entry.call.failure is not None]
        if failed:
            self._waiting = deque(entry for entry in self._waiting if entry.call.failure is None)
            self._release(len(failed), sum(entry.num_pixels for entry in failed))
        return bool(failed)

    def _answer(
        self, batch: Sequence[_Entry[In, Out]], outputs: Sequence[Out | EngineError], duration_s: float
    ) -> None:
        num_pixels = sum(entry.num_pixels for entry in batch)
        with self._lock:
            for entry, output in zip(batch, outputs, strict=True):
                entry.call.answer(entry.position, output)
            self._item_s = _smoothed(self._item_s, duration_s / len(batch))
            self._pixel_s = _smoothed(self._pixel_s, duration_s / max(1, num_pixels))
            self._release(len(batch), num_pixels)
            self._has_results.notify_all()

    def _fail(self, batch: Sequence[_Entry[In, Out]], error: BaseException) -> None:
        with self._lock:
            for entry in batch:
                entry.call.failure = error
            self._release(len(batch), sum(entry.num_pixels for entry in batch))
            self._has_results.notify_all()


def _smoothed(mean: float, newest: float) -> float:
    return mean + (SMOOTHING if mean else 1.0) * (newest - mean)


def late_error() -> DeadlineError:
    """What is answered to a call whose deadline has passed."""
    return DeadlineError(
        "the deadline passed before the work was done", hint="Allow more time, then try again."
    )
