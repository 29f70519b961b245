"""The protocol of LFW's folds 7 and 8 holds the pictures it says, and its table their rates."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.lfw_open_set import FPIRS, Protocol, as_json, embed, judge, lfw_protocol, main, table
from engine.errors import InvalidInputError
from engine.trainer.bootstrap import BootstrapSettings
from engine.trainer.evaluate import PictureTemplates
from tests.unit.benchmarks.lfw import few_of_lfw

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("one_torch_thread")]

SETTINGS = BootstrapSettings(num_resamples=20)
MODELS = ("dlib-resnet", "dlib-resnet-ft1")


@pytest.fixture(scope="module")
def protocol(data_folder: Path) -> Protocol:
    return lfw_protocol(data_folder / "lfw")


def test_the_parts_are_as_large_as_stated_and_share_nobody(protocol: Protocol) -> None:
    sizes = len(protocol.gallery), len(protocol.mated), len(protocol.strangers)
    assert sizes == (886, 1699, 1041)
    assert len(set(protocol.pictures)) == sum(sizes)
    enrolled = {path.parent.name for path in protocol.gallery}
    assert len(enrolled) == 886
    assert {path.parent.name for path in protocol.mated} <= enrolled
    assert not {path.parent.name for path in protocol.strangers} & enrolled
    assert all(path.stem.endswith("_0001") for path in protocol.gallery)
    assert len(protocol.same) == 10
    assert (len(protocol.pairs.folds), len(protocol.pairs.pairs)) == (2, 1200)
    assert set(protocol.pairs.pictures) <= set(protocol.pictures)


def test_a_better_network_is_told_from_a_worse_one(protocol: Protocol) -> None:
    """Templates drawn about each person's own direction, with less and with more noise."""
    rng = np.random.default_rng(0)
    names, people = np.unique([path.parent.name for path in protocol.pictures], return_inverse=True)
    centres = rng.normal(size=(len(names), 32))
    judged = []
    for name, noise in (("worse", 1.0), ("better", 0.6)):
        vectors = centres[people] + noise * rng.normal(size=(len(people), 32))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        templates = PictureTemplates(vectors.astype(np.float32), np.ones(len(people), dtype=np.bool_))
        judged.append(judge(name, protocol, templates, SETTINGS))

    told = json.loads(json.dumps(as_json(judged, SETTINGS)))

    for target in FPIRS:
        difference = told["second_less_first"]["fnir_at_fpir"][f"{target:g}"]
        assert difference["low"] <= difference["value"] <= difference["high"] < 0.0
    assert (
        told["models"]["better"]["pairs"]["accuracy_mean"] > told["models"]["worse"]["pairs"]["accuracy_mean"]
    )
    lines = table(judged, SETTINGS).splitlines()
    assert lines[0] == "|  | worse | better | second less first |"
    assert {line.count("|") for line in lines} == {5}
    assert any(line.startswith("| FNIR at FPIR 0.01 |") for line in lines)
    assert table(judged[:1], SETTINGS).splitlines()[0] == "|  | worse |"


@pytest.fixture
def few(data_folder: Path, tmp_path: Path) -> Path:
    """Four people with three pictures, three strangers with one, and somebody who is not looked at."""
    root = tmp_path / "few"
    people = few_of_lfw(root, data_folder / "lfw", [*[(3, 7), (3, 8)] * 2, *[(1, 0)] * 3, (2, 1)])
    names = [one.name for one in people]
    shutil.rmtree(root / "images" / names[-1])
    folds = [f"{one}\t1\t2\n{one}\t1\t{other}\t3\n" for one, other in (names[:2], names[2:4])]
    (root / "pairs.txt").write_text("8\t1\n" + "".join(folds * 4))
    return root


@pytest.mark.model
def test_a_few_people_are_embedded_judged_and_kept(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "REPORTS", tmp_path / "reports")
    given = ["--root", str(few), "--resamples", "20", "--cache", str(tmp_path / "cache"), "--threads", "1"]
    models = [part for model in MODELS for part in ("--model", model)]
    main([*given, *models, "--report", "few"])
    told = capsys.readouterr().out
    for picture in few.glob("images/*/*"):
        state = picture.stat()
        picture.write_bytes(bytes(state.st_size))
        os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns))
    # From what was kept: no picture can be read any more.
    main([*given, *models[:2], "--json"])
    kept = json.loads(capsys.readouterr().out)["models"]
    *lines, path = told.splitlines()
    rows = {cells[1]: cells[2:-1] for cells in ([cell.strip() for cell in one.split("|")] for one in lines)}
    assert rows[""] == [*MODELS, "second less first"]
    assert {f"FNIR at FPIR {target:g}" for target in FPIRS} < rows.keys()
    # Four people are told apart by either network.
    assert rows["rank-1"] == ["1.0000 [1.0000, 1.0000]"] * 2 + ["+0.0000 [+0.0000, +0.0000]"]
    assert rows["pair accuracy"] == ["1.0000", "1.0000", ""]
    thresholds = [float(one) for one in rows["threshold at FPIR 0.1"][:2]]
    assert thresholds[0] > thresholds[1], "fine-tuning moved strangers away"
    point = kept["dlib-resnet"]["open_set"]["at_fpir"]["0.1"]
    assert point["threshold"] == pytest.approx(thresholds[0], abs=1e-4)
    text = Path(path).read_text()
    assert "N = 4 enrolled with one picture each, 8 mated probes of 4 people, 3 pictures of 3 str" in text
    assert f"--root lfw {' '.join(models)} --resamples 20`" in text


@pytest.mark.model
def test_a_picture_put_in_anothers_place_is_embedded_anew(data_folder: Path, tmp_path: Path) -> None:
    first, second = sorted((data_folder / "lfw" / "images" / "Abel_Pacheco").iterdir())[:2]
    picture, cache = tmp_path / "1.jpg", tmp_path / "cache"
    shutil.copy(first, picture)
    kept = embed("dlib-resnet", [picture], cache, 1)
    shutil.copy(second, picture)
    anew = embed("dlib-resnet", [picture], cache, 1)
    wanted = embed("dlib-resnet", [second], None, 1)
    assert np.array_equal(anew.vectors, wanted.vectors)
    assert not np.array_equal(anew.vectors, kept.vectors)


def test_a_picture_that_people_tsv_does_not_know_is_refused(few: Path) -> None:
    stranger = next(few.glob("images/*/*_0001.jpg"))
    stranger.with_name("another.jpg").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"pictures, people\.tsv says"):
        lfw_protocol(few)
