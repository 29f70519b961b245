"""Which index is built for how many rows: one table, with the measurement behind each choice.

Measured with FAISS 1.15.1 on one core of an AVX-512 machine (AMD Zen 5, 32 MiB of L3) while others worked on
it; 128 dimensions. Agreement is the share of 2,000 probes of people who are not enrolled whose nearest row is
that of an exact scan; those of enrolled people agree always. Redo it when FAISS changes.

1M rows, 64 sub-quantisers, agreement by the number of rows compared exactly::

    rows        100    200    300    400    500    600    800   1000
    isotropic  .956   .983   .989   .994   .996   .997   .999   .999
    face-like  .978   .992   .997   .997   .998   .999  1.000  1.000
    as dlib's  .999  1.000  1.000  1.000  1.000  1.000  1.000  1.000
    scan, ms   1.08          1.25                       1.60   1.70

A scan that keeps no rows takes 1.03 ms, a flat one 17 to 20 ms. So a single probe's rows are not kept by the
scan but found within a radius, which a sample tells: 1.36 to 1.49 ms instead of 1.81, all told::

    sample        1/32, 32nd   1/48, 20th   1/64, 16th   1/16, 50th   1/16, 40th
    ms                  1.49         1.37         1.39         1.41         1.36
    isotropic          .9995        .9995         .999         .997         .997
    rows, 1 %            658          539          521          568          427

Of these rows the best by the codes are compared. With 1/48, 18th and 640 compared, agreement is .9965, 1.000
and 1.000 in the order above, alone and in batches of 64.

4M rows, 1,000 probes, agreement and ms by the rows compared::

    rows                        600     1000     1500     2000     8000    16000
    64, isotropic, agreement   .996     .997     .998    1.000
    64, isotropic, ms          4.2 without any, 5.3 with 1,000
    32, isotropic, agreement   .761     .825     .865     .891     .977     .993
    32, face-like, agreement   .848     .910     .933     .943     .995     .999
    32, ms                     2.3 without any, 3.3 with 1,000, 8.7 with 8,000

So half the sub-quantisers do not pay at any size here; where codes that leave the cache cost
more than here they may.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import msgspec

FLAT_ROWS_MAX = 50_000
"""Up to here an exact scan takes 1 ms."""
TRAINING_ROWS_MIN = 1_000
"""FAISS asks for 39 rows for each of 16 centroids; so few are scanned exactly whatever is wished."""
TRAINING_ROWS_MAX = 65_536
"""Training takes 0.3 s with so many."""
_AXES = (2, 3)
"""Of one sub-quantiser, the first that divides the dimension. Four are half the work, and find the nearest of
60,000 rows of 512 dimensions for .957 of the probes instead of .997."""


class CodeParameters(msgspec.Struct, frozen=True, kw_only=True):
    """A quantised generation: 4-bit product codes by squared distance, scanned whole, re-ranked exactly."""

    num_subquantisers: int
    num_reranked: int
    """Rows compared exactly for each probe of a batch, at the least."""
    sample_step: int
    """A single probe first scans every so many-th of the rows, drawn at random ..."""
    sample_rank: int
    """... and takes the distance of its so many-th nearest there as the radius of the scan of all. About
    sample_step x sample_rank rows lie within it."""


@dataclass(frozen=True)
class _Choice:
    rows_max: int
    num_reranked: int
    sample_step: int
    sample_rank: int


_CHOICES = (
    _Choice(3_000_000, num_reranked=640, sample_step=48, sample_rank=18),
    # More rows lie as near as the nearest: 1,500 and more are compared.
    _Choice(sys.maxsize, num_reranked=1280, sample_step=48, sample_rank=36),
)


def choose(num_rows: int, dimension: int, flat_rows_max: int = FLAT_ROWS_MAX) -> CodeParameters | None:
    """What to build for so many rows; None: an exact scan."""
    if num_rows <= max(flat_rows_max, TRAINING_ROWS_MIN):
        return None
    axes = next((num for num in _AXES if dimension % num == 0 and dimension >= 4 * num), None)
    if axes is None:  # a sub-quantiser for every axis would be no faster than the floats
        return None
    choice = next(one for one in _CHOICES if num_rows <= one.rows_max)
    return CodeParameters(
        num_subquantisers=dimension // axes,
        num_reranked=choice.num_reranked,
        sample_step=choice.sample_step,
        sample_rank=choice.sample_rank,
    )
