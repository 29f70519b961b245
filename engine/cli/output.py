"""Answers as JSON that scripts rely on, and as text for people. Knows nothing of where answers come from.

The keys and types of the JSON are frozen by tests/unit/cli/test_output.py: keys may be added, never changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.cli.layout import NONE, Json, count, table, when
from engine.cli.output_thresholds import ORIGINS, strangers_text
from engine.client import (
    EnrolledIdentity,
    FaceEnrollResult,
    FaceIdentification,
    FaceVerification,
    ServedGallery,
)
from engine.errors import EngineError
from engine.types import Box, Candidate, Decision, EmbeddedFace, Face, RemoveResult, ThresholdOrigin


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
                        "similarity_corrected": candidate.similarity_corrected,
                    }
                    for candidate in face.candidates
                ],
                "threshold": face.threshold,
                "threshold_of": _threshold_of(face),
                "threshold_origin": face.threshold_origin.value,
                "searched_sequence": face.searched_sequence,
                "num_searched": face.num_searched,
                "is_exact": face.is_exact,
                "num_identities": face.num_identities,
                "estimated_fpir": face.estimated_fpir,
                "review_threshold": face.review_threshold,
                "confidence": None if face.face is None else round(face.face.confidence, 6),
            }
            for face in faces
        ]
    }


def _threshold_of(face: FaceIdentification) -> str:
    """Name of what a candidate has that the threshold is compared with."""
    is_corrected = any(one.similarity_corrected is not None for one in face.candidates)
    return "similarity_corrected" if is_corrected else "similarity"


def identification_lines(picture: str, faces: Sequence[FaceIdentification]) -> list[str]:
    """Say who each face is; candidates below the threshold stand in brackets."""
    if not faces:
        return [f"{picture}: no face"]
    first = faces[0]
    is_corrected = any(
        candidate.similarity_corrected is not None for face in faces for candidate in face.candidates
    )
    # Where they are, the threshold is small beside the plain similarities.
    kind = " of corrected similarities" if is_corrected else ""
    head = (
        f"{picture}: {count(len(faces), 'face')}; threshold {first.threshold:.4f}{kind}"
        f" {ORIGINS[first.threshold_origin]}, {count(first.num_searched, 'template')} searched"
    )
    rows: list[Sequence[object]] = []
    for number, face in enumerate(faces, start=1):
        start: tuple[object, ...] = (number, box_text(face.face), face.decision.value)
        for candidate in face.candidates:
            is_near = _compared(candidate) >= face.threshold
            shown = candidate.identity_id if is_near else f"({candidate.identity_id})"
            corrected = candidate.similarity_corrected
            similarities = (f"{candidate.similarity:.4f}", NONE if corrected is None else f"{corrected:z.4f}")
            rows.append((*start, shown, *similarities[: 1 + is_corrected]))
            start = ("", "", "")
        if not face.candidates:
            rows.append((*start, NONE, *(NONE,) * (1 + is_corrected)))
    header = ("face", "box", "decision", "identity", "similarity", "corrected")
    lines = [head, *table(header[: 5 + is_corrected], rows, "  ")]
    for number, face in enumerate(faces, start=1):
        which = f"face {number}: " if len(faces) > 1 else ""
        lines += [f"  {which}{said}" for said in _remarks(face)]
    return lines


def _compared(candidate: Candidate) -> float:
    """The similarity that was compared with the threshold."""
    corrected = candidate.similarity_corrected
    return candidate.similarity if corrected is None else corrected


def _remarks(face: FaceIdentification) -> list[str]:
    """Say what a decision about a face means, and how many strangers come as near."""
    said: list[str] = []
    if not face.candidates:
        return said
    best = face.candidates[0]
    if face.decision is Decision.REVIEW and _compared(best) >= face.threshold:
        others = f" and {face.candidates[1].identity_id}" if len(face.candidates) > 1 else " and another"
        said.append(f"REVIEW: {best.identity_id}{others} are both this near: let a person look")
    elif face.decision is Decision.REVIEW:
        start = "" if face.review_threshold is None else f", {face.review_threshold:.4f} or more"
        said.append(f"REVIEW: {best.identity_id} is near enough for a person to look at{start}")
    if face.estimated_fpir is not None:
        people = "1 person" if face.num_identities == 1 else f"{face.num_identities:,} people"
        strangers = strangers_text(face.estimated_fpir)
        said.append(f"{strangers} would reach {_compared(best):z.4f} among {people}")
    return said


def identification_label(face: FaceIdentification) -> str:
    """Say who a face is, short enough to stand on a picture."""
    if not face.candidates:
        return "unknown"
    best = face.candidates[0]
    if face.decision is Decision.MATCH:
        return f"{best.identity_id} {best.similarity:.3f}"
    if face.decision is Decision.REVIEW:
        return f"to review ({best.identity_id} {best.similarity:.3f})"
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
        f" threshold {answer.threshold:.4f} {ORIGINS[answer.threshold_origin]}"
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
    """Tell what a gallery is and holds; by a target rate its threshold is null: it moves with the size."""
    contract, settings = gallery.contract, gallery.settings
    threshold, origin = _threshold(gallery)
    return {
        "id": gallery.gallery_id,
        "identities": gallery.num_identities,
        "templates": gallery.num_templates,
        "sequence": gallery.sequence,
        "aliases": list(gallery.aliases),
        "model": contract.name,
        "dimension": contract.dimension,
        "contract_digest": contract.digest,
        "threshold": threshold,
        "threshold_origin": origin.value,
        "templates_per_identity_max": settings.templates_per_identity_max,
        "keep_crops": settings.keep_crops,
        "create_time": when(gallery.create_time),
        "target_fpir": settings.target_fpir,
        "review_fpir": settings.review_fpir,
        "ambiguity": settings.ambiguity,
        "target_fmr": settings.target_fmr,
        "crowding": settings.crowding.value,
        "has_probe_statistics": settings.has_probe_statistics,
    }


def _threshold(gallery: ServedGallery) -> tuple[float | None, ThresholdOrigin]:
    """The threshold of a gallery and where it comes from; None: it follows from a rate and the size."""
    settings = gallery.settings
    if settings.target_fpir is not None:
        return None, ThresholdOrigin.CALIBRATION
    if settings.threshold is not None:
        return settings.threshold, ThresholdOrigin.GALLERY
    return gallery.contract.threshold, ThresholdOrigin.CONTRACT


def threshold_text(gallery: ServedGallery) -> str:
    """Say by which threshold or rate a gallery decides, in a few words."""
    threshold, _ = _threshold(gallery)
    return f"for FPIR {gallery.settings.target_fpir:g}" if threshold is None else f"{threshold:.4f}"


def gallery_lines(gallery: ServedGallery) -> list[str]:
    """Describe a gallery."""
    told = gallery_json(gallery)
    told["aliases"] = ", ".join(gallery.aliases) or NONE
    told["threshold"] = f"{threshold_text(gallery)} {ORIGINS[_threshold(gallery)[1]]}"
    for key in ("target_fpir", "review_fpir", "target_fmr"):
        if told[key] is not None:
            told[key] = f"{told[key]:g}, {strangers_text(told[key])}"
    del told["threshold_origin"]
    rows = [(key.replace("_", " "), NONE if value is None else value) for key, value in told.items()]
    return table(("", ""), rows)


def galleries_lines(galleries: Sequence[ServedGallery]) -> list[str]:
    """List galleries."""
    if not galleries:
        return ["no galleries yet: make one with `identiface gallery create NAME`"]
    rows = []
    for gallery in galleries:
        told = gallery_json(gallery)
        keys = ("id", "identities", "templates", "sequence", "model", "dimension")
        aliases = ", ".join(gallery.aliases) or NONE
        rows.append((*(told[key] for key in keys), threshold_text(gallery), aliases))
    header = ("gallery", "identities", "templates", "sequence", "model", "dimension", "threshold", "aliases")
    return table(header, rows)
