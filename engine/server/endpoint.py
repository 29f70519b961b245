"""A gRPC server with its pools, admission and health: bound, opened, drained, closed. Knows no service.

::

    STARTING   rpcs refused, health NOT_SERVING
    SERVING    health SERVING
    STOPPING   health NOT_SERVING, rpcs refused, work in progress drained, all closed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engine.errors import SettingsError
from engine.server.interceptor import CountedPool, Interceptor
from engine.server.port import dial, taken_error
from engine.server.settings import ServeSettings
from engine.server.signals import StopSignals
from engine.telemetry import Telemetry

SMALL_POOL_THREADS = 4
"""For health checks and refusals, so that neither waits behind work."""
LAST_S = 2.0
"""Time that threads get to notice that their rpcs were cancelled at the end of the grace period."""
LINGER_S = 0.1
"""Time for the last answers to reach their callers before connections are closed."""
POLL_S = 0.02
"""Time between two looks at whether the work in progress is over."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service to be answered."""

    name: str
    """In full, as health knows it."""
    add: Callable[[Any, grpc.Server], None]
    """Generated; adds the servicer to a server."""
    servicer: object


class Endpoint:
    """Answers services on one address."""

    def __init__(
        self, settings: ServeSettings, telemetry: Telemetry, services: Sequence[Service], *, worker: str = ""
    ):
        """`worker` names this process among several that share a port."""
        self._grace_s = settings.grace_s
        self._unary_pool = CountedPool(settings.threads, "unary")
        self._stream_pool = CountedPool(settings.streams_max, "stream")
        self._small_pool = futures.ThreadPoolExecutor(SMALL_POOL_THREADS, "small")
        self._interceptor = Interceptor(
            telemetry,
            unary_pool=self._unary_pool,
            stream_pool=self._stream_pool,
            small_pool=self._small_pool,
            unary_max=settings.threads + settings.unary_queue_max,
            streams_max=settings.streams_max,
            worker=worker,
        )
        self._health = health.HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=self._small_pool
        )
        self._names = [service.name for service in services]
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._server = grpc.server(
            self._unary_pool, interceptors=[self._interceptor], options=_options(settings)
        )
        for service in services:
            service.add(service.servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def bind(self, host: str, port: int) -> int:
        """Bind an address; returns the port. Raises SettingsError where it cannot."""
        try:
            return self._server.add_insecure_port(dial(host, port))
        except RuntimeError as error:
            raise taken_error(host, port) from error

    def bind_unix(self, path: str) -> None:
        """Bind a local socket. Raises SettingsError where it cannot."""
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise SettingsError(
                f"cannot bind the local socket {path}",
                hint="Set TMPDIR to a folder that can be written, with a path shorter than 70 characters.",
            ) from error

    def start(self) -> None:
        """Answer health checks, and refuse all else."""
        self._server.start()

    def close(self) -> None:
        """End at once, whatever is in progress; may be repeated."""
        self._server.stop(0)

    def open(self) -> None:
        """Admit rpcs and say so."""
        self._interceptor.open()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def stop(self, signals: StopSignals) -> bool:
        """Drain and end all rpcs; a second signal ends the grace period. False: a thread is still at work."""
        self._interceptor.stop()
        # A watcher that does not read would hold this up: a thread of its own does it, and is not awaited.
        self._small_pool.submit(self._end_health)
        end_s = time.monotonic() + self._grace_s
        while self._is_working() and time.monotonic() < end_s and not signals.wait(POLL_S):
            pass
        # Only now are connections closed: a caller whose socket broke while it was sending would never read
        # why its stream ended.
        signals.wait(LINGER_S)
        # Calls that came just now get the time to be refused: cancelled, nobody would make them again.
        self._server.stop(LINGER_S).wait(LAST_S)
        for pool in (self._unary_pool, self._stream_pool, self._small_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        end_s = time.monotonic() + LAST_S
        while self._is_working() and time.monotonic() < end_s:
            time.sleep(POLL_S)
        return not self._is_working()

    def _is_working(self) -> bool:
        return self._unary_pool.num_unfinished + self._stream_pool.num_unfinished > 0

    def _end_health(self) -> None:
        self._health.enter_graceful_shutdown()
        self._interceptor.end_watches()

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in (health.OVERALL_HEALTH, *self._names):
            self._health.set(name, status)


def _options(settings: ServeSettings) -> list[tuple[str, int]]:
    keepalive_ms = round(settings.keepalive_s * 1e3)
    options = [
        # Two servers would share one port silently otherwise, each with half of the calls; the workers of one
        # server do it on purpose, on a port that their parent holds.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_receive_message_length", settings.message_size_bytes_max),
        ("grpc.max_send_message_length", settings.message_size_bytes_max),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients may ask as often as we do; more often is answered by ending the connection.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", min(keepalive_ms, 10_000)),
    ]
    if (age_s := settings.connection_age_s()) > 0:
        # Without a max_connection_age_grace: what is in progress on an old connection runs to its end.
        options.append(("grpc.max_connection_age_ms", round(age_s * 1e3)))
    return options
