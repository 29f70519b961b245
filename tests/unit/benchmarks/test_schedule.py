"""The open loop's times and what is counted from them; the stages in a server's log."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.schedule import Calls, arrivals, serve_row
from benchmarks.stages import stages_of


def test_calls_arrive_at_the_rate_and_independently() -> None:
    times = arrivals(500.0, 40.0, seed=3)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert times[0] >= 0
    assert times[-1] < 40.0
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    # Of Poisson arrivals: gaps as wide on average as they vary.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    np.testing.assert_array_equal(times, arrivals(500.0, 40.0, seed=3))


def test_nobody_arrives_at_rate_zero() -> None:
    assert len(arrivals(0.0, 10.0, seed=1)) == 0


def calls(intended_s: list[float], finished_s: list[float], errors: list[bool], wrong: list[bool]) -> Calls:
    return Calls(np.array(intended_s), np.array(finished_s), np.array(errors), np.array(wrong))


def test_a_stall_is_paid_by_all_who_had_to_wait() -> None:
    # Sent late by a client that was held up for 10 s at the first: each waited from its own time on.
    late = calls([0.0, 1.0, 2.0], [10.0, 10.1, 10.2], [False] * 3, [False] * 3)
    np.testing.assert_allclose(late.latency_ms, [10_000, 9_100, 8_200])
    assert late.p_ms(50) == pytest.approx(9_100)


def test_a_row_counts_failed_and_wrong_answers_as_errors() -> None:
    one = calls([0.0, 1.0], [0.5, 1.5], [False, True], [False, False])
    other = calls([0.5], [2.0], [False], [True])
    row = serve_row("batch64", 2, 1, 30.0, Calls.merged([one, other]), 64)
    assert row == {
        "mode": "batch64",
        "clients": 2,
        "workers": 1,
        "offered": 30.0,
        "calls_per_s": 1.0,
        "probes_per_s": 64.0,
        "p50_ms": 500.0,
        "p99_ms": 1480.0,
        "errors": 2,
    }


def test_stages_are_medians_of_the_rpc_asked_for() -> None:
    lines = [
        '{"event":"serving"}',
        '{"rpc":"I/Identify","code":"OK","latency_ms":2.0,"stages_ms":{"search":1.0}}',
        '{"rpc":"I/Identify","code":"OK","latency_ms":4.0,"stages_ms":{"search":3.0}}',
        '{"rpc":"I/Identify","code":"UNAVAILABLE","latency_ms":900.0}',
        '{"rpc":"I/Identify","code":"OK","laten',
        '{"rpc":"I/Verify","code":"OK","latency_ms":70.0,"stages_ms":{"search":60.0}}',
    ]
    stages = stages_of(lines, "I/Identify")
    assert stages is not None
    assert (stages.num, stages.handler_ms, stages.search_ms) == (2, 3.0, 2.0)
    assert stages_of(lines, "I/Embed") is None
