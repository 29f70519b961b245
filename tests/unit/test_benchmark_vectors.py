"""The comparison of services: what it measures, and what it says of what is not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import vectors as benchmark
from benchmarks.probe_sets import ProbeSet
from benchmarks.services import K, Service
from benchmarks.truth import exact_top
from engine.types import Vector, Vectors
from tests.contract.naive import unit_vectors


class Exhaustive(Service):
    """A full scan in this process; its setting is how many components it looks at."""

    name = "exhaustive"
    settings: tuple[int, ...] = (1, 8, 16)
    default = 1

    def describe(self) -> str:
        return "numpy"

    @contextlib.contextmanager
    def serve(self, folder: Path) -> Iterator[None]:
        assert folder.is_dir()
        yield

    def load(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def build(self) -> None:
        self.is_built = True

    def use(self, setting: int | None) -> str:
        self._num_used = setting
        return f"setting {setting}"

    def search(self, probe: Vector) -> list[int]:
        return self.search_many(probe[None])[0]

    def search_many(self, probes: Vectors) -> list[list[int]]:
        similarities = probes[:, : self._num_used] @ self._vectors[:, : self._num_used].T
        return np.argsort(-similarities, axis=1)[:, :K].tolist()  # type: ignore[no-any-return]


class Fine(Exhaustive):
    """One whose default is a good one."""

    name = "fine"
    default = 8


class Coarse(Exhaustive):
    """Another that looks at too little to agree with the first."""

    name = "coarse"
    settings = (1, 2)


class Absent(Exhaustive):
    """One whose package is nowhere."""

    name = "absent"
    packages = ("numpy", "identiface-no-such-package")


@pytest.fixture
def probe_set(monkeypatch: pytest.MonkeyPatch) -> ProbeSet:
    monkeypatch.setattr(benchmark, "BATCHED_S_MIN", 0.0)
    rng = np.random.default_rng(1)
    vectors, nonmated = unit_vectors(rng, 300, 16), unit_vectors(rng, 80, 16)
    rows = np.arange(80)
    mated = vectors[rows]
    truths = exact_top(vectors, mated, K), exact_top(vectors, nonmated, K)
    return ProbeSet("drawn", 300, vectors, mated, rows, nonmated, *truths, num_real=0)


def test_an_index_is_raised_to_the_least_setting_that_agrees_as_often_as_the_first(
    probe_set: ProbeSet,
) -> None:
    rows, described = benchmark.measure([Fine, Exhaustive, Coarse], probe_set, 40)
    assert described == ["fine: numpy", "exhaustive: numpy", "coarse: numpy"]
    # The first is taken as it comes, and sets the mark. The last does not reach it: its best is shown.
    assert [row["name"] for row in rows] == [
        *("fine, setting None", "fine, setting 8"),
        *("exhaustive, setting None", "exhaustive, setting 1", "exhaustive, setting 8"),
        *("coarse, setting None", "coarse, setting 1", "coarse, setting 2"),
    ]
    assert rows[0]["top1_mated"] == rows[0]["top1_nonmated"] == 1.0
    assert rows[4]["top1_nonmated"] == rows[1]["top1_nonmated"] < 1.0
    assert rows[7]["top1_nonmated"] < rows[1]["top1_nonmated"]
    assert rows[0]["build_s"] is None
    assert rows[1]["build_s"] is not None


def test_what_is_not_installed_is_in_the_table(probe_set: ProbeSet) -> None:
    rows, described = benchmark.measure([Absent, Exhaustive], probe_set, 10)
    assert rows[0] == {"name": "absent", "size": 300, "missing": ["identiface-no-such-package"]}
    assert described == ["exhaustive: numpy"]
    assert "| absent (not installed: identiface-no-such-package) | 300 |" in benchmark.table(rows)
    assert len(benchmark.table(rows).splitlines()) == 5
