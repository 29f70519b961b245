"""Calls of EmbeddingService: pictures to faces and templates. Knows no gallery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.message import Message

from engine.client.calls import Calls
from engine.client.streams import batches, exchange
from engine.client.values import Picture, picture_message
from engine.errors import EngineError
from engine.pb.identiface.v1 import embedding_pb2
from engine.types import EmbeddedFace, EmbeddingContract, Face, FaceChoice
from engine.wire.errors import from_status
from engine.wire.values import unpack_contract, unpack_detected_faces, unpack_embedded_faces


class EmbeddingCalls(Calls):
    """Pictures to faces and templates, without any gallery."""

    def detect(
        self,
        pictures: Sequence[bytes | Picture],
        *,
        choice: FaceChoice | None = None,
        min_face_px: int | None = None,
        timeout_s: float | None = None,
    ) -> list[list[Face] | EngineError]:
        """Find the faces of 1 to 64 pictures; each has its own faces, largest first, or error, in order.

        `choice` (None: all faces) and `min_face_px` are for pictures given as bytes. Raises
        InvalidInputError for the call as a whole, NoEmbedderError.
        """
        with self._pool.lease() as connection:
            request = embedding_pb2.DetectFacesRequest(
                pictures=[picture_message(picture, choice, min_face_px) for picture in pictures]
            )
            answer = connection.embedding.DetectFaces(request, timeout=self._seconds(timeout_s))
        return [
            from_status(outcome.error)
            if outcome.WhichOneof("outcome") == "error"
            else unpack_detected_faces(outcome.picture)
            for outcome in answer.outcomes
        ]

    def embed(
        self,
        pictures: Sequence[bytes | Picture],
        *,
        choice: FaceChoice | None = None,
        min_face_px: int | None = None,
        with_crops: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[list[list[EmbeddedFace] | EngineError], EmbeddingContract]:
        """Find the faces of 1 to 64 pictures and make their templates, float32[d] of unit length.

        Returns each picture's faces, largest first, or error, in order, and what the templates are. Options
        and errors as `detect`. `with_crops` asks for the kept crop of each face that is the only one chosen
        in its picture: what a gallery with keep_crops holds beside the template.
        """
        with self._pool.lease() as connection:
            request = embedding_pb2.EmbedFacesRequest(
                pictures=[picture_message(picture, choice, min_face_px) for picture in pictures],
                with_crops=with_crops,
            )
            answer = connection.embedding.EmbedFaces(request, timeout=self._seconds(timeout_s))
        return [_embed_outcome(outcome) for outcome in answer.outcomes], unpack_contract(answer.contract)

    def embed_stream(
        self,
        pictures: Iterable[bytes | Picture],
        *,
        pictures_per_message: int = 16,
        timeout_s: float | None = None,
    ) -> Iterator[list[EmbeddedFace] | EngineError]:
        """Embed pictures as they come; yields the faces or the error of each, in order.

        Pictures are drawn on another thread, no faster than the server takes them; a message waits until it
        is full (at most 64). Without `timeout_s` the stream may last as long as it likes. Raises
        NoEmbedderError, OverloadedError.
        """
        answers = exchange(
            self._pool,
            lambda connection: connection.embedding.EmbedStream,
            _embed_requests(pictures, pictures_per_message),
            timeout_s,
        )
        for answer, _ in answers:
            yield from (_embed_outcome(outcome) for outcome in answer.outcomes)


def _embed_requests(
    pictures: Iterable[bytes | Picture], pictures_per_message: int
) -> Iterator[tuple[Message, None]]:
    messages = (picture_message(picture, None, None) for picture in pictures)
    for batch in batches(messages, pictures_per_message):
        yield embedding_pb2.EmbedStreamRequest(pictures=batch), None


def _embed_outcome(outcome: embedding_pb2.PictureOutcome) -> list[EmbeddedFace] | EngineError:
    if outcome.WhichOneof("outcome") == "error":
        return from_status(outcome.error)
    return unpack_embedded_faces(outcome.picture)
