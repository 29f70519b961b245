"""PICTURE arguments: files, folders and standard input, read a few at a time and asked about together.

Knows nothing of what is asked, and decodes nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from engine.cli.arguments import UsageError
from engine.errors import EngineError, InvalidInputError
from engine.limits import SOURCE_BYTES_MAX
from engine.wire.limits import MESSAGE_SIZE_BYTES_MAX

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Of files in a folder that are taken for pictures; a file named by itself may be called anything."""
STDIN = "-"
CHUNK_PICTURES = 8
"""Pictures asked about in one call: enough to fill a batch, few enough for a first answer soon."""
CHUNK_SIZE_BYTES_MAX = 16 * 2**20
OVERHEAD_BYTES = 64 * 1024
"""What a message needs beside its pictures, generously."""
_ITEM = re.compile(r"^(?:(?:samples|probes|pictures)\[(\d+)\]|probe|(reference))(?=[:.])")
"""What servers call the items of a request, at the head of an error's message."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture that an argument named."""

    name: str
    """As typed, or its path below the folder typed; "-" for standard input."""

    def read(self) -> bytes:
        """Read the file.

        Raises InvalidInputError naming it where it cannot be read or could not be sent in one message.
        """
        limit = MESSAGE_SIZE_BYTES_MAX - OVERHEAD_BYTES
        try:
            if self.name == STDIN:
                data = sys.stdin.buffer.read(limit + 1)
            else:
                with Path(self.name).open("rb") as file:
                    data = file.read(limit + 1)
        except OSError as error:
            raise InvalidInputError(
                f"cannot read picture {self.name}: {error.strerror}", hint="Check the path."
            ) from error
        if len(data) > limit:
            raise InvalidInputError(
                f"picture {self.name} is over the limit of {MESSAGE_SIZE_BYTES_MAX // 2**20} MiB a message",
                hint="Scale the picture down.",
            )
        return data

    @property
    def source(self) -> str:
        """The file's own name as a template's source: printable, and cut to what a source may hold."""
        plain = "".join(char if char.isprintable() else "?" for char in Path(self.name).name)
        return plain.encode()[:SOURCE_BYTES_MAX].decode("utf-8", "ignore")


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """A picture and what was answered about it, or why it could not be used."""

    file: PictureFile
    data: bytes
    """Empty where the file could not be read."""
    outcome: T | EngineError


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Add the argument PICTURE..."""
    parser.add_argument(
        "pictures",
        metavar="PICTURE",
        nargs="+",
        help="JPEG, PNG, WebP or BMP file; a folder, for the pictures directly in it, by name; or - for"
        " standard input",
    )


def find_pictures(arguments: Sequence[str]) -> list[PictureFile]:
    """List the pictures that arguments name, folders as their pictures sorted by name.

    Raises UsageError where standard input is named twice, InvalidInputError for a folder without pictures or
    one that cannot be read.
    """
    if arguments.count(STDIN) > 1:
        raise UsageError("standard input (-) can be read only once")
    files: list[PictureFile] = []
    for argument in arguments:
        if argument == STDIN or not Path(argument).is_dir():
            files.append(PictureFile(argument))
            continue
        files.extend(PictureFile(str(path)) for path in _pictures_of(argument))
    return files


def ask_each(
    files: Sequence[PictureFile], ask: Callable[[list[bytes]], Sequence[T | EngineError]]
) -> Iterator[Asked[T]]:
    """Read and ask a few pictures at a time; yields each with its answer or error, in order.

    Errors name the file. Raises what concerns the whole call.
    """
    chunk: list[tuple[PictureFile, bytes | EngineError]] = []
    size = 0
    for file in files:
        data = _read(file)
        length = 0 if isinstance(data, EngineError) else len(data)
        if chunk and (len(chunk) == CHUNK_PICTURES or size + length > CHUNK_SIZE_BYTES_MAX):
            yield from _ask(chunk, ask)
            chunk, size = [], 0
        chunk.append((file, data))
        size += length
    yield from _ask(chunk, ask)


def item_name(error: EngineError, names: Sequence[str]) -> str | None:
    """Look up the file of the item that an error's message is about; None: about no item."""
    match = _ITEM.match(error.message)
    if match is None:
        return None
    position = 1 if match[2] else int(match[1] or 0)
    return names[position] if position < len(names) else None


def name_items(error: EngineError, names: Sequence[str]) -> EngineError:
    """Call the items of a request, in an error's message, by the names of their files."""
    name = item_name(error, names)
    message = error.message if name is None else _ITEM.sub(lambda _: name, error.message)
    return type(error)(message, hint=error.hint, retry_after_s=error.retry_after_s)


def total_failure(failed: Sequence[tuple[str, EngineError]], num_pictures: int) -> EngineError:
    """Make one error of those of several pictures, led by the first."""
    name, error = failed[0]
    message = error.message if name in error.message else f"{name}: {error.message}"
    if num_pictures > 1:
        message = f"{len(failed)} of {num_pictures} pictures could not be used, first {message}"
    return type(error)(message, hint=error.hint)


def _pictures_of(folder: str) -> list[Path]:
    try:
        found = sorted(
            path
            for path in Path(folder).iterdir()
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
        )
    except OSError as error:
        raise InvalidInputError(
            f"cannot read folder {folder}: {error.strerror}", hint="Check the path and its permissions."
        ) from error
    if not found:
        is_deep = any(path.is_dir() for path in Path(folder).iterdir())
        below = " of its own, and its subfolders are not searched" if is_deep else ""
        raise InvalidInputError(
            f"folder {folder} holds no pictures{below}",
            hint=f"Files ending in {', '.join(SUFFIXES)} are taken.",
        )
    return found


def _read(file: PictureFile) -> bytes | EngineError:
    try:
        return file.read()
    except InvalidInputError as error:
        return error


def _ask(
    chunk: Sequence[tuple[PictureFile, bytes | EngineError]],
    ask: Callable[[list[bytes]], Sequence[T | EngineError]],
) -> Iterator[Asked[T]]:
    readable = [(file, data) for file, data in chunk if not isinstance(data, EngineError)]
    answers = iter(ask([data for _, data in readable]) if readable else ())
    names = [file.name for file, _ in readable]
    for file, data in chunk:
        if isinstance(data, EngineError):
            yield Asked(file, b"", data)
            continue
        outcome = next(answers)
        if isinstance(outcome, EngineError):
            outcome = name_items(outcome, names)
        yield Asked(file, data, outcome)
