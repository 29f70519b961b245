"""Files with bytes overwritten or cut off, of every kind: only the errors that are promised are raised."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path
from typing import cast

import h5py
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InvalidInputError
from indexer.items import Item, PictureSource, VectorSource
from indexer.sources import open_source

NUM_ROWS = 12
NUM_FILES = 80
BLOCK_ROWS = 4


def write_whole(folder: Path, name: str) -> bytes:
    """A small file of the kind that the name says."""
    path = folder / name
    ids = [f"p{row}" for row in range(NUM_ROWS)]
    vectors = np.random.default_rng(1).standard_normal((NUM_ROWS, 8), np.float32)
    if name == "v.parquet":
        table = pa.table({"identity_id": ids, "source": ids, "vector": vectors.tolist()})
        pq.write_table(table, path, row_group_size=BLOCK_ROWS)
    elif name == "m.parquet":
        pq.write_table(pa.table({"identity_id": ids, "path": ids}), path, row_group_size=BLOCK_ROWS)
    elif name == "m.csv":
        path.write_text("path,identity_id\n" + "".join(f'{one},"{one}"\n' for one in ids))
    elif name == "v.npy":
        np.save(path, vectors)
        (folder / "ids.txt").write_text("\n".join(ids))
    elif name == "d.h5":
        with h5py.File(path, "w") as file:
            pixels = np.zeros((NUM_ROWS, 8, 8, 3), np.uint8)
            file.create_dataset("images", data=pixels, chunks=(1, 8, 8, 3), compression="gzip")
            file["labels"] = np.array(ids, "S")
    else:
        with tarfile.open(path, "w") as tar:
            for one in ids:
                for member_name, data in (
                    (f"é{one}.jpg", b"x" * 300),
                    (f"é{one}.json", b'{"identity_id": "a"}'),
                ):
                    member = tarfile.TarInfo(member_name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return path.read_bytes()


def use_vectors(source: VectorSource) -> int:
    """Read all blocks; answers how many rows were there."""
    num_found = 0
    for start in range(0, source.num_rows, BLOCK_ROWS):
        try:
            num_found += len(source.read(start, min(start + BLOCK_ROWS, source.num_rows)).keys)
        except OSError:
            continue
    return num_found


def use_pictures(source: PictureSource) -> int:
    """List and read all pictures; answers how many items there were, read or not."""
    num_found = 0
    for found in source.items():
        # A job keeps them so.
        assert msgspec.msgpack.encode(found)
        num_found += 1
        if isinstance(found, Item):
            try:
                source.read(found)
            except (OSError, InvalidInputError):
                continue
    return num_found


@pytest.mark.parametrize("name", ["v.parquet", "m.parquet", "m.csv", "v.npy", "d.h5", "a.tar"])
def test_damage_raises_only_what_is_promised(tmp_path: Path, name: str) -> None:
    whole = write_whole(tmp_path, name)
    chance = random.Random(20261121)
    num_found = 0
    for number in range(NUM_FILES):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        # HDF5 confuses files that are rewritten while they are open.
        path = tmp_path / f"{number}{Path(name).suffix}"
        path.write_bytes(data)
        try:
            source = open_source(path, tmp_path / "ids.txt" if name == "v.npy" else None)
            if source.kind in {"npy", "parquet"}:
                num_found += use_vectors(cast("VectorSource", source))
            else:
                num_found += use_pictures(cast("PictureSource", source))
        except InvalidInputError:
            continue
    # Enough came through for the readers to have been tried.
    assert num_found > NUM_ROWS
