"""Templates of crops: unit length, mirroring, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.embedding.align import ALIGNMENTS
from engine.embedding.embed import Embedder
from engine.embedding.torch_network import Scaling, TorchNetwork
from engine.errors import EngineError, InvalidInputError, SettingsError, WeightsError

DIMENSION = 64
SIZE_PX = 96


class Projection(nn.Module):
    """A seeded linear map of coarse pixels: not symmetric under mirroring."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.weight = nn.Parameter(torch.randn(3 * 16, DIMENSION, generator=generator))

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(pixels, SIZE_PX // 4).flatten(1) @ self.weight


def network(module: nn.Module, *, mirror: bool) -> TorchNetwork:
    return TorchNetwork(
        name="projection",
        alignment=ALIGNMENTS["openface-96"],
        dimension=DIMENSION,
        weights_sha256="ab" * 32,
        device="cpu",
        mirror=mirror,
        threshold=0.25,
        module=module,
        scaling=Scaling(mean_rgb=(10.0, 20.0, 30.0), divisor=128.0),
    )


def some_crops(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def oracle(crops: NDArray[np.uint8], *, mirror: bool) -> NDArray[np.float64]:
    weight = Projection().weight.detach().numpy().astype(np.float64)

    def raw(crop: NDArray[np.uint8]) -> NDArray[np.float64]:
        scaled = (crop.astype(np.float64) - (10, 20, 30)) / 128
        cells = scaled.reshape(4, 24, 4, 24, 3).mean(axis=(1, 3))
        vector: NDArray[np.float64] = cells.transpose(2, 0, 1).reshape(-1) @ weight
        return vector

    sums = [raw(crop) + raw(crop[:, ::-1]) if mirror else raw(crop) for crop in crops]
    return np.array([vector / np.linalg.norm(vector) for vector in sums]).reshape(len(crops), DIMENSION)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_templates_are_the_oracles_for_any_number_of_crops(
    rng: np.random.Generator, count: int, *, mirror: bool
) -> None:
    crops = some_crops(rng, count)
    templates = Embedder(network(Projection(), mirror=mirror), batch_faces_max=4).embed(crops)
    assert templates.shape == (count, DIMENSION)
    assert templates.dtype == np.float32
    assert templates.flags.c_contiguous
    np.testing.assert_allclose(templates, oracle(crops, mirror=mirror), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(templates.astype(np.float64), axis=1), 1.0, atol=1e-6)


def test_a_crop_and_its_mirror_image_have_one_template_only_where_the_contract_mirrors(
    rng: np.random.Generator,
) -> None:
    crops = some_crops(rng, 3)
    mirrored = crops[:, :, ::-1]
    with_mirror = Embedder(network(Projection(), mirror=True))
    np.testing.assert_allclose(with_mirror.embed(crops), with_mirror.embed(mirrored), atol=1e-6)
    without = Embedder(network(Projection(), mirror=False))
    assert np.abs(without.embed(crops) - without.embed(mirrored)).max() > 0.01


def test_the_batch_size_does_not_change_templates(rng: np.random.Generator) -> None:
    crops = some_crops(rng, 7)
    at_once = Embedder(network(Projection(), mirror=True), batch_faces_max=32).embed(crops)
    one_by_one = Embedder(network(Projection(), mirror=True), batch_faces_max=1).embed(crops)
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-6)


def test_the_contract_says_what_the_network_is() -> None:
    embedder = Embedder(network(Projection(), mirror=True))
    contract = embedder.contract
    assert (contract.name, contract.weights_sha256) == ("projection", "ab" * 32)
    assert (contract.alignment, contract.mirror, contract.dimension) == ("openface-96", True, DIMENSION)
    assert (contract.normalisation, contract.threshold) == ("l2", 0.25)
    assert embedder.alignment == ALIGNMENTS["openface-96"]
    assert embedder.device == "cpu"


def test_read_only_and_strided_crops_are_taken(rng: np.random.Generator) -> None:
    crops = some_crops(rng, 4)
    embedder = Embedder(network(Projection(), mirror=True))
    expected = embedder.embed(crops)
    crops.flags.writeable = False
    np.testing.assert_array_equal(embedder.embed(crops), expected)
    np.testing.assert_allclose(embedder.embed(crops[::-1])[::-1], expected, atol=1e-6)


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((2, 95, 96, 3), np.uint8),
        np.zeros((0, 95, 96, 3), np.uint8),
        np.zeros((2, 96, 96), np.uint8),
        np.zeros((96, 96, 3), np.uint8),
        np.zeros((2, 96, 96, 3), np.float32),
    ],
)
def test_crops_of_another_shape_or_type_are_refused(crops: NDArray[np.uint8]) -> None:
    with pytest.raises(InvalidInputError, match="takes uint8"):
        Embedder(network(Projection(), mirror=False)).embed(crops)


class Broken(nn.Module):
    """Gives `value` everywhere for dark crops, ones for others."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, pixels: Tensor) -> Tensor:
        is_dark = pixels.mean(dim=(1, 2, 3)) < 0
        values = torch.where(is_dark, self.value, 1.0)
        return values[:, None].expand(-1, DIMENSION)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_zero_or_not_finite_vector_is_an_error_never_a_template(value: float, *, mirror: bool) -> None:
    crops = np.full((3, SIZE_PX, SIZE_PX, 3), 200, np.uint8)
    crops[2] = 0
    with pytest.raises(WeightsError, match="crop 2 of 3") as caught:
        Embedder(network(Broken(value), mirror=mirror)).embed(crops)
    assert isinstance(caught.value, EngineError)


def test_a_very_long_vector_is_still_made_unit() -> None:
    crops = np.zeros((1, SIZE_PX, SIZE_PX, 3), np.uint8)
    template = Embedder(network(Broken(1e30), mirror=False)).embed(crops)
    np.testing.assert_allclose(np.linalg.norm(template), 1.0, atol=1e-6)


@pytest.mark.parametrize("batch_faces_max", [0, -1])
def test_a_batch_of_no_faces_is_refused(batch_faces_max: int) -> None:
    with pytest.raises(SettingsError, match="batch_faces_max"):
        Embedder(network(Projection(), mirror=False), batch_faces_max=batch_faces_max)
