"""The build's neighbours: crowding as a plain scan has it, and what is timed on a sample is marked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import machine, neighbours
from benchmarks.neighbours import Row, main
from benchmarks.probe_sets import draw_vectors
from engine.index.neighbours import CROWDING_NEIGHBOURS

SIZE = 400


def measured(folder: Path, *given: str) -> list[Row]:
    main([*given, "--rounds", "1", "--json", str(folder / "rows.json")])
    rows: list[Row] = json.loads((folder / "rows.json").read_text())
    return rows


@pytest.fixture(autouse=True)
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(neighbours, "LOOK_UPS", 20)
    return tmp_path / "reports"


def test_crowding_is_that_of_a_plain_scan(
    tmp_path: Path, reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = measured(tmp_path, "--size", str(SIZE))
    vectors = draw_vectors("faces", SIZE).astype(np.float64)
    found = vectors @ vectors.T
    np.fill_diagonal(found, -np.inf)
    spread = np.sort(found, axis=1)[:, -CROWDING_NEIGHBOURS:].mean(axis=1).std()
    assert row["spread"] == pytest.approx(spread, rel=1e-5)
    # So few templates are scanned whole: nothing is off.
    assert row["gap_max"] < 1e-5
    assert (row["size"], row["has_crowding"]) == (SIZE, True)
    assert row["build_s"] > 0
    assert row["ratio"] == pytest.approx(1 + row["crowding_s"] / row["build_s"])
    assert row["look_up_us"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[:3]] == ["templates", "---", f"{SIZE}"]
    (report,) = reports.iterdir()
    assert f"`python -m benchmarks.neighbours --size {SIZE} --set faces --rounds 1`\n" in report.read_text()


def test_what_is_timed_on_a_sample_is_scaled_and_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(neighbours, "CROWDING_TEMPLATES_MAX", SIZE)
    monkeypatch.setattr(neighbours, "SAMPLE_ROWS", 2)
    few, many = measured(tmp_path, "--size", str(SIZE), str(SIZE + 200), "--set", "isotropic")
    assert (few["has_crowding"], many["has_crowding"]) == (True, False)
    assert many["ratio"] == pytest.approx(1 + many["own_people_s"] / many["build_s"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| 400", "| 600"))]
    assert ["not unasked; of a sample" in line for line in lines] == [False, True]
