"""How far apart the vectors of a batch are: what tells a collapsed network from one that learns.

Knows nothing of losses or of what is done about a collapse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.trainer.comparisons import unit


@torch.no_grad()
def collapse_figures(vectors: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Describe float[n, d] vectors of any length with labels int64[n] by float32 scalars.

    ========================  ==============================================================================
    `spread`                  mean L2 distance of the unit vectors from their mean; 0: all are one point
    `mean_pairwise_distance`  mean squared L2 between two of them; 2 where they spread evenly
    `mean_mated_distance`     the same, of pairs of one identity
    `mean_non_mated_distance` the same, of pairs of two identities
    ========================  ==============================================================================

    A mean over nothing is 0. A vector that is not finite makes the figures NaN. Takes n d steps, not n^2.
    """
    units = unit(vectors.double())
    if len(units) == 0:
        zero = vectors.new_zeros((), dtype=torch.float32)
        names = ("spread", "mean_pairwise_distance", "mean_mated_distance", "mean_non_mated_distance")
        return dict.fromkeys(names, zero)
    spread = (units - units.mean(0)).norm(dim=1).mean()
    identities, rows = torch.unique(labels, return_inverse=True)
    sums = units.new_zeros(len(identities), units.shape[1]).index_add_(0, rows, units)
    squares = units.new_zeros(len(identities)).index_add_(0, rows, units.square().sum(1))
    counts = rows.bincount(minlength=len(identities)).double()
    # Over ordered pairs of k vectors: sum |a - b|^2 = 2 k sum |a|^2 - 2 |sum a|^2.
    mated = (2.0 * counts * squares - 2.0 * sums.square().sum(1)).sum()
    pairs = 2.0 * len(units) * squares.sum() - 2.0 * sums.sum(0).square().sum()
    num_mated = (counts * (counts - 1.0)).sum()
    num_pairs = float(len(units) * (len(units) - 1))
    figures = {
        "spread": spread,
        "mean_pairwise_distance": _mean(pairs, units.new_tensor(num_pairs)),
        "mean_mated_distance": _mean(mated, num_mated),
        "mean_non_mated_distance": _mean(pairs - mated, num_pairs - num_mated),
    }
    return {name: figure.float() for name, figure in figures.items()}


def _mean(total: Tensor, num: Tensor) -> Tensor:
    return total.clamp(min=0.0) / num.clamp(min=1.0)
