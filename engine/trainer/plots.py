"""Draws error rates as PNG: ROC, DET and CMC, of one or several networks.

Knows nothing of how rates are counted. Needs matplotlib, of the extras `train` and `demo`.

Source of the form: Martin et al., "The DET Curve in Assessment of Detection Task Performance", 1997: both
errors on axes that spread small values; here logarithmic, as NIST's reports of identification have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import metrics
from engine.errors import SettingsError
from engine.metrics import Similarities
from engine.trainer.open_set import OpenSetSimilarities
from engine.trainer.verification import ComparedPairs

RATE_MIN = 1e-4
"""Smaller rates are drawn at the edge: no evaluation here has pairs or strangers to show them."""
POINTS_MAX = 2000
"""Of a curve: more than a plot has pixels only make the file large."""
DPI = 110


def plot_verification(networks: Mapping[str, ComparedPairs], folder: Path) -> tuple[Path, ...]:
    """Write ``roc.png`` and ``det.png`` of pairs, a curve for each network.

    Raises SettingsError where matplotlib is missing or the folder cannot be written.
    """
    curves = {name: _roc(pairs) for name, pairs in networks.items()}
    counts = sorted({(pairs.mated.size, pairs.non_mated.size) for pairs in networks.values()})
    counted = "; ".join(f"{mated:,} mated and {non_mated:,} non-mated pairs" for mated, non_mated in counts)
    title = f"Verification: {{}}\n{counted}"

    def roc(axes: Any) -> None:
        left = _edge(far for far, _ in curves.values())
        for name, (far, tar) in curves.items():
            _step(axes, np.maximum(far, left), tar, _label(name, has_errors=_has_errors(far, 1.0 - tar)))
        axes.set(xscale="log", xlim=(_below(left), 1.0), ylim=(0.0, 1.0))
        axes.set(xlabel="false accept rate", ylabel="true accept rate", title=title.format("ROC"))

    def det(axes: Any) -> None:
        low = _edge(1.0 - tar for _, tar in curves.values())
        left = _edge(far for far, _ in curves.values())
        for name, (far, tar) in curves.items():
            label = _label(name, has_errors=_has_errors(far, 1.0 - tar))
            _step(axes, np.maximum(far, left), np.maximum(1.0 - tar, low), label)
        axes.set(xscale="log", yscale="log", xlim=(_below(left), 1.0), ylim=(_below(low), 1.0))
        axes.set(xlabel="false accept rate", ylabel="false reject rate", title=title.format("DET"))

    return _draw(folder, {"roc.png": roc, "det.png": det})


def plot_identification(networks: Mapping[str, OpenSetSimilarities], folder: Path) -> tuple[Path, ...]:
    """Write ``cmc.png``, and ``det.png`` of FNIR against FPIR where there are strangers.

    Raises as `plot_verification`.
    """
    num_ranks = min(20, *(measured.num_enrolled for measured in networks.values()))
    sizes = ", ".join(sorted({f"{measured.num_enrolled:,}" for measured in networks.values()}))

    def cmc(axes: Any) -> None:
        for name, measured in networks.items():
            shares = metrics.cmc(measured.ranks, num_ranks)
            label = _label(name, has_errors=shares[0] < 1.0)
            axes.plot(np.arange(1, num_ranks + 1), shares, marker=".", label=label, clip_on=False, zorder=3)
        axes.set(ylim=(min(axes.get_ylim()[0], 0.99), 1.0), xlim=(0.5, num_ranks + 0.5))
        axes.set(xlabel="rank", ylabel="share of mated probes", title=f"Identification: CMC, N = {sizes}")
        axes.xaxis.get_major_locator().set_params(integer=True)

    drawings: dict[str, Callable[[Any], None]] = {"cmc.png": cmc}
    curves = {name: open_set_curve(measured) for name, measured in networks.items() if measured.tops.size}

    def det(axes: Any) -> None:
        low = _edge(fnir for _, fnir in curves.values())
        left = _edge(fpir for fpir, _ in curves.values())
        for name, (fpir, fnir) in curves.items():
            label = _label(name, has_errors=_has_errors(fpir, fnir))
            _step(axes, np.maximum(fpir, left), np.maximum(fnir, low), label)
        axes.set(xscale="log", yscale="log", xlim=(_below(left), 1.0), ylim=(_below(low), 1.0))
        axes.set(xlabel="FPIR", ylabel="FNIR, rank 1", title=f"Open set: DET, N = {sizes}")

    if curves:
        drawings["det.png"] = det
    return _draw(folder, drawings)


def open_set_curve(measured: OpenSetSimilarities) -> tuple[Similarities, Similarities]:
    """Give all operating points of an open set as FPIR and FNIR, float64[p] each, FPIR rising from 0."""
    tops = np.sort(measured.tops)
    edges = np.unique(tops[np.isfinite(tops)])[::-1]
    # As low as a rate of strangers allows, like those of engine.metrics.fnir_at_fpir: the first point is just
    # above all strangers, each further one just above those of the next similarity.
    thresholds = np.append(np.nextafter(edges, np.inf), np.finfo(np.float64).min)
    fpir = (tops.size - np.searchsorted(tops, thresholds, side="left")) / tops.size
    own = np.sort(measured.mated[measured.ranks == 1])
    num_hits = own.size - np.searchsorted(own, thresholds, side="left")
    return fpir, 1.0 - num_hits / measured.ranks.size


def _roc(pairs: ComparedPairs) -> tuple[Similarities, Similarities]:
    curve = metrics.roc(pairs.mated, pairs.non_mated)
    return _thinned(curve.far, curve.tar)


def _thinned(x: Similarities, y: Similarities) -> tuple[Similarities, Similarities]:
    """Keep the points that a logarithmic axis can show apart."""
    if x.size <= POINTS_MAX:
        return x, y
    wanted = np.concatenate([[0.0], np.geomspace(RATE_MIN / 10, 1.0, POINTS_MAX)])
    rows: NDArray[np.intp] = np.unique(np.searchsorted(x, wanted, side="right") - 1)
    return x[rows], y[rows]


def _edge(curves: Iterable[Similarities]) -> float:
    """Smallest rate above zero of any curve, for the end of an axis."""
    smallest = [values[values > 0.0].min(initial=1.0) for values in curves]
    return float(min(max(min(smallest) / 1.5, RATE_MIN), 0.1))


def _below(edge: float) -> float:
    """End of a logarithmic axis that reaches to 1: rates of 0, drawn at the edge, stay off the frame."""
    return float(edge**1.04)


def _has_errors(accepted: Similarities, rejected: Similarities) -> bool:
    """Whether no threshold keeps all strangers out and lets everybody else in."""
    return not ((accepted == 0.0) & (rejected == 0.0)).any()


def _label(name: str, *, has_errors: bool) -> str:
    """A network's name as a legend takes it: a file may be called anything."""
    shown = name.encode(errors="replace").decode().replace("$", r"\$")
    if shown.startswith("_"):
        # matplotlib leaves such labels out.
        shown = f" {shown}"
    return shown if has_errors else f"{shown}: no errors"


def _step(axes: Any, x: Similarities, y: Similarities, label: str) -> None:
    axes.step(x, y, where="post", label=label, clip_on=False, zorder=3)


def _draw(folder: Path, drawings: Mapping[str, Callable[[Any], None]]) -> tuple[Path, ...]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingsError(
            "plots need matplotlib", hint="Run: pip install 'identiface[train]', or leave --plots out."
        ) from error
    paths = []
    for name, draw in drawings.items():
        # Figures of our own, not pyplot's: nothing global is touched.
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(frameon=False)
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=DPI)
        except OSError as error:
            raise SettingsError(f"cannot write plot {path}: {error.strerror}") from error
        paths.append(path)
    return tuple(paths)


def check_plots(folder: Path) -> None:
    """Refuse what would fail only after the work: no matplotlib, or a folder that cannot be made."""
    _draw(folder, {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot make the folder of plots {folder}: {error.strerror}") from error
