"""Picture files below a root: which they are, and reading one without leaving the root or filling memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from engine.errors import InvalidInputError, PictureTooLargeError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""In lower case; those of a source may be in any."""
PICTURE_BYTES_MAX = 64 * 2**20
"""Of one picture's file; checked before it is read."""


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture. Hidden files, such as macOS's "._a.jpg", are none."""
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def check_picture_size(name: str, size_bytes: int) -> None:
    """Raise PictureTooLargeError for more than PICTURE_BYTES_MAX bytes."""
    if size_bytes > PICTURE_BYTES_MAX:
        raise PictureTooLargeError(
            f"picture {name} has {size_bytes:,} bytes; at most {PICTURE_BYTES_MAX:,} are read",
            hint="Scale the picture down, and run the job again.",
        )


def folder_root(root: Path) -> str:
    """Resolve the folder that a source's files lie in, without links.

    Raises InvalidInputError where it is no folder or cannot be read.
    """
    try:
        real = os.path.realpath(root, strict=True)
        os.scandir(real).close()
    except OSError as error:
        raise InvalidInputError(
            f"cannot read folder {root}: {error.strerror}", hint="Check the path and its permissions."
        ) from error
    return real


def is_inside(real: str, root: str) -> bool:
    """Whether a path without links is the root's, or below it."""
    return real == root or real.startswith(root if root.endswith(os.sep) else root + os.sep)


def problem_of_path(path: str) -> str | None:
    """Say what is wrong with a relative path in itself; None: it may be looked for below a root."""
    if not path or "\x00" in path:
        return "the path is empty" if not path else "the path holds a NUL"
    if path.startswith("/"):
        return "the path is absolute: give it relative to the source"
    if ".." in path.split("/"):
        return "the path holds '..'"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8: rename it"
    return None


def read_inside(root: str, file: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
    """Read a picture's bytes from a file below the root; size_bytes None: to the file's end.

    Raises PictureTooLargeError before reading, PermissionError where the path leads outside the root
    whatever a list of items says, OSError where there are fewer bytes or none can be read.
    """
    if "\x00" in file:
        raise OSError(errno.EINVAL, "the path holds a NUL", file)
    real = os.path.realpath(Path(root, file), strict=True)
    if not is_inside(real, root):
        raise PermissionError(errno.EACCES, "the path leads outside the source", file)
    # A link put there since is not followed, and a pipe is not waited for.
    descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", file)
        size = status.st_size if size_bytes is None else size_bytes
        check_picture_size(file, size)
        return _read_exactly(descriptor, offset, size, file)
    finally:
        os.close(descriptor)


def _read_exactly(descriptor: int, offset: int, size: int, file: str) -> bytes:
    parts: list[bytes] = []
    place = offset
    while place < offset + size:
        part = os.pread(descriptor, offset + size - place, place)
        if not part:
            raise OSError(errno.EIO, f"the file ends {offset + size - place:,} bytes too early", file)
        parts.append(part)
        place += len(part)
    return b"".join(parts)
