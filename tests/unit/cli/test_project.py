"""The verb `project`: its flags, and what it says of a map's price."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.cli import project
from engine.cli.arguments import Parser
from engine.embedding.networks import load_network
from engine.errors import InvalidInputError, SettingsError
from engine.trainer.project import ProjectionSettings, learn_projection
from tests.unit.trainer.test_project import DIMENSION, write_base

NEEDED = ["project", "--model", "big.onnx", "--data", "people", "--to", "map.safetensors"]


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="identiface")
    project.add_verbs(parser.add_subparsers(dest="verb", required=True))
    return parser


def test_flags_have_these_defaults(parser: Parser) -> None:
    given = parser.parse_args(NEEDED)
    assert (given.dimension, given.method, given.held_out, given.seed) == (128, "pca", 0.3, 0)
    assert given.to == Path("map.safetensors")
    assert given.threshold is None


@pytest.mark.parametrize(
    "wrong",
    [
        NEEDED[:-2],
        [*NEEDED[:-1], "map.onnx"],
        [*NEEDED, "--dimension", "63"],
        [*NEEDED, "--dimension", "1025"],
        [*NEEDED, "--held-out", "1"],
        [*NEEDED, "--threshold", "1.1"],
        [*NEEDED, "--method", "lda"],
    ],
)
def test_wrong_usage_exits_with_2(
    parser: Parser, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(wrong)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_there_is_not_replaced_unasked(parser: Parser, tmp_path: Path) -> None:
    target = tmp_path / "map.safetensors"
    target.write_bytes(b"kept")
    given = parser.parse_args([*NEEDED[:-1], str(target)])
    with pytest.raises(SettingsError, match="give --overwrite"):
        given.run(given)
    given = parser.parse_args([*NEEDED[:-1], str(target), "--overwrite"])
    with pytest.raises(InvalidInputError, match="cannot read folder people"):
        given.run(given)
    assert target.read_bytes() == b"kept"


@pytest.mark.parametrize("method", ["pca", "trained"])
def test_lines_say_rates_beside_each_other_and_the_cost(method: str, rng: np.random.Generator) -> None:
    labels = np.repeat(np.arange(30), 3)
    vectors = rng.normal(size=(30, 24))[labels] + 0.4 * rng.normal(size=(90, 24))
    values = {"dimension": 8, "method": method, "num_resamples": 20, "num_steps": 3}
    settings = ProjectionSettings(**values)  # type: ignore[arg-type]
    _, report = learn_projection(vectors, labels, 0.4, settings)
    text = "\n".join(project.project_lines(report, Path("map.safetensors")))
    for said in (
        "full, 24",
        "PCA, 8",
        "FNIR at FPIR 0.01",
        f"N = {report.full.num_enrolled} enrolled",
        "wrote map",
    ):
        assert said in text
    assert ("trained, 8" in text) == (method == "trained")


@pytest.mark.model
@pytest.mark.data
def test_a_map_is_learnt_from_pictures_and_served(
    parser: Parser, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tiny ONNX network, real faces found by the pipeline: a file that loads beside its base."""
    torch.set_num_threads(1)
    images, num_people = data_folder / "lfw" / "images", 0
    for person in sorted(images.iterdir()):
        pictures = sorted(person.iterdir())[:5]
        if len(pictures) == 5 and num_people < 20:
            num_people += 1
            (tmp_path / "people" / person.name).mkdir(parents=True)
            for picture in pictures:
                shutil.copy(picture, tmp_path / "people" / person.name)
    base, target = write_base(tmp_path / "big.onnx"), tmp_path / "big-64.safetensors"
    line = ["project", "--model", str(base), "--data", str(tmp_path / "people"), "--to", str(target)]
    given = parser.parse_args([*line, "--dimension", "64", "--device", "cpu", "--json"])

    given.run(given)

    told = json.loads(capsys.readouterr().out)
    assert (told["dimension_from"], told["dimension"], told["not_detected"]) == (DIMENSION, 64, 0)
    assert (told["num_people_learnt"], told["num_people_held_out"]) == (14, 6)
    assert told["held_out"]["full"]["num_enrolled"] == 3
    assert told["cost"]["fnir_at_fpir"]["0.1"]["low"] <= told["cost"]["fnir_at_fpir"]["0.1"]["high"]
    served = load_network(str(target), "cpu")
    assert (served.dimension, served.threshold) == (64, told["threshold"])
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["big-64.safetensors", "big.onnx"]
