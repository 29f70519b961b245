"""Which faces of a picture are good enough to be enrolled. Knows limits and policies; works on plain values.

The defaults were set by measuring LFW: the face nearest the centre of each of 2,011 of its pictures (250 x
250 pixels, faces some 92 wide), as it is and blurred with a Gaussian of 3 pixels. Quantiles::

                           least     1 %     2 %     5 %    50 %
    confidence              0.94    1.00    1.00    1.00    1.00
    sharpness                5.7    12.6    14.7    18.1    42.8
                            50 %    95 %    98 %    99 %    most
    |yaw_deg|               10.0    30.7    36.8    39.6    58.6
    |pitch_deg|              7.9    23.0    28.6    31.2    43.8
    sharpness, blurred       4.1     6.5     7.3     8.3    16.7

So 0.5 % are refused as they are, and 0.1 % pass blurred. Shrunk until the face is 46 pixels wide, 2 % are
below the least sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from engine.config import Settings
from engine.types import Face, FaceChoice
from indexer.items import Reason

if TYPE_CHECKING:
    from engine.embedding.quality import FaceMeasures


class GateSettings(Settings, frozen=True, kw_only=True):
    """What a picture must be for a template of it to be enrolled."""

    faces: Literal["refuse", "largest", "centre", "all"] = "largest"
    """What is done with several faces: the picture is refused, the largest or the one nearest the centre is
    taken, or all are. Faces below min_face_px or min_confidence do not count. Data sets whose pictures show
    their person in the middle, as LFW's do, need ``centre``."""
    min_face_px: Annotated[float, msgspec.Meta(ge=0)] = 40.0
    """Shorter side of the face's box, in pixels of the picture. The detector's own min_face_px says what is
    looked for at all."""
    min_confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9
    """Of the detector that it is a face, 0..1."""
    min_sharpness: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """Variance of the Laplacian of the grey face at 160 x 160 pixels, in squared grey levels. 0 lets all
    pass."""
    max_yaw_deg: Annotated[float, msgspec.Meta(ge=0, le=90)] = 50.0
    """Turn to either side, in degrees, estimated. 90 lets all pass."""
    max_pitch_deg: Annotated[float, msgspec.Meta(ge=0, le=90)] = 40.0
    """Nod up or down, in degrees, estimated. 90 lets all pass."""
    duplicates: Literal["refuse", "accept"] = "refuse"
    """What is done with a picture whose bytes are those of another one of the source."""
    near_another_identity: Literal["refuse", "flag", "accept"] = "flag"
    """What is done with a template that is nearer to another identity's than to its own: refused, enrolled
    and reported, or enrolled."""


DEFAULT_SETTINGS = GateSettings()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The faces to enroll, or why there is none."""

    chosen: tuple[int, ...] = ()
    """Places of the faces, in the order in which they were given to `judge`; largest first."""
    reason: Reason | None = None
    """None where a face was chosen."""
    detail: str = ""
    """The value and the limit, for a person."""


def judge(
    faces: Sequence[Face],
    measures: Sequence[FaceMeasures],
    settings: GateSettings,
    width: int,
    height: int,
) -> Verdict:
    """Choose among the faces of a picture of width x height pixels, or say why none will do.

    Faces too small or too unlikely are left out first. Of the others the policy chooses, and what it chooses
    must be sharp and turned to the camera; under ``all`` those that are not are left out.
    """
    if not faces:
        return Verdict(reason=Reason.NO_FACE, detail="no face was found")
    by_size = sorted(range(len(faces)), key=lambda place: -faces[place].box.area)
    first = [_too_faint(faces[place], measures[place], settings) for place in by_size]
    counted = [place for place, verdict in zip(by_size, first, strict=True) if verdict is None]
    if not counted:
        # The largest face's reason: that of the face that was meant.
        return first[0] or Verdict()
    if settings.faces == "refuse" and len(counted) > 1:
        detail = f"{len(counted)} faces, only one may be seen"
        return Verdict(reason=Reason.SEVERAL_FACES, detail=detail)
    meant = _meant(faces, counted, settings, width, height)
    second = [_too_unclear(measures[place], settings) for place in meant]
    chosen = tuple(place for place, verdict in zip(meant, second, strict=True) if verdict is None)
    return Verdict(chosen) if chosen else second[0] or Verdict()


def _meant(
    faces: Sequence[Face], counted: Sequence[int], settings: GateSettings, width: int, height: int
) -> list[int]:
    """Places of the faces that the policy chooses, largest first."""
    # Imported here: it brings torch, which those that only read settings can do without.
    from engine.embedding.pipeline import choose

    policy = FaceChoice.LARGEST if settings.faces == "refuse" else FaceChoice(settings.faces)
    chosen = choose([faces[place] for place in counted], policy, width, height)
    return [place for face in chosen for place in counted if faces[place] is face]


def _too_faint(face: Face, measures: FaceMeasures, settings: GateSettings) -> Verdict | None:
    if measures.size_px < settings.min_face_px:
        detail = f"{measures.size_px:.1f} px, at least {settings.min_face_px:g} px are needed"
        return Verdict(reason=Reason.FACE_TOO_SMALL, detail=detail)
    if face.confidence < settings.min_confidence:
        detail = f"confidence {face.confidence:.3f}, at least {settings.min_confidence:g} is needed"
        return Verdict(reason=Reason.LOW_CONFIDENCE, detail=detail)
    return None


def _too_unclear(measures: FaceMeasures, settings: GateSettings) -> Verdict | None:
    if measures.sharpness < settings.min_sharpness:
        detail = f"sharpness {measures.sharpness:.1f}, at least {settings.min_sharpness:g} is needed"
        return Verdict(reason=Reason.BLURRED, detail=detail)
    for name, angle, largest in (
        ("turned", measures.yaw_deg, settings.max_yaw_deg),
        ("nodded", measures.pitch_deg, settings.max_pitch_deg),
    ):
        if abs(angle) > largest:
            detail = f"{name} by {abs(angle):.0f} degrees, at most {largest:g} are accepted"
            return Verdict(reason=Reason.EXTREME_POSE, detail=detail)
    return None
