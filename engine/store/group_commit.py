"""One writer thread that gathers waiting writes into one synced commit. Knows nothing of records.

::

    caller -> queue -> [gather what waits] -> begin -> apply each -> commit + sync -> answer each

A write that fails changes nothing: one that raises before its first change is skipped, one that raises
after it makes the whole commit begin again without it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from engine.errors import DeadlineError, OverloadedError, UnavailableError

RETRY_AFTER_S = 0.1
T = TypeVar("T")


@dataclass
class _Write:
    apply: Callable[[Any], Any]
    num_records: int
    deadline: float | None
    is_alone: bool
    future: Future[Any] = field(default_factory=Future)


class GroupCommit:
    """Gathers writes of many threads; `begin` opens one transaction that commits and syncs at its end."""

    def __init__(
        self,
        begin: Callable[[], Any],
        *,
        name: str,
        records_max: int,
        ms_max: float,
        queue_max: int,
        pause_s: float = 0.0,
    ):
        """What `begin()` opens counts its `num_changes`, rows put or deleted so far.

        `pause_s` is slept after a commit of more than half of `records_max`: other processes want to write.
        """
        self._begin = begin
        self._pause_s = pause_s
        self._records_max = records_max
        self._seconds_max = ms_max / 1e3
        self._queue: queue.Queue[_Write | None] = queue.Queue(queue_max)
        self._is_closed = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"commit-{name}", daemon=True)
        self._thread.start()

    def write(
        self,
        apply: Callable[[Any], T],
        *,
        num_records: int = 1,
        deadline: float | None = None,
        is_alone: bool = False,
    ) -> T:
        """Apply `apply(transaction)` in some commit; returns its result after the commit is synced.

        `deadline` is of time.monotonic, seconds; `is_alone` asks for a commit without any other write.
        Raises what `apply` raises; OverloadedError where the queue is full; DeadlineError where the time was
        up (before it began: surely not written; during the commit: perhaps written); UnavailableError after
        close.
        """
        write = _Write(apply, num_records, deadline, is_alone)
        self._enqueue(write)
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return write.future.result(timeout)  # type: ignore[no-any-return]
        except FutureTimeout:
            if write.future.cancel():
                raise DeadlineError("the time was up while the write waited; it was not made") from None
            raise DeadlineError("the time was up during the commit; the write may have been made") from None

    def close(self) -> None:
        """Finish what waits, then stop."""
        with self._gate:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        self._thread.join()

    def _enqueue(self, write: _Write) -> None:
        # The gate keeps a write from slipping in behind the end marker, where nobody would answer it.
        with self._gate:
            if self._is_closed:
                raise UnavailableError("the store is closing")
            try:
                self._queue.put_nowait(write)
            except queue.Full:
                limit = self._queue.maxsize
                raise OverloadedError(f"{limit} writes wait already", retry_after_s=RETRY_AFTER_S) from None

    def _run(self) -> None:
        held: list[_Write | None] = []
        while (first := held.pop() if held else self._queue.get()) is not None:
            group = self._gather(first, held)
            self._commit(group)
            if self._pause_s and 2 * sum(write.num_records for write in group) > self._records_max:
                time.sleep(self._pause_s)

    def _gather(self, first: _Write, held: list[_Write | None]) -> list[_Write]:
        """Take what waits into one group; what was taken but does not belong to it goes into `held`."""
        group, num_records = [first], first.num_records
        while num_records < self._records_max and not first.is_alone:
            try:
                write = self._queue.get_nowait()
            except queue.Empty:
                break
            if write is None or write.is_alone:
                held.append(write)
                break
            group.append(write)
            num_records += write.num_records
        return group

    def _commit(self, group: list[_Write]) -> None:
        waiting = [write for write in group if _start(write)]
        while waiting := [write for write in waiting if not _is_late(write)]:
            try:
                waiting = self._try_commit(waiting)
            except BaseException as error:  # noqa: BLE001 - whatever it is, each waiter must hear of it
                for write in waiting:
                    if not write.future.done():
                        write.future.set_exception(error)
                return

    def _try_commit(self, waiting: list[_Write]) -> list[_Write]:
        """Commit what can be; returns what must be tried again because a write failed half-way."""
        # Nobody is answered before the commit: a refusal, too, may rest on what another write here did.
        answers: list[Callable[[], None]] = []
        late: list[_Write] = []
        began = time.monotonic()
        failed: _Write | None = None
        with _abortable(self._begin) as (transaction, abort):
            for position, write in enumerate(waiting):
                if position and time.monotonic() - began > self._seconds_max:
                    late = waiting[position:]
                    break
                changes_before = transaction.num_changes
                try:
                    answers.append(partial(write.future.set_result, write.apply(transaction)))
                except Exception as error:  # noqa: BLE001 - it is the waiter's to handle
                    answers.append(partial(write.future.set_exception, error))
                    if transaction.num_changes != changes_before:
                        failed = write
                        abort()
                        break
        if failed is not None:
            answers[-1]()
            return [write for write in waiting if write is not failed]
        for answer in answers:
            answer()
        return late


def _start(write: _Write) -> bool:
    return write.future.set_running_or_notify_cancel()


def _is_late(write: _Write) -> bool:
    if write.deadline is None or time.monotonic() < write.deadline:
        return False
    write.future.set_exception(DeadlineError("the time was up while the write waited; it was not made"))
    return True


class _Abort(Exception):  # noqa: N818 - control flow
    """Leaves the transaction without a commit."""


@contextmanager
def _abortable(begin: Callable[[], Any]) -> Iterator[tuple[Any, Callable[[], None]]]:
    is_aborted = False

    def abort() -> None:
        nonlocal is_aborted
        is_aborted = True

    try:
        with begin() as transaction:
            yield transaction, abort
            if is_aborted:
                raise _Abort
    except _Abort:
        return
