"""Reads vectors that were made anywhere, and whose they are, from files.

* ``.npy``: numbers [n, d], with a file of labels
* ``.csv``: one vector a line, no header, with a file of labels
* ``.parquet``: columns `identity_id` and `vector`, as `identiface export` writes them; no file of labels

A file of labels has n lines: a name or number, and after a comma what tells the picture (its path), if
anything. Labels that are all whole numbers are sorted as numbers.

Knows nothing of networks, and nothing of what the vectors are judged by.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError
from engine.limits import DIMENSION_MAX, DIMENSION_MIN
from engine.trainer.lists import read_lines
from engine.trainer.open_set import Labels
from engine.types import EmbeddingContract

CONTRACT_KEY = b"identiface.contract"
"""Of a Parquet file's metadata: the fields of an EmbeddingContract as JSON, as `identiface export` writes."""
SUFFIXES = (".npy", ".csv", ".parquet")
VECTORS_FILE_BYTES_MAX = 8 * 2**30
"""More is not read: all vectors are held in memory, in float64 while they are judged."""


@dataclass(frozen=True, slots=True)
class LabelledVectors:
    """n vectors of d values, and whose they are."""

    vectors: NDArray[np.floating]
    """float32 or float64[n, d], of any length; a row of zeros stands for no template."""
    labels: Labels
    """[n], int64 where all are whole numbers, else names."""
    keys: tuple[str, ...]
    """What tells each picture; empty strings where nothing does."""

    @property
    def num_not_detected(self) -> int:
        """Rows without a template."""
        return int((~self.vectors.any(axis=1)).sum())

    def only(self, rows: Sequence[int]) -> LabelledVectors:
        """Keep these rows, in this order."""
        kept = np.asarray(rows, dtype=np.int64)
        keys = tuple(self.keys[row] for row in kept.tolist()) if self.keys else ()
        return LabelledVectors(self.vectors[kept], self.labels[kept], keys)


def read_vectors(vectors_path: Path, labels_path: Path | None = None) -> LabelledVectors:
    """Read vectors and their labels.

    Raises InvalidInputError where a file is missing, damaged, too large or of another kind, where a vector is
    not finite, and where there are not as many labels as vectors.
    """
    suffix = vectors_path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInputError(f"{vectors_path} is no file of vectors: give one of {', '.join(SUFFIXES)}")
    if (suffix == ".parquet") != (labels_path is None):
        raise InvalidInputError(
            f"{vectors_path} holds its labels itself: leave the file of labels out"
            if labels_path is not None
            else f"{vectors_path} holds no labels: give them with a file of one label a line"
        )
    _check_size(vectors_path)
    if labels_path is None:
        vectors, labels, keys = _read_parquet(vectors_path)
    else:
        vectors = _read_npy(vectors_path) if suffix == ".npy" else _read_csv(vectors_path)
        labels, keys = _read_labels(labels_path)
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not _is_dimension(vectors.shape[1]):
        raise InvalidInputError(
            f"{vectors_path} holds {vectors.dtype}{list(vectors.shape)}: give floating-point numbers [n, d]"
            f" with d from {DIMENSION_MIN} to {DIMENSION_MAX}"
        )
    if len(labels) != len(vectors):
        raise InvalidInputError(
            f"{labels_path} holds {len(labels)} labels, {vectors_path} {len(vectors)} vectors: give as many"
        )
    is_bad = ~np.isfinite(vectors).all(axis=1)
    if is_bad.any():
        raise InvalidInputError(
            f"{vectors_path}, row {int(np.argmax(is_bad)) + 1}: a value is NaN, or not finite; a row of zeros"
            " stands for a picture without a face"
        )
    return LabelledVectors(vectors, as_labels(labels), tuple(keys))


def read_contract(path: Path) -> EmbeddingContract | None:
    """Read the contract that a Parquet file of `identiface export` names; None where a file names none.

    Raises InvalidInputError where it is damaged.
    """
    if path.suffix.lower() != ".parquet":
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        told = (pq.read_schema(path).metadata or {}).get(CONTRACT_KEY)
        return None if told is None else msgspec.json.decode(told, type=EmbeddingContract)
    except (OSError, pa.ArrowException, msgspec.DecodeError) as error:
        raise InvalidInputError(f"{path} names no readable embedding contract: {error}") from error


def as_labels(names: list[str]) -> Labels:
    """Give names as int64[n] where all are whole numbers written plainly, else as str[n]."""
    if names and all(name.isascii() and name.isdigit() and str(int(name)) == name for name in names):
        numbers = [int(name) for name in names]
        if max(numbers) < 2**63:
            return np.array(numbers, dtype=np.int64)
    return np.array(names, dtype=np.str_)


def _is_dimension(number: int) -> bool:
    return DIMENSION_MIN <= number <= DIMENSION_MAX


def _check_size(path: Path) -> None:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error
    if size_bytes > VECTORS_FILE_BYTES_MAX:
        raise InvalidInputError(
            f"{path} has {size_bytes} bytes, more than {VECTORS_FILE_BYTES_MAX}: judge a part of it"
        )


def _read_npy(path: Path) -> NDArray[np.floating]:
    try:
        with path.open("rb") as file:
            vectors: NDArray[np.floating] = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInputError(f"{path} is no readable .npy file: {error}") from error
    # float16 is widened, which loses nothing.
    return vectors.astype(np.float32) if vectors.dtype == np.float16 else vectors


def _read_csv(path: Path) -> NDArray[np.floating]:
    rows: list[NDArray[np.float64]] = []
    try:
        # Universal newlines: a carriage return alone ends a line, too.
        with path.open(encoding="utf-8-sig", newline=None) as file:
            for number, cells in enumerate(csv.reader(file), start=1):
                if not cells:
                    continue
                try:
                    rows.append(np.array(cells, dtype=np.float64))
                except ValueError as error:
                    raise InvalidInputError(
                        f"{path}, line {number}: expected numbers divided by commas, without a header"
                    ) from error
                if len(rows[-1]) != len(rows[0]):
                    raise InvalidInputError(
                        f"{path}, line {number}: {len(rows[-1])} numbers, the first line has {len(rows[0])}"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path} is no readable CSV file: {error}") from error
    if not rows:
        raise InvalidInputError(f"{path} holds no vector")
    return np.stack(rows)


def _read_labels(path: Path) -> tuple[list[str], list[str]]:
    labels: list[str] = []
    keys: list[str] = []
    for number, line in enumerate(read_lines(path), start=1):
        label, _, key = line.partition(",")
        if not label.strip():
            raise InvalidInputError(
                f"{path}, line {number}: expected a label, or a label, a comma and a path"
            )
        labels.append(label.strip())
        keys.append(key.strip())
    return labels, keys


def _read_parquet(path: Path) -> tuple[NDArray[np.floating], list[str], list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        if not {"identity_id", "vector"} <= set(names):
            raise InvalidInputError(
                f"{path} has no columns identity_id and vector: it has {', '.join(names)}"
            )
        wanted = ["identity_id", "vector", *(["source"] if "source" in names else [])]
        table = pq.read_table(path, columns=wanted)
        # An identity without templates has a row without a vector.
        table = table.filter(table["vector"].is_valid())
        values = table["vector"].to_pylist()
        labels = [str(label) for label in table["identity_id"].to_pylist()]
        keys = (
            [str(key or "") for key in table["source"].to_pylist()]
            if "source" in names
            else [""] * len(labels)
        )
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"{path} is no readable Parquet file of vectors: {error}") from error
    if not values or len({len(value) for value in values}) != 1:
        raise InvalidInputError(f"{path} must hold vectors, all with as many values")
    return np.array(values, dtype=np.float32), labels, keys
