"""The folder that crops are kept in. Knows nothing of pictures, faces or training.

::

    FOLDER/recipe                what everything in it was made from
    FOLDER/ALIGNMENT/crops.npy   uint8[n, s, s, 3], mapped when read
    FOLDER/ALIGNMENT/index       whose they are, and their digests; written last: without it nothing is there

Every file is there whole or not at all, whenever the process is killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import numpy as np

from engine.disk import sync
from engine.errors import CorruptDataError, InvalidInputError
from engine.outputs import cannot_write
from engine.trainer.crop_set import CropRows, CropSet, digest_rows

T = TypeVar("T")

FORMAT = 1
"""Of the files in the folder; those of another number are made anew."""


class Refused(msgspec.Struct, frozen=True):
    """A picture without a crop, and why."""

    key: str
    identity_id: str
    reason: str
    """``no_face``, ``undecodable``, ``too_large``, ``unreadable``, ``extreme_pose``, or the source's own."""
    detail: str = ""


class Recipe(msgspec.Struct, frozen=True):
    """What crops were made from."""

    format: int
    source_digest: str
    """Of keys, identities, names, places, sizes and times of all pictures."""
    settings: dict[str, Any]


class _Index(msgspec.Struct, frozen=True):
    """Whose the crops of one alignment are."""

    recipe: Recipe
    labels: list[int]
    identities: list[str]
    keys: list[str]
    row_digests: bytes
    refusals: list[Refused]


def open_crops(folder: Path, alignment: str, *, is_checked: bool = True) -> CropSet:
    """Open crops that were kept, without their source. `is_checked` reads them all and compares digests.

    Raises InvalidInputError where there are none of that alignment, CorruptDataError where a file is torn or
    changed.
    """
    place = folder / alignment
    index = _read_index(folder, alignment)
    row_digests = np.frombuffer(index.row_digests, np.uint8).reshape(-1, 32)
    labels = np.array(index.labels, np.int64)
    try:
        rows = CropRows(place / "crops.npy")
        crops = CropSet(rows, labels, tuple(index.identities), tuple(index.keys), alignment, row_digests)
    except InvalidInputError as error:
        raise _damaged(place, error.message) from error
    if is_checked and not np.array_equal(digest_rows(rows), row_digests):
        raise _damaged(place, "the digest of a crop does not hold")
    return crops


def recipe_of(folder: Path, alignment: str) -> Recipe:
    """What kept crops were made from. Raises InvalidInputError, CorruptDataError as `open_crops`."""
    return _read_index(folder, alignment).recipe


def refusals_of(folder: Path, alignment: str) -> tuple[Refused, ...]:
    """Pictures that gave no crop. Raises InvalidInputError, CorruptDataError as `open_crops`."""
    return tuple(_read_index(folder, alignment).refusals)


def keep_pixels(folder: Path, alignment: str, shape: tuple[int, ...], chunks: Iterable[bytes]) -> CropRows:
    """Write crops of a shape [n, s, s, 3], given as bytes in their order; until their index is written they
    do not count. Raises StorageFullError, InvalidInputError.
    """
    place = folder / alignment
    make_folder(place)
    with _writing(place):
        (place / "index").unlink(missing_ok=True)
        sync(place)

    def write(file: BinaryIO) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk)

    write_file(place / "crops.npy", write)
    return CropRows(place / "crops.npy")


def write_index(folder: Path, crops: CropSet, recipe: Recipe, refusals: Iterable[Refused] = ()) -> None:
    """Say whose the crops are that `keep_pixels` wrote. Raises StorageFullError, InvalidInputError."""
    assert crops.row_digests is not None
    index = _Index(
        recipe,
        crops.labels.tolist(),
        list(crops.identities),
        list(crops.keys),
        crops.row_digests.tobytes(),
        list(refusals),
    )
    write_value(folder / crops.alignment / "index", index)


def keep_only(folder: Path, recipe: Recipe) -> None:
    """Remove what was made from another recipe, the faces found with it, and note this one.

    Raises InvalidInputError for a folder of other things, and as `make_folder`.
    """
    path = folder / "recipe"
    others = [place for place in folder.iterdir() if place.name not in {"lock", "recipe", "recipe.part"}]
    if not path.exists() and others:
        raise InvalidInputError(
            f"{folder} holds other things than crops of pictures, for example {others[0].name}",
            hint="Give a new or empty folder for the crops.",
        )
    try:
        old = read_value(path, Recipe) if path.exists() else None
    except CorruptDataError:
        old = None
    if old == recipe:
        return
    if others:
        is_source = old is not None and old.source_digest != recipe.source_digest
        what = "source has" if is_source else "settings have"
        sys.stderr.write(f"{folder}: the {what} changed since its crops were made: they are made anew\n")
    for place in others:
        if place.name == "faces" or any((place / name).exists() for name in ("parts", "crops.npy", "index")):
            shutil.rmtree(place, ignore_errors=True)
    write_value(path, recipe)


def open_made(folder: Path, alignment: str, recipe: Recipe) -> CropSet | None:
    """Crops that an earlier run made from that recipe; None where there are none, or they are damaged."""
    if not is_kept(folder, alignment):
        return None
    try:
        if recipe_of(folder, alignment) == recipe:
            return open_crops(folder, alignment)
    except CorruptDataError as error:
        sys.stderr.write(f"{error.message}: its crops are made anew\n")
    return None


def kept_alignments(folder: Path) -> tuple[str, ...]:
    """Names of the alignments whose crops are there to the end, sorted; none where there is no folder."""
    return tuple(sorted(path.parent.name for path in folder.glob("*/index")))


def is_kept(folder: Path, alignment: str) -> bool:
    """Whether crops of that alignment are there to the end."""
    return (folder / alignment / "index").exists()


def write_value(path: Path, value: object) -> None:
    """Write a value as MessagePack, in place of what is there. Raises StorageFullError, InvalidInputError."""
    data = msgspec.msgpack.encode(value)
    write_file(path, lambda file: file.write(data))


def read_value(path: Path, kind: type[T]) -> T:
    """Read a value back. Raises CorruptDataError where it is not what was written, InvalidInputError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(
            f"{path} cannot be read: {error.strerror or error}", hint="Give a folder of crops that can be."
        ) from error
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, synced, in place of what is there. Raises StorageFullError, InvalidInputError."""
    temporary = path.with_name(path.name + ".part")
    with _writing(path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder where there is none. Raises StorageFullError, InvalidInputError."""
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against others who would write into it; waits for them. Raises as `make_folder`."""
    make_folder(folder)
    with _writing(folder):
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_index(folder: Path, alignment: str) -> _Index:
    if not is_kept(folder, alignment):
        raise InvalidInputError(
            f"{folder} holds no finished crops {alignment}",
            hint="Make them with identiface train run RUN --data SOURCE --crops FOLDER, or name another.",
        )
    index = read_value(folder / alignment / "index", _Index)
    if len(index.row_digests) != 32 * len(index.labels):
        raise _damaged(folder / alignment / "index", "it does not hold a digest for each crop")
    return index


def _damaged(path: Path, what: str) -> CorruptDataError:
    return CorruptDataError(
        f"{path} is damaged: {what}", hint="Remove the folder of crops: it is made anew from the pictures."
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
