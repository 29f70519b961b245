"""Vectors at the border, against plain float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import vectors
from engine.errors import InvalidVectorError
from tests.contract.naive import unit_vectors

UNIT = unit_vectors(np.random.default_rng(3), 1, 4)[0]
WRONG = {
    "NaN": np.array([math.nan, 0, 0, 1], np.float32),
    "Inf": np.array([math.inf, 0, 0, 1], np.float32),
    "both": np.array([math.inf, -math.inf, math.nan, 0], np.float32),
    "zero": np.zeros(4, np.float32),
    "negative zero": -np.zeros(4, np.float32),
}


def one(data: bytes, dimension: int = 4, *, normalize: bool = False) -> bytes | str:
    """What becomes of a vector by both ways in, which must agree."""
    try:
        single: bytes | str = vectors.from_bytes(data, dimension, normalize=normalize, name="v").tobytes()
    except InvalidVectorError as error:
        single = error.message
    rows, errors = vectors.check_batch([data], dimension, normalize=[normalize], names=["v"])
    batched = errors[0].message if errors else rows[0].tobytes()
    assert batched == single
    assert not errors or not rows.any()
    return single


def test_bytes_come_back() -> None:
    assert vectors.to_bytes(UNIT) == UNIT.astype("<f4").tobytes()
    assert vectors.to_bytes(UNIT.astype(">f4")) == UNIT.astype("<f4").tobytes()
    back = vectors.from_bytes(vectors.to_bytes(UNIT), 4, normalize=False, name="v")
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, UNIT, atol=1e-7)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", [0, 1, 15, 17, 20])
def test_a_wrong_length_names_both_lengths(size: int, normalize: bool) -> None:
    message = one(bytes(size), normalize=normalize)
    assert isinstance(message, str)
    assert message.startswith(f"v: {size} bytes")
    assert "16 bytes (4 floats)" in message


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", WRONG)
def test_what_has_no_direction_is_refused_without_a_warning(kind: str, normalize: bool) -> None:
    message = one(WRONG[kind].tobytes(), normalize=normalize)
    assert message == f"v: {'has length zero' if 'zero' in kind else 'holds NaN or Inf'}"


@pytest.mark.parametrize("length", [0.9989, 1.0011, 2.0])
def test_another_length_than_one_is_refused_unless_normalisation_is_asked_for(length: float) -> None:
    data = (UNIT.astype(np.float64) * length).astype(np.float32).tobytes()
    message = one(data)
    assert isinstance(message, str)
    assert "not 1 within 0.001" in message
    normalized = one(data, normalize=True)
    assert isinstance(normalized, bytes)
    np.testing.assert_allclose(np.frombuffer(normalized, "<f4"), UNIT, atol=1e-6)


@pytest.mark.parametrize("length", [0.9991, 1.0, 1.0009])
def test_a_length_near_one_is_accepted_and_made_one(length: float) -> None:
    data = (UNIT.astype(np.float64) * length).astype(np.float32).tobytes()
    accepted = one(data)
    assert isinstance(accepted, bytes)
    assert np.linalg.norm(np.frombuffer(accepted, "<f4").astype(np.float64)) == pytest.approx(1.0, abs=1e-6)


@given(
    st.integers(2, 64),
    st.integers(0, 1 << 32),
    st.sampled_from([1e-44, 1e-30, 1e-6, 1.0, 1e6, 1e37]),
)
def test_any_finite_vector_can_be_normalised(dimension: int, seed: int, scale: float) -> None:
    wide = np.random.default_rng(seed).normal(size=dimension) * scale
    given_vector = wide.astype(np.float32)
    if not given_vector.any():
        return
    data = one(given_vector.tobytes(), dimension, normalize=True)
    assert isinstance(data, bytes)
    exact = given_vector.astype(np.float64) / np.linalg.norm(given_vector.astype(np.float64))
    np.testing.assert_allclose(np.frombuffer(data, "<f4"), exact, atol=1e-6)


def test_an_array_of_another_shape_is_refused() -> None:
    for wrong in (np.ones(3, np.float32), np.ones((1, 4), np.float32), np.ones((), np.float32)):
        with pytest.raises(InvalidVectorError, match="shape"):
            vectors.check(wrong, 4, normalize=True, name="v")


def test_an_empty_batch_is_a_batch() -> None:
    rows, errors = vectors.check_batch([], 4, normalize=[], names=[])
    assert rows.shape == (0, 4)
    assert rows.dtype == np.float32
    assert errors == {}


def test_each_row_of_a_batch_has_its_own_outcome() -> None:
    data = [
        UNIT.tobytes(),
        b"short",
        (2 * UNIT).tobytes(),
        (2 * UNIT).tobytes(),
        *(w.tobytes() for w in WRONG.values()),
    ]
    names = [f"v{row}" for row in range(len(data))]
    rows, errors = vectors.check_batch(data, 4, normalize=[row == 3 for row in range(len(data))], names=names)
    assert sorted(errors) == [1, 2, 4, 5, 6, 7, 8]
    assert all(error.message.startswith(f"v{row}: ") for row, error in errors.items())
    np.testing.assert_allclose(rows[[0, 3]], [UNIT, UNIT], atol=1e-6)
    assert not rows[sorted(errors)].any()


@given(st.integers(0, 1 << 32), st.integers(2, 1024))
def test_similarity_is_the_cosine(seed: int, dimension: int) -> None:
    first, second = unit_vectors(np.random.default_rng(seed), 2, dimension)
    assert vectors.similarity(first, second) == pytest.approx(
        sum(float(a) * float(b) for a, b in zip(first, second, strict=True)), abs=1e-12
    )
    assert vectors.similarity(first, second) == vectors.similarity(second, first)
    assert 1 - 1e-6 <= vectors.similarity(first, first) <= 1.0
    assert -1.0 <= vectors.similarity(first, -first) <= -1 + 1e-6
