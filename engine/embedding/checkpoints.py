"""Weight files of torch networks: read, written and matched to a network strictly.

Knows the file formats; knows no architecture.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.embedding import half_weights
from engine.embedding.align import ALIGNMENTS, Alignment
from engine.embedding.torch_network import Scaling
from engine.embedding.weight_files import (
    COUNTER,
    read_tensors,
    replaced_when_whole,
    sha256_of,
    state_of,
    write_tensors,
)
from engine.errors import InvalidInputError, WeightsError
from engine.rules import check_contract_name

NETWORK_DIMENSION_MIN = 64
NETWORK_DIMENSION_MAX = 1024
"""Template sizes outside these are taken for a wrong file (class logits, landmarks), not a face network."""

NAMES_SHOWN_MAX = 8

CONTRACT_NAME = "contract_name"
"""Of the metadata: what a network is called that was made of one of these architectures."""

_DIGEST_BYTES = 32
_ZIP = b"PK\x03\x04"
"""What a torch file begins with."""
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    struct.error,
)
"""What torch raises for files of anything."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A weight file, or a folder of them, in memory, on the CPU."""

    path: Path
    state: dict[str, Tensor]
    """Without the batch counters of batch normalisation."""
    metadata: dict[str, str]
    """Of safetensors, or the text entries beside ``state_dict`` in a torch file: ``architecture``,
    ``contract_name``, ``threshold``, ``mirror`` (true, false), ``alignment``, ``mean_rgb`` (three numbers,
    commas between) and ``divisor`` are read, others are left alone."""
    sha256: str


def sha256_of_state(state: Mapping[str, Tensor]) -> str:
    """Hex sha256 over names, types, shapes and values of tensors: the identity of weights without a file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith(COUNTER):
            values = state[name].detach().cpu().contiguous()
            digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.safetensors`` file, a torch file (``.pt``, ``.pth``) of tensors alone, or a float16 folder.

    A torch file holds a state dict, or a dict with it under ``state_dict`` and text beside it. It is
    loaded with weights_only: code inside it is never run. Raises WeightsError for anything else.
    """
    if path.is_dir():
        return Checkpoint(path, *half_weights.read(path))
    sha256 = sha256_of(path)
    if path.suffix == ".safetensors":
        state, metadata = read_tensors(path)
    elif path.suffix in {".pt", ".pth"}:
        state, metadata = _read_torch(path)
    else:
        raise WeightsError(f"weight file {path} is none of .safetensors, .pt, .pth")
    kept = {name: values for name, values in state.items() if not name.endswith(COUNTER)}
    return Checkpoint(path=path, state=kept, metadata=metadata, sha256=sha256)


def write_safetensors(path: Path, module: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write a network's weights as safetensors that `read_checkpoint` and `load_network` read back.

    `metadata` should name the ``architecture``; ``contract_name``, ``threshold`` and ``mirror`` override its
    defaults. The file is there whole or not at all.
    """
    with replaced_when_whole(path) as partial:
        write_tensors(partial, state_of(module), metadata)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put `state` into `module`: every tensor of the network, no other, each of its shape and finite.

    Raises WeightsError naming `source` and the tensors that are missing, extra, misshapen or not finite.
    """
    expected = {name: t for name, t in module.state_dict().items() if not name.endswith(COUNTER)}
    given = {name: t for name, t in state.items() if not name.endswith(COUNTER)}
    missing = [name for name in expected if name not in given]
    extra = [name for name in given if name not in expected]
    misshapen = [
        f"{name} {list(given[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    ]
    not_finite = [name for name, t in given.items() if t.is_floating_point() and not t.isfinite().all()]
    problems = [
        f"{problem}: {_shorten(names)}"
        for problem, names in (
            ("missing", missing),
            ("extra", extra),
            ("misshapen", misshapen),
            ("not finite", not_finite),
        )
        if names
    ]
    if problems:
        raise WeightsError(f"{source} is not of this network: {'; '.join(problems)}")
    # Not strict only because of the batch counters; all else was compared above.
    module.load_state_dict(given, strict=False)


def check_dimension(dimension: int, source: str) -> None:
    """Refuse sizes outside NETWORK_DIMENSION_MIN..NETWORK_DIMENSION_MAX: WeightsError naming `source`."""
    if not NETWORK_DIMENSION_MIN <= dimension <= NETWORK_DIMENSION_MAX:
        raise WeightsError(
            f"{source} gives vectors of {dimension} numbers; "
            f"templates have {NETWORK_DIMENSION_MIN} to {NETWORK_DIMENSION_MAX}"
        )


def name_of(checkpoint: Checkpoint, default: str) -> str:
    """Read the metadata's ``contract_name``, or `default` where there is none.

    Raises WeightsError where no contract may be called so.
    """
    name = checkpoint.metadata.get(CONTRACT_NAME)
    if name is None:
        return default
    try:
        check_contract_name(name, f"metadata {CONTRACT_NAME}")
    except InvalidInputError as error:
        raise WeightsError(f"{checkpoint.path}: {error.message}") from error
    return name


def threshold_of(checkpoint: Checkpoint, default: float) -> float:
    """Read the metadata's ``threshold``, or `default` where there is none.

    Raises WeightsError where it is no similarity.
    """
    text = checkpoint.metadata.get("threshold")
    if text is None:
        return default
    try:
        threshold = float(text)
    except ValueError:
        threshold = float("nan")
    if not -1.0 <= threshold <= 1.0:
        raise WeightsError(
            f"{checkpoint.path}: metadata threshold {text!r} is no similarity between -1 and 1"
        )
    return threshold


def mirror_of(checkpoint: Checkpoint, *, default: bool) -> bool:
    """Read the metadata's ``mirror``, or `default` where there is none.

    Raises WeightsError where it is neither true nor false.
    """
    text = checkpoint.metadata.get("mirror")
    if text is None:
        return default
    if text not in {"true", "false"}:
        raise WeightsError(f"{checkpoint.path}: metadata mirror {text!r} is neither true nor false")
    return text == "true"


def alignment_of(checkpoint: Checkpoint, default: Alignment, size_px: int | None = None) -> Alignment:
    """Read the metadata's ``alignment``, or `default` where there is none.

    Raises WeightsError where no crop has that name, or its side is not `size_px` (None: any).
    """
    name = checkpoint.metadata.get("alignment", default.name)
    alignment = ALIGNMENTS.get(name)
    if alignment is None:
        raise WeightsError(
            f"{checkpoint.path}: metadata alignment {name!r} is none of {', '.join(ALIGNMENTS)}"
        )
    if size_px not in {None, alignment.size_px}:
        raise WeightsError(
            f"{checkpoint.path}: metadata alignment {name!r} cuts crops of {alignment.size_px} px; "
            f"this network takes {size_px}"
        )
    return alignment


def scaling_of(checkpoint: Checkpoint, default: Scaling) -> Scaling:
    """Read the metadata's ``mean_rgb`` and ``divisor``, each `default`'s where it is not there.

    Raises WeightsError where they are no finite numbers, or the divisor is not above 0.
    """
    metadata = checkpoint.metadata
    try:
        mean = (
            tuple(float(cell) for cell in metadata["mean_rgb"].split(",")) if "mean_rgb" in metadata else ()
        )
        red, green, blue = mean or default.mean_rgb
        scaling = Scaling((red, green, blue), float(metadata.get("divisor", default.divisor)))
    except ValueError as error:
        raise WeightsError(f"{checkpoint.path}: metadata mean_rgb or divisor: {error}") from error
    if not all(map(math.isfinite, (*scaling.mean_rgb, scaling.divisor))) or scaling.divisor <= 0.0:
        raise WeightsError(
            f"{checkpoint.path}: metadata mean_rgb and divisor must be finite, and the divisor above 0"
        )
    return scaling


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if _is_of_a_run(path):
        raise WeightsError(
            f"{path} is a checkpoint of a run, not a network",
            hint="Give RUN/network.safetensors, which is there once the run is finished.",
        )
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        # What follows in torch's text advises to run the code that may be in the file.
        said = "" if isinstance(error, LookupError) else str(error).partition("\n")[0].partition(". ")[0]
        raise WeightsError(f"{path} is no torch file of tensors alone: {said or 'it is damaged'}") from error
    metadata: dict[str, str] = {}
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        metadata = {key: text for key, text in loaded.items() if isinstance(text, str)}
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise WeightsError(f"{path} holds no state dict: expected names and their tensors")
    return dict(loaded), metadata


def _is_of_a_run(path: Path) -> bool:
    """Whether a torch file follows behind a digest, as the trainer's checkpoints are written."""
    with path.open("rb") as file:
        return file.read(_DIGEST_BYTES + len(_ZIP))[_DIGEST_BYTES:] == _ZIP


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    return shown if len(names) <= NAMES_SHOWN_MAX else f"{shown} and {len(names) - NAMES_SHOWN_MAX} more"
