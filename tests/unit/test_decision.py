"""Thresholds and what they decide."""

from __future__ import annotations

import pytest

from engine.decision import decide, resolve_threshold
from engine.types import Decision, EmbeddingContract, GallerySettings, ThresholdOrigin

CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=4, threshold=0.5)


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
    assert decide(0.5, 0.5) is Decision.MATCH
    assert decide(0.5000001, 0.5) is Decision.MATCH
    assert decide(0.4999999, 0.5) is Decision.NO_MATCH
    assert decide(-1.0, -1.0) is Decision.MATCH
    assert decide(None, -1.0) is Decision.NO_MATCH
