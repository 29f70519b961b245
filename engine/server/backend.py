"""What the services answer from: galleries and, where there is a network, the pipeline. Knows no wire."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from engine.errors import EngineError, NoEmbedderError
from engine.galleries import Galleries
from engine.limits import PAGE_ITEMS_MAX
from engine.open_set_types import GalleryThresholds
from engine.types import EmbeddedFace, EmbeddingContract, Face, FaceChoice, GalleryInfo


class EmbedderFacts(Protocol):
    """What is known of an embedder wherever it runs."""

    @property
    def contract(self) -> EmbeddingContract:
        """Of its network."""

    @property
    def device(self) -> str:
        """Device that the network really runs on."""


class FacePipeline(Protocol):
    """engine.embedding.pipeline.Pipeline in this process, or a RemotePipeline to another one."""

    @property
    def embedder(self) -> EmbedderFacts:
        """What pictures are embedded with."""

    def detect(
        self, pictures: Sequence[bytes], choice: FaceChoice, min_face_px: int | None, deadline: float | None
    ) -> list[list[Face] | EngineError]:
        """See Pipeline.detect."""

    def embed(
        self,
        pictures: Sequence[bytes],
        choice: FaceChoice,
        min_face_px: int | None,
        deadline: float | None,
        *,
        with_crops: bool = False,
    ) -> list[list[EmbeddedFace] | EngineError]:
        """See Pipeline.embed."""

    def close(self) -> None:
        """See Pipeline.close."""


class EmbedBackend:
    """Of a process that embeds pictures; the pipeline is set once its network is loaded."""

    def __init__(self, pipeline: FacePipeline | None = None):
        self.pipeline = pipeline

    @property
    def contract(self) -> EmbeddingContract | None:
        """Of the server's network; None: it has none."""
        return None if self.pipeline is None else self.pipeline.embedder.contract

    @property
    def device(self) -> str:
        """Where pictures are really embedded; none without a network."""
        return "none" if self.pipeline is None else self.pipeline.embedder.device

    def need_pipeline(self) -> FacePipeline:
        """Return the pipeline. Raises NoEmbedderError where the server was started without a network."""
        if self.pipeline is None:
            raise NoEmbedderError("a picture was sent, but this server runs without a network")
        return self.pipeline


class Backend(EmbedBackend):
    """The parts that all services share."""

    def __init__(self, galleries: Galleries, num_workers: int = 1):
        """`num_workers` processes, this one included, serve the port as equals."""
        super().__init__()
        self.galleries = galleries
        self.num_workers = num_workers

    def thresholds(self) -> Iterator[tuple[str, GalleryThresholds, bool]]:
        """Thresholds of galleries with a target rate, by id, and whether their own people disagree.

        Not of one that could be opened only in the place of another.
        """
        for info in self.infos():
            if info.settings.target_fpir is None:
                continue
            # One that is closed, deleted or damaged meanwhile is not there.
            with contextlib.suppress(EngineError):
                gallery = self.galleries.get_where_it_fits(info.gallery_id)
                if gallery is not None:
                    yield gallery.gallery_id, gallery.thresholds(), gallery.has_disagreement()

    def infos(self) -> Iterator[GalleryInfo]:
        """List all galleries, in order of their ids."""
        after = ""
        while page := self.galleries.infos(after=after, limit=PAGE_ITEMS_MAX):
            yield from page
            after = page[-1].gallery_id
