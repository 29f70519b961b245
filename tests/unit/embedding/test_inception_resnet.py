"""InceptionResnetV1 with heads of several sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from engine.embedding import inception_resnet
from engine.embedding.checkpoints import write_safetensors
from engine.embedding.facenet import InceptionResnetV1
from engine.embedding.networks import load_network
from engine.embedding.torch_network import TorchNetwork
from engine.errors import SettingsError, WeightsError


@pytest.fixture(scope="module")
def original() -> TorchNetwork:
    network = inception_resnet.seeded(seed=5)
    generator = torch.Generator().manual_seed(5)
    for module in network.module.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


@pytest.fixture
def crops(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)


def test_no_one_and_two_crops_give_that_many_vectors(
    original: TorchNetwork, crops: NDArray[np.uint8]
) -> None:
    assert original(crops[:0]).shape == (0, 128)
    one, two = original(crops[:1]), original(crops)
    assert two.shape == (2, 128)
    np.testing.assert_allclose(two[:1], one, rtol=1e-3, atol=1e-4)
    assert (original.name, original.alignment.name, original.dimension) == (
        "inception-resnet-v1",
        "facenet-160",
        128,
    )


def test_vectors_are_raw_and_those_of_facenet_pytorch_once_normalised(crops: NDArray[np.uint8]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        theirs = InceptionResnetV1(pretrained=None).eval()
    ours = inception_resnet.build(512)
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.tensor((crops.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128.0)
    with torch.inference_mode():
        raw, expected = ours.eval()(pixels), theirs(pixels)
    assert (raw.norm(dim=1) - 1).abs().max() > 0.01
    torch.testing.assert_close(nn.functional.normalize(raw), expected, rtol=1e-4, atol=1e-5)


def test_safetensors_give_back_the_outputs(
    original: TorchNetwork, tmp_path: Path, crops: NDArray[np.uint8]
) -> None:
    path = tmp_path / "net.safetensors"
    metadata = {"architecture": "inception-resnet-v1", "threshold": "0.6", "mirror": "true"}
    write_safetensors(path, original.module, metadata)
    loaded = load_network(str(path), "cpu")
    np.testing.assert_array_equal(loaded(crops), original(crops))
    assert (loaded.dimension, loaded.threshold, loaded.mirror) == (128, 0.6, True)


@pytest.mark.parametrize("has_logits", [False, True])
def test_facenet_pytorchs_own_file_of_512_numbers_is_read(
    tmp_path: Path, crops: NDArray[np.uint8], *, has_logits: bool
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(12)
        theirs = InceptionResnetV1(pretrained=None, classify=has_logits, num_classes=10).eval()
    assert ("logits.weight" in theirs.state_dict()) == has_logits
    path = tmp_path / "20180402-114759-vggface2.pt"
    torch.save(theirs.state_dict(), path)
    loaded = load_network(f"inception-resnet-v1={path}", "cpu")
    theirs.classify = False
    pixels = torch.tensor((crops.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128.0)
    with torch.inference_mode():
        expected = theirs(pixels).numpy()
    raw = loaded(crops)
    assert loaded.dimension == 512
    np.testing.assert_allclose(
        raw / np.linalg.norm(raw, axis=1, keepdims=True), expected, rtol=1e-3, atol=1e-5
    )


def test_a_bare_path_without_architecture_asks_for_the_name(original: TorchNetwork, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(original.module.state_dict(), path)
    with pytest.raises(SettingsError, match="does not say its architecture: give name=PATH"):
        load_network(str(path), "cpu")


def test_missing_extra_and_misshapen_tensors_are_named(original: TorchNetwork, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    state = dict(original.module.state_dict())
    del state["conv2d_1a.conv.weight"]
    state["more"] = torch.zeros(1)
    state["last_bn.bias"] = torch.zeros(64)
    torch.save(state, path)
    with pytest.raises(WeightsError) as caught:
        inception_resnet.load(path, "cpu")
    assert "missing: conv2d_1a.conv.weight" in caught.value.message
    assert "extra: more" in caught.value.message
    assert "misshapen: last_bn.bias [64] instead of [128]" in caught.value.message


@pytest.mark.parametrize("head", [None, torch.zeros(4), torch.zeros(32, 1792), torch.zeros(2048, 1792)])
def test_a_head_of_no_template_size_is_refused(tmp_path: Path, head: torch.Tensor | None) -> None:
    path = tmp_path / "net.pt"
    torch.save({} if head is None else {"last_linear.weight": head}, path)
    with pytest.raises(WeightsError):
        inception_resnet.load(path, "cpu")


def test_seeds_make_the_weights_and_leave_the_callers_random_state_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again = inception_resnet.seeded(1), inception_resnet.seeded(1)
    assert first.weights_sha256 == again.weights_sha256
    assert torch.equal(state, torch.get_rng_state())
