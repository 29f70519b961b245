"""Reader of dlib's serialised networks, against a writer of the same format."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.embedding.dlib_dat import parse
from engine.errors import WeightsError


def integer(value: int) -> bytes:
    magnitude = abs(value)
    size = max(1, (magnitude.bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + magnitude.to_bytes(size, "little")


def integers(*values: int) -> bytes:
    return b"".join(integer(value) for value in values)


def real(value: float) -> bytes:
    mantissa, exponent = math.frexp(value)
    return integers(int(mantissa * 2**53), exponent - 53)


def reals(*values: float) -> bytes:
    return b"".join(real(value) for value in values)


def name(text: str) -> bytes:
    return integer(len(text)) + text.encode()


def tensor(values: NDArray[np.float32] | None = None) -> bytes:
    if values is None:
        return integers(2, 0, 0, 0, 0)
    return integers(2, values.size, 1, 1, 1) + values.astype("<f4").tobytes()


def view(*shape: int) -> bytes:
    return integers(1, *shape)


AFTER_EACH = b"110" + tensor() + tensor() + tensor()


def network(weights: NDArray[np.float32], affine: NDArray[np.float32], head: NDArray[np.float32]) -> bytes:
    """con 2 filters of 3x3, affine, relu, a tag, max pool, add_prev, fc of 4 numbers."""
    return b"".join(
        [
            integer(1) + name("loss_metric_2") + reals(0.04, 0.6),
            integers(2, 2, 2, 1, 2, 2, 3),
            name("input_rgb_image_sized") + reals(122.5, 117.0, 104.25) + integers(9, 9),
            name("con_4") + tensor(weights) + integers(2, 3, 3, 1, 1, 1, 1),
            view(2, 3, 3, 3) + view(1, 2, 1, 1) + reals(1, 1, 1, 0) + AFTER_EACH + integer(1),
            name("affine_") + tensor(affine) + view(1, 2, 1, 1) * 2 + integer(0) + AFTER_EACH,
            name("relu_") + AFTER_EACH,
            name("max_pool_2") + integers(3, 3, 2, 2, 0, 0) + AFTER_EACH,
            name("add_prev_") + AFTER_EACH,
            name("fc_2") + integers(4, 2) + tensor(head),
            view(2, 4, 1, 1) + view(0, 0, 0, 0) + integer(1) + reals(1, 1, 1, 0) + AFTER_EACH,
        ]
    )


@pytest.fixture
def parts(rng: np.random.Generator) -> tuple[NDArray[np.float32], ...]:
    return tuple(rng.standard_normal(size).astype(np.float32) for size in (56, 4, 8))


def test_layers_come_back_from_input_to_output(parts: tuple[NDArray[np.float32], ...]) -> None:
    weights, affine, head = parts
    parsed = parse(network(weights, affine, head))
    assert parsed.mean_rgb == (122.5, 117.0, 104.25)
    assert parsed.size_px == 9
    assert [(layer.kind, layer.geometry) for layer in parsed.layers] == [
        ("con_4", (2, 3, 3, 1, 1, 1, 1)),
        ("affine_", ()),
        ("relu_", ()),
        ("max_pool_2", (3, 3, 2, 2, 0, 0)),
        ("add_prev_", ()),
        ("fc_2", (4, 2, 1)),
    ]
    for position, expected in ((0, weights), (1, affine), (5, head)):
        np.testing.assert_array_equal(parsed.layers[position].parameters, expected)


def test_a_file_cut_at_any_byte_is_refused(parts: tuple[NDArray[np.float32], ...]) -> None:
    whole = network(*parts)
    for length in range(len(whole)):
        with pytest.raises(WeightsError, match="not a dlib metric network"):
            parse(whole[:length])


def test_bytes_left_over_are_refused(parts: tuple[NDArray[np.float32], ...]) -> None:
    with pytest.raises(WeightsError, match="1 bytes too many"):
        parse(network(*parts) + b"\0")


def test_any_flipped_byte_is_refused_or_parses_but_never_fails_otherwise(
    parts: tuple[NDArray[np.float32], ...],
) -> None:
    whole = network(*parts)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        try:
            parse(bytes(damaged))
        except WeightsError:
            continue


def test_numbers_that_are_not_finite_are_refused(parts: tuple[NDArray[np.float32], ...]) -> None:
    weights, affine, head = parts
    weights[3] = np.inf
    with pytest.raises(WeightsError, match="not finite"):
        parse(network(weights, affine, head))
    infinity = integer(1) + name("loss_metric_2") + integers(0, 32000)
    with pytest.raises(WeightsError, match="not finite"):
        parse(infinity)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "file ends"),
        (b"\x71\x01", "control byte"),
        (b"\x00\x01", "control byte"),
        (struct.pack("<b", 0x0F) + bytes(15), "control byte"),
        (integer(1) + name("loss_multiclass_log_"), "loss_multiclass_log_"),
        (integer(1) + integer(10**6), "name of 1000000 bytes"),
        (integer(1) + name("loss_metric_2") + reals(0.04, 0.6) + integer(7), "layer of version 7"),
        (integer(1) + name("loss_metric_2") + reals(0.04, 0.6) + integer(2) * 2001, "more than 2000 layers"),
    ],
)
def test_other_data_is_refused_saying_where(data: bytes, what: str) -> None:
    with pytest.raises(WeightsError, match=what):
        parse(data)


def test_a_layer_of_unknown_kind_is_named(parts: tuple[NDArray[np.float32], ...]) -> None:
    with pytest.raises(WeightsError, match="'sig__'"):
        parse(network(*parts).replace(b"relu_", b"sig__"))
