"""An HDF5 file with a data set of images and one of labels, as face data sets on the web come."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError
from indexer.items import Item, Refusal
from indexer.sources.names import bad_identity, identity_problem, row_prefix
from indexer.sources.picture_files import check_picture_size

IMAGE_NAMES = ("images", "image", "X", "x", "data", "faces", "pictures")
LABEL_NAMES = (
    "labels",
    "label",
    "identity_id",
    "identity",
    "identities",
    "Y",
    "y",
    "names",
    "name",
    "target",
)
CHUNK_BYTES_MAX = 256 * 2**20
"""Of pixels that the file stores as one piece: it is unpacked whole for each picture of it."""
CHUNK_CACHE_BYTES = 64 * 2**20
RANGE_PICTURES = 16
"""Looked at to tell whether numbers with a point are 0..1."""
NAMES_SHOWN_MAX = 20
_DAMAGE = (RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)
"""What h5py raises of damaged and hostile files, beside OSError."""


class Hdf5Source:
    """Pictures in rows: encoded files as uint8 of variable length, or pixels, uint8 or float 0..1.

    Pixels are [n, h, w], [n, h, w, 3] or [n, 3, h, w], red first, and are handed out as PNG. An encoded file
    is read before its size is known.
    """

    kind = "hdf5"

    def __init__(self, path: Path, images: str = "", labels: str = ""):
        """Raises InvalidInputError unless both data sets are found, by these or usual names, and fit."""
        self._path = path
        self._file: h5py.File | None = None
        self._lock = threading.Lock()
        try:
            with h5py.File(path, "r") as file:
                self._images = images or _guess(file, path, IMAGE_NAMES, "images")
                labels = labels or _guess(file, path, LABEL_NAMES, "labels")
                pixels = _data_set(file, path, self._images)
                self._layout = _layout(path, pixels)
                self._identity_ids = _read_labels(path, _data_set(file, path, labels))
                num_pictures = len(pixels)
        except (*_DAMAGE, OSError) as error:
            raise InvalidInputError(
                f"cannot read {path} as HDF5: {error}", hint="Check that the file is whole, and readable."
            ) from error
        if num_pictures != len(self._identity_ids) or not num_pictures:
            raise InvalidInputError(
                f"{path}: {self._images!r} has {num_pictures:,} rows, {labels!r} {len(self._identity_ids):,}",
                hint="Give as many labels as images, at least one; name the data sets to use others.",
            )

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process."""
        return {**self.__dict__, "_file": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def items(self) -> Iterator[Item | Refusal]:
        """List all rows; no picture is looked at."""
        prefix = row_prefix(self._path.name)
        mtime_ns = self._path.stat().st_mtime_ns
        for row, identity_id in enumerate(self._identity_ids):
            key = f"{prefix}{row}"
            if problem := identity_problem(identity_id):
                yield bad_identity(key, identity_id, f"row {row}: {problem}")
            else:
                yield Item(key, identity_id, file=self._path.name, offset=row, mtime_ns=mtime_ns)

    def read(self, item: Item) -> bytes:
        """Read a picture, pixels as PNG.

        Raises OSError, also for numbers that are no pixels, PictureTooLargeError.
        """
        if item.file != self._path.name or not 0 <= item.offset < len(self._identity_ids):
            raise FileNotFoundError(errno.ENOENT, "no picture of this source", item.file)
        with self._lock:
            value = self._row(item.offset)
        if self._layout == "encoded":
            data: bytes = np.asarray(value).tobytes()
            check_picture_size(item.key, len(data))
            return data
        # Pillow comes with it: only where it is needed.
        from engine.embedding.images import encode_png

        return encode_png(_rgb(np.asarray(value), self._layout))

    def _row(self, row: int) -> Any:
        try:
            if self._file is None:
                self._file = h5py.File(self._path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
            return _data_set(self._file, self._path, self._images)[row]
        except (*_DAMAGE, InvalidInputError) as error:
            raise OSError(errno.EIO, f"row {row} cannot be read: {error}", str(self._path)) from error


def _guess(file: h5py.File, path: Path, names: tuple[str, ...], what: str) -> str:
    for name in names:
        if name in file:
            return name
    found: list[str] = []
    # A name that is not UTF-8 comes as bytes.
    file.visititems(lambda name, one: found.append(f"{name}") if isinstance(one, h5py.Dataset) else None)
    there = ", ".join(found[:NAMES_SHOWN_MAX]) or "none"
    raise InvalidInputError(
        f"{path} has no data set called {', '.join(names)}; it has {there}",
        hint=f"Say which data set holds the {what}.",
    )


def _data_set(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    """Find a data set whose data lies in this file alone. Raises InvalidInputError."""
    parts = [part for part in name.split("/") if part]
    links = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    if not links or name not in file:
        raise InvalidInputError(f"{path} has no data set {name!r}")
    is_external = any(isinstance(file.get(link, getlink=True), h5py.ExternalLink) for link in links)
    if is_external or (found := file[name]).file.filename != file.filename:
        raise InvalidInputError(f"{path}: {name!r} leads to another file", hint="Give that file.")
    if not isinstance(found, h5py.Dataset) or found.ndim < 1:
        raise InvalidInputError(f"{path}: {name!r} is no data set of rows")
    if found.external or found.is_virtual:
        raise InvalidInputError(f"{path}: the data of {name!r} lies in other files", hint="Copy it into one.")
    if found.chunks and int(np.prod(found.chunks)) * found.dtype.itemsize > CHUNK_BYTES_MAX:
        raise InvalidInputError(
            f"{path}: {name!r} is stored in pieces of {found.chunks}, over {CHUNK_BYTES_MAX:,} bytes",
            hint="Store it in pieces of one picture.",
        )
    return found


def _layout(path: Path, images: h5py.Dataset) -> str:
    """Tell "encoded", "grey", or whether channels are "first" or "last". Raises InvalidInputError."""
    shape, kind = images.shape, images.dtype
    if len(shape) == 1 and h5py.check_vlen_dtype(kind) in {np.dtype(np.uint8), np.dtype(np.int8)}:
        return "encoded"
    layouts = {
        "grey": len(shape) == 3,
        "last": len(shape) == 4 and shape[3] in {1, 3},
        "first": len(shape) == 4 and shape[1] in {1, 3} and shape[3] not in {1, 3},
    }
    fitting = [name for name, fits in layouts.items() if fits]
    if not fitting or kind.kind not in "uf" or (kind.kind == "u" and kind.itemsize != 1):
        raise InvalidInputError(
            f"{path}: images are {kind}{list(shape)}",
            hint="Give uint8 or float 0..1 of [n, h, w], [n, h, w, 3] or [n, 3, h, w], or encoded files of"
            " variable length.",
        )
    size_bytes = int(np.prod(shape[1:])) * kind.itemsize
    check_picture_size(str(path), size_bytes)
    if not size_bytes:
        raise InvalidInputError(f"{path}: images of {list(shape[1:])} hold nothing")
    if kind.kind == "f" and shape[0]:
        for row in np.linspace(0, shape[0] - 1, min(shape[0], RANGE_PICTURES)).astype(int):
            if problem := _range_problem(images[row]):
                raise InvalidInputError(f"{path}: image {row}: {problem}", hint="Give uint8, or float 0..1.")
    return fitting[0]


def _range_problem(pixels: NDArray[Any]) -> str | None:
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0.0 and high <= 1.0:
        return None
    return f"pixels from {low:g} to {high:g}, not 0 to 1"


def _rgb(pixels: NDArray[Any], layout: str) -> NDArray[np.uint8]:
    if pixels.dtype.kind == "f":
        if problem := _range_problem(pixels):
            raise OSError(errno.EINVAL, problem)
        pixels = np.rint(pixels.astype(np.float32) * 255.0).astype(np.uint8)
    if layout == "first":
        pixels = np.moveaxis(pixels, 0, -1)
    if layout == "grey":
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def _is_text(kind: np.dtype[Any]) -> bool:
    """Whether a data type is text or bytes of variable length."""
    told = h5py.check_string_dtype(kind)
    return told is not None and told.length is None


def _read_labels(path: Path, labels: h5py.Dataset) -> list[str]:
    """Read all labels as text, unchecked. Raises InvalidInputError for other types."""
    kind = labels.dtype
    shape = labels.shape
    is_row = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if is_row and kind.kind in "iu":
        return [str(number) for number in labels[:].reshape(-1).tolist()]
    if is_row and (kind.kind == "S" or _is_text(kind)):
        return [
            value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
            for value in labels[:].reshape(-1).tolist()
        ]
    raise InvalidInputError(
        f"{path}: labels are {kind}{list(shape)}", hint="Give one integer or text for each image."
    )
