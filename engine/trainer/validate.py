"""How good the network in training is on people held out of it: who is found, and at what price in strangers.

Knows nothing of the loop. The people are those of the validation set; half of those with several pictures
are enrolled with their first, and the others are strangers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine import metrics
from engine.errors import InvalidInputError
from engine.trainer.crop_set import CropSet
from engine.trainer.open_set import judge_open_set
from engine.types import Vectors

FPIRS = (0.1, 0.01)
PAIRS_MAX = 200_000
"""Mated and non-mated pairs that verification is judged by, each; more are drawn down by seed."""
PAIRED_MAX = 4000
"""Crops whose pairs are looked at; of more, so many are drawn by seed. Bounds memory to some 200 MB."""
EMBED_CROPS = 64

Embed = Callable[[NDArray[np.uint8]], Vectors]
"""Crops uint8[n, s, s, 3] to unit templates float32[n, d]."""


@dataclass(frozen=True, slots=True)
class Halves:
    """Rows of a validation set by their part in an open set."""

    gallery: NDArray[np.int64]
    mated: NDArray[np.int64]
    strangers: NDArray[np.int64]


def halve(crops: CropSet, seed: int) -> Halves:
    """Draw who is enrolled: half of the people with several pictures, the others being strangers.

    Raises InvalidInputError where too few people have several pictures.
    """
    several = np.flatnonzero(crops.counts > 1)
    if len(several) < 2:
        raise InvalidInputError(
            f"{len(several)} of {crops.num_identities} people held out for validation have two pictures or"
            " more, but two such people are needed",
            hint="Raise validation_share, name people with --validate-people, or set validation_share to 0.",
        )
    enrolled = np.random.default_rng(seed).permutation(several)[: (len(several) + 1) // 2]
    order = np.argsort(crops.labels, kind="stable")
    is_first = np.r_[True, np.diff(crops.labels[order]) > 0]
    is_enrolled = np.isin(crops.labels[order], enrolled)
    return Halves(order[is_enrolled & is_first], order[is_enrolled & ~is_first], order[~is_enrolled])


def validate(crops: CropSet, embed: Embed, seed: int) -> dict[str, float]:
    """Judge templates of all crops: named figures, each higher for better but the FNIRs."""
    halves = halve(crops, seed)
    templates = np.concatenate(
        [embed(crops.crops[start : start + EMBED_CROPS]) for start in range(0, len(crops), EMBED_CROPS)]
    )

    def part(rows: NDArray[np.int64]) -> tuple[Vectors, NDArray[np.int64]]:
        return templates[rows], crops.labels[rows]

    report = judge_open_set(part(halves.gallery), part(halves.mated), part(halves.strangers), FPIRS)
    mated, non_mated = _pairs(templates, crops.labels, seed)
    return {
        "rank1": report.rank1,
        **{f"fnir_at_fpir_{point.fpir_target:g}": point.fnir for point in report.points},
        "auc": metrics.auc(mated, non_mated),
        "pair_accuracy": metrics.best_balanced_accuracy(mated, non_mated).accuracy,
        "num_enrolled": float(report.num_enrolled),
        "num_mated": float(report.num_mated),
        "num_strangers": float(report.num_strangers),
    }


def _pairs(
    templates: Vectors, labels: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Similarities of mated and non-mated pairs, at most PAIRS_MAX of each."""
    rng = np.random.default_rng(seed)
    if len(labels) > PAIRED_MAX:
        # Whole people, so that mated pairs stay: strangers' pairs are many in any case.
        order = np.argsort(rng.permutation(labels.max() + 1)[labels], kind="stable")[:PAIRED_MAX]
        templates, labels = templates[order], labels[order]
    first, second = np.triu_indices(len(labels), k=1)
    is_same = labels[first] == labels[second]

    def drawn(kind: NDArray[np.bool_]) -> NDArray[np.float64]:
        places = np.flatnonzero(kind)
        if len(places) > PAIRS_MAX:
            places = np.sort(rng.choice(places, PAIRS_MAX, replace=False))
        a, b = templates[first[places]], templates[second[places]]
        similarities: NDArray[np.float64] = np.einsum("nd,nd->n", a, b, dtype=np.float64)
        return similarities

    return drawn(is_same), drawn(~is_same)
