"""Frozen stages run once: what they give for every crop and its mirror is kept, and training reads that.

More than half of a fine-tuning step is work that gives the same each time. What it cannot have is
augmentation of pixels: a face is seen as it is or mirrored. Kept as float16, whose rounding moves dlib's
templates by less than float32's last three digits (cosine above 0.999999).

Knows which networks can be cut in two; knows nothing of losses or files of weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from engine.embedding.dlib_resnet import DlibResNet
from engine.embedding.embed import Embedder
from engine.embedding.networks import Network
from engine.errors import SettingsError
from engine.outputs import make_folder, whole_file
from engine.trainer.backbones import Backbone
from engine.trainer.crop_set import CropSet
from engine.trainer.loader import Batch
from engine.trainer.sampler import PKSampler

CROPS_AT_ONCE = 32


Give = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Crops uint8[k, s, s, 3] to what frozen stages give of each: float[k, v, ...]."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A network in two: tail(trunk(scaled pixels)) are its raw vectors."""

    trunk: nn.Module
    tail: nn.Module


def cut(backbone: Backbone, num_trainable_stages: int) -> Cut:
    """Cut before the last stages; weights are shared with the backbone.

    Raises SettingsError for a network that has no such cut, or where nothing or everything would be frozen.
    """
    if not isinstance(backbone.module, DlibResNet):
        raise SettingsError(f"is_trunk_cached works for dlib-resnet, not for {backbone.name}")
    blocks = list(backbone.module.blocks)
    num_blocks = num_trainable_stages - 1
    if not 0 <= num_blocks <= len(blocks):
        raise SettingsError(
            f"network.num_trainable_stages is {num_trainable_stages}: with is_trunk_cached 1 to"
            f" {len(blocks) + 1} of this network can learn"
        )
    kept = len(blocks) - num_blocks
    trunk = nn.Sequential(backbone.module.stem, nn.ReLU(), nn.MaxPool2d(3, stride=2), *blocks[:kept])
    tail = nn.Sequential(*blocks[kept:], nn.AdaptiveAvgPool2d(1), nn.Flatten(), backbone.module.head)
    return Cut(trunk, tail)


class Features:
    """What is kept of each crop: float[n, v, ...], v views, in a file that is mapped."""

    def __init__(self, path: Path):
        self._kept = np.load(path, mmap_mode="r")

    @property
    def num_views(self) -> int:
        """2 where the mirrored crop has its own."""
        return int(self._kept.shape[1])

    def take(self, rows: NDArray[np.int64], views: NDArray[np.int64] | None = None) -> Tensor:
        """float[k, v, ...] of those rows: all views, or of each row the one named."""
        kept = self._kept[rows] if views is None else self._kept[rows, views][:, None]
        return torch.from_numpy(np.ascontiguousarray(kept))


def features_of_trunk(backbone: Backbone, trunk: nn.Module, device: str) -> Give:
    """Make the function that runs the trunk on crops and on their mirrors."""
    mean = torch.tensor(backbone.scaling.mean_rgb, device=device).reshape(1, 3, 1, 1)
    trunk.to(device).eval()

    def give(crops: NDArray[np.uint8]) -> NDArray[Any]:
        pixels = torch.from_numpy(crops).to(device)
        scaled = (pixels.permute(0, 3, 1, 2).float() - mean) / backbone.scaling.divisor
        with torch.inference_mode():
            both = torch.stack([trunk(scaled), trunk(scaled.flip(3))], dim=1)
        return np.asarray(both.half().cpu().numpy())

    return give


def features_of_base(base: Network) -> Give:
    """Make the function that gives the templates of the network below a head, a single view of each crop."""
    embedder = Embedder(base)

    def give(crops: NDArray[np.uint8]) -> NDArray[Any]:
        return embedder.embed(crops)[:, None]

    return give


def keep_features(crops: CropSet, give: Give, weights: str, folder: Path) -> Features:
    """Open the features of these crops in `folder`, made first where they are not there.

    `weights` is the digest of what makes them. Raises StorageFullError.
    """
    digest = hashlib.sha256(f"{crops.digest}\n{weights}\n".encode()).hexdigest()
    path = folder / f"{digest[:32]}.npy"
    make_folder(folder)
    for other in folder.glob("*.npy"):
        if other != path:
            other.unlink()
    if not path.exists():
        _make(crops, give, path)
    return Features(path)


def _make(crops: CropSet, give: Give, path: Path) -> None:
    starts = range(0, len(crops), CROPS_AT_ONCE)
    with whole_file(path) as file:
        for start in tqdm(starts, desc="frozen stages", unit="batch", disable=None):
            given = np.ascontiguousarray(give(crops.crops[start : start + CROPS_AT_ONCE]))
            if start == 0:
                shape = (len(crops), *given.shape[1:])
                header = {"descr": given.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(given.tobytes())


class FeatureLoader:
    """Batches of features: which rows, and which view of each, depends on seed and step alone."""

    def __init__(self, features: Features, crops: CropSet, sampler: PKSampler, seed: int, *, faces: str):
        """`faces`: ``template`` gives all views of each row, ``crop`` one drawn by seed and step."""
        self._features, self._labels, self._sampler = features, crops.labels, sampler
        self._seed, self._is_drawn = seed, faces == "crop" and features.num_views > 1

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Batches of steps start_step to stop_step - 1."""
        for step in range(start_step, stop_step):
            rows = self._sampler.rows(step)
            views = None
            if self._is_drawn:
                # Of the whole batch, so that the parts of several ranks are what one process would draw.
                drawn = np.random.default_rng((self._seed, step)).integers(
                    0, 2, self._sampler.global_batch_size
                )
                views = drawn[self._sampler.first_place :][: len(rows)]
            yield Batch(step, self._features.take(rows, views), torch.from_numpy(self._labels[rows]))

    def close(self) -> None:
        """Nothing to close: reading is by mapped memory."""
