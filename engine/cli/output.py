"""Answers as JSON that scripts rely on, and as text for people. Knows nothing of where answers come from.

The keys and types of the JSON are frozen by tests/unit/cli/test_output.py: keys may be added, never changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.cli.layout import NONE, Json, count, table, when
from engine.client import (
    EnrolledIdentity,
    FaceEnrollResult,
    FaceIdentification,
    FaceVerification,
    ServedGallery,
)
from engine.errors import EngineError
from engine.types import Box, Decision, EmbeddedFace, Face, RemoveResult, ThresholdOrigin

_ORIGINS = {
    ThresholdOrigin.CONTRACT: "network",
    ThresholdOrigin.GALLERY: "gallery",
    ThresholdOrigin.REQUEST: "request",
}
"""Whose a threshold is, in words for people."""


def error_json(error: EngineError) -> Json:
    """Tell an error of one picture among several."""
    return {"error": {"reason": error.reason, "message": error.message, "hint": error.hint}}


def box_json(box: Box) -> list[float]:
    """Give the edges x1, y1, x2, y2 in pixels, to the hundredth."""
    return [round(float(edge), 2) for edge in (box.x1, box.y1, box.x2, box.y2)]


def box_text(face: Face | None) -> str:
    """Write left,top-right,bottom in whole pixels."""
    if face is None:
        return NONE
    box = face.box
    return f"{box.x1:.0f},{box.y1:.0f}-{box.x2:.0f},{box.y2:.0f}"


def identification_json(faces: Sequence[FaceIdentification]) -> Json:
    """Tell who each face is."""
    return {
        "faces": [
            {
                "box": None if face.face is None else box_json(face.face.box),
                "decision": face.decision.value,
                "candidates": [
                    {
                        "identity_id": candidate.identity_id,
                        "similarity": candidate.similarity,
                        "template_id": candidate.template_id,
                    }
                    for candidate in face.candidates
                ],
                "threshold": face.threshold,
                "threshold_origin": face.threshold_origin.value,
                "searched_sequence": face.searched_sequence,
                "num_searched": face.num_searched,
                "is_exact": face.is_exact,
                "confidence": None if face.face is None else round(face.face.confidence, 6),
            }
            for face in faces
        ]
    }


def identification_lines(picture: str, faces: Sequence[FaceIdentification]) -> list[str]:
    """Say who each face is; candidates below the threshold stand in brackets."""
    if not faces:
        return [f"{picture}: no face"]
    first = faces[0]
    head = (
        f"{picture}: {count(len(faces), 'face')}; threshold {first.threshold:.4f} of the"
        f" {_ORIGINS[first.threshold_origin]}, {count(first.num_searched, 'template')} searched"
    )
    rows: list[Sequence[object]] = []
    for number, face in enumerate(faces, start=1):
        start: tuple[object, ...] = (number, box_text(face.face), face.decision.value)
        for candidate in face.candidates:
            is_near = candidate.similarity >= face.threshold
            shown = candidate.identity_id if is_near else f"({candidate.identity_id})"
            rows.append((*start, shown, f"{candidate.similarity:.4f}"))
            start = ("", "", "")
        if not face.candidates:
            rows.append((*start, NONE, NONE))
    return [head, *table(("face", "box", "decision", "identity", "similarity"), rows, "  ")]


def identification_label(face: FaceIdentification) -> str:
    """Say who a face is, short enough to stand on a picture."""
    if not face.candidates:
        return "unknown"
    best = face.candidates[0]
    if face.decision is Decision.MATCH:
        return f"{best.identity_id} {best.similarity:.3f}"
    return f"unknown ({best.identity_id} {best.similarity:.3f})"


def verification_json(answer: FaceVerification) -> Json:
    """Tell whether a claim holds."""
    return {
        "decision": answer.decision.value,
        "similarity": answer.similarity,
        "threshold": answer.threshold,
        "threshold_origin": answer.threshold_origin.value,
        "template_id": answer.template_id,
        "searched_sequence": answer.searched_sequence,
    }


def verification_lines(what: str, answer: FaceVerification) -> list[str]:
    """Say whether a claim holds; `what` names picture and identity, or both pictures."""
    return [
        f"{what}: {answer.decision.value}, similarity {answer.similarity:.4f},"
        f" threshold {answer.threshold:.4f} of the {_ORIGINS[answer.threshold_origin]}"
    ]


def face_json(face: Face) -> Json:
    """Tell where a face is."""
    return {
        "box": box_json(face.box),
        "confidence": round(face.confidence, 6),
        "keypoints": [[round(float(x), 2), round(float(y), 2)] for x, y in face.keypoints],
    }


def detection_lines(picture: str, faces: Sequence[Face]) -> list[str]:
    """Say where the faces of a picture are."""
    rows = [
        (
            number,
            box_text(face),
            f"{face.box.width:.0f}x{face.box.height:.0f}",
            f"{face.confidence:.4f}",
        )
        for number, face in enumerate(faces, start=1)
    ]
    head = f"{picture}: {count(len(faces), 'face') if faces else 'no face'}"
    return [head, *(table(("face", "box", "pixels", "confidence"), rows, "  ") if rows else [])]


def embedding_json(faces: Sequence[EmbeddedFace], first_row: int | None) -> Json:
    """Tell a picture's faces with their vectors or, where these went to a file, their rows in it."""
    told = []
    for number, face in enumerate(faces):
        where = {"vector": [float(value) for value in face.template]}
        told.append(face_json(face.face) | (where if first_row is None else {"row": first_row + number}))
    return {"faces": told}


def embedding_lines(picture: str, faces: Sequence[EmbeddedFace], first_row: int | None) -> list[str]:
    """Say which templates were made."""
    rows = []
    for number, face in enumerate(faces):
        starts = " ".join(f"{value:.4f}" for value in face.template[:4])
        shown = f"{starts} ..." if first_row is None else f"row {first_row + number}"
        rows.append((number + 1, box_text(face.face), f"{len(face.template)} floats", shown))
    head = f"{picture}: {count(len(faces), 'face') if faces else 'no face'}"
    return [head, *(table(("face", "box", "template", ""), rows, "  ") if rows else [])]


def enroll_json(result: FaceEnrollResult) -> Json:
    """Tell what was enrolled."""
    return {
        "identity_id": result.identity_id,
        "is_new_identity": result.is_new_identity,
        "added": result.num_added,
        "ignored": result.num_ignored,
        "evicted": result.num_evicted,
        "replaced": result.num_replaced,
        "template_ids": list(result.template_ids),
        "faces": [None if face is None else face_json(face) for face in result.faces],
        "sequence": result.sequence,
    }


def enroll_lines(result: FaceEnrollResult) -> list[str]:
    """Say what was enrolled."""
    done = [f"{count(result.num_added, 'template')} added"]
    if result.num_ignored:
        done.append(f"{result.num_ignored} already there")
    if result.num_evicted:
        done.append(f"{result.num_evicted} evicted")
    if result.num_replaced:
        done.append(f"{result.num_replaced} of before dropped")
    kind = "new identity" if result.is_new_identity else "known identity"
    return [f"{result.identity_id}: {', '.join(done)} ({kind}, sequence {result.sequence})"]


def removal_json(identity_id: str, result: RemoveResult) -> Json:
    """Tell how far a removal went."""
    return {
        "identity_id": identity_id,
        "identities": result.num_identities,
        "templates": result.num_templates,
        "is_erased": result.is_erased,
        "sequence": result.sequence,
    }


def removal_lines(identity_id: str, result: RemoveResult) -> list[str]:
    """Say how far a removal went."""
    if not result.num_identities and not result.num_templates:
        return [
            f"{identity_id}: not enrolled; what was removed before is gone from every file of the gallery"
        ]
    what = "" if result.num_identities else "identity kept, "
    erased = (
        "gone from every file of the gallery; backups are not reached"
        if result.is_erased
        else "not found from now on; --erase wipes the files, too"
    )
    templates = count(result.num_templates, "template")
    return [f"{identity_id}: {what}{templates} removed, {erased} (sequence {result.sequence})"]


def identity_json(identity: EnrolledIdentity) -> Json:
    """Tell who is enrolled."""
    return {
        "identity_id": identity.identity_id,
        "attributes": dict(identity.attributes),
        "create_time": when(identity.create_time),
        "expire_time": None if identity.expire_time is None else when(identity.expire_time),
        "templates": [
            {
                "template_id": template.template_id,
                "quality": round(template.quality, 6),
                "source": template.source,
                "create_time": when(template.create_time),
            }
            for template in identity.templates
        ],
    }


def identity_lines(identities: Sequence[EnrolledIdentity], *, has_header: bool) -> list[str]:
    """List who is enrolled."""
    names = ("identity", "templates", "enrolled", "attributes", "expires", "template ids")
    rows = [
        (
            identity.identity_id,
            len(identity.templates),
            when(identity.create_time),
            " ".join(f"{key}={value}" for key, value in sorted(identity.attributes.items())) or NONE,
            NONE if identity.expire_time is None else when(identity.expire_time),
            " ".join(str(template_id) for template_id in identity.template_ids) or NONE,
        )
        for identity in identities
    ]
    lines = table(names, rows)
    return lines if has_header else lines[1:]


def gallery_json(gallery: ServedGallery) -> Json:
    """Tell what a gallery is and holds."""
    contract = gallery.contract
    fixed = gallery.settings.threshold
    return {
        "id": gallery.gallery_id,
        "identities": gallery.num_identities,
        "templates": gallery.num_templates,
        "sequence": gallery.sequence,
        "aliases": list(gallery.aliases),
        "model": contract.name,
        "dimension": contract.dimension,
        "contract_digest": contract.digest,
        "threshold": contract.threshold if fixed is None else fixed,
        "threshold_origin": "contract" if fixed is None else "gallery",
        "templates_per_identity_max": gallery.settings.templates_per_identity_max,
        "keep_crops": gallery.settings.keep_crops,
        "create_time": when(gallery.create_time),
    }


def gallery_lines(gallery: ServedGallery) -> list[str]:
    """Describe a gallery."""
    told = gallery_json(gallery)
    told["aliases"] = ", ".join(gallery.aliases) or NONE
    origin = ThresholdOrigin.CONTRACT if gallery.settings.threshold is None else ThresholdOrigin.GALLERY
    told["threshold"] = f"{told['threshold']:.4f} of the {_ORIGINS[origin]}"
    del told["threshold_origin"]
    return table(("", ""), [(key.replace("_", " "), value) for key, value in told.items()])


def galleries_lines(galleries: Sequence[ServedGallery]) -> list[str]:
    """List galleries."""
    if not galleries:
        return ["no galleries yet: make one with `identiface gallery create NAME`"]
    rows = []
    for gallery in galleries:
        told = gallery_json(gallery)
        keys = ("id", "identities", "templates", "sequence", "model", "dimension")
        aliases = ", ".join(gallery.aliases) or NONE
        rows.append((*(told[key] for key in keys), f"{told['threshold']:.4f}", aliases))
    header = ("gallery", "identities", "templates", "sequence", "model", "dimension", "threshold", "aliases")
    return table(header, rows)
