"""What an answer means: the threshold that holds, and MATCH or NO_MATCH at it. Knows no gallery."""

from __future__ import annotations

from engine.types import Decision, EmbeddingContract, GallerySettings, ThresholdOrigin


def resolve_threshold(
    contract: EmbeddingContract, settings: GallerySettings, requested: float | None
) -> tuple[float, ThresholdOrigin]:
    """Choose the threshold: the request's, else the gallery's, else the contract's; says which."""
    if requested is not None:
        return requested, ThresholdOrigin.REQUEST
    if settings.threshold is not None:
        return settings.threshold, ThresholdOrigin.GALLERY
    return contract.threshold, ThresholdOrigin.CONTRACT


def decide(similarity: float | None, threshold: float) -> Decision:
    """Accept at or above the threshold; None (nobody to compare with) is NO_MATCH."""
    if similarity is not None and similarity >= threshold:
        return Decision.MATCH
    return Decision.NO_MATCH
