"""What a change makes of a gallery's settings."""

from __future__ import annotations

import dataclasses
import math

import pytest

from engine.errors import InvalidInputError
from engine.gallery_settings import SettingsChanges, SettingsKeywords, merged_settings
from engine.types import CrowdingCorrection, GallerySettings

FIXED = GallerySettings(4, 0.5, keep_crops=True, target_fmr=1e-4)
BY_RATE = GallerySettings(4, target_fpir=0.001, review_fpir=0.01, ambiguity=0.02)


def test_no_change_changes_nothing() -> None:
    for settings in (GallerySettings(), FIXED, BY_RATE):
        assert merged_settings(settings, SettingsChanges()) == settings
    assert SettingsChanges().is_empty


def test_keywords_are_the_fields_of_a_change() -> None:
    names = {field.name for field in dataclasses.fields(SettingsChanges)}
    assert SettingsKeywords.__optional_keys__ == names
    kept = {field.name for field in dataclasses.fields(GallerySettings)} - {"keep_crops"}
    assert kept == {name for name in names if not name.startswith("clear_")}


@pytest.mark.parametrize(
    ("old", "changes", "expected"),
    [
        (
            FIXED,
            SettingsChanges(templates_per_identity_max=2),
            dataclasses.replace(FIXED, templates_per_identity_max=2),
        ),
        (FIXED, SettingsChanges(threshold=-1.0), dataclasses.replace(FIXED, threshold=-1.0)),
        (FIXED, SettingsChanges(threshold=0.0), dataclasses.replace(FIXED, threshold=0.0)),
        (FIXED, SettingsChanges(clear_threshold=True), dataclasses.replace(FIXED, threshold=None)),
        (
            FIXED,
            SettingsChanges(target_fpir=0.01, review_fpir=0.1),
            dataclasses.replace(FIXED, threshold=None, target_fpir=0.01, review_fpir=0.1),
        ),
        (FIXED, SettingsChanges(clear_target_fmr=True), dataclasses.replace(FIXED, target_fmr=None)),
        (
            BY_RATE,
            SettingsChanges(threshold=0.9),
            dataclasses.replace(BY_RATE, threshold=0.9, target_fpir=None, review_fpir=None),
        ),
        (
            BY_RATE,
            SettingsChanges(clear_target_fpir=True),
            dataclasses.replace(BY_RATE, target_fpir=None, review_fpir=None),
        ),
        (BY_RATE, SettingsChanges(clear_review_fpir=True), dataclasses.replace(BY_RATE, review_fpir=None)),
        (BY_RATE, SettingsChanges(target_fpir=0.002), dataclasses.replace(BY_RATE, target_fpir=0.002)),
        (BY_RATE, SettingsChanges(ambiguity=0.0), dataclasses.replace(BY_RATE, ambiguity=0.0)),
        (
            BY_RATE,
            SettingsChanges(crowding=CrowdingCorrection.OFF, has_probe_statistics=True),
            dataclasses.replace(BY_RATE, crowding=CrowdingCorrection.OFF, has_probe_statistics=True),
        ),
        (
            dataclasses.replace(BY_RATE, has_probe_statistics=True),
            SettingsChanges(has_probe_statistics=False),
            BY_RATE,
        ),
    ],
)
def test_a_change_keeps_what_it_does_not_name_and_a_threshold_and_a_rate_replace_each_other(
    old: GallerySettings, changes: SettingsChanges, expected: GallerySettings
) -> None:
    assert merged_settings(old, changes) == expected
    assert not changes.is_empty


@pytest.mark.parametrize(
    ("old", "changes", "problem"),
    [
        (
            FIXED,
            SettingsChanges(threshold=0.5, clear_threshold=True),
            "threshold and clear_threshold were given",
        ),
        (
            FIXED,
            SettingsChanges(target_fpir=0.1, clear_target_fpir=True),
            "target_fpir and clear_target_fpir",
        ),
        (
            BY_RATE,
            SettingsChanges(review_fpir=0.1, clear_review_fpir=True),
            "review_fpir and clear_review_fpir",
        ),
        (FIXED, SettingsChanges(target_fmr=0.1, clear_target_fmr=True), "target_fmr and clear_target_fmr"),
        (FIXED, SettingsChanges(threshold=0.5, target_fpir=0.1), "threshold and target_fpir were given"),
        (FIXED, SettingsChanges(review_fpir=0.1), "review_fpir needs target_fpir"),
        (BY_RATE, SettingsChanges(threshold=0.5, review_fpir=0.1), "review_fpir needs target_fpir"),
        (BY_RATE, SettingsChanges(clear_target_fpir=True, review_fpir=0.1), "review_fpir needs target_fpir"),
        (BY_RATE, SettingsChanges(target_fpir=0.01), "review_fpir is 0.01, it must be more than target_fpir"),
        (BY_RATE, SettingsChanges(review_fpir=0.0005), "review_fpir is 0.0005"),
        (FIXED, SettingsChanges(target_fpir=math.nan), "target_fpir is nan"),
        (FIXED, SettingsChanges(target_fpir=0.0), "target_fpir is 0.0"),
        (FIXED, SettingsChanges(target_fpir=1.0), "target_fpir is 1.0"),
        (FIXED, SettingsChanges(ambiguity=math.nan), "ambiguity is nan"),
        (FIXED, SettingsChanges(templates_per_identity_max=0), "templates_per_identity_max is 0"),
    ],
)
def test_a_change_that_contradicts_itself_or_the_gallery_is_refused(
    old: GallerySettings, changes: SettingsChanges, problem: str
) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        merged_settings(old, changes)
