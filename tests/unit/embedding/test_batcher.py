"""The batcher against direct calls, and its promises about limits, deadlines, errors and closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.embedding.batcher import Batcher, BatcherSettings, IsLate
from engine.errors import (
    DeadlineError,
    EngineError,
    InvalidInputError,
    NoFaceError,
    OverloadedError,
    UnavailableError,
)
from tests.unit.embedding.batching import WAIT_S, Caller, Clock, Gate, expected, squares, submit


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
