"""Weight files of torch networks: read, written and matched to a network strictly.

Knows the file formats; knows no architecture.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.embedding.align import ALIGNMENTS, Alignment
from engine.embedding.torch_network import Scaling
from engine.errors import WeightsError

NETWORK_DIMENSION_MIN = 64
NETWORK_DIMENSION_MAX = 1024
"""Template sizes outside these are taken for a wrong file (class logits, landmarks), not a face network."""

HASH_BLOCK_BYTES = 1 << 20
NAMES_SHOWN_MAX = 8

_HEADER_SIZE_BYTES = 8
"""Little-endian, at the beginning of a safetensors file; the JSON of the header follows."""
_COUNTER = "num_batches_tracked"
"""Batch normalisation counts training batches in it; no output depends on it, so files may leave it out."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A weight file in memory, on the CPU."""

    path: Path
    state: dict[str, Tensor]
    """Without the batch counters of batch normalisation."""
    metadata: dict[str, str]
    """Of safetensors, or the text entries beside ``state_dict`` in a torch file: ``architecture``,
    ``threshold``, ``mirror`` (true, false), ``alignment``, ``mean_rgb`` (three numbers, commas between) and
    ``divisor`` are read, others are left alone."""
    sha256: str


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes.

    Raises WeightsError where the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise WeightsError(f"cannot read weight file {path}: {error.strerror}") from error
    return digest.hexdigest()


def sha256_of_state(state: Mapping[str, Tensor]) -> str:
    """Hex sha256 over names, types, shapes and values of tensors: the identity of weights without a file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith(_COUNTER):
            values = state[name].detach().cpu().contiguous()
            digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.safetensors`` file, or a torch file (``.pt``, ``.pth``) of tensors alone.

    A torch file holds a state dict, or a dict with it under ``state_dict`` and text beside it. It is
    loaded with weights_only: code inside it is never run. Raises WeightsError for anything else.
    """
    sha256 = sha256_of(path)
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    elif path.suffix in {".pt", ".pth"}:
        state, metadata = _read_torch(path)
    else:
        raise WeightsError(f"weight file {path} is none of .safetensors, .pt, .pth")
    kept = {name: values for name, values in state.items() if not name.endswith(_COUNTER)}
    return Checkpoint(path=path, state=kept, metadata=metadata, sha256=sha256)


def write_safetensors(path: Path, module: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write a network's weights as safetensors that `read_checkpoint` and `load_network` read back.

    `metadata` should name the ``architecture``; ``threshold`` and ``mirror`` override its defaults. The file
    is there whole or not at all.
    """
    state = {
        name: values.detach().cpu().contiguous()
        for name, values in module.state_dict().items()
        if not name.endswith(_COUNTER)
    }
    with replaced_when_whole(path) as partial:
        safetensors.torch.save_file(state, str(partial), metadata=dict(metadata))
        _sort_header(partial)


def _sort_header(path: Path) -> None:
    """Bring a safetensors file's header into one order: the library writes its metadata in any.

    Else the same weights would have another sha256, and so another contract, each time they are written.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(_HEADER_SIZE_BYTES), "little")
        header = json.loads(file.read(size))
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise WeightsError(f"the header of {path} cannot be put in order: {len(text)} bytes, not {size}")
        file.seek(_HEADER_SIZE_BYTES)
        file.write(text.ljust(size))


@contextlib.contextmanager
def replaced_when_whole(path: Path) -> Iterator[Path]:
    """Give another path in the folder of `path` to write to; what is written there is moved to `path`.

    After a crash or an error `path` is as it was. Raises WeightsError where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"cannot write weight file {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put `state` into `module`: every tensor of the network, no other, each of its shape and finite.

    Raises WeightsError naming `source` and the tensors that are missing, extra, misshapen or not finite.
    """
    expected = {name: t for name, t in module.state_dict().items() if not name.endswith(_COUNTER)}
    given = {name: t for name, t in state.items() if not name.endswith(_COUNTER)}
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


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return state, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is no readable safetensors file: {error}") from error


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is no torch file of tensors alone: {error}") from error
    metadata: dict[str, str] = {}
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        metadata = {key: text for key, text in loaded.items() if isinstance(text, str)}
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise WeightsError(f"{path} holds no state dict: expected names and their tensors")
    return dict(loaded), metadata


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    return shown if len(names) <= NAMES_SHOWN_MAX else f"{shown} and {len(names) - NAMES_SHOWN_MAX} more"
