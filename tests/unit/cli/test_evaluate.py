"""The verbs `evaluate ...` of pictures and videos, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.cli.verbs import main

PEOPLE = ("Abel_Pacheco", "Akhmed_Zakayev", "Alejandro_Toledo", "Ana_Palacio")
FEW = ("--resamples", "20", "--device", "cpu", "--json")


@pytest.fixture
def people(data_folder: Path, tmp_path: Path) -> Path:
    """Four people of LFW with two pictures each."""
    torch.set_num_threads(1)
    for name in PEOPLE:
        (tmp_path / "people" / name).mkdir(parents=True)
        for path in sorted((data_folder / "lfw" / "images" / name).iterdir())[:2]:
            shutil.copy(path, tmp_path / "people" / name)
    return tmp_path / "people"


@pytest.mark.model
@pytest.mark.data
def test_folders_of_people_are_evaluated(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "open-set", "--root", str(people), "--fpir", "0.2", *FEW]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["num_enrolled"], told["rank1"], told["not_detected"]) == (2, 1.0, 0)
    assert (told["contract"], told["pictures"], told["face_choice"]) == ("dlib-resnet", 8, "centre")


@pytest.mark.model
@pytest.mark.data
@pytest.mark.parametrize("rule", ["mean", "best"])
def test_videos_are_evaluated(people: Path, rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each picture as a video of two equal frames, of which one is looked at."""
    lines = []
    for name in PEOPLE:
        for number, path in enumerate(sorted((people / name).iterdir())):
            video = people.parent / "videos" / name / str(number)
            video.mkdir(parents=True)
            for frame in (1, 2):
                shutil.copy(path, video / f"{number}.{frame}.jpg")
    for split, (first, second) in enumerate((PEOPLE[:2], PEOPLE[2:]), start=1):
        lines += [f"{split}, {name}/0, {name}/1, 1" for name in (first, second)]
        lines += [f"{split}, {first}/{i}, {second}/{i}, 0" for i in (0, 1)]
    splits = people.parent / "splits.txt"
    splits.write_text("\n".join(lines))
    videos = ("--root", str(people.parent / "videos"), "--videos", str(splits))

    assert main(["evaluate", "pairs", *videos, "--video", rule, "--frames", "1", *FEW]) == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["pairs"], told["folds"], told["accuracy_mean"]) == (8, 2, 1.0)
    assert (told["videos"], told["video"], told["pictures"]) == (8, rule, 8)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("identification --root {}", "holds pictures of 0 people"),
        # Known from the folders alone: nothing is embedded.
        ("identification --root {}/singles", "none has a second picture"),
        ("open-set --root {}/singles", "none has a second picture"),
        ("pairs --root {}/singles", "0 pairs of one person and 1 of two"),
        ("open-set --root {}/singles --enrolled {}/who", "have no picture: Zed"),
        ("pairs --vectors {}/v.npy --labels {}/l.csv --groups {}/groups.csv", "name them as these are named"),
        ("identification --vectors {}/v.npy --labels {}/one.csv", "1 identities to be told apart"),
        ("identification --vectors {}/zeros.npy --labels {}/l.csv", "has a template"),
        ("pairs --vectors {}/v.npy --labels {}/l.csv --pairs {}/pairs.txt", "l/A_0001.jpg (row 1) and m/A"),
        ("open-set --root {} --errata {}/gone", "cannot read"),
        ("open-set --vectors {}/gone.npy --labels {}/gone.csv", "cannot read"),
        ("pairs --vectors {}/v.npy", "holds no labels"),
        ("pairs --root {} --videos {}/gone", "cannot read"),
    ],
)
def test_wrong_sources_are_refused_in_one_line(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Ann", "Bob"):
        (tmp_path / "singles" / name).mkdir(parents=True)
        (tmp_path / "singles" / name / "1.jpg").touch()
    np.save(tmp_path / "v.npy", np.eye(8)[[0, 1, 2, 3, 4]])
    np.save(tmp_path / "zeros.npy", np.zeros((5, 8)))
    (tmp_path / "l.csv").write_text("A,l/A_0001.jpg\nA,l/A_0002.jpg\nB,l/B_0001.jpg\nB,B_2\nC,m/A_0001.jpg\n")
    (tmp_path / "one.csv").write_text("A\n" * 5)
    (tmp_path / "who").write_text("Ann\nZed\n")
    (tmp_path / "groups.csv").write_text("identity_id,sex\nZed,m\n")
    (tmp_path / "pairs.txt").write_text("2\t1\n" + "A\t1\t2\nA\t1\tB\t1\n" * 2)
    assert main(["evaluate", *line.replace("{}", str(tmp_path)).split()]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "pairs --root r --labels l",
        "pairs --vectors v.npy --labels l --videos s",
        "pairs --root r --pairs p --errata e",
    ],
)
def test_arguments_that_do_not_go_together_are_wrong_usage(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *line.split()]) == 2
    assert "see identiface evaluate pairs --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    ["open-set --root r --vectors v", "open-set --root r --fpir 1.5", "pairs --root r --frames 0", "pairs"],
)
def test_wrong_flags_are_wrong_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *line.split()])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_lines_say_what_too_few_or_faceless_strangers_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "v.npy", np.vstack([np.eye(8)[[0, 0, 1, 1]], np.zeros((4, 8))]))
    (tmp_path / "l.csv").write_text("a\na\nb\nb\nc\nd\nc\nd\n")
    (tmp_path / "who").write_text("a\nb\n")
    line = f"open-set --vectors {tmp_path}/v.npy --labels {tmp_path}/l.csv --enrolled {tmp_path}/who"
    assert main(["evaluate", *line.split(), "--fpir", "0.3", "0.01", "--resamples", "20"]) == 0
    enough, few = (row for row in capsys.readouterr().out.splitlines() if row.startswith("FNIR"))
    assert enough.endswith("at any threshold")
    assert few.endswith("at any threshold; too few strangers: as of FPIR 0")
