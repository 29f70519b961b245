"""Fixed thresholds, and what similarities mean at thresholds."""

from __future__ import annotations

import pytest

from engine.decision.policy import decide, resolve_threshold
from engine.types import Decision, EmbeddingContract, GallerySettings, ThresholdOrigin

CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=4, threshold=0.5)
MATCH, REVIEW, NO_MATCH = Decision.MATCH, Decision.REVIEW, Decision.NO_MATCH


@pytest.mark.parametrize(
    ("gallery", "requested", "expected"),
    [
        (None, None, (0.5, ThresholdOrigin.CONTRACT)),
        (0.25, None, (0.25, ThresholdOrigin.GALLERY)),
        (0.0, None, (0.0, ThresholdOrigin.GALLERY)),
        (None, 0.75, (0.75, ThresholdOrigin.REQUEST)),
        (0.25, 0.0, (0.0, ThresholdOrigin.REQUEST)),
        (0.25, -1.0, (-1.0, ThresholdOrigin.REQUEST)),
    ],
)
def test_the_request_goes_before_the_gallery_before_the_contract(
    gallery: float | None, requested: float | None, expected: tuple[float, ThresholdOrigin]
) -> None:
    assert resolve_threshold(CONTRACT, GallerySettings(threshold=gallery), requested) == expected


def test_at_the_threshold_is_a_match_and_nobody_is_none() -> None:
    assert decide(0.5, 0.5) is MATCH
    assert decide(0.5000001, 0.5) is MATCH
    assert decide(0.4999999, 0.5) is NO_MATCH
    assert decide(-1.0, -1.0) is MATCH
    assert decide(None, -1.0) is NO_MATCH
    assert decide(None, -1.0, review_threshold=-1.0, ambiguity=2.0) is NO_MATCH


@pytest.mark.parametrize(
    ("best", "expected"),
    [(0.75, MATCH), (0.7499, REVIEW), (0.5, REVIEW), (0.4999, NO_MATCH)],
)
def test_between_the_thresholds_a_person_must_look(best: float, expected: Decision) -> None:
    assert decide(best, 0.75, review_threshold=0.5) is expected
    assert decide(best, 0.75, second=best, review_threshold=0.5) is expected


@pytest.mark.parametrize(
    ("second", "ambiguity", "expected"),
    [
        (None, 0.25, MATCH),
        (0.5, 0.25, MATCH),  # as far as the ambiguity is not within it
        (0.5001, 0.25, REVIEW),
        (0.75, 0.25, REVIEW),
        (0.75, 0.0, MATCH),  # without an ambiguity equal ones are no matter
        (0.7499, 0.0, MATCH),
        (-1.0, 2.0, REVIEW),
    ],
)
def test_a_second_identity_within_the_ambiguity_makes_a_match_a_review(
    second: float | None, ambiguity: float, expected: Decision
) -> None:
    assert decide(0.75, 0.5, second=second, ambiguity=ambiguity) is expected
    assert decide(0.75, 0.8, second=second, ambiguity=ambiguity) is NO_MATCH
