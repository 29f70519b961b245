"""One process of several: a worker that serves galleries, or one that embeds pictures for the workers.

Started by engine/server/parent.py, it is told what to be, says when it is ready, and answers every beat. It
ends at once when its parent is gone, so that no orphan keeps the port or the data folder. Knows no rpc.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from engine.assembly import EmbeddingSettings, build_pipeline, read_calibrations, warn_of_calibration
from engine.errors import EngineError, WeightsError
from engine.galleries import Galleries
from engine.logs import LOGGER, configure_logging
from engine.pb.identiface.v1 import embedding_pb2_grpc
from engine.server.backend import Backend, EmbedBackend
from engine.server.control import (
    Alive,
    Beat,
    EmbedderFound,
    EndGrace,
    Failed,
    Family,
    Line,
    Orders,
    Ready,
    Sample,
    Stop,
    ToChild,
)
from engine.server.embedding import EmbeddingService
from engine.server.endpoint import Endpoint, Service
from engine.server.port import listen_address
from engine.server.remote_pipeline import RemotePipeline
from engine.server.services import EMBEDDING_SERVICE, all_services
from engine.server.settings import ServeSettings, read_galleries
from engine.server.signals import WorkerSignals
from engine.telemetry import GallerySizes, Telemetry, ThresholdMetrics
from engine.types import EmbeddingContract

_MESSAGE_SLACK_BYTES = 1 << 20
"""What a message between worker and embed worker may be larger than one from outside."""


def main(descriptor: int) -> int:
    """Be what the parent orders; returns the exit code. `descriptor` is this end of the line to it."""
    line: Line[ToChild] = Line(socket.socket(fileno=descriptor), ToChild)
    messages = line.messages()
    orders = next(messages, None)
    if not isinstance(orders, Orders):
        return 1
    configure_logging(worker=orders.name)
    with WorkerSignals() as signals, contextlib.ExitStack() as parts:
        kind = EmbedWorker if orders.is_embedder else Worker
        worker = kind(orders, line, signals)
        threading.Thread(target=worker.listen, args=(messages,), name="parent", daemon=True).start()
        try:
            endpoint = worker.start(parts)
        except EngineError as error:
            line.send(Failed.of(error))
            return 1
        signals.wait()
        if not endpoint.stop(signals):
            # Closing a store under threads that still use it could crash; every answered write is synced.
            LOGGER.warning("work was left unfinished at the end of the grace period")
            logging.shutdown()
            os._exit(0)
    return 0


class Worker:
    """Serves galleries, on one port with its equals."""

    def __init__(self, orders: Orders, line: Line[ToChild], signals: WorkerSignals):
        self._orders = orders
        self._settings = orders.settings
        self._line = line
        self._signals = signals
        self._telemetry = Telemetry(has_lines=not orders.is_embedder)
        self._sizes = CollectorRegistry()
        self._is_ready = False
        self._sizes_asked: queue.SimpleQueue[Beat] = queue.SimpleQueue()
        self._embedder: queue.SimpleQueue[EmbedderFound] = queue.SimpleQueue()
        if orders.embedder is not None:
            self._embedder.put(orders.embedder)

    def listen(self, messages: Iterable[ToChild]) -> None:
        """Do as the parent says, for as long as there is one."""
        # Of their own: counting what is enrolled may wait for a gallery that is being opened, and that is no
        # sign of a process that hangs.
        threading.Thread(target=self._tell_sizes, name="gallery-sizes", daemon=True).start()
        for message in messages:
            match message:
                case Beat() if message.has_galleries:
                    self._sizes_asked.put(message)
                case Beat():
                    self._line.send(self._alive(message))
                case EmbedderFound():
                    self._embedder.put(message)
                case Stop() if not self._is_ready:
                    # Nobody was served yet, and loading a network cannot be interrupted.
                    os._exit(0)
                case Stop():
                    self._signals.stop()
                case EndGrace():
                    self._signals.end_grace()
        # Only a parent that died leaves without a word.
        os._exit(1)

    def start(self, parts: contextlib.ExitStack) -> Endpoint:
        """Open and warm up all, then bind: no connection comes to a worker that cannot answer it yet."""
        orders, settings = self._orders, self._settings
        galleries = Galleries.open(
            Path(settings.data),
            read_galleries(settings),
            lock_fd=orders.lock_descriptor,
            calibrations=read_calibrations(settings.calibrations, settings.embedding.model),
        )
        parts.callback(galleries.close)
        backend = Backend(galleries, settings.workers)
        self._sizes.register(GallerySizes(backend.infos))
        self._sizes.register(ThresholdMetrics(backend.thresholds))
        self._telemetry.watch_probes(galleries.probe_counters.all)
        galleries.warm_up()
        if orders.sockets:
            backend.pipeline = self._remote_pipeline()
            parts.callback(backend.pipeline.close)
        self._telemetry.set_device(backend.device, settings.embedding.model)
        endpoint = Endpoint(settings, self._telemetry, all_services(backend), worker=orders.name)
        endpoint.bind(listen_address(settings)[0], orders.port)
        self._open(endpoint, None, parts)
        return endpoint

    def _remote_pipeline(self) -> RemotePipeline:
        found = self._embedder.get()
        contract = msgspec.convert(found.contract, EmbeddingContract)
        return RemotePipeline(
            self._orders.sockets, contract, found.device, internal_size_bytes_max(self._settings)
        )

    def _open(self, endpoint: Endpoint, found: EmbedderFound | None, parts: contextlib.ExitStack) -> None:
        endpoint.start()
        parts.callback(endpoint.close)
        endpoint.open()
        self._is_ready = True
        self._line.send(Ready(found))

    def _tell_sizes(self) -> None:
        while True:
            self._line.send(self._alive(self._sizes_asked.get()))

    def _alive(self, beat: Beat) -> Alive:
        return Alive(
            beat.number,
            _families(self._telemetry.registry) if beat.has_counts else None,
            _families(self._sizes) if beat.has_galleries else None,
        )


class EmbedWorker(Worker):
    """Embeds pictures for the workers, on a local socket; the only kind of several processes with torch."""

    def start(self, parts: contextlib.ExitStack) -> Endpoint:
        """Load and warm up the network, then bind."""
        settings = msgspec.structs.replace(
            self._settings,
            # Its socket is its own, and no connection is asked to move.
            workers=1,
            embed_workers=1,
            max_connection_age_s=0.0,
            message_size_bytes_max=internal_size_bytes_max(self._settings),
        )
        pipeline = build_pipeline(_with_threads(settings.embedding, self._settings.embed_workers))
        parts.callback(pipeline.close)
        warn_of_calibration(settings.embedding.model, pipeline.embedder.contract)
        found = EmbedderFound(msgspec.to_builtins(pipeline.embedder.contract), pipeline.embedder.device)
        expected = self._orders.embedder
        if expected is not None and expected.contract != found.contract:
            raise WeightsError(
                "the network's weights changed under the running server: its contract is another one",
                hint="Bring the old weights back, or stop the server and start it again.",
            )
        pipeline.warm_up()
        backend = EmbedBackend(pipeline)
        service = Service(
            EMBEDDING_SERVICE,
            embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server,
            EmbeddingService(backend, has_names=False),
        )
        endpoint = Endpoint(settings, self._telemetry, [service])
        endpoint.bind_unix(self._orders.sockets[0])
        self._open(endpoint, found, parts)
        return endpoint


def internal_size_bytes_max(settings: ServeSettings) -> int:
    """Size of a message between worker and embed worker: what fits in one from outside fits here, too."""
    return settings.message_size_bytes_max + _MESSAGE_SLACK_BYTES


def _with_threads(settings: EmbeddingSettings, num_processes: int) -> EmbeddingSettings:
    """Divide the cores among several processes, unless a number of threads was asked for."""
    if settings.num_threads is not None or num_processes == 1:
        return settings
    num_cores = len(os.sched_getaffinity(0))
    return msgspec.structs.replace(settings, num_threads=max(1, num_cores // num_processes))


def _families(registry: CollectorRegistry) -> list[Family]:
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]
