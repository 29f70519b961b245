"""Real server processes on port 0, and the generated stubs to talk to them."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from engine.pb.identiface.v1 import gallery_pb2, types_pb2
from engine.pb.identiface.v1.admin_pb2_grpc import AdminServiceStub
from engine.pb.identiface.v1.embedding_pb2_grpc import EmbeddingServiceStub
from engine.pb.identiface.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from engine.pb.identiface.v1.gallery_pb2_grpc import GalleryServiceStub
from engine.pb.identiface.v1.identification_pb2_grpc import IdentificationServiceStub
from engine.types import Vector
from engine.wire.limits import MESSAGE_SIZE_BYTES_MAX

START_S = 120.0
STOP_S = 60.0
PROGRAM = Path(sys.executable).parent / "identiface"
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_SIZE_BYTES_MAX),
    ("grpc.max_send_message_length", 2 * MESSAGE_SIZE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


class Stubs:
    """One connection with the stubs of all services."""

    def __init__(self, address: str):
        self.channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        # The generated stubs carry no types.
        self.galleries: Any = GalleryServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.enrollment: Any = EnrollmentServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.identification: Any = IdentificationServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.embedding: Any = EmbeddingServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.admin: Any = AdminServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)

    def __enter__(self) -> Stubs:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


class ServerProcess:
    """`identiface serve` as a process of its own; its output is read all the time."""

    def __init__(self, folder: Path, *flags: str, settings: str = ""):
        self.data = folder / "data"
        self.port_file = folder / "port"
        config = folder / "settings.toml"
        config.write_text(settings)
        self.command = [
            str(PROGRAM), "serve", "--data", str(self.data), "--listen", "127.0.0.1:0",
            "--port-file", str(self.port_file), "--config", str(config), *flags,
        ]  # fmt: skip
        self.lines: list[str] = []
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Wait for the log line of that event."""
        while (line := self._events.get(timeout=START_S)) is not None:
            if line.get("event") == event:
                return line
        pytest.fail(f"the server ended before {event!r}:\n{self.output}")

    def ready(self) -> ServerProcess:
        """Wait until the port file is there and health says SERVING."""
        self.wait_for("serving")
        with self.stubs() as stubs:
            answer = stubs.health.Check(health_pb2.HealthCheckRequest(), timeout=START_S, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        return self

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port_file.read_text().strip()}"

    def stubs(self) -> Stubs:
        """A new connection."""
        return Stubs(self.address)

    @property
    def output(self) -> str:
        """All it wrote so far, stdout and stderr."""
        return "".join(self.lines)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Log lines of requests so far."""
        lines = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [line for line in lines if line["event"] == "rpc"]

    def join(self) -> int:
        """Wait for its end; returns its exit code."""
        code = self.process.wait(timeout=STOP_S)
        self._reader.join(timeout=STOP_S)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to stop and hold it to its promise: exit code 0, no stack trace, no port file."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.join()
        assert code == 0, self.output
        assert "traceback" not in self.output.lower(), self.output
        assert not self.port_file.exists()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line)
                if line.startswith("{"):
                    self._events.put(json.loads(line))
        self._events.put(None)


Launch = Callable[..., ServerProcess]


@pytest.fixture
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Start servers: `launch(*flags, settings="", folder=None)`; they end with the test."""
    started: list[ServerProcess] = []

    def start(*flags: str, settings: str = "", folder: Path | None = None) -> ServerProcess:
        server = ServerProcess(folder or tmp_path_factory.mktemp("server"), *flags, settings=settings)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def vector_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without a network, shared by all tests."""
    yield from _shared(ServerProcess(tmp_path_factory.mktemp("vectors"), "--model", "none"))


@pytest.fixture(scope="session")
def picture_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the default network on the CPU, shared by all tests."""
    yield from _shared(ServerProcess(tmp_path_factory.mktemp("pictures"), "--device", "cpu"))


def _shared(server: ServerProcess) -> Iterator[ServerProcess]:
    try:
        yield server.ready()
        server.stop()
    finally:
        server.process.kill()


@pytest.fixture
def stubs(vector_server: ServerProcess) -> Iterator[Stubs]:
    """A connection to the server without a network."""
    with vector_server.stubs() as connection:
        yield connection


@pytest.fixture
def picture_stubs(picture_server: ServerProcess) -> Iterator[Stubs]:
    """A connection to the server with the default network."""
    with picture_server.stubs() as connection:
        yield connection


_numbers = iter(range(10**6))


@pytest.fixture
def gallery_id(stubs: Stubs) -> str:
    """A new empty gallery of 128-d vectors on the server without a network."""
    return make_gallery(stubs)


@pytest.fixture
def picture_gallery_id(picture_stubs: Stubs) -> str:
    """A new empty gallery of the default network's contract."""
    return str(
        picture_stubs.galleries.CreateGallery(
            gallery_pb2.CreateGalleryRequest(gallery_id=f"pictures-{next(_numbers)}")
        ).gallery.gallery_id
    )


def make_gallery(stubs: Stubs, dimension: int = 128, gallery_id: str = "") -> str:
    """Make an empty gallery; returns its id."""
    contract = types_pb2.EmbeddingContract(name="elsewhere", dimension=dimension, threshold=0.5)
    request = gallery_pb2.CreateGalleryRequest(
        gallery_id=gallery_id or f"gallery-{next(_numbers)}", contract=contract
    )
    return str(stubs.galleries.CreateGallery(request).gallery.gallery_id)


def unit(rng: np.random.Generator, dimension: int = 128) -> Vector:
    """A random unit vector float32[d]."""
    vector = rng.normal(size=dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def as_message(vector: Vector, *, normalize: bool = False) -> types_pb2.Vector:
    """A vector as the wire has it."""
    return types_pb2.Vector(data=vector.astype("<f4").tobytes(), normalize=normalize)


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and message of a call that must fail with the engine's ErrorInfo."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()} without details: {error.details()}"
    return error.code(), reason_of(status), error.details()


def reason_of(status: Any) -> str:
    """Reason of a status, whole-call or of an item; it must carry domain, reason and hint."""
    infos = [ErrorInfo() for _ in status.details]
    known = [info for info, detail in zip(infos, status.details, strict=True) if detail.Unpack(info)]
    assert len(known) == 1
    assert known[0].domain == "identiface"
    assert known[0].metadata["hint"]
    return str(known[0].reason)
