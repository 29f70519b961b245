"""Build a generation: rows to files, synced, verified, renamed into place. Knows nothing of LMDB."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.disk import sync
from engine.errors import DataFolderError, StorageFullError
from engine.index import codes, huge_pages
from engine.index.exact import BoundCode
from engine.index.faiss_library import FAISS_VERSION, library
from engine.index.generation import (
    CODED,
    FLAT,
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
from engine.index.parameters import FLAT_ROWS_MAX, CodeParameters, num_subquantisers
from engine.types import Columns

THREADS_MAX = 2
"""One for codes, one for all else."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None}
"""None: numpy names no number where the disk took only a part."""
_SHORT_WRITE = "write error"
"""What FAISS says in a RuntimeError where the disk took only a part."""
_NUM_ROWS, _NUM_FLOATS = slice(8, 16), slice(-8, None)
"""Where the head of a FAISS flat index has them, uint64 little-endian."""


def build(
    index_folder: Path,
    columns: Columns,
    *,
    number: int,
    sequence: int,
    contract_digest: str,
    flat_rows_max: int = FLAT_ROWS_MAX,
    threads: int = THREADS_MAX,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Generation:
    """Write generation `number`; returns it opened, complete, synced and verified.

    Up to `flat_rows_max` rows it is an exact scan; otherwise one or two `threads` encode them, and
    `progress(done, total)` tells how far they are.
    Raises StorageFullError, DataFolderError where the folder cannot be written; CorruptDataError where what
    was written does not verify. On any error, of `progress` too, nothing of it is left.
    """
    target = index_folder / str(number)
    temporary = index_folder / f"{number}.building"
    shutil.rmtree(temporary, ignore_errors=True)
    num_rows, dimension = columns.vectors.shape
    sizes = num_subquantisers(num_rows, dimension, flat_rows_max)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        stack.enter_context(written(number))
        # Not what lies above it: where the gallery was deleted meanwhile it must stay so.
        index_folder.mkdir(exist_ok=True)
        temporary.mkdir()
        names, parameters = _write_all(temporary, columns, sizes, threads, progress)
        manifest = Manifest(
            number=number,
            sequence=sequence,
            num_templates=num_rows,
            dimension=dimension,
            contract_digest=contract_digest,
            kind=CODED if parameters else FLAT,
            faiss_version=FAISS_VERSION,
            files={name: file_entry(temporary / name) for name in names},
            parameters=parameters,
            templates_histogram=histogram_of(columns.identity_numbers),
        )
        (temporary / MANIFEST).write_bytes(seal(manifest))
        _sync_all(temporary)
        generation = Generation(temporary, contract_digest)
        generation.verify_vectors()
        temporary.rename(target)
        generation.folder = target
        sync(index_folder)
    return generation


@contextlib.contextmanager
def written(number: int) -> Iterator[None]:
    """Raise what goes wrong with the files of a generation as StorageFullError or DataFolderError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        is_full = error.errno in _FULL if isinstance(error, OSError) else _SHORT_WRITE in str(error)
        kind = StorageFullError if is_full else DataFolderError
        raise kind(f"generation {number} could not be written: {error}") from error


def replace_manifest(folder: Path, manifest: Manifest) -> None:
    """Put another manifest in the place of a generation's, at once and synced. Raises OSError."""
    temporary = folder / f"{MANIFEST}.new"
    try:
        temporary.write_bytes(seal(manifest))
        sync(temporary)
        temporary.replace(folder / MANIFEST)
        sync(folder)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _write_all(
    folder: Path, columns: Columns, sizes: tuple[int, ...], threads: int, progress: Callable[[int, int], None]
) -> tuple[list[str], CodeParameters | None]:
    if not sizes:
        return _write(folder, columns), None
    if threads < THREADS_MAX:
        rest = _write_with_bound(folder, columns)
        names, parameters = codes.write(folder, columns, sizes, progress)
        return names + rest, parameters
    # FAISS and numpy work without the interpreter's lock: on two cores the codes cost no time of their own.
    with futures.ThreadPoolExecutor(1, "build") as beside:
        bound = beside.submit(_write_with_bound, folder, columns)
        names, parameters = codes.write(folder, columns, sizes, progress)
        return names + bound.result(), parameters


def _write_with_bound(folder: Path, columns: Columns) -> list[str]:
    names = _write(folder, columns)
    sync(folder / VECTORS)
    return names + BoundCode.build(columns.vectors).write(folder)


def _write(folder: Path, columns: Columns) -> list[str]:
    dimension = columns.vectors.shape[1]
    head = bytearray(library().serialize_index(library().IndexFlatIP(dimension)).tobytes())
    # As FAISS writes it, but without a second copy of all vectors in memory.
    head[_NUM_ROWS] = len(columns.vectors).to_bytes(8, "little")
    head[_NUM_FLOATS] = columns.vectors.size.to_bytes(8, "little")
    with (folder / VECTORS).open("wb") as file:
        file.write(head)
        file.write(np.ascontiguousarray(columns.vectors).data)
    np.save(folder / TEMPLATE_IDS, columns.template_ids)
    np.save(folder / IDENTITY_NUMBERS, columns.identity_numbers)
    return [VECTORS, TEMPLATE_IDS, IDENTITY_NUMBERS]


def file_entry(path: Path) -> FileEntry:
    """Size and checksum of a file. Raises OSError."""
    return FileEntry(path.stat().st_size, sha256(path))


def histogram_of(identity_numbers: NDArray[np.uint64]) -> tuple[int, ...]:
    """How many identities have 0, 1, ... templates, up to the most that one has; of uint64[n], one a row."""
    _, counts = np.unique(identity_numbers, return_counts=True)
    return tuple(np.bincount(counts).tolist())


def _sync_all(folder: Path) -> None:
    for path in folder.iterdir():
        sync(path)
        if path.name != VECTORS:
            huge_pages.forget(path)
    sync(folder)
