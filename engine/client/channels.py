"""A small pool of gRPC channels with retries and limits. Knows nothing of the messages that go over it.

Channels of one process share one connection unless `grpc.use_local_subchannel_pool` is set, and a server
balances over its workers by connection: so the pool holds several channels, and a call takes the one with
the fewest calls under way (gRPC performance best practices, https://grpc.io/docs/guides/performance/).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from engine.errors import EngineError, InvalidInputError, UnavailableError
from engine.pb.identiface.v1.admin_pb2_grpc import AdminServiceStub
from engine.pb.identiface.v1.embedding_pb2_grpc import EmbeddingServiceStub
from engine.pb.identiface.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from engine.pb.identiface.v1.gallery_pb2_grpc import GalleryServiceStub
from engine.pb.identiface.v1.identification_pb2_grpc import IdentificationServiceStub
from engine.wire.address import DEFAULT_ADDRESS, can_be_dialled, is_local
from engine.wire.errors import from_rpc_error
from engine.wire.limits import MESSAGE_SIZE_BYTES_MAX

ATTEMPTS_MAX = 4
"""Attempts of one call, the first included, while the server is UNAVAILABLE or cancels it."""
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 1.0
"""Between two attempts of a call, and between two attempts to connect: a server that is just starting is
found soon."""

_RETRIED = {
    # Reads, and writes that carry a request_id: a second attempt gets the first one's answer. Streams and
    # BuildIndex are not here: they cannot be begun again unseen.
    "GalleryService": (
        "CreateGallery",
        "GetGallery",
        "ListGalleries",
        "UpdateGallery",
        "DeleteGallery",
        "SetAlias",
        "DeleteAlias",
    ),
    "EnrollmentService": (
        "Enroll",
        "GetIdentity",
        "ListIdentities",
        "UpdateIdentity",
        "RemoveIdentity",
        "RemoveTemplate",
        "BatchRemove",
    ),
    "IdentificationService": ("Identify", "BatchIdentify", "Verify"),
    "EmbeddingService": ("DetectFaces", "EmbedFaces"),
    "AdminService": ("Status",),
}


class Connection:
    """One channel with the stubs of all services."""

    def __init__(self, address: str):
        self.channel = grpc.insecure_channel(address, options=_channel_options(address))
        self.galleries = _stub(GalleryServiceStub, self.channel)
        self.enrollment = _stub(EnrollmentServiceStub, self.channel)
        self.identification = _stub(IdentificationServiceStub, self.channel)
        self.embedding = _stub(EmbeddingServiceStub, self.channel)
        self.admin = _stub(AdminServiceStub, self.channel)
        self.health = _stub(health_pb2_grpc.HealthStub, self.channel)
        self.num_outstanding = 0


def _stub(kind: Any, channel: grpc.Channel) -> Any:
    """Make a stub; the generated code has no annotations that could be checked."""
    return kind(channel)


class ChannelPool:
    """Hands out connections, least outstanding first, and turns failed calls into the engine's errors."""

    def __init__(self, address: str, num_channels: int):
        """Prepare `num_channels` channels to `address`, HOST:PORT; each connects at its first call.

        Raises InvalidInputError for another form of address or fewer than one channel.
        """
        if not can_be_dialled(address):
            raise InvalidInputError(
                f"server address {address!r}: expected HOST:PORT", hint=f"For example {DEFAULT_ADDRESS}."
            )
        if num_channels < 1:
            raise InvalidInputError(f"num_channels of {num_channels}: expected 1 or more")
        self.address = address
        self._lock = threading.Lock()
        self._connections = [Connection(address) for _ in range(num_channels)]
        self._is_closed = False

    @contextlib.contextmanager
    def lease(self) -> Iterator[Connection]:
        """Lend a connection for one call.

        Raises the engine's error where the call fails, and InvalidInputError where a message was to be made
        of text that is no Unicode, such as an undecoded file name.
        """
        with self._lock:
            if self._is_closed:
                raise UnavailableError("the client is closed", hint="Make a new client.")
            connection = min(self._connections, key=lambda connection: connection.num_outstanding)
            connection.num_outstanding += 1
        try:
            yield connection
        except grpc.RpcError as error:
            # The transport's own exception says nothing more, at length.
            raise _noted(from_rpc_error(error, self.address)) from None
        except UnicodeEncodeError as error:
            raise _noted(
                InvalidInputError(f"{error.object!r} cannot be sent: it is no Unicode text")
            ) from error
        except EngineError as error:
            _noted(error)
            raise
        finally:
            with self._lock:
                connection.num_outstanding -= 1

    def close(self) -> None:
        """Close all channels; calls under way are cancelled."""
        with self._lock:
            self._is_closed = True
        for connection in self._connections:
            connection.channel.close()


def _noted(error: EngineError) -> EngineError:
    """Show the hint below a traceback's last line, too; the message stays as it is."""
    if error.hint and error.hint not in getattr(error, "__notes__", ()):
        error.add_note(error.hint)
    return error


def _channel_options(address: str) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", MESSAGE_SIZE_BYTES_MAX),
        ("grpc.max_receive_message_length", MESSAGE_SIZE_BYTES_MAX),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", _service_config()),
        ("grpc.initial_reconnect_backoff_ms", round(BACKOFF_MIN_S * 1e3)),
        ("grpc.max_reconnect_backoff_ms", round(BACKOFF_MAX_S * 1e3)),
    ]
    if is_local(address):
        # A proxy named in the environment cannot reach this machine's own loopback.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def _service_config() -> str:
    """Retries as https://github.com/grpc/proposal/blob/master/A6-client-retries.md defines them."""
    names = [
        {"service": f"identiface.v1.{service}", "method": method}
        for service, methods in _RETRIED.items()
        for method in methods
    ]
    policy = {
        "maxAttempts": ATTEMPTS_MAX,
        "initialBackoff": f"{BACKOFF_MIN_S}s",
        "maxBackoff": f"{BACKOFF_MAX_S}s",
        "backoffMultiplier": 2,
        # A server that stops may cancel a call that reached it just then; nobody else here cancels one.
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})
