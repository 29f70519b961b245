"""`identiface train run` and `train export`, on a few people of LFW and on what cannot be trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.cli import main
from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.trainer import recipes
from engine.trainer.settings import TrainSettings

FEW = ("num_steps=4", "optimizer.warmup_steps=1", "batch.num_identities=3", "batch.num_pictures=2")
HEAD = ("network.name=head:dlib-resnet", "network.is_residual=true", "validation_share=0.4", *FEW)
DLIB = ("network.name=dlib-resnet", "network.is_residual=false")


@pytest.fixture(scope="module")
def people(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people of LFW with two pictures or three, two with one, and a picture that is none."""
    target = tmp_path_factory.mktemp("people")
    taken = {True: 0, False: 0}
    for person in sorted((data_folder / "lfw" / "images").iterdir()):
        num = len(list(person.iterdir()))
        if (num in {2, 3} and taken[True] < 8) or (num == 1 and taken[False] < 2):
            taken[num > 1] += 1
            shutil.copytree(person, target / person.name)
    (target / "Nobody").mkdir()
    (target / "Nobody" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return target


def train(run: Path, data: Path, *arguments: str, settings: tuple[str, ...] = HEAD) -> int:
    before = torch.get_num_threads()
    given = [part for setting in settings for part in ("--set", setting)]
    where = [
        "train",
        "run",
        str(run),
        "--data",
        str(data),
        "--crops",
        str(data.parent / f"{data.name}-crops"),
    ]
    try:
        return main([*where, "--threads", "1", "--workers", "0", "--device", "cpu", *given, *arguments])
    finally:
        torch.set_num_threads(before)


def refused(capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("identiface: ")
    assert code in {1, 2}
    return err[-1]


@pytest.mark.data
@pytest.mark.model
def test_a_network_is_trained_exported_and_served_by_its_path(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", people, "--json") == 0
    told = capsys.readouterr()
    answer = json.loads(told.out)
    assert (answer["step"], answer["is_done"]) == (4, True)
    assert "2 of them with one picture only, of use as negatives alone" in told.err
    assert "1 pictures refused: 1 undecodable" in told.err
    target = tmp_path / "mine.safetensors"
    assert main(["train", "export", str(tmp_path / "run"), "--to", str(target), "--threshold", "0.9"]) == 0
    assert "0.9" in capsys.readouterr().out
    served = Embedder(load_network(str(target), "cpu"))
    assert served.contract.threshold == 0.9
    default = Embedder(load_network("dlib-resnet", "cpu"))
    assert served.contract.digest != default.contract.digest
    crops = np.random.default_rng(0).integers(0, 256, (2, 150, 150, 3), np.uint8)
    assert served.embed(crops).shape == (2, 128)


@pytest.mark.data
@pytest.mark.model
def test_who_is_trained_on_and_judged_by_is_as_the_lists_say(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in people.iterdir() if len(list(path.iterdir())) > 1)
    (tmp_path / "learn.txt").write_text("\n".join(names[:4]))
    (tmp_path / "judge.txt").write_text("\n".join(names[4:7]))
    (tmp_path / "errata.tsv").write_text(f"name\tname\tkind\n{names[0]}\t{names[1]}\tsame\n")
    lists = ["--people", str(tmp_path / "learn.txt"), "--validate-people", str(tmp_path / "judge.txt")]
    assert train(tmp_path / "run", people, *lists, "--errata", str(tmp_path / "errata.tsv")) == 0
    told = json.loads((tmp_path / "run" / "settings.json").read_text())["data"]
    assert told["num_identities"] == 3
    assert told["num_validation_identities"] == 3
    (tmp_path / "strangers.txt").write_text("Nobody_Known\n")
    assert train(tmp_path / "other", people, "--people", str(tmp_path / "strangers.txt")) == 2
    assert "--people names nobody of SOURCE" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("batch.num_identities=500",), "500"),
        (("batch.num_pictures=40",), "40"),
        (("network.name=alexnet",), "alexnet"),
        (("network.num_trainable_stages=99", *DLIB), "1 to 16"),
        (("num_steps=0",), "num_steps"),
        (("objective.margn=0.2",), "did you mean `margin`"),
        (("optimizer.warmup_steps=50",), "warmup_steps is 50"),
        (("objective.loss=arcface", "objective.miner=hard"), "objective.miner"),
        (("network.checkpoint=/nowhere/at-all.safetensors", *DLIB), "/nowhere/at-all"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: tuple[str, ...], said: str
) -> None:
    assert train(tmp_path / "run", people, settings=(*HEAD, *changed)) == 1
    assert said in refused(capsys)
    assert not (tmp_path / "run" / "network.safetensors").exists()


@pytest.mark.parametrize("text", ["nothing", "=1", "a b=1"])
def test_what_is_no_setting_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert main(["train", "run", str(tmp_path), "--data", str(tmp_path), "--set", text]) == 2
    assert "--set takes KEY=VALUE" in capsys.readouterr().err


@pytest.mark.data
def test_one_person_and_people_with_one_picture_cannot_be_learnt_from(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data_folder / "lfw" / "images"
    one, singles = tmp_path / "one", tmp_path / "singles"
    shutil.copytree(images / "Abdullah_Gul", one / "Abdullah_Gul")
    assert train(tmp_path / "run-1", one) == 1
    assert "at least two" in refused(capsys)
    for name in ("Aaron_Guiel", "Aaron_Patterson", "Aaron_Pena"):
        shutil.copytree(images / name, singles / name)
    assert train(tmp_path / "run-2", singles, settings=(*HEAD, "validation_share=0")) == 1
    assert "two pictures" in refused(capsys)


def test_there_is_nothing_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert train(tmp_path / "run", tmp_path / "empty") == 1
    refused(capsys)
    assert train(tmp_path / "run", tmp_path / "missing") == 1
    assert "missing" in refused(capsys)


def test_a_run_that_is_not_finished_cannot_be_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "export", str(tmp_path), "--to", str(tmp_path / "x.safetensors")]) == 1
    assert "holds no run" in refused(capsys)


def test_settings_in_effect_are_printed_and_nothing_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    changed = ["--set", "objective.margin=0.4", "--set", "network.name=timm:resnet18", "--settings"]
    assert main(["train", "run", str(run), "--data", str(tmp_path), *changed]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["objective"]["margin"] == 0.4
    assert told["network"]["name"] == "timm:resnet18"
    assert not run.exists()


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_settings(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "run", "x", "--data", str(tmp_path), "--recipe", name, "--settings"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told.keys() == set(TrainSettings.__struct_fields__)


def test_a_recipe_that_is_not_there_names_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "run", "x", "--data", str(tmp_path), "--recipe", "resnet"]) == 1
    assert recipes.names()[0] in refused(capsys)
