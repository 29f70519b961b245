"""The verb `check` on data folders, and what it refuses before it asks anybody."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.cli import main
from engine.cli.check import LIMIT_DEFAULT
from engine.errors import EngineError
from engine.types import EmbeddingContract, Enrollment, GallerySettings, Template
from indexer.self_check.check import CheckSettings
from indexer.target import LocalTarget
from tests.contract.naive import unit_vectors

CLOSED = ("--server", "127.0.0.1:1", "--timeout-s", "0.3")
CONTRACT = EmbeddingContract("elsewhere", "", "", mirror=False, dimension=32, threshold=0.9)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: `staff` with ada and bob who are one person, `single`, `nobody` without identities."""
    rng = np.random.default_rng(6)
    centres = unit_vectors(rng, 30, 32)
    rows = np.repeat(centres, 2, axis=0) + 0.05 * rng.normal(size=(60, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows[2:4] = rows[0:2]
    names = ["ada", "bob", *(f"p{number:02}" for number in range(28))]
    enrollments = [
        Enrollment(name, tuple(Template(row, source=f"{name}.jpg") for row in pair))
        for name, pair in zip(names, rows.reshape(30, 2, 32), strict=True)
    ]
    folder = tmp_path_factory.mktemp("check") / "data"
    with LocalTarget.open(folder) as target:
        for gallery, enrolled in (("staff", enrollments), ("single", enrollments[:1]), ("nobody", [])):
            target.create(gallery, CONTRACT, GallerySettings())
            for outcome in target.enroll(gallery, enrolled):
                assert not isinstance(outcome, EngineError)
    return folder


def test_a_folder_is_checked_and_told_in_every_form(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html, table = tmp_path / "staff.html", tmp_path / "staff.csv"
    files = ("--html", str(html), "--csv", str(table))
    assert main(["check", "staff", "--data", str(data), *files]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "staff: 30 identities with 60 templates; compared with all: everybody"
    assert "likely duplicates: 1" in lines
    assert "  1.0000  ada (ada.jpg)  bob (bob.jpg)" in lines
    assert lines[-2:] == [f"written: {html}", f"written: {table}"]
    assert "<title>Check of staff</title>" in html.read_text()
    assert "duplicate,1,ada," in table.read_text("utf-8-sig")

    assert main(["check", "staff", "--data", str(data), *files]) == 1
    assert "--overwrite" in capsys.readouterr().err
    overwritten = ["--overwrite", "--json", "--duplicate-similarity", "0.5", "--limit", "1"]
    assert main(["check", "staff", "--data", str(data), *files, *overwritten]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["duplicate_origin"], told["duplicate_similarity"]) == ("given", 0.5)
    assert len(told["lists"]["duplicates"]) == 1 <= told["lists"]["counts"]["duplicates"]
    assert (told["num_identities"], told["num_written"], told["is_sample"]) == (30, 0, False)


def test_a_sample_says_that_it_is_one(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "staff", "--data", str(data), "--probes", "5", "--seed", "7"]) == 0
    assert "compared with all: a random 5 identities, 16.67%; seed 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gallery", "said"),
    [
        ("nobody", "has no templates"),
        ("single", "has one identity with templates"),
        ("elsewhere", "identiface gallery list"),
    ],
)
def test_a_gallery_that_cannot_be_checked_is_one_line(
    data: Path, gallery: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", gallery, "--data", str(data)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_calibration_that_is_none_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.json"
    assert main(["check", "staff", "--data", str(data), "--calibration", str(missing)]) == 1
    assert "cannot read calibration" in capsys.readouterr().err
    missing.write_text("{}")
    assert main(["check", "staff", "--data", str(data), "--calibration", str(missing)]) == 1
    assert "calibration" in capsys.readouterr().err


def test_targets_are_refused_before_a_server_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "s.html"
    target.write_text("mine")
    assert main(["check", "staff", "--html", str(target), *CLOSED]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["check", "staff", "--csv", str(tmp_path / "no" / "s.csv"), *CLOSED]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert main(["check", "staff", *CLOSED]) == 1
    assert "no server answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("staff", "--limit", "0"), "from 1 to 10000"),
        (("staff", "--limit", "10001"), "from 1 to 10000"),
        (("staff", "--probes", "0"), "from 1"),
        (("staff", "--duplicate-similarity", "nan"), "from -1 to 1"),
        (("staff", "--duplicate-similarity", "0.9", "--calibration", "c.json"), "not allowed with"),
        (("staff", "--data", "d", "--server", "127.0.0.1:1"), "not allowed with"),
        (("Staff",), "1 to 63 lower-case letters"),
    ],
)
def test_wrong_usage_is_2_and_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_the_default_limit_is_that_of_the_library() -> None:
    assert CheckSettings().limit == LIMIT_DEFAULT
