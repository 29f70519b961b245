"""Inverted lists of a FastScan index in a file of their own, mapped: processes share one copy of the codes.

FAISS reads the codes of FastScan indexes into private memory, whatever flags it is given. Its on-disk lists
are the way round: they name a place in a mapped file for the codes and the ids of each list, and the scan
reads from there. Layout of NAME.lists, each part from a multiple of 64 bytes on::

    uint64[lists]    number of rows of each list
    for each list    codes in blocks of 32 rows, the ids int64[rows] right behind them

NAME.faiss is the index without its lists. Whether the files are whole is for the caller to know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.index.faiss_library import library
from engine.index.kernel import CODES_IN_BLOCK

_ALIGNMENT = 64


def write(index: Any, folder: Path, name: str) -> list[str]:
    """Write an IVF FastScan index that owns block lists; returns the names of the files.

    Raises OSError or, from FAISS, RuntimeError where the disk is full.
    """
    faiss = library()
    lists = faiss.downcast_InvertedLists(index.invlists)
    # What the index owns is destroyed when it is replaced.
    index.own_invlists = False
    try:
        empty = faiss.BlockInvertedLists(lists.nlist, lists.n_per_block, lists.block_size)
        index.replace_invlists(empty, False)
        faiss.write_index(index, str(folder / f"{name}.faiss"))
    finally:
        index.replace_invlists(lists, False)
        index.own_invlists = True
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    with (folder / f"{name}.lists").open("wb") as file:
        _put(file, np.array(sizes, np.uint64).view(np.uint8))
        for number, size in enumerate(sizes):
            if size:
                num_bytes = _capacity(size) * index.code_size
                file.write(faiss.rev_swig_ptr(lists.get_codes(number), num_bytes).data)
                _put(file, faiss.rev_swig_ptr(lists.get_ids(number), size).view(np.uint8))
    return [f"{name}.faiss", f"{name}.lists"]


def read(folder: Path, name: str) -> Any:
    """Open what `write` wrote, its lists mapped and read-only. Nothing can be added to it."""
    faiss = library()
    index = faiss.read_index(str(folder / f"{name}.faiss"))
    path = folder / f"{name}.lists"
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(path))
    lists.read_only = True
    lists.prefetch_nthread = 0  # else every search starts threads that read ahead
    lists.totsize = path.stat().st_size
    lists.lists.clear()
    place = _aligned(8 * index.nlist)
    for size in np.fromfile(path, np.uint64, index.nlist).tolist():
        one = faiss.OnDiskOneList()
        one.size, one.capacity, one.offset = size, _capacity(size), place
        lists.lists.push_back(one)
        place = _aligned(place + one.capacity * index.code_size + 8 * size)
    lists.do_mmap()
    lists.this.disown()  # else Python destroys what the index owns
    index.replace_invlists(lists, True)
    return index


def _put(file: BinaryIO, content: NDArray[np.uint8]) -> None:
    file.write(content.data)
    file.write(bytes(_aligned(file.tell()) - file.tell()))


def _capacity(num_rows: int) -> int:
    return -(-num_rows // CODES_IN_BLOCK) * CODES_IN_BLOCK


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
