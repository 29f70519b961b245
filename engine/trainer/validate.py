"""How good the network in training is on people held out of it: who is found, and at what price in strangers.

Knows nothing of the loop. The people are those of the validation set; half of those with several pictures
are enrolled with their first, and the others are strangers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine import metrics
from engine.errors import InvalidInputError
from engine.trainer.crop_set import CropSet
from engine.trainer.open_set import judge_open_set
from engine.types import Vectors

FPIRS = (0.1, 0.01)
THRESHOLD_FPIR = 0.1
"""The default threshold of a network is that of its last validation at this FPIR."""
THRESHOLD = f"threshold_at_fpir_{THRESHOLD_FPIR:g}"
"""Its name among the figures."""
PAIRS_MAX = 200_000
"""Mated and non-mated pairs that verification is judged by, each; more are drawn down by seed."""
PAIRED_MAX = 4000
"""Crops whose pairs are looked at; of more, so many are drawn by seed. Bounds memory to some 200 MB."""
COMPARED_PAIRS = 2**14
"""Pairs whose templates are held at once."""
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
    """Judge templates of all crops: named figures, each higher for better but the FNIRs and the threshold."""
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
        THRESHOLD: report.point(THRESHOLD_FPIR).threshold,
        "auc": metrics.auc(mated, non_mated),
        "pair_accuracy": metrics.best_balanced_accuracy(mated, non_mated).accuracy,
        "num_enrolled": float(report.num_enrolled),
        "num_mated": float(report.num_mated),
        "num_strangers": float(report.num_strangers),
    }


def fpirs_untold(figures: Mapping[str, float]) -> list[float]:
    """FPIRs below one of the strangers judged by, of what `validate` gave: figures there are as of FPIR 0."""
    return [fpir for fpir in FPIRS if fpir * figures["num_strangers"] < 1.0]


def rounded_threshold(figures: Mapping[str, float]) -> float:
    """Similarity that a network is shipped with, from what `validate` gave; rounded up to four digits."""
    return min(1.0, math.ceil(figures[THRESHOLD] * 1e4) / 1e4)


def _pairs(
    templates: Vectors, labels: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Similarities of mated and non-mated pairs, at most PAIRS_MAX of each."""
    rng = np.random.default_rng(seed)
    if len(labels) > PAIRED_MAX:
        # Whole people, so that mated pairs stay: strangers' pairs are many in any case.
        order = np.argsort(rng.permutation(labels.max() + 1)[labels], kind="stable")[:PAIRED_MAX]
        templates, labels = templates[order], labels[order]
    is_same = labels[:, None] == labels[None, :]

    def drawn(kind: NDArray[np.bool_]) -> NDArray[np.float64]:
        # Each pair once: those above the diagonal.
        places = np.flatnonzero(np.triu(kind, k=1))
        if len(places) > PAIRS_MAX:
            places = np.sort(rng.choice(places, PAIRS_MAX, replace=False))
        similarities = np.empty(len(places))
        for start in range(0, len(places), COMPARED_PAIRS):
            block = slice(start, start + COMPARED_PAIRS)
            first, second = np.divmod(places[block], len(labels))
            a, b = templates[first], templates[second]
            similarities[block] = np.einsum("nd,nd->n", a, b, dtype=np.float64)
        return similarities

    return drawn(is_same), drawn(~is_same)
