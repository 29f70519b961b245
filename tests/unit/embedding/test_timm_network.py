"""Backbones of timm: their names, crops, scaling and files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from engine.embedding import timm_network
from engine.embedding.align import ALIGNMENTS
from engine.embedding.checkpoints import write_safetensors
from engine.embedding.networks import load_network
from engine.errors import SettingsError, WeightsError

SMALL = "mobilenetv3_small_050"


def test_a_backbone_by_name_has_a_head_of_the_size_asked_for(rng: np.random.Generator) -> None:
    network = timm_network.seeded(SMALL, seed=1, dimension=64)
    crops = rng.integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    assert network(crops).shape == (2, 64)
    assert (network.name, network.alignment.name) == (f"timm:{SMALL}", "arcface-112")
    # timm's ImageNet mean and deviation.
    assert network.scaling.mean_rgb == pytest.approx((123.675, 116.28, 103.53))
    assert network.scaling.divisor == pytest.approx(255 * 0.226)


def test_a_backbone_of_fixed_size_is_made_for_the_crop(rng: np.random.Generator) -> None:
    network = timm_network.seeded("vit_tiny_patch16_224", 1, alignment=ALIGNMENTS["facenet-160"])
    crops = rng.integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    assert network(crops).shape == (1, 128)
    assert network.scaling.mean_rgb == (127.5, 127.5, 127.5)


@pytest.mark.parametrize("name", ["", "resnet1", "hf-hub:somebody/model", "../x", "local-dir:/x"])
def test_a_name_that_timm_does_not_have_is_refused_and_nothing_is_fetched(name: str) -> None:
    with pytest.raises(SettingsError, match="has no backbone"):
        timm_network.seeded(name, seed=1)


def test_near_names_are_told() -> None:
    with pytest.raises(SettingsError, match=r"some there are: .*resnet"):
        timm_network.seeded("resnet19000", seed=1)


def test_a_crop_that_the_backbone_cannot_take_is_refused_with_the_others() -> None:
    with pytest.raises(SettingsError, match="takes no crops of 150 px") as caught:
        timm_network.seeded("levit_128s", 1, alignment=ALIGNMENTS["dlib-150"])
    assert "facenet-160 (160 px)" in caught.value.hint


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingsError, match="needs timm") as caught:
        timm_network.seeded(SMALL, seed=1)
    assert "identiface[train]" in caught.value.hint


def test_a_file_is_served_by_its_path_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    original = timm_network.seeded(SMALL, seed=4, dimension=96, alignment=ALIGNMENTS["facenet-160"])
    path = tmp_path / "net.safetensors"
    metadata = {"architecture": f"timm:{SMALL}", "alignment": "facenet-160", "divisor": "60"}
    write_safetensors(path, original.module, metadata)
    loaded = load_network(str(path), "cpu")
    assert (loaded.name, loaded.alignment.name, loaded.dimension) == (f"timm:{SMALL}", "facenet-160", 96)
    pixels = torch.tensor(rng.integers(0, 256, (1, 160, 160, 3), dtype=np.uint8))
    scaled = (
        pixels.permute(0, 3, 1, 2).float() - torch.tensor(original.scaling.mean_rgb)[:, None, None]
    ) / 60
    with torch.inference_mode():
        expected = original.module(scaled).numpy()
    np.testing.assert_allclose(loaded(pixels.numpy()), expected, rtol=1e-4, atol=1e-5)


def test_a_file_of_another_backbone_or_of_none_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    module = timm_network.seeded(SMALL, seed=4).module
    write_safetensors(path, module, {})
    with pytest.raises(WeightsError, match="does not say which backbone"):
        load_network(f"timm={path}", "cpu")
    with pytest.raises(WeightsError, match=r"missing: .*backbone\.conv1\.weight"):
        timm_network.load(path, "cpu", "resnet18")
    safetensors.torch.save_file({"head.bias": torch.zeros(4)}, path, {"architecture": f"timm:{SMALL}"})
    with pytest.raises(WeightsError, match=r"missing or misshapen: head\.weight"):
        load_network(str(path), "cpu")


def test_timms_own_file_goes_under_a_fresh_head_without_its_classes(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(9)
    theirs = timm.create_model(SMALL, pretrained=False, num_classes=1000)
    path = tmp_path / "theirs.pt"
    torch.save(theirs.state_dict(), path)
    assert not timm_network.has_head(path)
    network = timm_network.load_original(SMALL, path, 5, 128, ALIGNMENTS["arcface-112"])
    state = network.module.state_dict()
    assert torch.equal(state["backbone.conv_stem.weight"], theirs.state_dict()["conv_stem.weight"])
    seeded = timm_network.seeded(SMALL, 5).module.state_dict()
    assert torch.equal(state["head.weight"], seeded["head.weight"])
    torch.save({**theirs.state_dict(), "conv_stem.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"misshapen: conv_stem\.weight"):
        timm_network.load_original(SMALL, path, 5, 128, ALIGNMENTS["arcface-112"])
