"""OpenFace's nn4.small2 Inception, 128-d, from a folder of CSV layers or a safetensors file.

Knows the one architecture and its files; knows nothing of how faces are found or aligned.

Architecture: models/openface/nn4.small2.def.lua of cmusatyalab/openface (Amos et al. 2016, Apache-2.0),
FaceNet's NN4 (Schroff et al. 2015) without its layers 4b to 4d. Layer names and the CSV files are those
of iwantooxxoox/Keras-OpenFace, which the classic FaceNet course code copied. That course code leaves out
both local response normalisations and averages where the network was trained with L2 pools; here they
are as in nn4.small2, so vectors differ from the course's and agree with OpenFace's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from engine.embedding.align import ALIGNMENTS
from engine.embedding.checkpoints import (
    Checkpoint,
    load_strictly,
    mirror_of,
    name_of,
    read_checkpoint,
    sha256_of_state,
    threshold_of,
)
from engine.embedding.half_weights import is_half
from engine.embedding.torch_network import Scaling, TorchNetwork
from engine.errors import WeightsError

NAME = "nn4-small2"
ALIGNMENT = "openface-96"
DIMENSION = 128
THRESHOLD = 0.505
"""1 - 0.99 / 2: OpenFace's mean threshold on LFW is a squared L2 of 0.99 (its docs/demo-2-comparison.md)."""
BATCH_NORM_EPSILON = 1e-5
CSV_BYTES_MAX = 64 << 20

SCALING = Scaling(mean_rgb=(0.0, 0.0, 0.0), divisor=255.0)
"""Keras-OpenFace and OpenFace feed RGB in 0..1."""

Pair = tuple[int, int]
"""Channels of the 1x1 reduction and of the convolution after it."""


@dataclass(frozen=True, slots=True)
class Inception:
    """One Inception block as nn4.small2.def.lua lists it; None: the branch is not there."""

    name: str
    num_inputs: int
    conv3: Pair
    conv5: Pair | None
    pool: str
    """max: 3x3 stride 2; l2: 3x3 stride 3, the root of the sum of squares."""
    pool_projection: int | None
    conv1: int | None
    stride: int = 1

    @property
    def num_outputs(self) -> int:
        """Channels of the four branches together."""
        pooled = self.num_inputs if self.pool_projection is None else self.pool_projection
        return self.conv3[1] + (self.conv5[1] if self.conv5 else 0) + pooled + (self.conv1 or 0)


BLOCKS = (
    Inception("inception_3a", 192, (96, 128), (16, 32), "max", 32, 64),
    Inception("inception_3b", 256, (96, 128), (32, 64), "l2", 64, 64),
    Inception("inception_3c", 320, (128, 256), (32, 64), "max", None, None, stride=2),
    Inception("inception_4a", 640, (96, 192), (32, 64), "l2", 128, 256),
    Inception("inception_4e", 640, (160, 256), (64, 128), "max", None, None, stride=2),
    Inception("inception_5a", 1024, (96, 384), None, "l2", 96, 256),
    Inception("inception_5b", 736, (96, 384), None, "max", 96, 256),
)


class Nn4Small2(nn.Module):
    """float32[n, 3, 96, 96] to raw float32[n, 128]; submodules are named as in Keras-OpenFace."""

    def __init__(self) -> None:
        super().__init__()
        self._add("conv1", "bn1", nn.Conv2d(3, 64, 7, stride=2, padding=3))
        self._add("conv2", "bn2", nn.Conv2d(64, 64, 1))
        self._add("conv3", "bn3", nn.Conv2d(64, 192, 3, padding=1))
        for block in BLOCKS:
            self._add_block(block)
        self.dense_layer = nn.Linear(BLOCKS[-1].num_outputs, DIMENSION)

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors before OpenFace's L2 normalisation, of RGB in 0..1."""
        x = self._convolve("conv1", "bn1", pixels)
        x = _normalise_locally(functional.max_pool2d(x, 3, stride=2, padding=1))
        x = self._convolve("conv2", "bn2", x)
        x = _normalise_locally(self._convolve("conv3", "bn3", x))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for block in BLOCKS:
            x = self._inception(block, x)
        vectors: Tensor = self.dense_layer(functional.avg_pool2d(x, 3).flatten(1))
        return vectors

    def _add(self, convolution: str, normalisation: str, layer: nn.Conv2d) -> None:
        self.add_module(convolution, layer)
        self.add_module(normalisation, nn.BatchNorm2d(layer.out_channels, eps=BATCH_NORM_EPSILON))

    def _add_block(self, block: Inception) -> None:
        for size, pair in ((3, block.conv3), (5, block.conv5)):
            if pair is not None:
                prefix = f"{block.name}_{size}x{size}"
                second = nn.Conv2d(pair[0], pair[1], size, stride=block.stride, padding=size // 2)
                self._add(f"{prefix}_conv1", f"{prefix}_bn1", nn.Conv2d(block.num_inputs, pair[0], 1))
                self._add(f"{prefix}_conv2", f"{prefix}_bn2", second)
        for branch, width in (("pool", block.pool_projection), ("1x1", block.conv1)):
            if width is not None:
                prefix = f"{block.name}_{branch}"
                self._add(f"{prefix}_conv", f"{prefix}_bn", nn.Conv2d(block.num_inputs, width, 1))

    def _convolve(self, convolution: str, normalisation: str, x: Tensor) -> Tensor:
        return functional.relu(self.get_submodule(normalisation)(self.get_submodule(convolution)(x)))

    def _inception(self, block: Inception, x: Tensor) -> Tensor:
        branches = []
        for size, pair in ((3, block.conv3), (5, block.conv5)):
            if pair is not None:
                prefix = f"{block.name}_{size}x{size}"
                reduced = self._convolve(f"{prefix}_conv1", f"{prefix}_bn1", x)
                branches.append(self._convolve(f"{prefix}_conv2", f"{prefix}_bn2", reduced))
        pooled = _l2_pool(x) if block.pool == "l2" else functional.max_pool2d(x, 3, stride=2)
        if block.pool_projection is not None:
            pooled = self._convolve(f"{block.name}_pool_conv", f"{block.name}_pool_bn", pooled)
        branches.append(_centred(pooled, size_px=branches[0].shape[-1]))
        if block.conv1 is not None:
            branches.append(self._convolve(f"{block.name}_1x1_conv", f"{block.name}_1x1_bn", x))
        return torch.cat(branches, dim=1)


def load(path: Path, device: str) -> TorchNetwork:
    """Load nn4-small2 onto `device` from a folder of CSV layers or of float16, a safetensors or torch file.

    Raises WeightsError naming the tensors that are missing, extra or misshapen.
    """
    is_csv = path.is_dir() and not is_half(path)
    checkpoint = _read_csv_folder(path) if is_csv else read_checkpoint(path)
    module = Nn4Small2()
    load_strictly(module, checkpoint.state, str(path))
    return _network(module, checkpoint, device)


def seeded(seed: int, device: str = "cpu") -> TorchNetwork:
    """Make nn4-small2 with untrained weights drawn from `seed`: where training starts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Nn4Small2()
    state = module.state_dict()
    return _network(module, Checkpoint(Path(), state, {}, sha256_of_state(state)), device)


def _network(module: nn.Module, checkpoint: Checkpoint, device: str) -> TorchNetwork:
    return TorchNetwork(
        name=name_of(checkpoint, NAME),
        alignment=ALIGNMENTS[ALIGNMENT],
        dimension=DIMENSION,
        weights_sha256=checkpoint.sha256,
        device=device,
        mirror=mirror_of(checkpoint, default=False),
        threshold=threshold_of(checkpoint, THRESHOLD),
        module=module,
        scaling=SCALING,
    )


def _normalise_locally(x: Tensor) -> Tensor:
    """Torch7's SpatialCrossMapLRN(5, 1e-4, 0.75), which divides alpha by the size as torch does."""
    return functional.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)


def _l2_pool(x: Tensor) -> Tensor:
    """Torch7's SpatialLPPooling(c, 2, 3, 3); Keras-OpenFace writes it as sqrt(9 * average(x**2))."""
    return torch.sqrt(functional.avg_pool2d(x.square(), 3) * 9.0)


def _centred(x: Tensor, size_px: int) -> Tensor:
    """Fill with zeros around to the size of the other branches, the odd one at the end (nn.DepthConcat)."""
    missing = size_px - x.shape[-1]
    before, after = missing // 2, missing - missing // 2
    return functional.pad(x, (before, after, before, after))


def csv_stems() -> dict[str, str]:
    """Names of the CSV files without ``.csv``, by the tensor of `Nn4Small2` that each holds."""
    stems: dict[str, str] = {}
    for name, module in Nn4Small2().named_children():
        if isinstance(module, nn.BatchNorm2d):
            letters = {"weight": "w", "bias": "b", "running_mean": "m", "running_var": "v"}
        else:
            letters = {"weight": "w", "bias": "b"}
        # The one file that is not named after its layer.
        stem = "dense" if name == "dense_layer" else name
        stems |= {f"{name}.{tensor}": f"{stem}_{letter}" for tensor, letter in letters.items()}
    return stems


def _read_csv_folder(folder: Path) -> Checkpoint:
    """Numbers in Torch7's order, flat: kernels (o, i, h, w), the dense layer (128, 736)."""
    # Some copies name the dense layer's files after the layer.
    files = {path.stem.replace("dense_layer", "dense"): path for path in sorted(folder.glob("[!.]*.csv"))}
    stems = csv_stems()
    missing = [f"{stem}.csv" for stem in stems.values() if stem not in files]
    extra = [files[stem].name for stem in files if stem not in set(stems.values())]
    if missing or extra:
        shown = f"missing {missing[:8]} ({len(missing)}), extra {extra[:8]} ({len(extra)})"
        raise WeightsError(f"{folder} is no folder of the CSV layers of {NAME}: {shown}")
    digest = hashlib.sha256()
    state: dict[str, Tensor] = {}
    shapes = {name: tensor.shape for name, tensor in Nn4Small2().state_dict().items()}
    for name, stem in sorted(stems.items(), key=lambda item: item[1]):
        data = _read_csv(files[stem])
        digest.update(f"{stem} {len(data)}\n".encode() + data)
        values = _parse_csv(data, files[stem])
        if values.size != shapes[name].numel():
            raise WeightsError(
                f"{files[stem]} has {values.size} numbers instead of {shapes[name].numel()}: misshapen {name}"
            )
        state[name] = torch.tensor(values.reshape(shapes[name]))
    return Checkpoint(path=folder, state=state, metadata={}, sha256=digest.hexdigest())


def _read_csv(path: Path) -> bytes:
    try:
        if path.stat().st_size > CSV_BYTES_MAX:
            raise WeightsError(f"{path} is larger than {CSV_BYTES_MAX} bytes")
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weight file {path}: {error.strerror}") from error


def _parse_csv(data: bytes, path: Path) -> NDArray[np.float32]:
    """All numbers, whether in one row or one a line."""
    cells = data.replace(b",", b" ").split()
    try:
        return np.array(cells, dtype=np.bytes_).astype(np.float32) if cells else np.empty(0, np.float32)
    except ValueError as error:
        raise WeightsError(f"{path} holds something that is no number: {error}") from error
