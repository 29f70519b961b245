"""A change of a gallery's settings, and what it makes of them. Knows no store and no wire.

Whether settings are in range is told by `engine.rules.check_settings`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypedDict

from engine import rules
from engine.errors import InvalidInputError
from engine.types import CrowdingCorrection, GallerySettings


class SettingsKeywords(TypedDict, total=False):
    """What to change, as keywords: the fields of SettingsChanges."""

    templates_per_identity_max: int | None
    threshold: float | None
    clear_threshold: bool
    target_fpir: float | None
    clear_target_fpir: bool
    review_fpir: float | None
    clear_review_fpir: bool
    ambiguity: float | None
    target_fmr: float | None
    clear_target_fmr: bool
    crowding: CrowdingCorrection | None
    has_probe_statistics: bool | None


@dataclass(frozen=True, slots=True)
class SettingsChanges:
    """What to change of a gallery's settings; None stays as it was."""

    templates_per_identity_max: int | None = None
    threshold: float | None = None
    """A fixed threshold: target_fpir and review_fpir go."""
    clear_threshold: bool = False
    """No fixed threshold any more."""
    target_fpir: float | None = None
    """A target rate: the fixed threshold goes."""
    clear_target_fpir: bool = False
    """No target rate any more, nor review_fpir."""
    review_fpir: float | None = None
    clear_review_fpir: bool = False
    ambiguity: float | None = None
    target_fmr: float | None = None
    clear_target_fmr: bool = False
    crowding: CrowdingCorrection | None = None
    has_probe_statistics: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return self == _NOTHING


_NOTHING = SettingsChanges()
_CLEARED = ("threshold", "target_fpir", "review_fpir", "target_fmr")


def merged_settings(old: GallerySettings, changes: SettingsChanges) -> GallerySettings:
    """Settings after a change.

    Raises InvalidInputError where the change contradicts itself, or its result is out of range: a review_fpir
    without a target_fpir, or not above it.
    """
    for name in _CLEARED:
        if getattr(changes, f"clear_{name}") and getattr(changes, name) is not None:
            raise InvalidInputError(f"{name} and clear_{name} were given together; choose one")
    if changes.threshold is not None and changes.target_fpir is not None:
        raise InvalidInputError("threshold and target_fpir were given together; choose one")
    gone = {name for name in _CLEARED if getattr(changes, f"clear_{name}")}
    if changes.target_fpir is not None:
        gone.add("threshold")
    if changes.threshold is not None:
        gone.add("target_fpir")
    if "target_fpir" in gone:
        gone.add("review_fpir")
    new: dict[str, Any] = dict.fromkeys(gone)
    for field in dataclasses.fields(GallerySettings):
        value = getattr(changes, field.name, None)
        if value is not None:
            new[field.name] = value
    merged = dataclasses.replace(old, **new)
    rules.check_settings(merged)
    return merged
