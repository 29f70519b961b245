"""From rows of an index to identities: who they are, and how similar in float64. Knows no index.

An index gives similarities in float32, which differ in their last bits by where a vector lies and how many
probes come along. So they only choose the rows that could matter; what is said and how ties are broken is
decided by comparing the stored vectors again, as `verify` compares them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.index.exact_frame import gamma
from engine.store.tables import Reader
from engine.types import Candidate, Vectors

COMPARED_AT_ONCE = 1 << 15
"""Templates read and compared in float64 at once, some 25 bytes for each of their floats."""
_SIMILARITY = operator.attrgetter("similarity")
_GROWTH = 8
"""Rows looked at are multiplied by this where those before did not suffice."""

Rows: TypeAlias = tuple[NDArray[np.float32], NDArray[np.uint64], NDArray[np.uint64]]
"""Similarities, template ids and identity numbers of one probe's nearest templates, best first."""
VectorsOf: TypeAlias = Callable[[NDArray[np.uint64]], Vectors | None]
"""Vectors float32[n, d] of templates uint64[n]; None: not at hand."""


@dataclass
class _Choice:
    """The rows of one probe that are to be compared in float64."""

    template_ids: list[int]
    identity_numbers: list[int]


def rounding(dimension: int) -> float:
    """Most by which float32 similarities of two rows can stand in the wrong order: the errors of both.

    Each is a sum of so many products, in whatever order the scan adds them, of vectors that are 1 long to
    engine.vectors.UNIT_TOLERANCE.
    """
    return 2.02 * gamma(dimension)


class Ranking:
    """Ranks identities for the probes of one call, as one view of the store knows them. Of one thread."""

    def __init__(
        self,
        reader: Reader,
        now_ms: int,
        attributes: Sequence[tuple[str, str]],
        vectors_of: VectorsOf = lambda _template_ids: None,
    ):
        """`attributes`, names and values, are those that an identity must have; the rarest first.

        `vectors_of` has the vectors of templates at hand, or None; the store is asked for them then.
        """
        self._reader = reader
        self._vectors_of = vectors_of
        self._attributes = attributes
        self._now_ms = now_ms
        # Housekeeping removes who expired within seconds: mostly there is nobody to look out for.
        self._is_any_expired = bool(reader.expired(now_ms, 1))
        self._ids: dict[int, str | None] = {}
        self._gone: set[int] = set()
        """Templates that were removed since the snapshot."""

    def best(self, probes: Vectors, rows: Sequence[Rows], k: int) -> list[tuple[Candidate, ...]]:
        """The k identities with the best templates, of each probe float32[n, d] among its own rows.

        Best first, equal similarities by the bytes of the ids. Fewer where the rows are of fewer identities
        that are still there.
        """
        wide = probes.astype(np.float64)
        answers: list[tuple[Candidate, ...]] = [()] * len(rows)
        waiting = list(range(len(rows)))
        while waiting:
            choices = [self._choose(rows[probe], k, rounding(probes.shape[1])) for probe in waiting]
            compared = self._compare(wide, waiting, choices)
            repeated: list[int] = []
            for probe, choice, similarities in zip(waiting, choices, compared, strict=True):
                if similarities is None:  # one was removed meanwhile: another may take its place
                    repeated.append(probe)
                else:
                    answers[probe] = self._ranked(choice, similarities, k)
            waiting = repeated
        return answers

    def means(self, probe: Vectors, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with the mean similarity to all of their templates instead; probe float32[1, d]."""
        reader = self._reader
        of_each = [
            record.template_ids if (record := reader.identity(one.identity_id)) else () for one in candidates
        ]
        flat = [template_id for template_ids in of_each for template_id in template_ids]
        vectors, missing = reader.vectors(flat, probe.shape[1])
        similarities = _cosines(vectors, np.repeat(probe.astype(np.float64), len(flat), axis=0))
        lost = set(missing)
        fused: list[Candidate] = []
        start = 0
        for one, template_ids in zip(candidates, of_each, strict=True):
            end = start + len(template_ids)
            values = [similarities[row] for row in range(start, end) if row not in lost]
            start = end
            if values:
                # Correctly rounded, so that the order of the templates does not show.
                mean = math.fsum(values) / len(values)
                fused.append(Candidate(one.identity_id, mean, one.template_id))
        return fused

    def _choose(self, rows: Rows, k: int, margin: float) -> _Choice:
        """Rows that may hold the best template of one of the k best identities."""
        num_rows = len(rows[0])
        size = min(num_rows, 4 * k)
        while True:
            choice, is_done = self._choose_among(rows, size, k, margin)
            if is_done or size == num_rows:
                return choice
            size = min(num_rows, _GROWTH * size)

    def _choose_among(self, rows: Rows, size: int, k: int, margin: float) -> tuple[_Choice, bool]:
        """As `_choose` among the first `size` rows; and whether those behind them cannot matter."""
        choice = _Choice([], [])
        firsts: dict[int, float] = {}
        """What the scan gave for the first row of each identity."""
        ids, gone = self._ids, self._gone
        floor = -math.inf
        columns = [column[:size].tolist() for column in rows]
        self._find_first(columns[2][: k + 1])
        for found, template_id, number in zip(*columns, strict=True):
            if found < floor or found == -math.inf:
                return choice, True
            # As in float64: vectors may be a little longer than 1, and nobody is more alike than that.
            similarity = min(found, 1.0)
            first = firsts.get(number)
            if first is not None and similarity < first - margin:
                continue
            if number not in ids:
                ids[number] = self._find(number)
            if ids[number] is None or template_id in gone:
                continue
            if first is None:
                firsts[number] = similarity
                floor = similarity - margin if len(firsts) == k else floor
            choice.template_ids.append(template_id)
            choice.identity_numbers.append(number)
        return choice, False

    def _compare(
        self, wide: NDArray[np.float64], probes: Sequence[int], choices: Sequence[_Choice]
    ) -> list[list[float] | None]:
        """Cosines in float64 of each choice's rows; None where a template of it is gone."""
        flat = [template_id for choice in choices for template_id in choice.template_ids]
        sizes = [len(choice.template_ids) for choice in choices]
        probe_of = np.repeat(probes, sizes) if len(wide) > 1 else None
        similarities: list[float] = []
        is_any_missing = False
        for start in range(0, len(flat), COMPARED_AT_ONCE):
            block = flat[start : start + COMPARED_AT_ONCE]
            vectors, missing = self._vectors_of(np.array(block, np.uint64)), list[int]()
            if vectors is None:
                vectors, missing = self._reader.vectors(block, wide.shape[1])
            of_each = wide if probe_of is None else wide[probe_of[start : start + COMPARED_AT_ONCE]]
            similarities += _cosines(vectors, of_each)
            self._gone.update(block[row] for row in missing)
            is_any_missing = is_any_missing or bool(missing)
        compared: list[list[float] | None] = []
        start = 0
        for choice, size in zip(choices, sizes, strict=True):
            is_lost = is_any_missing and not self._gone.isdisjoint(choice.template_ids)
            compared.append(None if is_lost else similarities[start : start + size])
            start += size
        return compared

    def _ranked(self, choice: _Choice, similarities: Sequence[float], k: int) -> tuple[Candidate, ...]:
        best: dict[int, tuple[float, int]] = {}
        rows = zip(choice.identity_numbers, similarities, choice.template_ids, strict=True)
        for number, similarity, template_id in rows:
            if number not in best or similarity > best[number][0]:
                best[number] = similarity, template_id
        candidates = [
            Candidate(self._ids[number] or "", similarity, template_id)
            for number, (similarity, template_id) in best.items()
        ]
        return ranked(candidates, k)

    def _find_first(self, identity_numbers: Sequence[int]) -> None:
        """Look up in one go those that will be asked for in any case."""
        if not (self._is_any_expired or self._attributes):
            unknown = [number for number in identity_numbers if number not in self._ids]
            self._ids.update(self._reader.identity_ids(unknown))

    def _find(self, identity_number: int) -> str | None:
        """Id of an identity that may be a candidate; None where it is removed, expired or not asked for."""
        reader = self._reader
        if self._attributes and not reader.has_all(identity_number, self._attributes):
            return None
        identity_id = reader.identity_id(identity_number)
        if identity_id is None or not (self._is_any_expired or self._attributes):
            return identity_id
        record = reader.identity(identity_id)
        if record is None or 0 < record.expire_ms <= self._now_ms:
            return None
        # The record itself has the last word: the table of attributes holds digests without a checksum.
        has_all = all(record.attributes.get(name) == value for name, value in self._attributes)
        return identity_id if has_all else None


def ranked(candidates: Sequence[Candidate], k: int) -> tuple[Candidate, ...]:
    """The k best, best first; ids decide between equal similarities by their bytes, as everywhere."""
    best = sorted(candidates, key=_SIMILARITY, reverse=True)
    if any(one.similarity == other.similarity for one, other in pairwise(best)):
        best.sort(key=lambda one: (-one.similarity, one.identity_id.encode()))
    return tuple(best[:k])


def _cosines(vectors: Vectors, wide: NDArray[np.float64]) -> list[float]:
    """Cosine of each vector float32[n, d] with the row of `wide` beside it, or its one row."""
    # vecdot and not a product of matrices: it adds as the dot product of two single vectors does, to the bit.
    cosines: list[float] = np.vecdot(vectors.astype(np.float64), wide).tolist()
    return [max(-1.0, min(1.0, cosine)) for cosine in cosines]
