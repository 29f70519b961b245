"""Weights in float16 as a folder of shards: what is rounded, what is not, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from engine.embedding import half_weights, mobilefacenet, nn4_small2, shards
from engine.embedding.checkpoints import read_checkpoint
from engine.embedding.embed import Embedder
from engine.embedding.networks import Network, load_network
from engine.embedding.torch_network import TorchNetwork
from engine.errors import SettingsError, WeightsError

METADATA = {"architecture": "mobilefacenet", "threshold": "0.4", "mirror": "false"}
COSINE_DISTANCE_MAX = 1e-5
"""What rounding may cost, on untrained networks and random crops."""


def templates(network: Network, num: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    size_px = network.alignment.size_px
    crops = np.random.default_rng(3).integers(0, 256, (num, size_px, size_px, 3), dtype=np.uint8)
    return Embedder(network).embed(crops).astype(np.float64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "small"
    half_weights.write(path, mobilefacenet.seeded(1).module, METADATA)
    return path


def rewrite(folder: Path, **fields: Any) -> None:
    path = folder / "contract.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("network", [mobilefacenet.seeded(1), nn4_small2.seeded(1)], ids=lambda n: n.name)
def test_templates_stay_where_they_are_under_a_contract_of_their_own(
    tmp_path: Path, network: TorchNetwork
) -> None:
    folder = tmp_path / "v1.2"
    metadata = {"architecture": network.name, "threshold": "0.4", "mirror": "true"}
    half_weights.write(folder, network.module, metadata, card="who it is for")
    served = load_network(str(folder), "cpu")
    assert (served.name, served.threshold, served.mirror) == (network.name, 0.4, True)
    assert (folder / "model-card.md").read_text() == "who it is for"
    by_name = load_network(f"{network.name}={folder}", "cpu")
    assert by_name.weights_sha256 == served.weights_sha256 != network.weights_sha256
    half_weights.write(tmp_path / "plain", network.module, {**metadata, "mirror": "false"})
    plain = load_network(str(tmp_path / "plain"), "cpu")
    distances = 1.0 - np.einsum("nd,nd->n", templates(plain), templates(network))
    assert distances.max() < COSINE_DISTANCE_MAX
    assert np.abs(templates(plain) - templates(network)).max() > 0.0


def test_parameters_are_float16_and_buffers_float32_to_the_bit(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2), nn.Linear(2, 2))
    with torch.no_grad():
        # Two statistics and two parameters that float16 does not have, and a tensor that stays zero.
        module.get_buffer("1.running_mean")[0] = 1e6
        module.get_buffer("1.running_var")[0] = 1e-9
        module.get_parameter("2.weight")[0, 0] = 1e5
        module.get_parameter("3.weight").mul_(1e-8)
        module.get_parameter("3.bias").zero_()
    half_weights.write(tmp_path / "net", module, METADATA)
    stored = safetensors.torch.load_file(tmp_path / "net" / "part-00.safetensors")
    rounded = {"0.weight", "0.bias", "1.weight", "1.bias", "2.bias", "3.bias"}
    assert {name for name, values in stored.items() if values.dtype == torch.float16} == rounded
    kept = {"1.running_mean", "1.running_var", "2.weight", "3.weight"}
    assert {name for name, values in stored.items() if values.dtype == torch.float32} == kept
    state = read_checkpoint(tmp_path / "net").state
    assert {values.dtype for values in state.values()} == {torch.float32}
    for name, values in state.items():
        expected = module.state_dict()[name]
        assert torch.equal(values, expected.half().float() if name in rounded else expected)


def test_no_file_is_larger_than_its_limit_and_a_larger_tensor_is_refused(tmp_path: Path) -> None:
    module = nn.Sequential(*[nn.Linear(2000, 2000, bias=False) for _ in range(3)])
    half_weights.write(tmp_path / "net", module, METADATA)
    parts = sorted((tmp_path / "net").glob("*.safetensors"))
    assert [path.name for path in parts] == ["part-00.safetensors", "part-01.safetensors"]
    assert max(path.stat().st_size for path in parts) <= half_weights.SHARD_BYTES_MAX == 16 << 20
    assert sorted(read_checkpoint(tmp_path / "net").state) == ["0.weight", "1.weight", "2.weight"]
    with pytest.raises(WeightsError, match=r"weight of 32,000,000 bytes fits no shard") as caught:
        half_weights.write(tmp_path / "wide", nn.Linear(4000, 4000), METADATA)
    assert ".safetensors" in caught.value.hint
    with pytest.raises(SettingsError, match="is there already"):
        half_weights.write(tmp_path / "net", module, METADATA)
    assert [found.name for found in tmp_path.iterdir()] == ["net"]


def test_the_digest_follows_the_weights_and_what_scales_pixels_but_not_the_threshold(
    folder: Path, tmp_path: Path
) -> None:
    before = load_network(str(folder), "cpu").weights_sha256
    rewrite(folder, threshold=0.9, card="elsewhere")
    after = load_network(str(folder), "cpu")
    assert (after.weights_sha256, after.threshold) == (before, 0.9)
    rewrite(folder, metadata={"architecture": "mobilefacenet", "divisor": "64.0"})
    assert load_network(str(folder), "cpu").weights_sha256 != before
    half_weights.write(tmp_path / "again", mobilefacenet.seeded(1).module, METADATA)
    assert load_network(str(tmp_path / "again"), "cpu").weights_sha256 == before
    half_weights.write(tmp_path / "other", mobilefacenet.seeded(2).module, METADATA)
    assert load_network(str(tmp_path / "other"), "cpu").weights_sha256 != before


def test_a_missing_torn_or_flipped_shard_is_named(folder: Path) -> None:
    path = folder / "part-00.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"part-00\.safetensors is damaged"):
            load_network(str(folder), "cpu")
    path.unlink()
    with pytest.raises(WeightsError, match=r"cannot read weight file .*part-00\.safetensors"):
        load_network(str(folder), "cpu")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shards": {"part-00.safetensors": "0" * 64}}, "is damaged: sha256"),
        ({"shards": {"../part-00.safetensors": "0"}}, "plain file name"),
        ({"shards": {}}, "missing or misshapen: head"),
        ({"threshold": 2.0}, "no similarity"),
        ({"threshold": "high"}, "no contract of weights"),
        ({"colour": "red"}, "no contract of weights"),
        ({"metadata": {"architecture": "mobilefacenet", "alignment": "dlib-150"}}, "150 px"),
        # Another format is taken for a delta.
        ({"format": 3}, "contract"),
    ],
)
def test_a_contract_that_cannot_be_is_refused(folder: Path, fields: dict[str, Any], said: str) -> None:
    rewrite(folder, **fields)
    with pytest.raises(WeightsError, match=said):
        load_network(str(folder), "cpu")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [({}, "does not say its architecture"), ({"architecture": "resnet-9000"}, "architecture 'resnet-9000'")],
)
def test_an_architecture_that_is_not_known_is_refused(
    folder: Path, metadata: dict[str, str], said: str
) -> None:
    rewrite(folder, metadata=metadata)
    with pytest.raises(SettingsError, match=said):
        load_network(str(folder), "cpu")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b" " * (64 << 10) + b"{}"])
def test_a_damaged_contract_is_refused(folder: Path, content: bytes | None) -> None:
    path = folder / "contract.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert not half_weights.is_half(folder)
    with pytest.raises(WeightsError, match=r"contract\.json"):
        load_network(f"mobilefacenet={folder}", "cpu")


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    shutil.copy(folder / "part-00.safetensors", folder / "part-01.safetensors")
    digest = json.loads((folder / "contract.json").read_text())["shards"]["part-00.safetensors"]
    rewrite(folder, shards={"part-00.safetensors": digest, "part-01.safetensors": digest})
    with pytest.raises(WeightsError, match="is in two shards"):
        load_network(str(folder), "cpu")


def test_an_empty_module_is_a_folder_without_tensors(tmp_path: Path) -> None:
    assert list(shards.divided({}, half_weights.SHARD_BYTES_MAX)) == [{}]
    half_weights.write(tmp_path / "none", nn.Identity(), METADATA)
    assert read_checkpoint(tmp_path / "none").state == {}
