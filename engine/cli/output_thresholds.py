"""Thresholds, the rates behind them and what is known of both, as JSON and as text for people.

As engine/cli/output.py does it for answers about faces; the JSON is frozen by the same tests. Rates are
shares of strangers: nothing here says how sure an answer is.
"""

from __future__ import annotations

import math

from engine.cli.layout import Json, count
from engine.open_set_types import Estimate, GalleryCalibration, GalleryThresholds, ProbeStatistics
from engine.types import ThresholdOrigin

RATE_MIN = 1e-6
"""Smaller shares are not spelled out: no calibration has people enough to tell them apart."""

ORIGINS = {
    ThresholdOrigin.CONTRACT: "of the network",
    ThresholdOrigin.GALLERY: "of the gallery",
    ThresholdOrigin.REQUEST: "of the request",
    ThresholdOrigin.CALIBRATION: "by the network's calibration",
    ThresholdOrigin.OWN_PEOPLE: "by the gallery's own people",
}
"""Whose a threshold is, in words for people."""

_DRIFTED = (
    "probes are not like those of the calibration: thresholds may not hold; calibrate on pictures like them"
)


def strangers_text(rate: float) -> str:
    """Write a share of strangers: 1 in 1,200 strangers."""
    if rate < RATE_MIN:
        return f"fewer than 1 in {round(1 / RATE_MIN):,} strangers"
    if rate > 0.995:
        return "every stranger"
    if rate > 0.3:
        return f"{max(1, round(rate * 100))} in 100 strangers"
    return f"1 in {_two_digits(1 / rate):,} strangers"


def estimate_json(estimate: Estimate | None) -> Json | None:
    """Tell a threshold and its interval."""
    if estimate is None:
        return None
    return {"threshold": estimate.value, "low": estimate.low, "high": estimate.high}


def thresholds_json(thresholds: GalleryThresholds | None) -> Json | None:
    """Tell by which thresholds a gallery decides."""
    if thresholds is None:
        return None
    return {
        "threshold": thresholds.threshold,
        "threshold_origin": thresholds.threshold_origin.value,
        "estimate": estimate_json(thresholds.estimate),
        "target_fpir": thresholds.target_fpir,
        "review_threshold": thresholds.review_threshold,
        "effective_size": thresholds.effective_size,
        "estimated_fpir": thresholds.estimated_fpir,
        "expected_fnir": thresholds.expected_fnir,
        "is_crowding_corrected": thresholds.is_crowding_corrected,
        "warnings": list(thresholds.warnings),
        "calibrated_on": thresholds.calibrated_on,
    }


def thresholds_lines(gallery_id: str, num_identities: int, thresholds: GalleryThresholds) -> list[str]:
    """Say by which thresholds a gallery decides, and what of them an operator should know."""
    parts = [
        f"threshold {_with_interval(thresholds.threshold, thresholds.estimate)}"
        f" {ORIGINS[thresholds.threshold_origin]}"
    ]
    size = thresholds.effective_size
    # A tenth of a percent is what rounding may make of one template an identity.
    is_more = size > max(1, num_identities) * 1.001
    counted = f" (who count as {size:,.0f} for their templates)" if is_more else ""
    among = f"among {_people(num_identities)}{counted}"
    if thresholds.target_fpir is not None:
        parts.append(f"for {strangers_text(thresholds.target_fpir)} {among}")
    elif thresholds.estimated_fpir is not None:
        parts.append(f"which {strangers_text(thresholds.estimated_fpir)} would reach {among}")
    if thresholds.review_threshold is not None:
        parts.append(f"review from {thresholds.review_threshold:.4f} on")
    if thresholds.expected_fnir is not None:
        parts.append(f"{thresholds.expected_fnir:.0%} of the enrolled would be missed")
    if thresholds.is_crowding_corrected:
        parts.append("similarities corrected by crowding")
    if thresholds.calibrated_on:
        parts.append(f"calibrated on {thresholds.calibrated_on}")
    return [f"{gallery_id}: {', '.join(parts)}", *_warnings(thresholds.warnings)]


def probe_statistics_json(statistics: ProbeStatistics | None) -> Json | None:
    """Tell what was counted of a gallery's probes."""
    if statistics is None:
        return None
    return {
        "probes": statistics.num_probes,
        "bins": [{"low": row.low, "high": row.high, "probes": row.num_probes} for row in statistics.bins],
        "drift": statistics.drift,
        "is_alarming": statistics.is_alarming,
    }


def probe_statistics_lines(gallery_id: str, statistics: ProbeStatistics) -> list[str]:
    """Say what was counted of a gallery's probes."""
    drift = "" if statistics.drift is None else f", drift {statistics.drift:+.2f} from the calibration"
    lines = [f"{gallery_id}: {count(statistics.num_probes, 'probe')} counted{drift}"]
    if statistics.is_alarming:
        lines += _warnings((_DRIFTED,))
    return lines


def calibration_json(gallery_id: str, calibration: GalleryCalibration) -> Json:
    """Tell which threshold a wished rate gives in a gallery."""
    return {
        "id": gallery_id,
        "identities": calibration.num_identities,
        "target_fpir": calibration.target_fpir,
        "threshold": calibration.threshold,
        "threshold_origin": calibration.threshold_origin.value,
        "by_calibration": estimate_json(calibration.by_calibration),
        "by_own_people": estimate_json(calibration.by_own_people),
        "probes": calibration.num_probes,
        "left_out": calibration.num_left_out,
        "has_disagreement": calibration.has_disagreement,
        "warnings": list(calibration.warnings),
    }


def calibration_lines(gallery_id: str, calibration: GalleryCalibration) -> list[str]:
    """Say which threshold a wished rate gives in a gallery, by what, and how the two agree."""
    lines = [
        f"{gallery_id}: threshold {calibration.threshold:.4f} {ORIGINS[calibration.threshold_origin]}, for"
        f" {strangers_text(calibration.target_fpir)} among {_people(calibration.num_identities)}"
    ]
    by_calibration, own = calibration.by_calibration, calibration.by_own_people
    lines.append(
        "  the network's calibration: "
        + ("none" if by_calibration is None else _with_interval(by_calibration.value, by_calibration))
    )
    measured = f" of {_people(calibration.num_probes)}"
    if calibration.num_left_out:
        measured += f", {calibration.num_left_out:,} left out as likely enrolled twice"
    lines.append(
        "  the gallery's own people: "
        + ("too few" if own is None else _with_interval(own.value, own) + measured)
    )
    if calibration.has_disagreement:
        lines.append("  the two disagree beyond both intervals: the higher one holds")
    return lines + _warnings(calibration.warnings)


def _with_interval(threshold: float, estimate: Estimate | None) -> str:
    return f"{threshold:.4f}" + ("" if estimate is None else f" ({estimate.low:.4f} to {estimate.high:.4f})")


def _warnings(warnings: tuple[str, ...]) -> list[str]:
    return [f"  warning: {warning}" for warning in warnings]


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number:,} people"


def _two_digits(number: float) -> int:
    """Round a number of 1 or more to two digits."""
    step = int(10 ** max(0, math.floor(math.log10(number)) - 1))
    return round(number / step) * step
