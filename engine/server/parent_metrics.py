"""Metrics of a server of several processes: asks them, adds up, shows the sum. Knows nothing of requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from engine.server.children import Place
from engine.server.control import Alive, Beat, Family

if TYPE_CHECKING:
    from prometheus_client import Metric

ANSWER_S = 1.0
"""Time that processes get to answer a reader of metrics; who is late is shown as it was last heard."""
ASKED_FROM = 1 << 32
"""Beats for readers have numbers from here on, those of the parent's own clock lower ones."""


class ParentMetrics:
    """What the parent's readers of metrics are shown."""

    def __init__(self, places: Sequence[Place]):
        # Here, not above: it takes a while that workers need not wait for.
        from engine.server.gathered import Totals

        self._places = places
        self._totals = Totals()
        self._answered = threading.Condition()
        self._numbers: dict[str, int] = {}
        """Of each living process, the last reader's beat that it answered."""
        self._number = ASKED_FROM

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Serve over HTTP; returns the port bound and what stops it. Raises SettingsError."""
        from prometheus_client import CollectorRegistry

        from engine.server.gathered import Gathered
        from engine.telemetry import serve_registry

        registry = CollectorRegistry()
        registry.register(Gathered(self._totals, self._ask, self._of_parent))
        return serve_registry(registry, host, port)

    def note(self, place: Place, alive: Alive) -> None:
        """Be told by a process."""
        if alive.counts is not None:
            self._totals.note(place.name, [each for each in alive.counts if _is_shown(place, each)])
        if alive.galleries is not None:
            self._totals.note_galleries(alive.galleries)
        with self._answered:
            self._numbers[place.name] = max(alive.number, self._numbers.get(place.name, 0))
            self._answered.notify_all()

    def retire(self, place: Place) -> None:
        """Note that the process of that place is gone; its counts stay."""
        self._totals.retire(place.name)
        with self._answered:
            self._answered.notify_all()

    def _ask(self) -> None:
        """Ask everybody, in a reader's thread, and wait for the answers that come in time."""
        with self._answered:
            self._number += 1
            number = self._number
        asked = []
        has_galleries = False
        for place in self._places:
            child = place.child
            if child is None or not child.is_ready:
                continue
            wants_galleries = not has_galleries and not place.is_embedder
            has_galleries |= wants_galleries
            child.line.send(Beat(number, has_counts=True, has_galleries=wants_galleries))
            asked.append((place, child))
        end_s = time.monotonic() + ANSWER_S
        with self._answered:
            self._answered.wait_for(
                lambda: all(
                    place.child is not child or self._numbers.get(place.name, 0) >= number
                    for place, child in asked
                ),
                max(0.0, end_s - time.monotonic()),
            )

    def _of_parent(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        is_up = GaugeMetricFamily("identiface_worker_up", "Whether the process serves.", labels=["worker"])
        restarts = CounterMetricFamily(
            "identiface_worker_restarts", "Processes that were replaced.", labels=["worker"]
        )
        for place in self._places:
            is_up.add_metric([place.name], float(place.is_ready))
            restarts.add_metric([place.name], place.num_restarts)
        yield is_up
        yield restarts


def _is_shown(place: Place, family: Family) -> bool:
    """Pictures sent on to an embed worker are counted by the worker that was asked."""
    return family.kind == "gauge" or not place.is_embedder
