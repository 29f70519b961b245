"""Heads that tell the identities of the training set apart, for pre-training: ArcFace and CosFace.

Knows nothing of triplets or settings. The weights are in the state of the module; nothing of them ships.

ArcFace: Deng et al. 2019, equation 3, s (cos(theta + m)); CosFace: Wang et al. 2018, equation 4,
s (cos(theta) - m); both as in pytorch-metric-learning. Where theta + m passes 180 degrees, ArcFace goes on
as s (cos(theta) - m sin(m)), so that it still falls.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.errors import InvalidInputError
from engine.trainer.comparisons import unit
from engine.trainer.metric_learning import metric_learning

HeadName = Literal["arcface", "cosface"]

COSINE_MAX = 1.0 - 1e-6
"""Cosines are kept within this of zero: at 1 the angle's gradient is infinite."""


class Head(nn.Module):
    """One unit vector for each identity, and the loss of telling them apart."""

    def __init__(self, name: HeadName, *, num_identities: int, dimension: int, scale: float, seed: int):
        """Draw the weights float32[dimension, num_identities] from `seed`.

        `scale` multiplies the cosines before the softmax.
        """
        super().__init__()
        self.num_identities = num_identities
        losses = metric_learning("losses")
        kind = losses.ArcFaceLoss if name == "arcface" else losses.CosFaceLoss
        # The library draws weights of its own when it is made, which must move nobody else's generator.
        with torch.random.fork_rng(devices=[]):
            self.loss: Any = kind(
                num_classes=num_identities, embedding_size=dimension, margin=0.0, scale=scale
            )
        nn.init.normal_(self.loss.W, generator=torch.Generator().manual_seed(seed))
        self.loss.distance.register_forward_hook(_within)

    def forward(self, vectors: Tensor, labels: Tensor, margin: float) -> Tensor:
        """Mean loss of float32[n, d] vectors of any length with labels int64[n] of 0..num_identities-1.

        `margin` is in radians for ArcFace, a cosine for CosFace. Raises InvalidInputError for other labels.
        """
        if len(labels) == 0:
            nothing: Tensor = (vectors.sum() + self.loss.W.sum()) * 0.0
            return nothing
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= self.num_identities:
            raise InvalidInputError(
                f"labels go from {lowest} to {highest}; this head knows 0 to {self.num_identities - 1}",
                hint="Number the identities consecutively from 0, and make the head for all of them.",
            )
        self.loss.margin = margin
        loss: Tensor = self.loss(vectors, labels)
        return loss

    @torch.no_grad()
    def cosines(self, vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cosine with the rows' own identities and with the other ones, as scalars; 0 of no rows."""
        weights = unit(self.loss.W.T)
        units = unit(vectors)
        own = (units * weights[labels]).sum()
        others = (units @ weights.sum(0)).sum() - own
        num = max(len(labels), 1)
        return own / num, others / (num * max(self.num_identities - 1, 1))


def _within(_distance: nn.Module, _inputs: tuple[Any, ...], cosines: Tensor) -> Tensor:
    return cosines.clamp(-COSINE_MAX, COSINE_MAX)
