"""The demo of the README, run as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.e2e
@pytest.mark.model
def test_the_demo_finds_who_is_enrolled_and_nobody_else(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.demo", "--folder", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MATCH     eileen-collins" in done.stdout
    assert "NO_MATCH  nobody enrolled" in done.stdout
    assert "Every answer was right." in done.stdout
    assert (tmp_path / "demo" / "plot.png").stat().st_size > 10_000
