"""The time of comparing all with all is told for larger galleries by their squares."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.self_check import TOLD_SIZES, main


def test_larger_galleries_are_told_by_their_squares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "REPORTS", tmp_path / "reports")
    main(["--size", "1500", "--report"])
    told, _, _, _, *rows, path = capsys.readouterr().out.splitlines()
    assert told.startswith("1,500 templates of 128 dimensions on ")
    cells = [[cell.strip().replace(",", "") for cell in row.split("|")[1:-1]] for row in rows]
    sizes, walls, _ = ([float(one) for one in column] for column in zip(*cells, strict=True))
    assert tuple(sizes) == TOLD_SIZES
    for size, wall_s in zip(sizes, walls, strict=True):
        assert wall_s == pytest.approx(walls[0] * (size / sizes[0]) ** 2, rel=1 / walls[0])
    text = Path(path).read_text()
    assert ": `python -m benchmarks.self_check --size 1500`\n" in text
    assert "\n".join(rows) in text
