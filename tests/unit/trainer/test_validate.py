"""Judging by people held out."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidInputError
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
