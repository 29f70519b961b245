"""Networks to train: where they start, their stages, and what freezing holds still."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.embedding import delta, dlib_resnet, inception_resnet, mobilefacenet, networks
from engine.embedding.checkpoints import sha256_of_state, write_safetensors
from engine.embedding.embed import Embedder
from engine.embedding.mapped_network import MappedNetwork, write_mapped
from engine.embedding.networks import load_network
from engine.errors import SettingsError, WeightsError
from engine.trainer.backbones import Backbone, as_network, build_backbone, freeze
from engine.trainer.export import export_safetensors

SPECS = (
    "dlib-resnet",
    "mobilefacenet",
    "nn4-small2",
    "inception-resnet-v1",
    "timm:mobilenetv3_small_050",
    "timm:vit_tiny_patch16_224",
    "head",
)


def pixels_for(backbone: Backbone, num: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if backbone.base is not None:
        return nn.functional.normalize(torch.randn(num, backbone.base.dimension, generator=generator))
    side = backbone.alignment.size_px
    return torch.randn(num, 3, side, side, generator=generator)


@pytest.mark.parametrize("spec", SPECS)
def test_stages_hold_every_parameter_once_and_in_the_order_of_the_network(spec: str) -> None:
    backbone = build_backbone(spec, seed=1)
    assert backbone.module.training
    held = [id(p) for stage in backbone.stages for p in stage.parameters()]
    assert sorted(held) == sorted(id(p) for p in backbone.module.parameters())
    assert all(next(stage.parameters(), None) is not None for stage in backbone.stages)
    freeze(backbone, 1)
    raw = backbone.module(pixels_for(backbone))
    assert raw.shape == (2, backbone.dimension)
    raw.square().sum().backward()
    # The last stage ends the network: with it alone to train, gradients reach it and nothing before.
    reached = [p.grad is not None for stage in backbone.stages for p in stage.parameters()]
    num_last = len(list(backbone.stages[-1].parameters()))
    assert reached == [False] * (len(reached) - num_last) + [True] * num_last


@pytest.mark.parametrize(
    ("spec", "num_stages"), [("dlib-resnet", 16), ("mobilefacenet", 20), ("nn4-small2", 11)]
)
def test_networks_have_the_stages_that_their_papers_draw(spec: str, num_stages: int) -> None:
    assert len(build_backbone(spec, seed=1).stages) == num_stages


def test_the_last_four_blocks_and_the_head_of_dlib_are_five_stages() -> None:
    backbone = build_backbone("dlib-resnet", seed=1)
    freeze(backbone, 5)
    trained = {name.rsplit(".", 2)[0] for name, p in backbone.module.named_parameters() if p.requires_grad}
    assert trained == {"blocks.10", "blocks.11", "blocks.12", "blocks.13", "head"}


def test_frozen_batch_normalisation_stays_in_evaluation_and_keeps_its_statistics() -> None:
    backbone = build_backbone("mobilefacenet", seed=1)
    freeze(backbone, 1)
    module = backbone.module
    before = copy.deepcopy(module.state_dict())
    module.train()
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module(pixels_for(backbone)).square().sum().backward()
    optimiser.step()
    changed = {name for name, values in module.state_dict().items() if not torch.equal(values, before[name])}
    assert changed == {name for name in before if name.startswith("head.")}
    assert module.get_submodule("head.normalisation").training
    assert not module.get_submodule("pool.normalisation").training
    module.eval()
    assert not module.get_submodule("head.normalisation").training


def test_a_deep_copy_is_frozen_by_itself() -> None:
    backbone = build_backbone("mobilefacenet", seed=1)
    freeze(backbone, 2)
    other = copy.deepcopy(backbone.module)
    freeze(backbone, 20)
    assert backbone.module.train().get_submodule("stem.normalisation").training
    assert other.train() is other
    assert not other.get_submodule("stem.normalisation").training
    assert other.get_submodule("stem").train() is other.get_submodule("stem")
    assert not other.get_parameter("stem.convolution.weight").requires_grad


def test_thawing_gives_back_what_was_frozen() -> None:
    backbone = build_backbone("mobilefacenet", seed=1)
    freeze(backbone, 1)
    freeze(backbone, len(backbone.stages))
    assert all(p.requires_grad for p in backbone.module.parameters())
    assert all(module.training for module in backbone.module.modules())
    assert not any(module.training for module in backbone.module.eval().modules())


@pytest.mark.parametrize("number", [0, -1, 17])
def test_a_number_of_stages_that_is_not_there_is_refused(number: int) -> None:
    with pytest.raises(SettingsError, match=f"num_trainable_stages is {number}; dlib-resnet has 1 to 16"):
        freeze(build_backbone("dlib-resnet", seed=1), number)


def test_dlib_starts_from_its_packaged_weights_or_from_scratch() -> None:
    packaged = build_backbone("dlib-resnet", seed=1)
    crops = np.random.default_rng(0).integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_network(packaged)(crops), load_network("dlib-resnet", "cpu")(crops))
    scratch, again, other = (
        build_backbone("dlib-resnet", seed=seed, is_from_scratch=True) for seed in (1, 1, 2)
    )
    digests = [sha256_of_state(b.module.state_dict()) for b in (scratch, again, other, packaged)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    # He's weights keep the size of what goes through, block after block.
    deviation = float(np.std(as_network(scratch)(crops)))
    assert 0.05 < deviation < 5.0


@pytest.mark.parametrize("dimension", [64, 128, 512])
def test_a_dimension_is_that_of_the_head(dimension: int) -> None:
    backbone = build_backbone("mobilefacenet", seed=1, dimension=dimension)
    assert backbone.dimension == dimension
    assert backbone.module.eval()(pixels_for(backbone)).shape == (2, dimension)


def test_a_checkpoint_of_another_template_size_keeps_all_but_its_head(tmp_path: Path) -> None:
    path = tmp_path / "vggface2.pt"
    theirs = inception_resnet.seeded(3, dimension=512).module.state_dict()
    torch.save(theirs, path)
    spec = "inception-resnet-v1"
    assert build_backbone(spec, seed=1, checkpoint=path).dimension == 512
    ours = build_backbone(spec, seed=1, checkpoint=path, dimension=128).module.state_dict()
    fresh = inception_resnet.seeded(1, dimension=128).module.state_dict()
    for name, values in ours.items():
        is_head = name.startswith(("last_linear", "last_bn"))
        assert is_head or name.endswith("num_batches_tracked") or torch.equal(values, theirs[name]), name
        assert not is_head or torch.equal(values, fresh[name]), name


def test_a_checkpoint_of_another_network_or_torn_in_half_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_safetensors(path, mobilefacenet.seeded(1).module, {"architecture": "mobilefacenet"})
    assert build_backbone("mobilefacenet", seed=2, checkpoint=path).name == "mobilefacenet"
    for spec, tensor in (
        ("dlib-resnet", r"missing: stem\.weight"),
        ("nn4-small2", r"missing: conv1\.weight"),
        ("inception-resnet-v1", r"last_linear\.weight"),
        ("timm:mobilenetv3_small_050", r"missing: conv_stem\.weight"),
        ("head", "no mapped network"),
    ):
        with pytest.raises(WeightsError, match=tensor):
            build_backbone(spec, seed=1, checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="no readable safetensors"):
        build_backbone("mobilefacenet", seed=1, checkpoint=path)


def test_timm_goes_on_from_a_trained_file_with_its_crop_and_another_head(tmp_path: Path) -> None:
    spec = "timm:mobilenetv3_small_050"
    first = build_backbone(spec, seed=1, dimension=64, alignment="facenet-160")
    path = tmp_path / "net.safetensors"
    write_safetensors(path, first.module, {"architecture": spec, "alignment": "facenet-160"})
    same = build_backbone(spec, seed=2, checkpoint=path)
    assert (same.dimension, same.alignment.name) == (64, "facenet-160")
    assert sha256_of_state(same.module.state_dict()) == sha256_of_state(first.module.state_dict())
    wider = build_backbone(spec, seed=2, checkpoint=path, dimension=256)
    assert (wider.dimension, wider.alignment.name) == (256, "facenet-160")
    name = "backbone.conv_stem.weight"
    assert torch.equal(wider.module.state_dict()[name], first.module.state_dict()[name])
    with pytest.raises(SettingsError, match="trained on facenet-160"):
        build_backbone(spec, seed=2, checkpoint=path, alignment="arcface-112")


def test_a_delta_goes_on_as_the_network_that_it_changes(tmp_path: Path) -> None:
    module = dlib_resnet.load(None, "cpu").module
    assert isinstance(module, dlib_resnet.DlibResNet)
    with torch.no_grad():
        module.head.weight += 0.01
    delta.write_delta(module, tmp_path / "moved", threshold=0.9)
    backbone = build_backbone("dlib-resnet", seed=1, checkpoint=tmp_path / "moved")
    assert (backbone.name, backbone.threshold) == ("dlib-resnet", 0.9)
    torch.testing.assert_close(
        backbone.module.get_parameter("head.weight"), module.head.weight, atol=1e-5, rtol=0
    )


def test_a_head_maps_its_bases_templates_and_goes_on_from_its_file(tmp_path: Path) -> None:
    backbone = build_backbone("head:dlib-resnet", seed=1, num_hidden=32, dimension=64)
    assert (backbone.name, backbone.alignment.name, backbone.dimension) == ("mapped", "dlib-150", 64)
    assert backbone.base is not None
    crops = np.random.default_rng(0).integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    vectors = Embedder(backbone.base).embed(crops)
    network = as_network(backbone)
    assert isinstance(network, MappedNetwork)
    with torch.no_grad():
        expected = backbone.module(torch.tensor(vectors)).numpy()
    np.testing.assert_allclose(network(crops), expected, rtol=1e-5, atol=1e-6)
    path = tmp_path / "head.safetensors"
    write_mapped(path, "dlib-resnet", backbone.base, network.module, {"threshold": "0.7"})
    again = build_backbone("head", seed=2, checkpoint=path)
    assert again.threshold == 0.7
    assert again.module.training
    assert sha256_of_state(again.module.state_dict()) == sha256_of_state(backbone.module.state_dict())
    other = tmp_path / "base.safetensors"
    write_safetensors(other, mobilefacenet.seeded(1).module, {"architecture": "mobilefacenet"})
    with pytest.raises(WeightsError, match="maps dlib-resnet of sha256"):
        build_backbone(f"head:{other}", seed=2, checkpoint=path)
    with pytest.raises(SettingsError, match="is a head already"):
        build_backbone(f"head:{path}", seed=2)


def test_a_network_made_of_a_backbone_is_left_alone_by_later_steps() -> None:
    backbone = build_backbone("mobilefacenet", seed=1)
    network = as_network(backbone)
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    before = network(crops)
    assert backbone.module.training
    with torch.no_grad():
        for values in backbone.module.parameters():
            values.mul_(1.1)
    np.testing.assert_array_equal(network(crops), before)
    assert as_network(backbone).weights_sha256 != network.weights_sha256


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("", {}, "no network '' can be trained"),
        ("resnet", {}, "there are dlib-resnet, inception"),
        ("onnx", {}, "no network 'onnx' can be trained"),
        ("onnx", {"checkpoint": Path("x.onnx")}, "no network 'onnx' can be trained"),
        ("timm:", {}, "has no backbone"),
        ("timm:resnet18", {"alignment": "arc"}, "alignment 'arc' is unknown"),
        ("mobilefacenet", {"alignment": "arcface-112"}, "its own alignment"),
        ("mobilefacenet", {"num_hidden": 2}, "are of heads"),
        ("nn4-small2", {"dimension": 64}, "gives 128 numbers, not 64"),
        ("dlib-resnet", {"dimension": 64}, "gives 128 numbers, not 64"),
        ("dlib-resnet", {"checkpoint": Path("x.dat"), "is_from_scratch": True}, "give one of them"),
        ("head:nowhere", {}, "neither a network"),
    ],
)
def test_specs_and_options_that_cannot_be_are_refused(
    spec: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        build_backbone(spec, seed=1, **options)  # type: ignore[arg-type]


def test_what_was_trained_on_from_a_shipped_delta_is_read_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "network.safetensors"
    trained = build_backbone("dlib-resnet", seed=3, is_from_scratch=True)
    export_safetensors(trained, path)
    # As `train export` asks for it where network.name is the delta's.
    monkeypatch.setattr(networks, "CONTRACTS", {"dlib-resnet-tuned": networks.ARCHITECTURES["dlib-resnet"]})
    again = build_backbone("dlib-resnet-tuned", seed=0, checkpoint=path)
    assert again.name == "dlib-resnet"
    expected = trained.module.state_dict()
    assert all(torch.equal(values, expected[name]) for name, values in again.module.state_dict().items())
