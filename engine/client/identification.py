"""Calls of IdentificationService. Knows nothing of who is enrolled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from google.protobuf.message import Message

from engine.client.calls import Calls
from engine.client.streams import batches, exchange
from engine.client.values import (
    FaceIdentification,
    FaceVerification,
    Probe,
    SearchKeywords,
    face_identification,
    face_verification,
    identify_outcome,
    probe_message,
)
from engine.errors import EngineError
from engine.limits import K_DEFAULT
from engine.pb.identiface.v1 import identification_pb2
from engine.types import FaceChoice, SearchOptions
from engine.wire.questions import pack_search_options


class IdentificationCalls(Calls):
    """Who is it, and is it really she.

    Vectors must be of unit length; a RawVector may have any, and the server brings it to unit length.
    """

    def identify(
        self,
        gallery_id: str,
        probe: Probe,
        k: int = K_DEFAULT,
        *,
        threshold: float | None = None,
        choice: FaceChoice | None = None,
        min_face_px: int | None = None,
        contract_digest: str = "",
        timeout_s: float | None = None,
        **how: Unpack[SearchKeywords],
    ) -> list[FaceIdentification]:
        """Search a gallery for each face meant of a picture, or for a unit vector; largest face first.

        Returns an empty list where the picture shows no face. `choice` (None: the largest) and `min_face_px`
        are for a picture given as bytes; `exact`, `fusion`, `filter` and `consistency` say how to search.
        Raises GalleryNotFoundError, InvalidInputError and its kinds, ContractMismatchError, NoEmbedderError.
        """
        with self._pool.lease() as connection:
            request = identification_pb2.IdentifyRequest(
                gallery_id=gallery_id,
                probe=probe_message(probe, choice, min_face_px),
                options=pack_search_options(SearchOptions(**how), k, threshold, contract_digest),
            )
            answer = connection.identification.Identify(request, timeout=self._seconds(timeout_s))
        return [face_identification(face) for face in answer.faces]

    def batch_identify(
        self,
        gallery_id: str,
        probes: Sequence[Probe],
        k: int = K_DEFAULT,
        *,
        threshold: float | None = None,
        contract_digest: str = "",
        timeout_s: float | None = None,
        **how: Unpack[SearchKeywords],
    ) -> list[list[FaceIdentification] | EngineError]:
        """Search for 1 to 256 probes in one call; each has its own answer or error, in order.

        At most 64 of them are pictures. Raises GalleryNotFoundError, ContractMismatchError, and
        InvalidInputError for the call as a whole.
        """
        with self._pool.lease() as connection:
            request = identification_pb2.BatchIdentifyRequest(
                gallery_id=gallery_id,
                probes=[probe_message(probe) for probe in probes],
                options=pack_search_options(SearchOptions(**how), k, threshold, contract_digest),
            )
            answer = connection.identification.BatchIdentify(request, timeout=self._seconds(timeout_s))
        return [identify_outcome(outcome) for outcome in answer.outcomes]

    def identify_stream(
        self,
        gallery_id: str,
        probes: Iterable[Probe],
        k: int = K_DEFAULT,
        *,
        threshold: float | None = None,
        contract_digest: str = "",
        probes_per_message: int = 1,
        timeout_s: float | None = None,
        **how: Unpack[SearchKeywords],
    ) -> Iterator[list[FaceIdentification] | EngineError]:
        """Search for probes as they come; yields the answer or error of each, in order.

        Probes are drawn on another thread, no faster than the server takes them. More `probes_per_message`
        (at most 256, and 64 pictures) answer more a second, but a message waits until it is full. Without
        `timeout_s` the stream may last as long as it likes. Raises GalleryNotFoundError, OverloadedError,
        ContractMismatchError.
        """
        answers = exchange(
            self._pool,
            lambda connection: connection.identification.IdentifyStream,
            _identify_requests(
                gallery_id,
                probes,
                probes_per_message,
                pack_search_options(SearchOptions(**how), k, threshold, contract_digest),
            ),
            timeout_s,
        )
        for answer, _ in answers:
            yield from (identify_outcome(outcome) for outcome in answer.outcomes)

    def verify(
        self,
        gallery_id: str,
        identity_id: str,
        probe: Probe,
        *,
        threshold: float | None = None,
        choice: FaceChoice | None = None,
        min_face_px: int | None = None,
        contract_digest: str = "",
        timeout_s: float | None = None,
    ) -> FaceVerification:
        """Ask whether a picture's chosen face, or a unit vector, is the identity that it claims to be.

        `choice` (None: the largest; ALL is refused) and `min_face_px` are for a picture given as bytes.
        Raises GalleryNotFoundError, IdentityNotFoundError, NoFaceError and other kinds of
        InvalidInputError, PreconditionError where the identity has no templates.
        """
        with self._pool.lease() as connection:
            request = identification_pb2.VerifyRequest(
                gallery_id=gallery_id,
                probe=probe_message(probe, choice, min_face_px),
                identity_id=identity_id,
                threshold=threshold,
                contract_digest=contract_digest,
            )
            answer = connection.identification.Verify(request, timeout=self._seconds(timeout_s))
        return face_verification(answer)

    def verify_pair(
        self,
        probe: Probe,
        reference: Probe,
        *,
        gallery_id: str = "",
        threshold: float | None = None,
        choice: FaceChoice | None = None,
        min_face_px: int | None = None,
        timeout_s: float | None = None,
    ) -> FaceVerification:
        """Ask whether two pictures, or two unit vectors, are of one person, without any enrolled identity.

        The threshold is that of `gallery_id` or, where it is empty, of the server's network. Raises as
        `verify`.
        """
        with self._pool.lease() as connection:
            request = identification_pb2.VerifyRequest(
                gallery_id=gallery_id,
                probe=probe_message(probe, choice, min_face_px),
                reference=probe_message(reference, choice, min_face_px),
                threshold=threshold,
            )
            answer = connection.identification.Verify(request, timeout=self._seconds(timeout_s))
        return face_verification(answer)


def _identify_requests(
    gallery_id: str,
    probes: Iterable[Probe],
    probes_per_message: int,
    options: identification_pb2.SearchOptions,
) -> Iterator[tuple[Message, None]]:
    for batch in batches(
        map(probe_message, probes), probes_per_message, lambda probe: probe.HasField("picture")
    ):
        yield (
            identification_pb2.IdentifyStreamRequest(gallery_id=gallery_id, probes=batch, options=options),
            None,
        )
