"""The network of a finished run as files that are served. Knows nothing of training or of servers."""

from __future__ import annotations

from pathlib import Path

from engine.embedding import delta
from engine.embedding.dlib_resnet import DlibResNet
from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.errors import PreconditionError, SettingsError
from engine.trainer.backbones import Backbone
from engine.trainer.export import export_onnx, export_safetensors
from engine.trainer.loop import backbone_of
from engine.trainer.run_folder import RunFolder
from engine.types import EmbeddingContract

CARD = "model-card.md"
"""Of a delta, in its folder."""


def ship(
    run: RunFolder,
    target: Path,
    *,
    onnx: Path | None = None,
    threshold: float | None = None,
    mirror: bool | None = None,
) -> EmbeddingContract:
    """Write a run's network to `target` and, where asked, as ONNX; give the contract that it is served under.

    `target` without a suffix is a folder that must not exist: it becomes a delta over dlib's weights, small
    and named by the folder. `threshold` and `mirror` None keep those of the weights that training started
    from. Raises SettingsError where the folder holds no run, a suffix is wrong, or a delta is asked for of
    another network; PreconditionError where the run is not finished.
    """
    settings, _ = run.settings()
    if not run.network.exists():
        raise PreconditionError(
            f"the run {run.path} is not finished", hint="Run the same `train run` again: it goes on."
        )
    backbone = backbone_of(settings, run.network)
    card = {"model_card": run.card.read_text("utf-8")}
    if target.suffix:
        export_safetensors(backbone, target, threshold=threshold, mirror=mirror, metadata=card)
    else:
        _write_delta(backbone, target, card["model_card"], threshold, mirror)
    if onnx is not None:
        export_onnx(backbone, onnx, threshold=threshold, mirror=mirror)
    return Embedder(load_network(str(target), "cpu")).contract


def _write_delta(
    backbone: Backbone, folder: Path, card: str, threshold: float | None, mirror: bool | None
) -> None:
    if not isinstance(backbone.module, DlibResNet):
        raise SettingsError(
            f"{folder} would be a delta, which is over dlib-resnet's weights alone, not {backbone.name}'s",
            hint="Name a .safetensors file.",
        )
    delta.write_delta(
        backbone.module,
        folder,
        threshold=backbone.threshold if threshold is None else threshold,
        mirror=backbone.mirror if mirror is None else mirror,
        card=CARD,
    )
    (folder / CARD).write_text(card, encoding="utf-8")
