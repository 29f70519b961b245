"""InceptionResnetV1 of facenet-pytorch with a head of any template size.

Knows the one architecture and its files; knows nothing of how faces are found or aligned, and never
downloads.

Architecture: models/inception_resnet_v1.py of timesler/facenet-pytorch (MIT), after Szegedy et al. 2016
and davidsandberg/facenet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.embedding.align import ALIGNMENTS
from engine.embedding.checkpoints import (
    Checkpoint,
    check_dimension,
    load_strictly,
    mirror_of,
    name_of,
    read_checkpoint,
    sha256_of_state,
    threshold_of,
)
from engine.embedding.facenet import InceptionResnetV1
from engine.embedding.torch_network import Scaling, TorchNetwork
from engine.errors import WeightsError

NAME = "inception-resnet-v1"
ALIGNMENT = "facenet-160"
DIMENSION = 128
"""Of the head that training starts with; a file may hold another, facenet-pytorch's own have 512."""
THRESHOLD = 0.5
"""A starting point only: it belongs to the weights, so a trained file carries its own in its metadata."""
SCALING = Scaling(mean_rgb=(127.5, 127.5, 127.5), divisor=128.0)
"""fixed_image_standardization of facenet-pytorch."""

BATCH_NORM_EPSILON = 1e-3
_HEAD = "last_linear.weight"
_CLASSIFIER = "logits."


def build(dimension: int = DIMENSION) -> nn.Module:
    """Make the module with untrained weights: scaled float32[n, 3, 160, 160] to raw float32[n, dimension].

    It starts in training mode, with the tensors' names of facenet-pytorch. Raises WeightsError for a
    dimension outside what templates may have.
    """
    check_dimension(dimension, NAME)
    module: Any = InceptionResnetV1(pretrained=None)
    num_inputs = int(module.state_dict()[_HEAD].shape[1])
    module.last_linear = nn.Linear(num_inputs, dimension, bias=False)
    module.last_bn = nn.BatchNorm1d(dimension, eps=BATCH_NORM_EPSILON)
    # As a classifier over the identity it gives the vectors themselves; otherwise it would normalise them.
    module.classify = True
    module.logits = nn.Identity()
    built: nn.Module = module
    return built


def load(path: Path, device: str) -> TorchNetwork:
    """Load weights onto `device` from facenet-pytorch's ``.pt`` or from safetensors.

    The template size is the file's; class logits are left out. Raises WeightsError naming the tensors
    that are missing, extra or misshapen.
    """
    checkpoint = read_checkpoint(path)
    state = {name: t for name, t in checkpoint.state.items() if not name.startswith(_CLASSIFIER)}
    module = build(_dimension(state, path))
    load_strictly(module, state, str(path))
    return _network(module, checkpoint, device)


def seeded(seed: int, dimension: int = DIMENSION, device: str = "cpu") -> TorchNetwork:
    """Make the network with untrained weights drawn from `seed`: where training starts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build(dimension)
    state = module.state_dict()
    return _network(module, Checkpoint(Path(), state, {}, sha256_of_state(state)), device)


def _dimension(state: dict[str, Tensor], path: Path) -> int:
    head = state.get(_HEAD)
    if head is None or head.ndim != 2:
        raise WeightsError(f"{path} is not of {NAME}: missing or misshapen: {_HEAD}")
    check_dimension(head.shape[0], str(path))
    return head.shape[0]


def _network(module: nn.Module, checkpoint: Checkpoint, device: str) -> TorchNetwork:
    return TorchNetwork(
        name=name_of(checkpoint, NAME),
        alignment=ALIGNMENTS[ALIGNMENT],
        dimension=int(module.state_dict()[_HEAD].shape[0]),
        weights_sha256=checkpoint.sha256,
        device=device,
        mirror=mirror_of(checkpoint, default=False),
        threshold=threshold_of(checkpoint, THRESHOLD),
        module=module,
        scaling=SCALING,
    )
