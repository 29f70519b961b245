"""Ways to fine-tune are compared on people held out: who they are, how they are judged, what is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.finetune import DRAWS, FPIRS, PARTS, judge, main, people_of, row_of, thirds
from engine.types import Vectors
from tests.unit.benchmarks.lfw import few_of_lfw
from tests.unit.trainer.faces import made_up_crops


def test_everybody_is_held_out_once() -> None:
    crops = made_up_crops([2] * 10, "arcface-112")
    parts = thirds(crops)
    assert len(parts) == PARTS
    assert sorted(name for part in parts for name in part) == sorted(crops.identities)
    assert sorted(map(len, parts)) == [3, 3, 4]


def by_pattern(crops: NDArray[np.uint8]) -> Vectors:
    """Vectors that are nearly alike for one person's crops, and unlike for two's: their coarse pattern."""
    coarse = crops.reshape(len(crops), 112, 112 * 3)[:, ::16].astype(np.float64)
    centred = coarse.reshape(len(crops), -1) - 127.5
    unit: Vectors = (centred / np.linalg.norm(centred, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_who_tells_everybody_apart_misses_nobody_and_who_tells_nobody_apart_all() -> None:
    crops = made_up_crops([3] * 9, "arcface-112")
    reports = judge(crops, by_pattern)
    assert len(reports) == DRAWS
    for report in reports:
        # 45 % of 9 are strangers.
        assert (report.num_enrolled, report.num_mated, report.num_strangers) == (5, 10, 12)
        assert report.rank1 == 1.0
        assert [report.point(target).fnir for target in FPIRS] == [0.0] * 3
    assert len({report.point(0.1).threshold for report in reports}) > 1, "other strangers each time"
    alike = judge(crops, lambda given: np.tile(np.array([[1.0, 0.0]], np.float32), (len(given), 1)))
    assert all(report.point(0.01).fnir == 1.0 for report in alike)

    row = row_of("both", [reports, alike])
    rank1 = 0.5 + np.mean([report.rank1 for report in alike]) / 2
    assert row[:5] == ["both", f"{rank1:.4f}", "0.5000", "0.5000", "0.5000"]
    assert row[5] == "0.000, 1.000"


@pytest.fixture
def root(data_folder: Path, tmp_path: Path) -> Path:
    """Nine people with two pictures in folds 1 to 6, and one in each fold that is not looked at."""
    folds = (1, 2, 3, 4, 5, 6, 1, 2, 3)
    few_of_lfw(
        tmp_path / "lfw", data_folder / "lfw", [*((2, fold) for fold in folds), (1, 7), (1, 8), (1, 0)]
    )
    return tmp_path / "lfw"


@pytest.mark.data
@pytest.mark.model
@pytest.mark.usefixtures("one_torch_thread")
def test_ways_are_told_in_rows(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(people_of(root)) == 9
    given = ["--root", str(root), "--crops", str(tmp_path / "crops")]
    few = (
        "num_steps=2",
        "optimizer.warmup_steps=1",
        "optimizer.learning_rate=0.003",
        "batch.num_identities=3",
        "batch.num_pictures=2",
    )
    settings = ("network.name=head:dlib-resnet", "network.is_residual=true", *few)
    main([*given, *(part for one in settings for part in ("--set", one))])
    told = capsys.readouterr()
    assert "21 crops dlib-150 of 12 identities" in told.err
    main([*given, *(part for one in settings for part in ("--set", one)), "--seeds", "2"])
    main([*given, "--start"])
    lines = told.out.splitlines() + capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == [
        "way",
        "rank-1",
        *(f"FNIR at FPIR {target:g}" for target in FPIRS),
        "by third",
        "threshold at 0.1",
    ]
    trained, mean, start = cells[2], cells[5], cells[8]
    way = " ".join(["defaults", *settings])
    assert (trained[0], mean[0], start[0]) == (way, f"{way}, mean of 2", "start")
    # Two or three people are told apart by dlib's network, and by a map that two steps moved from it.
    assert trained[1] == mean[1] == start[1] == "1.0000"
    assert len(start[5].split(", ")) == PARTS
    assert len({trained[6], mean[6], start[6]}) == 3, "three networks"
