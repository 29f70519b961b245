"""Thresholds of people whose similarities have a known distribution, and the bars that they must meet."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.lfw_thresholds import Thresholds, is_judged, main, told
from benchmarks.openset import bars
from benchmarks.openset.bars import Extrapolated, HeldOut
from engine.decision.crowding import SIZE_MIN
from engine.errors import InvalidInputError

DIMENSION = 24
PEOPLE_PER_FOLD = 152
"""So that the four folds calibrated on are enough for the crowding correction."""
NUM_TWICE = 200
"""People with a second picture."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Templates of people of all folds, each in any direction, and of some a second one close by."""
    rng = np.random.default_rng(4)
    folder = tmp_path_factory.mktemp("people")
    num = 9 * PEOPLE_PER_FOLD
    first = rng.standard_normal((num, DIMENSION))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    again = first[:NUM_TWICE] + 0.02 * rng.standard_normal((NUM_TWICE, DIMENSION))
    names = [f"p{number:04d}" for number in range(num)]
    np.save(folder / "vectors.npy", np.concatenate([first, again]).astype(np.float32))
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names + names[:NUM_TWICE]))
    lines = [f"{name}\t{1 + (row < NUM_TWICE)}\t{row % 9}\n" for row, name in enumerate(names)]
    (folder / "people.tsv").write_text("person\timages\tfold\n" + "".join(lines))
    (folder / "errata.tsv").write_text("name\tname\tkind\n")
    return folder


def threshold_of_any_direction(target: float, size: int) -> float:
    """What a stranger's best of `size` people reaches with probability `target`, by the density of cosines
    of uniform directions, (1 - x^2)^((d - 3) / 2)."""
    cosines = np.linspace(-1.0, 1.0, 200_001)
    density = (1.0 - cosines**2) ** ((DIMENSION - 3) / 2)
    above = np.cumsum(density[::-1])[::-1] / density.sum()
    wanted = 1.0 - (1.0 - target) ** (1.0 / size)
    return float(cosines[np.searchsorted(-above, -wanted)])


def given(root: Path, *more: str) -> list[str]:
    return [*vectors(root), "--root", str(root), "--draws", "4", "--resamples", "20", *more]


def vectors(root: Path) -> list[str]:
    return ["--vectors", str(root / "vectors.npy"), "--labels", str(root / "labels.txt")]


def test_thresholds_are_those_of_the_people_s_distribution(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(bars, "EXTRAPOLATIONS", ((300, 900), (600, 900)))
    main(given(root, "--report", "thresholds", "--json"))
    written, path = capsys.readouterr().out.splitlines()
    found = json.loads(written)
    assert (found["num_people"], found["num_draws"]) == (9 * PEOPLE_PER_FOLD, 4)
    assert [(one["size"], one["target"]) for one in found["held_out"]] == [
        (size, target) for size in (100, 300, 4 * PEOPLE_PER_FOLD) for target in bars.TARGETS
    ]
    for one in found["held_out"]:
        true = threshold_of_any_direction(one["target"], one["size"])
        assert one["low"] < true < one["high"]
        # Twice as many people would move it by twice as much and more.
        assert one["target"] < 0.1 or one["threshold"] == pytest.approx(true, abs=0.01)
        # A second picture is far nearer than any stranger.
        assert one["fnir"] == 0.0
        assert (one["ratio_corrected"] is None) == (one["size"] < SIZE_MIN)
    assert {(one["num_fitted"], one["size"]) for one in found["extrapolated"]} == {(300, 900)}
    assert [one["size"] for one in found["crowded"][::3]] == [100, 300, 1000, 8 * PEOPLE_PER_FOLD]
    text = Path(path).read_text()
    assert "--root lfw --vectors FILE --labels FILE --threads 1 --draws 4 --resamples 20`" in text
    assert str(root) not in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    num_rows = sum(len(found[part]) for part in ("held_out", "extrapolated", "crowded"))
    assert len([line for line in tables if line[2].isdigit()]) == num_rows


def test_nobody_given_is_refused(root: Path) -> None:
    with pytest.raises(InvalidInputError, match="--root, or a file by --vectors"):
        main([])
    with pytest.raises(InvalidInputError, match=r"people\.tsv by --root"):
        main(vectors(root))


def test_bars_that_are_missed_are_named() -> None:
    held = HeldOut(100, 0.1, 0.9, 0.8, 0.95, 1.6, 1.0, None, 0.2)
    far = Extrapolated(600, 2400, 0.1, 1.3, 0.5, 2.0, 0.8, 0.6)
    unjudged = dataclasses.replace(far, target=0.01, median=9.0)
    assert not is_judged(unjudged)
    found = Thresholds("some", 4000, 20, [held], [far, unjudged], [])
    assert found.missed == [
        "held out, N = 100, FPIR 0.1: 1.60 of the target",
        "fitted on 600, N = 2,400, FPIR 0.1: median 1.30 of the target",
        "fitted on 600, N = 2,400, FPIR 0.1: the interval held 80%",
    ]
    assert "Bars not met" in told(found)
    fine = dataclasses.replace(
        found, held_out=[dataclasses.replace(held, ratio=1.4)], extrapolated=[unjudged]
    )
    assert "All bars that are judged are met" in told(fine)
