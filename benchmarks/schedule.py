"""When calls are meant to be sent, and what their times say. Pure. Knows no gRPC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]


def arrivals(per_s: float, duration_s: float, seed: int) -> Seconds:
    """Times float64[n] from 0 of calls that come independently of each other (Poisson), ascending.

    An open loop sends at these times whether or not earlier calls were answered, and counts the time of each
    from here: a server that stalls then pays for everybody who had to wait (no coordinated omission).
    """
    if per_s <= 0:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    num = int(per_s * duration_s + 10 * np.sqrt(per_s * duration_s) + 10)
    times = np.cumsum(rng.exponential(1 / per_s, num))
    return times[times < duration_s]


@dataclass(frozen=True)
class Calls:
    """What one or more load generators did."""

    intended_s: Seconds
    """float64[n], when each was meant to be sent; in a closed loop when it was."""
    finished_s: Seconds
    """float64[n]"""
    is_error: NDArray[np.bool_]
    is_wrong: NDArray[np.bool_]
    """Answered, but not with the person who had to come first."""

    @classmethod
    def merged(cls, parts: list[Calls]) -> Calls:
        """All calls of several generators."""
        return cls(
            np.concatenate([part.intended_s for part in parts]),
            np.concatenate([part.finished_s for part in parts]),
            np.concatenate([part.is_error for part in parts]),
            np.concatenate([part.is_wrong for part in parts]),
        )

    @property
    def latency_ms(self) -> Seconds:
        """From the intended time to the answer."""
        return (self.finished_s - self.intended_s) * 1e3

    @property
    def num_errors(self) -> int:
        """Calls that failed."""
        return int(self.is_error.sum())

    @property
    def num_wrong(self) -> int:
        """Calls that were answered wrongly."""
        return int(self.is_wrong.sum())

    @property
    def per_s(self) -> float:
        """Calls answered a second, from the first intended time to the last answer."""
        if not len(self.intended_s):
            return 0.0
        span_s = float(self.finished_s.max() - self.intended_s.min())
        return float((~self.is_error).sum()) / span_s

    def p_ms(self, percent: float) -> float:
        """Percentile of latency over all calls, failed ones too; NaN where there were none."""
        return float(np.percentile(self.latency_ms, percent)) if len(self.intended_s) else float("nan")


def serve_row(
    mode: str, clients: int, workers: int, offered: float, calls: Calls, probes: int
) -> dict[str, object]:
    """One row of the measurement `serve`; `offered` calls a second, 0 in a closed loop."""
    return {
        "mode": mode,
        "clients": clients,
        "workers": workers,
        "offered": round(offered, 1),
        "calls_per_s": round(calls.per_s, 1),
        "probes_per_s": round(calls.per_s * probes, 1),
        "p50_ms": round(calls.p_ms(50), 3),
        "p99_ms": round(calls.p_ms(99), 3),
        "errors": calls.num_errors + calls.num_wrong,
    }
