"""Tar shards in WebDataset form: members of one name up to its first dot are one sample.

A sample's identity is said by its .json ("identity_id", other texts are attributes), its .cls or its .txt,
in this order, or else by the folder that it lies in.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import InvalidInputError
from indexer.items import Item, Reason, Refusal
from indexer.sources.names import (
    attributes_problem,
    bad_identity,
    identity_problem,
    printable,
    source_key,
)
from indexer.sources.picture_files import (
    PICTURE_SUFFIXES,
    folder_root,
    is_inside,
    is_picture,
    problem_of_path,
    read_inside,
)

TAR_SUFFIX = ".tar"
LABELS = ("json", "cls", "txt")
"""Members that may say whose a sample is; the first that does is believed."""
LABEL_BYTES_MAX = 1 << 20
"""Of a member that names an identity."""
HEADER_BYTES_MAX = 1 << 20
"""Of a member's header with all extensions; a larger one is taken for damage."""


_DAMAGE = (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError)
"""What tarfile raises of damaged and hostile headers."""


@dataclass
class _Sample:
    """Members of one name up to its first dot that follow each other."""

    name: str
    pictures: list[tuple[str, tarfile.TarInfo]] = field(default_factory=list)
    """Paths without ".", and members."""
    labels: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    """By what follows the first dot."""


@dataclass(frozen=True)
class _Label:
    """What a sample says of itself."""

    identity_id: str
    attributes: Mapping[str, str] = field(default_factory=dict)


class TarSource:
    """Pictures in one tar, or in all tars of a folder in order of the bytes of their names.

    Only headers and labels are read to list them; pictures are read from where they lie in the tar.
    """

    kind = "tar"

    def __init__(self, path: Path):
        """Raises InvalidInputError where there is no tar to be read."""
        # A tar that is itself named by a link is meant; those in a folder may not lead out of it.
        path = path.resolve()
        folder = path if path.is_dir() else path.parent
        self._root = folder_root(folder)
        self._files = (path.name,) if folder != path else tuple(tars_in(path))
        for name in self._files:
            if problem := problem_of_path(name):
                raise InvalidInputError(f"tar {printable(name)}: {problem}")
        if not self._files:
            raise InvalidInputError(f"folder {path} holds no {TAR_SUFFIX} file")

    def items(self) -> Iterator[Item | Refusal]:
        """List all members. Raises InvalidInputError at the end where there was no picture."""
        is_empty = True
        for file in self._files:
            for found in _TarListing(self._root, file).items():
                is_empty = False
                yield found
        if is_empty:
            raise InvalidInputError(
                f"no picture ({', '.join(PICTURE_SUFFIXES)}) lies in {', '.join(self._files[:3])}"
            )

    def read(self, item: Item) -> bytes:
        """Read a picture out of its tar. Raises OSError, PictureTooLargeError."""
        if item.file not in self._files:
            raise FileNotFoundError(errno.ENOENT, "no tar of this source is called so", item.file)
        if item.offset < 0 or item.size_bytes < 0:
            raise OSError(errno.EINVAL, f"no picture can lie at byte {item.offset}", item.file)
        return read_inside(self._root, item.file, item.offset, item.size_bytes)


def tars_in(folder: Path) -> list[str]:
    """Names of the tars directly in a folder, in order of their bytes. Raises OSError."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if is_tar(entry.name)]
    return sorted(names, key=os.fsencode)


def is_tar(name: str) -> bool:
    """Whether a file's name is that of a tar that is not compressed."""
    return name.lower().endswith(TAR_SUFFIX) and not name.startswith(".")


class _Headers(io.FileIO):
    """A tar as tarfile sees it: a header that claims gigabytes is not taken into memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= HEADER_BYTES_MAX:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size) or b""


class _TarListing:
    """One run through one tar."""

    def __init__(self, root: str, name: str):
        self._root = root
        self._name = name
        self._keys: set[str] = set()
        self._mtime_ns = 0

    def items(self) -> Iterator[Item | Refusal]:
        """Answer for all members in their order; one refusal for what of the tar cannot be read."""
        try:
            with _open(self._root, self._name) as file:
                status = os.fstat(file.fileno())
                self._mtime_ns = status.st_mtime_ns
                yield from self._samples(file, status.st_size)
        except OSError as error:
            yield self._refuse("", Reason.UNREADABLE, f"the tar cannot be read: {error.strerror}")

    def _samples(self, file: _Headers, size_bytes: int) -> Iterator[Item | Refusal]:
        sample = _Sample("")
        problem = ""
        for member in _members(file, size_bytes):
            if isinstance(member, str):
                problem = member
                break
            path = "/".join(part for part in member.name.split("/") if part not in {"", "."})
            if unsafe := _problem_of_member(member):
                yield self._refuse(member.name, Reason.BAD_PATH, unsafe)
                continue
            folder, _, base = path.rpartition("/")
            if not member.isreg() or base.startswith("."):
                continue
            stem, _, extension = base.partition(".")
            if f"{folder}/{stem}" != sample.name:
                yield from self._answers(file, sample)
                sample = _Sample(f"{folder}/{stem}")
            if is_picture(base):
                sample.pictures.append((path, member))
            elif extension.lower() in LABELS:
                sample.labels[extension.lower()] = member
        # Also of a tar that breaks off: what is whole is used.
        yield from self._answers(file, sample)
        if problem:
            yield self._refuse("", Reason.UNREADABLE, problem)

    def _answers(self, file: _Headers, sample: _Sample) -> Iterator[Item | Refusal]:
        if not sample.pictures:
            return
        label = _read_label(file, sample)
        for path, member in sample.pictures:
            key = source_key(f"{self._name}/{path}")
            if key in self._keys:
                yield self._refuse(path, Reason.BAD_ROW, "the tar holds this member twice: the first is used")
                continue
            self._keys.add(key)
            if isinstance(label, str):
                yield self._refuse(path, Reason.BAD_ROW, label)
            elif not label.identity_id:
                yield self._refuse(path, Reason.BAD_IDENTITY, "neither a label nor a folder says whose it is")
            elif problem := identity_problem(label.identity_id):
                yield bad_identity(key, label.identity_id, problem)
            elif problem := attributes_problem(label.attributes):
                yield self._refuse(path, Reason.BAD_ROW, problem)
            elif member.issparse():
                yield self._refuse(path, Reason.UNREADABLE, "the member is stored sparse")
            else:
                yield Item(
                    key,
                    label.identity_id,
                    file=self._name,
                    offset=member.offset_data,
                    size_bytes=member.size,
                    mtime_ns=self._mtime_ns,
                    attributes=dict(label.attributes),
                )

    def _refuse(self, path: str, reason: Reason, detail: str) -> Refusal:
        return Refusal(source_key(f"{self._name}/{path}"), reason, detail=printable(detail))


def _open(root: str, name: str) -> _Headers:
    """Open a tar of the root. Raises OSError, also where a link leads outside."""
    real = os.path.realpath(Path(root, name), strict=True)
    if not is_inside(real, root):
        raise PermissionError(errno.EACCES, "a link leads outside the source", name)
    descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return _Headers(descriptor)


def _members(file: _Headers, size_bytes: int) -> Iterator[tarfile.TarInfo | str]:
    """Members that are there whole; at last, where the tar is damaged or cut short, what is wrong with it."""
    end = 0
    try:
        with tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape") as tar:
            while member := tar.next():
                # Both are damage that tarfile does not look for: it would go back, and on for ever.
                if member.size < 0 or tar.offset <= end:
                    yield f"the tar is damaged at byte {end:,}"
                    return
                if not member.issparse() and member.offset_data + member.size > size_bytes:
                    yield f"the tar is cut short in {member.name!r}"
                    return
                end = tar.offset
                # It keeps all members otherwise.
                tar.members.clear()  # type: ignore[attr-defined]
                yield member
    except _DAMAGE as error:
        yield f"the tar cannot be read from byte {end:,} on: {error}"
        return
    mark = os.pread(file.fileno(), tarfile.BLOCKSIZE, end)
    if mark != bytes(tarfile.BLOCKSIZE):
        what = "is damaged" if mark else "has no end mark, it may be cut short,"
        yield f"the tar {what} at byte {end:,}"


def _problem_of_member(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith("/"):
        return "the member's path is absolute"
    if ".." in member.name.split("/"):
        return "the member's path holds '..'"
    if member.issym() or member.islnk():
        return f"the member is a link to {member.linkname!r}"
    if member.isdev():
        return "the member is a device or a pipe"
    return None


def _read_label(file: _Headers, sample: _Sample) -> _Label | str:
    """Tell whose a sample is, or why that cannot be told."""
    identity_id: str | None = None
    attributes: dict[str, str] = {}
    try:
        for extension in LABELS:
            member = sample.labels.get(extension)
            if member is None or identity_id is not None:
                continue
            if member.size > LABEL_BYTES_MAX:
                return f".{extension} has {member.size:,} bytes; at most {LABEL_BYTES_MAX:,} are read"
            data = os.pread(file.fileno(), member.size, member.offset_data)
            if extension == "json":
                identity_id, attributes = _read_json(data)
            else:
                identity_id = data.decode("utf-8-sig").strip()
    except (ValueError, RecursionError) as error:
        return f".{extension} cannot be read: {error}"
    if identity_id is None:
        identity_id = sample.name.split("/")[-2]
    return _Label(identity_id, attributes)


def _read_json(data: bytes) -> tuple[str | None, dict[str, str]]:
    """Take the identity, None where it is not said, and all other texts. Raises ValueError."""
    found: Any = msgspec.json.decode(data)
    if not isinstance(found, dict):
        raise ValueError('not an object {"identity_id": ...}')
    identity_id = found.pop("identity_id", None)
    if isinstance(identity_id, int) and not isinstance(identity_id, bool):
        identity_id = str(identity_id)
    if not isinstance(identity_id, str | None):
        raise ValueError("identity_id is not text")
    return identity_id, {name: value for name, value in found.items() if isinstance(value, str)}
