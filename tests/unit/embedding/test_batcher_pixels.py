"""The batcher's room: pixels in hand, what is made late or never, what is given back."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from engine.embedding.batcher import Batcher, BatcherSettings, IsLate, late_error
from engine.errors import (
    DeadlineError,
    EngineError,
    InvalidInputError,
    NoFaceError,
    OverloadedError,
)
from tests.unit.embedding.batching import WAIT_S, Caller, Clock, Gate, expected, squares, submit


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
