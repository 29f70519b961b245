"""Group commit against a list that is only extended by commits that ended well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from engine.errors import DeadlineError, OverloadedError, StorageFullError, UnavailableError
from engine.store.group_commit import GroupCommit


class Ledger:
    """A transaction over a list: rows are kept only when the commit ends without an error."""

    def __init__(self) -> None:
        self.rows: list[object] = []
        self.commits: list[list[object]] = []
        self.pending: list[object] = []
        self.commit_error: Exception | None = None
        self.before_commit: Callable[[], None] = lambda: None

    @property
    def num_changes(self) -> int:
        return len(self.pending)

    @contextmanager
    def begin(self) -> Iterator[Ledger]:
        self.pending = []
        yield self
        self.before_commit()
        if self.commit_error is not None and self.pending:
            raise self.commit_error
        self.rows += self.pending
        self.commits.append(self.pending)


def put(row: object) -> Callable[[Ledger], object]:
    def apply(ledger: Ledger) -> object:
        ledger.pending.append(row)
        return row

    return apply


class Gate:
    """A write that holds the committing thread until it is let go, so that others gather behind it."""

    def __init__(self, commits: GroupCommit) -> None:
        self._entered, self._open = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=commits.write, args=(self._apply,))
        self._thread.start()
        self._entered.wait()

    def _apply(self, ledger: Ledger) -> None:
        self._entered.set()
        self._open.wait()

    def let_go(self) -> None:
        self._open.set()
        self._thread.join()


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@contextmanager
def committing(ledger: Ledger, **limits: float) -> Iterator[GroupCommit]:
    commits = GroupCommit(
        ledger.begin,
        name="test",
        records_max=int(limits.get("records_max", 256)),
        ms_max=limits.get("ms_max", 60_000.0),
        queue_max=int(limits.get("queue_max", 1024)),
        pause_s=limits.get("pause_s", 0.0),
    )
    try:
        yield commits
    finally:
        commits.close()


def waiting(
    commits: GroupCommit, pool: ThreadPoolExecutor, *applies: Callable[[Ledger], object]
) -> list[Future[object]]:
    """Put writes into the queue one after the other; returns their futures."""
    futures: list[Future[object]] = []
    for apply in applies:
        num_before = commits._queue.qsize()
        futures.append(pool.submit(commits.write, apply))
        while commits._queue.qsize() == num_before:
            time.sleep(0)
    return futures


def test_writes_of_one_thread_are_committed_in_their_order(ledger: Ledger) -> None:
    with committing(ledger) as commits:
        assert [commits.write(put(row)) for row in range(50)] == list(range(50))
    assert ledger.rows == list(range(50))


def test_writes_of_many_threads_are_each_committed_once_and_answered_with_their_own_result(
    ledger: Ledger,
) -> None:
    with committing(ledger, records_max=7) as commits, ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda row: commits.write(put(row)), range(500)))
    assert results == list(range(500))
    assert sorted(ledger.rows, key=str) == sorted(range(500), key=str)


def test_what_waits_is_gathered_into_one_commit_of_at_most_records_max(ledger: Ledger) -> None:
    with committing(ledger, records_max=3) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        futures = waiting(commits, pool, *map(put, range(7)))
        gate.let_go()
        assert [future.result() for future in futures] == list(range(7))
    assert ledger.commits == [[], [0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(("num_records", "is_paused"), [(5, False), (6, True)])
def test_a_full_commit_is_followed_by_a_pause_for_other_processes(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, num_records: int, is_paused: bool
) -> None:
    pauses: list[float] = []
    with committing(ledger, records_max=10, pause_s=0.25) as commits:
        monkeypatch.setattr("engine.store.group_commit.time.sleep", pauses.append)
        commits.write(put(1), num_records=num_records)
    monkeypatch.undo()
    assert pauses == [0.25] * is_paused


def test_writes_that_would_make_a_commit_too_long_go_into_the_next(ledger: Ledger) -> None:
    with committing(ledger, ms_max=0.0) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        futures = waiting(commits, pool, *map(put, range(3)))
        gate.let_go()
        assert [future.result() for future in futures] == [0, 1, 2]
    assert ledger.commits == [[], [0], [1], [2]]


def test_a_write_that_fails_before_its_first_change_is_skipped(ledger: Ledger) -> None:
    def refuse(_: Ledger) -> None:
        raise ValueError("refused")

    with committing(ledger) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        first, failing, last = waiting(commits, pool, put(1), refuse, put(2))
        gate.let_go()
        with pytest.raises(ValueError, match="refused"):
            failing.result()
        assert (first.result(), last.result()) == (1, 2)
    assert ledger.commits == [[], [1, 2]]


def test_a_write_that_fails_after_a_change_leaves_nothing_and_the_others_are_committed(
    ledger: Ledger,
) -> None:
    def fail_half_way(ledger: Ledger) -> None:
        ledger.pending.append("half")
        raise ValueError("half-way")

    with committing(ledger) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        first, failing, last = waiting(commits, pool, put(1), fail_half_way, put(2))
        gate.let_go()
        with pytest.raises(ValueError, match="half-way"):
            failing.result()
        assert (first.result(), last.result()) == (1, 2)
    assert ledger.rows == [1, 2]


def test_a_refusal_that_rests_on_an_uncommitted_write_is_not_answered_before_the_commit(
    ledger: Ledger,
) -> None:
    """A repeated write finds the receipt of the first in the same group: neither may be answered early."""

    def refuse_repetition(ledger: Ledger) -> None:
        if 1 in ledger.pending or 1 in ledger.rows:
            raise ValueError("answered before")

    with committing(ledger) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        first, repeated = waiting(commits, pool, put(1), refuse_repetition)
        seen: list[bool] = []
        ledger.before_commit = lambda: seen.append(repeated.done())
        ledger.commit_error = StorageFullError("full")
        gate.let_go()
        for future in (first, repeated):
            with pytest.raises(StorageFullError):
                future.result()
    assert seen == [False, False]


def test_a_commit_that_fails_is_heard_of_by_every_write_in_it_and_the_next_one_works(ledger: Ledger) -> None:
    with committing(ledger) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        futures = waiting(commits, pool, put(1), put(2))
        ledger.commit_error = StorageFullError("full")
        gate.let_go()
        for future in futures:
            with pytest.raises(StorageFullError):
                future.result()
        ledger.commit_error = None
        assert commits.write(put(3)) == 3
    assert ledger.rows == [3]


def test_a_write_that_asks_for_it_is_alone_in_its_commit(ledger: Ledger) -> None:
    with committing(ledger) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        before = waiting(commits, pool, put(1), put(2))
        alone = pool.submit(commits.write, put("alone"), is_alone=True)
        while commits._queue.qsize() < 3:
            time.sleep(0)
        behind = waiting(commits, pool, put(3), put(4))
        gate.let_go()
        assert [future.result() for future in (*before, alone, *behind)] == [1, 2, "alone", 3, 4]
    assert ledger.commits == [[], [1, 2], ["alone"], [3, 4]]


def test_one_write_more_than_may_wait_is_refused_and_says_when_to_come_again(ledger: Ledger) -> None:
    with committing(ledger, queue_max=2) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        futures = waiting(commits, pool, put(1), put(2))
        with pytest.raises(OverloadedError, match="2 writes wait") as caught:
            commits.write(put("refused"))
        assert caught.value.retry_after_s
        gate.let_go()
        assert [future.result() for future in futures] == [1, 2]
    assert ledger.rows == [1, 2]


def test_a_write_whose_time_is_up_in_the_queue_is_surely_not_made(ledger: Ledger) -> None:
    with committing(ledger) as commits:
        gate = Gate(commits)
        with pytest.raises(DeadlineError, match="it was not made"):
            commits.write(put("late"), deadline=time.monotonic() + 0.02)
        with pytest.raises(DeadlineError, match="it was not made"):
            commits.write(put("too late"), deadline=time.monotonic() - 1)
        gate.let_go()
        commits.write(put("in time"), deadline=time.monotonic() + 60)
    assert ledger.rows == ["in time"]


def test_a_write_whose_time_is_up_during_the_commit_says_that_it_may_have_been_made(ledger: Ledger) -> None:
    is_over = threading.Event()
    ledger.before_commit = lambda: assert_set(is_over)
    with committing(ledger) as commits:
        with pytest.raises(DeadlineError, match="may have been made"):
            commits.write(put("late"), deadline=time.monotonic() + 0.05)
        is_over.set()
    assert ledger.rows == ["late"]


def test_close_finishes_what_waits_and_refuses_what_comes_after(ledger: Ledger) -> None:
    with committing(ledger) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        futures = waiting(commits, pool, put(1), put(2))
        closing = pool.submit(commits.close)
        while not commits._is_closed:
            time.sleep(0)
        with pytest.raises(UnavailableError, match="closing"):
            commits.write(put("after"))
        gate.let_go()
        closing.result()
        assert [future.result() for future in futures] == [1, 2]
        commits.close()
    assert ledger.rows == [1, 2]


def test_a_close_behind_a_write_that_goes_alone_is_seen(ledger: Ledger) -> None:
    with committing(ledger) as commits, ThreadPoolExecutor(8) as pool:
        gate = Gate(commits)
        futures = waiting(commits, pool, put(1))
        alone = pool.submit(commits.write, put("alone"), is_alone=True)
        while commits._queue.qsize() < 2:
            time.sleep(0)
        closing = pool.submit(commits.close)
        gate.let_go()
        closing.result()
        assert [future.result() for future in (*futures, alone)] == [1, "alone"]
