"""How far a job is: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

LINE_PAUSE_S = 60.0
"""Between two lines where there is no terminal."""


class Progress:
    """Of one step, in items; use it as a context."""

    def __init__(self, step: str, total: int, unit: str, *, num_done: int = 0, stream: TextIO | None = None):
        """`num_done` were done by an earlier run: they are no part of the rate."""
        self._stream = stream or sys.stderr
        self._step, self._total, self._unit = step, total, unit
        self._num_done = self._num_begun = num_done
        self._num_refused = 0
        self._start_s = self._told_s = time.monotonic()
        self._bar = (
            tqdm(
                total=total,
                desc=step,
                unit=f" {unit}",
                file=self._stream,
                initial=num_done,
                unit_scale=total >= 100_000,
            )
            if self._stream.isatty()
            else None
        )

    def add(self, num: int, num_refused: int = 0) -> None:
        """Count what is done now."""
        self._num_done += num
        self._num_refused += num_refused
        if self._bar is not None:
            self._bar.set_postfix(refused=self._num_refused, refresh=False)
            self._bar.update(num)
        elif time.monotonic() - self._told_s >= LINE_PAUSE_S:
            self._told_s = time.monotonic()
            self._stream.write(f"{self.line()}\n")
            self._stream.flush()

    @property
    def per_s(self) -> float:
        """Items a second since the beginning of this run."""
        return (self._num_done - self._num_begun) / max(time.monotonic() - self._start_s, 1e-9)

    def line(self) -> str:
        """Say how far it is."""
        left = (self._total - self._num_done) / self.per_s if self.per_s else float("inf")
        eta = f"{left:,.0f} s left" if left < float("inf") else "time left not known"
        return (
            f"{self._step}: {self._num_done:,} of {self._total:,} {self._unit}, {self.per_s:,.1f} a second, "
            f"{eta}, {self._num_refused:,} refused"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
