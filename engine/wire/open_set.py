"""What is known of a gallery's thresholds as messages and back: `pack_` makes a message, `unpack_` a value.

Knows nothing of how thresholds are found.
"""

from __future__ import annotations

from engine.open_set_types import (
    Estimate,
    GalleryCalibration,
    GalleryThresholds,
    ProbeStatistics,
    SimilarityBin,
)
from engine.pb.identiface.v1 import admin_pb2 as pb
from engine.wire.answers import pack_threshold_origin, unpack_threshold_origin


def pack_estimate(estimate: Estimate | None) -> pb.ThresholdEstimate | None:
    """Turn a threshold and its interval into their message; None leaves the field unset."""
    if estimate is None:
        return None
    return pb.ThresholdEstimate(value=estimate.value, low=estimate.low, high=estimate.high)


def unpack_estimate(message: pb.ThresholdEstimate) -> Estimate:
    """Turn a message into a threshold and its interval."""
    return Estimate(message.value, message.low, message.high)


def pack_thresholds(thresholds: GalleryThresholds | None) -> pb.GalleryThresholds | None:
    """Turn the thresholds that a gallery decides by into their message; None leaves the field unset."""
    if thresholds is None:
        return None
    return pb.GalleryThresholds(
        threshold=thresholds.threshold,
        threshold_origin=pack_threshold_origin(thresholds.threshold_origin),
        estimate=pack_estimate(thresholds.estimate),
        target_fpir=thresholds.target_fpir,
        review_threshold=thresholds.review_threshold,
        effective_size=thresholds.effective_size,
        estimated_fpir=thresholds.estimated_fpir,
        expected_fnir=thresholds.expected_fnir,
        is_crowding_corrected=thresholds.is_crowding_corrected,
        warnings=thresholds.warnings,
        calibrated_on=thresholds.calibrated_on,
    )


def unpack_thresholds(message: pb.GalleryThresholds) -> GalleryThresholds:
    """Turn a message into the thresholds that a gallery decides by."""
    return GalleryThresholds(
        threshold=message.threshold,
        threshold_origin=unpack_threshold_origin(message.threshold_origin),
        effective_size=message.effective_size,
        estimate=unpack_estimate(message.estimate) if message.HasField("estimate") else None,
        target_fpir=message.target_fpir if message.HasField("target_fpir") else None,
        review_threshold=message.review_threshold if message.HasField("review_threshold") else None,
        estimated_fpir=message.estimated_fpir if message.HasField("estimated_fpir") else None,
        expected_fnir=message.expected_fnir if message.HasField("expected_fnir") else None,
        is_crowding_corrected=message.is_crowding_corrected,
        warnings=tuple(message.warnings),
        calibrated_on=message.calibrated_on,
    )


def pack_probe_statistics(statistics: ProbeStatistics | None) -> pb.ProbeStatistics | None:
    """Turn what was counted of a gallery's probes into its message; None leaves the field unset."""
    if statistics is None:
        return None
    return pb.ProbeStatistics(
        num_probes=statistics.num_probes,
        bins=[
            pb.SimilarityBin(low=row.low, high=row.high, num_probes=row.num_probes) for row in statistics.bins
        ],
        drift=statistics.drift,
        is_alarming=statistics.is_alarming,
    )


def unpack_probe_statistics(message: pb.ProbeStatistics) -> ProbeStatistics:
    """Turn a message into what was counted of a gallery's probes."""
    return ProbeStatistics(
        num_probes=message.num_probes,
        bins=tuple(SimilarityBin(row.low, row.high, row.num_probes) for row in message.bins),
        drift=message.drift if message.HasField("drift") else None,
        is_alarming=message.is_alarming,
    )


def pack_calibration(calibration: GalleryCalibration) -> pb.CalibrateResponse:
    """Turn a gallery's calibration into the last message of its progress."""
    return pb.CalibrateResponse(
        progress=1.0,
        is_done=True,
        threshold=calibration.threshold,
        threshold_origin=pack_threshold_origin(calibration.threshold_origin),
        target_fpir=calibration.target_fpir,
        by_calibration=pack_estimate(calibration.by_calibration),
        by_own_people=pack_estimate(calibration.by_own_people),
        num_identities=calibration.num_identities,
        num_probes=calibration.num_probes,
        num_left_out=calibration.num_left_out,
        has_disagreement=calibration.has_disagreement,
        warnings=calibration.warnings,
    )


def unpack_calibration(message: pb.CalibrateResponse) -> GalleryCalibration:
    """Turn the last message of a calibration's progress into what was found."""
    return GalleryCalibration(
        target_fpir=message.target_fpir,
        threshold=message.threshold,
        threshold_origin=unpack_threshold_origin(message.threshold_origin),
        num_identities=message.num_identities,
        by_calibration=unpack_estimate(message.by_calibration)
        if message.HasField("by_calibration")
        else None,
        by_own_people=unpack_estimate(message.by_own_people) if message.HasField("by_own_people") else None,
        num_probes=message.num_probes,
        num_left_out=message.num_left_out,
        has_disagreement=message.has_disagreement,
        warnings=tuple(message.warnings),
    )
