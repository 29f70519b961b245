"""Settings to parts: the one place where the engine's parts are joined. Knows no requests and no wire."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from engine import config
from engine.config import Settings
from engine.errors import SettingsError
from engine.logs import LOGGER

if TYPE_CHECKING:
    from engine.decision.calibration import Calibration
    from engine.embedding.pipeline import Pipeline
    from engine.types import EmbeddingContract

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


def read_calibrations(files: Sequence[str], model: str) -> dict[str, Calibration]:
    """Read the calibrations that a server knows, by the digest of their contract.

    Of one contract that of `files` counts, else that beside the weights where `model` names them by their
    path, else that which comes with the engine. Raises SettingsError naming a file that is broken, or the
    second of two for one contract.
    """
    from engine.decision import calibration

    given: dict[str, tuple[str, Calibration]] = {}
    for file in files:
        read = calibration.read(Path(file))
        if read.contract_digest in given:
            raise SettingsError(
                f"calibrations {given[read.contract_digest][0]} and {file} are both of contract"
                f" {read.contract_name} ({read.contract_digest[:12]})",
                hint="Give one of them.",
            )
        given[read.contract_digest] = file, read
        # One of another contract than was meant is passed over by all galleries: let the log tell.
        told = {"file": file, "contract": read.contract_name, "digest": read.contract_digest}
        LOGGER.info("calibration", extra={"fields": told})
    near = [calibration.read(path) for path in _beside(model)]
    return {
        **calibration.shipped(),
        **calibration.by_digest(near),
        **{digest: read for digest, (_, read) in given.items()},
    }


def warn_of_calibration(model: str, contract: EmbeddingContract) -> None:
    """Log a warning where the calibration beside a network's weights is of another contract than the network.

    To be called once the network is loaded: nothing else tells that its galleries pass that file over.
    Raises SettingsError naming a file that is broken.
    """
    from engine.decision import calibration

    for path in _beside(model):
        read = calibration.read(path)
        if read.contract_digest == contract.digest:
            continue
        fields = {
            "file": str(path),
            "contract": read.contract_name,
            "digest": read.contract_digest,
            "network": contract.name,
            "network_digest": contract.digest,
            "hint": "Run `identiface calibrate` anew with this network, or remove the file.",
        }
        LOGGER.warning(
            "the calibration beside the weights is of another contract and passed over",
            extra={"fields": fields},
        )


def _beside(model: str) -> list[Path]:
    """The calibration beside a network's weights, where there is one."""
    from engine.decision.calibration import beside

    # Of NAME=PATH the path; what stands before it only the networks' own module knows.
    paths = [Path(text) for text in {model, model.partition("=")[2]} if text]
    near = [beside(path) for path in paths if path.name and path.exists()]
    return [path for path in near if path.is_file()]
