"""The network of a finished run as files that are served. Knows nothing of training or of servers."""

from __future__ import annotations

from pathlib import Path

from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.errors import PreconditionError
from engine.trainer.export import export_onnx, export_safetensors
from engine.trainer.loop import backbone_of
from engine.trainer.run_folder import RunFolder
from engine.types import EmbeddingContract


def ship(
    run: RunFolder, target: Path, *, onnx: Path | None = None, threshold: float | None = None
) -> EmbeddingContract:
    """Write a run's network to `target` and, where asked, as ONNX; give the contract that it is served under.

    `threshold` None keeps that of the weights that training started from. Raises SettingsError where the
    folder holds no run or a suffix is wrong, PreconditionError where the run is not finished.
    """
    settings, _ = run.settings()
    if not run.network.exists():
        raise PreconditionError(
            f"the run {run.path} is not finished", hint="Run the same `train run` again: it goes on."
        )
    backbone = backbone_of(settings, run.network)
    card = {"model_card": run.card.read_text("utf-8")}
    export_safetensors(backbone, target, threshold=threshold, metadata=card)
    if onnx is not None:
        export_onnx(backbone, onnx, threshold=threshold)
    return Embedder(load_network(str(target), "cpu")).contract
