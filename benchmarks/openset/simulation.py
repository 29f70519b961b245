"""Galleries of drawn people: predicted against observed error rates, exact against approximate search.

``python -m benchmarks.openset --root lfw --sizes 1000 10000 100000 1000000 [10000000]``

* a mixture is fitted to real people (`benchmarks.openset.generator`); first it is checked whether strangers
  meet as many look-alikes in it as in reality (`benchmarks.openset.check`): where not, the report says that
  what follows tests indexes, not accuracy
* a calibration on drawn people predicts thresholds for each size; strangers and mated probes are searched for
* the loss in FNIR due to the index is approximate less exact, at the same threshold

Prints tables, writes a report and a plot to ``benchmarks/reports`` (``--report NAME``). Each size is kept as
JSON when it is done (``--cache``), so that a run that was ended goes on. A million takes minutes and 3 GB,
ten million with ``--probes 2000`` ten minutes. It does not know how alike real people are beyond a few
thousand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.cache import FOLDER
from benchmarks.machine import report_path, write_report
from benchmarks.openset.check import NUM_SPLITS, Check, checked
from benchmarks.openset.check import told as check_told
from benchmarks.openset.generator import Generator, chosen, fitted
from benchmarks.openset.measure import (
    LOSS_MAX,
    Asked,
    Calibrated,
    Measured,
    as_json,
    calibrated,
    fingerprint_of,
    measured,
    worst_loss,
)
from benchmarks.openset.people import add_options, real_people, told_options
from benchmarks.openset.plots import plot_rates

SIZES = (1000, 10_000, 100_000, 1_000_000)


def run(
    generator: Generator, sizes: Sequence[int], asked: Asked, cache: Path, *, is_forgotten: bool = False
) -> tuple[Calibrated, list[Measured]]:
    """Measure each size, or read it where an earlier run kept it; `is_forgotten`: measure anew."""
    of = calibrated(generator, asked)
    found = []
    for size in sorted(set(sizes)):
        path = cache / "sizes" / f"{_fingerprint(generator, of, asked)}-{size}.json"
        if path.is_file() and not is_forgotten:
            found.append(msgspec.json.decode(path.read_bytes(), type=Measured))
            continue
        found.append(measured(generator, of, size, asked, cache / "scratch"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(found[-1]))
        print(tables(found[-1:]), flush=True)
    return of, found


def _fingerprint(generator: Generator, of: Calibrated, asked: Asked) -> str:
    """What a kept result depends on but the index's code: the mixture, the calibration, how much is drawn."""
    digest = hashlib.sha256(fingerprint_of(asked).encode())
    for values in (generator.centres, generator.factors, generator.shares, generator.pair_moves, of.own):
        digest.update(values.tobytes())
    digest.update(msgspec.json.encode(of.estimated.table))
    return digest.hexdigest()[:16]


def tables(found: Sequence[Measured]) -> str:
    """One row for each size and target, in Markdown, then one for each size."""
    lines = [
        "| N | target FPIR | threshold | 95 % of FPIR | FPIR exact | FPIR | FNIR predicted | FNIR exact"
        " | FNIR | loss by the index |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.size:,} | {point.target:g} | {point.threshold:.4f} | {point.low:.2g} to {point.high:.2g}"
        f" | {point.fpir_exact:.4f} | {point.fpir:.4f} | {point.fnir_expected:.4f} | {point.fnir_exact:.4f}"
        f" | {point.fnir:.4f} | {point.loss:+.4f} |"
        for one in found
        for point in one.points
    ]
    lines += [
        "",
        "| N | search | same first row as exact | rank-1 exact | build s | exact s | default search s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.size:,} | {'exact scan' if one.is_exact else 'codes'} | {one.top1_agreement:.5f}"
        f" | {one.rank1_exact:.4f} | {one.build_s:.1f} | {one.exact_s:.1f} | {one.approximate_s:.1f} |"
        for one in found
    ]
    return "\n".join(lines)


def body(check: Check, of: Calibrated, found: Sequence[Measured], asked: Asked, picture: str | None) -> str:
    """The report: the check of the mixture, the tables, the verdict on the index."""
    loss = worst_loss(found)
    verdict = "within" if loss <= LOSS_MAX else "**not within**"
    growth = of.estimated.growth
    parts = [
        f"## The drawn people\n\n{check_told(check)}",
        f"## Predicted and observed\n\nCalibrated on {asked.num_calibrated:,} drawn people, seed"
        f" {asked.seed}; beyond them rates grow as N^{growth.value:.2f}, from {growth.low:.2f} to"
        f" {growth.high:.2f}. {asked.num_probes:,} strangers and as many mated probes at each size: a rate of"
        f" 0.001 is {asked.num_probes // 1000} strangers. Predicted FNIR leaves out those whom another"
        " identity beats."
        f"\n\n{tables(found)}",
        "Galleries beyond some thousands are as the mixture has them, whatever the check says: no real people"
        " tell how alike the nearest of a million are. Its clusters are normal distributions, whose tails end"
        " sooner than N^b says, so predictions there err on the side of caution; with real people they need"
        " not.",
        f"The index costs at most {loss:.4f} of FNIR, {verdict} {LOSS_MAX}.",
    ]
    if picture is not None:
        parts.append(f"![error rates against the gallery's size]({picture})")
    return "\n\n".join(parts)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.openset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    asked = Asked()
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=list(SIZES), help="identities, one template each"
    )
    parser.add_argument("--probes", type=int, default=asked.num_probes, help="strangers, and mated probes")
    parser.add_argument("--calibrated", type=int, default=asked.num_calibrated, help="people to calibrate on")
    parser.add_argument(
        "--splits", type=int, default=NUM_SPLITS, help=f"of the people, for the check (default: {NUM_SPLITS})"
    )
    parser.add_argument("--seed", type=int, default=asked.seed)
    parser.add_argument("--anew", action="store_true", help="measure what earlier runs kept, too")
    parser.add_argument(
        "--cache",
        type=Path,
        default=FOLDER / "openset",
        help="keeps templates, finished sizes and scratch files",
    )
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--report", metavar="NAME", help="write to benchmarks/reports under this name")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Check, measure, print, plot, report."""
    arguments = _arguments(given)
    asked = Asked(arguments.calibrated, arguments.probes, arguments.seed, arguments.threads)
    cache = arguments.cache.expanduser()
    people = real_people(arguments, cache)
    check = checked(people, asked.seed, arguments.splits)
    print(check_told(check), flush=True)
    generator = fitted(people, chosen(people, asked.seed), asked.seed)
    of, found = run(generator, arguments.sizes, asked, cache, is_forgotten=arguments.anew)
    picture = report_path(arguments.report, "png") if arguments.report else None
    if picture is not None:
        picture.parent.mkdir(exist_ok=True)
        plot_rates(found, picture, is_reproduced=check.is_reproduced)
    text = body(check, of, found, asked, picture.name if picture else None)
    print(text)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"check": check.as_json(), "sizes": [as_json(one) for one in found]}, indent=1)
        )
    if arguments.report:
        sizes = " ".join(str(one.size) for one in found)
        command = (
            f"python -m benchmarks.openset {told_options(arguments)} --sizes {sizes}"
            f" --probes {arguments.probes} --calibrated {arguments.calibrated}"
            f" --splits {arguments.splits} --seed {arguments.seed}"
        )
        print(write_report(arguments.report, "Open-set error rates of large galleries", text, command))
