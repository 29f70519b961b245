"""What the services answer from: galleries and, where there is a network, the pipeline. Knows no wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.errors import NoEmbedderError
from engine.galleries import Galleries
from engine.types import PAGE_ITEMS_MAX, EmbeddingContract, GalleryInfo

if TYPE_CHECKING:
    from engine.embedding.pipeline import Pipeline


class Backend:
    """The parts that all services share; the pipeline is set once its network is loaded."""

    def __init__(self, galleries: Galleries):
        self.galleries = galleries
        self.pipeline: Pipeline | None = None

    @property
    def contract(self) -> EmbeddingContract | None:
        """Of the server's network; None: it has none."""
        return None if self.pipeline is None else self.pipeline.embedder.contract

    @property
    def device(self) -> str:
        """Where pictures are really embedded; none without a network."""
        return "none" if self.pipeline is None else self.pipeline.embedder.device

    def need_pipeline(self) -> Pipeline:
        """Return the pipeline. Raises NoEmbedderError where the server was started without a network."""
        if self.pipeline is None:
            raise NoEmbedderError("a picture was sent, but this server runs without a network")
        return self.pipeline

    def infos(self) -> Iterator[GalleryInfo]:
        """List all galleries, in order of their ids."""
        after = ""
        while page := self.galleries.infos(after=after, limit=PAGE_ITEMS_MAX):
            yield from page
            after = page[-1].gallery_id
