"""The network of a finished run as files that are served. Knows nothing of training or of servers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.embedding import mapped_network
from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.errors import PreconditionError, SettingsError
from engine.trainer.backbones import HEAD, Backbone, backbone_of
from engine.trainer.export import (
    SIDECAR_SUFFIX,
    check_suffix,
    contract_name_of,
    export_folder,
    export_onnx,
    export_safetensors,
    with_base_in,
)
from engine.trainer.run_folder import RunFolder
from engine.trainer.soup import mean_of
from engine.types import EmbeddingContract


def ship(
    runs: Sequence[RunFolder],
    target: Path,
    *,
    onnx: Path | None = None,
    threshold: float | None = None,
    mirror: bool | None = None,
) -> EmbeddingContract:
    """Write a run's network, or the mean of several, and give the contract that it is served under.

    The contract is called as `target` is, without its suffix. One without a suffix is a folder that must not
    exist: it becomes one of small float16 files (`export_folder`); `onnx` is written besides, whose contract
    is called by its preprocessing. A head's base is copied beside it, unless it is loaded by its name.
    `threshold` None: that of the run's last validation, of several the highest, or where nobody was held out
    that of the weights that training started from; `mirror` None: as in those. Where one of the two cannot be
    written, neither is there. Raises SettingsError where a folder holds no run, a suffix is wrong, what would
    be written is there already, runs cannot be one network, or ONNX's library is not installed; WeightsError
    and InvalidInputError where nothing can be written; PreconditionError where a run is not finished.
    """
    made = [] if onnx is None else [onnx, onnx.with_name(onnx.name + SIDECAR_SUFFIX)]
    _check_targets(target, onnx, made)
    backbone = mean_of([_backbone(run, runs[0]) for run in runs])
    if onnx is not None:
        export_onnx(backbone, onnx, threshold=threshold, mirror=mirror)
    try:
        _write(with_base_in(backbone, target), target, _card(runs), threshold=threshold, mirror=mirror)
    except BaseException:
        for path in made:
            path.unlink()
        raise
    return Embedder(load_network(str(target.resolve()), "cpu")).contract


def _check_targets(target: Path, onnx: Path | None, made: Sequence[Path]) -> None:
    """Refuse wrong suffixes and names, and to replace what is there: galleries may need it."""
    if target.suffix:
        check_suffix(target, ".safetensors")
    contract_name_of(target)
    if onnx is not None:
        check_suffix(onnx, ".onnx")
    for path in (target, *made):
        if os.path.lexists(path):
            raise SettingsError(f"{path} is there already", hint="Choose another name, or remove it.")


def _write(
    backbone: Backbone, target: Path, card: str, *, threshold: float | None, mirror: bool | None
) -> None:
    if target.suffix:
        name, card_entry = contract_name_of(target), {"model_card": card}
        export_safetensors(
            backbone, target, threshold=threshold, mirror=mirror, name=name, metadata=card_entry
        )
    else:
        export_folder(backbone, target, threshold=threshold, mirror=mirror, card=card)


def _backbone(run: RunFolder, first: RunFolder) -> Backbone:
    """The network that the run came to; of a head, over the base that lies in the run's folder."""
    (settings, data), (_, of_first) = run.settings(), first.settings()
    if not run.network.exists():
        raise PreconditionError(
            f"the run {run.path} is not finished", hint="Run the same `train run` again: it goes on."
        )
    if data.get("start") != of_first.get("start"):
        raise SettingsError(
            f"{first.path} and {run.path} did not start from the same weights: their mean is no network",
            hint="Export them one by one.",
        )
    network = settings.network
    if network.name.partition(":")[0] == HEAD:
        # The base that training read may have been moved since.
        spec = mapped_network.base_spec_of(run.network)
        network = msgspec.structs.replace(network, name=f"{HEAD}:{spec}")
    return backbone_of(msgspec.structs.replace(settings, network=network), run.network)


def _card(runs: Sequence[RunFolder]) -> str:
    """The run's card; of several that of the first, and what was made of them."""
    card = runs[0].card.read_text("utf-8")
    if len(runs) == 1:
        return card
    seeds = ", ".join(str(run.settings()[0].seed) for run in runs)
    return (
        f"{card}\n## Mean of several runs\n\nThe weights are the mean of {len(runs)} runs',"
        f" with the seeds {seeds}. Settings and figures above are the first one's: measure the mean anew.\n"
    )
