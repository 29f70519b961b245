"""Who maps shards of pictures to templates: this process, or several.

All use the same mapper and give the same outcomes; only their order differs. Knows no files of a job.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

from engine.errors import InvalidInputError
from indexer.items import Item, Reason
from indexer.mapper import Outcome, PictureMapper

Shards = Iterable[tuple[int, list[Item]]]
Mapped = Iterator[tuple[int, list[Outcome]]]
WORKERS_MAX = 256
_PR_SET_PDEATHSIG = 1


class Runner(Protocol):
    """Maps shards."""

    def run(self, mapper: PictureMapper, shards: Shards) -> Mapped:
        """Outcomes of each shard, with its number, in any order."""


class Inline:
    """In this process, one after the other."""

    def run(self, mapper: PictureMapper, shards: Shards) -> Mapped:
        """As `Runner`."""
        for number, items in shards:
            yield number, mapper(items)


class Processes:
    """In processes of their own, which end with this one.

    Where one is killed (for want of memory, say), the shards that were worked on are done again in halves,
    until the item that is worked on whenever it happens is alone, and refused.
    """

    def __init__(self, num_workers: int):
        if not 1 <= num_workers <= WORKERS_MAX:
            raise InvalidInputError(f"workers: {num_workers} given; it must be 1 to {WORKERS_MAX}")
        self._num_workers = num_workers

    def run(self, mapper: PictureMapper, shards: Shards) -> Mapped:
        """As `Runner`."""
        rest = iter(shards)
        while True:
            suspects: list[tuple[int, list[Item]]] = []
            with self._pool(mapper, self._num_workers) as pool:
                yield from self._run(pool, rest, suspects)
            if not suspects:
                return
            for number, items in suspects:
                yield number, self._alone(mapper, items)

    def _run(
        self, pool: futures.ProcessPoolExecutor, rest: Shards, suspects: list[tuple[int, list[Item]]]
    ) -> Mapped:
        """Map until all are done or a worker was killed; then `suspects` are those under way."""
        pending: dict[futures.Future[list[Outcome]], tuple[int, list[Item]]] = {}
        is_broken = False
        while True:
            while not is_broken and len(pending) < 2 * self._num_workers:
                one = next(iter(rest), None)
                if one is None:
                    break
                try:
                    pending[pool.submit(_map, one[1])] = one
                except BrokenProcessPool:
                    suspects.append(one)
                    is_broken = True
            if not pending:
                return
            done, _ = futures.wait(pending, return_when=futures.FIRST_COMPLETED)
            for future in done:
                number, items = pending.pop(future)
                try:
                    yield number, future.result()
                except BrokenProcessPool:
                    suspects.append((number, items))
                    is_broken = True

    def _alone(self, mapper: PictureMapper, items: list[Item]) -> list[Outcome]:
        waiting = deque([items])
        outcomes: list[Outcome] = []
        while waiting:
            part = waiting.popleft()
            try:
                with self._pool(mapper, 1) as pool:
                    outcomes += pool.submit(_map, part).result()
            except BrokenProcessPool:
                middle = len(part) // 2
                if middle:
                    waiting.extendleft((part[middle:], part[:middle]))
                    continue
                detail = "the process that worked on it was killed, perhaps for want of memory"
                (item,) = part
                outcomes.append(Outcome(item.key, item.identity_id, Reason.WORKER_KILLED, detail))
        return outcomes

    @contextlib.contextmanager
    def _pool(self, mapper: PictureMapper, num_workers: int) -> Iterator[futures.ProcessPoolExecutor]:
        pool = futures.ProcessPoolExecutor(
            num_workers, multiprocessing.get_context("spawn"), _begin, (mapper, os.getpid())
        )
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


_mapper: PictureMapper
"""Of a worker's process: each has one, made once."""


def _begin(mapper: PictureMapper, parent: int) -> None:
    global _mapper  # noqa: PLW0603 - how a pool's processes keep what they need
    _mapper = mapper
    # Whoever interrupts a job from a terminal: its parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        # Linux only: a parent that is killed cannot end its workers.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _map(items: Sequence[Item]) -> list[Outcome]:
    return _mapper(items)
