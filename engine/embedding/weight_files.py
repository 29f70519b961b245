"""Files of tensors: digested, read, and written whole or not at all. Knows nothing of networks.

What is written is synced with its folder before it takes its name, so that neither a killed process nor a
power cut leaves half of it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from engine.disk import sync
from engine.errors import SettingsError, WeightsError

HASH_BLOCK_BYTES = 1 << 20

_HEADER_SIZE_BYTES = 8
"""Little-endian, at the beginning of a safetensors file; the JSON of the header follows."""
COUNTER = "num_batches_tracked"
"""Batch normalisation counts training batches in it; no output depends on it, so files may leave it out."""


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


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of a safetensors file. Raises WeightsError where it is none."""
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return state, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is no readable safetensors file: {error}") from error


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Tensors of a network as files hold them: on the CPU, without the counters of batch normalisation."""
    return {
        name: values.detach().cpu().contiguous()
        for name, values in module.state_dict().items()
        if not name.endswith(COUNTER)
    }


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors with the mode that the umask gives.

    The same tensors and metadata are the same bytes. Raises OSError, SafetensorError; give it a path of
    `replaced_when_whole` or in a folder of `folder_when_whole`.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    safetensors.torch.save_file(dict(state), str(path), metadata=dict(metadata) if metadata else None)
    # The library's files are for their owner alone; a server may run under another account.
    path.chmod(mode)
    if metadata:
        _sort_header(path)


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
    partial = _partial(path)
    try:
        # A place where nothing can be written is told before the work that comes to it.
        partial.touch()
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise _cannot_write(path, error) from error
    finally:
        # After the move there is none; below a file there never was.
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def folder_when_whole(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder` to write into, which is renamed to `folder` where all goes well.

    After a crash or an error there is no `folder`. Raises SettingsError where there was one before,
    WeightsError where it cannot be written.
    """
    if os.path.lexists(folder):
        raise SettingsError(f"{folder} is there already: give another folder, or remove it")
    partial = _partial(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(path: Path) -> Path:
    """Where `path` is written; the process is in its name, so that two do not mix."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _cannot_write(path: Path, error: Exception) -> WeightsError:
    said = error.strerror or error if isinstance(error, OSError) else error
    return WeightsError(
        f"cannot write {path}: {said}",
        hint=f"See that {path.parent} is a folder that can be written and has room, or name another place.",
    )
