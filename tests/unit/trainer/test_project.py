"""A map keeps what PCA keeps, is judged by other people than it was learnt on, and is written whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.config import build
from engine.embedding.embed import Embedder
from engine.embedding.mapped_network import VectorMap
from engine.embedding.networks import load_network
from engine.errors import InvalidInputError, SettingsError
from engine.trainer.project import ProjectionSettings, fit_pca, learn_projection, project, refine
from engine.trainer.project_file import check_target, write_projection

DIMENSION, KEPT, SIZE_PX = 96, 64, 112
SETTINGS = ProjectionSettings(dimension=KEPT, num_resamples=50, num_steps=15)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def people() -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """60 people with 1 to 5 templates that lie near a space of 40 dimensions."""
    rng = np.random.default_rng(7)
    space = np.linalg.qr(rng.normal(size=(DIMENSION, 40)))[0].T
    centres = rng.normal(size=(60, 40)) @ space
    counts = rng.integers(1, 6, 60)
    labels = np.repeat(np.arange(60), counts)
    vectors = centres[labels] + rng.normal(size=(len(labels), 40)) @ space * 0.8
    vectors += rng.normal(size=vectors.shape) * 0.05
    return vectors.astype(np.float32), np.array([f"p{label:02d}" for label in labels])


def unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    units: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return units


@pytest.mark.parametrize("is_centred", [False, True])
def test_pca_keeps_what_singular_values_say(
    people: tuple[NDArray[np.float32], NDArray[np.str_]], is_centred: bool
) -> None:
    rows = unit(people[0])
    about = rows - rows.mean(axis=0) if is_centred else rows
    _, strengths, directions = np.linalg.svd(about, full_matrices=False)

    fitted, share = fit_pca(rows, KEPT, is_centred=is_centred)

    assert share == pytest.approx((strengths[:KEPT] ** 2).sum() / (strengths**2).sum())
    mapped = project(fitted, rows)
    assert mapped.shape == (len(rows), KEPT)
    kept = about @ directions[:KEPT].T
    assert mapped @ mapped.T == pytest.approx(kept @ kept.T, abs=1e-5)


def test_the_people_judged_by_are_not_those_learnt_on(
    people: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> None:
    learnt, report = learn_projection(*people, 0.4, SETTINGS)

    assert report.num_people_learnt + report.num_people_held_out == 60
    assert 15 <= report.num_people_held_out <= 21
    assert report.full.num_mated == report.pca.num_mated > 0
    assert (report.dimension_from, report.dimension, report.trained) == (DIMENSION, KEPT, None)
    # The people lie in fewer dimensions than are kept: the map costs next to nothing.
    assert abs(report.cost.rank1.value) < 0.05
    assert report.kept_share > 0.98
    assert -1.0 < report.threshold < 1.0
    values = json.loads(json.dumps(report.as_json()))
    assert set(values["held_out"]) == {"full", "pca", "trained"}
    again, _ = learn_projection(*people, 0.4, SETTINGS)
    assert torch.equal(learnt.last.weight, again.last.weight)


def test_a_map_to_too_few_numbers_costs(people: tuple[NDArray[np.float32], NDArray[np.str_]]) -> None:
    _, report = learn_projection(*people, 0.4, ProjectionSettings(dimension=2, num_resamples=50))
    assert report.cost.rank1.high < 0.0
    assert report.pca.rank1 < report.full.rank1


def test_the_threshold_accepts_as_many_strangers_as_before(
    people: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> None:
    strict = learn_projection(*people, 0.5, SETTINGS)[1].threshold
    lenient = learn_projection(*people, 0.2, SETTINGS)[1].threshold
    assert lenient < strict
    assert abs(strict - 0.5) < 0.15


@pytest.mark.parametrize(
    ("threshold", "told"), [(-0.9, "each"), (-1.0, "each"), (0.9, "none"), (1.0, "none")]
)
def test_a_threshold_that_no_pair_can_tell_is_not_mapped_but_may_be_given(
    people: tuple[NDArray[np.float32], NDArray[np.str_]], threshold: float, told: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"{threshold:.4f} cannot be mapped: {told} of") as caught:
        learn_projection(*people, threshold, SETTINGS)
    assert "--threshold" in caught.value.hint
    given = build(ProjectionSettings, {**as_values(SETTINGS), "threshold": 0.45})
    assert learn_projection(*people, threshold, given)[1].threshold == 0.45


def test_training_moves_the_map_and_says_its_rates(
    people: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> None:
    settings = build(ProjectionSettings, {**as_values(SETTINGS), "method": "trained"})
    learnt, report = learn_projection(*people, 0.4, settings)
    fitted, of_pca = learn_projection(*people, 0.4, SETTINGS)
    assert report.trained is not None
    assert report.pca == of_pca.pca
    assert not torch.equal(learnt.last.weight, fitted.last.weight)
    assert not learnt.training


def test_refining_lowers_the_loss_of_triplets(people: tuple[NDArray[np.float32], NDArray[np.str_]]) -> None:
    """Of templates in which noise is stronger than the people: there is much to be learnt."""
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(40), 6)
    people_part, noise = rng.normal(size=(40, 8))[labels], rng.normal(size=(240, 24)) * 2.0
    rows = unit(np.concatenate([people_part, noise], axis=1))
    fitted, _ = fit_pca(rows, 16, is_centred=False)
    settings = ProjectionSettings(dimension=16, num_steps=150, rate=3e-3)

    learnt = refine(fitted, rows, labels, settings)

    def gap(module: VectorMap) -> float:
        mapped = unit(project(module, rows))
        cosine = mapped @ mapped.T
        is_same = (labels[:, None] == labels) & ~np.eye(240, dtype=np.bool_)
        return float(cosine[is_same].mean() - cosine[labels[:, None] != labels].mean())

    assert gap(learnt) > gap(fitted) + 0.1


def test_templates_that_could_not_be_made_are_left_out(
    people: tuple[NDArray[np.float32], NDArray[np.str_]],
) -> None:
    vectors, labels = people
    more = np.concatenate([vectors, np.zeros((3, DIMENSION), np.float32)])
    _, report = learn_projection(more, np.append(labels, ["none"] * 3), 0.4, SETTINGS)
    assert report.num_people_learnt + report.num_people_held_out == 60


@pytest.mark.parametrize(
    ("rows", "dimension", "message"),
    [
        (slice(None), DIMENSION, "would save nothing"),
        (slice(0, 3), KEPT, "people have two pictures"),
        (slice(0, 60), KEPT, "as many"),
        (slice(0, 0), KEPT, "would save nothing|two pictures"),
    ],
)
def test_too_little_is_refused(
    people: tuple[NDArray[np.float32], NDArray[np.str_]], rows: slice, dimension: int, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        learn_projection(people[0][rows], people[1][rows], 0.4, ProjectionSettings(dimension=dimension))


def as_values(settings: ProjectionSettings) -> dict[str, int]:
    return {"dimension": settings.dimension, "num_resamples": 50, "num_steps": settings.num_steps}


def write_base(path: Path, dimension: int = DIMENSION) -> Path:
    """Average pool to 8x8 cells, then a seeded linear map to as many numbers."""
    weights = np.random.default_rng(1).standard_normal((192, dimension)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[14, 14], strides=[14, 14]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "base",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", dimension])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, str(path))
    return path


def test_a_written_map_is_a_network_that_gives_what_was_learnt(tmp_path: Path) -> None:
    """Crops through base and map in numpy, and through the file as the server loads it."""
    base_path, target = write_base(tmp_path / "base.onnx"), tmp_path / "base-64.safetensors"
    rng = np.random.default_rng(3)
    labels = np.repeat([f"p{i}" for i in range(40)], 4)
    faces = rng.integers(60, 196, (40, 8, 8, 3))[np.repeat(np.arange(40), 4)]
    crops = np.kron(faces + rng.integers(-30, 31, faces.shape), np.ones((1, 14, 14, 1), np.int64))
    crops = crops.astype(np.uint8)

    network = check_target(str(base_path), target, KEPT)
    assert not target.exists()
    templates = Embedder(network).embed(crops)
    learnt, report = learn_projection(templates, labels, network.threshold, SETTINGS)
    write_projection(target, str(base_path), network, learnt, report)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["base-64.safetensors", "base.onnx"]
    served = load_network(str(target), "cpu")
    assert (served.dimension, served.name) == (KEPT, "base-64")
    assert served.threshold == pytest.approx(report.threshold)
    wanted = unit(project(learnt, templates.astype(np.float64)))
    assert Embedder(served).embed(crops) == pytest.approx(wanted, abs=1e-5)


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.onnx")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(SettingsError, match="another folder"):
        check_target(str(base), elsewhere / "map.safetensors", KEPT)
    with pytest.raises(InvalidInputError, match="save nothing"):
        check_target(str(base), tmp_path / "map.safetensors", DIMENSION)
    with pytest.raises(SettingsError, match="must be 1 to 100 printable characters, not the 101 of"):
        check_target(str(base), tmp_path / f"{'n' * 101}.safetensors", KEPT)
    assert [path.name for path in tmp_path.glob("**/*.part")] == []
