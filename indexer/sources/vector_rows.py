"""What all sources of vectors share: fingerprints of files, and rows left out of a block."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path

from engine.errors import InvalidInputError
from engine.limits import DIMENSION_MAX, DIMENSION_MIN
from indexer.items import Bare, Block, Refusal

_NOBODY: Mapping[int, Bare] = {}


def fingerprint_of(files: Iterable[Path]) -> str:
    """Hex sha256 of the names, sizes and times of files. Raises InvalidInputError where one is gone."""
    told: list[tuple[str, int, int]] = []
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise InvalidInputError(f"cannot read {file}: {error.strerror}") from error
        told.append((file.name, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def check_dimension(path: Path, dimension: int) -> None:
    """Raise InvalidInputError for vectors of a length that no gallery can hold."""
    if not DIMENSION_MIN <= dimension <= DIMENSION_MAX:
        raise InvalidInputError(
            f"{path} holds vectors of {dimension} numbers, galleries hold {DIMENSION_MIN} to {DIMENSION_MAX}",
            hint="Store one vector a row.",
        )


def check_range(start: int, stop: int, num_rows: int) -> None:
    """Raise IndexError unless 0 <= start <= stop <= num_rows."""
    if not 0 <= start <= stop <= num_rows:
        raise IndexError(f"rows {start} to {stop} of {num_rows}")


def without(block: Block, refused: Sequence[Refusal | None], bare: Mapping[int, Bare] = _NOBODY) -> Block:
    """Leave the refused rows of a block, and the bare ones by their place, out of it."""
    kept = [refusal is None and place not in bare for place, refusal in enumerate(refused)]
    return Block(
        block.first_row,
        block.vectors[kept],
        list(compress(block.identity_ids, kept)),
        list(compress(block.keys, kept)),
        list(compress(block.attributes, kept)),
        list(compress(block.qualities, kept)),
        list(compress(block.expire_times, kept)),
        [refusal for refusal in refused if refusal is not None],
        list(compress(block.sources, kept)),
        [one for place, one in bare.items() if refused[place] is None],
    )
