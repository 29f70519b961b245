"""Build a generation: rows to files, synced, verified, renamed into place. Knows nothing of LMDB."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

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
from engine.types import Vector

ROWS_PER_REPORT = 10_000
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None}
"""None: numpy names no number where the disk took only a part."""
_SHORT_WRITE = "write error"
"""What FAISS says in a RuntimeError where the disk took only a part."""


def build(
    index_folder: Path,
    *,
    number: int,
    sequence: int,
    dimension: int,
    contract_digest: str,
    rows: Iterable[tuple[int, int, Vector]],
    num_rows: int,
    progress: Callable[[int, int], None],
) -> Path:
    """Write generation `number` from rows (template id ascending, identity number, vector).

    Returns its folder, complete, synced and verified. `progress(done, total)` is called every
    ROWS_PER_REPORT rows. Raises StorageFullError, DataFolderError where the folder cannot be written;
    CorruptDataError where what was written does not verify.
    On any error nothing of it is left.
    """
    target = index_folder / str(number)
    temporary = index_folder / f"{number}.building"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write_rows(temporary, dimension, rows, num_rows, progress)
        files = {
            name: FileEntry((temporary / name).stat().st_size, sha256(temporary / name))
            for name in (VECTORS, TEMPLATE_IDS, IDENTITY_NUMBERS)
        }
        manifest = Manifest(
            number=number,
            sequence=sequence,
            num_templates=num_rows,
            dimension=dimension,
            contract_digest=contract_digest,
            faiss_version=FAISS_VERSION,
            files=files,
        )
        (temporary / MANIFEST).write_bytes(seal(manifest))
        _sync(temporary)
        Generation(temporary, contract_digest)
        temporary.rename(target)
        _sync_one(index_folder)
    except (OSError, RuntimeError) as error:
        is_full = error.errno in _FULL if isinstance(error, OSError) else _SHORT_WRITE in str(error)
        kind = StorageFullError if is_full else DataFolderError
        raise kind(f"generation {number} could not be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def remove_other_generations(index_folder: Path, keep: int) -> None:
    """Unlink every generation and unfinished build but `keep`; open ones stay readable until closed."""
    index_folder.mkdir(exist_ok=True)
    for path in index_folder.iterdir():
        if path.name != str(keep) and path.is_dir():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
    _sync_one(index_folder)


def _write_rows(
    folder: Path,
    dimension: int,
    rows: Iterable[tuple[int, int, Vector]],
    num_rows: int,
    progress: Callable[[int, int], None],
) -> None:
    template_ids = np.empty(num_rows, np.uint64)
    identity_numbers = np.empty(num_rows, np.uint64)
    vectors = np.empty((num_rows, dimension), np.float32)
    row = 0
    for template_id, identity_number, vector in rows:
        template_ids[row], identity_numbers[row], vectors[row] = template_id, identity_number, vector
        row += 1
        if row % ROWS_PER_REPORT == 0:
            progress(row, num_rows)
    if row != num_rows:
        raise CorruptDataError(f"the store counts {num_rows} templates but holds {row}")
    faiss = library()
    index = faiss.IndexFlatIP(dimension)
    index.add(vectors)
    faiss.write_index(index, str(folder / VECTORS))
    size_bytes = faiss.serialize_index(faiss.IndexFlatIP(dimension)).size + vectors.nbytes
    if (folder / VECTORS).stat().st_size != size_bytes:
        # FAISS only prints that closing the file lost what was buffered.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    np.save(folder / TEMPLATE_IDS, template_ids)
    np.save(folder / IDENTITY_NUMBERS, identity_numbers)
    progress(num_rows, num_rows)


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
