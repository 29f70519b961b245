"""Weights of any network in float16, as a folder of shards. Knows no architecture.

A parameter is rounded to float16 and read back as float32. What float16 would spoil stays as it is: buffers
(statistics of batch normalisation may be too large or too small for it, and are few), and parameters that
overflow or lie below its smallest numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from engine.embedding import shards
from engine.embedding.shards import Contract as ShardsContract
from engine.embedding.weight_files import state_of
from engine.errors import WeightsError

FORMAT = 2
"""1 is a delta's."""
SHARD_BYTES_MAX = 16 << 20
"""Of a shard's file."""
ROUNDING_MAX = 2.0**-10
"""Largest part of a tensor's length that rounding may move it by, else it stays float32. Of numbers that
float16 has in full it is half of that at most."""


class Contract(ShardsContract, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``contract.json`` says; with ``metadata`` as a safetensors file of the same network has it."""

    metadata: dict[str, str]

    @property
    def weights_sha256(self) -> str:
        """Hex sha256 over the shards' digests and what else decides a template: the weights' identity."""
        parts = {"metadata": self.metadata, "shards": self.shards}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Format(msgspec.Struct, frozen=True):
    """The one field by which kinds of contract are told apart."""

    format: int


def is_half(folder: Path) -> bool:
    """Tell whether a folder says that it holds weights of this format."""
    try:
        return shards.read_contract(folder, _Format, "weights").format == FORMAT
    except WeightsError:
        return False


def write(folder: Path, module: nn.Module, metadata: Mapping[str, str], card: str = "") -> Contract:
    """Write a network's weights in float16, each file under SHARD_BYTES_MAX; the folder must not exist.

    `metadata` as of `write_safetensors`, with ``threshold`` and ``mirror``; `card` is the text of its model
    card. Judge what is read back, not `module`. Raises SettingsError where the folder is there, WeightsError
    where it cannot be written or a tensor fits no file.
    """
    parameters = {name for name, _ in module.named_parameters()}
    tensors = {
        name: rounded(values) if name in parameters else values for name, values in state_of(module).items()
    }
    entries = dict(metadata)
    contract = Contract(
        format=FORMAT,
        threshold=float(entries.pop("threshold")),
        mirror=entries.pop("mirror") == "true",
        metadata=entries,
        shards={},
    )
    return shards.write_folder(folder, contract, shards.divided(tensors, SHARD_BYTES_MAX), card)


def rounded(values: Tensor) -> Tensor:
    """float16 of a tensor, or the tensor itself where that would move it by more than ROUNDING_MAX."""
    if not values.is_floating_point():
        return values
    half = values.to(torch.float16)
    exact = values.to(torch.float64)
    moved = torch.linalg.vector_norm(half.to(torch.float64) - exact)
    return half if moved <= ROUNDING_MAX * torch.linalg.vector_norm(exact) else values


def read_contract(folder: Path) -> Contract:
    """Read and check a folder's contract; WeightsError naming what is wrong with it."""
    contract = shards.read_contract(folder, Contract, "weights")
    problem = contract.problem(FORMAT)
    if problem:
        raise WeightsError(f"{folder / shards.CONTRACT_FILE}: {problem}")
    return contract


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Tensors with float16 as float32, metadata, and the hex sha256 that names the weights.

    Raises WeightsError where the contract or a shard is missing or damaged.
    """
    contract = read_contract(folder)
    state = {
        name: values.to(torch.float32) if values.dtype == torch.float16 else values
        for name, values in shards.read_shards(folder, contract.shards)
    }
    mirror = "true" if contract.mirror else "false"
    metadata = {**contract.metadata, "threshold": repr(contract.threshold), "mirror": mirror}
    return state, metadata, contract.weights_sha256
