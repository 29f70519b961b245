"""A batch beside what it is compared with: distances, and which pairs are of one identity.

Knows nothing of mining, losses or settings.

Letters: n rows of the batch; m references, of which the first n are the batch itself and the others vectors
of earlier batches; d numbers of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Distance = Literal["squared-l2", "l2", "angular"]
"""``angular`` is 1 - cosine, whatever the lengths of the vectors."""

LENGTH_MIN = 1e-6
"""Vectors shorter than this are divided by this: a zero vector stays zero and its gradient finite."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of a batch and their references, on one device."""

    vectors: Tensor
    """float32[n, d]."""
    labels: Tensor
    """int64[n]."""
    references: Tensor
    """float32[m, d]; the first n are `vectors`."""
    reference_labels: Tensor
    """int64[m]; the first n are `labels`."""

    @classmethod
    def of(cls, vectors: Tensor, labels: Tensor) -> Comparison:
        """Compare a batch with itself."""
        return cls(vectors, labels, vectors, labels)

    def unit(self) -> Comparison:
        """Give the same with all vectors at unit length."""
        n = len(self.vectors)
        references = unit(self.references)
        return Comparison(references[:n], self.labels, references, self.reference_labels)

    def is_positive(self) -> Tensor:
        """bool[n, m]: of one identity, and not the row itself."""
        return is_positive(self.labels, self.reference_labels)

    def is_negative(self) -> Tensor:
        """bool[n, m]: of two identities."""
        return self.labels[:, None] != self.reference_labels[None, :]

    def distances(self, kind: Distance) -> Tensor:
        """float32[n, m], with gradient."""
        return distances(self.vectors, self.references, kind)


def is_positive(labels: Tensor, reference_labels: Tensor) -> Tensor:
    """bool[n, m]: of one identity, and not the row itself, which is the reference of the same number."""
    return (labels[:, None] == reference_labels[None, :]).fill_diagonal_(False)


def unit(vectors: Tensor) -> Tensor:
    """Give vectors float32[n, d] at unit length."""
    return normalize(vectors, dim=1, eps=LENGTH_MIN)


def distances(vectors: Tensor, references: Tensor, kind: Distance) -> Tensor:
    """Give float32[n, m] from each of n rows to each of m.

    At distance zero the gradient is zero, not infinite. By one product of matrices: true to about 1e-7 of
    the squared lengths, so products of float32 must not be rounded to TF32 or bfloat16.
    """
    if kind == "angular":
        return 1.0 - unit(vectors) @ unit(references).T
    squared_lengths = vectors.square().sum(1)[:, None] + references.square().sum(1)[None, :]
    squared = (squared_lengths - 2.0 * (vectors @ references.T)).clamp(min=0.0)
    return squared if kind == "squared-l2" else root(squared)


def root(squared: Tensor) -> Tensor:
    """Take square roots, with gradient 0 at 0."""
    is_zero = squared == 0.0
    return torch.where(is_zero, 1.0, squared).sqrt().masked_fill(is_zero, 0.0)
