"""Who maps shards of pictures to templates: this process, or several.

All use the same mapper and give the same outcomes; only their order differs. Knows no files of a job.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Protocol

from engine.errors import InvalidInputError, UnavailableError
from engine.processes import die_with_parent
from indexer.items import Item, Reason
from indexer.mapper import Outcome, PictureMapper

Shards = Iterable[tuple[int, list[Item]]]
Mapped = Iterator[tuple[int, list[Outcome]]]
WORKERS_MAX = 256
KILLED_MAX = 4
"""Pictures of one shard that kill their process; more, and it is not the pictures."""
_HINT = "Look for a lack of memory in the system's log, or give fewer --workers; then run the job again."


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
    """In processes of their own, which end with this one, however that ends.

    Where one is killed (for want of memory, say), its shard is done again in halves, until the item that is
    worked on whenever it happens is alone, and refused.
    """

    def __init__(self, num_workers: int):
        if not 1 <= num_workers <= WORKERS_MAX:
            raise InvalidInputError(f"workers: {num_workers} given; it must be 1 to {WORKERS_MAX}")
        self._num_workers = num_workers

    def run(self, mapper: PictureMapper, shards: Shards) -> Mapped:
        """As `Runner`; raises what the mapper raises."""
        rest = iter(shards)
        with contextlib.ExitStack() as parts:
            busy: dict[Connection, _Worker] = {}
            for shard in self._first(rest):
                worker = parts.enter_context(_Worker(mapper))
                worker.give(shard)
                busy[worker.connection] = worker
            while busy:
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    worker = busy.pop(connection)
                    number, items = worker.shard
                    outcomes = worker.take()
                    if outcomes is None:
                        outcomes = _alone(mapper, items)
                        worker = parts.enter_context(_Worker(mapper))
                    # Before its outcomes are written, so that it does not wait for the disk.
                    if (following := next(rest, None)) is not None:
                        worker.give(following)
                        busy[worker.connection] = worker
                    yield number, outcomes

    def _first(self, rest: Iterator[tuple[int, list[Item]]]) -> list[tuple[int, list[Item]]]:
        """A shard for each worker; where there are fewer, there are fewer workers."""
        return [shard for _, shard in zip(range(self._num_workers), rest, strict=False)]


class _Worker:
    """A process that maps one shard at a time; as a context it is killed at the end."""

    def __init__(self, mapper: PictureMapper):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(mapper, other, os.getpid()), daemon=True)
        self._process.start()
        # So that the pipe ends with the process.
        other.close()
        self.shard: tuple[int, list[Item]] = (0, [])
        self._is_ready = False

    def give(self, shard: tuple[int, list[Item]]) -> None:
        """Have it map a shard; a process that is gone is noticed by `take`."""
        self.shard = shard
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(shard[1])

    def take(self) -> list[Outcome] | None:
        """Wait for the outcomes of its shard; None: it was killed at it.

        Raises what the mapper raised, UnavailableError where it was killed before it was ready.
        """
        try:
            answer: list[Outcome] | Exception | None = self.connection.recv()
            if answer is None:
                self._is_ready = True
                answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            if self._is_ready:
                return None
            raise UnavailableError(
                "a process that was to embed pictures was killed while it loaded the network",
                hint=_HINT,
            ) from None
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None, "it is ready once"
        return answer

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _alone(mapper: PictureMapper, items: list[Item]) -> list[Outcome]:
    """Map items of which one may kill whoever works on it."""
    waiting = deque([items])
    outcomes: list[Outcome] = []
    num_killed = 0
    while waiting:
        part = waiting.popleft()
        with _Worker(mapper) as worker:
            worker.give((0, part))
            found = worker.take()
        if found is not None:
            outcomes += found
        elif len(part) > 1:
            middle = len(part) // 2
            waiting.extendleft((part[middle:], part[:middle]))
        else:
            num_killed += 1
            if num_killed > KILLED_MAX:
                raise UnavailableError(
                    f"processes were killed at each of {num_killed} pictures, the last one {part[0].key}",
                    hint=_HINT,
                )
            detail = "the process that worked on it was killed, perhaps for want of memory"
            outcomes.append(Outcome(part[0].key, part[0].identity_id, Reason.WORKER_KILLED, detail))
    return outcomes


def _work(mapper: PictureMapper, connection: Connection, parent: int) -> None:
    """Map what comes until nothing more does."""
    # Whoever interrupts a job from a terminal: its parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that is killed cannot end its workers.
    die_with_parent(parent)
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            mapper.load()
            connection.send(None)
            while True:
                connection.send(mapper(connection.recv()))
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - the parent raises it
            connection.send(error)
