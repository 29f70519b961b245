"""`identiface train run` and `train export`, on a few people of LFW and on what cannot be trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from engine.cli import main
from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.trainer import pack, recipes
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
    assert "names of --people" not in capsys.readouterr().err
    (tmp_path / "learn.txt").write_text("\n".join([*names[:4], "Nobody_Known"]))
    assert train(tmp_path / "fewer", people, *lists) == 0
    assert "1 names of --people have no face in SOURCE, as Nobody_Known" in capsys.readouterr().err
    (tmp_path / "strangers.txt").write_text("Nobody_Known\n")
    assert train(tmp_path / "other", people, "--people", str(tmp_path / "strangers.txt")) == 2
    assert "--people names nobody of SOURCE" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.model
def test_nobody_is_learnt_from_by_one_name_and_judged_by_another(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in people.iterdir() if len(list(path.iterdir())) > 1)
    (tmp_path / "learn.txt").write_text("\n".join(names[:5]))
    (tmp_path / "judge.txt").write_text("\n".join(names[5:7]))
    # The first is also somebody in no list, the second somebody who is judged by.
    same = [f"{names[0]}\t{names[7]}\tsame", f"{names[1]}\t{names[5]}\tsame"]
    (tmp_path / "errata.tsv").write_text("\n".join(["name\tname\tkind", *same]))
    lists = ["--people", str(tmp_path / "learn.txt"), "--validate-people", str(tmp_path / "judge.txt")]
    assert train(tmp_path / "run", people, *lists, "--errata", str(tmp_path / "errata.tsv")) == 0
    told = json.loads((tmp_path / "run" / "settings.json").read_text())["data"]
    num_pictures = {name: len(list((people / name).iterdir())) for name in names}
    assert told["num_pictures"] == sum(num_pictures[name] for name in names[2:5])
    assert told["num_validation_pictures"] == sum(num_pictures[names[i]] for i in (1, 5, 6))
    assert f"of --people 2 left out, as {names[0]}" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.model
def test_pictures_of_who_is_judged_by_are_not_learnt_from_under_another_name(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "people"
    shutil.copytree(people, data)
    names = sorted(path.name for path in data.iterdir() if len(list(path.iterdir())) > 1)
    shutil.copytree(data / names[6], data / "Somebody_Else")
    (tmp_path / "judge.txt").write_text("\n".join(names[5:7]))
    judge = ["--validate-people", str(tmp_path / "judge.txt")]
    assert train(tmp_path / "run", data, *judge) == 0
    told = json.loads((tmp_path / "run" / "settings.json").read_text())["data"]
    num_pictures = {name: len(list((data / name).iterdir())) for name in names}
    assert told["num_pictures"] == sum(num_pictures[name] for name in (*names[:5], names[7])) + 2
    assert told["num_validation_pictures"] == num_pictures[names[5]] + num_pictures[names[6]]
    num_shared = num_pictures[names[6]]
    said = f"{num_shared} pictures learnt from are those of people judged by, as Somebody_Else/"
    assert said in capsys.readouterr().err
    (tmp_path / "learn.txt").write_text("Somebody_Else\n")
    assert train(tmp_path / "other", data, *judge, "--people", str(tmp_path / "learn.txt")) == 2
    assert "none is left to learn from" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.model
def test_a_network_is_trained_from_packed_crops_as_from_their_pictures(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in people.iterdir() if len(list(path.iterdir())) > 1)
    (tmp_path / "judge.txt").write_text("\n".join(names[4:7]))
    judge = ["--validate-people", str(tmp_path / "judge.txt")]
    assert train(tmp_path / "run", people, *judge) == 0
    packed = tmp_path / "packed.npz"
    assert pack.main(["--crops", str(people.parent / f"{people.name}-crops"), "--to", str(packed)]) == 0
    assert train(tmp_path / "far", packed, *judge, "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["is_done"]
    near, far = (
        json.loads((tmp_path / name / "settings.json").read_text())["data"] for name in ("run", "far")
    )
    assert {key: near[key] for key in near if key.startswith("num_")} == {
        key: far[key] for key in far if key.startswith("num_")
    }
    # JPEG changed their bits.
    assert near["training"] != far["training"]
    assert train(tmp_path / "far", packed, *judge) == 0
    assert "this run is done" in capsys.readouterr().err
    other = ("network.name=mobilefacenet", "network.is_residual=false")
    assert train(tmp_path / "other", packed, settings=(*HEAD, *other)) == 1
    assert "holds crops dlib-150; the network takes arcface-112" in refused(capsys)


@pytest.mark.data
@pytest.mark.model
def test_the_folder_that_one_is_in_can_be_the_run(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(tmp_path / "first", people) == 0
    shutil.copytree(people.parent / f"{people.name}-crops", tmp_path / "here-crops")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = torch.get_num_threads()
    given = [part for setting in HEAD for part in ("--set", setting)]
    where = ["--data", str(people), "--threads", "1", "--workers", "0", "--device", "cpu"]
    try:
        assert main(["train", "run", ".", *where, *given]) == 0
    finally:
        torch.set_num_threads(before)
    first = tmp_path / "first" / "network.safetensors"
    assert (tmp_path / "here" / "network.safetensors").read_bytes() == first.read_bytes()


def test_vectors_are_nothing_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"identity_id": ["a", "b"], "vector": [[1.0] * 128, [2.0] * 128]}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    assert train(tmp_path / "run", tmp_path / "v.parquet") == 2
    assert "SOURCE holds vectors; a network learns from pictures" in refused(capsys)


@pytest.mark.data
@pytest.mark.model
def test_a_head_learns_from_one_picture_of_a_person_at_a_time(people: Path, tmp_path: Path) -> None:
    one = (*HEAD, "batch.num_pictures=1", "objective.loss=arcface")
    assert train(tmp_path / "run", people, settings=one) == 0
    assert (tmp_path / "run" / "network.safetensors").exists()


def test_a_pack_that_is_none_or_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", tmp_path / "missing.npz") == 1
    assert "cannot read" in refused(capsys)
    (tmp_path / "p.npz").write_bytes(b"no pack")
    assert train(tmp_path / "run", tmp_path / "p.npz") == 1
    assert "no whole pack of crops" in refused(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.data
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("batch.num_pictures=1",), "batch.num_pictures is 1, but the loss triplet learns from two"),
        (
            ("batch.num_pictures=1", "objective.loss=cosface", "objective.global_threshold_weight=1"),
            "the global threshold learns from two",
        ),
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


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("objective.loss=foo", "allowed: arcface, contrastive, cosface, pair-hinge, soft-triplet, triplet"),
        ("objective.miner=foo", "allowed: all, distance-weighted, hard, semihard"),
        ("validation_share=1", "< 1.0 - at `$.validation_share`"),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str, said: str
) -> None:
    assert train(tmp_path / "run", tmp_path / "missing", settings=(changed,)) == 1
    assert said in refused(capsys)


def test_a_place_that_can_hold_no_run_is_refused_before_faces_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").touch()
    assert train(tmp_path / "run", tmp_path / "missing") == 1
    assert "run cannot be written: Not a directory" in refused(capsys)
    assert train(tmp_path, tmp_path / "missing") == 1
    assert "is not empty and holds no run" in refused(capsys)


def test_people_who_are_all_judged_by_are_refused_before_faces_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.txt").write_text("Ann\nBea\n")
    (tmp_path / "w.txt").write_text("Bea\nCleo\n")
    (tmp_path / "errata.tsv").write_text("name\tname\tkind\nAnn\tCleo\tsame\n")
    same = ["--people", str(tmp_path / "v.txt"), "--validate-people"]
    said = "all 2 people of --people are taken for validation by --validate-people"
    assert train(tmp_path / "run", tmp_path / "missing", *same, str(tmp_path / "v.txt")) == 2
    assert said in refused(capsys)
    aliases = [str(tmp_path / "w.txt"), "--errata", str(tmp_path / "errata.tsv")]
    assert train(tmp_path / "run", tmp_path / "missing", *same, *aliases) == 2
    assert said in refused(capsys)
    assert train(tmp_path / "run", tmp_path / "missing", *same, str(tmp_path / "w.txt")) == 1
    assert "missing" in refused(capsys)


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
    printed = capsys.readouterr().out
    told = json.loads(printed)
    assert printed.startswith('{\n  "network": {\n    "name": "timm:resnet18",\n')
    assert main(["train", "run", str(run), "--data", str(tmp_path), *changed, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == told
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
    assert main(["train", "run", "x", "--data", str(tmp_path), "--recipe", "no.toml"]) == 1
    assert refused(capsys).endswith("Check the path of --recipe.")


def test_help_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "run", "--help"])
    printed = capsys.readouterr().out
    assert f"recipes: {', '.join(recipes.names())}\n" in printed
