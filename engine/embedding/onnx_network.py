"""Any ONNX face network as a network, with its preprocessing in a small JSON file beside it.

Knows onnxruntime and nothing of torch; knows no architecture. Needs the extra ``onnx``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine import config
from engine.embedding.align import ALIGNMENTS, Alignment
from engine.embedding.checkpoints import check_dimension
from engine.embedding.torch_network import check_crops
from engine.embedding.weight_files import sha256_of
from engine.errors import DeviceError, SettingsError, WeightsError
from engine.types import Vectors

NAME = "onnx"
SIDECAR_BYTES_MAX = 64 << 10
ALIGNMENT_BY_SIZE_PX = {112: "arcface-112", 96: "openface-96", 150: "dlib-150", 160: "facenet-160"}
"""The crop that networks of an input size were trained on most often: a guess that settings may correct."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxSettings(config.Settings, frozen=True):
    """What an ONNX file does not say about itself; read from ``<file>.onnx.json`` where that is there.

    Wrong values raise nothing: they only make templates that match badly. Take them from the network's
    publisher.
    """

    mean: float | tuple[float, float, float] = 127.5
    """Subtracted from the pixels of 0..255; three values are in the network's channel order."""
    scale: float = 127.5
    """The difference is divided by it; not 0."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    alignment: str | None = None
    """Name of the crop; None: chosen by the input size."""
    mirror: bool = False
    """Whether a template is unit(raw(crop) + raw(mirrored crop)); doubles the work."""
    threshold: float = 0.4
    """Default similarity at or above which two templates are one person; calibrate to have a good one."""


@dataclass(frozen=True, slots=True)
class _Input:
    name: str
    is_channels_first: bool
    size_px: int
    is_single: bool
    """The batch dimension is fixed at 1."""


@dataclass(frozen=True, slots=True)
class OnnxNetwork:
    """A `Network` that runs in onnxruntime; made by `load`."""

    name: str
    """With the preprocessing in it, because the file's digest does not cover it."""
    alignment: Alignment
    dimension: int
    weights_sha256: str
    device: str
    mirror: bool
    threshold: float
    settings: OnnxSettings
    _session: Any
    _input: _Input

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
        """Raw vectors float32[n, d], not normalised, of crops uint8[n, h, w, 3] in RGB.

        Raises InvalidInputError for crops of another size or type.
        """
        check_crops(crops, self.alignment.size_px)
        vectors: Vectors = np.empty((len(crops), self.dimension), dtype=np.float32)
        step = 1 if self._input.is_single else max(1, len(crops))
        for start in range(0, len(crops), step):
            scaled = self._scaled(crops[start : start + step])
            vectors[start : start + step] = self._session.run(None, {self._input.name: scaled})[0]
        return vectors

    def _scaled(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = crops if self.settings.channel_order == "rgb" else crops[..., ::-1]
        mean = np.asarray(self.settings.mean, dtype=np.float32)
        scaled = (pixels.astype(np.float32) - mean) / np.float32(self.settings.scale)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2) if self._input.is_channels_first else scaled)


def load(path: Path, device: str, num_threads: int, settings: OnnxSettings | None = None) -> OnnxNetwork:
    """Load an ONNX file onto `device` (cpu, cuda) with `num_threads` CPU threads.

    `settings` replace the sidecar file. The one input must be float32 [n or 1, 3, s, s] or
    [n or 1, s, s, 3] of a stated size, the one output float32 [n, d] with d from 64 to 1024. Raises
    WeightsError where the file is another, SettingsError for the sidecar or where onnxruntime is not
    installed, DeviceError where onnxruntime does not have the device.
    """
    sha256 = sha256_of(path)
    chosen = settings if settings is not None else read_sidecar(path)
    _check_settings(chosen, path)
    session = _open(path, device, num_threads)
    network_input = _check_input(session, path)
    return OnnxNetwork(
        name=_contract_name(chosen),
        alignment=_alignment(chosen, network_input.size_px, path),
        dimension=_check_output(session, path),
        weights_sha256=sha256,
        device=device,
        mirror=chosen.mirror,
        threshold=chosen.threshold,
        settings=chosen,
        _session=session,
        _input=network_input,
    )


def read_sidecar(path: Path) -> OnnxSettings:
    """Read the settings beside an ONNX file (``model.onnx.json``); the defaults where there are none.

    Raises SettingsError naming the wrong key or value.
    """
    sidecar = path.with_name(path.name + ".json")
    if not sidecar.is_file():
        return OnnxSettings()
    try:
        if sidecar.stat().st_size > SIDECAR_BYTES_MAX:
            raise SettingsError(f"{sidecar} is larger than {SIDECAR_BYTES_MAX} bytes")
        values = json.loads(sidecar.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read {sidecar}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{sidecar} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{sidecar} must hold one JSON object of settings")
    try:
        return config.build(OnnxSettings, values)
    except SettingsError as error:
        raise SettingsError(f"{sidecar}: {error.message}") from error


def _check_settings(settings: OnnxSettings, path: Path) -> None:
    numbers = [*np.atleast_1d(np.asarray(settings.mean, dtype=np.float64)), settings.scale]
    if not np.isfinite(numbers).all() or settings.scale == 0.0:
        raise SettingsError(f"{path.name}: mean and scale must be finite, and scale not 0")
    if not -1.0 <= settings.threshold <= 1.0:
        raise SettingsError(f"{path.name}: threshold {settings.threshold} is no similarity between -1 and 1")


def _contract_name(settings: OnnxSettings) -> str:
    means = np.atleast_1d(np.asarray(settings.mean, dtype=np.float64)).tolist()
    mean = ",".join(f"{value:g}" for value in means)
    return f"{NAME}:{settings.channel_order}:mean={mean}:scale={settings.scale:g}"


def _alignment(settings: OnnxSettings, size_px: int, path: Path) -> Alignment:
    name = settings.alignment or ALIGNMENT_BY_SIZE_PX.get(size_px)
    known = ", ".join(f"{a.name} ({a.size_px} px)" for a in ALIGNMENTS.values())
    if name is None or name not in ALIGNMENTS:
        raise SettingsError(
            f"{path.name} takes {size_px} px; alignment {name!r} is unknown: "
            f"set `alignment` to one of {known}"
        )
    if ALIGNMENTS[name].size_px != size_px:
        raise SettingsError(f"{path.name} takes {size_px} px, not the {name} crop; alignments: {known}")
    return ALIGNMENTS[name]


def _open(path: Path, device: str, num_threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise SettingsError(
            "ONNX networks need onnxruntime: pip install 'identiface[onnx]'",
            hint="pip install 'identiface[onnx]', or choose another network.",
        ) from error
    provider = _PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise DeviceError(f"onnxruntime has no {provider} for {device}; it has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=[provider])
    except _load_errors(onnxruntime) as error:
        raise WeightsError(f"{path} is no ONNX file that onnxruntime can run: {error}") from error
    # onnxruntime falls back to the CPU without an error where a provider does not start.
    if session.get_providers()[0] != provider:
        raise DeviceError(f"onnxruntime could not start {provider}; it started {session.get_providers()[0]}")
    return session


def _load_errors(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """What onnxruntime raises for files that it cannot run: one class a status code, of no common parent."""
    classes = onnxruntime.capi.onnxruntime_pybind11_state
    return (
        classes.Fail,
        classes.InvalidArgument,
        classes.InvalidGraph,
        classes.InvalidProtobuf,
        classes.NoModel,
        classes.NoSuchFile,
        classes.NotImplemented,
        classes.RuntimeException,
    )


def _check_input(session: Any, path: Path) -> _Input:
    inputs = session.get_inputs()
    shape = inputs[0].shape if inputs else []
    is_channels_first = len(shape) == 4 and shape[1] == 3
    rows, columns = (shape[2:] if is_channels_first else shape[1:3]) if len(shape) == 4 else (None, None)
    is_fit = (
        len(inputs) == 1
        and inputs[0].type == "tensor(float)"
        and len(shape) == 4
        and (is_channels_first or shape[3] == 3)
        and isinstance(rows, int)
        and rows == columns
        and (shape[0] == 1 or not isinstance(shape[0], int))
    )
    if not is_fit or not isinstance(rows, int):
        found = "; ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise WeightsError(
            f"{path} takes {found}; one float32 input [n or 1, 3, s, s] or [n or 1, s, s, 3] is needed"
        )
    return _Input(inputs[0].name, is_channels_first, rows, is_single=shape[0] == 1)


def _check_output(session: Any, path: Path) -> int:
    outputs = session.get_outputs()
    shape = outputs[0].shape if outputs else []
    is_fit = len(outputs) == 1 and outputs[0].type == "tensor(float)" and len(shape) == 2
    if not is_fit or not isinstance(shape[1], int):
        found = "; ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
        raise WeightsError(f"{path} gives {found}; one float32 output [n, d] of stated d is needed")
    check_dimension(shape[1], str(path))
    return int(shape[1])
