"""Losses on triplets, on pairs and on similarities: pure functions of distances.

Knows nothing of mining, networks, memory or settings.

Where there is nothing to learn from, a loss is 0 with gradient 0, not NaN.

Letters: n rows of the batch; m references, of which the first n are the batch itself; t triplets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from engine.trainer.comparisons import is_positive
from engine.trainer.mining import Triplets, picked

NegativePairs = Literal["all", "hardest"]


def triplet_margin(distances: Tensor, triplets: Triplets, margin: float) -> Tensor:
    """Give float32[t], max(0, d_ap - d_an + margin) (Schroff et al. 2015, equation 2)."""
    return relu(_excess(distances, triplets) + margin)


def triplet_soft_margin(distances: Tensor, triplets: Triplets) -> Tensor:
    """Give float32[t], log(1 + exp(d_ap - d_an)), which is never zero (Hermans et al. 2017, section 2)."""
    return softplus(_excess(distances, triplets))


def mean_or_zero(values: Tensor, is_counted: Tensor | None = None) -> Tensor:
    """Mean of those that count, 0 where none does; with gradient in either case."""
    if is_counted is None:
        return values.sum() / max(values.numel(), 1)
    return values.masked_fill(~is_counted, 0.0).sum() / is_counted.sum().clamp(min=1)


def warmed_margin(margin: float, step: int, num_warmup_steps: int) -> float:
    """Give the margin at a step, linear from 0 at step 0 to the whole at `num_warmup_steps`."""
    return margin if step >= num_warmup_steps else margin * step / num_warmup_steps


@dataclass(frozen=True, slots=True)
class Pairs:
    """Unordered pairs of a batch, and of the batch with earlier vectors, by L2 distance."""

    positive: Tensor
    """float32[number of positive pairs]."""
    negative: Tensor
    """float32[number of negative pairs]."""


def pairs_of(distances: Tensor, labels: Tensor, reference_labels: Tensor) -> Pairs:
    """Give the distances of all pairs, each once, of float32[n, m]."""
    is_counted = torch.ones_like(distances, dtype=torch.bool).triu(diagonal=1)
    is_counted[:, len(labels) :] = True
    positive = is_positive(labels, reference_labels)
    is_negative = labels[:, None] != reference_labels[None, :]
    return Pairs(distances[is_counted & positive], distances[is_counted & is_negative])


def hardest(pairs: Pairs) -> Pairs:
    """Keep as many of the nearest negatives as there are positives; all that tie with the last are kept.

    So dlib balances its batches (dlib/dnn/loss.h, loss_metric_): none are kept where there are no positives.
    """
    num_kept = min(len(pairs.positive), len(pairs.negative))
    if num_kept == 0:
        return Pairs(pairs.positive, pairs.negative[:0])
    last = pairs.negative.detach().kthvalue(num_kept).values
    return Pairs(pairs.positive, pairs.negative[pairs.negative <= last])


def contrastive(pairs: Pairs, margin: float, negatives: NegativePairs) -> Tensor:
    """Give the mean of d^2 / 2 over positives plus that of max(0, margin - d)^2 / 2 over negatives.

    Hadsell et al. 2006, equation 4, with L2 distances. The two kinds weigh the same, since a batch of P x K
    holds many times more negatives.
    """
    if negatives == "hardest":
        pairs = hardest(pairs)
    positive, negative = 0.5 * pairs.positive.square(), 0.5 * relu(margin - pairs.negative).square()
    return mean_or_zero(positive) + mean_or_zero(negative)


def pair_hinge(pairs: Pairs, threshold: float, margin: float, negatives: NegativePairs) -> Tensor:
    """Pay for positives beyond `threshold - margin` and for negatives within `threshold + margin`.

    With the hardest negatives it is the value of dlib's loss_metric_ (dlib/dnn/loss.h), which divides both
    sums by the number of positive pairs; its gradient there is half of the true one, which is given here.
    With all negatives each kind is divided by its own number.
    """
    if negatives == "hardest":
        pairs = hardest(pairs)
    num_positives = max(len(pairs.positive), 1)
    num_negatives = num_positives if negatives == "hardest" else max(len(pairs.negative), 1)
    too_far = relu(pairs.positive - (threshold - margin)).sum() / num_positives
    too_near = relu((threshold + margin) - pairs.negative).sum() / num_negatives
    return too_far + too_near


@dataclass(frozen=True, slots=True)
class Tops:
    """For each row of a batch, the similarity of its most alike non-mated reference."""

    similarities: Tensor
    """float32[n]; minus infinity where a row has no non-mated reference."""
    is_there: Tensor
    """bool[n]."""


def non_mated_tops(similarities: Tensor, labels: Tensor, reference_labels: Tensor) -> Tops:
    """Give what decides false positives of 1:K, from cosines float32[n, m]."""
    is_negative = labels[:, None] != reference_labels[None, :]
    if similarities.numel() == 0:
        return Tops(similarities.new_empty(len(labels)), is_negative.any(1))
    tops = similarities.masked_fill(~is_negative, -torch.inf).amax(1)
    return Tops(tops, is_negative.any(1))


def global_threshold(
    similarities: Tensor, is_mated: Tensor, tops: Tops, threshold: Tensor, share: float, softness: float
) -> Tensor:
    """Pay for mated pairs below one threshold of similarity and for non-mated tops above it.

    `threshold`, a scalar, is the one that `share` of the tops pass, so the share is the FPIR and what mated
    pairs pay stands for the FNIR at it. Mated pairs pay softness * softplus((threshold - s) / softness), mean
    over pairs. Tops pay max(0, top - threshold) / share, mean over rows: threshold plus that is the mean of
    the tops above it (Rockafellar and Uryasev 2000, conditional value at risk), so what pushes tops down is
    as strong as what pushes mated pairs up. Ours.
    """
    misses = softness * softplus((threshold - similarities) / softness)
    excess = relu(tops.similarities.masked_fill(~tops.is_there, -1.0) - threshold)
    return mean_or_zero(misses, is_mated) + mean_or_zero(excess, tops.is_there) / share


def _excess(distances: Tensor, triplets: Triplets) -> Tensor:
    positive = picked(distances, triplets.anchors, triplets.positives)
    return positive - picked(distances, triplets.anchors, triplets.negatives)
