"""Runs one after the other: a table of their validations, a plot, a line about each."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.curves import joined, main
from engine import config
from engine.trainer.run_folder import RunFolder
from engine.trainer.settings import TrainSettings

DATA = {"num_pictures": 1234, "num_identities": 56}


def noted(folder: Path, loss: str, num_steps: int, rank1: float | None) -> RunFolder:
    """A run with a note every second step, and one validation at its end; None: nobody was held out."""
    values = {"num_steps": num_steps, "objective": {"loss": loss}, "optimizer": {"warmup_steps": 1}}
    run = RunFolder(folder)
    run.open(config.build(TrainSettings, values), DATA)
    for step in range(2, num_steps + 1, 2):
        run.note(step, {"loss": 8.0 / step, "pictures_per_s": 10.0 * step})
    if rank1 is not None:
        run.note(num_steps, {"rank1": rank1, "pair_accuracy": 0.75, "auc": 0.8, "eer": 0.25}, "validation")
    run.close()
    return run


def tell(runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """The report of runs, and its plot."""
    monkeypatch.setattr(machine, "REPORTS", tmp_path / "reports")
    main([*(str(run.path) for run in runs), "--name", "tried"])
    plot, report = sorted((tmp_path / "reports").iterdir(), key=lambda path: path.suffix, reverse=True)
    return report.read_text(), plot


def test_runs_are_told_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [noted(tmp_path / "first", "cosface", 6, 0.5), noted(tmp_path / "second", "triplet", 4, 0.625)]
    text, plot = tell(runs, tmp_path, monkeypatch)
    assert [(note["run"], note["at"]) for note in joined(runs, "validation")] == [
        ("first", 6),
        ("second", 10),
    ]
    assert [note["at"] for note in joined(runs, "train")] == [2, 4, 6, 8, 10]
    rows = [line for line in text.split("![curves]", maxsplit=1)[0].splitlines() if line.startswith("| ")]
    assert rows == [
        "| run | step | rank1 | pair_accuracy | auc | eer |",
        "| first | 6 | 0.5 | 0.75 | 0.8 | 0.25 |",
        "| second | 4 | 0.625 | 0.75 | 0.8 | 0.25 |",
    ]
    assert "- first: dlib-resnet, cosface, 6 steps of 32 people with 4 pictures" in text
    assert "from 1,234 pictures of 56 people; 40 pictures a second (median)" in text
    assert "`python -m benchmarks.curves first second --name tried`" in text
    assert f"]({plot.name})" in text
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.stat().st_size > 10_000
    assert rows[2] in capsys.readouterr().out


def test_a_run_without_notes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, plot = tell([noted(tmp_path / "short", "triplet", 2, None)], tmp_path, monkeypatch)
    assert "Nobody was held out." in text
    assert plot.is_file()
    run = RunFolder(tmp_path / "ended")
    run.open(TrainSettings(), DATA)
    run.close()
    text, _ = tell([run], tmp_path, monkeypatch)
    assert "people; no step noted" in text
