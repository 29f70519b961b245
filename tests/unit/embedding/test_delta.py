"""Deltas over dlib's packaged weights: written, loaded, and refused when damaged."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from engine.embedding import delta, dlib_resnet, networks
from engine.embedding.dlib_resnet import DlibResNet
from engine.embedding.networks import load_network
from engine.errors import SettingsError, WeightsError


@pytest.fixture(scope="module")
def base() -> DlibResNet:
    module = dlib_resnet.load(None, "cpu").module
    assert isinstance(module, DlibResNet)
    return module


@pytest.fixture(scope="module")
def trained(base: DlibResNet) -> DlibResNet:
    """The last four blocks and the head moved a little."""
    module = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (*list(module.blocks)[-4:], module.head):
            for values in part.parameters():
                values.add_(torch.randn(values.shape, generator=generator), alpha=1e-3)
    return module


@pytest.fixture
def folder(tmp_path: Path, trained: DlibResNet) -> Path:
    path = tmp_path / "dlib-resnet-x1"
    delta.write_delta(trained, path, threshold=0.9, card="who it is for")
    return path


def rewrite(folder: Path, **fields: Any) -> None:
    path = folder / "contract.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_sum_is_the_base_plus_float16_differences_to_the_bit(
    folder: Path, base: DlibResNet, trained: DlibResNet
) -> None:
    network = delta.load(folder, "cpu")
    theirs, start = trained.state_dict(), base.state_dict()
    for name, values in network.module.state_dict().items():
        expected = start[name].numpy() + (theirs[name] - start[name]).numpy().astype(np.float16).astype(
            np.float32
        )
        np.testing.assert_array_equal(values.numpy(), expected)
    assert (network.name, network.alignment.name, network.mirror, network.threshold) == (
        "dlib-resnet-x1",
        "dlib-150",
        True,
        0.9,
    )
    assert network.weights_sha256 != dlib_resnet.WEIGHTS_SHA256


def test_templates_stay_those_of_the_trained_network(folder: Path, trained: DlibResNet) -> None:
    network = delta.load(folder, "cpu")
    crops = np.random.default_rng(2).integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    pixels = torch.tensor(crops.transpose(0, 3, 1, 2).astype(np.float32))
    scaled = (pixels - torch.tensor(network.scaling.mean_rgb)[:, None, None]) / network.scaling.divisor
    with torch.inference_mode():
        expected = trained(scaled).numpy()
    np.testing.assert_allclose(network(crops), expected, atol=1e-4)
    packaged = load_network("dlib-resnet", "cpu")(crops)
    assert np.abs(packaged - expected).max() > 1e-2


def test_files_stay_under_four_mebibytes_and_hold_only_what_changed(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert all(path.stat().st_size < 4 << 20 for path in shards)
    assert sum(path.stat().st_size for path in shards) < 10_000_000
    names = {name for path in shards for name in safetensors.torch.load_file(path)}
    assert names == {
        "head.weight",
        *(
            f"blocks.{i}.{part}.{t}"
            for i in range(10, 14)
            for part in ("first", "second")
            for t in ("weight", "bias")
        ),
    }


def test_a_folder_is_served_by_its_path_and_by_name(folder: Path) -> None:
    by_path = load_network(str(folder), "cpu")
    assert load_network(f"delta={folder}", "cpu").weights_sha256 == by_path.weights_sha256
    assert by_path.name == "dlib-resnet-x1"
    assert delta.read_contract(folder).card == "model-card.md"
    assert (folder / "model-card.md").read_text() == "who it is for"


def test_every_folder_with_a_contract_is_found_in_order(folder: Path) -> None:
    (folder.parent / "a-draft").mkdir()
    (folder.parent / "b").mkdir()
    (folder.parent / "b" / "contract.json").write_text("{}")
    assert [found.name for found in delta.folders(folder.parent)] == ["b", "dlib-resnet-x1"]
    assert delta.folders(folder / "nothing here") == []
    assert list(networks.CONTRACTS) == [found.name for found in delta.folders()]


def test_the_digest_follows_the_weights_and_not_the_threshold(folder: Path) -> None:
    before = delta.load(folder, "cpu").weights_sha256
    rewrite(folder, threshold=0.5, card="elsewhere")
    after = delta.load(folder, "cpu")
    assert (after.weights_sha256, after.threshold) == (before, 0.5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": 2}, "format 2 is not 1"),
        ({"name": "other"}, "contract of 'other'"),
        ({"base": "nn4-small2"}, "base 'nn4-small2' is unknown"),
        ({"alignment": "arcface-112"}, "not the base's dlib-150"),
        ({"threshold": 2.0}, "no similarity"),
        ({"threshold": "high"}, "no contract of a delta"),
        ({"colour": "red"}, "no contract of a delta"),
        ({"base_sha256": "0" * 64}, "of sha256 0000"),
        ({"shards": {"../x": ""}}, "plain file name"),
        ({"shards": {"gone.safetensors": "0"}}, r"cannot read weight file .*gone"),
    ],
)
def test_a_contract_that_cannot_be_is_refused(folder: Path, fields: dict[str, Any], said: str) -> None:
    rewrite(folder, **fields)
    with pytest.raises(WeightsError, match=said):
        delta.load(folder, "cpu")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b" " * (64 << 10) + b"{}"])
def test_a_damaged_contract_is_refused(folder: Path, content: bytes) -> None:
    (folder / "contract.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"contract\.json"):
        delta.load(folder, "cpu")


def test_a_flipped_bit_or_a_torn_shard_is_found_by_its_digest(folder: Path) -> None:
    path = folder / "part-01.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"part-01\.safetensors is damaged"):
            delta.load(folder, "cpu")


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ([{"neck.weight": torch.zeros(1, dtype=torch.float16)}], "extra: neck.weight"),
        (
            [{"stem.bias": torch.zeros(3, dtype=torch.float16)}],
            r"misshapen: stem.bias \[3\] instead of \[32\]",
        ),
        ([{"stem.bias": torch.zeros(32)}], "no finite float16"),
        ([{"stem.bias": torch.full((32,), torch.inf, dtype=torch.float16)}], "no finite float16"),
        ([{"stem.bias": torch.zeros(32, dtype=torch.float16)}] * 2, "in two shards"),
    ],
)
def test_differences_that_do_not_fit_the_base_are_named(
    folder: Path, shards: list[dict[str, torch.Tensor]], said: str
) -> None:
    digests = {}
    for number, shard in enumerate(shards):
        path = folder / f"{number}.safetensors"
        safetensors.torch.save_file(shard, path)
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(folder, shards=digests)
    with pytest.raises(WeightsError, match=said):
        delta.load(folder, "cpu")


def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, base: DlibResNet, folder: Path, trained: DlibResNet
) -> None:
    with pytest.raises(SettingsError, match="nothing to write"):
        delta.write_delta(base, tmp_path / "same", threshold=0.9)
    with pytest.raises(SettingsError, match="there already"):
        delta.write_delta(trained, folder, threshold=0.9)
    with pytest.raises(SettingsError, match="no similarity"):
        delta.write_delta(trained, tmp_path / "high", threshold=1.5)
    for value in (1e6, float("nan")):
        wild = copy.deepcopy(base)
        with torch.no_grad():
            wild.get_parameter("stem.bias")[0] = value
        with pytest.raises(WeightsError, match=r"stem\.bias is not finite or too large"):
            delta.write_delta(wild, tmp_path / "wild", threshold=0.9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
