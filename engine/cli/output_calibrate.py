"""What a calibration of people looks like, as lines of text and as JSON. Counts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.layout import NONE, Json, count, table

if TYPE_CHECKING:
    from engine.decision.calibration import Calibration, LeftOut, Span
    from engine.trainer.calibrate import Calibrated

NAMES_TOLD = 20
"""Of people left out; all are in the JSON."""
FIT_GOOD, FIT_BAD = 0.1, 0.01
"""Shares of samples of a fit that lie as far from it: above it fits, below it does not."""


def calibrated_lines(
    calibrated: Calibrated, targets: Sequence[float], sizes: Sequence[int], target: Path | None
) -> list[str]:
    """Say which thresholds were found, what carries them and whose strangers they are of."""
    from engine.decision.calibration import CORRECTED, PLAIN

    calibration = calibrated.calibration
    rows = [
        ("network", f"{calibration.contract_name} ({calibration.contract_digest[:12]})"),
        ("strangers", calibration.people),
        ("people", f"{calibration.num_people:,} with {count(calibration.num_pictures, 'picture')}"),
        *(("tail", _fit(calibration, name)) for name in (PLAIN, CORRECTED) if name in calibration.curves),
        ("growth", _growth(calibration)),
        ("templates", _exponents(calibration)),
        ("single pairs", _baseline(calibrated)),
    ]
    return [
        *table(("", ""), rows),
        *_left_out(calibrated),
        "",
        *_thresholds(calibration, targets, sizes),
        *_crowding(calibrated),
        *_groups(calibration),
        *(f"note: {note}" for note in calibrated.notes),
        _written(target),
    ]


def calibrated_json(
    calibrated: Calibrated, targets: Sequence[float], sizes: Sequence[int], target: Path | None
) -> Json:
    """Tell the same, but not the tables of the file."""
    import msgspec

    calibration = calibrated.calibration
    told: Json = msgspec.to_builtins(calibration)
    curves = {
        name: {key: value for key, value in curve.items() if key not in {"table", "mated", "mated_at"}}
        for name, curve in told.pop("curves").items()
    }
    return {
        **told,
        "curves": curves,
        "thresholds": [
            _threshold_json(calibration, name, fpir, size)
            for name in calibration.curves
            for fpir in targets
            for size in sizes
        ],
        "without_template": list(calibrated.without_template),
        "kept": msgspec.to_builtins(calibrated.kept),
        "baseline": {f"{fpir:g}": ratio for fpir, ratio in calibrated.baseline.items()},
        "crowding_difference": calibrated.crowding_difference,
        "notes": list(calibrated.notes),
        "file": None if target is None else str(target),
    }


def _threshold_json(calibration: Calibration, name: str, fpir: float, size: int) -> Json:
    curve = calibration.curves[name]
    threshold = curve.table.threshold(fpir, size)
    return {
        "curve": name,
        "target_fpir": fpir,
        "size": size,
        "threshold": threshold.value,
        "low": threshold.low,
        "high": threshold.high,
        "expected_fnir": curve.expected_fnir(threshold.value, size),
        "support": calibration.support(name, threshold.value, size),
        "warnings": list(calibration.warnings(name, fpir, size)),
    }


def _thresholds(calibration: Calibration, targets: Sequence[float], sizes: Sequence[int]) -> list[str]:
    """A table for plain similarities, and one for corrected where these find more people."""
    from engine.decision.calibration import CORRECTED, PLAIN
    from engine.decision.crowding import SIZE_MIN

    lines = []
    for name, title in ((PLAIN, "thresholds"), (CORRECTED, "thresholds of corrected similarities")):
        if name == PLAIN or (name in calibration.curves and calibration.is_crowding_better):
            least = 1 if name == PLAIN else SIZE_MIN
            rows = [
                _row(calibration, name, fpir, size) for fpir in targets for size in sizes if size >= least
            ]
            header = ["FPIR", "identities", "threshold", "95 % interval", "missed", ""]
            lines += [f"{title}:", *table(header, rows, indent="  "), ""]
    lines.append("[* beyond what these people carry: read the interval. Missed: of enrolled people, with one")
    lines.append(" template, below the threshold; those whom another identity beats come on top]")
    return lines


def _row(calibration: Calibration, name: str, fpir: float, size: int) -> list[str]:
    from engine.decision.calibration import FNIR_WARNED, SUPPORT_MIN

    curve = calibration.curves[name]
    threshold = curve.table.threshold(fpir, size)
    missed = curve.expected_fnir(threshold.value, size)
    is_carried = calibration.support(name, threshold.value, size) >= SUPPORT_MIN
    # Known of smaller galleries and not of this one.
    is_known = missed is not None or not curve.mated_at
    marks = "" if is_carried and is_known else "* "
    if missed is not None and missed > FNIR_WARNED:
        marks += "misses many"
    return [
        f"{fpir:g}",
        f"{size:,}",
        f"{threshold.value:.4f}",
        f"{threshold.low:.4f} to {threshold.high:.4f}",
        NONE if missed is None else f"{missed:.1%}",
        marks.strip(),
    ]


def _fit(calibration: Calibration, name: str) -> str:
    tail = calibration.curves[name].tail
    if tail.p_value >= FIT_GOOD:
        words = "fits"
    elif tail.p_value >= FIT_BAD:
        words = "fits poorly: take thresholds beyond the people with care"
    else:
        words = "does not fit: do not trust thresholds beyond the people"
    return (
        f"of {name}: generalised Pareto above {tail.start:.4f}, {tail.num_exceedances} people; {words}"
        f" (KS distance {tail.distance:.3f}, p = {tail.p_value:.2f})"
    )


def _growth(calibration: Calibration) -> str:
    from engine.decision.calibration import PLAIN

    return f"false alarms grow as identities^{_span(calibration.curves[PLAIN].growth)} beyond the people"


def _exponents(calibration: Calibration) -> str:
    from engine.decision.calibration import MEAN, PLAIN

    best, mean = (calibration.curves[name].templates_exponent for name in (PLAIN, MEAN))
    return f"an identity with m of them counts as m^{_span(best)}, by their mean as m^{_span(mean)}"


def _span(span: Span) -> str:
    return f"{span.value:.2f} [{span.low:.2f}, {span.high:.2f}]"


def _baseline(calibrated: Calibrated) -> str:
    if not calibrated.baseline:
        return "too few to hold 1 - (1 - p)^N against it"
    told = ", ".join(f"{ratio:.2f} at {fpir:g}" for fpir, ratio in calibrated.baseline.items())
    return f"1 - (1 - p)^N would give {told} of the wished FPIR among all"


def _left_out(calibrated: Calibrated) -> list[str]:
    told = [
        ("left out, listed or probably one person under two names", calibrated.calibration.left_out),
        ("kept, though probably one person under two names", calibrated.kept),
    ]
    lines = []
    for title, pairs in told:
        if pairs:
            lines += ["", f"{title} ({len(pairs):,}):", *_pairs(pairs)]
    if calibrated.without_template:
        names = calibrated.without_template
        lines += ["", f"left out, without a template ({len(names):,}): {', '.join(names[:NAMES_TOLD])}"]
    return lines


def _pairs(pairs: Sequence[LeftOut]) -> list[str]:
    rows = [(f"{one.similarity:.4f}", one.second, f"as {one.first}") for one in pairs[:NAMES_TOLD]]
    more = len(pairs) - len(rows)
    return [*table(("", "", ""), rows, indent="  "), *([f"  and {more:,} more"] if more else [])]


def _crowding(calibrated: Calibrated) -> list[str]:
    calibration = calibrated.calibration
    if not calibration.crowding:
        return []
    rows = [
        (f"{one.fpir:g}", f"{one.size:,}", f"{one.fnir_plain:.4f}", f"{one.fnir_corrected:.4f}")
        for one in calibration.crowding
    ]
    verdict = (
        "finds more people" if calibration.is_crowding_better else "does not find more people beyond chance"
    )
    if calibrated.crowding_difference is not None:
        value, low, high = calibrated.crowding_difference
        verdict += f": {value:+.4f} [{low:+.4f}, {high:+.4f}] at FPIR 0.01 among all"
    header = ["FPIR", "identities", "FNIR", "FNIR corrected"]
    return ["", "crowding correction:", *table(header, rows, indent="  "), f"  it {verdict}"]


def _groups(calibration: Calibration) -> list[str]:
    if not calibration.groups:
        return []
    rows = [
        (
            one.attribute,
            one.group,
            f"{one.num_people:,}",
            f"{one.target_fpir:g}",
            f"{one.fpir.value:.4f}",
            f"[{one.fpir.low:.4f}, {one.fpir.high:.4f}]",
        )
        for one in calibration.groups
    ]
    header = ["attribute", "group", "people", "for FPIR", "their FPIR", "95 % interval"]
    return ["", "groups as strangers, at the threshold for all:", *table(header, rows, indent="  ")]


def _written(target: Path | None) -> str:
    if target is None:
        return "nothing was saved: give --out FILE.json to keep it"
    return f"wrote {target}"
