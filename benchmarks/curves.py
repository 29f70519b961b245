"""Curves and table of training runs, one after the other: ``python -m benchmarks.curves RUN... --name NAME``.

Reads what `identiface train run` noted, and writes a plot and a dated report to ``benchmarks/reports``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.machine import report_path, write_report
from benchmarks.plots import pyplot
from engine.trainer.run_folder import RunFolder

JUDGED = ("rank1", "pair_accuracy", "auc")
"""Validation figures that are drawn; the table has all."""


def joined(runs: list[RunFolder], kind: str) -> list[dict[str, Any]]:
    """Notes of runs as if they were one, with the name of the run in each."""
    notes: list[dict[str, Any]] = []
    before = 0
    for run in runs:
        settings, _ = run.settings()
        notes += [{**note, "run": run.path.name, "at": before + note["step"]} for note in run.notes(kind)]
        before += settings.num_steps
    return notes


def plot(runs: list[RunFolder], target: Path) -> None:
    """Loss above, figures of the people held out below, by step."""
    plt = pyplot()
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    for run in runs:
        notes = [note for note in joined(runs, "train") if note["run"] == run.path.name]
        name: str = run.settings()[0].objective.loss
        losses = [note["loss"] / notes[0]["loss"] for note in notes]
        above.plot([note["at"] for note in notes], losses, label=name)
    # Losses of two kinds have nothing in common but their course.
    above.set_ylabel("loss, of its first")
    above.legend()
    judged = joined(runs, "validation")
    for name in JUDGED:
        below.plot([note["at"] for note in judged], [note[name] for note in judged], marker="o", label=name)
    below.set_ylabel("people held out")
    below.set_ylim(0, 1)
    below.set_xlabel("step")
    below.legend()
    for axes in (above, below):
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(target, dpi=110)
    plt.close(figure)


def table(runs: list[RunFolder]) -> str:
    """Validations in Markdown."""
    notes = joined(runs, "validation")
    if not notes:
        return "Nobody was held out."
    names = [name for name in notes[0] if name not in {"run", "at", "kind", "step"}]
    rows = [[note["run"], str(note["step"]), *(f"{note[name]:.4g}" for name in names)] for note in notes]
    return markdown.table(["run", "step", *names], rows)


def main(given: Sequence[str] | None = None) -> None:
    """Plot, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of runs, in their order")
    parser.add_argument("--name", required=True, help="of the report")
    arguments = parser.parse_args(given)
    runs = [RunFolder(path) for path in arguments.runs]
    picture = report_path(arguments.name, "png")
    picture.parent.mkdir(exist_ok=True)
    plot(runs, picture)
    told = [f"- {run.path.name}: {describe(run)}" for run in runs]
    body = "\n".join([*told, "", table(runs), "", f"![curves]({picture.name})"])
    command = f"python -m benchmarks.curves {' '.join(run.path.name for run in runs)} --name {arguments.name}"
    print(body)
    print(write_report(arguments.name, "Training, step by step", body, command))


def describe(run: RunFolder) -> str:
    """Say in a line what a run learnt, and from what."""
    settings, data = run.settings()
    batch, speeds = settings.batch, sorted(note["pictures_per_s"] for note in run.notes("train"))
    # A run that was ended early may have noted nothing.
    speed = f"{speeds[len(speeds) // 2]:.0f} pictures a second (median)" if speeds else "no step noted"
    return (
        f"{settings.network.name}, {settings.objective.loss}, {settings.num_steps:,} steps of"
        f" {batch.num_identities} people with {batch.num_pictures} pictures, {settings.precision}, from"
        f" {data['num_pictures']:,} pictures of {data['num_identities']:,} people; {speed}"
    )


if __name__ == "__main__":
    main()
