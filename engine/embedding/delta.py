"""Networks that are a small difference to dlib's packaged weights: named contracts that ship with Identiface.

Knows the files of a delta and adds them to their base; knows nothing of how they were trained.

A delta is a folder: ``contract.json`` and safetensors shards of float16 differences, in which tensors that
did not change are left out. The folder's name is the network's. Weights are float32(base) +
float32(difference), one rounding, so every machine gets the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.embedding import dlib_resnet, shards
from engine.embedding.align import ALIGNMENTS
from engine.embedding.shards import Contract as ShardsContract
from engine.embedding.torch_network import TorchNetwork
from engine.errors import SettingsError, WeightsError

NAME = "delta"
CONTRACTS = Path(__file__).parent / "contracts"
"""The deltas that ship with this package."""
FORMAT = 1
COPY_PREFIX = "base-"
"""A folder may be called so before its contract's name: a copy beside the head that maps it."""
SHARD_BYTES_MAX = 4 << 20
"""Of a shard's file."""


class Contract(ShardsContract, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``contract.json`` says."""

    name: str
    """Of the network, and of the folder."""
    base: str
    """Name of the network that the differences are to."""
    base_sha256: str
    alignment: str

    @property
    def weights_sha256(self) -> str:
        """Hex sha256 over the base's digest and the shards': the identity of the sum."""
        parts = {"base_sha256": self.base_sha256, "shards": self.shards}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def folders(root: Path = CONTRACTS) -> list[Path]:
    """Folders of the deltas under `root`, by name; none where it does not exist."""
    if not root.is_dir():
        return []
    return sorted(folder for folder in root.iterdir() if is_delta(folder))


def is_delta(folder: Path) -> bool:
    """Tell whether a folder holds a delta's contract."""
    return (folder / shards.CONTRACT_FILE).is_file()


def load(folder: Path, device: str) -> TorchNetwork:
    """Load the network of a delta's folder onto `device` (cpu, cuda).

    Raises WeightsError where the contract or a shard is missing, damaged, of another base, or does not fit.
    """
    contract = read_contract(folder)
    base = dlib_resnet.load(None, "cpu")
    if contract.base_sha256 != base.weights_sha256:
        raise WeightsError(
            f"{folder} holds differences to {contract.base} of sha256 {contract.base_sha256}; "
            f"the one there is {base.weights_sha256}"
        )
    state = base.module.state_dict()
    for name, difference in shards.read_shards(folder, contract.shards):
        _check_difference(folder, name, difference, state)
        # The state's tensors are the module's own.
        state[name] += difference.to(torch.float32)
    return TorchNetwork(
        name=contract.name,
        alignment=ALIGNMENTS[contract.alignment],
        dimension=base.dimension,
        weights_sha256=contract.weights_sha256,
        device=device,
        mirror=contract.mirror,
        threshold=contract.threshold,
        module=base.module,
        scaling=base.scaling,
    )


def read_contract(folder: Path) -> Contract:
    """Read and check a delta's contract; WeightsError naming what is wrong with it."""
    contract = shards.read_contract(folder, Contract, "a delta")
    problem = _problem(contract, folder)
    if problem:
        raise WeightsError(f"{folder / shards.CONTRACT_FILE}: {problem}")
    return contract


def write_delta(
    module: dlib_resnet.DlibResNet,
    folder: Path,
    *,
    threshold: float,
    mirror: bool = True,
    card: str = "",
) -> Contract:
    """Write what distinguishes `module` from the packaged dlib-resnet as a delta; the folder's name names it.

    The folder must not exist; it is there whole or not at all, with `card`, the text of its model card.
    Differences are rounded to float16: judge what `load` gives, not `module`. Raises SettingsError for a
    folder that is there, or where nothing differs; WeightsError where a difference does not fit float16, a
    tensor a shard, or nothing can be written.
    """
    base = dlib_resnet.load(None, "cpu")
    contract = Contract(
        format=FORMAT,
        name=folder.name,
        base=base.name,
        base_sha256=base.weights_sha256,
        alignment=base.alignment.name,
        mirror=mirror,
        threshold=threshold,
        shards={},
    )
    problem = _problem(contract, folder)
    if problem:
        raise SettingsError(f"{folder}: {problem}")
    differences = _rounded(base.module.state_dict(), module.state_dict())
    return shards.write_folder(folder, contract, shards.divided(differences, SHARD_BYTES_MAX), card)


def _problem(contract: Contract, folder: Path) -> str | None:
    """What is wrong with a contract, in words."""
    problems = {
        f"it is the contract of {contract.name!r}, but lies in a folder of another name": (
            folder.resolve().name not in {contract.name, f"{COPY_PREFIX}{contract.name}"}
        ),
        f"base {contract.base!r} is unknown; only {dlib_resnet.NAME} has deltas": (
            contract.base != dlib_resnet.NAME
        ),
        f"alignment {contract.alignment!r} is not the base's {dlib_resnet.ALIGNMENT}": (
            contract.alignment != dlib_resnet.ALIGNMENT
        ),
    }
    own = next((problem for problem, is_so in problems.items() if is_so), None)
    return contract.problem(FORMAT) or own


def _check_difference(folder: Path, name: str, difference: Tensor, state: Mapping[str, Tensor]) -> None:
    if name not in state:
        raise WeightsError(f"{folder}: extra: {name}: {dlib_resnet.NAME} has no such tensor")
    if difference.shape != state[name].shape:
        raise WeightsError(
            f"{folder}: misshapen: {name} {list(difference.shape)} instead of {list(state[name].shape)}"
        )
    if difference.dtype != torch.float16 or not difference.isfinite().all():
        raise WeightsError(f"{folder}: {name} holds no finite float16 differences")


def _rounded(base: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float16 differences of the tensors that changed."""
    differences = {}
    for name, values in base.items():
        exact = trained[name].detach().cpu().to(torch.float32) - values
        if not exact.any():
            continue
        difference = exact.to(torch.float16).contiguous()
        if not difference.isfinite().all():
            raise WeightsError(f"the difference of {name} is not finite or too large for float16")
        differences[name] = difference
    if not differences:
        raise SettingsError(f"the network is {dlib_resnet.NAME} itself: there is nothing to write")
    return differences
