"""Networks that are a small difference to dlib's packaged weights: named contracts that ship with Identiface.

Knows the files of a delta and adds them to their base; knows nothing of how they were trained.

A delta is a folder: ``contract.json`` and safetensors shards of float16 differences, in which tensors that
did not change are left out. The folder's name is the network's. Weights are float32(base) +
float32(difference), one rounding, so every machine gets the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from engine.embedding import dlib_resnet
from engine.embedding.align import ALIGNMENTS
from engine.embedding.checkpoints import sha256_of
from engine.embedding.torch_network import TorchNetwork
from engine.errors import SettingsError, WeightsError

NAME = "delta"
CONTRACTS = Path(__file__).parent / "contracts"
"""The deltas that ship with this package."""
CONTRACT_FILE = "contract.json"
CONTRACT_BYTES_MAX = 64 << 10
FORMAT = 1
SHARD_BYTES_MAX = 4 << 20
"""Of a shard's file."""
HEADER_BYTES = 64 << 10
"""Kept free in a shard for the names and places of its tensors."""


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``contract.json`` says."""

    format: int
    name: str
    """Of the network, and of the folder."""
    base: str
    """Name of the network that the differences are to."""
    base_sha256: str
    alignment: str
    mirror: bool
    threshold: float
    shards: dict[str, str]
    """Hex sha256 of each shard by its file name."""
    card: str = ""
    """Where its training command, data statement and model card stand."""

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
    return (folder / CONTRACT_FILE).is_file()


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
    changed: set[str] = set()
    for name, difference in _differences(folder, contract):
        _check_difference(folder, name, difference, state, changed)
        changed.add(name)
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
    path = folder / CONTRACT_FILE
    try:
        if path.stat().st_size > CONTRACT_BYTES_MAX:
            raise WeightsError(f"{path} is larger than {CONTRACT_BYTES_MAX} bytes")
        contract = msgspec.json.decode(path.read_bytes(), type=Contract)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is no contract of a delta: {error}") from error
    problem = _problem(contract, folder)
    if problem:
        raise WeightsError(f"{path}: {problem}")
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

    The folder must not exist. Differences are rounded to float16: judge what `load` gives, not `module`.
    Raises SettingsError for a folder that is there, or where nothing differs; WeightsError where a
    difference does not fit float16 or a tensor a shard.
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
        card=card,
    )
    problem = _problem(contract, folder)
    if problem:
        raise SettingsError(f"{folder}: {problem}")
    differences = _rounded(base.module.state_dict(), module.state_dict())
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise SettingsError(f"{folder} is there already: give another folder, or remove it") from error
    shards = {}
    for number, shard in enumerate(_shards(differences)):
        path = folder / f"part-{number:02d}.safetensors"
        safetensors.torch.save_file(shard, str(path))
        shards[path.name] = sha256_of(path)
    written = msgspec.structs.replace(contract, shards=shards)
    # Last: a folder without it is no delta.
    (folder / CONTRACT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(written)) + b"\n")
    return written


def _problem(contract: Contract, folder: Path) -> str | None:
    """What is wrong with a contract, in words."""
    problems = {
        f"format {contract.format} is not {FORMAT}": contract.format != FORMAT,
        f"it is the contract of {contract.name!r}, but lies in a folder of another name": (
            contract.name != folder.resolve().name
        ),
        f"base {contract.base!r} is unknown; only {dlib_resnet.NAME} has deltas": (
            contract.base != dlib_resnet.NAME
        ),
        f"alignment {contract.alignment!r} is not the base's {dlib_resnet.ALIGNMENT}": (
            contract.alignment != dlib_resnet.ALIGNMENT
        ),
        f"threshold {contract.threshold} is no similarity between -1 and 1": (
            not -1.0 <= contract.threshold <= 1.0
        ),
        "a shard's name is no plain file name": any(Path(name).name != name for name in contract.shards),
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)


def _differences(folder: Path, contract: Contract) -> Iterator[tuple[str, Tensor]]:
    """Name and float16 difference of every tensor that changed; each shard's digest is checked first."""
    for file_name, sha256 in sorted(contract.shards.items()):
        path = folder / file_name
        found = sha256_of(path)
        if found != sha256:
            raise WeightsError(
                f"{path} is damaged: sha256 {found} instead of {sha256}", hint="Reinstall identiface."
            )
        try:
            with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
                for name in sorted(file.keys()):
                    yield name, file.get_tensor(name)
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{path} is no readable safetensors file: {error}") from error


def _check_difference(
    folder: Path, name: str, difference: Tensor, state: Mapping[str, Tensor], changed: set[str]
) -> None:
    if name not in state:
        raise WeightsError(f"{folder}: extra: {name}: {dlib_resnet.NAME} has no such tensor")
    if name in changed:
        raise WeightsError(f"{folder}: {name} is in two shards")
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


def _shards(differences: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors in their order, as many together as one file takes."""
    room = SHARD_BYTES_MAX - HEADER_BYTES
    shard: dict[str, Tensor] = {}
    num_bytes = 0
    for name, difference in differences.items():
        if difference.nbytes > room:
            raise WeightsError(f"{name} of {difference.nbytes} bytes fits no shard of {room}")
        if num_bytes + difference.nbytes > room:
            yield shard
            shard, num_bytes = {}, 0
        shard[name] = difference
        num_bytes += difference.nbytes
    yield shard
