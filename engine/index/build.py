"""Build a generation: rows to files, synced, verified, renamed into place. Knows nothing of LMDB."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import CorruptDataError, DataFolderError, StorageFullError
from engine.index.faiss_library import FAISS_VERSION, library
from engine.index.generation import (
    IDENTITY_NUMBERS,
    MANIFEST,
    TEMPLATE_IDS,
    VECTORS,
    FileEntry,
    Generation,
    Manifest,
    seal,
    sha256,
)
from engine.types import Vector, Vectors

ROWS_PER_REPORT = 10_000
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None}
"""None: numpy names no number where the disk took only a part."""
_SHORT_WRITE = "write error"
"""What FAISS says in a RuntimeError where the disk took only a part."""


@dataclass(frozen=True)
class Columns:
    """The rows of a generation to be, in order of their template ids."""

    template_ids: NDArray[np.uint64]
    """uint64[n], ascending"""
    identity_numbers: NDArray[np.uint64]
    """uint64[n]"""
    vectors: Vectors
    """float32[n, d]"""


def collect(
    rows: Iterable[tuple[int, int, Vector]],
    num_rows: int,
    dimension: int,
    progress: Callable[[int, int], None],
) -> Columns:
    """Gather rows (template id ascending, identity number, vector) in memory, 4 x d + 16 bytes each.

    `progress(done, total)` is called every ROWS_PER_REPORT rows. Raises CorruptDataError where there are more
    or fewer than `num_rows`.
    """
    template_ids = np.empty(num_rows, np.uint64)
    identity_numbers = np.empty(num_rows, np.uint64)
    vectors = np.empty((num_rows, dimension), np.float32)
    row = 0
    for template_id, identity_number, vector in rows:
        if row < num_rows:
            template_ids[row], identity_numbers[row], vectors[row] = template_id, identity_number, vector
        row += 1
        if row % ROWS_PER_REPORT == 0:
            progress(row, num_rows)
    if row != num_rows:
        raise CorruptDataError(f"the store counts {num_rows} templates but holds {row}")
    return Columns(template_ids, identity_numbers, vectors)


def build(
    index_folder: Path, columns: Columns, *, number: int, sequence: int, contract_digest: str
) -> Generation:
    """Write generation `number`; returns it opened, complete, synced and verified.

    Raises StorageFullError, DataFolderError where the folder cannot be written; CorruptDataError where what
    was written does not verify. On any error nothing of it is left.
    """
    target = index_folder / str(number)
    temporary = index_folder / f"{number}.building"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write(temporary, columns)
        files = {
            name: FileEntry((temporary / name).stat().st_size, sha256(temporary / name))
            for name in (VECTORS, TEMPLATE_IDS, IDENTITY_NUMBERS)
        }
        manifest = Manifest(
            number=number,
            sequence=sequence,
            num_templates=len(columns.template_ids),
            dimension=columns.vectors.shape[1],
            contract_digest=contract_digest,
            faiss_version=FAISS_VERSION,
            files=files,
        )
        (temporary / MANIFEST).write_bytes(seal(manifest))
        _sync(temporary)
        generation = Generation(temporary, contract_digest)
        temporary.rename(target)
        generation.folder = target
        _sync_one(index_folder)
    except (OSError, RuntimeError) as error:
        is_full = error.errno in _FULL if isinstance(error, OSError) else _SHORT_WRITE in str(error)
        kind = StorageFullError if is_full else DataFolderError
        raise kind(f"generation {number} could not be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return generation


def remove_other_generations(index_folder: Path, keep: int) -> None:
    """Unlink every generation and unfinished build but `keep`; open ones stay readable until closed."""
    index_folder.mkdir(exist_ok=True)
    for path in index_folder.iterdir():
        if path.name != str(keep) and path.is_dir():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
    _sync_one(index_folder)


def _write(folder: Path, columns: Columns) -> None:
    faiss = library()
    dimension = columns.vectors.shape[1]
    index = faiss.IndexFlatIP(dimension)
    index.add(columns.vectors)
    faiss.write_index(index, str(folder / VECTORS))
    size_bytes = faiss.serialize_index(faiss.IndexFlatIP(dimension)).size + columns.vectors.nbytes
    if (folder / VECTORS).stat().st_size != size_bytes:
        # FAISS only prints that closing the file lost what was buffered.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    np.save(folder / TEMPLATE_IDS, columns.template_ids)
    np.save(folder / IDENTITY_NUMBERS, columns.identity_numbers)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
