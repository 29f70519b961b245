"""Checkpoints of a run: each whole or not there, the newest few kept. Knows nothing of what they hold.

A checkpoint is a file of tensors and plain values. It is written beside its place, synced and renamed, so
that a process killed at any moment leaves the one before it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from engine.errors import WeightsError
from engine.outputs import make_folder, whole_file

KEPT = 2
"""Checkpoints kept: the newest, and one before it in case the disk damages that."""
DIGEST_BYTES = 32
_NAME = re.compile(r"step-(\d{9})\.pt")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps and remove all but the newest. Raises StorageFullError."""
    make_folder(folder)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:09d}.pt"
    with whole_file(path) as file:
        file.write(hashlib.sha256(data).digest())
        file.write(data)
    for old in _all(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    for torn in folder.glob(".*.part"):
        torn.unlink(missing_ok=True)
    return path


def newest(folder: Path) -> Path | None:
    """Path of the newest checkpoint, None where there is none."""
    paths = _all(folder)
    return paths[-1] if paths else None


def load(path: Path, device: str) -> dict[str, Any]:
    """Read a checkpoint back. Raises WeightsError where it is torn, damaged or no checkpoint at all."""
    hint = f"Remove {path.name} to go on from the checkpoint before it, or from the start."
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read checkpoint {path}: {error.strerror}", hint=hint) from error
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        raise WeightsError(f"checkpoint {path} is damaged: its checksum does not hold", hint=hint)
    try:
        state: dict[str, Any] = torch.load(
            io.BytesIO(data[DIGEST_BYTES:]), map_location=device, weights_only=True
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"checkpoint {path} cannot be read: {error}", hint=hint) from error
    return state


def _all(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))
