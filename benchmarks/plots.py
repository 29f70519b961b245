"""Plots of measurements, as PNG beside the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import SettingsError

_MARKERS = "o*sD^vP<>hX"


@dataclass(frozen=True)
class Curve:
    """One searcher: points (recall@10, single probes a second), by recall."""

    name: str
    points: Sequence[tuple[float, float]]


def pyplot() -> Any:
    """matplotlib.pyplot without a window. Raises SettingsError where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise SettingsError(
            "plots need matplotlib, which is not installed", hint="pip install 'identiface[train]'"
        ) from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def plot_recall_against_throughput(curves: Mapping[str, Sequence[Curve]], path: Path, size: int) -> None:
    """One panel for each kind of gallery: up and to the right is better."""
    plt = pyplot()
    figure, panels = plt.subplots(1, len(curves), figsize=(4.6 * len(curves) + 1.8, 4.6), squeeze=False)
    names = list(dict.fromkeys(one.name for panel in curves.values() for one in panel))
    for axes, (kind, of_kind) in zip(panels[0], curves.items(), strict=True):
        for one in of_kind:
            place = names.index(one.name)
            missed = [max(1.0 - recall, 1e-5) for recall, _ in one.points]
            axes.plot(
                missed,
                [per_s for _, per_s in one.points],
                marker=_MARKERS[place % len(_MARKERS)],
                markersize=10 if one.name.startswith("identiface") else 5,
                color=f"C{place}",
                label=one.name,
                linewidth=1.2,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("1 - recall@10 (right is better; exact: 1e-5)")
        axes.set_title(f"{kind}, {size:,} templates")
        axes.grid(visible=True, which="major", alpha=0.3)
    panels[0][0].set_ylabel("single probes per second, one thread")
    handles = {
        label: handle
        for axes in panels[0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.tight_layout(rect=(0, 0, 1 - 1.7 / figure.get_size_inches()[0], 1))
    figure.legend(handles.values(), handles.keys(), loc="center right", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
