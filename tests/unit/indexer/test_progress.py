"""How far a job is, on a terminal and in a log; what it will take."""

from __future__ import annotations

import io

import pytest

from indexer import progress
from indexer.estimate import estimate
from indexer.plan import PICTURES_PER_SHARD, Plan
from indexer.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then_with_rate_time_left_and_refusals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    with Progress("embed", 1000, "pictures", stream=stream) as told:
        told.add(10, 1)
        assert stream.getvalue() == ""
        monkeypatch.setattr(progress, "LINE_PAUSE_S", 0.0)
        told.add(190, 4)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("embed: 200 of 1,000 pictures, ")
    assert " a second, " in line
    assert line.endswith(" s left, 5 refused")


def test_what_an_earlier_run_did_is_no_part_of_the_rate() -> None:
    told = Progress("load", 100, "vectors", num_done=60, stream=io.StringIO())
    assert told.per_s == 0.0
    assert told.line() == "load: 60 of 100 vectors, 0.0 a second, time left not known, 0 refused"


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    with Progress("embed", 100, "pictures", num_done=50, stream=stream) as told:
        told.add(50, 7)
    assert "100/100" in stream.getvalue()
    assert "refused=7" in stream.getvalue()


def test_an_estimate_grows_with_the_work_and_shrinks_with_the_workers() -> None:
    pictures = Plan("folder", True, 10_000, 0, "", 1)
    assert pictures.num_shards == -(-10_000 // PICTURES_PER_SHARD)
    one, four = estimate(pictures, 1), estimate(pictures, 4)
    assert one.seconds > 3 * four.seconds > 0
    assert four.memory_bytes > one.memory_bytes
    vectors = Plan("npy", False, 1_000_000, 0, "", 0, 512)
    narrow = Plan("npy", False, 1_000_000, 0, "", 0, 128)
    assert estimate(vectors, 1).disk_bytes > estimate(narrow, 1).disk_bytes > 1e9
    assert "GB of disk" in estimate(narrow, 1).line()
