"""Life of a server process: set up, warm up, serve, drain, close. Knows no rpc.

::

    STARTING   port bound, health NOT_SERVING, rpcs refused; galleries opened, network loaded and warmed up
    SERVING    health SERVING, port file written
    STOPPING   SIGTERM or SIGINT: health NOT_SERVING, rpcs refused, work in progress drained, all closed
"""

from __future__ import annotations

import contextlib

from engine.pb.identiface.v1 import (
    admin_pb2,
    embedding_pb2,
    enrollment_pb2,
    gallery_pb2,
    identification_pb2,
)
from engine.server.settings import ServeSettings
from engine.telemetry import configure_logging

SMALL_POOL_THREADS = 4
"""For health checks and refusals, so that neither waits behind work."""
LAST_S = 2.0
"""Time that threads get to notice that their rpcs were cancelled at the end of the grace period."""
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
    with _stop_signals() as signals, contextlib.ExitStack() as stack:
        server = Server(settings, stack)
        server.start(signals)
        signals.wait()
        server.stop(signals)
    return 0
