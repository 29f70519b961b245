"""What training remembers of earlier batches: their vectors, and how alike strangers were.

Knows nothing of losses. All of it is in buffers, so a run that resumes goes on with the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.trainer.comparisons import Comparison

NO_LABEL = -1
"""Label of a place that holds nothing yet."""


class Memory(nn.Module):
    """The last `size` raw vectors with their labels, the oldest overwritten first.

    As in Wang et al. 2020, Cross-Batch Memory; but the batch itself is compared too, with gradients on both
    sides, and only earlier batches come from the memory. pytorch-metric-learning's keeps its place outside of
    its state, which would not resume.
    """

    vectors: Tensor
    """float32[size, d]."""
    labels: Tensor
    """int64[size]; NO_LABEL where nothing was written yet."""
    place: Tensor
    """int64, where the next row goes."""

    def __init__(self, size: int, dimension: int):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, dimension))
        self.register_buffer("labels", torch.full((size,), NO_LABEL, dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, vectors: Tensor, labels: Tensor) -> None:
        """Write rows float32[n, d], int64[n]; the last ones of a batch larger than the memory."""
        vectors, labels = vectors[-len(self.labels) :], labels[-len(self.labels) :]
        places = (self.place + torch.arange(len(labels), device=labels.device)) % len(self.labels)
        self.vectors[places] = vectors
        self.labels[places] = labels
        self.place.copy_((self.place + len(labels)) % len(self.labels))

    def beside(self, vectors: Tensor, labels: Tensor) -> Comparison:
        """Compare a batch with itself and with what is remembered."""
        is_written = self.labels != NO_LABEL
        return Comparison(
            vectors,
            labels,
            torch.cat([vectors, self.vectors[is_written]]),
            torch.cat([labels, self.labels[is_written]]),
        )


class RunningQuantile(nn.Module):
    """The similarity that a share of the last `size` non-mated tops pass."""

    values: Tensor
    """float32[size]; NaN where nothing was written yet."""
    place: Tensor
    """int64, where the next value goes."""

    def __init__(self, share: float, size: int):
        super().__init__()
        self.share = share
        self.register_buffer("values", torch.full((size,), torch.nan))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, values: Tensor) -> None:
        """Write values float32[n], the oldest overwritten first."""
        values = values[-len(self.values) :]
        places = (self.place + torch.arange(len(values), device=values.device)) % len(self.values)
        self.values[places] = values
        self.place.copy_((self.place + len(values)) % len(self.values))

    @torch.no_grad()
    def threshold(self) -> Tensor:
        """Give the quantile, a float32 scalar; NaN where nothing was written yet."""
        return self.values.nanquantile(1.0 - self.share)
