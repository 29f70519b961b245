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
from engine.limits import PROBES_MAX
from engine.live_index import report_nothing
from engine.store.environment import StoreSettings
from engine.types import (
    Agreement,
    Candidate,
    EmbeddingContract,
    Enrollment,
    EnrollResult,
    GalleryInfo,
    GallerySettings,
    Vectors,
)
from engine.vectors import units
from indexer.pages import PAGE_IDENTITIES, Page, served_pages, stored_pages

ITEMS_PER_COMMIT = 8192
"""Enrollments of one commit, offline, where nobody waits for another write."""
CROP_BYTES_PER_COMMIT = 32 << 20
"""Kept crops after which a commit ends: LMDB holds in memory what it has not committed."""
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

    def pages(self, gallery_id: str) -> Iterator[Page]:
        """All identities with their vectors and kept crops, in order of the bytes of their ids."""

    def sizes(self, gallery_id: str) -> dict[str, int]:
        """How many templates each identity has."""

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
        for commit in _commits(enrollments):
            yield from gallery.enroll(_as_a_server_would(commit))

    def pages(self, gallery_id: str) -> Iterator[Page]:
        """As `Target`."""
        return stored_pages(self.galleries.get(gallery_id), with_crops=True)

    def sizes(self, gallery_id: str) -> dict[str, int]:
        """As `Target`."""
        pages = stored_pages(self.galleries.get(gallery_id))
        return {identity.identity_id: len(templates) for page in pages for identity, templates in page}

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

    def pages(self, gallery_id: str) -> Iterator[Page]:
        """As `Target`."""
        return served_pages(self._client, gallery_id, with_crops=True)

    def sizes(self, gallery_id: str) -> dict[str, int]:
        """As `Target`."""
        listed = self._client.list_identities(gallery_id, page_size=PAGE_IDENTITIES)
        return {identity.identity_id: len(identity.template_ids) for identity in listed}

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


def _commits(enrollments: Sequence[Enrollment]) -> Iterator[list[Enrollment]]:
    """The same in order, in parts of which each is one commit."""
    part: list[Enrollment] = []
    num_bytes = 0
    for enrollment in enrollments:
        part.append(enrollment)
        num_bytes += sum(len(template.crop) for template in enrollment.templates)
        if len(part) == ITEMS_PER_COMMIT or num_bytes >= CROP_BYTES_PER_COMMIT:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part


def _as_a_server_would(enrollments: Sequence[Enrollment]) -> list[Enrollment]:
    """The same with vectors brought to unit length, to the last bit as at a server's door."""
    vectors = [template.vector for item in enrollments for template in item.templates]
    if not vectors:
        return list(enrollments)
    rows = iter(units(np.stack(vectors), np.zeros(len(vectors), bool))[0])
    return [
        dataclasses.replace(
            item,
            templates=tuple(dataclasses.replace(old, vector=next(rows)) for old in item.templates),
        )
        for item in enrollments
    ]
