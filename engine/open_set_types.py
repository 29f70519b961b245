"""Plain values of deciding in an open set: by which thresholds a gallery decides, and what is known of them.

Knows nothing of how they are found; see engine.decision.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.types import ThresholdOrigin


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the interval that it lies in, at the level of the calibration (95 %)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GalleryThresholds:
    """By which thresholds a gallery's probes are decided now."""

    threshold: float
    """What a search without a threshold and without a filter of its own uses."""
    threshold_origin: ThresholdOrigin
    effective_size: float
    """Identities, each counted by what its templates add to the chance that a stranger is taken for it."""
    estimate: Estimate | None = None
    """The threshold with its interval; None: it is fixed."""
    target_fpir: float | None = None
    review_threshold: float | None = None
    """From here on it is REVIEW at least; None: the gallery has no review_fpir."""
    estimated_fpir: float | None = None
    """Share of strangers, 0..1, whose best candidate reaches the threshold; None: the contract has no
    calibration."""
    expected_fnir: float | None = None
    """Share of enrolled people, 0..1, whom a probe would miss at the threshold; None: the contract has no
    calibration."""
    is_crowding_corrected: bool = False
    """Whether similarities are corrected by crowding now."""
    warnings: tuple[str, ...] = ()
    """What the operator should know, in words."""
    calibrated_on: str = ""
    """Whose strangers the calibration was measured on, in the words of who made it; empty: there is none."""


@dataclass(frozen=True, slots=True)
class SimilarityBin:
    """How many probes had a best candidate of such a similarity."""

    low: float
    """Inclusive."""
    high: float
    """Exclusive."""
    num_probes: int


@dataclass(frozen=True, slots=True)
class ProbeStatistics:
    """What a gallery with has_probe_statistics counted of its probes."""

    num_probes: int
    """Of all bins."""
    bins: tuple[SimilarityBin, ...] = ()
    """In ascending order, without gaps."""
    drift: float | None = None
    """How far they are from what the calibration expects of strangers, -1 to 1: above 0 they are more alike
    to the enrolled, below less; None: it expects nothing, or those that can be compared are too few."""
    is_alarming: bool = False
    """Whether they are so far that the thresholds may not hold any more."""


@dataclass(frozen=True, slots=True)
class GalleryCalibration:
    """A wished false-positive rate turned into a threshold for one gallery as it is."""

    target_fpir: float
    """Share of strangers that it is for, between 0 and 1."""
    threshold: float
    """What a gallery with such a target_fpir uses."""
    threshold_origin: ThresholdOrigin
    """CALIBRATION or, where it is stricter beyond both intervals, OWN_PEOPLE."""
    num_identities: int
    """Of the gallery."""
    by_calibration: Estimate | None = None
    """None: the contract has no calibration."""
    by_own_people: Estimate | None = None
    """None: the gallery's own people are too few."""
    num_probes: int = 0
    """Own people that were measured, each against all others."""
    num_left_out: int = 0
    """Own people left out, being likely enrolled twice under two names."""
    has_disagreement: bool = False
    """Whether calibration and own people disagree beyond both intervals."""
    warnings: tuple[str, ...] = ()
    """What the operator should know, in words."""
