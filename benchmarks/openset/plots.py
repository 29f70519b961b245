"""Plots of error rates against the gallery's size, as PNG beside the reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.openset.measure import Measured, Point
from benchmarks.plots import pyplot


def plot_rates(found: Sequence[Measured], path: Path, *, is_reproduced: bool) -> None:
    """Left: predicted and observed FPIR; right: FNIR by exact and by approximate search. A line a target.

    Raises SettingsError where matplotlib is not installed.
    """
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.4, 4.8))
    sizes = [one.size for one in found]
    targets = [point.target for point in found[0].points]
    for place, target in enumerate(targets):
        points = [one.points[place] for one in found]
        _fpir(left, sizes, points, f"C{place}")
        _fnir(right, sizes, points, f"C{place}", f"FPIR {target:g}")
    kind = (
        "drawn people, as alike as real ones as far as could be checked (N = 300 and 1,700)"
        if is_reproduced
        else "drawn people, NOT as alike as real ones: a test of indexes only"
    )
    left.set_title(f"FPIR: predicted (dashes, band 95 %), observed (dots)\n{kind}", fontsize=10)
    right.set_title("FNIR: exact (line), default search (circles), predicted (dotted)", fontsize=10)
    left.set_yscale("log")
    right.set_ylim(bottom=0.0)
    for axes, name in ((left, "FPIR"), (right, "FNIR")):
        axes.set_xscale("log")
        axes.set_xlabel("identities enrolled, N")
        axes.set_ylabel(name)
        axes.grid(visible=True, which="major", alpha=0.3)
    right.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _fpir(axes: Any, sizes: list[int], points: list[Point], colour: str) -> None:
    axes.axhline(points[0].target, color=colour, linestyle="--", linewidth=1.0)
    low = [point.low for point in points]
    axes.fill_between(sizes, low, [point.high for point in points], color=colour, alpha=0.12, linewidth=0.0)
    # A rate of 0 has no place on this axis.
    seen = [
        (size, point.fpir_exact) for size, point in zip(sizes, points, strict=True) if point.fpir_exact > 0
    ]
    axes.plot([size for size, _ in seen], [rate for _, rate in seen], marker="o", color=colour, linewidth=1.2)


def _fnir(axes: Any, sizes: list[int], points: list[Point], colour: str, label: str) -> None:
    axes.plot(sizes, [point.fnir_exact for point in points], color=colour, linewidth=1.4, label=label)
    axes.plot(
        sizes,
        [point.fnir for point in points],
        color=colour,
        marker="o",
        markersize=8,
        markerfacecolor="none",
        linestyle="",
    )
    axes.plot(sizes, [point.fnir_expected for point in points], color=colour, linestyle=":", linewidth=1.2)
