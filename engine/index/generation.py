"""One immutable built index on disk, a cache of the store up to a sequence: its files, manifest and checks.

::

    index/<n>/manifest.json   what it covers and the checksum of every file, its own included
    index/<n>/vectors.faiss   FAISS flat index, inner product of unit vectors
    index/<n>/template_ids.npy, identity_numbers.npy   uint64 of each row; template ids ascend

A folder whose name is not a plain number is a build that did not finish. Knows nothing of LMDB.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import CorruptDataError, NewerFormatError
from engine.index.faiss_library import library
from engine.types import Vectors

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
VECTORS = "vectors.faiss"
TEMPLATE_IDS = "template_ids.npy"
IDENTITY_NUMBERS = "identity_numbers.npy"
_BLOCK_BYTES = 1 << 20


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a generation."""

    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation is and covers."""

    format: int = FORMAT_VERSION
    number: int
    sequence: int
    """Every write up to this one is covered."""
    num_templates: int
    dimension: int
    contract_digest: str
    kind: str = "flat"
    faiss_version: str
    files: dict[str, FileEntry]
    checksum: str = ""
    """sha256 of this manifest with an empty checksum."""


def seal(manifest: Manifest) -> bytes:
    """Manifest to JSON, with its checksum."""
    checksum = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()
    return msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, checksum=checksum)))


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


class Generation:
    """An opened generation. Read-only and thread-safe; its files may be unlinked while it is open."""

    def __init__(self, folder: Path, contract_digest: str):
        """Open and verify the generation in `folder`.

        Raises CorruptDataError naming what does not hold: a missing file, a checksum, another contract.
        """
        self.folder = folder
        self.manifest = _read_manifest(folder)
        if self.manifest.contract_digest != contract_digest:
            raise CorruptDataError(f"generation {folder} was built for another embedding contract")
        for name, entry in self.manifest.files.items():
            _verify(folder / name, entry)
        faiss = library()
        self._index = faiss.read_index(str(folder / VECTORS), faiss.IO_FLAG_MMAP_IFC)
        self.template_ids: NDArray[np.uint64] = np.load(folder / TEMPLATE_IDS, mmap_mode="r")
        self.identity_numbers: NDArray[np.uint64] = np.load(folder / IDENTITY_NUMBERS, mmap_mode="r")

    @property
    def num_rows(self) -> int:
        """Templates in the generation, removed ones included."""
        return self.manifest.num_templates

    def row(self, template_id: int) -> int | None:
        """Row of a template, None where it is not covered."""
        position = int(np.searchsorted(self.template_ids, np.uint64(template_id)))
        is_here = position < self.num_rows and int(self.template_ids[position]) == template_id
        return position if is_here else None

    def search(
        self, probes: Vectors, num_rows: int, alive: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarities and rows float32[n, r], int64[n, r], best first; -1 where there are no more.

        `alive` is a bitmap of the rows that may be found, lowest bit first; None: all.
        """
        faiss = library()
        if alive is None:
            return self._search(probes, num_rows, None)
        # The selector points into the bitmap: both must outlive the search.
        selector = faiss.IDSelectorBitmap(alive.size, faiss.swig_ptr(alive))
        return self._search(probes, num_rows, faiss.SearchParameters(sel=selector))

    def _search(
        self, probes: Vectors, num_rows: int, parameters: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        similarities, rows = self._index.search(probes, num_rows, params=parameters)
        return similarities, rows


def _verify(path: Path, entry: FileEntry) -> None:
    try:
        is_whole = path.stat().st_size == entry.size_bytes and sha256(path) == entry.sha256
    except OSError as error:
        raise CorruptDataError(f"generation file {path} cannot be read: {error.strerror}") from error
    if not is_whole:
        raise CorruptDataError(f"generation file {path} is damaged")


def _read_manifest(folder: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise CorruptDataError(f"generation {folder} has no readable manifest: {error}") from error
    if manifest.format > FORMAT_VERSION:
        raise NewerFormatError(
            f"generation {folder} has format {manifest.format}, this version reads {FORMAT_VERSION}"
        )
    unsealed = msgspec.structs.replace(manifest, checksum="")
    if hashlib.sha256(msgspec.json.encode(unsealed)).hexdigest() != manifest.checksum:
        raise CorruptDataError(f"the checksum of {folder / MANIFEST} does not hold")
    return manifest
