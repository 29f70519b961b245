"""What a generation tells of its people as a whole: how crowded each template lies, and the tops of a sample.

::

    index/<n>/crowding.npy     float32[n], of each row; engine.index.neighbours says what and when
    index/<n>/own_people.npz   tops float32[p] ascending, num_identities

Both may be missing. They are as the generation was built: of who came or went since they know nothing. Knows
no thresholds, and not what is done with the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import CorruptDataError

CROWDING = "crowding.npy"
OWN_PEOPLE = "own_people.npz"


@dataclass(frozen=True, slots=True, eq=False)
class OwnTops:
    """What a gallery's own people tell of strangers: each was searched for among all others."""

    tops: NDArray[np.float32]
    """float32[p], ascending: similarity of a template of each of p people to the nearest other identity."""
    num_identities: int
    """Identities in the generation; each of the p was searched for among one fewer."""

    def write(self, path: Path) -> None:
        """Write it to an npz file. Raises OSError."""
        np.savez(path, tops=self.tops, num_identities=np.int64(self.num_identities))


def read_crowding(path: Path, num_rows: int) -> NDArray[np.float32]:
    """float32[num_rows] of a file whose checksum holds, mapped. Raises CorruptDataError."""
    try:
        crowding = np.asarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"generation file {path} is damaged: {error}") from error
    if crowding.dtype != np.float32 or crowding.shape != (num_rows,):
        raise CorruptDataError(f"generation file {path} is damaged: it is not of {num_rows} templates")
    return crowding


def read_own_tops(path: Path) -> OwnTops:
    """What `OwnTops.write` wrote, from a file whose checksum holds. Raises CorruptDataError."""
    try:
        with np.load(path) as file:
            tops, num_identities = file["tops"], int(file["num_identities"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"generation file {path} is damaged: {error}") from error
    if tops.dtype != np.float32 or tops.ndim != 1 or len(tops) > num_identities:
        raise CorruptDataError(f"generation file {path} is damaged: it holds no tops of its people")
    return OwnTops(tops, num_identities)
