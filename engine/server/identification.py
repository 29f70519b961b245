"""IdentificationService: who is it, and is it really her? Translates; knows neither index nor networks."""
# ruff: noqa: N802 - rpcs are named as the proto names them

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine import rules
from engine.errors import EngineError, InvalidInputError
from engine.limits import K_DEFAULT, PROBES_MAX
from engine.pb.identiface.v1 import identification_pb2 as pb
from engine.pb.identiface.v1.identification_pb2_grpc import IdentificationServiceServicer
from engine.server.backend import Backend
from engine.server.call import Call
from engine.server.pictures import check_digest, check_num_pictures, embed_for, named, only_face
from engine.types import EmbeddingContract, Face, Identification, Vector
from engine.vectors import FLOAT_BYTES, check_batch
from engine.verification import choose_terms, compare
from engine.wire.answers import pack_identification, pack_verification
from engine.wire.errors import to_status
from engine.wire.questions import unpack_search_options

Asked = list[tuple[Vector, Face | None]]
"""What one probe asks for: a template for each face meant, with the face; None: it was a vector."""


class IdentificationService(IdentificationServiceServicer):
    """See identiface/v1/identification.proto."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def Identify(self, request: pb.IdentifyRequest, call: Call) -> pb.IdentifyResponse:
        """Search a gallery for every face of one probe."""
        outcome = self._identify(request.gallery_id, [request.probe], ["probe"], request.options, call)[0]
        if isinstance(outcome, EngineError):
            raise outcome
        return outcome

    def BatchIdentify(self, request: pb.BatchIdentifyRequest, call: Call) -> pb.BatchIdentifyResponse:
        """Search for many probes, each with its own outcome."""
        return pb.BatchIdentifyResponse(outcomes=self._outcomes(request, call))

    def IdentifyStream(
        self, requests: Iterator[pb.IdentifyStreamRequest], call: Call
    ) -> Iterator[pb.IdentifyStreamResponse]:
        """Search for probes as they come, an answer a message."""
        for request in requests:
            call.check_stream()
            yield pb.IdentifyStreamResponse(outcomes=self._outcomes(request, call))

    def Verify(self, request: pb.VerifyRequest, call: Call) -> pb.VerifyResponse:
        """Compare one probe with a claimed identity or with another probe."""
        claim = request.WhichOneof("claim")
        if claim is None:
            raise InvalidInputError("claim: give identity_id or reference")
        threshold = request.threshold if request.HasField("threshold") else None
        rules.check_threshold(threshold)
        if claim == "reference":
            return self._compare(request, threshold, call)
        rules.check_identity_id(request.identity_id)
        gallery = self._backend.galleries.get(request.gallery_id)
        check_digest(request.contract_digest, gallery.contract)
        vector, face = self._one_face(gallery.contract, request.probe, "probe", call)
        with call.stage("search"):
            verification = gallery.verify(vector, request.identity_id, threshold=threshold)
        return pack_verification(verification, face)

    def _outcomes(
        self, request: pb.BatchIdentifyRequest | pb.IdentifyStreamRequest, call: Call
    ) -> list[pb.IdentifyOutcome]:
        num_probes = len(request.probes)
        if not 1 <= num_probes <= PROBES_MAX:
            raise InvalidInputError(f"probes: {num_probes} given; it must be 1 to {PROBES_MAX}")
        names = [f"probes[{position}]" for position in range(num_probes)]
        return [
            pb.IdentifyOutcome(error=to_status(outcome))
            if isinstance(outcome, EngineError)
            else pb.IdentifyOutcome(identified=outcome)
            for outcome in self._identify(request.gallery_id, request.probes, names, request.options, call)
        ]

    def _identify(
        self,
        gallery_id: str,
        probes: Sequence[pb.Probe],
        names: Sequence[str],
        options: pb.SearchOptions,
        call: Call,
    ) -> list[pb.IdentifyResponse | EngineError]:
        """Search for all faces of all probes in one go."""
        k = options.k or K_DEFAULT
        rules.check_k(k)
        threshold = options.threshold if options.HasField("threshold") else None
        rules.check_threshold(threshold)
        how = unpack_search_options(options)
        rules.check_attributes(how.filter, "filter")
        gallery = self._backend.galleries.get(gallery_id)
        check_digest(options.contract_digest, gallery.contract)
        check_num_pictures(sum(probe.WhichOneof("content") == "picture" for probe in probes), "probes")
        call.record.num_items += len(probes)
        asked = self._read(gallery.contract, probes, names, call)
        rows = [vector for faces in asked if not isinstance(faces, EngineError) for vector, _ in faces]
        found: list[Identification] = []
        if rows:
            with call.stage("search"):
                found = gallery.identify(
                    np.stack(rows), k, threshold=threshold, deadline=call.deadline, options=how
                )
        rest = iter(found)
        return [
            faces
            if isinstance(faces, EngineError)
            else pb.IdentifyResponse(faces=[pack_identification(next(rest), face) for _, face in faces])
            for faces in asked
        ]

    def _read(
        self, contract: EmbeddingContract, probes: Sequence[pb.Probe], names: Sequence[str], call: Call
    ) -> list[Asked | EngineError]:
        """Check and embed probes, all together, each with its own outcome."""
        kinds = [probe.WhichOneof("content") for probe in probes]
        are_vectors = [position for position, kind in enumerate(kinds) if kind == "vector"]
        are_pictures = [position for position, kind in enumerate(kinds) if kind == "picture"]
        outcomes: list[Asked | EngineError] = [
            InvalidInputError(f"{name} holds neither a picture nor a vector") for name in names
        ]
        if are_vectors:
            vectors = [probes[position].vector for position in are_vectors]
            rows, errors = check_batch(
                [vector.data for vector in vectors],
                contract.dimension,
                normalize=[vector.normalize for vector in vectors],
                names=[names[position] for position in are_vectors],
            )
            for number, position in enumerate(are_vectors):
                outcomes[position] = errors.get(number) or [(rows[number], None)]
        pictures = [probes[position].picture for position in are_pictures]
        embedded = embed_for(self._backend, contract, pictures, call)
        for position, faces in zip(are_pictures, embedded, strict=True):
            outcomes[position] = (
                named(faces, names[position])
                if isinstance(faces, EngineError)
                else [(face.template, face.face) for face in faces]
            )
        return outcomes

    def _one_face(
        self, contract: EmbeddingContract, probe: pb.Probe, name: str, call: Call
    ) -> tuple[Vector, Face | None]:
        """Read a probe that must mean exactly one face."""
        faces = self._read(contract, [probe], [name], call)[0]
        if isinstance(faces, EngineError):
            raise faces
        return only_face(faces, name)

    def _compare(self, request: pb.VerifyRequest, threshold: float | None, call: Call) -> pb.VerifyResponse:
        """Compare two probes with each other."""
        backend = self._backend
        gallery = backend.galleries.get(request.gallery_id).info() if request.gallery_id else None
        if "picture" in {request.probe.WhichOneof("content"), request.reference.WhichOneof("content")}:
            terms = choose_terms(gallery, backend.need_pipeline().embedder.contract, None, threshold)
        else:
            dimension = len(request.reference.vector.data) // FLOAT_BYTES
            terms = choose_terms(gallery, backend.contract, dimension, threshold)
        check_digest(request.contract_digest, terms.contract)
        probe, probe_face = self._one_face(terms.contract, request.probe, "probe", call)
        reference, reference_face = self._one_face(terms.contract, request.reference, "reference", call)
        calibration = backend.galleries.calibrations.get(terms.contract.digest)
        verification = compare(terms, probe, reference, threshold, calibration)
        return pack_verification(verification, probe_face, reference_face)
