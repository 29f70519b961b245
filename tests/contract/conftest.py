"""Every implementation of galleries that the contract suite is put to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.index.settings import IndexSettings
from engine.store.environment import StoreSettings
from engine.types import EmbeddingContract, Enrollment, EnrollResult, Receipt, Template, Vector
from tests.contract.clock import Clock
from tests.contract.naive import unit_vectors

DIMENSION = 16
CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=DIMENSION, threshold=0.5)
VECTORS = unit_vectors(np.random.default_rng(4), 3000, DIMENSION)

IMPLEMENTATIONS = ["local"]
"""A later implementation is added here and in `make`."""


class Maker(Protocol):
    """Opens galleries over the same data again and again."""

    clock: Clock

    def open(self) -> Galleries:
        """Open; what was open before is closed first."""

    def close(self) -> None:
        """Close what is open."""


class LocalMaker:
    """Galleries of this process, in a temporary folder."""

    def __init__(self, data: Path):
        self.data = data
        self.clock = Clock()
        self._opened: Galleries | None = None

    def open(self) -> Galleries:
        self.close()
        settings = GalleriesSettings(
            store=StoreSettings(map_size_bytes_max=1 << 30),
            index=IndexSettings(delta_rows_max=50),
            maintenance_s=0,
        )
        self._opened = Galleries.open(self.data, settings, clock=self.clock)
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None


@pytest.fixture(params=IMPLEMENTATIONS)
def maker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Maker]:
    """One implementation after the other."""
    made = LocalMaker(tmp_path / "data")
    yield made
    made.close()


@pytest.fixture
def galleries(maker: Maker) -> Galleries:
    return maker.open()


@pytest.fixture
def gallery(galleries: Galleries) -> Gallery:
    galleries.create("people", CONTRACT)
    return galleries.get("people")


def enroll(gallery: Gallery, identity_id: str, *vectors: Vector, **fields: object) -> EnrollResult:
    enrollment = Enrollment(identity_id, tuple(map(Template, vectors)))
    (outcome,) = gallery.enroll([dataclasses.replace(enrollment, **fields)])  # type: ignore[arg-type]
    assert isinstance(outcome, EnrollResult), outcome
    return outcome


def found(gallery: Gallery, probe: Vector, k: int = 10) -> list[tuple[str, float]]:
    (answer,) = gallery.identify(probe[None], k)
    return [(one.identity_id, one.similarity) for one in answer.candidates]


def receipt(key: int, body: int = 1) -> Receipt:
    return Receipt(bytes([key]) * 32, bytes([body]) * 32, lambda result: repr(result).encode())
