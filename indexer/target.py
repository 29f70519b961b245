"""Where a job's templates go: a data folder of its own, or a server. Both behave alike."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from engine.client import Client, EnrollItem, EnrollOptions
from engine.errors import DataFolderError, EngineError, GalleryNotFoundError
from engine.galleries import Galleries, GalleriesSettings
from engine.index.settings import IndexSettings
from engine.live_index import report_nothing
from engine.store.environment import StoreSettings
from engine.types import (
    PROBES_MAX,
    Agreement,
    Candidate,
    EmbeddingContract,
    Enrollment,
    EnrollResult,
    GalleryInfo,
    GallerySettings,
    Template,
    Vectors,
)
from engine.vectors import units

ITEMS_PER_COMMIT = 8192
"""Enrollments of one commit, offline, where nobody waits for another write."""
_STORE = StoreSettings(commit_records_max=ITEMS_PER_COMMIT, commit_ms_max=1000.0, commit_pause_ms=0.0)
_INDEX = IndexSettings(delta_rows_max=1 << 40, dead_share_max=1.0, journal_rows_max=1 << 40, build_threads=2)
"""Built once, at the end."""

Outcomes = Iterator[EnrollResult | EngineError]


class Target(Protocol):
    """Where galleries are."""

    name: str
    """For the job's identity: the folder or the address."""
    data: Path | None
    """The data folder; None: a server's own."""

    def find(self, gallery: str) -> GalleryInfo | None:
        """What a name or an alias means now; None: nothing."""

    def create(self, gallery_id: str, contract: EmbeddingContract, settings: GallerySettings) -> None:
        """Make a gallery. Raises AlreadyExistsError."""

    def enroll(self, gallery_id: str, enrollments: Sequence[Enrollment]) -> Outcomes:
        """Enroll all of them, durably; an outcome each, in order."""

    def build(self, gallery_id: str) -> None:
        """Build the index."""

    def measure(self, gallery_id: str, num_probes: int) -> Agreement | None:
        """Measure the index; None where it is exact."""

    def nearest(self, gallery_id: str, probes: Vectors) -> list[tuple[str, float]]:
        """Who is nearest to each probe float32[n, d], and how similar; an empty name: nobody."""

    def set_alias(self, alias: str, gallery_id: str) -> None:
        """Make an alias or move it."""


class LocalTarget:
    """The galleries of a data folder that no server holds."""

    def __init__(self, data: Path, galleries: Galleries):
        self.name = str(data.resolve())
        self.data: Path | None = data
        self.galleries = galleries

    @classmethod
    @contextlib.contextmanager
    def open(cls, data: Path) -> Iterator[Self]:
        """Open a data folder. Raises DataFolderError where a server holds it."""
        settings = GalleriesSettings(store=_STORE, index=_INDEX, maintenance_s=0.0)
        try:
            galleries = Galleries.open(data, settings)
        except DataFolderError as error:
            hint = f"{error.hint.rstrip('. ')}. Where a server holds it, give --server instead of --data."
            raise DataFolderError(error.message, hint=hint) from error
        with contextlib.closing(galleries):
            yield cls(data, galleries)

    def find(self, gallery: str) -> GalleryInfo | None:
        """As `Target`."""
        with contextlib.suppress(GalleryNotFoundError):
            return self.galleries.get(gallery).info()
        return None

    def create(self, gallery_id: str, contract: EmbeddingContract, settings: GallerySettings) -> None:
        """As `Target`."""
        self.galleries.create(gallery_id, contract, settings)

    def enroll(self, gallery_id: str, enrollments: Sequence[Enrollment]) -> Outcomes:
        """As `Target`."""
        gallery = self.galleries.get(gallery_id)
        for start in range(0, len(enrollments), ITEMS_PER_COMMIT):
            yield from gallery.enroll(_as_a_server_would(enrollments[start : start + ITEMS_PER_COMMIT]))

    def build(self, gallery_id: str) -> None:
        """As `Target`."""
        self.galleries.get(gallery_id).build(report_nothing)

    def measure(self, gallery_id: str, num_probes: int) -> Agreement | None:
        """As `Target`."""
        gallery = self.galleries.get(gallery_id)
        if gallery.index_status().kind == "flat":
            return None
        return gallery.measure_recall(num_probes, 0).agreement

    def nearest(self, gallery_id: str, probes: Vectors) -> list[tuple[str, float]]:
        """As `Target`."""
        answers = self.galleries.get(gallery_id).identify(probes, 1)
        return [_first(answer.candidates) for answer in answers]

    def set_alias(self, alias: str, gallery_id: str) -> None:
        """As `Target`."""
        self.galleries.set_alias(alias, gallery_id)


class ServerTarget:
    """The galleries of a server."""

    def __init__(self, client: Client, address: str):
        self.name = address
        self.data: Path | None = None
        self._client = client

    @classmethod
    @contextlib.contextmanager
    def open(cls, address: str, timeout_s: float) -> Iterator[Self]:
        """Talk to a server. Raises UnavailableError where none answers within the time."""
        with Client(address, timeout_s=timeout_s) as client:
            client.wait_until_ready(timeout_s)
            yield cls(client, address)

    def find(self, gallery: str) -> GalleryInfo | None:
        """As `Target`."""
        with contextlib.suppress(GalleryNotFoundError):
            return self._client.get_gallery(gallery)
        return None

    def create(self, gallery_id: str, contract: EmbeddingContract, settings: GallerySettings) -> None:
        """As `Target`."""
        self._client.create_gallery(gallery_id, contract, settings)

    def enroll(self, gallery_id: str, enrollments: Sequence[Enrollment]) -> Outcomes:
        """As `Target`."""
        items = (
            EnrollItem(
                item.identity_id, item.templates, item.attributes, EnrollOptions(expire_time=item.expire_time)
            )
            for item in enrollments
        )
        for _, outcome in self._client.enroll_stream(gallery_id, items):
            yield outcome

    def build(self, gallery_id: str) -> None:
        """As `Target`."""
        for _ in self._client.build_index(gallery_id):
            pass

    def measure(self, gallery_id: str, num_probes: int) -> Agreement | None:
        """As `Target`."""
        last = None
        for progress in self._client.measure_recall(gallery_id, num_probes=num_probes):
            last = progress.agreement
        return last

    def nearest(self, gallery_id: str, probes: Vectors) -> list[tuple[str, float]]:
        """As `Target`."""
        answers = [
            answer
            for first in range(0, len(probes), PROBES_MAX)
            for answer in self._client.batch_identify(
                gallery_id, list(probes[first : first + PROBES_MAX]), k=1
            )
        ]
        return [
            _first(answer[0].candidates if not isinstance(answer, EngineError) else ()) for answer in answers
        ]

    def set_alias(self, alias: str, gallery_id: str) -> None:
        """As `Target`."""
        self._client.set_alias(alias, gallery_id)


def _first(candidates: Sequence[Candidate]) -> tuple[str, float]:
    return (candidates[0].identity_id, candidates[0].similarity) if candidates else ("", 0.0)


def _as_a_server_would(enrollments: Sequence[Enrollment]) -> list[Enrollment]:
    """The same with vectors brought to unit length, to the last bit as at a server's door."""
    vectors = [template.vector for item in enrollments for template in item.templates]
    if not vectors:
        return list(enrollments)
    rows = iter(units(np.stack(vectors), np.zeros(len(vectors), bool))[0])
    return [
        dataclasses.replace(
            item,
            templates=tuple(Template(next(rows), old.quality, old.source) for old in item.templates),
        )
        for item in enrollments
    ]
