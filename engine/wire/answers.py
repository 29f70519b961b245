"""Answers of the engine as protobuf messages and back: `pack_` makes a message, `unpack_` a value.

Knows nothing of how an answer came about.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.errors import NotImplementedYetError
from engine.pb.identiface.v1 import admin_pb2, enrollment_pb2, identification_pb2, types_pb2
from engine.types import (
    Agreement,
    Candidate,
    Decision,
    EnrollResult,
    Face,
    Identification,
    Identity,
    RemoveResult,
    StoredTemplate,
    ThresholdOrigin,
    Verification,
)
from engine.wire.values import (
    pack_face,
    pack_time,
    unpack_face,
    unpack_time,
    vector_bytes,
    vector_from_bytes,
)

_DECISIONS = {
    Decision.MATCH: types_pb2.DECISION_MATCH,
    Decision.REVIEW: types_pb2.DECISION_REVIEW,
    Decision.NO_MATCH: types_pb2.DECISION_NO_MATCH,
}
_DECISIONS_BACK = {int(number): decision for decision, number in _DECISIONS.items()}
_ORIGINS = {
    ThresholdOrigin.CONTRACT: types_pb2.THRESHOLD_ORIGIN_CONTRACT,
    ThresholdOrigin.GALLERY: types_pb2.THRESHOLD_ORIGIN_GALLERY,
    ThresholdOrigin.REQUEST: types_pb2.THRESHOLD_ORIGIN_REQUEST,
    ThresholdOrigin.CALIBRATION: types_pb2.THRESHOLD_ORIGIN_CALIBRATION,
    ThresholdOrigin.OWN_PEOPLE: types_pb2.THRESHOLD_ORIGIN_OWN_PEOPLE,
}
_ORIGINS_BACK = {int(number): origin for origin, number in _ORIGINS.items()}


def pack_receipt(sequence: int) -> types_pb2.WriteReceipt:
    """Say from which sequence on a write is seen; every write of this version is synced before its answer."""
    return types_pb2.WriteReceipt(sequence=sequence, durability=types_pb2.DURABILITY_SYNCED)


def pack_threshold_origin(origin: ThresholdOrigin) -> types_pb2.ThresholdOrigin:
    """Turn a threshold's origin into its number."""
    return _ORIGINS[origin]


def unpack_threshold_origin(number: int) -> ThresholdOrigin:
    """Turn a number into a threshold's origin.

    Raises NotImplementedYetError for one that this version does not know.
    """
    if number not in _ORIGINS_BACK:
        raise NotImplementedYetError(f"threshold origin {number} is not known to this version of the client")
    return _ORIGINS_BACK[number]


def pack_candidate(candidate: Candidate) -> types_pb2.Candidate:
    """Turn a candidate into its message; the similarities stay the numbers that were compared."""
    return types_pb2.Candidate(
        identity_id=candidate.identity_id,
        similarity=candidate.similarity,
        template_id=candidate.template_id,
        similarity_corrected=candidate.similarity_corrected,
    )


def unpack_candidate(message: types_pb2.Candidate) -> Candidate:
    """Turn a message into a candidate."""
    corrected = message.similarity_corrected if message.HasField("similarity_corrected") else None
    return Candidate(message.identity_id, message.similarity, message.template_id, corrected)


def pack_identification(
    identification: Identification, face: Face | None = None
) -> identification_pb2.FaceIdentification:
    """Turn the answer to one probe, and the face it was about, into its message; no face for a vector."""
    return identification_pb2.FaceIdentification(
        face=pack_face(face),
        decision=_DECISIONS[identification.decision],
        candidates=[pack_candidate(candidate) for candidate in identification.candidates],
        threshold=identification.threshold,
        threshold_origin=pack_threshold_origin(identification.threshold_origin),
        searched_sequence=identification.searched_sequence,
        num_searched=identification.num_searched,
        is_exact=identification.is_exact,
        num_identities=identification.num_identities,
        estimated_fpir=identification.estimated_fpir,
        review_threshold=identification.review_threshold,
    )


def unpack_identification(
    message: identification_pb2.FaceIdentification,
) -> tuple[Identification, Face | None]:
    """Turn a message into the answer to one probe and the face it is about; None for a vector."""
    identification = Identification(
        decision=_decision(message.decision),
        candidates=tuple(unpack_candidate(candidate) for candidate in message.candidates),
        threshold=message.threshold,
        threshold_origin=unpack_threshold_origin(message.threshold_origin),
        searched_sequence=message.searched_sequence,
        num_searched=message.num_searched,
        is_exact=message.is_exact,
        num_identities=message.num_identities,
        estimated_fpir=message.estimated_fpir if message.HasField("estimated_fpir") else None,
        review_threshold=message.review_threshold if message.HasField("review_threshold") else None,
    )
    return identification, unpack_face(message.face) if message.HasField("face") else None


def pack_verification(
    verification: Verification, probe_face: Face | None = None, reference_face: Face | None = None
) -> identification_pb2.VerifyResponse:
    """Turn the answer to a claim, and the faces compared, into its message."""
    return identification_pb2.VerifyResponse(
        decision=_DECISIONS[verification.decision],
        similarity=verification.similarity,
        threshold=verification.threshold,
        threshold_origin=pack_threshold_origin(verification.threshold_origin),
        template_id=verification.template_id or 0,
        searched_sequence=verification.searched_sequence,
        probe_face=pack_face(probe_face),
        reference_face=pack_face(reference_face),
    )


def unpack_verification(
    message: identification_pb2.VerifyResponse,
) -> tuple[Verification, Face | None, Face | None]:
    """Turn a message into the answer to a claim, the probe's face and the reference's face."""
    verification = Verification(
        decision=_decision(message.decision),
        similarity=message.similarity,
        threshold=message.threshold,
        threshold_origin=unpack_threshold_origin(message.threshold_origin),
        template_id=message.template_id or None,
        searched_sequence=message.searched_sequence,
    )
    probe_face = unpack_face(message.probe_face) if message.HasField("probe_face") else None
    reference_face = unpack_face(message.reference_face) if message.HasField("reference_face") else None
    return verification, probe_face, reference_face


def pack_enroll_result(
    result: EnrollResult, faces: Sequence[Face | None] | None = None
) -> enrollment_pb2.EnrollResponse:
    """Turn the answer to one enrolled identity into its message.

    `faces` holds one entry for each template of the result, None for a vector; without it, all were vectors.
    """
    if faces is None:
        faces = [None] * len(result.template_ids)
    return enrollment_pb2.EnrollResponse(
        receipt=pack_receipt(result.sequence),
        templates=[
            enrollment_pb2.EnrolledTemplate(template_id=template_id, face=pack_face(face))
            for template_id, face in zip(result.template_ids, faces, strict=True)
        ],
        num_added=result.num_added,
        num_ignored=result.num_ignored,
        num_evicted=result.num_evicted,
        is_new_identity=result.is_new_identity,
        num_replaced=result.num_replaced,
    )


def unpack_enroll_result(
    message: enrollment_pb2.EnrollResponse, identity_id: str
) -> tuple[EnrollResult, tuple[Face | None, ...]]:
    """Turn a message into the answer for `identity_id` and the face of each template, None for a vector."""
    result = EnrollResult(
        sequence=message.receipt.sequence,
        identity_id=identity_id,
        template_ids=tuple(template.template_id for template in message.templates),
        num_added=message.num_added,
        num_ignored=message.num_ignored,
        num_evicted=message.num_evicted,
        is_new_identity=message.is_new_identity,
        num_replaced=message.num_replaced,
    )
    faces = tuple(
        unpack_face(template.face) if template.HasField("face") else None for template in message.templates
    )
    return result, faces


def pack_agreement(agreement: Agreement | None) -> admin_pb2.Agreement | None:
    """Turn what was measured of an index into its message; None, nothing, leaves the field unset."""
    if agreement is None:
        return None
    return admin_pb2.Agreement(num_probes=agreement.num_probes, top1=agreement.top1, top10=agreement.top10)


def unpack_agreement(message: admin_pb2.Agreement) -> Agreement:
    """Turn a message into what was measured."""
    return Agreement(message.num_probes, message.top1, message.top10)


def pack_removal(result: RemoveResult) -> enrollment_pb2.Removal:
    """Turn how far a removal went into its message; its sequence goes into the receipt beside it."""
    return enrollment_pb2.Removal(
        num_identities=result.num_identities,
        num_templates=result.num_templates,
        is_erased=result.is_erased,
    )


def unpack_removal(message: enrollment_pb2.Removal, receipt: types_pb2.WriteReceipt) -> RemoveResult:
    """Turn a removal's message and the receipt beside it into its answer."""
    return RemoveResult(
        sequence=receipt.sequence,
        num_identities=message.num_identities,
        num_templates=message.num_templates,
        is_erased=message.is_erased,
    )


def pack_identity(
    identity: Identity, templates: Sequence[StoredTemplate], *, with_vectors: bool = False
) -> types_pb2.Identity:
    """Turn an enrolled identity and its templates into its message, crops included where they have any."""
    message = types_pb2.Identity(
        identity_id=identity.identity_id,
        attributes=dict(identity.attributes),
        create_time=pack_time(identity.create_time),
        expire_time=None if identity.expire_time is None else pack_time(identity.expire_time),
    )
    for template in templates:
        message.templates.add(
            template_id=template.template_id,
            quality=template.quality,
            source=template.source,
            create_time=pack_time(template.create_time),
            vector=vector_bytes(template.vector) if with_vectors else b"",
            crop=template.crop,
        )
    return message


def unpack_identity(message: types_pb2.Identity) -> tuple[Identity, tuple[StoredTemplate, ...]]:
    """Turn a message into an identity and its templates; a vector that was not sent is float32[0]."""
    templates = tuple(
        StoredTemplate(
            template_id=template.template_id,
            vector=vector_from_bytes(template.vector) if template.vector else np.empty(0, np.float32),
            quality=template.quality,
            source=template.source,
            create_time=unpack_time(template.create_time, "create_time"),
            crop=template.crop,
        )
        for template in message.templates
    )
    identity = Identity(
        identity_id=message.identity_id,
        attributes=dict(message.attributes),
        template_ids=tuple(template.template_id for template in templates),
        create_time=unpack_time(message.create_time, "create_time"),
        expire_time=(
            unpack_time(message.expire_time, "expire_time") if message.HasField("expire_time") else None
        ),
    )
    return identity, templates


def _decision(number: int) -> Decision:
    if number not in _DECISIONS_BACK:
        raise NotImplementedYetError(f"decision {number} is not known to this version of the client")
    return _DECISIONS_BACK[number]
