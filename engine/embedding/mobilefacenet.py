"""MobileFaceNet, a million weights for crops of 112 px, with a head of any template size.

Knows the one architecture and its files; knows nothing of how faces are found or aligned, nor of training.

Architecture: Chen et al. 2018, "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on
Mobile Devices" (arXiv:1804.07573), table 1. Bottlenecks are those of Sandler et al. 2018 (MobileNetV2,
arXiv:1801.04381) with PReLU; batch normalisation follows every convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.embedding.align import ALIGNMENTS
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
from engine.errors import WeightsError

NAME = "mobilefacenet"
ALIGNMENT = "arcface-112"
DIMENSION = 128
THRESHOLD = 0.5
"""A starting point only: it belongs to the weights, so a trained file carries its own in its metadata."""
SCALING = Scaling(mean_rgb=(127.5, 127.5, 127.5), divisor=128.0)
"""Section 4.1 of the paper."""

STEM_CHANNELS = 64
BOTTLENECKS = (
    (2, 64, 5, 2),
    (4, 128, 1, 2),
    (2, 128, 6, 1),
    (4, 128, 1, 2),
    (2, 128, 2, 1),
)
"""(expansion, output channels, blocks, stride of the first block) of each row of table 1."""
WIDE_CHANNELS = 512
LAST_MAP_PX = 7
PRELU_SLOPE = 0.25
"""Where training starts."""

_HEAD = "head.convolution.weight"


class MobileFaceNet(nn.Module):
    """float32[n, 3, 112, 112] to raw float32[n, dimension]; made in training mode with He's weights."""

    def __init__(self, dimension: int = DIMENSION) -> None:
        """Raises WeightsError for a dimension outside what templates may have."""
        super().__init__()
        check_dimension(dimension, NAME)
        self.stem = _Convolution(3, STEM_CHANNELS, 3, stride=2, padding=1)
        self.depthwise = _Convolution(STEM_CHANNELS, STEM_CHANNELS, 3, padding=1, num_groups=STEM_CHANNELS)
        blocks = []
        num_channels = STEM_CHANNELS
        for expansion, num_outputs, num_blocks, stride in BOTTLENECKS:
            for i in range(num_blocks):
                blocks.append(_Bottleneck(num_channels, num_outputs, expansion, stride if i == 0 else 1))
                num_channels = num_outputs
        self.blocks = nn.Sequential(*blocks)
        self.expand = _Convolution(num_channels, WIDE_CHANNELS, 1)
        # The global depthwise convolution: every place of the last map has its own weight in the mean.
        self.pool = _Convolution(
            WIDE_CHANNELS, WIDE_CHANNELS, LAST_MAP_PX, num_groups=WIDE_CHANNELS, is_linear=True
        )
        self.head = _Convolution(WIDE_CHANNELS, dimension, 1, is_linear=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors, not normalised, of scaled pixels."""
        x = self.blocks(self.depthwise(self.stem(pixels)))
        vectors: Tensor = self.head(self.pool(self.expand(x))).flatten(1)
        return vectors


class _Convolution(nn.Module):
    """A convolution, its batch normalisation, and PReLU unless it is linear."""

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        num_groups: int = 1,
        is_linear: bool = False,
    ):
        super().__init__()
        self.convolution = nn.Conv2d(
            num_inputs, num_outputs, size, stride=stride, padding=padding, groups=num_groups, bias=False
        )
        # He et al. 2015 (arXiv:1502.01852), equation 15: a linear layer is a PReLU of slope 1.
        nn.init.kaiming_normal_(self.convolution.weight, a=1.0 if is_linear else PRELU_SLOPE)
        self.normalisation = nn.BatchNorm2d(num_outputs)
        self.activation = nn.Identity() if is_linear else nn.PReLU(num_outputs, PRELU_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.normalisation(self.convolution(x)))
        return activated


class _Bottleneck(nn.Module):
    """Wider, depthwise, narrow again without PReLU; beside the identity where the shape stays."""

    def __init__(self, num_inputs: int, num_outputs: int, expansion: int, stride: int):
        super().__init__()
        num_wide = expansion * num_inputs
        self.has_identity = stride == 1 and num_inputs == num_outputs
        self.widen = _Convolution(num_inputs, num_wide, 1)
        self.depthwise = _Convolution(num_wide, num_wide, 3, stride=stride, padding=1, num_groups=num_wide)
        self.narrow = _Convolution(num_wide, num_outputs, 1, is_linear=True)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.narrow(self.depthwise(self.widen(x)))
        return x + branch if self.has_identity else branch


def load(path: Path, device: str) -> TorchNetwork:
    """Load weights onto `device` (cpu, cuda) from a safetensors or torch file; the template size is its own.

    Raises WeightsError naming the tensors that are missing, extra or misshapen.
    """
    checkpoint = read_checkpoint(path)
    module = MobileFaceNet(_dimension(checkpoint.state, path))
    load_strictly(module, checkpoint.state, str(path))
    return _network(module, checkpoint, device)


def seeded(seed: int, dimension: int = DIMENSION, device: str = "cpu") -> TorchNetwork:
    """Make the network with untrained weights drawn from `seed`: where training starts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = MobileFaceNet(dimension)
    state = module.state_dict()
    return _network(module, Checkpoint(Path(), state, {}, sha256_of_state(state)), device)


def _dimension(state: Mapping[str, Tensor], path: Path) -> int:
    head = state.get(_HEAD)
    if head is None or head.ndim != 4:
        raise WeightsError(f"{path} is not of {NAME}: missing or misshapen: {_HEAD}")
    check_dimension(head.shape[0], str(path))
    return head.shape[0]


def _network(module: MobileFaceNet, checkpoint: Checkpoint, device: str) -> TorchNetwork:
    alignment = ALIGNMENTS[ALIGNMENT]
    return TorchNetwork(
        name=name_of(checkpoint, NAME),
        alignment=alignment_of(checkpoint, alignment, alignment.size_px),
        dimension=module.head.convolution.out_channels,
        weights_sha256=checkpoint.sha256,
        device=device,
        mirror=mirror_of(checkpoint, default=False),
        threshold=threshold_of(checkpoint, THRESHOLD),
        module=module,
        scaling=scaling_of(checkpoint, SCALING),
    )
