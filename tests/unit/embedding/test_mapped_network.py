"""Maps over the templates of other networks, and how their files hold on to their base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from engine.embedding import mapped_network, mobilefacenet
from engine.embedding.checkpoints import read_checkpoint, write_safetensors
from engine.embedding.embed import Embedder
from engine.embedding.mapped_network import VectorMap, map_vectors, write_mapped
from engine.embedding.networks import load_network
from engine.errors import InvalidInputError, SettingsError, WeightsError


def seeded_map(num_inputs: int = 128, dimension: int = 64, num_hidden: int = 0) -> VectorMap:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return VectorMap(num_inputs, dimension, num_hidden)


def write_base(path: Path, seed: int = 1, mirror: str = "true") -> Path:
    metadata = {"architecture": "mobilefacenet", "mirror": mirror, "threshold": "0.6"}
    write_safetensors(path, mobilefacenet.seeded(seed).module, metadata)
    return path


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base.safetensors")


@pytest.fixture
def map_path(base_path: Path) -> Path:
    path = base_path.with_name("map.safetensors")
    base = load_network(str(base_path), "cpu")
    write_mapped(path, str(base_path), base, seeded_map(num_hidden=32), {"card": "card.md"})
    return path


@pytest.fixture
def crops(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)


def test_templates_are_the_map_of_the_bases_templates_mirrored_once(
    base_path: Path, map_path: Path, crops: NDArray[np.uint8]
) -> None:
    base, network = load_network(str(base_path), "cpu"), load_network(str(map_path), "cpu")
    raw = base(crops) + base(np.ascontiguousarray(crops[:, :, ::-1]))
    unit = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float64)
    module = seeded_map(num_hidden=32)
    assert module.hidden is not None
    hidden = np.maximum(
        unit @ module.hidden.weight.detach().numpy().T + module.hidden.bias.detach().numpy(), 0
    )
    expected = hidden @ module.last.weight.detach().numpy().T + module.last.bias.detach().numpy()
    np.testing.assert_allclose(network(crops), expected, rtol=1e-4, atol=1e-5)
    embedder = Embedder(network)
    templates = embedder.embed(crops)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(templates, expected, atol=1e-5)
    assert embedder.contract.name == "mapped:mobilefacenet"
    assert not embedder.contract.mirror
    assert (embedder.contract.dimension, embedder.contract.threshold) == (64, 0.6)
    assert embedder.contract.digest != Embedder(base).contract.digest


def test_no_crop_and_crops_of_another_size(map_path: Path, crops: NDArray[np.uint8]) -> None:
    network = load_network(str(map_path), "cpu")
    assert network(crops[:0]).shape == (0, 64)
    with pytest.raises(InvalidInputError):
        network(crops[:, :100, :100])


def test_a_fresh_residual_map_is_the_identity() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 128)).astype(np.float32)
    for num_hidden in (0, 16):
        np.testing.assert_array_equal(
            map_vectors(VectorMap(128, 128, num_hidden, is_residual=True), vectors), vectors
        )
    assert map_vectors(VectorMap(128, 64), vectors[:0]).shape == (0, 64)


@pytest.mark.parametrize("num_hidden", [0, 48])
def test_a_residual_map_comes_back_from_its_file(
    tmp_path: Path, crops: NDArray[np.uint8], num_hidden: int
) -> None:
    base_path = write_base(tmp_path / "base.safetensors", mirror="false")
    base = load_network(str(base_path), "cpu")
    module = VectorMap(128, 128, num_hidden, is_residual=True)
    torch.nn.init.normal_(module.last.weight, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "map.safetensors"
    write_mapped(path, f"mobilefacenet={base_path}", base, module, {"threshold": "0.25"})
    network = load_network(f"mapped={path}", "cpu")
    np.testing.assert_array_equal(network(crops), map_vectors(module.eval(), Embedder(base).embed(crops)))
    assert network.threshold == 0.25
    assert read_checkpoint(path).metadata["base"] == "mobilefacenet=base.safetensors"


def test_a_map_of_the_packaged_network_needs_no_file(tmp_path: Path) -> None:
    base = load_network("dlib-resnet", "cpu")
    write_mapped(tmp_path / "map.safetensors", "dlib-resnet", base, seeded_map(), {})
    network = load_network(str(tmp_path / "map.safetensors"), "cpu")
    assert (network.name, network.alignment.name) == ("mapped:dlib-resnet", "dlib-150")


def test_another_base_of_the_same_name_is_refused_naming_both(base_path: Path, map_path: Path) -> None:
    before = load_network(str(base_path), "cpu").weights_sha256
    write_base(base_path, seed=2)
    after = load_network(str(base_path), "cpu").weights_sha256
    with pytest.raises(WeightsError, match=f"{before}.*{after}"):
        load_network(str(map_path), "cpu")


def test_a_base_that_is_not_beside_the_map_is_refused(base_path: Path, map_path: Path) -> None:
    base_path.rename(base_path.with_name("other.safetensors"))
    with pytest.raises(WeightsError, match=r"its base base\.safetensors is not beside it"):
        load_network(str(map_path), "cpu")


@pytest.mark.parametrize("base", ["../base.safetensors", "sub/base.safetensors", "/base.safetensors", ".."])
def test_a_base_elsewhere_is_never_followed(map_path: Path, base: str) -> None:
    checkpoint = read_checkpoint(map_path)
    safetensors.torch.save_file(checkpoint.state, map_path, {**checkpoint.metadata, "base": base})
    with pytest.raises(WeightsError, match=r"neither a network nor a file beside it|sha256"):
        load_network(str(map_path), "cpu")


def test_a_map_that_names_itself_or_another_map_is_refused(map_path: Path) -> None:
    checkpoint = read_checkpoint(map_path)
    own = {**checkpoint.metadata, "base": map_path.name, "base_sha256": checkpoint.sha256}
    safetensors.torch.save_file(checkpoint.state, map_path, own)
    with pytest.raises(WeightsError, match="was learnt on base"):
        load_network(str(map_path), "cpu")


def test_a_map_over_a_map_is_refused(map_path: Path) -> None:
    with pytest.raises(WeightsError, match="mapped network itself"):
        write_mapped(
            map_path.with_name("second.safetensors"),
            str(map_path),
            load_network(str(map_path), "cpu"),
            seeded_map(64, 64),
            {},
        )


def test_a_base_under_other_settings_is_refused(base_path: Path, map_path: Path) -> None:
    checkpoint = read_checkpoint(map_path)
    safetensors.torch.save_file(
        checkpoint.state, map_path, {**checkpoint.metadata, "base_contract": "0" * 64}
    )
    with pytest.raises(WeightsError, match="another contract"):
        load_network(str(map_path), "cpu")


def test_a_base_in_another_folder_is_refused_when_written(base_path: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "map.safetensors"
    with pytest.raises(SettingsError, match="lies in another folder"):
        write_mapped(path, str(base_path), load_network(str(base_path), "cpu"), seeded_map(), {})
    assert not path.exists()


def test_a_map_of_another_length_than_the_base_is_refused(base_path: Path) -> None:
    base = load_network(str(base_path), "cpu")
    with pytest.raises(WeightsError, match="takes vectors of 512 numbers; its base mobilefacenet gives 128"):
        write_mapped(base_path.with_name("map.safetensors"), str(base_path), base, seeded_map(512), {})


@pytest.mark.parametrize("sizes", [(0, 64, 0), (128, 0, 0), (128, 64, -1), (128, 64, 1 << 20)])
def test_sizes_that_cannot_be_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(SettingsError, match="sizes must be"):
        VectorMap(*sizes)
    with pytest.raises(SettingsError, match="residual"):
        VectorMap(128, 64, is_residual=True)


def test_a_torn_or_strange_map_is_refused(map_path: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(map_path)
    state = dict(checkpoint.state)
    safetensors.torch.save_file({**state, "more": torch.zeros(1)}, map_path, checkpoint.metadata)
    with pytest.raises(WeightsError, match="extra: more"):
        load_network(str(map_path), "cpu")
    del state["last.weight"]
    safetensors.torch.save_file(state, map_path, checkpoint.metadata)
    with pytest.raises(WeightsError, match=r"missing or misshapen: last\.weight"):
        load_network(str(map_path), "cpu")
    for lacking in ("base", "base_sha256", "base_contract"):
        metadata = {key: text for key, text in checkpoint.metadata.items() if key != lacking}
        safetensors.torch.save_file(checkpoint.state, map_path, metadata)
        with pytest.raises(WeightsError, match=f"metadata lack {lacking}"):
            mapped_network.load(map_path, "cpu")
    safetensors.torch.save_file(checkpoint.state, map_path, {**checkpoint.metadata, "residual": "maybe"})
    with pytest.raises(WeightsError, match="residual 'maybe'"):
        load_network(str(map_path), "cpu")
    whole = map_path.read_bytes()
    map_path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="no readable safetensors"):
        load_network(str(map_path), "cpu")
