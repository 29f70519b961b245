"""Alternating rounds and the search for the smallest setting."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.measuring import BATCH, WARM_UP, Rounds, Search, Timings, alternate, found_by, smallest_that
from benchmarks.truth import Rows
from engine.types import Vectors

PROBES = np.arange(300, dtype=np.float32)[:, None]


@pytest.mark.parametrize("reached_from", [1, 2, 3, 7, 16, 31])
def test_the_smallest_setting_that_reaches_is_found(reached_from: int) -> None:
    asked: list[int] = []

    def reaches(setting: int) -> bool:
        asked.append(setting)
        return setting >= reached_from

    assert smallest_that(range(1, 32), reaches) == reached_from
    assert len(asked) <= 5


def test_no_setting_reaches() -> None:
    assert smallest_that([1, 2, 4], lambda _: False) is None
    assert smallest_that([], lambda _: True) is None


def test_all_searchers_get_the_same_probes_in_every_round() -> None:
    seen: dict[str, list[tuple[float, ...]]] = {"one": [], "other": []}

    def searcher(name: str) -> Search:
        def search(probes: Vectors, k: int) -> Rows:
            seen[name].append(tuple(probes[:, 0].tolist()))
            return np.zeros((len(probes), k), np.int64)

        return search

    order: list[int] = []
    timings = alternate(
        {name: searcher(name) for name in seen},
        PROBES,
        Rounds(3, 5, 60.0),
        lambda done, _: order.append(done),
    )
    assert seen["one"] == seen["other"]
    assert len(seen["one"]) == 3 * (WARM_UP + 5 + 1)
    assert len(seen["one"][WARM_UP + 5]) == BATCH
    assert [len(timings[name].single_ms) for name in seen] == [15, 15]
    assert order == [1, 2, 3]


def test_figures_of_timings() -> None:
    timings = Timings([1.0, 2.0, 3.0], [0.5, 0.1, 0.2])
    assert timings.p_ms(50) == 2.0
    assert timings.batch_qps == BATCH / 0.2


def test_found_by_asks_in_batches_and_keeps_the_order() -> None:
    def itself(probes: Vectors, k: int) -> Rows:
        assert len(probes) <= BATCH
        return np.repeat(probes[:, :1].astype(np.int64), k, axis=1)

    np.testing.assert_array_equal(found_by(itself, PROBES)[:, 0], np.arange(300))
