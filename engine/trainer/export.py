"""A trained network to files that serve it: safetensors with its contract, and ONNX with its preprocessing.

Knows what the loaders read; knows nothing of how the network was trained, nor of servers.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.embedding import delta, half_weights, mapped_network, networks, onnx_network
from engine.embedding.checkpoints import CONTRACT_NAME, write_safetensors
from engine.embedding.dlib_resnet import DlibResNet
from engine.embedding.embed import Embedder
from engine.embedding.mapped_network import VectorMap
from engine.embedding.onnx_network import OnnxSettings
from engine.embedding.torch_network import TorchNetwork
from engine.embedding.weight_files import replaced_when_whole, sha256_of
from engine.errors import InvalidInputError, SettingsError, WeightsError
from engine.outputs import make_folder, whole_file
from engine.rules import check_contract_name
from engine.trainer.backbones import Backbone, as_network

PARITY_MAX = 1e-5
"""Largest difference of one number of a template between torch and an exported ONNX file."""
PARITY_CROPS = 4
SIDECAR_SUFFIX = ".json"


def export_safetensors(
    backbone: Backbone,
    path: Path,
    *,
    threshold: float | None = None,
    mirror: bool | None = None,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write the network with its contract, for `load_network(path)` to serve; the hex sha256 of its file.

    The digest of its contract is another than before training, so its templates never meet older ones.
    `threshold` and `mirror` None: the backbone's. `name` is the contract's (`contract_name_of`), None: its
    architecture. `metadata` is text of the caller's own, such as where the model card stands. A head is
    written beside its base. Raises SettingsError for a suffix other than ``.safetensors`` or a threshold that
    is no similarity, WeightsError where a tensor is not finite.
    """
    entries = _entries(backbone, path, threshold, mirror, name)
    check_suffix(path, ".safetensors")
    _check_finite(backbone.module, path)
    write_safetensors(path, backbone.module, {**(metadata or {}), **entries})
    return networks.load_network(str(path.resolve()), "cpu").weights_sha256


def check_suffix(path: Path, suffix: str) -> None:
    """Refuse a file of another suffix with a SettingsError."""
    if path.suffix != suffix:
        raise SettingsError(f"{path} should end with {suffix}: by that it is recognised when it is served")


def contract_name_of(path: Path) -> str:
    """Give the name of the contract of what is written at `path`: the file's or folder's own.

    Raises SettingsError where no contract may be called so.
    """
    whole = path.absolute()
    name = whole.stem if whole.suffix == ".safetensors" else whole.name
    try:
        check_contract_name(name, "the name of what is written, which is its contract's too,")
    except InvalidInputError as error:
        raise SettingsError(error.message, hint="Choose another name.") from error
    return name


def export_folder(
    backbone: Backbone,
    folder: Path,
    *,
    threshold: float | None = None,
    mirror: bool | None = None,
    card: str = "",
) -> str:
    """Write the network as a new folder of float16 files of a bounded size; the hex sha256 of its weights.

    The folder's name is that of its contract. dlib's ResNet is written as its difference to the packaged
    weights (`embedding.delta`), every other network whole (`embedding.half_weights`), a head beside its base.
    `card` is the text of a model card. Raises as `export_safetensors`, SettingsError for a folder that is
    there, and for a name that no contract may have.
    """
    _check_finite(backbone.module, folder)
    entries = _entries(backbone, folder, threshold, mirror, contract_name_of(folder))
    if isinstance(backbone.module, DlibResNet):
        is_mirrored = entries["mirror"] == "true"
        at = float(entries["threshold"])
        delta.write_delta(backbone.module, folder, threshold=at, mirror=is_mirrored, card=card)
    else:
        half_weights.write(folder, backbone.module, entries, card)
    # A folder may be called as a network is.
    return networks.load_network(str(folder.resolve()), "cpu").weights_sha256


def _entries(
    backbone: Backbone, path: Path, threshold: float | None, mirror: bool | None, name: str | None
) -> dict[str, str]:
    """Metadata by which what is written at `path` is served."""
    contract_threshold = backbone.threshold if threshold is None else threshold
    is_mirrored = backbone.mirror if mirror is None else mirror
    _check_threshold(contract_threshold)
    entries = {"threshold": repr(float(contract_threshold))}
    if name is not None:
        entries[CONTRACT_NAME] = name
    if backbone.base is not None:
        _check_no_mirror(is_mirrored)
        base_spec, module = _head_of(backbone)
        return mapped_network.metadata_of(path, base_spec, backbone.base, module, entries)
    scaling = backbone.scaling
    return {
        **entries,
        "architecture": backbone.name,
        "alignment": backbone.alignment.name,
        "mirror": "true" if is_mirrored else "false",
        "dimension": str(backbone.dimension),
        "mean_rgb": ",".join(map(repr, scaling.mean_rgb)),
        "divisor": repr(scaling.divisor),
    }


def with_base_in(backbone: Backbone, path: Path) -> Backbone:
    """Copy the weights of a head's base beside `path`, and give the same head over that copy.

    So a run can be over weights of any place. What has no base, or one known by name, stays as it is. Raises
    SettingsError where another file has the copy's name, InvalidInputError, StorageFullError.
    """
    spec = backbone.base_spec
    if spec is None or spec in networks.ARCHITECTURES:
        return backbone
    name, separator, rest = spec.partition("=")
    is_named = bool(separator) and name in networks.ARCHITECTURES
    base = Path(rest if is_named else spec)
    if base.resolve().parent == path.resolve().parent:
        return backbone
    is_copy = base.name.startswith(delta.COPY_PREFIX) and base.name != path.name
    copied = path.with_name(base.name if is_copy else f"{delta.COPY_PREFIX}{base.name}")
    if base.is_dir():
        make_folder(copied)
        for file in base.iterdir():
            if file.is_file():
                _copy(file, copied / file.name)
    else:
        _copy(base, copied)
        sidecar = base.with_name(base.name + SIDECAR_SUFFIX)
        if sidecar.is_file():
            _copy(sidecar, copied.with_name(copied.name + SIDECAR_SUFFIX))
    return dataclasses.replace(backbone, base_spec=f"{name}={copied}" if is_named else str(copied))


def _copy(source: Path, target: Path) -> None:
    """Copy a file, unless it is there already; another head may be served over what is there."""
    if target.exists():
        if sha256_of(target) != sha256_of(source):
            raise SettingsError(
                f"{target} is there already, and is not {source}", hint="Name a place in another folder."
            )
        return
    with whole_file(target) as file, source.open("rb") as read:
        shutil.copyfileobj(read, file)


def export_onnx(
    backbone: Backbone,
    path: Path,
    *,
    threshold: float | None = None,
    mirror: bool | None = None,
) -> float:
    """Write the network as ONNX, with ``<path>.json`` beside it for its scaling, crop, mirror and threshold.

    Input float32[n, 3, s, s] of scaled pixels in RGB, output raw float32[n, d]. A head is written together
    with its base, the base's mirror inside, where that runs in torch. What is written is run by onnxruntime
    and held against torch: answers the largest difference of a number of their templates, at most
    PARITY_MAX. Raises SettingsError where the extra ``train`` is not installed, WeightsError where the
    templates differ by more, or a tensor is not finite.
    """
    contract_threshold = backbone.threshold if threshold is None else threshold
    check_suffix(path, ".onnx")
    _check_threshold(contract_threshold)
    _check_finite(backbone.module, path)
    network = as_network(backbone)
    module, scaling_of = _whole(network)
    mirrored = network.mirror if mirror is None else mirror
    if backbone.base is not None:
        _check_no_mirror(mirrored)
    settings = OnnxSettings(
        mean=scaling_of.scaling.mean_rgb,
        scale=scaling_of.scaling.divisor,
        alignment=network.alignment.name,
        mirror=mirrored,
        threshold=contract_threshold,
    )
    with replaced_when_whole(path) as partial:
        partial.write_bytes(_traced(module, network.alignment.size_px).SerializeToString())
        difference = _parity(network, partial, settings)
        # Before the model takes its name: without these settings it would be served under others.
        with replaced_when_whole(path.with_name(path.name + SIDECAR_SUFFIX)) as sidecar:
            sidecar.write_bytes(msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
    return difference


def _check_no_mirror(is_mirrored: bool) -> None:
    if is_mirrored:
        raise SettingsError("a head does not mirror: its base's templates do where they should")


def _check_threshold(threshold: float) -> None:
    if not -1.0 <= threshold <= 1.0:
        raise SettingsError(f"threshold {threshold} is no similarity between -1 and 1")


def _check_finite(module: nn.Module, path: Path) -> None:
    bad = [
        name
        for name, values in module.state_dict().items()
        if values.is_floating_point() and not values.isfinite().all()
    ]
    if bad:
        raise WeightsError(
            f"{path} is not written: not finite: {', '.join(bad[:8])} ({len(bad)})",
            hint="Training went wrong: export an earlier checkpoint.",
        )


def _head_of(backbone: Backbone) -> tuple[str, VectorMap]:
    if backbone.base_spec is None or not isinstance(backbone.module, VectorMap):
        raise SettingsError(f"{backbone.name} has a base, but is no map of a network that can be named")
    return backbone.base_spec, backbone.module


def _whole(network: networks.Network) -> tuple[nn.Module, TorchNetwork]:
    """Module from scaled pixels to raw vectors, and the network whose scaling the pixels have."""
    if isinstance(network, TorchNetwork):
        return network.module, network
    if isinstance(network, mapped_network.MappedNetwork) and isinstance(network.base, TorchNetwork):
        base = network.base
        return _MappedWhole(copy.deepcopy(base.module).cpu(), network.module, base.mirror), base
    raise SettingsError(
        f"{network.name} has a base that does not run in torch: it cannot be written as one ONNX file",
        hint="Serve the .safetensors of the head beside its base.",
    )


class _MappedWhole(nn.Module):
    """A base, its mirror and unit length, and the map behind."""

    def __init__(self, base: nn.Module, vector_map: nn.Module, is_mirrored: bool):
        super().__init__()
        self.base = base
        self.vector_map = vector_map
        self.is_mirrored = is_mirrored

    def forward(self, pixels: Tensor) -> Tensor:
        raw = self.base(pixels)
        if self.is_mirrored:
            raw = raw + self.base(pixels.flip(3))
        mapped: Tensor = self.vector_map(functional.normalize(raw))
        return mapped


def _traced(module: nn.Module, size_px: int) -> Any:
    """The ONNX model, without the traces that tell where this program lies."""
    try:
        import onnx  # noqa: F401 (its absence is told before torch's)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"writing ONNX needs {error.name}", hint="pip install 'identiface[train]'"
        ) from error
    whole = module.cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with warnings.catch_warnings():
        # torch 2.13 copies its own tree specifications in a way that it deprecates.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        program = torch.onnx.export(
            whole,
            # Two, since a batch of one would be taken for a constant.
            (torch.zeros(2, 3, size_px, size_px),),
            dynamo=True,
            input_names=["pixels"],
            output_names=["vectors"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            verbose=False,
        )
    if program is None:
        raise WeightsError("torch made no ONNX model of this network")
    model: Any = program.model_proto
    for graph in (model.graph, *model.functions):
        for part in (*graph.node, *graph.value_info):
            del part.metadata_props[:]
            part.doc_string = ""
    return model


def _parity(network: networks.Network, path: Path, settings: OnnxSettings) -> float:
    """Largest difference of a number of the templates of random crops, under the network's own mirror."""
    size_px = network.alignment.size_px
    crops = np.random.default_rng(0).integers(0, 256, (PARITY_CROPS, size_px, size_px, 3), dtype=np.uint8)
    same = msgspec.structs.replace(settings, mirror=network.mirror)
    written = onnx_network.load(path, "cpu", torch.get_num_threads(), same)
    difference = float(np.abs(Embedder(written).embed(crops) - Embedder(network).embed(crops)).max())
    if not difference <= PARITY_MAX:
        raise WeightsError(
            f"the ONNX templates of {network.name} differ from torch's by {difference:.2g}, more than "
            f"{PARITY_MAX:.0e}: nothing is written",
            hint="Ship the .safetensors instead, and report this network.",
        )
    return difference
