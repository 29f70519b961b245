"""A folder for each identity: ROOT/IDENTITY/PICTURE, and deeper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import InvalidInputError
from indexer.items import Item, Reason, Refusal
from indexer.sources.names import bad_identity, identity_problem, printable, source_key
from indexer.sources.picture_files import (
    PICTURE_SUFFIXES,
    folder_root,
    is_inside,
    is_picture,
    problem_of_path,
    read_inside,
)

_Entries = Iterator["os.DirEntry[str]"]
_OUTSIDE = (
    "a link that leads outside the source, where nothing is read: put there what it leads to, or give a"
    " SOURCE that holds both"
)


@dataclass
class _Folder:
    """A folder whose entries are being walked."""

    path: str
    """Relative to the root, ending in "/"; empty: the root."""
    real: str
    """Without links."""
    entries: _Entries = field(repr=False)


@dataclass
class _Walk:
    """Where the walk is: the folders from the root down, and the identity they belong to."""

    folders: list[_Folder]
    identity_id: str = ""
    problem: str | None = None
    """With the identity's name."""
    followed: set[str] = field(default_factory=set)
    """Folders that links of this identity led to: each is walked once, so that no web of links is endless."""


class FolderSource:
    """Pictures in folders named after identities, in order of the bytes of their paths.

    Hidden files and folders and files of other suffixes are passed over. Links are followed inside the root.
    """

    kind = "folder"

    def __init__(self, root: Path):
        """Raises InvalidInputError where the root cannot be read."""
        self._root = folder_root(root)

    def items(self) -> Iterator[Item | Refusal]:
        """List all pictures. Raises InvalidInputError at the end where there was none."""
        is_empty = True
        walk = _Walk([])
        yield from _enter(walk, "", self._root)
        while walk.folders:
            entry = next(walk.folders[-1].entries, None)
            if entry is None:
                walk.folders.pop()
                continue
            for found in self._look(walk, entry):
                is_empty = False
                yield found
        if is_empty:
            suffixes = ", ".join(PICTURE_SUFFIXES)
            raise InvalidInputError(
                f"no picture ({suffixes}) lies below {self._root}",
                hint="Give a folder that holds a folder of pictures for each identity.",
            )

    def read(self, item: Item) -> bytes:
        """Read a picture's file. Raises OSError, PictureTooLargeError."""
        return read_inside(self._root, item.file)

    def _look(self, walk: _Walk, entry: os.DirEntry[str]) -> Iterator[Item | Refusal]:
        """Answer for one entry of the innermost folder; a folder is entered."""
        if entry.name.startswith("."):
            return
        here = walk.folders[-1]
        path = here.path + entry.name
        try:
            real = os.path.realpath(entry.path, strict=True) if entry.is_symlink() else None
            is_folder = entry.is_dir()
        except OSError as error:
            # In a circle, or to nothing.
            detail = f"a link that cannot be followed ({error.strerror}): mend or remove it"
            yield _refuse(path, Reason.BAD_PATH, detail)
            return
        if not is_folder and not is_picture(entry.name):
            return
        if real is not None and (problem := self._problem_of_link(walk, real, is_folder=is_folder)):
            yield _refuse(path, Reason.BAD_PATH, problem)
        elif is_folder:
            if len(walk.folders) == 1:
                walk.identity_id, walk.problem = entry.name, identity_problem(entry.name)
                walk.followed.clear()
            if real is not None:
                walk.followed.add(real)
            yield from _enter(walk, path + "/", real or f"{here.real}/{entry.name}")
        else:
            yield _picture(walk, path, entry)

    def _problem_of_link(self, walk: _Walk, real: str, *, is_folder: bool) -> str | None:
        if not is_inside(real, self._root):
            return _OUTSIDE
        if not is_folder:
            return None
        if any(is_inside(folder.real, real) for folder in walk.folders):
            return "a link that leads back to a folder that it lies in: remove it"
        if len(walk.folders) > 1 and real in walk.followed:
            return "a link to a folder that another link of this identity led to: remove one of them"
        return None


def _enter(walk: _Walk, path: str, real: str) -> Iterator[Refusal]:
    """Go into a folder, or refuse it where it cannot be read."""
    try:
        with os.scandir(real) as listed:
            entries = sorted(listed, key=_order)
    except OSError as error:
        yield _refuse(path, Reason.UNREADABLE, f"the folder cannot be read: {error.strerror}")
    else:
        walk.folders.append(_Folder(path, real, iter(entries)))


def _order(entry: os.DirEntry[str]) -> bytes:
    """Make whole paths ascend, not only the names in one folder."""
    return os.fsencode(entry.name) + (b"/" if entry.is_dir(follow_symlinks=False) else b"")


def _picture(walk: _Walk, path: str, entry: os.DirEntry[str]) -> Item | Refusal:
    if len(walk.folders) == 1:
        return _refuse(path, Reason.BAD_IDENTITY, "the picture lies in no identity's folder")
    if walk.problem:
        return bad_identity(path, walk.identity_id, walk.problem)
    if problem := problem_of_path(path):
        return _refuse(path, Reason.BAD_PATH, problem)
    try:
        status = entry.stat()
        if not entry.is_file():
            return _refuse(path, Reason.UNREADABLE, "not a regular file")
    except OSError as error:
        return _refuse(path, Reason.UNREADABLE, f"{error.strerror}")
    return Item(
        source_key(path),
        walk.identity_id,
        file=path,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def _refuse(path: str, reason: Reason, detail: str) -> Refusal:
    return Refusal(source_key(path), reason, detail=printable(detail))
