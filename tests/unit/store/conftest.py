"""A store in a temporary folder and a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from engine.store import changes
from engine.store.environment import StoreSettings
from engine.store.gallery_store import GalleryStore
from engine.store.tables import Writer
from engine.types import EmbeddingContract, Enrollment, GallerySettings, Receipt, Template, Vector
from tests.contract.clock import Clock
from tests.contract.naive import unit_vectors

CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=4, threshold=0.5)
SETTINGS = StoreSettings(map_size_bytes_max=1 << 26)
VECTORS = unit_vectors(np.random.default_rng(1), 2000, 4)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gallery_folder(tmp_path: Path) -> Path:
    """An empty gallery."""
    GalleryStore.create(tmp_path / "g", CONTRACT, GallerySettings(), SETTINGS, 1.5)
    return tmp_path / "g"


@pytest.fixture
def store(gallery_folder: Path, clock: Clock) -> Iterator[GalleryStore]:
    opened = GalleryStore(gallery_folder, SETTINGS, clock=clock)
    yield opened
    opened.close()


@dataclass
class RawRows:
    """Rows of one table as LMDB holds them, to damage them."""

    transaction: Any
    table: Any

    def get(self, key: bytes) -> bytes:
        value: bytes | None = self.transaction.get(key, db=self.table)
        assert value is not None
        return value

    def put(self, key: bytes, value: bytes) -> None:
        self.transaction.put(key, value, db=self.table)

    def delete(self, key: bytes) -> None:
        assert self.transaction.delete(key, db=self.table)

    def keys(self) -> list[bytes]:
        with self.transaction.cursor(self.table) as cursor:
            return [bytes(key) for key, _ in cursor]


@contextmanager
def raw_rows(folder: Path, table: str) -> Iterator[RawRows]:
    """Open a table of a closed environment."""
    with closing(lmdb.Environment(str(folder), max_dbs=16, map_size=1 << 26)) as environment:
        rows = environment.open_db(table.encode())
        with environment.begin(write=True) as transaction:
            yield RawRows(transaction, rows)


def flipped(data: bytes) -> bytes:
    """The same with its last bit flipped."""
    return data[:-1] + bytes([data[-1] ^ 1])


@contextmanager
def opened(folder: Path, settings: StoreSettings = SETTINGS) -> Iterator[GalleryStore]:
    with closing(GalleryStore(folder, settings, clock=Clock())) as store:
        yield store


def enrolling(*identity_ids: str, vector: Vector = VECTORS[0]) -> Callable[[Writer], str]:
    """A write that enrolls each identity with one template, and answers with what it did."""
    enrollments = [Enrollment(identity_id, (Template(vector),)) for identity_id in identity_ids]

    def apply(writer: Writer) -> str:
        return repr(changes.enroll(writer, enrollments, 1, 16))

    return apply


def removing(*identity_ids: str, erase: bool = False) -> Callable[[Writer], int]:
    return lambda writer: changes.remove_identities(writer, identity_ids, 1, erase=erase)[0].sequence


def ids(store: GalleryStore) -> list[str]:
    with store.read() as reader:
        return [identity_id for identity_id, _ in reader.identities("")]


def receipt(key: int, body: int) -> Receipt:
    return Receipt(bytes([key]) * 32, bytes([body]) * 32, lambda result: str(result).encode())


def repr_bytes(result: object) -> bytes:
    return repr(result).encode()


def files_with(folder: Path, vector: Vector) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and vector.tobytes() in path.read_bytes()]
