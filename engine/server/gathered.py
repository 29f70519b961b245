"""Metrics of many processes as one: sums of counts, a series for each worker where sums say too little.

Counts never go backwards: those of a process that died stay in the sum. Knows nothing of processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.registry import Collector

from engine.server.control import Family, Sample

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels of a number."""
SUMMED = frozenset({"counter", "histogram"})


class Totals:
    """The last that each process said, and what those said that are gone. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, list[Family]] = {}
        self._gone: dict[str, tuple[Family, dict[Key, float]]] = {}
        self._galleries: list[Family] = []

    def note(self, worker: str, families: list[Family]) -> None:
        """Be told the metrics of a worker."""
        with self._lock:
            self._said[worker] = families

    def note_galleries(self, families: list[Family]) -> None:
        """Be told the sizes of galleries, by any worker."""
        with self._lock:
            self._galleries = families

    def retire(self, worker: str) -> None:
        """Keep the counts of a worker that is gone."""
        with self._lock:
            for family in self._said.pop(worker, ()):
                if family.kind in SUMMED:
                    _add(self._gone, family)

    def families(self) -> list[Family]:
        """All metrics, in order of their names."""
        with self._lock:
            summed = {name: (family, dict(sums)) for name, (family, sums) in self._gone.items()}
            single: dict[str, Family] = {}
            for worker, families in sorted(self._said.items()):
                for family in families:
                    if family.kind in SUMMED:
                        _add(summed, family)
                    else:
                        _lay(single, family, worker)
            galleries = list(self._galleries)
        sums_ = [
            Family(each.name, each.documentation, each.kind, _samples(sums)) for each, sums in summed.values()
        ]
        return sorted([*sums_, *single.values(), *galleries], key=lambda family: family.name)


class Gathered(Collector):
    """What Prometheus is shown: asks all workers, then adds up."""

    def __init__(self, totals: Totals, ask: Callable[[], None], of_parent: Callable[[], Iterable[Metric]]):
        """`ask` returns once the workers have told `totals`, or will not in time."""
        self._totals = totals
        self._ask = ask
        self._of_parent = of_parent

    def collect(self) -> Iterator[Metric]:
        """Answer one reader."""
        self._ask()
        yield from self._of_parent()
        for family in self._totals.families():
            metric = Metric(family.name, family.documentation, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def _add(summed: dict[str, tuple[Family, dict[Key, float]]], family: Family) -> None:
    _, sums = summed.setdefault(family.name, (family, {}))
    for sample in family.samples:
        key = sample.name, tuple(sorted(sample.labels.items()))
        known = sums.get(key)
        if known is None:
            sums[key] = sample.value
        elif sample.name.endswith("_created"):
            # A time, not a count: of the first.
            sums[key] = min(known, sample.value)
        else:
            sums[key] = known + sample.value


def _lay(single: dict[str, Family], family: Family, worker: str) -> None:
    """Gauges tell of each worker; what is said of the whole server is said once."""
    if family.kind != "gauge":
        single.setdefault(family.name, family)
        return
    known = single.setdefault(family.name, Family(family.name, family.documentation, family.kind, []))
    known.samples.extend(
        Sample(sample.name, {**sample.labels, "worker": worker}, sample.value) for sample in family.samples
    )


def _samples(sums: dict[Key, float]) -> list[Sample]:
    return [Sample(name, dict(labels), value) for (name, labels), value in sums.items()]
