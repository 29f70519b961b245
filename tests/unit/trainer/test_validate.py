"""Judging by people held out."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from engine.errors import InvalidInputError
from engine.trainer import validate as validation
from engine.trainer.crop_set import CropSet
from engine.trainer.validate import halve, validate
from engine.types import Vectors
from tests.unit.trainer.faces import made_up_crops


def test_half_of_those_with_several_pictures_are_enrolled_with_their_first() -> None:
    crops = made_up_crops([3, 2, 4, 1, 2, 1], "arcface-112")
    halves = halve(crops, seed=1)
    assert len(halves.gallery) == 2
    enrolled = set(crops.labels[halves.gallery].tolist())
    assert enrolled == set(crops.labels[halves.mated].tolist())
    assert not enrolled & set(crops.labels[halves.strangers].tolist())
    assert {3, 5} <= set(crops.labels[halves.strangers].tolist())
    every = np.concatenate([halves.gallery, halves.mated, halves.strangers])
    assert sorted(every.tolist()) == list(range(len(crops)))
    for row in halves.gallery.tolist():
        assert crops.keys[row].endswith("/0.png")


@pytest.mark.parametrize("counts", [[1, 1, 1], [5], [5, 1, 1]])
def test_too_few_people_with_several_pictures_are_refused(counts: list[int]) -> None:
    with pytest.raises(InvalidInputError, match="two such people are needed"):
        halve(made_up_crops(counts, "arcface-112"), seed=0)


def by_label(crops: CropSet, noise: float) -> dict[bytes, Vectors]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(crops.num_identities, 64))
    made = centres[crops.labels] + rng.normal(size=(len(crops), 64)) * noise
    units = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return {crops.crops[row].tobytes(): units[row] for row in range(len(crops))}


def test_a_perfect_network_has_perfect_figures_and_a_blind_one_has_not() -> None:
    crops = made_up_crops([3] * 12, "arcface-112")
    for noise, is_good in ((0.01, True), (30.0, False)):
        known = by_label(crops, noise)

        def embed(pixels: np.ndarray, known: dict[bytes, Vectors] = known) -> Vectors:
            return np.stack([known[crop.tobytes()] for crop in pixels])

        figures = validate(crops, embed, seed=0)
        assert (figures["rank1"] == 1.0) == is_good
        assert (figures["fnir_at_fpir_0.01"] == 0.0) == is_good
        assert (figures["pair_accuracy"] > 0.99) == is_good
        assert figures["num_enrolled"] == 6
        assert figures["num_mated"] == 12
        assert figures["num_strangers"] == 18


def test_each_pair_is_compared_once_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 15)
    templates = rng.normal(size=(15, 6)).astype(np.float32)
    pairs = [(i, j) for i in range(15) for j in range(i + 1, 15)]
    wanted = [
        [templates[i].astype(np.float64) @ templates[j] for i, j in pairs if (labels[i] == labels[j]) == kind]
        for kind in (True, False)
    ]
    for block in (1, 7, 2**14):
        monkeypatch.setattr(validation, "COMPARED_PAIRS", block)
        for found, values in zip(validation._pairs(templates, labels, 0), wanted, strict=True):
            assert found == pytest.approx(values)


def test_more_pairs_than_are_judged_are_drawn_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "PAIRS_MAX", 9)
    labels = np.repeat(np.arange(5), 4)
    templates = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    every = templates.astype(np.float64) @ templates.T
    is_same = labels[:, None] == labels[None, :]
    drawn = validation._pairs(templates, labels, 3)
    for found, kind in zip(drawn, (is_same, ~is_same), strict=True):
        assert len(np.unique(found)) == 9
        assert np.isclose(found[:, None], every[np.triu(kind, k=1)]).any(1).all()
    assert np.array_equal(drawn[1], validation._pairs(templates, labels, 3)[1])
    assert not np.array_equal(drawn[1], validation._pairs(templates, labels, 4)[1])


def test_many_pairs_are_compared_in_bounded_memory() -> None:
    """As many crops as are looked at: neither all pairs' templates nor their numbers are held at once."""
    labels = np.arange(validation.PAIRED_MAX) // 3
    templates = np.random.default_rng(0).normal(size=(len(labels), 64)).astype(np.float32)
    tracemalloc.start()
    try:
        validation._pairs(templates, labels, 0)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200e6
