"""What is exported is served with the same templates: safetensors to the bit, ONNX to 1e-5."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.embedding.checkpoints import read_checkpoint
from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.errors import SettingsError, WeightsError
from engine.trainer import export
from engine.trainer.backbones import as_network, build_backbone
from engine.trainer.export import (
    PARITY_MAX,
    contract_name_of,
    export_folder,
    export_onnx,
    export_safetensors,
    with_base_in,
)


def crops_for(size_px: int, num: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(7).integers(0, 256, (num, size_px, size_px, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "spec",
    [
        "dlib-resnet",
        "mobilefacenet",
        "nn4-small2",
        "inception-resnet-v1",
        "timm:mobilenetv3_small_050",
        "head",
    ],
)
def test_safetensors_are_served_by_their_path_with_the_same_templates(tmp_path: Path, spec: str) -> None:
    backbone = build_backbone(spec, seed=1)
    path = tmp_path / "net.safetensors"
    export_safetensors(backbone, path)
    assert load_network(str(path), "cpu").name == as_network(backbone).name
    entries = {"card": "card.md"}
    sha256 = export_safetensors(backbone, path, threshold=0.42, name="mine", metadata=entries)
    served, trained = Embedder(load_network(str(path), "cpu")), Embedder(as_network(backbone))
    crops = crops_for(backbone.alignment.size_px)
    np.testing.assert_allclose(served.embed(crops), trained.embed(crops), atol=1e-6)
    contract = served.contract
    assert (contract.weights_sha256, contract.threshold, contract.dimension) == (sha256, 0.42, 128)
    assert (contract.mirror, contract.alignment) == (backbone.mirror, backbone.alignment.name)
    assert contract.name == "mine"
    assert read_checkpoint(path).metadata["card"] == "card.md"
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_trained_dlib_network_has_another_contract_and_may_drop_its_mirror(tmp_path: Path) -> None:
    backbone = build_backbone("dlib-resnet", seed=1)
    with torch.no_grad():
        backbone.module.get_parameter("head.weight").mul_(1.01)
    path = tmp_path / "net.safetensors"
    export_safetensors(backbone, path, mirror=False)
    served = Embedder(load_network(str(path), "cpu"))
    packaged = Embedder(load_network("dlib-resnet", "cpu"))
    assert not served.contract.mirror
    assert served.contract.digest != packaged.contract.digest
    assert served.contract.threshold == packaged.contract.threshold


def test_a_head_is_written_beside_its_base_alone(tmp_path: Path) -> None:
    base_path = tmp_path / "base.safetensors"
    export_safetensors(build_backbone("mobilefacenet", seed=1), base_path, mirror=True)
    head = build_backbone(f"head:{base_path}", seed=2, dimension=64)
    export_safetensors(head, tmp_path / "head.safetensors")
    crops = crops_for(112)
    served = Embedder(load_network(str(tmp_path / "head.safetensors"), "cpu")).embed(crops)
    np.testing.assert_allclose(served, Embedder(as_network(head)).embed(crops), atol=1e-6)
    (tmp_path / "sub").mkdir()
    with pytest.raises(SettingsError, match="lies in another folder"):
        export_safetensors(head, tmp_path / "sub" / "head.safetensors")
    with pytest.raises(SettingsError, match="a head does not mirror"):
        export_safetensors(head, tmp_path / "head.safetensors", mirror=True)


@pytest.mark.parametrize("spec", ["nn4-small2", "mobilefacenet", "timm:mobilenetv3_small_050", "head"])
def test_a_folder_of_any_network_is_served_with_nearly_the_same_templates(tmp_path: Path, spec: str) -> None:
    backbone = build_backbone(spec, seed=1)
    folder = tmp_path / "mine"
    sha256 = export_folder(backbone, folder, threshold=0.42, card="who it is for")
    served, trained = Embedder(load_network(str(folder), "cpu")), Embedder(as_network(backbone))
    contract = served.contract
    assert (contract.weights_sha256, contract.threshold, contract.dimension) == (sha256, 0.42, 128)
    assert (contract.mirror, contract.alignment) == (backbone.mirror, backbone.alignment.name)
    assert contract.name == "mine"
    crops = crops_for(backbone.alignment.size_px)
    similarities = np.einsum("nd,nd->n", served.embed(crops), trained.embed(crops), dtype=np.float64)
    assert (1.0 - similarities).max() < 1e-5
    assert sorted(path.name for path in folder.iterdir()) == [
        "contract.json",
        "model-card.md",
        "part-00.safetensors",
    ]
    export_safetensors(backbone, tmp_path / "mine.safetensors")
    part, whole = folder / "part-00.safetensors", tmp_path / "mine.safetensors"
    assert part.stat().st_size < 0.6 * whole.stat().st_size


def test_a_base_may_have_the_longest_name_and_a_folder_that_of_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / f"{'n' * 100}.safetensors"
    export_safetensors(build_backbone("mobilefacenet", seed=1), base, name=contract_name_of(base))
    export_safetensors(build_backbone(f"head:{base}", seed=2), tmp_path / "head.safetensors")
    name = Embedder(load_network(str(tmp_path / "head.safetensors"), "cpu")).contract.name
    assert name == f"mapped:{'n' * 93}"
    monkeypatch.chdir(tmp_path)
    export_folder(build_backbone("mobilefacenet", seed=1), Path("onnx"))
    assert load_network(str(tmp_path / "onnx"), "cpu").name == "onnx"


def test_a_head_over_a_delta_is_shipped_with_it(tmp_path: Path) -> None:
    trained = build_backbone("dlib-resnet", seed=1)
    with torch.no_grad():
        trained.module.get_parameter("head.weight").mul_(1.01)
    export_folder(trained, tmp_path / "made" / "delta")
    head = build_backbone(f"head:{tmp_path / 'made' / 'delta'}", seed=2)
    target = tmp_path / "run" / "head.safetensors"
    copied = with_base_in(head, target)
    export_safetensors(copied, target)
    again = tmp_path / "served" / "head.safetensors"
    export_safetensors(with_base_in(copied, again), again)
    assert sorted(path.name for path in again.parent.iterdir()) == ["base-delta", "head.safetensors"]
    crops = crops_for(150)
    for path in (target, again):
        served = Embedder(load_network(str(path), "cpu")).embed(crops)
        np.testing.assert_allclose(served, Embedder(as_network(head)).embed(crops), atol=1e-6)


def test_a_head_and_its_base_may_both_be_folders(tmp_path: Path) -> None:
    export_folder(build_backbone("mobilefacenet", seed=1), tmp_path / "made" / "base", mirror=True)
    head = build_backbone(f"head:{tmp_path / 'made' / 'base'}", seed=2, dimension=64)
    target = tmp_path / "served" / "head"
    shipped = with_base_in(head, target)
    export_folder(shipped, target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["base-base", "head"]
    # Named again, the copy stays.
    assert with_base_in(head, target).base_spec == shipped.base_spec == str(target.with_name("base-base"))
    (tmp_path / "made").rename(tmp_path / "moved")
    crops = crops_for(112)
    served = Embedder(load_network(str(target), "cpu"))
    np.testing.assert_allclose(served.embed(crops), Embedder(as_network(head)).embed(crops), atol=1e-3)
    assert served.contract.name == "head"
    # Another base of its name is not written over it.
    export_folder(build_backbone("mobilefacenet", seed=3), tmp_path / "made" / "base", mirror=True)
    other = build_backbone(f"head:{tmp_path / 'made' / 'base'}", seed=2, dimension=64)
    with pytest.raises(SettingsError, match="is there already, and is not"):
        with_base_in(other, target.with_name("other"))
    # A base that names the map is told by its digest, and not followed.
    contract = json.loads((target / "contract.json").read_text())
    contract["metadata"]["base"] = "head"
    (target / "contract.json").write_text(json.dumps(contract))
    with pytest.raises(WeightsError, match="was learnt on base head of sha256"):
        load_network(str(target), "cpu")


@pytest.mark.parametrize(
    ("spec", "is_mirrored"),
    [
        ("dlib-resnet", True),
        ("nn4-small2", False),
        ("mobilefacenet", True),
        ("timm:mobilenetv3_small_050", False),
        ("head", False),
    ],
)
def test_onnx_is_served_by_its_path_with_the_same_templates(
    tmp_path: Path, spec: str, *, is_mirrored: bool
) -> None:
    backbone = build_backbone(spec, seed=1)
    path = tmp_path / "net.onnx"
    difference = export_onnx(backbone, path, threshold=0.37, mirror=is_mirrored)
    assert difference <= PARITY_MAX
    served = Embedder(load_network(str(path), "cpu"))
    trained = Embedder(as_network(dataclasses.replace(backbone, mirror=is_mirrored)))
    crops = crops_for(backbone.alignment.size_px)
    np.testing.assert_allclose(served.embed(crops), trained.embed(crops), atol=PARITY_MAX)
    # Of one crop and of none: the number of crops is not built in.
    np.testing.assert_allclose(served.embed(crops[:1]), trained.embed(crops[:1]), atol=PARITY_MAX)
    assert served.embed(crops[:0]).shape == (0, 128)
    assert (served.contract.mirror, served.contract.threshold) == (is_mirrored, 0.37)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]
    sidecar = json.loads((tmp_path / "net.onnx.json").read_text())
    dlib = ([122.782, 117.001, 104.298], 256.0)
    mean, scale = {
        "dlib-resnet": dlib,
        "nn4-small2": ([0.0] * 3, 255.0),
        "mobilefacenet": ([127.5] * 3, 128.0),
        "timm:mobilenetv3_small_050": ([123.675, 116.28, 103.53], 255.0 * 0.678 / 3),
        "head": dlib,
    }[spec]
    assert sidecar["mean"] == pytest.approx(mean)
    assert sidecar["scale"] == pytest.approx(scale)
    # torch notes where each line of its caller lies.
    assert str(Path(__file__).parents[3]).encode() not in path.read_bytes()
    assert backbone.module.training


def test_a_model_that_differs_from_torch_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PARITY_MAX", -1.0)
    for name in ("net.onnx", "net.onnx.json"):
        (tmp_path / name).write_bytes(b"before")
    with pytest.raises(WeightsError, match="nothing is written"):
        export_onnx(build_backbone("head", seed=1), tmp_path / "net.onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "net.onnx": b"before",
        "net.onnx.json": b"before",
    }


def test_a_network_of_numbers_that_are_none_is_not_written(tmp_path: Path) -> None:
    backbone = build_backbone("mobilefacenet", seed=1)
    with torch.no_grad():
        backbone.module.get_parameter("head.convolution.weight")[0] = torch.nan
    writers = (export_safetensors, "net.safetensors"), (export_folder, "net"), (export_onnx, "net.onnx")
    for write, name in writers:
        with pytest.raises(WeightsError, match=r"not finite: head\.convolution\.weight"):
            write(backbone, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_wrong_suffixes_thresholds_and_folders_are_refused(tmp_path: Path) -> None:
    backbone = build_backbone("mobilefacenet", seed=1)
    with pytest.raises(SettingsError, match=r"should end with \.safetensors"):
        export_safetensors(backbone, tmp_path / "net.pt")
    with pytest.raises(SettingsError, match=r"should end with \.onnx"):
        export_onnx(backbone, tmp_path / "net.bin")
    with pytest.raises(SettingsError, match="no similarity"):
        export_safetensors(backbone, tmp_path / "net.safetensors", threshold=1.5)
    with pytest.raises(SettingsError, match="no similarity"):
        export_folder(backbone, tmp_path / "net", threshold=1.5)
    with pytest.raises(SettingsError, match="no similarity"):
        export_onnx(backbone, tmp_path / "net.onnx", threshold=float("nan"))
    with pytest.raises(WeightsError, match="cannot write"):
        export_safetensors(backbone, tmp_path / "nowhere" / "net.safetensors")
    nameless = dataclasses.replace(build_backbone("head", seed=1), base_spec=None)
    with pytest.raises(SettingsError, match="no map of a network that can be named"):
        export_safetensors(nameless, tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = build_backbone("mobilefacenet", seed=1)
    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SettingsError, match="writing ONNX needs onnxscript") as caught:
        export_onnx(backbone, path)
    assert "identiface[train]" in caught.value.hint
    assert path.read_bytes() == b"before"
