"""Life of a server in one process: set up, warm up, serve, drain, close. Knows no rpc.

::

    STARTING   port bound, health NOT_SERVING, rpcs refused; galleries opened, network loaded and warmed up
    SERVING    health SERVING, port file written
    STOPPING   SIGTERM or SIGINT: health NOT_SERVING, rpcs refused, work in progress drained, all closed

A server of several processes is in engine/server/parent.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import engine
from engine.assembly import build_pipeline, read_calibrations, warn_of_calibration
from engine.galleries import Galleries
from engine.logs import LOGGER, configure_logging
from engine.server.backend import Backend
from engine.server.endpoint import Endpoint
from engine.server.port import PortFile, check_free, dial, listen_address, metrics_address
from engine.server.services import SERVICES, all_services
from engine.server.settings import ServeSettings, read_galleries
from engine.server.signals import StopSignals
from engine.telemetry import Telemetry

__all__ = ["SERVICES", "ServeSettings", "Server", "run"]


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


class Server:
    """One server on one data folder."""

    def __init__(self, settings: ServeSettings, parts: contextlib.ExitStack):
        """Open the galleries and bind the port; `parts` closes what was opened, last first."""
        host, port = listen_address(settings)
        self._metrics_address = metrics_address(settings)
        self._port_file = PortFile(settings.port_file)
        self._settings = settings
        self._parts = parts
        self._telemetry = Telemetry()
        calibrations = read_calibrations(settings.calibrations, settings.embedding.model)
        galleries = Galleries.open(Path(settings.data), read_galleries(settings), calibrations=calibrations)
        parts.callback(galleries.close)
        self._backend = Backend(galleries)
        self._endpoint = Endpoint(settings, self._telemetry, all_services(self._backend))
        check_free(host, port)
        self.port = self._endpoint.bind(host, port)
        self._address = dial(host, self.port)

    def start(self) -> None:
        """Answer health checks, then load and warm up what takes time."""
        settings = self._settings
        self._port_file.remove_old()
        self._endpoint.start()
        LOGGER.info("starting", extra={"fields": {"listen": self._address}})
        # Whatever fails from here on must not leave threads of gRPC behind.
        self._parts.callback(self._endpoint.close)
        if self._metrics_address is not None:
            host, port = self._metrics_address
            metrics_port, stop_metrics = self._telemetry.serve_metrics(host, port)
            self._parts.callback(stop_metrics)
            LOGGER.info("metrics", extra={"fields": {"listen": dial(host, metrics_port)}})
        self._telemetry.watch_galleries(self._backend.infos)
        self._telemetry.watch_thresholds(self._backend.thresholds)
        self._telemetry.watch_probes(self._backend.galleries.probe_counters.all)
        self._backend.galleries.warm_up()
        if settings.embedding.has_network:
            pipeline = build_pipeline(settings.embedding)
            self._parts.callback(pipeline.close)
            warn_of_calibration(settings.embedding.model, pipeline.embedder.contract)
            pipeline.warm_up()
            self._backend.pipeline = pipeline
        self._telemetry.set_device(self._backend.device, settings.embedding.model)

    def open(self) -> None:
        """Admit rpcs and say so: health, port file, log."""
        self._endpoint.open()
        self._port_file.write(self.port)
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
        self._port_file.remove()
        return self._endpoint.stop(signals)
