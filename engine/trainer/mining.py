"""Which triplets of a batch are learnt from: pure functions of distances and labels.

Knows nothing of losses, networks or settings.

Letters: n anchors, which are the rows of the batch; m references, of which the first n are the batch itself;
t triplets. Distances are float32[n, m], smaller for more alike; labels int64[n] and int64[m]. A row is never
its own positive. A batch without a positive or without a negative gives no triplets. No gradients are kept.

========================  ==========================================================================
`semihard`                for each ordered positive pair the nearest negative that is farther than
                          the positive, else the farthest negative (Schroff et al. 2015, section 3.2,
                          as TensorFlow Addons computes it)
`semihard-window`         all triplets with d_ap < d_an <= d_ap + margin; no fallback
                          (pytorch-metric-learning, TripletMarginMiner)
`hard`                    for each anchor its farthest positive and its nearest negative (Hermans et
                          al. 2017, section 2; pytorch-metric-learning, BatchHardMiner)
`distance-weighted`       random positives, and negatives drawn so that all distances are as likely
                          (Wu et al. 2017, section 4; pytorch-metric-learning, DistanceWeightedMiner)
`all`                     every triplet (Hermans et al. 2017, "batch all")
========================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import InvalidInputError
from engine.trainer.comparisons import Comparison, is_positive
from engine.trainer.metric_learning import metric_learning

NUM_TRIPLETS_MAX = 2**24
"""Triplets that `all` and `semihard-window` may choose from: 400 MB of row numbers, and as many again while
they are put together."""
SCANNED_POSITIVES_MAX = 16
"""Positives of an anchor, on average, up to which `semihard` scans all negatives for each of them."""
SCANNED_BLOCK = 2**20
"""Distances that a miner looks at together: 4 MB. Triplets of more are listed block after block."""
WEIGHTED_DISTANCE_MIN = 0.5
"""L2 distance of unit vectors below which no negative is made likelier: Wu et al.'s cut-off."""
WEIGHTED_DISTANCE_MAX = 1.4
"""L2 distance of unit vectors from which on negatives are not drawn: their loss is zero anyway."""


@dataclass(frozen=True, slots=True)
class Triplets:
    """Row numbers of t triplets."""

    anchors: Tensor
    """int64[t], rows of the batch."""
    positives: Tensor
    """int64[t], references of the anchor's identity."""
    negatives: Tensor
    """int64[t], references of other identities."""

    def __len__(self) -> int:
        return len(self.anchors)


@dataclass(frozen=True, slots=True)
class TripletFigures:
    """What was mined, as detached float32 scalars; all zero where there are no triplets."""

    num_triplets: Tensor
    share_active: Tensor
    """Of the triplets, those whose negative is less than `margin` farther than their positive."""
    mean_positive_distance: Tensor
    mean_negative_distance: Tensor


def triplet_figures(distances: Tensor, triplets: Triplets, margin: float) -> TripletFigures:
    """Describe triplets mined of float32[n, m] distances."""
    with torch.no_grad():
        positive = picked(distances, triplets.anchors, triplets.positives)
        negative = picked(distances, triplets.anchors, triplets.negatives)
        num = max(len(triplets), 1)
        is_active = negative - positive < margin
        return TripletFigures(
            num_triplets=distances.new_tensor(float(len(triplets))),
            share_active=is_active.sum() / num,
            mean_positive_distance=positive.sum() / num,
            mean_negative_distance=negative.sum() / num,
        )


def picked(distances: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Give float32[t], the distances at (row, column), each place as often as it is asked for.

    Its gradient is summed in one order, whatever the number of threads: indexing by two tensors would add the
    parts of a place as they come, and a run could not be repeated to the bit.
    """
    return distances.flatten().index_select(0, rows * distances.shape[1] + columns)


@torch.no_grad()
def mine_semihard(distances: Tensor, labels: Tensor, reference_labels: Tensor) -> Triplets:
    """For each ordered positive pair, take the nearest negative farther than the positive, else the farthest.

    Where anchors have few positives each pair looks at all negatives, in blocks of bounded memory; else each
    anchor's negatives are sorted once, n m log m.
    """
    is_negative = labels[:, None] != reference_labels[None, :]
    has_both = is_positive(labels, reference_labels) & is_negative.any(1, keepdim=True)
    anchors, positives = has_both.nonzero(as_tuple=True)
    is_scanned = len(anchors) <= SCANNED_POSITIVES_MAX * len(labels)
    choose = _farther_by_scan if is_scanned else _farther_by_sort
    return Triplets(anchors, positives, choose(distances, is_negative, anchors, positives))


def _farther_by_scan(distances: Tensor, is_negative: Tensor, anchors: Tensor, positives: Tensor) -> Tensor:
    if len(anchors) == 0:
        return anchors
    of_negatives = distances.masked_fill(~is_negative, -torch.inf)
    farthest = of_negatives.max(1).indices
    chosen = []
    num_rows = max(1, SCANNED_BLOCK // distances.shape[1])
    for block, own in zip(torch.split(anchors, num_rows), torch.split(positives, num_rows), strict=True):
        rows = of_negatives[block]
        nearest = rows.masked_fill(rows <= distances[block, own][:, None], torch.inf).min(1)
        chosen.append(torch.where(nearest.values.isposinf(), farthest[block], nearest.indices))
    return torch.cat(chosen)


def _farther_by_sort(distances: Tensor, is_negative: Tensor, anchors: Tensor, positives: Tensor) -> Tensor:
    nearest_first, order = distances.masked_fill(~is_negative, torch.inf).sort(dim=1)
    # The places of all references in their row are asked for; few are needed, but rows are of one length.
    places = torch.searchsorted(nearest_first, distances.contiguous(), right=True)[anchors, positives]
    return order[anchors, torch.minimum(places, is_negative.sum(1)[anchors] - 1)]


@torch.no_grad()
def mine_semihard_window(
    distances: Tensor, labels: Tensor, reference_labels: Tensor, margin: float
) -> Triplets:
    """Take all triplets with d_ap < d_an <= d_ap + margin.

    Raises InvalidInputError where there are more than NUM_TRIPLETS_MAX triplets to choose from.
    """

    def keep(anchors: Tensor, positives: Tensor) -> Tensor:
        farther = distances[anchors] - distances[anchors, positives][:, None]
        return (farther > 0.0) & (farther <= margin)

    return _listed(labels, reference_labels, keep)


@torch.no_grad()
def mine_hard(distances: Tensor, labels: Tensor, reference_labels: Tensor) -> Triplets:
    """For each anchor that has both, take its farthest positive and its nearest negative."""
    # The library takes a row for its own positive where references are more than the batch: it must lose
    # against every other, and where it does not, there is none.
    rows = torch.arange(len(distances), device=distances.device)
    without_self = distances.index_put((rows, rows), distances.new_tensor(-1.0))
    miner = metric_learning("miners").BatchHardMiner(distance=_Given(without_self))
    return _mine(miner, distances, labels, reference_labels)


@torch.no_grad()
def mine_all(labels: Tensor, reference_labels: Tensor) -> Triplets:
    """Take every triplet.

    Raises InvalidInputError where there are more than NUM_TRIPLETS_MAX.
    """
    return _listed(labels, reference_labels)


@torch.no_grad()
def mine_distance_weighted(comparison: Comparison, seed: int) -> Triplets:
    """Draw negatives with a chance inverse to how common their distance is on the sphere.

    The same seed draws the same; the generators of torch are left as they were. Distances are L2 between unit
    vectors, whatever the loss uses.
    """
    units = comparison.unit()
    labels, reference_labels = comparison.labels, comparison.reference_labels
    if not bool((comparison.is_negative() & comparison.is_positive().any(1)[:, None]).any()):
        return _none(labels)
    miner = metric_learning("miners").DistanceWeightedMiner(
        cutoff=WEIGHTED_DISTANCE_MIN, nonzero_loss_cutoff=WEIGHTED_DISTANCE_MAX
    )
    device = labels.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        if len(reference_labels) == len(labels):
            return _without_self(*miner(units.vectors, labels))
        return _without_self(*miner(units.vectors, labels, units.references, reference_labels))


def seed_of_step(seed: int, step: int) -> int:
    """Give a seed of its own to each step of a run."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _listed(
    labels: Tensor, reference_labels: Tensor, keep: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Triplets:
    """List triplets by anchor, positive and negative, in blocks of positive pairs.

    `keep` gives bool[b, m], which references b positive pairs take as negatives, if not all.
    """
    is_same = is_positive(labels, reference_labels)
    is_negative = labels[:, None] != reference_labels[None, :]
    _check_num_triplets(is_same, is_negative)
    pairs = is_same.nonzero()
    found = [pairs.new_empty(3, 0)]
    for block in torch.split(pairs, max(1, SCANNED_BLOCK // max(len(reference_labels), 1))):
        anchors, positives = block.T
        taken = is_negative[anchors]
        if keep is not None:
            taken &= keep(anchors, positives)
        rows, negatives = taken.nonzero(as_tuple=True)
        found.append(torch.stack([anchors[rows], positives[rows], negatives]))
    return Triplets(*torch.cat(found, dim=1))


class _Given(nn.Module):
    """Distances that the library need not compute again."""

    is_inverted = False

    def __init__(self, distances: Tensor):
        super().__init__()
        self.distances = distances

    def forward(self, _vectors: Tensor, _references: Tensor | None = None) -> Tensor:
        return self.distances


def _mine(miner: nn.Module, distances: Tensor, labels: Tensor, reference_labels: Tensor) -> Triplets:
    """Ask the library; it looks at the number of rows of what stands for vectors, and at nothing else."""
    if len(labels) == 0:
        return _none(labels)
    if len(reference_labels) == len(labels):
        return _without_self(*miner(distances, labels))
    return _without_self(*miner(distances, labels, distances.T, reference_labels))


def _without_self(anchors: Tensor, positives: Tensor, negatives: Tensor) -> Triplets:
    keep = anchors != positives
    return Triplets(anchors[keep], positives[keep], negatives[keep])


def _none(labels: Tensor) -> Triplets:
    empty = labels.new_empty(0)
    return Triplets(empty, empty, empty)


def _check_num_triplets(is_same: Tensor, is_negative: Tensor) -> None:
    num_triplets = int((is_same.sum(1) * is_negative.sum(1)).sum())
    if num_triplets > NUM_TRIPLETS_MAX:
        raise InvalidInputError(
            f"{is_same.shape[0]} anchors and {is_same.shape[1]} references make {num_triplets} triplets, more"
            f" than {NUM_TRIPLETS_MAX}",
            hint="Choose a smaller batch or memory, or the miner semihard, hard or distance-weighted.",
        )
