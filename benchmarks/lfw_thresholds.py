"""Thresholds from a target rate and a gallery's size, against what people left out do at them, on LFW.

``python -m benchmarks.lfw_thresholds --root lfw --model dlib-resnet``

* held out: calibrated on folds 1 to 4; random galleries of folds 5 to 8; the rest of these and fold 0 come
* extrapolated: fitted on 600 random people for galleries of 2,400, on 300 for 3,000; strangers are the rest
* baseline: the tail of single pairs with 1 - (1 - p)^N
* crowding: FNIR with and without the correction, at the thresholds that the same strangers give

One picture of each person is enrolled, or comes as a stranger; `errata.tsv`: one person under two names
counts once. It says which bars are met. It does not know rates of 0.01 well: a thousand strangers are ten.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cache import FOLDER
from benchmarks.machine import write_report
from benchmarks.markdown import table
from benchmarks.openset.bars import (
    NUM_DRAWS,
    Compared,
    Crowded,
    Extrapolated,
    HeldOut,
    crowded,
    extrapolated,
    held_out,
)
from benchmarks.openset.people import add_options, real_people, told_options
from engine import config
from engine.decision.estimator import EstimatorSettings

FACTORS = {0.1: 1.5, 0.03: 1.5, 0.01: 2.0}
"""Bars of people held out, either way."""
FACTORS_EXTRAPOLATED = {0.1: 1.25, 0.03: 2.0}
"""Bars of medians; of other targets none."""
EXTRAPOLATIONS_JUDGED = (600, 300)
COVERED_MIN = 0.85


@dataclass(frozen=True)
class Thresholds:
    """All that was measured of one network."""

    model: str
    num_people: int
    num_draws: int
    held_out: list[HeldOut]
    extrapolated: list[Extrapolated]
    crowded: list[Crowded]

    @property
    def missed(self) -> list[str]:
        """The bars that are not met, in words."""
        told = [
            f"held out, N = {one.size:,}, FPIR {one.target:g}: {one.ratio:.2f} of the target"
            for one in self.held_out
            if not _is_within(one.ratio, FACTORS[one.target])
        ]
        for one in (one for one in self.extrapolated if is_judged(one)):
            of_one = f"fitted on {one.num_fitted}, N = {one.size:,}, FPIR {one.target:g}"
            if not _is_within(one.median, FACTORS_EXTRAPOLATED[one.target]):
                told.append(f"{of_one}: median {one.median:.2f} of the target")
            if one.covered < COVERED_MIN:
                told.append(f"{of_one}: the interval held {one.covered:.0%}")
        return told

    def as_json(self) -> dict[str, Any]:
        """Give all as plain values."""
        return {**dataclasses.asdict(self), "missed": self.missed}


def measure(model: str, compared: Compared, settings: EstimatorSettings, num_draws: int) -> Thresholds:
    """Measure all parts. Raises InvalidInputError where there are too few people."""
    return Thresholds(
        model,
        len(compared.people),
        num_draws,
        held_out(compared, settings, num_draws),
        extrapolated(compared, settings, num_draws),
        crowded(compared, num_draws),
    )


def is_judged(one: Extrapolated) -> bool:
    """Whether there is a bar for it."""
    return one.num_fitted in EXTRAPOLATIONS_JUDGED and one.target in FACTORS_EXTRAPOLATED


def told(found: Thresholds) -> str:
    """All tables in Markdown, the verdict first."""
    verdict = (
        "Bars not met: " + "; ".join(found.missed) + "."
        if found.missed
        else "All bars that are judged are met."
    )
    return "\n\n".join(
        [
            f"{found.num_people:,} people, {found.num_draws} random galleries or divisions each. {verdict}",
            "## Held out: calibrated on folds 1 to 4",
            table(_HELD_OUT, [_held_out_row(one) for one in found.held_out]),
            "## Extrapolated",
            table(_EXTRAPOLATED, [_extrapolated_row(one) for one in found.extrapolated]),
            "Judged: FPIR 0.1 and 0.03 of the first two. The interval is that of the calibration, widened by"
            " that of the test's own people, both by bootstrap over people. The rest is reported only: at"
            " FPIR 0.01 a test has 3 to 14 strangers at the threshold, and far beyond the people fitted on"
            " the numbers show how wrong one can be. **LFW has too few people to say more**; nothing here"
            " speaks for a gallery 100 times as large as the calibration. A network that was trained on some"
            " of these people (`dlib-resnet-ft1`: folds 1 to 6) keeps them apart better than strangers, so"
            " that thresholds calibrated on them are too low.",
            "## Crowding correction: FNIR at the threshold that the same strangers give",
            table(_CROWDED, [_crowded_row(one) for one in found.crowded]),
        ]
    )


_HELD_OUT = (
    "N",
    "target FPIR",
    "threshold [95 %]",
    "observed / target",
    "FNIR",
    "tail of pairs: observed / target",
    "corrected: observed / target",
)
_EXTRAPOLATED = (
    "fitted on",
    "N",
    "target FPIR",
    "median observed / target",
    "least to largest",
    "interval held",
    "tail of pairs: median",
    "",
)
_CROWDED = ("N", "FPIR", "FNIR plain", "FNIR corrected", "difference")


def _held_out_row(one: HeldOut) -> list[str]:
    return [
        f"{one.size:,}",
        f"{one.target:g}",
        f"{one.threshold:.4f} [{one.low:.4f}, {one.high:.4f}]",
        f"{one.ratio:.2f}",
        f"{one.fnir:.3f}",
        f"{one.ratio_pairs:.2f}",
        "" if one.ratio_corrected is None else f"{one.ratio_corrected:.2f}",
    ]


def _extrapolated_row(one: Extrapolated) -> list[str]:
    return [
        f"{one.num_fitted:,}",
        f"{one.size:,}",
        f"{one.target:g}",
        f"{one.median:.2f}",
        f"{one.least:.2f} to {one.largest:.2f}",
        f"{one.covered:.0%}",
        f"{one.median_pairs:.2f}",
        "" if is_judged(one) else "not judged",
    ]


def _crowded_row(one: Crowded) -> list[str]:
    difference = one.fnir_corrected - one.fnir_plain
    rates = (f"{one.fnir_plain:.3f}", f"{one.fnir_corrected:.3f}", f"{difference:+.3f}")
    return [f"{one.size:,}", f"{one.target:g}", *rates]


def _is_within(ratio: float, factor: float) -> bool:
    return 1.0 / factor <= ratio <= factor


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument(
        "--cache", type=Path, default=FOLDER / "openset", help="folder that keeps templates for the next run"
    )
    parser.add_argument("--draws", type=int, default=NUM_DRAWS, help=f"galleries (default: {NUM_DRAWS})")
    parser.add_argument("--resamples", type=int, default=200, help="of people, for intervals (default: 200)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--report", metavar="NAME", help="write to benchmarks/reports under this name")
    arguments = parser.parse_args(given)
    settings = config.build(EstimatorSettings, {"num_resamples": arguments.resamples})
    compared = Compared.of(real_people(arguments, arguments.cache.expanduser()))
    found = measure(arguments.model, compared, settings, arguments.draws)
    print(json.dumps(found.as_json()) if arguments.json else told(found))
    if arguments.report:
        title = f"Thresholds from a target rate: LFW, {arguments.model}"
        command = (
            f"python -m benchmarks.lfw_thresholds {told_options(arguments)} --draws {arguments.draws}"
            f" --resamples {arguments.resamples}"
        )
        print(write_report(arguments.report, title, told(found), command))


if __name__ == "__main__":
    main()
