"""A gallery on a disk that fills up and is freed again. Knows nothing of what makes it full."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.errors import StorageFullError
from engine.gallery import Gallery
from engine.live_index import report_nothing
from engine.store.columns import COLLECT_ROWS
from engine.types import Enrollment, Template
from tests.contract.naive import NaiveGallery, unit_vectors
from tests.fault.writer import CONTRACT, DIMENSION, opened

PROBES = unit_vectors(np.random.default_rng(31), 3, DIMENSION)
Fill = Callable[[], None]


class Scene:
    """A gallery, the model of what was answered, and a disk that `fill` fills and `free` frees."""

    def __init__(self, data: Path, fill: Fill, free: Fill):
        self.data, self.fill, self.free = data, fill, free
        self.model = NaiveGallery()
        self._rng = np.random.default_rng(32)
        with opened(data) as galleries:
            galleries.create("people", CONTRACT)

    def batch(self, num: int) -> list[Enrollment]:
        """Enrollments never made before."""
        vectors = unit_vectors(self._rng, num, DIMENSION)
        return [Enrollment(f"p{self._rng.integers(1 << 60)}", (Template(vector),)) for vector in vectors]

    def enroll(self, gallery: Gallery, num: int) -> None:
        """Enroll in gallery, and where that was answered in the model."""
        batch = self.batch(num)
        gallery.enroll(batch)
        self.model.enroll(batch, 0.0)

    def check(self, gallery: Gallery) -> None:
        """Everything answered is there and nothing else."""
        info = gallery.info()
        assert (info.sequence, info.num_identities) == (self.model.sequence, len(self.model.identities))
        for probe, answer in zip(PROBES, gallery.identify(PROBES, 10), strict=True):
            given = [(one.identity_id, one.similarity) for one in answer.candidates]
            assert given == self.model.identify(probe, 10, 0.0)

    def check_reopened(self) -> None:
        """The same from the files."""
        with opened(self.data) as galleries:
            self.check(galleries.get("people"))

    def folder(self) -> Path:
        """The gallery's."""
        (only,) = (self.data / "galleries").iterdir()
        return only


def enroll_until_full(scene: Scene) -> None:
    """Writes are refused, the earlier ones stay, the process lives, and freed space is used."""
    with opened(scene.data) as galleries:
        gallery = galleries.get("people")
        for _ in range(5):
            scene.enroll(gallery, 50)
        scene.fill()
        with pytest.raises(StorageFullError):
            _enroll_for_ever(scene, gallery)
        for _ in range(3):
            with pytest.raises(StorageFullError):
                gallery.enroll(scene.batch(2000))
            scene.check(gallery)
        for number in range(5):
            # Small files may still find room; where not, the process must live.
            with contextlib.suppress(StorageFullError):
                galleries.create(f"more{number}", CONTRACT)
        scene.free()
        scene.enroll(gallery, 2000)
        scene.check(gallery)
    scene.check_reopened()


def _enroll_for_ever(scene: Scene, gallery: Gallery) -> None:
    for _ in range(1000):
        scene.enroll(gallery, 20)
        scene.check(gallery)


def build_on_a_full_disk(scene: Scene) -> None:
    """A build that finds the disk full in its middle leaves the old generation, and nothing of its own."""
    with opened(scene.data) as galleries:
        gallery = galleries.get("people")
        scene.enroll(gallery, 100)
        gallery.build(report_nothing)
        for _ in range(5 * COLLECT_ROWS // 250):
            scene.enroll(gallery, 250)
        with pytest.raises(StorageFullError):
            gallery.build(lambda _done, _total: scene.fill())
        assert [path.name for path in (scene.folder() / "index").iterdir()] == ["1"]
        assert gallery.generation() == 1
        scene.check(gallery)
        scene.free()
        gallery.build(report_nothing)
        assert gallery.generation() == 3
        scene.check(gallery)
    scene.check_reopened()


def erase_on_a_full_disk(scene: Scene) -> None:
    """The removal holds, the erasure is made good later, and what is written in between is kept."""
    with opened(scene.data) as galleries:
        gallery = galleries.get("people")
        for _ in range(20):
            scene.enroll(gallery, 250)
        name, one = next(iter(scene.model.identities.items()))
        wanted = one.templates[0].data
        scene.fill()
        with pytest.raises(StorageFullError):
            gallery.remove_identities([name], erase=True)
        scene.free()
        scene.model.remove([name], 0.0)
        is_erasing = gallery.info().sequence == scene.model.sequence
        if not is_erasing:  # not even the removal found room
            gallery.remove_identities([name])
        scene.check(gallery)
        scene.enroll(gallery, 10)
        scene.check(gallery)
    scene.check_reopened()
    with opened(scene.data) as galleries:
        galleries.get("people")
        galleries.maintain()
    scene.check_reopened()
    if is_erasing:
        assert not any(wanted in path.read_bytes() for path in scene.folder().rglob("data.mdb"))
