"""The pipeline of another process, asked over a local socket. Knows nothing of networks and galleries."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from engine.errors import DeadlineError, EngineError, UnavailableError
from engine.pb.identiface.v1 import embedding_pb2 as pb
from engine.pb.identiface.v1.embedding_pb2_grpc import EmbeddingServiceStub
from engine.types import EmbeddedFace, EmbeddingContract, Face, FaceChoice
from engine.wire.errors import from_rpc_error, from_status
from engine.wire.values import pack_picture, unpack_detected_faces, unpack_embedded_faces

RETRY_S = 1.0
"""What RetryInfo asks of a caller while no embed worker answers."""
RECONNECT_S_MAX = 1.0
"""Longest pause between two attempts to reach an embed worker that is being replaced."""
F = TypeVar("F", Face, EmbeddedFace)


@dataclass(frozen=True, slots=True)
class RemoteEmbedder:
    """What the embed workers embed with."""

    contract: EmbeddingContract
    device: str


@dataclass(slots=True)
class _Peer:
    """One embed worker."""

    channel: grpc.Channel
    stub: Any
    num_outstanding: int = 0
    turn: int = field(default=0)


class RemotePipeline:
    """Asks embed workers as engine.embedding.pipeline.Pipeline is asked, least outstanding first.

    One that is gone is passed over: embedding a picture twice does no harm. Thread-safe.
    """

    def __init__(
        self, sockets: Sequence[str], contract: EmbeddingContract, device: str, message_size_bytes_max: int
    ):
        """`sockets` are paths of local sockets; nobody is connected before the first picture."""
        self.embedder = RemoteEmbedder(contract, device)
        options = [
            ("grpc.max_send_message_length", message_size_bytes_max),
            ("grpc.max_receive_message_length", message_size_bytes_max),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", round(RECONNECT_S_MAX * 1e3)),
        ]
        self._lock = threading.Lock()
        self._turns = itertools.count()
        self._peers = [_peer(grpc.insecure_channel(f"unix:{path}", options=options)) for path in sockets]

    def detect(
        self,
        pictures: Sequence[bytes],
        choice: FaceChoice = FaceChoice.ALL,
        min_face_px: int | None = None,
        deadline: float | None = None,
    ) -> list[list[Face] | EngineError]:
        """See Pipeline.detect; raises UnavailableError also while no embed worker answers."""
        if not pictures:
            return []
        request = pb.DetectFacesRequest(pictures=_messages(pictures, choice, min_face_px))
        answer = self._ask(lambda stub: stub.DetectFaces, request, deadline)
        return _outcomes(answer, unpack_detected_faces)

    def embed(
        self,
        pictures: Sequence[bytes],
        choice: FaceChoice = FaceChoice.LARGEST,
        min_face_px: int | None = None,
        deadline: float | None = None,
        *,
        with_crops: bool = False,
    ) -> list[list[EmbeddedFace] | EngineError]:
        """See Pipeline.embed; raises UnavailableError also while no embed worker answers."""
        if not pictures:
            return []
        request = pb.EmbedFacesRequest(
            pictures=_messages(pictures, choice, min_face_px), with_crops=with_crops
        )
        answer = self._ask(lambda stub: stub.EmbedFaces, request, deadline)
        return _outcomes(answer, unpack_embedded_faces)

    def close(self) -> None:
        """Hang up; calls under way fail."""
        for peer in self._peers:
            peer.channel.close()

    def _ask(self, method: Callable[[Any], Any], request: Any, deadline: float | None) -> Any:
        for peer in self._by_load():
            timeout_s = None if deadline is None else deadline - time.monotonic()
            if timeout_s is not None and timeout_s <= 0:
                break
            try:
                return self._ask_one(peer, method, request, timeout_s)
            except grpc.RpcError as raised:
                error = from_rpc_error(raised)
            if isinstance(error, DeadlineError):
                break
            if not isinstance(error, UnavailableError):
                raise error
        else:
            raise UnavailableError(
                "pictures cannot be embedded now: the process that does it is being replaced",
                retry_after_s=RETRY_S,
            )
        raise DeadlineError("the deadline passed before the work was done")

    def _ask_one(
        self, peer: _Peer, method: Callable[[Any], Any], request: Any, timeout_s: float | None
    ) -> Any:
        with self._lock:
            peer.num_outstanding += 1
            peer.turn = next(self._turns)
        try:
            return method(peer.stub)(request, timeout=timeout_s)
        finally:
            with self._lock:
                peer.num_outstanding -= 1

    def _by_load(self) -> Iterator[_Peer]:
        with self._lock:
            ordered = sorted(self._peers, key=lambda peer: (peer.num_outstanding, peer.turn))
        return iter(ordered)


def _peer(channel: grpc.Channel) -> _Peer:
    # The generated code has no annotations that could be checked.
    stub: Any = EmbeddingServiceStub
    return _Peer(channel, stub(channel))


def _messages(pictures: Sequence[bytes], choice: FaceChoice, min_face_px: int | None) -> list[Any]:
    return [pack_picture(data, choice, min_face_px) for data in pictures]


def _outcomes(answer: Any, unpack: Callable[[Any], list[F]]) -> list[list[F] | EngineError]:
    return [
        from_status(outcome.error) if outcome.WhichOneof("outcome") == "error" else unpack(outcome.picture)
        for outcome in answer.outcomes
    ]
