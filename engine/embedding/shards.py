"""Folders of weights: ``contract.json``, and tensors in safetensors shards of a bounded size.

Knows how such a folder is written, checked and read; knows nothing of what the tensors are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from torch import Tensor

from engine.embedding.weight_files import folder_when_whole, read_tensors, sha256_of, write_tensors
from engine.errors import WeightsError

CONTRACT_FILE = "contract.json"
CONTRACT_BYTES_MAX = 64 << 10
CARD_FILE = "model-card.md"
HEADER_BYTES = 64 << 10
"""Kept free in a shard for the names and places of its tensors."""


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every ``contract.json`` says."""

    format: int
    mirror: bool
    threshold: float
    shards: dict[str, str]
    """Hex sha256 of each shard by its file name."""
    card: str = ""
    """Where its training command, data statement and model card stand."""

    def problem(self, format_: int) -> str | None:
        """What is wrong with it as a contract of that format, in words."""
        problems = {
            f"format {self.format} is not {format_}": self.format != format_,
            f"threshold {self.threshold} is no similarity between -1 and 1": (
                not -1.0 <= self.threshold <= 1.0
            ),
            "a shard's name is no plain file name": any(Path(name).name != name for name in self.shards),
        }
        return next((problem for problem, is_so in problems.items() if is_so), None)


Kind = TypeVar("Kind", bound=msgspec.Struct)
AnyContract = TypeVar("AnyContract", bound=Contract)


def read_contract(folder: Path, kind: type[Kind], said: str) -> Kind:
    """Read a folder's contract; WeightsError where it is no contract of `said`."""
    path = folder / CONTRACT_FILE
    try:
        if path.stat().st_size > CONTRACT_BYTES_MAX:
            raise WeightsError(f"{path} is larger than {CONTRACT_BYTES_MAX} bytes")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is no contract of {said}: {error}") from error


def read_shards(folder: Path, digests: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of all shards; each shard's digest is checked first, and that no name is there twice.

    Raises WeightsError where a shard is missing, damaged or holds a tensor of another.
    """
    seen: set[str] = set()
    for file_name, sha256 in sorted(digests.items()):
        path = folder / file_name
        found = sha256_of(path)
        if found != sha256:
            raise WeightsError(
                f"{path} is damaged: sha256 {found} instead of {sha256}",
                hint="Copy or export the folder anew; for one that ships with identiface, reinstall it.",
            )
        tensors, _ = read_tensors(path)
        for name in sorted(tensors):
            if name in seen:
                raise WeightsError(f"{folder}: {name} is in two shards")
            seen.add(name)
            yield name, tensors[name]


def write_folder(
    folder: Path, contract: AnyContract, shards: Iterable[Mapping[str, Tensor]], card: str = ""
) -> AnyContract:
    """Write shards, the contract with their digests, and the text of a model card where there is one.

    The folder, which must not exist, is there whole or not at all. Raises SettingsError, WeightsError.
    """
    with folder_when_whole(folder) as partial:
        digests = {}
        for number, shard in enumerate(shards):
            path = partial / f"part-{number:02d}.safetensors"
            write_tensors(path, shard)
            digests[path.name] = sha256_of(path)
        if card:
            (partial / CARD_FILE).write_text(card, encoding="utf-8")
        written = msgspec.structs.replace(contract, shards=digests, card=CARD_FILE if card else "")
        text = msgspec.json.format(msgspec.json.encode(written)) + b"\n"
        (partial / CONTRACT_FILE).write_bytes(text)
    return written


def divided(tensors: Mapping[str, Tensor], shard_bytes_max: int) -> Iterator[dict[str, Tensor]]:
    """The tensors in their order, as many together as a file of `shard_bytes_max` takes.

    Raises WeightsError where one alone does not fit.
    """
    room = shard_bytes_max - HEADER_BYTES
    shard: dict[str, Tensor] = {}
    num_bytes = 0
    for name, values in tensors.items():
        if values.nbytes > room:
            raise WeightsError(
                f"{name} of {values.nbytes:,} bytes fits no shard of {room:,}",
                hint="Name a .safetensors file: it has no limit.",
            )
        if num_bytes + values.nbytes > room:
            yield shard
            shard, num_bytes = {}, 0
        shard[name] = values
        num_bytes += values.nbytes
    yield shard
