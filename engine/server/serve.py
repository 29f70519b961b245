"""Life of a server process: set up, warm up, serve, drain, close. Knows no rpc.

::

    STARTING   port bound, health NOT_SERVING, rpcs refused; galleries opened, network loaded and warmed up
    SERVING    health SERVING, port file written
    STOPPING   SIGTERM or SIGINT: health NOT_SERVING, rpcs refused, work in progress drained, all closed
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from types import FrameType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import engine
from engine.assembly import build_pipeline
from engine.errors import SettingsError
from engine.galleries import Galleries
from engine.pb.identiface.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    identification_pb2,
    identification_pb2_grpc,
)
from engine.server.admin import AdminService
from engine.server.backend import Backend
from engine.server.embedding import EmbeddingService
from engine.server.enrollment import EnrollmentService
from engine.server.galleries import GalleryService
from engine.server.identification import IdentificationService
from engine.server.interceptor import CountedPool, Interceptor
from engine.server.settings import ServeSettings, read_address, refuse_unprotected
from engine.telemetry import LOGGER, Telemetry, configure_logging

__all__ = ["ServeSettings", "Server", "StopSignals", "run"]

SMALL_POOL_THREADS = 4
"""For health checks and refusals, so that neither waits behind work."""
LAST_S = 2.0
"""Time that threads get to notice that their rpcs were cancelled at the end of the grace period."""
LINGER_S = 0.1
"""Time for the last answers to reach their callers before connections are closed."""
POLL_S = 0.02
"""Time between two looks at whether the work in progress is over."""
SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (gallery_pb2, "GalleryService"),
        (enrollment_pb2, "EnrollmentService"),
        (identification_pb2, "IdentificationService"),
        (embedding_pb2, "EmbeddingService"),
        (admin_pb2, "AdminService"),
    )
)


def run(settings: ServeSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code 0.

    Raises OperatorError where the server cannot start: SettingsError, DataFolderError, NewerFormatError,
    WeightsError, DeviceError. To be called in the main thread.
    """
    configure_logging()
    with StopSignals() as signals, contextlib.ExitStack() as parts:
        server = Server(settings, parts)
        server.start()
        if not signals.wait(0):
            server.open()
            signals.wait()
        if not server.stop(signals):
            # Closing a store under threads that still use it could crash; every answered write is synced.
            LOGGER.warning("work was left unfinished at the end of the grace period")
            logging.shutdown()
            os._exit(0)
    LOGGER.info("stopped")
    return 0


class StopSignals:
    """SIGTERM and SIGINT as something to wait for.

    The handler only writes to a pipe: whatever it did under a lock, it could do while this very thread holds
    that lock.
    """

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._is_stopped = False
        self._previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            # Once stopped, one more signal must not make a kill of the exit.
            signal.signal(number, signal.SIG_IGN if self._is_stopped else previous)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for one signal; False where none came in time."""
        ready, _, _ = select.select([self._read], [], [], timeout_s)
        if ready:
            os.read(self._read, 1)
            self._is_stopped = True
        return bool(ready)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")


class Server:
    """One server on one data folder."""

    def __init__(self, settings: ServeSettings, parts: contextlib.ExitStack):
        """Open the galleries and bind the port; `parts` closes what was opened, last first."""
        host, port = read_address(settings.listen, "listen")
        refuse_unprotected(host, "listen", insecure=settings.insecure)
        self._metrics_address = _metrics_address(settings)
        if settings.port_file:
            _check_port_file(Path(settings.port_file))
        self._settings = settings
        self._parts = parts
        self._telemetry = Telemetry()
        galleries = Galleries.open(Path(settings.data), settings.galleries)
        parts.callback(galleries.close)
        self._backend = Backend(galleries)
        self._unary_pool = CountedPool(settings.threads, "unary")
        self._stream_pool = CountedPool(settings.streams_max, "stream")
        self._small_pool = futures.ThreadPoolExecutor(SMALL_POOL_THREADS, "small")
        self._interceptor = Interceptor(
            self._telemetry,
            unary_pool=self._unary_pool,
            stream_pool=self._stream_pool,
            small_pool=self._small_pool,
            unary_max=settings.threads + settings.unary_queue_max,
            streams_max=settings.streams_max,
        )
        self._health = health.HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=self._small_pool
        )
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._server = grpc.server(
            self._unary_pool, interceptors=[self._interceptor], options=_options(settings)
        )
        self._add_services()
        self.port = _bind(self._server, host, port)
        self._address = f"{host}:{self.port}"

    def start(self) -> None:
        """Answer health checks, then load and warm up what takes time."""
        settings = self._settings
        if settings.port_file:
            _remove_port_file(Path(settings.port_file))
        self._server.start()
        LOGGER.info("starting", extra={"fields": {"listen": self._address}})
        # Whatever fails from here on must not leave threads of gRPC behind.
        self._parts.callback(self._server.stop, 0)
        if self._metrics_address is not None:
            host, port = self._metrics_address
            metrics_port, stop_metrics = self._telemetry.serve_metrics(host, port)
            self._parts.callback(stop_metrics)
            LOGGER.info("metrics", extra={"fields": {"listen": f"{host}:{metrics_port}"}})
        self._telemetry.watch_galleries(self._backend.infos)
        self._backend.galleries.warm_up()
        if settings.embedding.has_network:
            pipeline = build_pipeline(settings.embedding)
            self._parts.callback(pipeline.close)
            pipeline.warm_up()
            self._backend.pipeline = pipeline
        self._telemetry.set_device(self._backend.device, settings.embedding.model)

    def open(self) -> None:
        """Admit rpcs and say so: health, port file, log."""
        self._interceptor.open()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        if self._settings.port_file:
            _write_port_file(Path(self._settings.port_file), self.port)
        fields = {
            "listen": self._address,
            "data": self._settings.data,
            "model": self._settings.embedding.model,
            "device": self._backend.device,
            "version": engine.__version__,
        }
        LOGGER.info("serving", extra={"fields": fields})

    def stop(self, signals: StopSignals) -> bool:
        """Drain and end all rpcs; a second signal ends the grace period. False: a thread is still at work."""
        LOGGER.info("stopping", extra={"fields": {"grace_s": self._settings.grace_s}})
        if self._settings.port_file:
            # Whatever somebody did to the file meanwhile must not keep the server from stopping.
            with contextlib.suppress(OSError):
                Path(self._settings.port_file).unlink(missing_ok=True)
        self._interceptor.stop()
        # A watcher that does not read would hold this up: a thread of its own does it, and is not awaited.
        self._small_pool.submit(self._end_health)
        end_s = time.monotonic() + self._settings.grace_s
        while self._is_working() and time.monotonic() < end_s and not signals.wait(POLL_S):
            pass
        # Only now are connections closed: a caller whose socket broke while it was sending would never read
        # why its stream ended.
        signals.wait(LINGER_S)
        self._server.stop(0).wait(LAST_S)
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
        for name in (health.OVERALL_HEALTH, *SERVICES):
            self._health.set(name, status)

    def _add_services(self) -> None:
        backend = self._backend
        services: tuple[tuple[Callable[[Any, grpc.Server], None], object], ...] = (
            (gallery_pb2_grpc.add_GalleryServiceServicer_to_server, GalleryService(backend)),
            (enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server, EnrollmentService(backend)),
            (
                identification_pb2_grpc.add_IdentificationServiceServicer_to_server,
                IdentificationService(backend),
            ),
            (embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, EmbeddingService(backend)),
            (admin_pb2_grpc.add_AdminServiceServicer_to_server, AdminService(backend)),
            (health_pb2_grpc.add_HealthServicer_to_server, self._health),
        )
        for add, service in services:
            add(service, self._server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)


def _options(settings: ServeSettings) -> list[tuple[str, int]]:
    keepalive_ms = round(settings.keepalive_s * 1e3)
    options = [
        # Two servers would share one port silently otherwise, each with half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.message_size_bytes_max),
        ("grpc.max_send_message_length", settings.message_size_bytes_max),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients may ask as often as we do; more often is answered by ending the connection.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", min(keepalive_ms, 10_000)),
    ]
    if settings.max_connection_age_s > 0:
        options += [
            ("grpc.max_connection_age_ms", round(settings.max_connection_age_s * 1e3)),
            ("grpc.max_connection_age_grace_ms", round(settings.grace_s * 1e3)),
        ]
    return options


def _bind(server: grpc.Server, host: str, port: int) -> int:
    """Bind the server; returns the port. Raises SettingsError saying why it cannot."""
    try:
        # gRPC says only that it failed, and that on stderr: ask the system first.
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        return server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except OSError as error:
        raise SettingsError(
            f"listen: cannot listen on {host}:{port}: {error.strerror or error}",
            hint="Stop what listens there, or choose another port with --listen; port 0 takes a free one."
            if error.errno == errno.EADDRINUSE
            else None,
        ) from error
    except RuntimeError as error:
        raise SettingsError(f"listen: cannot listen on {host}:{port}") from error


def _metrics_address(settings: ServeSettings) -> tuple[str, int] | None:
    """Read where metrics are to be shown; None: nowhere. They name galleries: the rule of `listen` holds."""
    if not settings.metrics_listen:
        return None
    host, port = read_address(settings.metrics_listen, "metrics_listen")
    refuse_unprotected(host, "metrics_listen", insecure=settings.insecure)
    return host, port


def _check_port_file(path: Path) -> None:
    """Raise SettingsError for a path that cannot become a file, before anything is started."""
    if path.is_dir():
        raise SettingsError(f"port_file: {path} is a folder", hint="Name a file in it.")
    if not path.parent.is_dir():
        raise SettingsError(f"port_file: there is no folder {path.parent}", hint="Make it first.")


def _remove_port_file(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(f"port_file: cannot remove the old {path}: {error.strerror}") from error


def _write_port_file(path: Path, port: int) -> None:
    """Write the port so that a reader sees all of it or nothing. Raises SettingsError where it cannot."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(f"{port}\n")
        unfinished.replace(path)
    except OSError as error:
        raise SettingsError(f"port_file: cannot write {path}: {error.strerror}") from error
