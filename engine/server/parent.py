"""Life of a server of several processes: workers that share a port and a data folder, kept at their number.

::

    parent ── holds the data folder's lock and the port, serves metrics, does nothing else
      ├── worker 0 .. N-1           equals; each is bound to the port once it can answer
      └── embed worker 0 .. M-1     own the network; asked by the workers over local sockets

Who dies or falls silent is replaced. Imports neither torch nor FAISS, LMDB, gRPC or numpy: the parent costs
little memory, and its workers start at once.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import engine
from engine.errors import EngineError, OperatorError
from engine.logs import LOGGER, configure_logging
from engine.server.children import ENDED_WELL, Child, Place
from engine.server.control import (
    Alive,
    Beat,
    EmbedderFound,
    EndGrace,
    Failed,
    Orders,
    Ready,
    Stop,
    ToParent,
)
from engine.server.parent_metrics import ParentMetrics
from engine.server.port import PortFile, dial, held, listen_address, metrics_address
from engine.server.settings import ServeSettings
from engine.server.signals import StopSignals
from engine.server.sockets import socket_paths
from engine.store.folders import lock_folder

BEAT_S = 1.0
"""Time between two questions whether a worker is alive."""
STOP_MARGIN_S = 10.0
"""Time beyond the grace period after which a worker that does not end is killed."""
START_SILENCE_S = 120.0
"""Silence after which a process that is not ready yet counts as hung, where worker_silence_s is not more: it
cannot answer while it loads its libraries from a slow disk."""


def run(settings: ServeSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code 0.

    Raises OperatorError, or what else a worker raised, where the server cannot start. To be called in the
    main thread: the system ends workers with the thread that started them.
    """
    host, port = listen_address(settings)
    metrics = metrics_address(settings)
    port_file = PortFile(settings.port_file)
    configure_logging()
    with StopSignals() as signals, contextlib.ExitStack() as parts:
        lock = lock_folder(Path(settings.data))
        parts.callback(os.close, lock)
        port = parts.enter_context(held(host, port))
        port_file.remove_old()
        parent = Parent(settings, port, lock, parts)
        parts.callback(parent.kill)
        parent.start()
        address = dial(host, port)
        LOGGER.info("starting", extra={"fields": {"listen": address, "workers": settings.workers}})
        if metrics is not None:
            parts.callback(parent.serve_metrics(*metrics))
        if parent.watch(signals, until=parent.is_ready):
            port_file.write(port)
            parent.note_serving(address)
            parent.watch(signals)
        port_file.remove()
        parent.stop(signals)
    LOGGER.info("stopped")
    return 0


class Parent:
    """Starts the processes, hears them, and replaces those that die."""

    def __init__(self, settings: ServeSettings, port: int, lock: int, parts: contextlib.ExitStack):
        """`port` and the descriptor `lock` are held by the caller for as long as processes live."""
        self._settings = settings
        self._port = port
        self._lock = lock
        self._embedder: EmbedderFound | None = None
        self._is_serving = False
        self._is_stopping = False
        self._beat_number = 0
        self._beat_s = time.monotonic()
        self._sockets: list[str] = []
        if settings.embedding.has_network:
            self._sockets = parts.enter_context(socket_paths(settings.embed_workers))
        self._selector = selectors.DefaultSelector()
        parts.callback(self._selector.close)
        self._workers = [
            Place(str(number), self._worker_orders(number)) for number in range(settings.workers)
        ]
        self._embedders = [
            Place(f"embed-{number}", self._embedder_orders(number)) for number in range(len(self._sockets))
        ]
        self._metrics: ParentMetrics | None = None

    def start(self) -> None:
        """Start all processes; embed workers first, as they take longest."""
        for place in self._places():
            self._start(place)

    def serve_metrics(self, host: str, port: int) -> Callable[[], None]:
        """Show the metrics of all processes; returns what stops it. Raises SettingsError."""
        self._metrics = ParentMetrics(self._places())
        metrics_port, stop = self._metrics.serve(host, port)
        LOGGER.info("metrics", extra={"fields": {"listen": dial(host, metrics_port)}})
        return stop

    def is_ready(self) -> bool:
        """Whether every process serves."""
        return all(place.is_ready for place in self._places())

    def note_serving(self, address: str) -> None:
        """Say that the server serves; from now on who dies is replaced."""
        self._is_serving = True
        fields = {
            "listen": address,
            "data": self._settings.data,
            "model": self._settings.embedding.model,
            "device": "none" if self._embedder is None else self._embedder.device,
            "version": engine.__version__,
            "workers": self._settings.workers,
        }
        LOGGER.info("serving", extra={"fields": fields})

    def watch(self, signals: StopSignals, until: Callable[[], bool] = lambda: False) -> bool:
        """Hear and replace processes until they are as wished, or a signal comes; False: a signal.

        Raises what a process could not start for, unless the server serves already.
        """
        with self._listening_to(signals):
            while not until():
                if self._hear(self._pause_s()) and signals.wait(0):
                    return False
                self._beat()
                self._replace()
        return True

    def stop(self, signals: StopSignals) -> None:
        """Have all processes end in good order; a second signal ends the grace period.

        Embed workers go last: pictures may be under way to the end.
        """
        LOGGER.info("stopping", extra={"fields": {"grace_s": self._settings.grace_s}})
        self._is_stopping = True
        with self._listening_to(signals):
            for places in (self._workers, self._embedders):
                self._stop(places, signals)

    def kill(self) -> None:
        """End at once whoever still lives."""
        for place in self._places():
            if place.child is not None:
                place.child.kill()
                self._bury(place)

    def _places(self) -> list[Place]:
        return [*self._embedders, *self._workers]

    def _worker_orders(self, number: int) -> Callable[[], Orders]:
        return lambda: Orders(
            name=str(number),
            settings=self._settings,
            port=self._port,
            lock_descriptor=self._lock,
            sockets=self._sockets,
            embedder=self._embedder,
        )

    def _embedder_orders(self, number: int) -> Callable[[], Orders]:
        return lambda: Orders(
            name=f"embed-{number}",
            settings=self._settings,
            is_embedder=True,
            sockets=[self._sockets[number]],
            embedder=self._embedder,
        )

    def _start(self, place: Place) -> None:
        try:
            child = place.start()
        except OSError as error:
            problem = f"worker {place.name} cannot be started: {error.strerror or error}"
            if not self._is_serving:
                raise OperatorError(
                    problem, hint="Look at the machine's memory, and its limits of processes and open files."
                ) from error
            # The others serve on; it is tried again after a pause.
            LOGGER.error(problem, extra={"fields": {"worker": place.name}})
            return
        self._selector.register(child.line, selectors.EVENT_READ, place)

    @contextlib.contextmanager
    def _listening_to(self, signals: StopSignals) -> Iterator[None]:
        self._selector.register(signals, selectors.EVENT_READ, None)
        try:
            yield
        finally:
            self._selector.unregister(signals)

    def _pause_s(self) -> float:
        """Time until something is to be done although nobody says anything."""
        waits_s = [place.due_in_s() for place in self._places() if place.child is None]
        return max(0.0, min([*waits_s, self._beat_s + BEAT_S - time.monotonic()]))

    def _hear(self, timeout_s: float) -> bool:
        """Wait for word from the processes and take it in; True: a signal came."""
        is_signalled = False
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                is_signalled = True
            else:
                self._hear_one(key.data)
        return is_signalled

    def _hear_one(self, place: Place) -> None:
        child = place.child
        assert child is not None
        messages = child.line.receive()
        if messages is None:
            self._note_death(place, child)
            return
        child.heard_s = time.monotonic()
        for message in messages:
            self._take(place, child, message)

    def _take(self, place: Place, child: Child, message: ToParent) -> None:
        match message:
            case Ready():
                child.is_ready = True
                LOGGER.info(
                    "worker ready", extra={"fields": {"worker": place.name, "pid": child.process.pid}}
                )
                if message.embedder is not None and self._embedder is None:
                    self._embedder = message.embedder
                    for worker in self._workers:
                        if worker.child is not None:
                            worker.child.line.send(message.embedder)
            case Failed():
                child.failure = message.error()
            case Alive() if self._metrics is not None:
                self._metrics.note(place, message)

    def _note_death(self, place: Place, child: Child) -> None:
        how = self._bury(place)
        fields = {"worker": place.name, "pid": child.process.pid, "ended": how}
        if child.failure is not None:
            fields |= {"reason": child.failure.reason, "message": child.failure.message}
        if self._is_stopping and how == ENDED_WELL:
            return
        if not self._is_serving and not self._is_stopping:
            raise child.failure or _silent_failure(place, how)
        LOGGER.error("worker died", extra={"fields": fields})

    def _bury(self, place: Place) -> str:
        assert place.child is not None
        self._selector.unregister(place.child.line)
        how = place.vacate()
        if self._metrics is not None:
            self._metrics.retire(place)
        return how

    def _beat(self) -> None:
        now = time.monotonic()
        late_s = now - self._beat_s - BEAT_S
        if late_s < 0:
            return
        self._beat_s = now
        self._beat_number += 1
        for place in self._places():
            child = place.child
            if child is None:
                continue
            silence_s_max = self._settings.worker_silence_s
            if not child.is_ready:
                silence_s_max = max(silence_s_max, START_SILENCE_S)
            # While the parent itself was held up it heard nobody.
            child.heard_s += late_s
            if now - child.heard_s > silence_s_max:
                fields = {"worker": place.name, "pid": child.process.pid, "silence_s": now - child.heard_s}
                LOGGER.error("worker is silent: killed", extra={"fields": fields})
                child.kill()
            else:
                child.line.send(Beat(self._beat_number, has_counts=self._metrics is not None))

    def _replace(self) -> None:
        for place in self._places():
            if place.child is None and place.due_in_s() <= 0:
                self._start(place)

    def _stop(self, places: list[Place], signals: StopSignals) -> None:
        for place in places:
            if place.child is not None:
                place.child.line.send(Stop())
        end_s = time.monotonic() + self._settings.grace_s + STOP_MARGIN_S
        while any(place.child is not None for place in places) and time.monotonic() < end_s:
            if self._hear(BEAT_S) and signals.wait(0):
                end_s = min(end_s, time.monotonic() + STOP_MARGIN_S)
                for place in places:
                    if place.child is not None:
                        place.child.line.send(EndGrace())
        for place in places:
            if place.child is not None:
                LOGGER.warning("worker did not end: killed", extra={"fields": {"worker": place.name}})
                place.child.kill()
                self._bury(place)


def _silent_failure(place: Place, how: str) -> EngineError:
    return OperatorError(
        f"worker {place.name} ended ({how}) before it was ready",
        hint="Look at what it wrote above; memory that ran out leaves no word.",
    )
