"""Plots are PNG files of the curves, and the open set's curve meets its points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from engine.errors import SettingsError
from engine.trainer import plots
from engine.trainer.open_set import OpenSetSimilarities, judge_measured
from engine.trainer.plots import check_plots, open_set_curve, plot_identification, plot_verification
from engine.trainer.verification import compare_all

FIRST, SECOND = "#1f77b4", "#ff7f0e"
"""Colours of the first two curves."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Every figure that is written, by the name of its file."""
    figures: dict[str, Figure] = {}
    write = Figure.savefig

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        figures[path.name] = figure
        write(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def num_pixels(path: Path, colour: str) -> int:
    """How many pixels of a picture are of a colour."""
    picture = imread(path)
    assert picture.shape == (528, 704, 4)
    return int((np.abs(picture[..., :3] - to_rgb(colour)) < 0.01).all(axis=2).sum())


def told(figure: Figure) -> tuple[str, str, str]:
    """Title and names of the axes."""
    (axes,) = figure.axes
    return axes.get_title(), axes.get_xlabel(), axes.get_ylabel()


def is_on(figure: Figure, row: int, x: float, y: float) -> bool:
    """Whether a point is one of those that a curve is drawn through."""
    line = figure.axes[0].get_lines()[row]
    return bool(np.isclose(np.asarray(line.get_xydata()), (x, y)).all(axis=1).any())


def legend(figure: Figure) -> list[str] | None:
    found = figure.axes[0].get_legend()
    return None if found is None else [text.get_text() for text in found.get_texts()]


@pytest.fixture
def measured(rng: np.random.Generator) -> OpenSetSimilarities:
    return OpenSetSimilarities(
        num_enrolled=9,
        mated=np.append(np.round(rng.normal(0.5, 0.2, 79), 2), -np.inf),
        ranks=np.append(rng.integers(1, 4, 79), 0),
        mated_labels=rng.integers(0, 9, 80),
        tops=np.append(np.round(rng.normal(0.2, 0.2, 49), 2), -np.inf),
        top_labels=rng.integers(10, 13, 50),
    )


def test_the_curve_of_an_open_set_meets_every_point(measured: OpenSetSimilarities) -> None:
    fpir, fnir = open_set_curve(measured)
    assert fpir[0] == 0.0
    assert (np.diff(fpir) > 0).all()
    assert (np.diff(fnir) <= 0).all()
    for point in judge_measured(measured, [0.02, 0.1, 0.3, 0.8]).points:
        place = int(np.flatnonzero(fpir == point.fpir)[0])
        assert fnir[place] == point.fnir
    # All who have a template are let in at the end, and all that come first are found.
    assert (fpir[-1], fnir[-1]) == (49 / 50, (measured.ranks != 1).mean())


def test_pairs_give_roc_and_det(tmp_path: Path, rng: np.random.Generator, drawn: dict[str, Figure]) -> None:
    labels = np.repeat(np.arange(20), 2)
    noise = rng.normal(size=(40, 6))
    centres = rng.normal(size=(20, 6))[labels]
    worse, better = compare_all(centres + noise, labels), compare_all(centres + noise / 2, labels)
    paths = plot_verification({"one": worse, "two": better}, tmp_path / "deep" / "plots")
    assert [path.name for path in paths] == ["roc.png", "det.png"]
    for path in paths:
        assert min(num_pixels(path, FIRST), num_pixels(path, SECOND)) > 100
        assert legend(drawn[path.name]) == ["one", "two"]
    counts, far = "20 mated and 760 non-mated pairs", "false accept rate"
    assert told(drawn["roc.png"]) == (f"Verification: ROC\n{counts}", far, "true accept rate")
    assert told(drawn["det.png"]) == (f"Verification: DET\n{counts}", far, "false reject rate")
    fewer = compare_all(centres[:10] + noise[:10], labels[:10])
    plot_verification({"one": worse, "fewer": fewer}, tmp_path / "other")
    counts = f"5 mated and 40 non-mated pairs; {counts}"
    assert told(drawn["roc.png"])[0] == f"Verification: ROC\n{counts}"
    plot_verification({"one": worse, "two": better}, tmp_path)
    for row, pairs in enumerate((worse, better)):
        for edge in (0.2, 0.6):
            accepted, tar = (pairs.non_mated >= edge).mean(), (pairs.mated >= edge).mean()
            assert is_on(drawn["roc.png"], row, accepted, tar)
            assert is_on(drawn["det.png"], row, accepted, max(1.0 - tar, 1 / 30))


def test_identification_gives_cmc_and_with_strangers_det(
    tmp_path: Path, measured: OpenSetSimilarities, drawn: dict[str, Figure]
) -> None:
    paths = plot_identification({"one": measured}, tmp_path)
    assert [path.name for path in paths] == ["cmc.png", "det.png"]
    for path in paths:
        assert num_pixels(path, FIRST) > 100
        assert num_pixels(path, SECOND) == 0
        assert legend(drawn[path.name]) == ["one"]
    assert drawn["cmc.png"].axes[0].get_ylim()[1] == 1.0
    assert told(drawn["cmc.png"]) == ("Identification: CMC, N = 9", "rank", "share of mated probes")
    assert told(drawn["det.png"]) == ("Open set: DET, N = 9", "FPIR", "FNIR, rank 1")
    for rank in range(1, 10):
        assert is_on(drawn["cmc.png"], 0, rank, ((measured.ranks > 0) & (measured.ranks <= rank)).mean())
    fpir, fnir = open_set_curve(measured)
    assert is_on(drawn["det.png"], 0, fpir[9], fnir[9])
    closed = measured.subset(np.ones(80, np.bool_), np.zeros(50, np.bool_))
    assert [path.name for path in plot_identification({"one": closed}, tmp_path)] == ["cmc.png"]


def test_a_network_without_errors_is_drawn_off_the_frame_and_said_to_have_none(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    pairs = compare_all(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1])
    roc, det = plot_verification({"perfect": pairs}, tmp_path / "pairs")
    for path in (roc, det):
        assert legend(drawn[path.name]) == ["perfect: no errors"]
        assert num_pixels(path, FIRST) > 500
    axes = drawn["det.png"].axes[0]
    assert np.asarray(axes.get_lines()[0].get_ydata()).min() > axes.get_ylim()[0]
    found = OpenSetSimilarities(
        2, np.ones(4), np.ones(4, np.int64), np.arange(4), np.zeros(3), np.arange(3, dtype=np.int64)
    )
    for path in plot_identification({"perfect": found}, tmp_path / "people"):
        assert legend(drawn[path.name]) == ["perfect: no errors"]
        assert num_pixels(path, FIRST) > 500


def test_a_network_may_be_called_anything(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    pairs = compare_all(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 0])
    plot_verification({"_a": pairs, r"$\b$": pairs, "c\udcff": pairs}, tmp_path)
    assert legend(drawn["roc.png"]) == [" _a", r"\$\b\$", "c?"]


def test_strangers_without_any_face_can_be_drawn(tmp_path: Path) -> None:
    blind = OpenSetSimilarities(
        2, np.ones(4), np.ones(4, np.int64), np.arange(4), np.full(3, -np.inf), np.arange(3)
    )
    assert len(plot_identification({"blind": blind}, tmp_path)) == 2


def test_many_points_are_thinned_and_keep_the_curve(rng: np.random.Generator) -> None:
    x = np.linspace(0.0, 1.0, 50_001)
    far, tar = plots._thinned(x, np.sqrt(x))
    assert far.size <= plots.POINTS_MAX + 1
    assert (far[0], far[-1]) == (0.0, 1.0)
    assert np.array_equal(tar, np.sqrt(far))


def test_a_folder_that_cannot_be_made_is_said_before_the_work(tmp_path: Path) -> None:
    check_plots(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot make the folder of plots"):
        check_plots(tmp_path / "file" / "plots")


def test_without_matplotlib_what_to_install_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SettingsError) as raised:
        check_plots(tmp_path)
    assert raised.value.message == "plots need matplotlib"
    assert "pip install 'identiface[train]'" in raised.value.hint
