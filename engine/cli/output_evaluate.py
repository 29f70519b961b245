"""What evaluations look like as lines of text. Knows no network and counts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.layout import NONE, count, table

if TYPE_CHECKING:
    from engine.trainer.bootstrap import BootstrapSettings, Interval
    from engine.trainer.evaluate import PairsReport
    from engine.trainer.evaluation import IdentificationEvaluation, PairsEvaluation
    from engine.trainer.groups import OpenSetGroup, VerificationGroup

Row = tuple[str, str]


def report_lines(report: PairsReport, intervals: Mapping[str, Interval] | None = None) -> list[str]:
    """Say how well pairs in folds were told apart."""
    told = report.as_json()
    between = intervals or {}
    rates = [
        (f"TAR at FAR {far}", f"{tar:.2%}{_range(between.get(far))}")
        for far, tar in report.tar_at_far.items()
    ]
    rows = [
        ("pairs", f"{report.pairs:,} in {report.folds} folds"),
        ("accuracy", f"{report.accuracy_mean:.2%} +- {report.accuracy_std:.2%} over folds"),
        ("mean of people", f"{report.per_person_accuracy:.2%} accuracy"),
        ("AUC", f"{report.auc:.5f}"),
        ("EER", f"{report.eer:.2%}{_range(between.get('eer'))}"),
        *rates,
        ("threshold", f"{report.threshold:.4f}, mean of the folds'"),
        *_conditions(told, report.not_detected),
    ]
    return table(("", ""), rows)


def pairs_lines(evaluation: PairsEvaluation, conditions: Mapping[str, Any], not_detected: int) -> list[str]:
    """Say how well pairs were told apart, with intervals, groups and plots."""
    between = {"eer": evaluation.intervals.eer, **evaluation.intervals.tar_at_far}
    if evaluation.folds is not None:
        lines = report_lines(evaluation.folds, between)
    else:
        rates = evaluation.rates
        rows = [
            ("pairs", f"{rates.num_mated_pairs:,} mated, {rates.num_non_mated_pairs:,} non-mated"),
            ("people", f"{rates.num_people:,}"),
            ("AUC", f"{rates.auc:.5f}{_range(evaluation.intervals.auc, '.5f')}"),
            ("EER", f"{rates.eer:.2%}{_range(between['eer'])}"),
        ]
        for name, tar in rates.tar_at_far.items():
            mean = rates.tar_at_far_per_person[name]
            told = f"{tar:.2%}{_range(between[name])}, mean of people {mean:.2%}"
            rows.append((f"TAR at FAR {name}", f"{told}, {_threshold(rates.thresholds[name], '.4f')}"))
        rows.append(("balanced accuracy", f"{rates.best_balanced_accuracy:.2%} at its own best threshold"))
        lines = table(("", ""), [*rows, *_conditions(conditions, not_detected)])
    return [
        *lines,
        *_resampled(evaluation.intervals.settings),
        *_pair_groups(evaluation.groups),
        *_drawn(evaluation.plots),
    ]


def identification_lines(evaluation: IdentificationEvaluation) -> list[str]:
    """Say who was found, with intervals, groups and plots."""
    report, intervals = evaluation.report, evaluation.intervals
    rows = [
        ("gallery", f"N = {report.num_enrolled:,} identities"),
        ("mated probes", f"{report.num_mated:,} of {count(report.num_mated_people, 'identity')}"),
        (
            "rank 1",
            f"{report.rank1:.2%}{_range(intervals.rank1)}, mean of people {report.rank1_per_person:.2%}",
        ),
    ]
    rows += [
        (f"rank {rank}", f"{report.cmc[rank - 1]:.2%}") for rank in (5, 10, 20) if rank <= len(report.cmc)
    ]
    if report.points:
        strangers = f"{report.num_strangers:,} of {count(report.num_stranger_people, 'identity')}"
        rows.append(("strangers", strangers))
    for point in report.points:
        told = f"{point.fnir:.2%}{_range(intervals.fnir_at_fpir[point.fpir_target])}"
        told += f", mean of people {point.fnir_per_person:.2%}, {_threshold(point.threshold, '.6f')}"
        if point.fpir_target * report.num_strangers < 1.0:
            told += "; too few strangers: as of FPIR 0"
        rows.append((f"FNIR at FPIR {point.fpir_target:g}", told))
    rows += _conditions(evaluation.conditions, evaluation.not_detected)
    return [
        *table(("", ""), rows),
        *_resampled(intervals.settings),
        *_open_set_groups(evaluation.groups),
        *_drawn(evaluation.plots),
    ]


def _conditions(told: Mapping[str, Any], not_detected: int) -> list[Row]:
    if "contract" not in told:
        return [("vectors", f"{told.get('vectors', '')}, {not_detected} without a template")]
    return [
        ("pictures", f"{told['pictures']:,}, {not_detected} without a face"),
        ("contract", f"{told['contract']} on {told['device']}"),
        ("faces", f"{told['face_choice']}, at least {told['min_face_px']} pixels"),
        ("time", f"{told['seconds']:.0f} s"),
    ]


def _range(interval: Interval | None, form: str = ".2%") -> str:
    return "" if interval is None else f" [{interval.low:{form}}, {interval.high:{form}}]"


def _threshold(value: float, form: str) -> str:
    """Say where answers are divided: no similarity is below -1, and such a threshold keeps out nobody."""
    return f"threshold {value:{form}}" if value >= -1.0 else "at any threshold"


def _resampled(settings: BootstrapSettings) -> list[str]:
    return [f"[{settings.level:.0%} intervals over people, {settings.num_resamples:,} resamples]"]


def _pair_groups(groups: Sequence[VerificationGroup]) -> list[str]:
    if not groups:
        return []
    names = list(groups[0].tar)
    header = ["attribute", "value", "people", "mated", "non-mated"]
    header += [f"{rate}@{name}" for name in names for rate in ("TAR", "FAR")]
    rows = [
        [
            group.attribute,
            group.value,
            f"{group.num_people:,}",
            f"{group.num_mated_pairs:,}",
            f"{group.num_non_mated_pairs:,}",
            *(_rate(rates[name]) for name in names for rates in (group.tar, group.far)),
        ]
        for group in groups
    ]
    return ["", "by group, at the thresholds of all:", *table(header, rows, indent="  ")]


def _open_set_groups(groups: Sequence[OpenSetGroup]) -> list[str]:
    if not groups:
        return []
    names = list(groups[0].fnir)
    header = ["attribute", "value", "people", "mated", "strangers", "rank 1"]
    header += [f"{rate}@{name}" for name in names for rate in ("FNIR", "FPIR")]
    rows = [
        [
            group.attribute,
            group.value,
            f"{group.num_enrolled_people:,}",
            f"{group.num_mated:,}",
            f"{group.num_strangers:,}",
            _rate(group.rank1),
            *(_rate(rates[name]) for name in names for rates in (group.fnir, group.fpir)),
        ]
        for group in groups
    ]
    return ["", "by group, at the thresholds of all:", *table(header, rows, indent="  ")]


def _rate(rate: float | None) -> str:
    return NONE if rate is None else f"{rate:.4f}"


def _drawn(plots: Sequence[Path]) -> list[str]:
    return [f"drawn: {', '.join(str(path) for path in plots)}"] if plots else []
