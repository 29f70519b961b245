"""Settings to parts: the one place where the engine's parts are joined. Knows no requests and no wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from engine import config
from engine.config import Settings
from engine.errors import SettingsError

if TYPE_CHECKING:
    from engine.embedding.pipeline import Pipeline

NO_MODEL = "none"
"""Name that stands for no network at all: vectors only."""


class EmbeddingSettings(Settings, frozen=True, kw_only=True):
    """What pictures are embedded with, and where."""

    model: str = "dlib-resnet"
    """Name of a network, ``NAME=PATH`` or the path of its weights; ``none``: pictures are refused."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes CUDA where it is, else the CPU; ``cuda`` refuses to start without it."""
    num_threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """CPU threads of the network; None: as many as torch chooses. More than cores slows all down."""
    pipeline: dict[str, Any] = msgspec.field(default_factory=dict)
    """Tables `limits`, `detector` and `batcher`: the keys of engine.embedding.pipeline.PipelineSettings. Read
    when the network is loaded, because reading them takes torch."""

    @property
    def has_network(self) -> bool:
        """Whether pictures can be embedded at all."""
        return self.model != NO_MODEL


def build_pipeline(settings: EmbeddingSettings) -> Pipeline:
    """Load detector and network and join them; the caller closes the pipeline.

    Raises SettingsError for a model or key that cannot be, WeightsError, DeviceError.
    """
    if not settings.has_network:
        raise SettingsError(f"embedding.model is {NO_MODEL!r}: there is no pipeline to build")
    # Imported here: torch takes seconds and hundreds of megabytes that a server of vectors does not need.
    from engine.embedding.detect import Detector
    from engine.embedding.embed import Embedder
    from engine.embedding.networks import load_network
    from engine.embedding.pipeline import Pipeline, PipelineSettings

    parts = config.build(PipelineSettings, settings.pipeline)
    network = load_network(settings.model, settings.device, settings.num_threads)
    return Pipeline(Detector(network.device, parts.detector), Embedder(network), parts)
