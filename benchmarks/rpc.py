"""The wire as the load generators use it: requests as bytes, answers as bytes, one connection a client."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from engine.client.values import probe_message
from engine.pb.identiface.v1 import identification_pb2
from engine.types import Vectors

_SERVICE = "/identiface.v1.IdentificationService/"
_METHODS = {"unary": "Identify", "batch64": "BatchIdentify", "stream": "IdentifyStream"}
_OPTIONS = (
    # Connections of one process are shared otherwise, and so all on one worker.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
)


def requests(mode: str, gallery_id: str, probes: Vectors) -> list[bytes]:
    """Requests of a mode for these probes float32[m, d], in order, as bytes."""
    options = identification_pb2.SearchOptions(k=10)
    asked = [probe_message(probe) for probe in probes]
    if mode == "unary":
        return [
            identification_pb2.IdentifyRequest(
                gallery_id=gallery_id, probe=probe, options=options
            ).SerializeToString()
            for probe in asked
        ]
    size, kind = {
        "batch64": (64, identification_pb2.BatchIdentifyRequest),
        "stream": (1, identification_pb2.IdentifyStreamRequest),
    }[mode]
    batches = [
        [asked[(start + place) % len(asked)] for place in range(size)]
        for start in range(0, len(asked) - len(asked) % size or size, size)
    ]
    return [
        kind(gallery_id=gallery_id, probes=batch, options=options).SerializeToString() for batch in batches
    ]


def firsts(mode: str, answer: bytes | None) -> list[str] | None:
    """Who came first for each probe of a call; an empty text: nobody; None: the call or a probe failed."""
    if answer is None:
        return None
    if mode == "unary":
        faces = [identification_pb2.IdentifyResponse.FromString(answer)]
    else:
        kind: Any = {
            "batch64": identification_pb2.BatchIdentifyResponse,
            "stream": identification_pb2.IdentifyStreamResponse,
        }[mode]
        outcomes = kind.FromString(answer).outcomes
        if any(outcome.WhichOneof("outcome") != "identified" for outcome in outcomes):
            return None
        faces = [outcome.identified for outcome in outcomes]
    candidates = [one.faces[0].candidates for one in faces]
    return [found[0].identity_id if found else "" for found in candidates]


@contextlib.contextmanager
def connected(address: str, num: int, mode: str) -> Iterator[Sequence[CallClient | StreamClient]]:
    """`num` clients, each with a connection of its own."""
    with contextlib.ExitStack() as parts:
        clients: list[CallClient | StreamClient] = []
        for _ in range(num):
            channel = parts.enter_context(grpc.insecure_channel(address, options=_OPTIONS))
            client = StreamClient(channel) if mode == "stream" else CallClient(channel, _METHODS[mode])
            parts.callback(client.close)
            clients.append(client)
        yield clients


class CallClient:
    """Calls with one answer each."""

    def __init__(self, channel: grpc.Channel, method: str):
        self._call: Any = channel.unary_unary(_SERVICE + method, None, None)

    def ask(self, request: bytes, timeout_s: float) -> bytes | None:
        """Wait for the answer; None where the call failed."""
        try:
            answer: bytes = self._call(request, timeout=timeout_s)
        except grpc.RpcError:
            return None
        return answer

    def send(self, request: bytes, timeout_s: float, note: Callable[[bytes | None], None]) -> None:
        """Send it and give the answer to `note` on another thread."""
        future = self._call.future(request, timeout=timeout_s)
        future.add_done_callback(
            lambda done: note(done.result() if done.code() is grpc.StatusCode.OK else None)
        )

    def close(self) -> None:
        """Nothing is held."""


class StreamClient:
    """One stream: a message, its answer, the next message."""

    def __init__(self, channel: grpc.Channel):
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call: Any = channel.stream_stream(_SERVICE + _METHODS["stream"], None, None)
        self._answers = call(iter(self._waiting.get, None))

    def ask(self, request: bytes, timeout_s: float) -> bytes | None:  # noqa: ARG002 - a stream has no deadline
        """Wait for the answer; None where the stream failed."""
        self._waiting.put(request)
        try:
            answer: bytes = next(self._answers)
        except (grpc.RpcError, StopIteration):
            return None
        return answer

    def send(self, request: bytes, timeout_s: float, note: Callable[[bytes | None], None]) -> None:
        """Streams are measured in a closed loop."""
        note(self.ask(request, timeout_s))

    def close(self) -> None:
        """End the stream."""
        self._waiting.put(None)
