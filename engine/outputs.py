"""Files made for people and other programs: there whole or not at all, whenever the process is killed.

Knows nothing of what is in them. What a bulk job keeps for itself is written by `indexer.files`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engine.disk import sync
from engine.errors import EngineError, InvalidInputError, StorageFullError
from engine.store.folders import FULL


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """Open a file to write; where all goes well it is synced and put in place of `target`.

    It is written beside the target, since a file can only be renamed within its file system. The name holds
    the process: two that write the same target do not mix. Raises InvalidInputError, StorageFullError.
    """
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}.part")
    try:
        with replacing(target, temporary) as file:
            yield file
    except OSError as error:
        raise cannot_write(target, error) from error


@contextlib.contextmanager
def replacing(target: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Open `temporary` to write; where all goes well it is synced and put in place of `target` beside it.

    Raises OSError; nothing of it is left then.
    """
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync(target.parent)
    finally:
        # After the rename there is none; a folder that cannot be read has none either.
        with contextlib.suppress(OSError):
            temporary.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder where there is none. Raises InvalidInputError, StorageFullError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def cannot_write(target: Path, error: OSError) -> EngineError:
    """Name the file and what the operating system said."""
    if error.errno in FULL:
        return StorageFullError(
            f"no space left for {target}", hint="Free disk space there, or choose another place."
        )
    return InvalidInputError(
        f"{target} cannot be written: {error.strerror or error}", hint="Choose a place that can be written."
    )
