"""Frozen stages run once: the same vectors, and batches by seed and step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.embedding.embed import Embedder
from engine.errors import SettingsError
from engine.trainer import trunk
from engine.trainer.backbones import build_backbone, freeze
from engine.trainer.learner import Faces
from engine.trainer.sampler import PKSampler
from engine.trainer.trunk import FeatureLoader
from tests.unit.trainer.faces import made_up_crops

CROPS = made_up_crops([3, 2, 4, 1])


@pytest.mark.parametrize("num_stages", [1, 2, 5, 15])
def test_a_network_cut_in_two_gives_its_own_vectors(num_stages: int) -> None:
    backbone = build_backbone("dlib-resnet", seed=0)
    cut = trunk.cut(backbone, num_stages)
    freeze(backbone, num_stages)
    pixels = torch.randn(2, 3, 150, 150, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(cut.tail(cut.trunk(pixels)), backbone.module(pixels), rtol=1e-5, atol=1e-5)
    learning = {id(p) for p in backbone.module.parameters() if p.requires_grad}
    assert learning == {id(p) for p in cut.tail.parameters()}


@pytest.mark.parametrize("num_stages", [0, 16, -1])
def test_no_stage_or_all_of_them_cannot_be_cut_off(num_stages: int) -> None:
    with pytest.raises(SettingsError, match="1 to 15"):
        trunk.cut(build_backbone("dlib-resnet", seed=0), num_stages)


def test_only_a_network_with_a_cut_is_cut() -> None:
    with pytest.raises(SettingsError, match="not for mobilefacenet"):
        trunk.cut(build_backbone("mobilefacenet", seed=0), 2)


def test_kept_features_give_the_vectors_of_faces_and_mirrors(tmp_path: Path) -> None:
    backbone = build_backbone("dlib-resnet", seed=0)
    cut = trunk.cut(backbone, 3)
    features = trunk.keep_features(
        CROPS, trunk.features_of_trunk(backbone, cut.trunk, "cpu"), "weights", tmp_path
    )
    rows = np.array([4, 0, 9])
    whole = Faces(backbone.module.eval(), backbone.scaling, is_mirrored=True, is_bfloat16=False)
    tail = Faces(cut.tail.eval(), None, is_mirrored=False, is_bfloat16=False)
    with torch.no_grad():
        expected = nn.functional.normalize(whole(torch.from_numpy(CROPS.crops[rows])))
        given = nn.functional.normalize(tail(features.take(rows)))
    assert (expected * given).sum(dim=1).min().item() > 0.999999


def test_kept_features_of_a_base_are_its_templates(tmp_path: Path) -> None:
    base = build_backbone("head:dlib-resnet", seed=0).base
    assert base is not None
    features = trunk.keep_features(CROPS, trunk.features_of_base(base), "weights", tmp_path)
    assert features.num_views == 1
    rows = np.array([4, 0, 9])
    given = features.take(rows)[:, 0].numpy()
    np.testing.assert_allclose(given, Embedder(base).embed(CROPS.crops[rows]), rtol=0, atol=1e-6)


def test_features_are_made_once_and_anew_for_other_weights_or_crops(tmp_path: Path) -> None:
    calls: list[int] = []

    def give(crops: np.ndarray) -> np.ndarray:
        calls.append(len(crops))
        return np.ones((len(crops), 1, 4), np.float32)

    trunk.keep_features(CROPS, give, "one", tmp_path)
    trunk.keep_features(CROPS, give, "one", tmp_path)
    assert calls == [10]
    trunk.keep_features(CROPS, give, "two", tmp_path)
    trunk.keep_features(CROPS.subset(np.arange(5)), give, "two", tmp_path)
    assert calls == [10, 10, 5]
    assert len(list(tmp_path.iterdir())) == 1


def test_batches_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    def give(crops: np.ndarray) -> np.ndarray:
        means = crops.reshape(len(crops), -1).mean(axis=1).astype(np.float32)
        return np.stack([means, -means], axis=1)[:, :, None]

    features = trunk.keep_features(CROPS, give, "weights", tmp_path)
    sampler = PKSampler(CROPS.labels, 2, 2, seed=5)
    loader = FeatureLoader(features, CROPS, sampler, 5, faces="crop")
    first = list(loader.batches(0, 12))
    again = list(FeatureLoader(features, CROPS, sampler, 5, faces="crop").batches(6, 12))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(first[6:], again, strict=True))
    signs = torch.cat([batch.pixels for batch in first]).sign().flatten()
    assert {-1.0, 1.0} == set(signs.tolist())
    both = next(iter(FeatureLoader(features, CROPS, sampler, 5, faces="template").batches(0, 1)))
    assert both.pixels.shape == (4, 2, 1)
    assert torch.equal(both.labels, torch.from_numpy(CROPS.labels[sampler.rows(0)]))


def test_parts_of_ranks_are_the_batch_of_one(tmp_path: Path) -> None:
    def give(crops: np.ndarray) -> np.ndarray:
        means = crops.reshape(len(crops), -1).mean(axis=1).astype(np.float32)
        return np.stack([means, -means], axis=1)[:, :, None]

    features = trunk.keep_features(CROPS, give, "weights", tmp_path)

    def batches(rank: int, num_ranks: int) -> list[torch.Tensor]:
        sampler = PKSampler(CROPS.labels, 2, 2, 5, rank, num_ranks)
        return [
            batch.pixels for batch in FeatureLoader(features, CROPS, sampler, 5, faces="crop").batches(0, 8)
        ]

    for whole, first, second in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        assert torch.equal(whole, torch.cat([first, second]))
