"""Files of a job: there whole or not at all, whenever the process is killed."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from engine.errors import CorruptDataError
from engine.outputs import replacing
from engine.store.folders import from_os_error

T = TypeVar("T")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, synced, in place of what is there. Raises StorageFullError, DataFolderError."""
    try:
        # Always of one name: what a killed process left is written over by the next.
        with replacing(path, path.with_name(path.name + ".part")) as file:
            file.write(data)
    except OSError as error:
        raise from_os_error(error, path) from error


def write_value(path: Path, value: object) -> None:
    """Write a value as MessagePack. Raises as `write_whole`."""
    write_whole(path, msgspec.msgpack.encode(value))


def read_value(path: Path, kind: type[T]) -> T:
    """Read a value back. Raises CorruptDataError where the file is not what was written, DataFolderError."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptDataError(
            f"{path} is damaged", hint="Remove the file and run the job again: it is made anew."
        ) from error
    except OSError as error:
        raise from_os_error(error, path) from error


def make_folder(path: Path) -> None:
    """Make a folder where there is none. Raises StorageFullError, DataFolderError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, path) from error
