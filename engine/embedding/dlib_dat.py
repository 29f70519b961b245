"""Reader of networks that dlib has serialised (a ``.dat`` of a metric-learning network).

Knows nothing of torch, nor of what the layers compute: it gives them back in the order data flows.

The format is that of dlib/serialize.h and dlib/dnn/core.h, layers.h, input.h, loss.h (dlib 19.3 and
later), written from the loss inwards, so that a file reads::

    loss                    version, name, settings
    one version per layer   from the output to the input: 2 a layer, 1 a tag or skip, 3 the layer on the input
    input                   name, red, green, blue means, rows, columns
    layers, input to output name, settings and parameters, three flags, cached tensors (empty when cleaned)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import WeightsError

NAME_BYTES_MAX = 64
LAYERS_MAX = 2_000
TENSOR_DIMENSIONS = 4
FLOAT_EXPONENT_MAX = 1_000
"""dlib marks infinities and NaN with exponents of 32000 and above; neither belongs in a weight file."""

_LOSS = "loss_metric_2"
_INPUT = "input_rgb_image_sized"
_TAG, _LAYER, _INPUT_LAYER = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that computes something; tags and skips are left out."""

    kind: str
    """con_4, affine_, relu_, max_pool_2, avg_pool_2, add_prev_ or fc_2, as dlib names them."""
    geometry: tuple[int, ...]
    """con_4: filters, rows, columns, stride y, x, padding y, x. Pools: the same without filters.
    fc_2: outputs, inputs, 1 where it has no bias. Others: empty."""
    parameters: NDArray[np.float32]
    """All learnt numbers of the layer, flat: weights first, then biases."""


@dataclass(frozen=True, slots=True)
class DatNetwork:
    """A parsed file."""

    mean_rgb: tuple[float, float, float]
    """Subtracted from the pixels before they are divided by 256."""
    size_px: int
    layers: tuple[Layer, ...]
    """From the input to the output."""


class _Reader:
    """Cursor over the bytes; every read is checked against the end."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def refuse(self, what: str) -> WeightsError:
        return WeightsError(f"not a dlib metric network: {what} at byte {self._at} of {len(self._data)}")

    def take(self, num_bytes: int) -> bytes:
        if num_bytes > len(self._data) - self._at:
            raise self.refuse(f"file ends where {num_bytes} more bytes are expected")
        taken = self._data[self._at : self._at + num_bytes]
        self._at += num_bytes
        return taken

    def integer(self) -> int:
        """One control byte (sign in bit 7, length in bits 0..3), then the magnitude, low byte first."""
        control = self.take(1)[0]
        length = control & 0x0F
        if control & 0x70 or not 1 <= length <= 8:
            raise self.refuse(f"control byte {control:#04x} of no integer")
        magnitude = int.from_bytes(self.take(length), "little")
        return -magnitude if control & 0x80 else magnitude

    def integers(self, count: int) -> tuple[int, ...]:
        return tuple(self.integer() for _ in range(count))

    def real(self) -> float:
        """A mantissa and an exponent of two, both integers."""
        mantissa, exponent = self.integer(), self.integer()
        if abs(exponent) > FLOAT_EXPONENT_MAX:
            raise self.refuse("a number that is not finite")
        return math.ldexp(mantissa, exponent)

    def reals(self, count: int) -> tuple[float, ...]:
        return tuple(self.real() for _ in range(count))

    def name(self) -> str:
        length = self.integer()
        if not 0 < length <= NAME_BYTES_MAX:
            raise self.refuse(f"a name of {length} bytes")
        return self.take(length).decode("ascii", errors="replace")

    def flag(self) -> None:
        if self.take(1) not in {b"0", b"1"}:
            raise self.refuse("no flag")

    def tensor(self) -> NDArray[np.float32]:
        """Version 2, four dimensions, then that many little-endian float32; given back flat."""
        version, *shape = self.integers(1 + TENSOR_DIMENSIONS)
        if version != 2 or min(shape) < 0:
            raise self.refuse(f"no tensor (version {version}, shape {shape})")
        values = np.frombuffer(self.take(4 * math.prod(shape)), dtype="<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise self.refuse("a tensor that is not finite")
        return values

    def views(self, count: int) -> None:
        """Shapes of the parts of a parameter tensor: they follow from the layer's geometry."""
        for _ in range(count):
            version, *_shape = self.integers(1 + TENSOR_DIMENSIONS)
            if version != 1:
                raise self.refuse(f"view of version {version}")

    def end(self) -> None:
        if self._at != len(self._data):
            raise self.refuse(f"{len(self._data) - self._at} bytes too many")


def parse(data: bytes) -> DatNetwork:
    """Parse the whole of a dlib metric network file.

    Raises WeightsError naming the byte where the data stops being one, also where bytes are left over.
    """
    reader = _Reader(data)
    _expect(reader, reader.integer(), 1)
    _expect(reader, reader.name(), _LOSS)
    reader.reals(2)
    versions = _read_versions(reader)
    _expect(reader, reader.name(), _INPUT)
    red, green, blue = reader.reals(3)
    num_rows, num_columns = reader.integers(2)
    _expect(reader, num_columns, num_rows)
    layers = tuple(_read_layer(reader, version) for version in reversed(versions) if version != _TAG)
    reader.end()
    return DatNetwork(mean_rgb=(red, green, blue), size_px=num_rows, layers=layers)


def _expect(reader: _Reader, found: int | str, expected: int | str) -> None:
    if found != expected:
        raise reader.refuse(f"{found!r} instead of {expected!r}")


def _read_versions(reader: _Reader) -> list[int]:
    versions: list[int] = []
    while len(versions) < LAYERS_MAX:
        versions.append(reader.integer())
        if versions[-1] == _INPUT_LAYER:
            return versions
        if versions[-1] not in {_TAG, _LAYER}:
            raise reader.refuse(f"layer of version {versions[-1]}")
    raise reader.refuse(f"more than {LAYERS_MAX} layers")


def _read_layer(reader: _Reader, version: int) -> Layer:
    layer = _read_details(reader)
    for _ in range(3):
        reader.flag()
    for _ in range(3):
        reader.tensor()
    if version == _INPUT_LAYER:
        _expect(reader, reader.integer(), 1)
    return layer


def _read_details(reader: _Reader) -> Layer:
    kind = reader.name()
    nothing = np.empty(0, dtype=np.float32)
    if kind == "con_4":
        parameters = reader.tensor()
        geometry = reader.integers(7)
        reader.views(2)
        reader.reals(4)
        return Layer(kind, geometry, parameters)
    if kind == "affine_":
        parameters = reader.tensor()
        reader.views(2)
        reader.integer()
        return Layer(kind, (), parameters)
    if kind == "fc_2":
        num_outputs, num_inputs = reader.integers(2)
        parameters = reader.tensor()
        reader.views(2)
        has_no_bias = reader.integer()
        reader.reals(4)
        return Layer(kind, (num_outputs, num_inputs, has_no_bias), parameters)
    if kind in {"max_pool_2", "avg_pool_2"}:
        return Layer(kind, reader.integers(6), nothing)
    if kind in {"relu_", "add_prev_"}:
        return Layer(kind, (), nothing)
    raise reader.refuse(f"layer of unknown kind {kind!r}")
