"""The batcher against direct calls, and its promises about limits, deadlines, errors and closing."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.embedding.batcher import Batcher, BatcherSettings, IsLate, late_error
from engine.errors import (
    DeadlineError,
    EngineError,
    InvalidInputError,
    NoFaceError,
    OverloadedError,
    UnavailableError,
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


def test_no_items_are_no_work() -> None:
    gate = Gate()
    with Batcher(gate) as batcher:
        assert submit(batcher, []) == []
    assert gate.batches == []


def test_one_item() -> None:
    with Batcher(squares) as batcher:
        assert submit(batcher, [7]) == [49]


@settings(max_examples=40, deadline=None)
@given(
    calls=st.lists(st.lists(st.integers(0, 1000), max_size=12), max_size=25),
    batch_items_max=st.integers(1, 8),
    wait_ms_max=st.sampled_from([0.0, 0.5]),
)
def test_many_threads_get_what_direct_calls_give(
    calls: list[list[int]], batch_items_max: int, wait_ms_max: float
) -> None:
    seen: list[tuple[int, int]] = []

    def process(items: Sequence[int], is_late: IsLate) -> list[int | EngineError]:
        seen.append((len(items), threading.get_ident()))
        return squares(items, is_late)

    limits = BatcherSettings(batch_items_max=batch_items_max, wait_ms_max=wait_ms_max, queue_items_max=1000)
    with Batcher(process, limits) as batcher, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(partial(submit, batcher), calls))
    assert results == [expected(call) for call in calls]
    assert all(1 <= size <= batch_items_max for size, _ in seen)
    assert len({thread for _, thread in seen}) <= 1
    assert sum(size for size, _ in seen) == sum(len(call) for call in calls)


def test_what_waits_while_the_worker_is_busy_becomes_one_batch() -> None:
    gate, clock = Gate(), Clock()
    with Batcher(gate, BatcherSettings(wait_ms_max=0.0), clock=clock) as batcher:
        first = Caller(lambda: clock.submit(batcher, [1]))
        assert gate.entered.acquire(timeout=WAIT_S)
        rest = [Caller(partial(clock.submit, batcher, [i])) for i in (2, 3, 4)]
        for _ in range(4):
            assert clock.joined.acquire(timeout=WAIT_S)
        gate.opened.set()
        assert [caller.outcome() for caller in (first, *rest)] == [[1], [4], [9], [16]]
    assert [sorted(batch) for batch in gate.batches] == [[1], [2, 3, 4]]


def test_an_idle_worker_waits_for_a_full_batch_no_longer_than_set() -> None:
    gate, clock = Gate(), Clock()
    gate.opened.set()
    limits = BatcherSettings(batch_items_max=2, wait_ms_max=WAIT_S * 1e3)
    with Batcher(gate, limits, clock=clock) as batcher:
        one = Caller(lambda: clock.submit(batcher, [1]))
        two = Caller(lambda: clock.submit(batcher, [2]))
        assert (one.outcome(), two.outcome()) == ([1], [4])
    assert [sorted(batch) for batch in gate.batches] == [[1, 2]]
    with Batcher(squares, BatcherSettings(batch_items_max=2, wait_ms_max=1.0)) as batcher:
        assert submit(batcher, [3]) == [9]


def test_a_full_queue_refuses_before_any_work() -> None:
    gate, clock = Gate(), Clock()
    limits = BatcherSettings(batch_items_max=1, wait_ms_max=0.0, queue_items_max=3)
    with Batcher(gate, limits, clock=clock) as batcher:
        running = Caller(lambda: submit(batcher, [1]))
        assert gate.entered.acquire(timeout=WAIT_S)
        waiting = Caller(lambda: clock.submit(batcher, [2, 3]))
        assert clock.joined.acquire(timeout=WAIT_S)
        with pytest.raises(OverloadedError, match="limit of 3") as refusal:
            submit(batcher, [4])
        assert refusal.value.retry_after_s is not None
        assert refusal.value.retry_after_s > 0
        gate.opened.set()
        assert (running.outcome(), waiting.outcome()) == ([1], [4, 9])
        assert submit(batcher, [5, 6, 7]) == [25, 36, 49]
    assert gate.batches[:3] == [[1], [2], [3]]


def test_a_call_that_could_never_fit_is_the_callers_fault() -> None:
    limits = BatcherSettings(queue_items_max=2)
    with Batcher(squares, limits) as batcher, pytest.raises(InvalidInputError, match="at most 2"):
        submit(batcher, [1, 2, 3])


def test_a_deadline_that_has_passed_is_no_work() -> None:
    gate, clock = Gate(), Clock()
    with Batcher(gate, clock=clock) as batcher, pytest.raises(DeadlineError):
        submit(batcher, [1], clock.now)
    assert gate.batches == []


def test_work_that_expires_in_the_queue_is_never_begun() -> None:
    gate, clock = Gate(), Clock()
    with Batcher(gate, BatcherSettings(wait_ms_max=0.0), clock=clock) as batcher:
        running = Caller(lambda: submit(batcher, [1]))
        assert gate.entered.acquire(timeout=WAIT_S)
        # It asks the clock again only when woken: what drops it is the worker.
        expiring = Caller(lambda: clock.submit(batcher, [2, 3], 3600))
        lasting = Caller(lambda: clock.submit(batcher, [4], 7200))
        for _ in range(2):
            assert clock.joined.acquire(timeout=WAIT_S)
        clock.now += 5000
        gate.opened.set()
        assert isinstance(expiring.outcome(), DeadlineError)
        assert (running.outcome(), lasting.outcome()) == ([1], [16])
    assert gate.batches == [[1], [4]]


def test_a_caller_does_not_wait_past_its_deadline() -> None:
    gate = Gate()
    with Batcher(gate, BatcherSettings(batch_items_max=1, wait_ms_max=0.0)) as batcher:
        late = Caller(lambda: submit(batcher, [1, 2], time.monotonic() + 0.02))
        assert gate.entered.acquire(timeout=WAIT_S)
        assert isinstance(late.outcome(), DeadlineError)
        gate.opened.set()
        assert submit(batcher, [3]) == [9]
    assert gate.batches == [[1], [3]]


def test_one_bad_item_does_not_fail_its_batch() -> None:
    with Batcher(squares) as batcher:
        good, bad, fine = submit(batcher, [2, -1, 3])
    assert (good, fine) == (4, 9)
    assert isinstance(bad, NoFaceError)


def test_an_engine_error_of_the_process_is_the_answer_of_its_batch_only() -> None:
    def process(items: Sequence[int], is_late: IsLate) -> list[int | EngineError]:
        if 0 in items:
            raise NoFaceError("a nought")
        return squares(items, is_late)

    with Batcher(process, BatcherSettings(batch_items_max=2)) as batcher:
        first, second, third = submit(batcher, [0, 1, 2])
        assert isinstance(first, NoFaceError)
        assert isinstance(second, NoFaceError)
        assert third == 4


def test_an_unexpected_error_is_raised_in_every_waiter_and_the_worker_lives_on() -> None:
    entered, opened, clock = threading.Semaphore(0), threading.Event(), Clock()

    def process(items: Sequence[int], is_late: IsLate) -> list[int | EngineError]:
        entered.release()
        assert opened.wait(WAIT_S)
        return [100 // item for item in items]

    with Batcher(process, BatcherSettings(wait_ms_max=0.0), clock=clock) as batcher:
        first = Caller(lambda: submit(batcher, [5]))
        assert entered.acquire(timeout=WAIT_S)
        hit = [Caller(partial(clock.submit, batcher, [i])) for i in (0, 1)]
        for _ in range(2):
            assert clock.joined.acquire(timeout=WAIT_S)
        opened.set()
        assert first.outcome() == [20]
        assert all(isinstance(caller.outcome(), ZeroDivisionError) for caller in hit)
        assert submit(batcher, [4]) == [25]


def test_items_of_a_failed_call_that_still_wait_are_dropped() -> None:
    seen: list[int] = []

    def process(items: Sequence[int], is_late: IsLate) -> list[int | EngineError]:
        seen.extend(items)
        return [100 // item for item in items]

    with Batcher(process, BatcherSettings(batch_items_max=1)) as batcher:
        with pytest.raises(ZeroDivisionError):
            submit(batcher, [0, 1, 2])
        assert submit(batcher, [5]) == [20]
    assert seen == [0, 5]


def test_a_wrong_number_of_answers_is_an_error() -> None:
    def process(items: Sequence[int], is_late: IsLate) -> list[int | EngineError]:
        return squares(items, is_late)[1:]

    with Batcher(process) as batcher, pytest.raises(RuntimeError, match="1 answers to 2 items"):
        submit(batcher, [1, 2])


def test_none_is_an_answer_like_any_other() -> None:
    def process(items: Sequence[int], is_late: IsLate) -> list[EngineError | None]:
        return [None for _ in items]

    with Batcher(process) as batcher:
        assert batcher.submit([1, 2], [1, 1]) == [None, None]


def test_closing_finishes_what_waits_and_refuses_what_comes() -> None:
    gate, clock = Gate(), Clock()
    batcher = Batcher(gate, BatcherSettings(batch_items_max=1, wait_ms_max=0.0), clock=clock)
    callers = [Caller(partial(clock.submit, batcher, [i])) for i in (1, 2, 3)]
    for _ in range(3):
        assert clock.joined.acquire(timeout=WAIT_S)
    closers = [Caller(batcher.close) for _ in range(2)]
    gate.opened.set()
    assert [caller.outcome() for caller in callers] == [[1], [4], [9]]
    assert [closer.outcome() for closer in closers] == [None, None]
    with pytest.raises(UnavailableError, match="closed"):
        submit(batcher, [4])
    with pytest.raises(UnavailableError):
        submit(batcher, [])
    batcher.close()


def test_a_batch_is_cut_by_pixels_and_a_larger_item_goes_alone() -> None:
    gate, clock = Gate(), Clock()
    limits = BatcherSettings(batch_items_max=3, batch_pixels_max=10, wait_ms_max=0.0)
    with Batcher(gate, limits, clock=clock) as batcher:
        running = Caller(lambda: submit(batcher, [0]))
        assert gate.entered.acquire(timeout=WAIT_S)
        items = [1, 2, 3, 4, 5, 6, 7, 8]
        pixels = [5, 5, 1, 99, 11, 0, 10, 1]
        rest = Caller(lambda: batcher.submit(items, pixels))
        gate.opened.set()
        assert (running.outcome(), rest.outcome()) == ([0], expected(items))
    assert gate.batches == [[0], [1, 2], [3], [4], [5], [6, 7], [8]]


def test_pixels_in_hand_are_bounded_and_refused_before_anything_is_made() -> None:
    gate = Gate()
    made: list[int] = []

    def making(items: Sequence[int]) -> Iterator[int]:
        for item in items:
            made.append(item)
            yield item

    limits = BatcherSettings(wait_ms_max=0.0, queue_pixels_max=10)
    with Batcher(gate, limits) as batcher:
        running = Caller(lambda: batcher.submit(making([1]), [7]))
        assert gate.entered.acquire(timeout=WAIT_S)
        with pytest.raises(
            OverloadedError, match="7 pixels are in hand; 4 more would pass the limit of 10"
        ) as no:
            batcher.submit(making([2, 3]), [2, 2])
        assert no.value.retry_after_s is not None
        assert no.value.retry_after_s > 0
        with pytest.raises(InvalidInputError, match="at most 10 fit"):
            batcher.submit(making([2, 3]), [5, 6])
        assert made == [1]
        gate.opened.set()
        assert running.outcome() == [1]
        assert batcher.submit(making([2, 3]), [5, 5]) == [4, 9]


def test_room_is_reserved_while_items_are_made() -> None:
    begun, opened = threading.Event(), threading.Event()

    def making() -> Iterator[int]:
        begun.set()
        assert opened.wait(WAIT_S)
        yield 3

    with Batcher(squares, BatcherSettings(queue_pixels_max=10)) as batcher:
        slow = Caller(lambda: batcher.submit(making(), [10]))
        assert begun.wait(WAIT_S)
        with pytest.raises(OverloadedError):
            batcher.submit([4], [1])
        opened.set()
        assert slow.outcome() == [9]
        assert batcher.submit([4], [10]) == [16]


def test_the_wait_told_to_overloaded_callers_grows_with_what_is_in_hand() -> None:
    gate = Gate()
    limits = BatcherSettings(batch_items_max=1, wait_ms_max=0.0, queue_pixels_max=1_000_000)
    with Batcher(gate, limits) as batcher:
        first = Caller(lambda: batcher.submit([1], [1]))
        assert gate.entered.acquire(timeout=WAIT_S)
        gate.opened.set()
        assert first.outcome() == [1]
        gate.opened.clear()
        # A pixel took some time: a million take a million times as long.
        large = Caller(lambda: batcher.submit([2], [1_000_000]))
        assert gate.entered.acquire(timeout=WAIT_S)
        with pytest.raises(OverloadedError) as refusal:
            batcher.submit([3], [1])
        assert refusal.value.retry_after_s is not None
        assert refusal.value.retry_after_s > 1
        gate.opened.set()
        assert large.outcome() == [4]


def test_what_cannot_be_made_is_its_own_answer_and_takes_no_room() -> None:
    bad = NoFaceError("nobody")
    with Batcher(squares, BatcherSettings(queue_pixels_max=10)) as batcher:
        for _ in range(3):
            assert batcher.submit([2, bad, 3], [3, 4, 3]) == [4, bad, 9]
            assert batcher.submit([bad], [10]) == [bad]


def test_an_error_while_making_is_raised_and_gives_all_room_back() -> None:
    seen: list[int] = []

    def process(items: Sequence[int], is_late: IsLate) -> list[int | EngineError]:
        seen.extend(items)
        return squares(items, is_late)

    with Batcher(process, BatcherSettings(queue_pixels_max=10)) as batcher:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                batcher.submit((6 // i for i in (1, 0, 2)), [3, 3, 3])
        assert batcher.submit([5], [10]) == [25]
    assert seen == [5]


def test_no_more_items_are_made_once_the_deadline_has_passed() -> None:
    clock = Clock()
    made: list[int] = []

    def making() -> Iterator[int]:
        for item in range(9):
            made.append(item)
            clock.now += 1
            yield item

    with Batcher(squares, BatcherSettings(queue_items_max=9), clock=clock) as batcher:
        with pytest.raises(DeadlineError):
            batcher.submit(making(), [1] * 9, clock.now + 3)
        assert made == [0, 1, 2]
        assert submit(batcher, list(range(9))) == expected(range(9))


def test_a_process_that_asks_leaves_late_items_out_and_their_call_fails() -> None:
    gate, clock = Gate(), Clock()
    done: list[int] = []

    def process(items: Sequence[int], is_late: IsLate) -> list[int | EngineError]:
        if items[0] == 0:
            return gate(items, is_late)
        outputs: list[int | EngineError] = []
        for i, item in enumerate(items):
            if is_late(i):
                outputs.append(late_error())
                continue
            done.append(item)
            clock.now += 10
            outputs.append(item * item)
        return outputs

    with Batcher(process, BatcherSettings(wait_ms_max=0.0), clock=clock) as batcher:
        running = Caller(lambda: submit(batcher, [0]))
        assert gate.entered.acquire(timeout=WAIT_S)
        callers = []
        for items, in_s in (([1, 2], 15), ([3, 4], 15), ([5], 1000)):
            callers.append(Caller(partial(clock.submit, batcher, items, in_s)))
            assert clock.joined.acquire(timeout=WAIT_S)
        gate.opened.set()
        in_time, late, lasting = (caller.outcome() for caller in callers)
        assert running.outcome() == [0]
    # 1 ends at 10, 2 at 20: begun in time, so finished; 3 and 4 would begin at 20.
    assert in_time == [1, 4]
    assert isinstance(late, DeadlineError)
    assert lasting == [25]
    assert done == [1, 2, 5]


def test_room_of_a_caller_that_left_is_held_until_its_work_ends() -> None:
    gate = Gate()
    with Batcher(gate, BatcherSettings(wait_ms_max=0.0, queue_pixels_max=10)) as batcher:
        late = Caller(lambda: batcher.submit([1], [10], time.monotonic() + 0.02))
        assert gate.entered.acquire(timeout=WAIT_S)
        assert isinstance(late.outcome(), DeadlineError)
        with pytest.raises(OverloadedError):
            batcher.submit([2], [1])
        gate.opened.set()


def test_room_of_work_that_was_not_begun_comes_back_at_the_deadline() -> None:
    gate = Gate()
    with Batcher(gate, BatcherSettings(wait_ms_max=0.0, queue_pixels_max=10)) as batcher:
        running = Caller(lambda: batcher.submit([1], [1]))
        assert gate.entered.acquire(timeout=WAIT_S)
        with pytest.raises(DeadlineError):
            batcher.submit([2], [9], time.monotonic() + 0.02)
        again = Caller(lambda: batcher.submit([3], [9]))
        gate.opened.set()
        assert (running.outcome(), again.outcome()) == ([1], [9])


def test_nothing_of_a_finished_batch_stays_in_memory() -> None:
    def process(items: Sequence[set[int]], is_late: IsLate) -> list[int | EngineError]:
        return [len(item) for item in items]

    class Large(set[int]):
        """What a weak reference can be made to."""

    gone = [threading.Event() for _ in range(2)]

    def making() -> Iterator[set[int]]:
        for event in gone:
            item = Large({1, 2})
            weakref.finalize(item, event.set)
            yield item
            del item

    with Batcher(process) as batcher:
        assert batcher.submit(making(), [1, 1]) == [2, 2]
        assert all(event.wait(WAIT_S) for event in gone)
