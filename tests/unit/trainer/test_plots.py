"""Plots are PNG files of the curves, and the open set's curve meets its points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import SettingsError
from engine.trainer import plots
from engine.trainer.open_set import OpenSetSimilarities, judge_measured
from engine.trainer.plots import check_plots, open_set_curve, plot_identification, plot_verification
from engine.trainer.verification import compare_all

PNG = b"\x89PNG\r\n\x1a\n"


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


def test_pairs_give_roc_and_det(tmp_path: Path, rng: np.random.Generator) -> None:
    labels = np.repeat(np.arange(40), 2)
    pairs = compare_all(rng.normal(size=(40, 6))[labels] + rng.normal(size=(80, 6)), labels)
    paths = plot_verification({"one": pairs, "two": pairs}, tmp_path / "deep" / "plots")
    assert [path.name for path in paths] == ["roc.png", "det.png"]
    assert all(path.read_bytes().startswith(PNG) for path in paths)


def test_identification_gives_cmc_and_with_strangers_det(
    tmp_path: Path, measured: OpenSetSimilarities
) -> None:
    paths = plot_identification({"one": measured}, tmp_path)
    assert [path.name for path in paths] == ["cmc.png", "det.png"]
    closed = measured.subset(np.ones(80, np.bool_), np.zeros(50, np.bool_))
    assert [path.name for path in plot_identification({"one": closed}, tmp_path)] == ["cmc.png"]


def test_a_network_without_errors_can_be_drawn(tmp_path: Path) -> None:
    pairs = compare_all(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1])
    assert len(plot_verification({"perfect": pairs}, tmp_path)) == 2


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
