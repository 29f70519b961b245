"""What a network is trained for: settings to one module that turns a batch of vectors into a loss.

Knows nothing of networks, optimisers or steps other than their number. All that it learns or remembers (a
head's weights, the memory, the running threshold) is in its state, so a run resumes to the bit.

Reading: vectors -> float32 -> beside the memory -> triplets, pairs or head -> plus the global threshold ->
loss and figures -> into the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.errors import InvalidInputError, SettingsError
from engine.trainer import losses, mining
from engine.trainer.comparisons import Comparison
from engine.trainer.heads import Head
from engine.trainer.memory import Memory, RunningQuantile
from engine.trainer.objective_settings import ObjectiveSettings

__all__ = ["Objective", "ObjectiveSettings", "Outcome", "ThresholdTerm", "build_objective"]

NUM_TOPS = 4096
"""Non-mated tops of which the global threshold is a quantile: the last 32 batches of 128."""

Figures = dict[str, Tensor]
"""Detached float32 scalars by name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step has to go down, and what to show of it."""

    loss: Tensor
    """float32 scalar with gradient; not finite where a vector is not."""
    figures: Figures
    """Detached scalars: always ``loss``, and by objective ``num_triplets``, ``share_active``,
    ``mean_positive_distance``, ``mean_negative_distance``, ``margin``, ``threshold``, ``main_loss``,
    ``threshold_loss``, ``num_memory``."""


class Objective(nn.Module):
    """The loss of a batch, its figures, and what is kept from step to step."""

    def __init__(self, settings: ObjectiveSettings, term: nn.Module, dimension: int):
        super().__init__()
        self.dimension = dimension
        self.memory_start_step = settings.memory_start_step
        self.term = term
        self.memory = Memory(settings.memory_size, dimension) if settings.memory_size else None
        self.threshold = ThresholdTerm(settings) if settings.global_threshold_weight else None

    def forward(self, vectors: Tensor, labels: Tensor, step: int) -> Outcome:
        """Judge raw vectors float[n, d] with labels int64[n] at `step`, which is counted from 0.

        Works in float32 even under autocast. In evaluation mode nothing is remembered. With several ranks,
        give every rank the gathered rows of all. Raises InvalidInputError for other shapes or types.
        """
        self._check(vectors, labels)
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            comparison = (
                Comparison.of(vectors, labels) if self.memory is None else self.memory.beside(vectors, labels)
            )
            loss, figures = self.term(comparison, step)
            if self.threshold is not None:
                added, threshold_figures = self.threshold(comparison)
                figures |= {"main_loss": loss.detach(), **threshold_figures}
                loss = loss + added
            # A vector that no triplet holds must not hide that it is no number; every batch has a gradient.
            loss = loss + (vectors * 0.0).sum()
            if self.memory is not None:
                figures["num_memory"] = (self.memory.labels >= 0).sum().float()
                if self.training and step >= self.memory_start_step:
                    self.memory.add(vectors, labels)
            return Outcome(loss, {"loss": loss.detach(), **figures})

    def _check(self, vectors: Tensor, labels: Tensor) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension or not vectors.is_floating_point():
            raise InvalidInputError(
                f"vectors are {vectors.dtype}{list(vectors.shape)}; "
                f"this objective takes float[n, {self.dimension}]"
            )
        if labels.dtype != torch.int64 or labels.shape != vectors.shape[:1]:
            raise InvalidInputError(
                f"labels are {labels.dtype}{list(labels.shape)}; {len(vectors)} vectors need "
                f"torch.int64[{len(vectors)}]"
            )


class TripletTerm(nn.Module):
    """Triplets are mined and pay by their margin."""

    def __init__(self, settings: ObjectiveSettings, seed: int):
        super().__init__()
        self.settings, self.seed = settings, seed

    def forward(self, comparison: Comparison, step: int) -> tuple[Tensor, Figures]:
        """Mine at `step`, and give the mean price and what was mined."""
        settings = self.settings
        comparison = comparison.unit() if settings.has_unit_vectors else comparison
        distances = comparison.distances(settings.triplet_distance)
        triplets = self._mine(comparison, distances.detach(), step)
        margin = 0.0
        if settings.loss == "soft-triplet":
            paid = losses.triplet_soft_margin(distances, triplets)
        else:
            margin = losses.warmed_margin(settings.main_margin, step, settings.margin_warmup_steps)
            paid = losses.triplet_margin(distances, triplets, margin)
        found = mining.triplet_figures(distances, triplets, margin)
        figures = {
            "num_triplets": found.num_triplets,
            "share_active": found.share_active,
            "mean_positive_distance": found.mean_positive_distance,
            "mean_negative_distance": found.mean_negative_distance,
            "margin": distances.new_tensor(margin),
        }
        return losses.mean_or_zero(paid, paid > 0 if settings.average == "active" else None), figures

    def _mine(self, comparison: Comparison, distances: Tensor, step: int) -> mining.Triplets:
        labels, reference_labels = comparison.labels, comparison.reference_labels
        match self.settings.triplet_miner:
            case "semihard":
                return mining.mine_semihard(distances, labels, reference_labels)
            case "semihard-window":
                margin = self.settings.main_margin
                return mining.mine_semihard_window(distances, labels, reference_labels, margin)
            case "hard":
                return mining.mine_hard(distances, labels, reference_labels)
            case "distance-weighted":
                seed = mining.seed_of_step(self.seed, step)
                return mining.mine_distance_weighted(comparison, seed)
            case "all":
                return mining.mine_all(labels, reference_labels)


class PairTerm(nn.Module):
    """Pairs pay by their L2 distance, on one scale for all identities."""

    def __init__(self, settings: ObjectiveSettings):
        super().__init__()
        self.settings = settings

    def forward(self, comparison: Comparison, step: int) -> tuple[Tensor, Figures]:
        """Give the price of pairs at `step` and how they lie."""
        settings = self.settings
        comparison = comparison.unit() if settings.has_unit_vectors else comparison
        labels, reference_labels = comparison.labels, comparison.reference_labels
        pairs = losses.pairs_of(comparison.distances("l2"), labels, reference_labels)
        margin = losses.warmed_margin(settings.main_margin, step, settings.margin_warmup_steps)
        if settings.loss == "contrastive":
            loss = losses.contrastive(pairs, margin, settings.negatives_kept)
            positive_max, negative_min = 0.0, margin
        else:
            threshold = settings.hinge_threshold
            loss = losses.pair_hinge(pairs, threshold, margin, settings.negatives_kept)
            positive_max, negative_min = threshold - margin, threshold + margin
        return loss, _pair_figures(pairs, positive_max, negative_min) | {"margin": loss.new_tensor(margin)}


@torch.no_grad()
def _pair_figures(pairs: losses.Pairs, positive_max: float, negative_min: float) -> Figures:
    return {
        "num_positive_pairs": pairs.positive.new_tensor(float(len(pairs.positive))),
        "num_negative_pairs": pairs.positive.new_tensor(float(len(pairs.negative))),
        "share_active_positive": losses.mean_or_zero((pairs.positive > positive_max).float()),
        "share_active_negative": losses.mean_or_zero((pairs.negative < negative_min).float()),
        "mean_positive_distance": losses.mean_or_zero(pairs.positive),
        "mean_negative_distance": losses.mean_or_zero(pairs.negative),
    }


class HeadTerm(nn.Module):
    """A head tells all identities of the training set apart."""

    def __init__(self, settings: ObjectiveSettings, head: Head):
        super().__init__()
        self.settings, self.head = settings, head

    def forward(self, comparison: Comparison, step: int) -> tuple[Tensor, Figures]:
        """Give the head's loss at `step`; distances are squared L2 to its vectors of identities."""
        settings = self.settings
        margin = losses.warmed_margin(settings.main_margin, step, settings.margin_warmup_steps)
        loss = self.head(comparison.vectors, comparison.labels, margin)
        own, others = self.head.cosines(comparison.vectors, comparison.labels)
        return loss, {
            "mean_positive_distance": 2.0 - 2.0 * own,
            "mean_negative_distance": 2.0 - 2.0 * others,
            "margin": own.new_tensor(margin),
        }


class ThresholdTerm(nn.Module):
    """What any other term may be given beside it: one threshold of similarity for all identities."""

    def __init__(self, settings: ObjectiveSettings):
        super().__init__()
        self.weight = settings.global_threshold_weight
        self.share = settings.global_threshold_share
        self.softness = settings.global_threshold_softness
        self.quantile = RunningQuantile(self.share, NUM_TOPS)

    def forward(self, comparison: Comparison) -> tuple[Tensor, Figures]:
        """Give the weighted price of one threshold; it moves while training."""
        comparison = comparison.unit()
        labels, reference_labels = comparison.labels, comparison.reference_labels
        similarities = comparison.vectors @ comparison.references.T
        tops = losses.non_mated_tops(similarities, labels, reference_labels)
        seen = tops.similarities.detach()[tops.is_there]
        if self.training:
            self.quantile.add(seen)
        # Before any stranger was seen every mated pair passes.
        threshold = self.quantile.threshold().nan_to_num(nan=-1.0)
        loss = self.weight * losses.global_threshold(
            similarities, comparison.is_positive(), tops, threshold, self.share, self.softness
        )
        passing = losses.mean_or_zero((seen >= threshold).float())
        figures = {"threshold": threshold, "threshold_loss": loss.detach(), "share_passing": passing}
        return loss, figures


def build_objective(
    settings: ObjectiveSettings, num_identities: int, dimension: int, *, seed: int = 0
) -> Objective:
    """Make the objective that settings ask for, on the CPU.

    `num_identities` is of the training set; `seed` draws a head's weights and the negatives of
    `distance-weighted`. Raises SettingsError where there are too few identities.
    """
    if num_identities < 2:
        raise SettingsError(
            f"the training set has {num_identities} identities: without a second one there are no negatives",
            hint="Give pictures of at least two people, each in a folder of its own.",
        )
    if settings.loss in {"triplet", "soft-triplet"}:
        return Objective(settings, TripletTerm(settings, seed), dimension)
    if settings.loss in {"contrastive", "pair-hinge"}:
        return Objective(settings, PairTerm(settings), dimension)
    head = Head(
        "arcface" if settings.loss == "arcface" else "cosface",
        num_identities=num_identities,
        dimension=dimension,
        scale=settings.head_scale,
        seed=seed,
    )
    return Objective(settings, HeadTerm(settings, head), dimension)
