"""What an answer means: a fixed threshold chosen, and MATCH, REVIEW or NO_MATCH. Knows no gallery.

Thresholds that follow from a wished rate are made in engine.thresholds.
"""

from __future__ import annotations

from engine.types import Decision, EmbeddingContract, GallerySettings, ThresholdOrigin


def resolve_threshold(
    contract: EmbeddingContract, settings: GallerySettings, requested: float | None
) -> tuple[float, ThresholdOrigin]:
    """Choose the fixed threshold: the request's, else the gallery's, else the contract's; says which."""
    if requested is not None:
        return requested, ThresholdOrigin.REQUEST
    if settings.threshold is not None:
        return settings.threshold, ThresholdOrigin.GALLERY
    return contract.threshold, ThresholdOrigin.CONTRACT


def decide(
    best: float | None,
    threshold: float,
    *,
    second: float | None = None,
    review_threshold: float | None = None,
    ambiguity: float = 0.0,
) -> Decision:
    """Say what the best similarity means; None is nobody to compare with, which is NO_MATCH.

    MATCH at or above the threshold, unless a second identity is nearer to the best than `ambiguity`: then a
    person must look, REVIEW. Below the threshold REVIEW from `review_threshold` on.
    """
    if best is None:
        return Decision.NO_MATCH
    if best >= threshold:
        is_ambiguous = second is not None and best - second < ambiguity
        return Decision.REVIEW if is_ambiguous else Decision.MATCH
    if review_threshold is not None and best >= review_threshold:
        return Decision.REVIEW
    return Decision.NO_MATCH
