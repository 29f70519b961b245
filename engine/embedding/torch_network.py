"""A torch module as a network: pixels in, raw float32 vectors out.

Knows how crops are scaled and moved to the device; knows no architecture and no weight file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.embedding.align import Alignment
from engine.errors import InvalidInputError
from engine.types import Vectors


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a network does to pixels of 0..255: (pixel - mean) / divisor, by channel."""

    mean_rgb: tuple[float, float, float]
    divisor: float


def check_crops(crops: NDArray[np.uint8], size_px: int) -> None:
    """Refuse anything but uint8[n, size_px, size_px, 3] with an InvalidInputError naming what came."""
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size_px, size_px, 3):
        raise InvalidInputError(
            f"crops are {crops.dtype}{list(crops.shape)}; "
            f"this network takes uint8[n, {size_px}, {size_px}, 3]"
        )


@dataclass(frozen=True, slots=True)
class TorchNetwork:
    """A `Network` whose module runs in torch; made by the loaders of the architectures.

    Calls from several threads are safe. The module is in evaluation mode and on `device`.
    """

    name: str
    alignment: Alignment
    dimension: int
    weights_sha256: str
    device: str
    mirror: bool
    threshold: float
    module: nn.Module
    """float32[n, 3, h, w] to float32[n, d]."""
    scaling: Scaling
    _mean: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.module.to(device=self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        mean = torch.tensor(self.scaling.mean_rgb, dtype=torch.float32, device=self.device)
        object.__setattr__(self, "_mean", mean.reshape(1, 3, 1, 1))

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
        """Raw vectors float32[n, d], not normalised, of crops uint8[n, h, w, 3] in RGB.

        Raises InvalidInputError for crops of another size or type.
        """
        check_crops(crops, self.alignment.size_px)
        if len(crops) == 0:
            return np.empty((0, self.dimension), dtype=np.float32)
        with torch.inference_mode():
            pixels = torch.tensor(np.ascontiguousarray(crops), device=self.device)
            # Rows of interleaved RGB are torch's channels_last layout already: permuting copies nothing.
            scaled = (pixels.permute(0, 3, 1, 2).to(torch.float32) - self._mean) / self.scaling.divisor
            raw: Tensor = self.module(scaled)
            vectors: Vectors = raw.to(device="cpu", dtype=torch.float32).contiguous().numpy()
        return vectors
