"""Any image backbone of timm with a linear head, by name. Needs the extra ``train``.

Knows timm's registry and the files of such networks; knows no architecture, and never downloads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.embedding.align import ALIGNMENTS, Alignment
from engine.embedding.checkpoints import (
    Checkpoint,
    alignment_of,
    check_dimension,
    load_strictly,
    mirror_of,
    name_of,
    read_checkpoint,
    scaling_of,
    sha256_of_state,
    threshold_of,
)
from engine.embedding.torch_network import Scaling, TorchNetwork
from engine.errors import SettingsError, WeightsError

NAME = "timm"
PREFIX = "timm:"
ALIGNMENT = "arcface-112"
DIMENSION = 128
THRESHOLD = 0.5
"""A starting point only: it belongs to the weights, so a trained file carries its own in its metadata."""

NAMES_SHOWN_MAX = 5

_HEAD = "head.weight"
_NAME_PATTERN = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
"""timm takes other names for places of the network to download from."""


class TimmNetwork(nn.Module):
    """A backbone of timm with its own pooling, and a linear head: float32[n, 3, s, s] to float32[n, d]."""

    def __init__(self, name: str, size_px: int, dimension: int = DIMENSION) -> None:
        """`name` is timm's. Raises SettingsError where timm has no such backbone, or for its crops."""
        super().__init__()
        check_dimension(dimension, f"{PREFIX}{name}")
        self.backbone = _create(name, size_px)
        self.classifiers = _classifiers(self.backbone)
        self.head = nn.Linear(_num_features(self.backbone, name, size_px), dimension)

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors, not normalised, of scaled pixels."""
        vectors: Tensor = self.head(self.backbone(pixels))
        return vectors


def load(path: Path, device: str, name: str | None = None) -> TorchNetwork:
    """Load onto `device` (cpu, cuda) a file that the trainer wrote.

    Its metadata name the backbone (or `name` does) and the crop; the template size is the head's. Raises
    WeightsError naming the tensors that are missing, extra or misshapen; SettingsError where timm is not
    installed or does not know the backbone.
    """
    checkpoint = read_checkpoint(path)
    architecture = checkpoint.metadata.get("architecture", "")
    if name is None and not architecture.startswith(PREFIX):
        raise WeightsError(f"{path} does not say which backbone it is of: metadata architecture {PREFIX}NAME")
    name = name or architecture.removeprefix(PREFIX)
    alignment = alignment_of(checkpoint, ALIGNMENTS[ALIGNMENT])
    module = _seeded_module(name, 0, _dimension(checkpoint.state, path), alignment)
    load_strictly(module, checkpoint.state, str(path))
    return _network(module, name, checkpoint, alignment, device)


def load_original(name: str, path: Path, seed: int, dimension: int, alignment: Alignment) -> TorchNetwork:
    """Load timm's own weights of a backbone, a file the user has, under a head drawn from `seed`.

    Its classifier is left out. Raises as `load`.
    """
    checkpoint = read_checkpoint(path)
    module = _seeded_module(name, seed, dimension, alignment)
    state = {
        key: values
        for key, values in checkpoint.state.items()
        if not key.startswith(tuple(f"{classifier}." for classifier in module.classifiers))
    }
    load_strictly(module.backbone, state, str(path))
    return _network(module, name, Checkpoint(path, {}, {}, checkpoint.sha256), alignment, "cpu")


def seeded(
    name: str,
    seed: int,
    dimension: int = DIMENSION,
    alignment: Alignment = ALIGNMENTS[ALIGNMENT],
    device: str = "cpu",
) -> TorchNetwork:
    """Make the network with untrained weights drawn from `seed`: where training starts. `name` is timm's."""
    module = _seeded_module(name, seed, dimension, alignment)
    state = module.state_dict()
    return _network(module, name, Checkpoint(Path(), state, {}, sha256_of_state(state)), alignment, device)


def has_head(path: Path) -> bool:
    """Tell whether a weight file is the trainer's, with our head, rather than timm's own."""
    state = read_checkpoint(path).state
    return _HEAD in state and any(key.startswith("backbone.") for key in state)


def _seeded_module(name: str, seed: int, dimension: int, alignment: Alignment) -> TimmNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TimmNetwork(name, alignment.size_px, dimension)


def _dimension(state: Mapping[str, Tensor], path: Path) -> int:
    head = state.get(_HEAD)
    if head is None or head.ndim != 2:
        raise WeightsError(f"{path} is not of a {NAME} network: missing or misshapen: {_HEAD}")
    check_dimension(head.shape[0], str(path))
    return head.shape[0]


def _network(
    module: TimmNetwork, name: str, checkpoint: Checkpoint, alignment: Alignment, device: str
) -> TorchNetwork:
    return TorchNetwork(
        name=name_of(checkpoint, f"{PREFIX}{name}"),
        alignment=alignment,
        dimension=module.head.out_features,
        weights_sha256=checkpoint.sha256,
        device=device,
        mirror=mirror_of(checkpoint, default=False),
        threshold=threshold_of(checkpoint, THRESHOLD),
        module=module,
        scaling=scaling_of(checkpoint, _scaling(module.backbone)),
    )


def _timm() -> Any:
    # Before timm: it imports torchvision, which this module makes to load beside a CPU torch.
    import engine.embedding.facenet  # noqa: F401

    try:
        import timm
    except ImportError as error:
        raise SettingsError(
            f"a {PREFIX}NAME network needs timm", hint="pip install 'identiface[train]'"
        ) from error
    return timm


def _create(name: str, size_px: int) -> nn.Module:
    timm = _timm()
    is_name = _NAME_PATTERN.fullmatch(name) is not None
    if not is_name or not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:NAMES_SHOWN_MAX] if is_name else []
        known = f"; some there are: {', '.join(near)}" if near else ""
        raise SettingsError(
            f"timm {timm.__version__} has no backbone {name!r}{known}",
            hint="Names are those of timm.list_models().",
        )
    config = timm.get_pretrained_cfg(name)
    # Only backbones of a fixed size, such as vision transformers, are told it.
    size = {"img_size": size_px} if config is not None and config.fixed_input_size else {}
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **size)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _unfit(name, size_px, error) from error
    return backbone


def _num_features(backbone: nn.Module, name: str, size_px: int) -> int:
    """Length of what the backbone gives, by asking it: its attributes tell it before some last layers."""
    was_training = backbone.training
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, size_px, size_px))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _unfit(name, size_px, error) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise SettingsError(f"timm's {name} gives no single vector of a picture: choose another backbone")
    backbone.train(was_training)
    return features.shape[1]


def _unfit(name: str, size_px: int, error: Exception) -> SettingsError:
    others = ", ".join(f"{a.name} ({a.size_px} px)" for a in ALIGNMENTS.values() if a.size_px != size_px)
    return SettingsError(
        f"timm's {name} takes no crops of {size_px} px: {str(error) or 'it asserts another size'}",
        hint=f"Choose another alignment ({others}) or another backbone.",
    )


def _classifiers(backbone: nn.Module) -> tuple[str, ...]:
    """Names of the layers that timm's own files hold for its classes."""
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _scaling(backbone: nn.Module) -> Scaling:
    """That which timm's weights were trained with; one divisor for all channels.

    Deviations of the channels differ by 3 % at most, which training makes up for.
    """
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}
    red, green, blue = (255.0 * value for value in config.get("mean", (0.5, 0.5, 0.5)))
    deviations = config.get("std", (0.5, 0.5, 0.5))
    return Scaling((red, green, blue), 255.0 * sum(deviations) / len(deviations))
