"""The verb `reembed`: what it prints, what it moves, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.cli import main
from engine.embedding import nn4_small2
from engine.embedding.align import DLIB
from engine.embedding.checkpoints import write_safetensors
from engine.embedding.kept import keep
from engine.types import EmbeddingContract, Enrollment, EnrollResult, GallerySettings, Template
from indexer.target import LocalTarget
from tests.contract.naive import unit_vectors

OLD = EmbeddingContract("old", "", "", mirror=False, dimension=16, threshold=0.5)
VECTORS = unit_vectors(np.random.default_rng(3), 9, OLD.dimension)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt nothing."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("weights") / "nn4.safetensors"
    write_safetensors(path, nn4_small2.Nn4Small2(), {"architecture": nn4_small2.NAME})
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ada with a kept crop, Grace without one; and a gallery that keeps none."""
    picture = np.random.default_rng(1).integers(0, 256, (170, 160, 3), np.uint8)
    crop = keep(picture, DLIB.points)
    with LocalTarget.open(tmp_path / "data") as target:
        target.create("old", OLD, GallerySettings(keep_crops=True))
        target.create("plain", OLD, GallerySettings())
        target.set_alias("staff", "old")
        ada, grace = Template(VECTORS[0], crop=crop), Template(VECTORS[1])
        for outcome in target.enroll("old", [Enrollment("ada", (ada,)), Enrollment("grace", (grace,))]):
            assert isinstance(outcome, EnrollResult), outcome
        list(target.enroll("plain", [Enrollment("grace", (grace,))]))
    return tmp_path / "data"


def named(data: Path, name: str) -> str:
    with LocalTarget.open(data) as target:
        found = target.find(name)
    return found.gallery_id if found else ""


def test_an_alias_moves_once_all_were_moved_or_it_is_allowed(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = data.parent / "who.csv"
    move = [
        "reembed",
        "staff",
        "--to",
        "new",
        "--data",
        str(data),
        "--model",
        str(weights),
        "--alias",
        "staff",
    ]
    assert main([*move, "--report", str(report)]) == 1
    out, err = capsys.readouterr()
    assert "new: 2 identities and 1 template" in out
    assert "  grace" in out
    assert "1 of 2 identities need new pictures, and 'staff' was not moved" in err
    assert err.count("identiface: ") == 1
    assert report.read_text("utf-8-sig").splitlines()[1:] == ["grace,1,0,no_crop"]
    assert named(data, "staff") == "old"
    assert main([*move, "--allow-missing", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "id": "new",
        "identities": 2,
        "templates": 1,
        "lost_some_templates": 0,
        "need_new_pictures": ["grace"],
        "not_in_old_gallery": 0,
        "alias": "staff",
    }
    assert named(data, "staff") == "new"


def test_a_gallery_without_crops_says_so(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move = ["reembed", "plain", "--to", "new", "--data", str(data), "--model", str(weights)]
    assert main([*move, "--allow-missing"]) == 1
    assert "keeps no crops: all 1 identity with templates need new pictures" in capsys.readouterr().err
    assert named(data, "new") == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody", "--to", "new"), "no gallery or alias is named 'nobody'"),
        (("old", "--to", "new", "--alias", "plain"), "is the own name of a gallery"),
        (("old", "--to", "new", "--model", "no-such-network"), "is neither a network"),
        (("old", "--to", "staff"), "name of its own"),
    ],
)
def test_what_cannot_be_is_one_line_and_makes_nothing(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert main(["reembed", "--data", str(data), "--model", str(weights), *arguments]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert named(data, "new") == ""


def test_a_folder_that_holds_no_galleries_is_not_made_one(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "missing"
    assert main(["reembed", "a", "--to", "b", "--data", str(folder), "--model", str(weights)]) == 1
    assert "is no data folder" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    "arguments",
    [("a", "--to", "b", "--model", "x"), ("a", "--data", "d", "--model", "x"), ("a", "--to", "b")],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reembed", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_alias_of_the_new_gallerys_own_name_is_refused_before_the_work(
    data: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move = ["reembed", "old", "--to", "new", "--alias", "new", "--data", str(data), "--model", str(weights)]
    assert main(move) == 2
    assert "are one name" in capsys.readouterr().err
    assert named(data, "new") == ""
