"""Writes and builds on a served gallery while others search in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.probe_sets import SEED, source_of
from engine.client import Client, EnrollItem
from engine.errors import EngineError

ITEMS_PER_MESSAGE = 25
"""Identities in one message of the stream, one commit: 20 commits a second at 500 enrollments."""
_POOL_ROWS = 20_000
JOIN_S = 300.0


class Disturbance:
    """Enrolls new people at a rate and builds the index again and again, for the time of a with block.

    What went wrong with either is counted, not raised: it is a result.
    """

    def __init__(
        self, address: str, gallery_id: str, kind: str, enrollments_per_s: float, *, is_building: bool
    ):
        self._address, self._gallery_id = address, gallery_id
        self._per_s = enrollments_per_s
        self._vectors, _ = source_of(kind).enrolled(np.random.default_rng((SEED, 3)), _POOL_ROWS)
        self._stop = threading.Event()
        works = ([self._enroll] if enrollments_per_s else []) + ([self._build] if is_building else [])
        self._threads = [threading.Thread(target=work) for work in works]
        self.num_enrolled = 0
        self.num_builds = 0
        self.errors: list[str] = []
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._start_s = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self.seconds = time.monotonic() - self._start_s
        for thread in self._threads:
            thread.join(JOIN_S)

    def describe(self) -> str:
        """What was done."""
        return (
            f"{self.num_enrolled / max(self.seconds, 1e-9):,.0f} enrollments/s, {self.num_builds} builds "
            f"finished in {self.seconds:.0f} s, {len(self.errors)} of them failed"
        )

    def _enroll(self) -> None:
        # Names that no earlier run used: what was enrolled then stays enrolled.
        run = time.time_ns()

        def items() -> Iterator[EnrollItem]:
            start_s = time.monotonic()
            number = 0
            while not self._stop.wait(max(0.0, start_s + number / self._per_s - time.monotonic())):
                for _ in range(ITEMS_PER_MESSAGE):
                    vector = self._vectors[number % len(self._vectors)]
                    yield EnrollItem(f"new-{run}-{number}", [vector])
                    number += 1

        try:
            with Client(self._address) as client:
                for _, answer in client.enroll_stream(
                    self._gallery_id, items(), items_per_message=ITEMS_PER_MESSAGE
                ):
                    if isinstance(answer, EngineError):
                        self.errors.append(f"enroll: {answer}")
                    else:
                        self.num_enrolled += 1
        except EngineError as error:
            self.errors.append(f"enroll: {error}")

    def _build(self) -> None:
        with Client(self._address) as client:
            while not self._stop.is_set():
                try:
                    for _ in client.build_index(self._gallery_id):
                        pass
                    self.num_builds += 1
                except EngineError as error:
                    self.errors.append(f"build: {error}")
                    self._stop.wait(1.0)
