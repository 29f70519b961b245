"""A store in a temporary folder and a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.store.environment import StoreSettings
from engine.store.gallery_store import GalleryStore
from engine.types import EmbeddingContract, GallerySettings
from tests.contract.clock import Clock

CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=4, threshold=0.5)
SETTINGS = StoreSettings(map_size_bytes_max=1 << 26)


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
