"""A learnt map of the templates of another network, as a network of its own.

Knows the map's file and how its base is named in it; knows nothing of how a map is learnt, nor of the base's
architecture.

A template of the base is made first, under the base's own contract (with its mirror, where it has one) and
of unit length; the map takes it to the raw vector. So this network does not mirror again, and its contract
says ``mirror: false``: what the base does is part of the weights, as the file's digest covers base_sha256 and
base_contract.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from engine.embedding import networks
from engine.embedding.align import Alignment
from engine.embedding.checkpoints import (
    Checkpoint,
    check_dimension,
    load_strictly,
    name_of,
    read_checkpoint,
    threshold_of,
    write_safetensors,
)
from engine.embedding.embed import Embedder
from engine.embedding.half_weights import is_half, read_contract
from engine.embedding.torch_network import check_crops
from engine.embedding.weight_files import sha256_of
from engine.errors import SettingsError, WeightsError
from engine.limits import CONTRACT_NAME_CHARS_MAX
from engine.types import Vectors

NAME = "mapped"
HIDDEN_MAX = 16384
"""Numbers of a hidden layer."""
BATCH_VECTORS = 4096
"""Templates that go through the map at once."""


class VectorMap(nn.Module):
    """float32[n, num_inputs] of unit length to raw float32[n, dimension].

    Linear, or through one hidden layer of ReLU; with `is_residual` the input is added to what comes out,
    and a fresh map is the identity.
    """

    def __init__(self, num_inputs: int, dimension: int, num_hidden: int = 0, *, is_residual: bool = False):
        """`num_hidden` 0: linear. Raises SettingsError where the sizes cannot be."""
        super().__init__()
        if num_inputs < 1 or dimension < 1 or not 0 <= num_hidden <= HIDDEN_MAX:
            raise SettingsError(
                f"a map of {num_inputs} numbers to {dimension} through {num_hidden}: "
                f"sizes must be at least 1, and num_hidden from 0 (none) to {HIDDEN_MAX}"
            )
        if is_residual and num_inputs != dimension:
            raise SettingsError(
                f"a residual map adds its input of {num_inputs} numbers to {dimension}: make them the same"
            )
        self.num_hidden = num_hidden
        self.is_residual = is_residual
        self.hidden = nn.Linear(num_inputs, num_hidden) if num_hidden else None
        self.last = nn.Linear(num_hidden or num_inputs, dimension)
        if is_residual:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, templates: Tensor) -> Tensor:
        """Raw vectors, not normalised."""
        x = templates if self.hidden is None else functional.relu(self.hidden(templates))
        raw: Tensor = self.last(x)
        return templates + raw if self.is_residual else raw


@dataclass(frozen=True, slots=True)
class MappedNetwork:
    """A `Network` over another one; made by `load` and `over`. As safe to call from threads as its base."""

    name: str
    """What the map's file says, else ``mapped:`` and the base's name in its contract, in which the base's
    preprocessing may stand."""
    base: networks.Network
    module: VectorMap
    dimension: int
    weights_sha256: str
    threshold: float
    _embedder: Embedder

    @property
    def alignment(self) -> Alignment:
        """The base's crop."""
        return self.base.alignment

    @property
    def device(self) -> str:
        """The base's device; the map runs on the CPU, where the base's templates arrive."""
        return self.base.device

    @property
    def mirror(self) -> bool:
        """Never: the base's templates take the mirrored crop in already where they should."""
        return False

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
        """Raw vectors float32[n, d], not normalised, of crops uint8[n, h, w, 3] in RGB; n may be 0.

        Raises InvalidInputError for crops of another size or type.
        """
        check_crops(crops, self.alignment.size_px)
        return map_vectors(self.module, self._embedder.embed(crops))


def map_vectors(module: VectorMap, templates: Vectors) -> Vectors:
    """Raw vectors float32[n, d] of templates float32[n, num_inputs] of unit length; n may be 0."""
    raw = np.empty((len(templates), module.last.out_features), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(templates), BATCH_VECTORS):
            part = torch.tensor(templates[start : start + BATCH_VECTORS])
            raw[start : start + BATCH_VECTORS] = module(part).numpy()
    return raw


def over(base: networks.Network, module: VectorMap, weights_sha256: str, threshold: float) -> MappedNetwork:
    """Join a base and a map, which is put into evaluation mode.

    Raises WeightsError where the base gives vectors of another length, is a mapped network itself, or the
    map gives what no template may have.
    """
    if isinstance(base, MappedNetwork):
        raise WeightsError("the base of a map is a mapped network itself: map the vectors of its own base")
    num_inputs = (module.hidden or module.last).in_features
    if num_inputs != base.dimension:
        raise WeightsError(
            f"the map takes vectors of {num_inputs} numbers; its base {base.name} gives {base.dimension}"
        )
    check_dimension(module.last.out_features, NAME)
    return MappedNetwork(
        name=f"{NAME}:{base.name}"[:CONTRACT_NAME_CHARS_MAX],
        base=base,
        module=module.cpu().eval(),
        dimension=module.last.out_features,
        weights_sha256=weights_sha256,
        threshold=threshold,
        _embedder=Embedder(base),
    )


def write_mapped(
    path: Path,
    base_spec: str,
    base_network: networks.Network,
    map_module: VectorMap,
    metadata: Mapping[str, str],
) -> None:
    """Write a map as safetensors that `load_network(path)` reads back, over the base that `base_spec` loads.

    Metadata and errors as of `metadata_of`.
    """
    entries = metadata_of(path, base_spec, base_network, map_module, metadata)
    write_safetensors(path, map_module, entries)


def metadata_of(
    path: Path,
    base_spec: str,
    base_network: networks.Network,
    map_module: VectorMap,
    metadata: Mapping[str, str],
) -> dict[str, str]:
    """What a map's file, or folder, at `path` says of it and of its base.

    The base is a network that comes with its weights, by its name, or a file in the folder of `path` (its
    path, or ``name=PATH``): the two are shipped together. `metadata` is text of the caller's own;
    ``threshold`` is read. Raises SettingsError where the base lies elsewhere, WeightsError as `over`.
    """
    over(base_network, map_module, "", 0.0)
    return {
        **metadata,
        "architecture": NAME,
        "base": _base_beside(path, base_spec),
        "base_sha256": base_network.weights_sha256,
        "base_contract": Embedder(base_network).contract.digest,
        "residual": "true" if map_module.is_residual else "false",
        "dimension": str(map_module.last.out_features),
        "alignment": base_network.alignment.name,
        "mirror": "false",
    }


def load(path: Path, device: str) -> MappedNetwork:
    """Load a map from safetensors or a float16 folder, and its base onto `device` (cpu, cuda).

    Raises WeightsError where the file is no map, or its base is missing or another than it was learnt on.
    """
    checkpoint = read_checkpoint(path)
    base = _load_base(checkpoint, device)
    module = _module(checkpoint)
    try:
        mapped = over(base, module, checkpoint.sha256, threshold_of(checkpoint, base.threshold))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error.message}") from error
    return dataclasses.replace(mapped, name=name_of(checkpoint, mapped.name))


def _base_beside(path: Path, base_spec: str) -> str:
    """How the file names its base: the spec with the file's name alone."""
    if base_spec in networks.ARCHITECTURES:
        return base_spec
    name, separator, rest = base_spec.partition("=")
    is_named = bool(separator) and name in networks.ARCHITECTURES
    base = Path(rest if is_named else base_spec)
    if base.resolve().parent != path.resolve().parent:
        raise SettingsError(
            f"the base {base} lies in another folder than the map {path}",
            hint="Write the map beside its base: it names the base's file without a folder.",
        )
    return f"{name}={base.name}" if is_named else base.name


def base_spec_of(path: Path) -> str:
    """What loads the base of the map at `path`: a network's name, or a path beside the map, or name=PATH.

    Raises WeightsError where the file is no map, or its base is missing or another than it was learnt on.
    """
    return _base_spec(read_checkpoint(path))


def _base_spec(checkpoint: Checkpoint) -> str:
    path, metadata = checkpoint.path, checkpoint.metadata
    lacking = [key for key in ("base", "base_sha256", "base_contract") if not metadata.get(key)]
    if lacking:
        raise WeightsError(f"{path} is no {NAME} network: its metadata lack {', '.join(lacking)}")
    spec = metadata["base"]
    if spec in networks.ARCHITECTURES:
        return spec
    name, separator, rest = spec.partition("=")
    is_named = bool(separator) and name in networks.ARCHITECTURES
    file_name = rest if is_named else spec
    if file_name == ".." or Path(file_name).name != file_name:
        raise WeightsError(f"{path}: metadata base {spec!r} is neither a network nor a file beside it")
    base_path = path.parent / file_name
    if not base_path.exists():
        raise WeightsError(
            f"{path}: its base {file_name} is not beside it", hint=f"Put {file_name} into {path.parent}."
        )
    # Before it is loaded, so that what names itself is refused and not followed.
    if base_path.is_file():
        _check_same(path, spec, metadata["base_sha256"], sha256_of(base_path))
    elif is_half(base_path):
        _check_same(path, spec, metadata["base_sha256"], read_contract(base_path).weights_sha256)
    return f"{name}={base_path}" if is_named else str(base_path)


def _load_base(checkpoint: Checkpoint, device: str) -> networks.Network:
    path, metadata = checkpoint.path, checkpoint.metadata
    base = networks.load_network(_base_spec(checkpoint), device)
    _check_same(path, metadata["base"], metadata["base_sha256"], base.weights_sha256)
    if Embedder(base).contract.digest != metadata["base_contract"]:
        raise WeightsError(
            f"{path}: its base {metadata['base']} has the weights that the map was learnt on, but another "
            f"contract (now {base.name}, {base.alignment.name}, mirror {base.mirror}): restore the settings "
            "beside the base"
        )
    return base


def _check_same(path: Path, base: str, expected: str, found: str) -> None:
    if found != expected:
        raise WeightsError(
            f"{path} was learnt on base {base} of sha256 {expected}; the one there is {found}",
            hint="Put the base that the map was learnt on beside it, or learn the map anew.",
        )


def _module(checkpoint: Checkpoint) -> VectorMap:
    path, state = checkpoint.path, checkpoint.state
    last, hidden = state.get("last.weight"), state.get("hidden.weight")
    if last is None or last.ndim != 2 or (hidden is not None and hidden.ndim != 2):
        raise WeightsError(f"{path} is no {NAME} network: missing or misshapen: last.weight, hidden.weight")
    residual = checkpoint.metadata.get("residual", "false")
    if residual not in {"true", "false"}:
        raise WeightsError(f"{path}: metadata residual {residual!r} is neither true nor false")
    num_inputs = (last if hidden is None else hidden).shape[1]
    check_dimension(last.shape[0], str(path))
    try:
        module = VectorMap(
            num_inputs,
            last.shape[0],
            0 if hidden is None else hidden.shape[0],
            is_residual=residual == "true",
        )
    except SettingsError as error:
        raise WeightsError(f"{path}: {error.message}") from error
    load_strictly(module, state, str(path))
    return module
