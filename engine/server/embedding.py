"""EmbeddingService: pictures to faces and templates, without any gallery. Translates; knows no networks."""
# ruff: noqa: N802 - rpcs are named as the proto names them

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TypeVar

from engine.errors import EngineError, InvalidInputError
from engine.limits import PICTURES_MAX
from engine.pb.identiface.v1 import embedding_pb2 as pb
from engine.pb.identiface.v1 import types_pb2
from engine.pb.identiface.v1.embedding_pb2_grpc import EmbeddingServiceServicer
from engine.server.backend import EmbedBackend
from engine.server.call import Call
from engine.server.pictures import Run, named, run_pictures
from engine.types import EmbeddedFace, Face, FaceChoice
from engine.wire.errors import to_status
from engine.wire.values import pack_contract, pack_picture_faces

F = TypeVar("F", Face, EmbeddedFace)


class EmbeddingService(EmbeddingServiceServicer):
    """See identiface/v1/embedding.proto."""

    def __init__(self, backend: EmbedBackend, *, has_names: bool = True):
        """With `has_names` the error of a picture says which it is; a worker that asks for others does so."""
        self._backend = backend
        self._has_names = has_names

    def DetectFaces(self, request: pb.DetectFacesRequest, call: Call) -> pb.DetectFacesResponse:
        """Find the faces of pictures."""
        pipeline = self._backend.need_pipeline()
        return pb.DetectFacesResponse(outcomes=self._outcomes(pipeline.detect, request.pictures, call))

    def EmbedFaces(self, request: pb.EmbedFacesRequest, call: Call) -> pb.EmbedFacesResponse:
        """Find the faces of pictures and make their templates."""
        pipeline = self._backend.need_pipeline()
        run = functools.partial(pipeline.embed, with_crops=request.with_crops)
        return pb.EmbedFacesResponse(
            outcomes=self._outcomes(run, request.pictures, call),
            contract=pack_contract(pipeline.embedder.contract),
        )

    def EmbedStream(
        self, requests: Iterator[pb.EmbedStreamRequest], call: Call
    ) -> Iterator[pb.EmbedStreamResponse]:
        """Embed pictures as they come, an answer a message."""
        pipeline = self._backend.need_pipeline()
        for request in requests:
            call.check_stream()
            yield pb.EmbedStreamResponse(outcomes=self._outcomes(pipeline.embed, request.pictures, call))

    def _outcomes(
        self, run: Run[F], pictures: Sequence[types_pb2.Picture], call: Call
    ) -> list[pb.PictureOutcome]:
        if not 1 <= len(pictures) <= PICTURES_MAX:
            raise InvalidInputError(f"pictures: {len(pictures)} given; it must be 1 to {PICTURES_MAX}")
        call.record.num_items += len(pictures)
        return [
            pb.PictureOutcome(error=to_status(self._named(outcome, position)))
            if isinstance(outcome, EngineError)
            else pb.PictureOutcome(picture=pack_picture_faces(outcome))
            for position, outcome in enumerate(run_pictures(run, pictures, FaceChoice.ALL, call))
        ]

    def _named(self, error: EngineError, position: int) -> EngineError:
        return named(error, f"pictures[{position}]") if self._has_names else error
