"""Which index is built for how many rows: one table, with the measurement behind each choice.

Measured with FAISS 1.15.1 on one core of an AVX-512 machine (AMD Zen 5, 32 MiB of L3); 128 dimensions, 1M
rows. What limits a scan there is how fast its codes are read: 90 GB/s where they stay in the cache, 30 GB/s
where they do not. So rows are scanned by 16 bytes and not by 32, in axes that make the most of them, and
those found are looked at by 64 bytes more. How many must be found differs by a factor of 50 from set to set;
it is measured on the gallery's own vectors when an index is built (`engine.index.depth`). Rows within which
the nearest is found for .99 and .998 of 400 to 1,000 probes of people who are not enrolled::

    bytes, axes                           face-like       as dlib's       isotropic
    16 as they come                    2,500   4,000    1,800   5,300    4,900   8,000
     8 principal axes, dealt out      16,300  30,000    2,600   3,900
    16 principal axes, dealt out       1,700   3,800      110     185    8,800  12,000
    32 as they come                      140     210       50      90      290     540
    32 principal axes, dealt out         100     410       12      25      250     620

A row more to find costs 15 ns, a byte more to scan 25 to 35 us a million: 8 bytes pay where they suffice.
Which are taken is decided on a sample before all rows are coded. Redo it when FAISS changes.
"""

from __future__ import annotations

import msgspec

FLAT_ROWS_MAX = 50_000
"""Up to here an exact scan takes 1 ms."""
TRAINING_ROWS_MIN = 1_000
"""FAISS asks for 39 rows for each of 16 centroids; so few are scanned exactly whatever is wished."""
TRAINING_ROWS_MAX = 65_536
"""Training takes 0.3 s with so many."""
CROWDING_TEMPLATES_MAX = 100_000
"""Up to here the neighbours of every template take a core 10 s; the time grows nearly with the square."""
NUM_COMPARED = 50
"""Rows compared exactly for each probe beyond those asked for: by the fine codes the nearest is the first or
nearly so."""
SAMPLE_RANK = 24
"""The limit of a scan is the distance of a sample's row of this rank: the rows within it vary by a fifth."""
NUM_FOUND_MIN = 320
SHORT_SHARE_MAX = 1 / 50
"""Share of a sample of 65,536 rows within which shorter codes must find the nearest of .99 of the rows: of
vectors as dlib's it takes .011, of face-like ones .040. Among a million they lie less deep."""
_AXES = (4, 3, 2)
"""Of one sub-quantiser, the first that divides the dimension."""


class CodeParameters(msgspec.Struct, frozen=True, kw_only=True):
    """A quantised generation: 4-bit product codes by squared distance, scanned whole, re-ranked twice."""

    num_subquantisers: int
    num_found: int
    """Rows that the scan finds for each probe, about."""
    sample_step: int
    """The sample has every so many-th of the rows, drawn at random."""


def num_subquantisers(num_rows: int, dimension: int, flat_rows_max: int = FLAT_ROWS_MAX) -> tuple[int, ...]:
    """Of the codes that may be built for so many rows, the shortest first; none: an exact scan."""
    if num_rows <= max(flat_rows_max, TRAINING_ROWS_MIN):
        return ()
    axes = next((num for num in _AXES if dimension % num == 0 and dimension >= 4 * num), None)
    if axes is None:  # a sub-quantiser for every axis would be no faster than the floats
        return ()
    finest = dimension // axes
    return (finest // 2, finest) if axes == _AXES[0] and finest % 8 == 0 else (finest,)


def sample_step(num_found: int) -> int:
    """Of the sample by which so many rows are found."""
    return max(1, num_found // SAMPLE_RANK)
