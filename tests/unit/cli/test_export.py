"""The verb `export` before it asks anybody: what it refuses, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import main

CLOSED = ("--server", "127.0.0.1:1", "--timeout-s", "0.3")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("staff", "staff.csv"), "a .parquet file"),
        (("staff", "parquet"), "a .parquet file"),
        (("staff",), "required: FILE.parquet"),
        (("staff", "s.parquet", "--data", "d", "--server", "127.0.0.1:1"), "not allowed with"),
        (("Staff", "s.parquet"), "1 to 63 lower-case letters"),
    ],
)
def test_wrong_usage_is_2_and_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_folder_that_holds_no_galleries_is_not_made_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        assert main(["export", "staff", str(tmp_path / "s.parquet"), "--data", str(folder)]) == 1
        assert f"{folder} is no data folder. Give --data" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_target_is_refused_before_a_server_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "s.parquet"
    target.write_text("mine")
    assert main(["export", "staff", str(target), *CLOSED]) == 1
    assert (
        capsys.readouterr().err == f"identiface: {target} exists. Choose another name, or give --overwrite.\n"
    )
    assert main(["export", "staff", str(tmp_path / "no" / "s.parquet"), *CLOSED]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert main(["export", "staff", str(target), "--overwrite", *CLOSED]) == 1
    assert "no server answers" in capsys.readouterr().err
    assert target.read_text() == "mine"
