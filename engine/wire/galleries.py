"""Galleries and their settings as protobuf messages and back: `pack_` makes a message, `unpack_` a value.

Knows nothing of what galleries hold, nor of whether settings are in range; see engine.rules.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.errors import InvalidInputError, NotImplementedYetError
from engine.gallery_settings import SettingsChanges, SettingsKeywords
from engine.pb.identiface.v1 import gallery_pb2 as pb
from engine.types import CrowdingCorrection, GalleryInfo, GallerySettings
from engine.wire.values import pack_contract, pack_time, unpack_contract, unpack_time

_CROWDINGS = {
    CrowdingCorrection.AUTO: pb.CROWDING_CORRECTION_AUTO,
    CrowdingCorrection.ON: pb.CROWDING_CORRECTION_ON,
    CrowdingCorrection.OFF: pb.CROWDING_CORRECTION_OFF,
}
_CROWDINGS_BACK = {int(number): crowding for crowding, number in _CROWDINGS.items()}


def pack_gallery_settings(settings: GallerySettings) -> pb.GallerySettings:
    """Turn settings into their message; what is as without it is left unset, but the most templates."""
    return pb.GallerySettings(
        templates_per_identity_max=settings.templates_per_identity_max,
        threshold=settings.threshold,
        keep_crops=settings.keep_crops or None,
        target_fpir=settings.target_fpir,
        review_fpir=settings.review_fpir,
        # NaN is true: it is sent, and refused.
        ambiguity=settings.ambiguity or None,
        target_fmr=settings.target_fmr,
        crowding=None if settings.crowding is CrowdingCorrection.AUTO else _CROWDINGS[settings.crowding],
        has_probe_statistics=settings.has_probe_statistics or None,
    )


def unpack_gallery_settings(message: pb.GallerySettings) -> GallerySettings:
    """Turn a message into settings; what is not set has its default.

    Raises InvalidInputError for a crowding correction that this version does not know.
    """
    default = GallerySettings()
    return GallerySettings(
        templates_per_identity_max=(
            message.templates_per_identity_max
            if message.HasField("templates_per_identity_max")
            else default.templates_per_identity_max
        ),
        threshold=message.threshold if message.HasField("threshold") else None,
        keep_crops=message.keep_crops,
        target_fpir=message.target_fpir if message.HasField("target_fpir") else None,
        review_fpir=message.review_fpir if message.HasField("review_fpir") else None,
        ambiguity=message.ambiguity,
        target_fmr=message.target_fmr if message.HasField("target_fmr") else None,
        crowding=_crowding(message) or default.crowding,
        has_probe_statistics=message.has_probe_statistics,
    )


def pack_settings_changes(
    gallery_id: str, changes: SettingsChanges, request_id: str
) -> pb.UpdateGalleryRequest:
    """Turn a change of a gallery's settings into its request."""
    return pb.UpdateGalleryRequest(
        gallery_id=gallery_id,
        settings=pb.GallerySettings(
            templates_per_identity_max=changes.templates_per_identity_max,
            threshold=changes.threshold,
            target_fpir=changes.target_fpir,
            review_fpir=changes.review_fpir,
            ambiguity=changes.ambiguity,
            target_fmr=changes.target_fmr,
            crowding=None if changes.crowding is None else _CROWDINGS[changes.crowding],
            has_probe_statistics=changes.has_probe_statistics,
        ),
        clear_threshold=changes.clear_threshold,
        clear_target_fpir=changes.clear_target_fpir,
        clear_review_fpir=changes.clear_review_fpir,
        clear_target_fmr=changes.clear_target_fmr,
        request_id=request_id,
    )


def unpack_settings_changes(request: pb.UpdateGalleryRequest) -> SettingsKeywords:
    """Turn a request into a change of settings; its keep_crops is left in it, since it never changes.

    Raises InvalidInputError for a crowding correction that this version does not know.
    """
    settings = request.settings
    has = settings.HasField
    return SettingsKeywords(
        templates_per_identity_max=(
            settings.templates_per_identity_max if has("templates_per_identity_max") else None
        ),
        threshold=settings.threshold if has("threshold") else None,
        clear_threshold=request.clear_threshold,
        target_fpir=settings.target_fpir if has("target_fpir") else None,
        clear_target_fpir=request.clear_target_fpir,
        review_fpir=settings.review_fpir if has("review_fpir") else None,
        clear_review_fpir=request.clear_review_fpir,
        ambiguity=settings.ambiguity if has("ambiguity") else None,
        target_fmr=settings.target_fmr if has("target_fmr") else None,
        clear_target_fmr=request.clear_target_fmr,
        crowding=_crowding(settings),
        has_probe_statistics=settings.has_probe_statistics if has("has_probe_statistics") else None,
    )


def pack_gallery(info: GalleryInfo, aliases: Iterable[str] = ()) -> pb.Gallery:
    """Turn a gallery as listed, and the aliases that point to it, into its message."""
    return pb.Gallery(
        gallery_id=info.gallery_id,
        contract=pack_contract(info.contract),
        settings=pack_gallery_settings(info.settings),
        num_identities=info.num_identities,
        num_templates=info.num_templates,
        sequence=info.sequence,
        create_time=pack_time(info.create_time),
        aliases=sorted(aliases),
    )


def unpack_gallery(message: pb.Gallery) -> GalleryInfo:
    """Turn a message into a gallery as listed; its aliases are left in the message.

    Raises NotImplementedYetError for a crowding correction that this version does not know.
    """
    crowding = message.settings.crowding
    if crowding != pb.CROWDING_CORRECTION_UNSPECIFIED and crowding not in _CROWDINGS_BACK:
        raise NotImplementedYetError(
            f"crowding correction {crowding} is not known to this version of the client"
        )
    return GalleryInfo(
        gallery_id=message.gallery_id,
        contract=unpack_contract(message.contract),
        settings=unpack_gallery_settings(message.settings),
        num_identities=message.num_identities,
        num_templates=message.num_templates,
        sequence=message.sequence,
        create_time=unpack_time(message.create_time, "create_time"),
    )


def _crowding(settings: pb.GallerySettings) -> CrowdingCorrection | None:
    """Read the crowding correction; None: not said."""
    if settings.crowding == pb.CROWDING_CORRECTION_UNSPECIFIED:
        return None
    if settings.crowding not in _CROWDINGS_BACK:
        raise InvalidInputError(f"crowding {settings.crowding} is not known: use AUTO, ON or OFF")
    return _CROWDINGS_BACK[settings.crowding]
