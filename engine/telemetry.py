"""One log line per request, counts for Prometheus, and what must never be in either.

Knows nothing of rpcs' contents: a line is made only of the fields of `RequestRecord`, so no vector, picture,
identity name or attribute can reach it.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.errors import SettingsError
from engine.logs import LOGGER, REQUEST_EVENT

if TYPE_CHECKING:
    from engine.open_set_types import GalleryThresholds, ProbeStatistics
    from engine.types import Decision, GalleryInfo

    Thresholds = tuple[str, GalleryThresholds, bool]

REQUEST_ID_CHARACTERS_MAX = 64
"""Of a request id in a log line; the rest is cut."""
LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)

PROBE_GALLERIES_MAX = 50
"""Galleries whose probe statistics are shown, the first by id: each has some 60 series."""
THRESHOLD_GALLERIES_MAX = 50
"""Galleries whose thresholds are shown, the first by id: each has five series, and is kept open for them."""
SIMILARITY_BUCKETS = tuple(number / 50 for number in range(51))
"""Upper edges. Similarities below 0 are in the first."""


class CountsProbes(Protocol):
    """What counts a gallery's probes, see engine.probe_statistics."""

    def report(self) -> ProbeStatistics:
        """Tell the histogram and the drift."""

    def decisions(self) -> Mapping[Decision, int]:
        """Answers by decision."""


class RequestRecord:
    """What the log line of one rpc says; services add to it while they work. Used by one thread at a time."""

    __slots__ = (
        "code",
        "gallery",
        "num_items",
        "num_messages",
        "peer",
        "reason",
        "request_id",
        "request_size_bytes",
        "response_size_bytes",
        "rpc",
        "stages_ms",
        "start_s",
    )

    def __init__(self, rpc: str, peer: str):
        self.rpc = rpc
        """Service and method, e.g. ``IdentificationService/Identify``."""
        self.peer = peer
        self.start_s = time.perf_counter()
        self.code = "OK"
        self.reason = ""
        """Of the error, for programs; never its message, which may name an identity."""
        self.gallery = ""
        """Asked for; whoever sets it makes sure that it can be the name of one."""
        self.request_id = ""
        self.num_messages = 0
        """Requests of a stream."""
        self.num_items = 0
        """Identities, probes or pictures of all messages."""
        self.request_size_bytes = 0
        self.response_size_bytes = 0
        self.stages_ms: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the stage of that name."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            elapsed_ms = (time.perf_counter() - start_s) * 1e3
            self.stages_ms[name] = self.stages_ms.get(name, 0.0) + elapsed_ms

    def latency_s(self) -> float:
        """Seconds since the rpc began."""
        return time.perf_counter() - self.start_s

    def fields(self) -> dict[str, Any]:
        """Return what is known, in the order in which a line shows it."""
        known: dict[str, Any] = {
            "rpc": self.rpc,
            "code": self.code,
            "reason": self.reason,
            "latency_ms": round(self.latency_s() * 1e3, 3),
            "stages_ms": {name: round(value, 3) for name, value in self.stages_ms.items()},
            "gallery": self.gallery,
            "request_id": self.request_id[:REQUEST_ID_CHARACTERS_MAX],
            "num_messages": self.num_messages,
            "num_items": self.num_items,
            "request_size_bytes": self.request_size_bytes,
            "response_size_bytes": self.response_size_bytes,
            "peer": self.peer,
        }
        return {name: value for name, value in known.items() if value or name == "latency_ms"}


class Telemetry:
    """Counts and logs requests; one for each process that serves."""

    def __init__(self, *, has_lines: bool = True) -> None:
        """Without `has_lines` requests are only counted: who asked this process writes their lines."""
        self._has_lines = has_lines
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "identiface_requests", "Rpcs answered, by code.", ("rpc", "code"), registry=self.registry
        )
        self._latency = Histogram(
            "identiface_request_latency_seconds",
            "From the start of the handler to its end; a stream's whole life.",
            ("rpc",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "identiface_requests_in_flight", "Rpcs being worked on.", registry=self.registry
        )
        self._streams_open = Gauge("identiface_streams_open", "Streams now open.", registry=self.registry)
        self._device = Info(
            "identiface_device", "Where pictures are embedded, and by what.", registry=self.registry
        )

    def begin(self, rpc: str, peer: str, *, is_stream: bool) -> RequestRecord:
        """Start the record of one rpc; give it to `end` when the rpc is over."""
        self._in_flight.inc()
        if is_stream:
            self._streams_open.inc()
        return RequestRecord(rpc, peer)

    def end(self, record: RequestRecord, *, is_stream: bool) -> None:
        """Count the rpc and write its line."""
        self._in_flight.dec()
        if is_stream:
            self._streams_open.dec()
        self._requests.labels(record.rpc, record.code).inc()
        self._latency.labels(record.rpc).observe(record.latency_s())
        if self._has_lines:
            LOGGER.info(REQUEST_EVENT, extra={"fields": record.fields()})

    def set_device(self, device: str, model: str) -> None:
        """Publish the device really used and the network's name."""
        self._device.info({"device": device, "model": model})

    def watch_galleries(self, infos: Callable[[], Iterable[GalleryInfo]]) -> None:
        """Publish the sizes of all galleries, asked for whenever the metrics are read."""
        self.registry.register(GallerySizes(infos))

    def watch_probes(self, counters: Callable[[], Mapping[str, CountsProbes]]) -> None:
        """Publish the probe statistics of galleries, by their ids, asked for whenever the metrics are read.

        Of several processes each publishes what it answered: counts add up, drift is of each on its own.
        """
        self.registry.register(ProbeMetrics(counters))

    def watch_thresholds(self, thresholds: Callable[[], Iterable[Thresholds]]) -> None:
        """Publish the thresholds of galleries with a target rate, asked for whenever the metrics are read.

        Whoever tells them should close no gallery for it: the metrics are read every few seconds.
        """
        self.registry.register(ThresholdMetrics(thresholds))

    def serve_metrics(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """As `serve_registry`."""
        return serve_registry(self.registry, host, port)


def serve_registry(registry: CollectorRegistry, host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve metrics over HTTP; returns the port bound and what stops it.

    Raises SettingsError where the address cannot be bound.
    """
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise SettingsError(f"metrics_listen: cannot listen on {address}: {error.strerror}") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return int(server.server_port), stop


class GallerySizes(Collector):
    """Sizes of all galleries, asked for whenever they are read."""

    def __init__(self, infos: Callable[[], Iterable[GalleryInfo]]):
        self._infos = infos

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read them."""
        identities = GaugeMetricFamily(
            "identiface_gallery_identities", "Enrolled identities.", labels=["gallery"]
        )
        templates = GaugeMetricFamily(
            "identiface_gallery_templates", "Enrolled templates.", labels=["gallery"]
        )
        for info in self._infos():
            identities.add_metric([info.gallery_id], info.num_identities)
            templates.add_metric([info.gallery_id], info.num_templates)
        yield identities
        yield templates

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name no metrics beforehand: registering then reads no gallery."""
        return iter(())


class ThresholdMetrics(Collector):
    """By which thresholds galleries with a target rate decide."""

    def __init__(self, thresholds: Callable[[], Iterable[Thresholds]]):
        """`thresholds` gives each gallery's id, thresholds, and whether its own people disagree."""
        self._thresholds = thresholds

    def collect(self) -> Iterator[Metric]:
        """Read them."""
        is_known, threshold, target, num_warnings, disagreement = (
            GaugeMetricFamily(f"identiface_gallery_{name}", text, labels=["gallery"])
            for name, text in (
                ("threshold_known", "Whether a calibration gives the threshold; 0: searches are refused."),
                ("threshold", "Similarity from which on a probe is a match, where it is known."),
                ("target_fpir", "Share of strangers that the threshold is to let in."),
                ("threshold_warnings", "Things known to speak against the threshold; Status tells them."),
                ("own_people_disagree", "Whether own people and calibration disagree on the threshold."),
            )
        )
        for gallery_id, found, has_disagreement in itertools.islice(
            self._thresholds(), THRESHOLD_GALLERIES_MAX
        ):
            is_known.add_metric([gallery_id], float(found.estimate is not None))
            if found.estimate is not None:
                threshold.add_metric([gallery_id], found.threshold)
            target.add_metric([gallery_id], found.target_fpir or 0.0)
            num_warnings.add_metric([gallery_id], len(found.warnings))
            disagreement.add_metric([gallery_id], float(has_disagreement))
        yield from (is_known, threshold, target, num_warnings, disagreement)

    def describe(self) -> Iterator[Metric]:
        """Name no metrics beforehand: registering then reads no gallery."""
        return iter(())


class ProbeMetrics(Collector):
    """Top similarities, decisions and drift of galleries that count their probes."""

    def __init__(self, counters: Callable[[], Mapping[str, CountsProbes]]):
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Read them."""
        tops = HistogramMetricFamily(
            "identiface_probe_top_similarity", "Of a probe and its best candidate.", labels=["gallery"]
        )
        decisions = CounterMetricFamily(
            "identiface_probe_decisions", "Probes answered, by decision.", labels=["gallery", "decision"]
        )
        drift = GaugeMetricFamily(
            "identiface_probe_drift",
            "Of probes from the calibration, -1 to 1; above 0 they are more alike to the enrolled.",
            labels=["gallery"],
        )
        is_alarming = GaugeMetricFamily(
            "identiface_probe_drift_alarm", "Whether drift is beyond what is tolerated.", labels=["gallery"]
        )
        for gallery_id, counter in itertools.islice(sorted(self._counters().items()), PROBE_GALLERIES_MAX):
            statistics = counter.report()
            tops.add_metric([gallery_id], *_histogram(statistics))
            for decision, num in counter.decisions().items():
                decisions.add_metric([gallery_id, decision.value], num)
            if statistics.drift is not None:
                drift.add_metric([gallery_id], statistics.drift)
                is_alarming.add_metric([gallery_id], float(statistics.is_alarming))
        yield from (tops, decisions, drift, is_alarming)

    def describe(self) -> Iterator[Metric]:
        """Name no metrics beforehand: registering then reads no gallery."""
        return iter(())


def _histogram(statistics: ProbeStatistics) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus wants them, with the counts of all below, and the sum of similarities.

    The sum is by the middles of bins, none below 0: what is summed must not fall.
    """
    counts = [0] * (len(SIMILARITY_BUCKETS) + 1)
    total = 0.0
    for each in statistics.bins:
        middle = (each.low + each.high) / 2.0
        counts[bisect.bisect_left(SIMILARITY_BUCKETS, middle)] += each.num_probes
        total += max(0.0, middle) * each.num_probes
    edges = [*map(str, SIMILARITY_BUCKETS), "+Inf"]
    return [(edge, float(num)) for edge, num in zip(edges, itertools.accumulate(counts), strict=True)], total
