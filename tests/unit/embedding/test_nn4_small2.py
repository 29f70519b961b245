"""OpenFace's nn4.small2: its architecture and its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from engine.embedding import nn4_small2
from engine.embedding.checkpoints import write_safetensors
from engine.embedding.networks import load_network
from engine.embedding.nn4_small2 import Nn4Small2
from engine.embedding.torch_network import TorchNetwork
from engine.errors import WeightsError

PARAMETERS_PUBLISHED = 3_733_968
"""Head of nn4.small2.def.lua: "Number of Parameters from net:getParameters() with embSize=128"."""


def randomised(seed: int) -> TorchNetwork:
    """Seeded, the running statistics too: untrained ones of 0 and 1 would hide a mix-up."""
    network = nn4_small2.seeded(seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                assert values is not None
                values.data.uniform_(0.5, 1.5, generator=generator)
    return network


def write_csv_folder(module: nn.Module, folder: Path, separator: str = ",") -> None:
    """Numbers in Torch7's order, flat, as exportWeight.lua of Keras-OpenFace writes them."""
    folder.mkdir(exist_ok=True)
    for tensor, stem in nn4_small2.csv_stems().items():
        values = module.state_dict()[tensor].reshape(-1).tolist()
        (folder / f"{stem}.csv").write_text(separator.join(map(repr, values)) + "\n")


@pytest.fixture(scope="module")
def original() -> TorchNetwork:
    return randomised(seed=3)


@pytest.fixture(scope="module")
def csv_folder(original: TorchNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nn4") / "weights"
    write_csv_folder(original.module, folder)
    return folder


@pytest.fixture
def folder_copy(csv_folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "weights"
    shutil.copytree(csv_folder, copy, copy_function=lambda source, target: Path(target).symlink_to(source))
    return copy


@pytest.fixture
def crops(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)


def test_it_has_as_many_parameters_as_openface_says() -> None:
    assert sum(values.numel() for values in Nn4Small2().parameters()) == PARAMETERS_PUBLISHED


def test_blocks_fit_onto_each_other_and_have_the_published_widths() -> None:
    widths = [block.num_outputs for block in nn4_small2.BLOCKS]
    assert widths == [256, 320, 640, 640, 1024, 736, 736]
    assert [block.num_inputs for block in nn4_small2.BLOCKS] == [192, *widths[:-1]]


def test_csv_names_are_those_of_keras_openface() -> None:
    stems = nn4_small2.csv_stems()
    assert len(stems) == 37 * (2 + 4) + 2
    assert stems["conv1.weight"] == "conv1_w"
    assert stems["bn1.running_var"] == "bn1_v"
    assert stems["inception_3a_3x3_conv1.weight"] == "inception_3a_3x3_conv1_w"
    assert stems["inception_3b_pool_bn.running_mean"] == "inception_3b_pool_bn_m"
    assert stems["inception_5b_1x1_conv.bias"] == "inception_5b_1x1_conv_b"
    assert stems["dense_layer.weight"] == "dense_w"
    assert not any(stem.startswith(("inception_3c_pool", "inception_5a_5x5")) for stem in stems.values())


def test_the_l2_pool_is_the_root_of_the_sum_of_squares(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 5, 8, 8)).astype(np.float32)
    expected = np.sqrt((x[:, :, :6, :6].reshape(2, 5, 2, 3, 2, 3) ** 2).sum(axis=(3, 5)))
    np.testing.assert_allclose(nn4_small2._l2_pool(torch.tensor(x)).numpy(), expected, rtol=1e-5)


def test_local_normalisation_is_that_of_torch7(rng: np.random.Generator) -> None:
    x = (100 * rng.standard_normal((1, 9, 2, 2))).astype(np.float32)
    expected = np.empty_like(x)
    for channel in range(9):
        near = x[:, max(0, channel - 2) : channel + 3]
        expected[:, channel] = x[:, channel] / (1 + 1e-4 / 5 * (near**2).sum(axis=1)) ** 0.75
    np.testing.assert_allclose(nn4_small2._normalise_locally(torch.tensor(x)).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("size_px", "target_px", "before"), [(5, 12, 3), (4, 12, 4), (5, 6, 0), (2, 6, 2), (1, 3, 1), (3, 3, 0)]
)
def test_a_small_branch_is_centred_with_the_paddings_of_keras_openface(
    size_px: int, target_px: int, before: int
) -> None:
    x = torch.arange(1.0, size_px**2 + 1).reshape(1, 1, size_px, size_px)
    padded = nn4_small2._centred(x, target_px)
    expected = torch.zeros(1, 1, target_px, target_px)
    expected[:, :, before : before + size_px, before : before + size_px] = x
    torch.testing.assert_close(padded, expected)


def test_a_block_concatenates_3x3_5x5_pool_and_1x1(original: TorchNetwork, rng: np.random.Generator) -> None:
    module = original.module
    assert isinstance(module, Nn4Small2)
    x = torch.tensor(rng.standard_normal((1, 192, 12, 12)).astype(np.float32))

    def layer(name: str, values: torch.Tensor) -> torch.Tensor:
        convolved = module.get_submodule(f"inception_3a_{name}".replace("#", "conv"))(values)
        result: torch.Tensor = module.get_submodule(f"inception_3a_{name}".replace("#", "bn"))(convolved)
        return result.relu()

    with torch.inference_mode():
        pooled = nn.functional.max_pool2d(x, 3, 2)
        expected = torch.cat(
            [
                layer("3x3_#2", layer("3x3_#1", x)),
                layer("5x5_#2", layer("5x5_#1", x)),
                nn.functional.pad(layer("pool_#", pooled), (3, 4, 3, 4)),
                layer("1x1_#", x),
            ],
            dim=1,
        )
        torch.testing.assert_close(module._inception(nn4_small2.BLOCKS[0], x), expected)


def test_no_one_and_three_crops_give_that_many_vectors(
    original: TorchNetwork, crops: NDArray[np.uint8]
) -> None:
    assert original(crops[:0]).shape == (0, 128)
    one, three = original(crops[:1]), original(crops)
    assert three.shape == (3, 128)
    assert three.dtype == np.float32
    np.testing.assert_allclose(three[:1], one, rtol=1e-4, atol=1e-5)


def test_seeds_make_the_weights() -> None:
    first, again, other = (nn4_small2.seeded(seed) for seed in (1, 1, 2))
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256


def test_a_csv_folder_gives_back_the_outputs(
    original: TorchNetwork, csv_folder: Path, crops: NDArray[np.uint8]
) -> None:
    loaded = load_network(str(csv_folder), "cpu")
    np.testing.assert_array_equal(loaded(crops), original(crops))
    assert (loaded.name, loaded.alignment.name, loaded.dimension) == ("nn4-small2", "openface-96", 128)
    assert len(loaded.weights_sha256) == 64


def test_safetensors_give_back_the_outputs(
    original: TorchNetwork, tmp_path: Path, crops: NDArray[np.uint8]
) -> None:
    path = tmp_path / "nn4.safetensors"
    write_safetensors(path, original.module, {"architecture": "nn4-small2", "threshold": "0.7"})
    by_path, by_name = load_network(str(path), "cpu"), load_network(f"nn4-small2={path}", "cpu")
    np.testing.assert_array_equal(by_path(crops), original(crops))
    assert by_path.weights_sha256 == by_name.weights_sha256
    assert by_path.threshold == 0.7


def test_files_with_a_number_a_line_or_named_after_the_layer_are_read_too(
    original: TorchNetwork, folder_copy: Path, crops: NDArray[np.uint8]
) -> None:
    for letter in "wb":
        values = (folder_copy / f"dense_{letter}.csv").read_text()
        (folder_copy / f"dense_{letter}.csv").unlink()
        (folder_copy / f"dense_layer_{letter}.csv").write_text(values.replace(",", "\n"))
    (folder_copy / ".DS_Store").write_bytes(b"\0")
    (folder_copy / "README.md").write_text("weights")
    np.testing.assert_array_equal(nn4_small2.load(folder_copy, "cpu")(crops), original(crops))


def test_other_numbers_have_another_digest(folder_copy: Path, csv_folder: Path) -> None:
    bias = (folder_copy / "bn1_b.csv").read_text().split(",")
    (folder_copy / "bn1_b.csv").unlink()
    (folder_copy / "bn1_b.csv").write_text(",".join(["0.25", *bias[1:]]))
    loaded, original = nn4_small2.load(folder_copy, "cpu"), nn4_small2.load(csv_folder, "cpu")
    assert loaded.weights_sha256 != original.weights_sha256


def replace(folder: Path, name: str, text: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_text(text)


def test_missing_and_extra_layers_are_named(folder_copy: Path) -> None:
    (folder_copy / "conv2_b.csv").unlink()
    replace(folder_copy, "conv9_b.csv", "1")
    with pytest.raises(WeightsError, match=r"missing \['conv2_b.csv'\] .*extra \['conv9_b.csv'\]"):
        nn4_small2.load(folder_copy, "cpu")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has 0 numbers instead of 64: misshapen conv1.bias"),
        ("1,2,3", "has 3 numbers instead of 64: misshapen conv1.bias"),
        (",".join(["one"] * 64), "conv1_b.csv holds something that is no number"),
        (",".join(["nan"] * 64), "not finite: conv1.bias"),
    ],
)
def test_a_misshapen_layer_is_named(folder_copy: Path, text: str, what: str) -> None:
    replace(folder_copy, "conv1_b.csv", text)
    with pytest.raises(WeightsError, match=what):
        nn4_small2.load(folder_copy, "cpu")


def test_an_empty_folder_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no folder of the CSV layers"):
        nn4_small2.load(tmp_path, "cpu")


def test_safetensors_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    write_safetensors(path, nn.Linear(2, 2), {"architecture": "nn4-small2"})
    with pytest.raises(WeightsError, match=r"missing: .*extra: bias, weight"):
        nn4_small2.load(path, "cpu")
