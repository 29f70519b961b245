"""Vectors at the border: bytes to checked unit vectors and back. Knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidVectorError
from engine.types import Vector, Vectors

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a vector sent as unit-length may be."""
FLOAT_BYTES = 4
_LITTLE_ENDIAN = np.dtype("<f4")


def from_bytes(data: bytes, dimension: int, *, normalize: bool, name: str) -> Vector:
    """Read one vector of little-endian float32; returns it float32[d] of unit length to 1e-6.

    Raises InvalidVectorError naming `name` for a wrong length, NaN or Inf, zero length, or a length that is
    not 1 within UNIT_TOLERANCE unless `normalize`.
    """
    if len(data) != dimension * FLOAT_BYTES:
        raise InvalidVectorError(_wrong_length(data, dimension, name))
    return check(np.frombuffer(data, _LITTLE_ENDIAN), dimension, normalize=normalize, name=name)


def to_bytes(vector: Vector) -> bytes:
    """Write one vector as little-endian float32."""
    return vector.astype(_LITTLE_ENDIAN, copy=False).tobytes()


def check(vector: NDArray[np.floating], dimension: int, *, normalize: bool, name: str) -> Vector:
    """Check one vector; returns it float32[d] of unit length to 1e-6. Raises as `from_bytes`."""
    if vector.shape != (dimension,):
        raise InvalidVectorError(f"{name}: shape {vector.shape}, the gallery's templates have ({dimension},)")
    wide = vector.astype(np.float64)
    length = float(np.sqrt(wide @ wide))
    if problem := _problem(length, normalize=normalize):
        raise InvalidVectorError(f"{name}: {problem}")
    return (wide / length).astype(np.float32)


def similarity(one: Vector, other: Vector) -> float:
    """Cosine of two unit vectors, in float64, -1..1."""
    return max(-1.0, min(1.0, float(one.astype(np.float64) @ other.astype(np.float64))))


def check_units(vectors: Vectors, dimension: int) -> None:
    """Raise InvalidVectorError unless float32[n, d] of unit length within UNIT_TOLERANCE."""
    if vectors.ndim != 2 or vectors.shape[1] != dimension or vectors.dtype != np.float32:
        raise InvalidVectorError(
            f"probes are {vectors.dtype}{list(vectors.shape)}, the gallery takes float32[n, {dimension}]"
        )
    if len(vectors) == 1:  # a tenth of the time that many at once cost
        is_fine = np.array(abs(float(vectors[0].dot(vectors[0])) - 1.0) <= 2 * UNIT_TOLERANCE)
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            is_fine = np.abs(np.vecdot(vectors, vectors) - 1.0) <= 2 * UNIT_TOLERANCE
    if not is_fine.all():
        row = int(np.argmin(is_fine))
        raise InvalidVectorError(f"probe {row} holds NaN or Inf, or is not of unit length")


def check_batch(
    data: Sequence[bytes], dimension: int, *, normalize: Sequence[bool], names: Sequence[str]
) -> tuple[Vectors, dict[int, InvalidVectorError]]:
    """Read many vectors at once; returns float32[n, d] and what is wrong with which row.

    Rows with an error hold zeros. As `from_bytes` for each, at a tenth of its cost.
    """
    errors: dict[int, InvalidVectorError] = {}
    size = dimension * FLOAT_BYTES
    for row, item in enumerate(data):
        if len(item) != size:
            errors[row] = InvalidVectorError(_wrong_length(item, dimension, names[row]))
    empty = bytes(size)
    joined = (
        b"".join(empty if row in errors else item for row, item in enumerate(data))
        if errors
        else b"".join(data)
    )
    sent = np.frombuffer(joined, _LITTLE_ENDIAN).reshape(len(data), dimension)
    rows, problems = units(sent, np.asarray(normalize, bool))
    for row, problem in problems.items():
        errors.setdefault(row, InvalidVectorError(f"{names[row]}: {problem}"))
    return rows, errors


def units(vectors: NDArray[np.floating], normalize: NDArray[np.bool_]) -> tuple[Vectors, dict[int, str]]:
    """Rows of floats[n, d] as float32[n, d] of unit length to 1e-6, and what is wrong with which row.

    `normalize`, bool[n], says of which rows any length will do. Wrong ones come back as zeros.
    """
    wide = vectors.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    is_fine = (np.abs(lengths - 1.0) <= UNIT_TOLERANCE) | (normalize & (lengths > 0) & np.isfinite(lengths))
    problems: dict[int, str] = {}
    for bad in np.flatnonzero(~is_fine).tolist():
        problems[bad] = _problem(float(lengths[bad]), normalize=bool(normalize[bad])) or "cannot be used"
    lengths[~is_fine] = 1.0
    wide[~is_fine] = 0.0
    return (wide / lengths[:, None]).astype(np.float32), problems


def _problem(length: float, *, normalize: bool) -> str | None:
    if not np.isfinite(length):
        return "holds NaN or Inf"
    if length == 0.0:
        return "has length zero"
    if not normalize and abs(length - 1.0) > UNIT_TOLERANCE:
        return f"has length {length:.6g}, not 1 within {UNIT_TOLERANCE}; normalise it, or set normalize"
    return None


def _wrong_length(data: bytes, dimension: int, name: str) -> str:
    expected = dimension * FLOAT_BYTES
    return (
        f"{name}: {len(data)} bytes ({len(data) / FLOAT_BYTES:g} floats), "
        f"the gallery's templates have {expected} bytes ({dimension} floats)"
    )
