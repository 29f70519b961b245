"""Names, paths and devices of networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from engine.embedding import inception_resnet, networks
from engine.embedding.checkpoints import write_safetensors
from engine.embedding.networks import load_network, resolve_device
from engine.errors import DeviceError, SettingsError, WeightsError


def test_auto_is_cuda_exactly_where_torch_sees_one() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_says_what_torch_sees() -> None:
    with pytest.raises(DeviceError, match=r"torch .* sees 0 CUDA devices"):
        resolve_device("cuda")
    with pytest.raises(DeviceError):
        load_network("dlib-resnet", "cuda")


@pytest.mark.parametrize("device", ["gpu", "", "CPU", "cuda:7"])
def test_other_devices_are_refused_naming_those_there_are(device: str) -> None:
    with pytest.raises(SettingsError, match="auto, cpu, cuda"):
        resolve_device(device)


def test_the_registry_has_the_names_that_the_loaders_use() -> None:
    built_in = set(networks.ARCHITECTURES) - set(networks.CONTRACTS)
    assert built_in == {
        "dlib-resnet",
        "nn4-small2",
        "inception-resnet-v1",
        "mobilefacenet",
        "timm",
        "mapped",
        "delta",
        "onnx",
    }
    assert networks.INCEPTION_RESNET == inception_resnet.NAME
    assert networks.DEFAULT_NETWORK in networks.ARCHITECTURES


@pytest.mark.parametrize("name", ["nn4-small2", "inception-resnet-v1", "onnx"])
def test_a_name_that_needs_a_file_says_so(name: str) -> None:
    with pytest.raises(SettingsError, match=f"network {name} needs a weight file .*{name}=/path"):
        load_network(name, "cpu")


def test_an_equals_sign_with_nothing_behind_is_refused() -> None:
    with pytest.raises(SettingsError, match="nothing after the ="):
        load_network("nn4-small2=", "cpu")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("dlib-resnt", "did you mean dlib-resnet"),
        ("nn4-smal2=/x", "did you mean nn4-small2"),
        ("", "neither a network .dlib-resnet, nn4-small2"),
        ("/nowhere/at/all.onnx", "nor an existing path$"),
        ("dlib-resnett=/nope.dat", "'dlib-resnett' is no network; .*did you mean dlib-resnet"),
    ],
)
def test_an_unknown_name_lists_the_known_and_guesses(spec: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_network(spec, "cpu")


def test_a_missing_file_behind_a_name_is_a_weights_error(tmp_path: Path) -> None:
    for name in ("dlib-resnet", "nn4-small2", "inception-resnet-v1", "onnx"):
        suffix = {"dlib-resnet": "dat", "onnx": "onnx"}.get(name, "safetensors")
        with pytest.raises(WeightsError, match="cannot read"):
            load_network(f"{name}={tmp_path}/gone.{suffix}", "cpu")


def test_a_path_is_recognised_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "x.dat").write_bytes(b"no network")
    with pytest.raises(WeightsError, match="not a dlib metric network"):
        load_network(str(tmp_path / "x.dat"), "cpu")
    (tmp_path / "a=b.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsError, match="no ONNX file"):
        load_network(str(tmp_path / "a=b.onnx"), "cpu")
    with pytest.raises(WeightsError, match="CSV layers"):
        load_network(str(tmp_path), "cpu")
    (tmp_path / "x.h5").write_bytes(b"no network")
    with pytest.raises(SettingsError, match=r"known are \.dat, \.onnx"):
        load_network(str(tmp_path / "x.h5"), "cpu")


def test_an_architecture_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, nn.Linear(1, 1), {"architecture": "resnet-9000"})
    with pytest.raises(SettingsError, match="says architecture 'resnet-9000'"):
        load_network(str(path), "cpu")


def test_threads_below_one_are_refused() -> None:
    with pytest.raises(SettingsError, match="num_threads is 0"):
        load_network("dlib-resnet", "cpu", num_threads=0)
