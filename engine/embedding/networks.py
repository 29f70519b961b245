"""The networks there are: what they all promise, and how one is loaded by name or path.

Knows the names and the kinds of files; knows nothing of how faces are found, aligned or compared.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.embedding import delta, dlib_resnet, mobilefacenet, nn4_small2, onnx_network
from engine.embedding.align import Alignment
from engine.embedding.checkpoints import read_checkpoint
from engine.embedding.half_weights import is_half
from engine.errors import DeviceError, SettingsError
from engine.types import Vectors

DEFAULT_NETWORK = dlib_resnet.NAME
DEVICES = ("auto", "cpu", "cuda")


class Network(Protocol):
    """Aligned crops to raw vectors, and the fields of its embedding contract."""

    @property
    def name(self) -> str:
        """Stands in the contract."""

    @property
    def alignment(self) -> Alignment:
        """The crop it takes."""

    @property
    def dimension(self) -> int:
        """Length of its vectors."""

    @property
    def weights_sha256(self) -> str:
        """Hex digest of its weights."""

    @property
    def device(self) -> str:
        """Device that it really runs on: cpu or cuda."""

    @property
    def mirror(self) -> bool:
        """Whether its templates take the mirrored crop in."""

    @property
    def threshold(self) -> float:
        """Default similarity at or above which two templates are one person."""

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
        """Raw vectors float32[n, d], not normalised, of crops uint8[n, h, w, 3] in RGB; n may be 0."""


Loader = Callable[[Path | None, str, int], Network]
"""From the weight file (None: not given), the device and the number of CPU threads."""


def load_network(spec: str, device: str = "auto", num_threads: int | None = None) -> Network:
    """Load a network by `spec`: a name, ``name=PATH``, or the path of a weight file.

    Of a bare path the kind is recognised: ``.dat`` is dlib's ResNet, ``.onnx`` any ONNX file, a folder
    the CSV layers of nn4-small2, a delta or float16 weights; these, ``.safetensors`` and ``.pt`` must name
    their ``architecture`` in their metadata. `device` is auto, cpu or cuda. `num_threads` sets the CPU
    threads of torch for the whole process and of onnxruntime for this network; None leaves torch's number.
    Raises SettingsError for an unknown name, or one that needs a file; WeightsError for a file of another
    network; DeviceError.
    """
    name, path = _split(spec)
    resolved = resolve_device(device)
    if num_threads is not None:
        if num_threads < 1:
            raise SettingsError(f"num_threads is {num_threads}; at least 1 is needed")
        torch.set_num_threads(num_threads)
    return ARCHITECTURES[name](path, resolved, num_threads or torch.get_num_threads())


def resolve_device(device: str) -> str:
    """Turn auto, cpu or cuda into the device to use: auto is cuda where torch sees one, else cpu.

    Raises DeviceError where cuda is asked for and there is none, saying what torch sees.
    """
    if device not in DEVICES:
        raise SettingsError(f"device {device!r} is unknown; devices: {', '.join(DEVICES)}")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        raise DeviceError(
            f"device cuda was asked for, but torch {torch.__version__} is built for {build} "
            f"and sees {torch.cuda.device_count()} CUDA devices"
        )
    return device


def _load_dlib_resnet(path: Path | None, device: str, _num_threads: int) -> Network:
    return dlib_resnet.load(path, device)


def _load_nn4_small2(path: Path | None, device: str, _num_threads: int) -> Network:
    return nn4_small2.load(_required(path, nn4_small2.NAME, "a folder of CSV layers or .safetensors"), device)


def _load_inception_resnet(path: Path | None, device: str, _num_threads: int) -> Network:
    # Imported here: facenet_pytorch and torchvision take a second that other networks need not wait for.
    from engine.embedding import inception_resnet

    return inception_resnet.load(_required(path, INCEPTION_RESNET, ".pt or .safetensors"), device)


def _load_onnx(path: Path | None, device: str, num_threads: int) -> Network:
    return onnx_network.load(_required(path, onnx_network.NAME, ".onnx"), device, num_threads)


def _load_mobilefacenet(path: Path | None, device: str, _num_threads: int) -> Network:
    return mobilefacenet.load(_required(path, mobilefacenet.NAME, ".safetensors or .pt"), device)


def _load_timm(path: Path | None, device: str, _num_threads: int) -> Network:
    # Imported here: timm takes seconds, and is an extra.
    from engine.embedding import timm_network

    return timm_network.load(_required(path, TIMM, ".safetensors"), device)


def _load_mapped(path: Path | None, device: str, _num_threads: int) -> Network:
    # Imported here: it loads its base by this module.
    from engine.embedding import mapped_network

    return mapped_network.load(_required(path, MAPPED, ".safetensors"), device)


def _load_delta(path: Path | None, device: str, _num_threads: int) -> Network:
    return delta.load(_required(path, delta.NAME, "a folder"), device)


def _loader_of_contract(folder: Path) -> Loader:
    """Loader of a delta that comes with this package."""

    def load(path: Path | None, device: str, _num_threads: int) -> Network:
        if path is not None:
            raise SettingsError(f"network {folder.name} comes with its weights: give its name alone")
        return delta.load(folder, device)

    return load


INCEPTION_RESNET = "inception-resnet-v1"
TIMM = "timm"
MAPPED = "mapped"
_BUILT_IN: Mapping[str, Loader] = {
    dlib_resnet.NAME: _load_dlib_resnet,
    nn4_small2.NAME: _load_nn4_small2,
    INCEPTION_RESNET: _load_inception_resnet,
    mobilefacenet.NAME: _load_mobilefacenet,
    TIMM: _load_timm,
    MAPPED: _load_mapped,
    delta.NAME: _load_delta,
    onnx_network.NAME: _load_onnx,
}
CONTRACTS: Mapping[str, Loader] = {
    folder.name: _loader_of_contract(folder) for folder in delta.folders() if folder.name not in _BUILT_IN
}
"""Loader of each delta that comes with this package, by its name."""
ARCHITECTURES: Mapping[str, Loader] = {**_BUILT_IN, **CONTRACTS}
"""Loader of each network by its registered name."""


def _required(path: Path | None, name: str, kinds: str) -> Path:
    if path is None:
        raise SettingsError(
            f"network {name} needs a weight file ({kinds}): give {name}=/path/to/it",
            hint=f"Names that come with their weights: {', '.join([DEFAULT_NETWORK, *CONTRACTS])}.",
        )
    return path


def _split(spec: str) -> tuple[str, Path | None]:
    """Registered name and path of a spec."""
    if spec in ARCHITECTURES:
        return spec, None
    name, separator, rest = spec.partition("=")
    if separator and name in ARCHITECTURES:
        if not rest:
            raise SettingsError(f"network {spec!r} has nothing after the =: give {name}=/path/to/its/weights")
        return name, Path(rest)
    path = Path(spec)
    # An empty spec would be the current folder.
    if not spec or not path.exists():
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        if separator:
            raise SettingsError(f"{name!r} is no network; networks: {', '.join(ARCHITECTURES)}{meant}")
        raise SettingsError(
            f"{spec!r} is neither a network ({', '.join(ARCHITECTURES)}) nor an existing path{meant}"
        )
    return _recognise(path), path


def _recognise(path: Path) -> str:
    """Name of the network that a weight file or folder is of."""
    is_folder = path.is_dir()
    if is_folder and not is_half(path):
        return delta.NAME if delta.is_delta(path) else nn4_small2.NAME
    if not is_folder and path.suffix in {".dat", ".onnx"}:
        return dlib_resnet.NAME if path.suffix == ".dat" else onnx_network.NAME
    if not is_folder and path.suffix not in {".safetensors", ".pt", ".pth"}:
        raise SettingsError(f"{path} is no weight file: known are .dat, .onnx, .safetensors, .pt and folders")
    name = read_checkpoint(path).metadata.get("architecture", "")
    # Of timm:NAME the loader reads the rest again.
    name = TIMM if name.startswith(f"{TIMM}:") else name
    if name not in ARCHITECTURES:
        said = f"says architecture {name!r}" if name else "does not say its architecture"
        raise SettingsError(f"{path} {said}: give name=PATH with one of {', '.join(ARCHITECTURES)}")
    return name
