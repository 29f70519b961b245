"""MobileFaceNet against table 1 of its paper, and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from engine.embedding import mobilefacenet
from engine.embedding.checkpoints import write_safetensors
from engine.embedding.mobilefacenet import MobileFaceNet
from engine.embedding.networks import load_network
from engine.errors import InvalidInputError, WeightsError

TABLE_1 = {
    "stem": (64, 56),
    "depthwise": (64, 56),
    "blocks.4": (64, 28),
    "blocks.5": (128, 14),
    "blocks.11": (128, 14),
    "blocks.12": (128, 7),
    "blocks.14": (128, 7),
    "expand": (512, 7),
    "pool": (512, 1),
    "head": (128, 1),
}
"""Channels and side of what each row of the paper's table gives."""


@pytest.fixture
def crops(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)


def test_every_row_of_the_papers_table_has_its_shape() -> None:
    module = MobileFaceNet().eval()
    shapes = {}
    for name in TABLE_1:
        module.get_submodule(name).register_forward_hook(
            lambda _module, _given, x, name=name: shapes.update({name: (x.shape[1], x.shape[3])})
        )
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 112, 112)).shape == (1, 128)
    assert shapes == TABLE_1
    # The paper says 0.99 million parameters.
    assert 0.98e6 < sum(p.numel() for p in module.parameters()) < 1.01e6


def test_what_is_called_linear_has_no_prelu_and_equal_shapes_an_identity() -> None:
    module = MobileFaceNet()
    narrow = [layer for name, layer in module.named_modules() if name.endswith("narrow.activation")]
    assert len(narrow) == 15
    assert all(isinstance(layer, nn.Identity) for layer in narrow)
    assert sum(isinstance(layer, nn.PReLU) for layer in module.modules()) == 3 + 2 * 15
    assert [i for i, block in enumerate(module.blocks) if not block.has_identity] == [0, 5, 12]


def test_scaled_pixels_are_the_papers(crops: NDArray[np.uint8]) -> None:
    network = mobilefacenet.seeded(seed=2)
    pixels = torch.tensor((crops.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128.0)
    with torch.inference_mode():
        expected = network.module(pixels).numpy()
    np.testing.assert_allclose(network(crops), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    assert network(crops[:0]).shape == (0, 128)
    with pytest.raises(InvalidInputError, match="112, 112"):
        network(crops[:, :96, :96])


@pytest.mark.parametrize("dimension", [64, 512])
def test_safetensors_give_back_the_outputs_of_any_template_size(
    tmp_path: Path, crops: NDArray[np.uint8], dimension: int
) -> None:
    original = mobilefacenet.seeded(seed=3, dimension=dimension)
    path = tmp_path / "net.safetensors"
    metadata = {"architecture": "mobilefacenet", "threshold": "0.31", "mirror": "true"}
    write_safetensors(path, original.module, metadata)
    loaded = load_network(str(path), "cpu")
    np.testing.assert_array_equal(loaded(crops), original(crops))
    assert (loaded.name, loaded.dimension, loaded.threshold, loaded.mirror, loaded.alignment.name) == (
        "mobilefacenet",
        dimension,
        0.31,
        True,
        "arcface-112",
    )
    assert load_network(f"mobilefacenet={path}", "cpu").weights_sha256 == loaded.weights_sha256


def test_a_file_of_another_network_names_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"missing or misshapen: head\.convolution\.weight"):
        mobilefacenet.load(path, "cpu")
    state = dict(MobileFaceNet().state_dict())
    del state["stem.convolution.weight"]
    state["more"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"missing: stem\.convolution\.weight; extra: more"):
        mobilefacenet.load(path, "cpu")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"alignment": "dlib-150"}, "crops of 150 px; this network takes 112"),
        ({"alignment": "arc"}, "none of dlib-150"),
        ({"mean_rgb": "1,2"}, "mean_rgb or divisor"),
        ({"mean_rgb": "1,2,x"}, "mean_rgb or divisor"),
        ({"divisor": "0"}, "above 0"),
        ({"divisor": "nan"}, "finite"),
    ],
)
def test_metadata_that_cannot_be_are_refused(tmp_path: Path, metadata: dict[str, str], said: str) -> None:
    path = tmp_path / "net.safetensors"
    write_safetensors(path, MobileFaceNet(), metadata)
    with pytest.raises(WeightsError, match=said):
        mobilefacenet.load(path, "cpu")


def test_seeds_make_the_weights_and_leave_the_callers_random_state_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (mobilefacenet.seeded(seed).weights_sha256 for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())
