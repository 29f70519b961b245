"""Losses are what their papers say, and 0 with gradient 0 where there is nothing to learn from."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.trainer import losses
from engine.trainer.comparisons import distances
from engine.trainer.losses import Pairs
from engine.trainer.mining import Triplets

THRESHOLD, MARGIN = 0.6, 0.04


def drawn(seed: int, n: int, num_identities: int, scale: float = 0.25) -> tuple[Tensor, Tensor]:
    """Vectors whose distances lie about 0.6, as dlib's do."""
    generator = torch.Generator().manual_seed(seed)
    vectors = scale * torch.randn(n, 4, generator=generator)
    return vectors, torch.randint(0, num_identities, (n,), generator=generator)


def naive_pairs(vectors: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """Distances of positive and of negative pairs, each pair once."""
    positive: list[float] = []
    negative: list[float] = []
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            distance = float((vectors[i].double() - vectors[j].double()).norm())
            (positive if labels[i] == labels[j] else negative).append(distance)
    return positive, negative


def pairs_of_batch(vectors: Tensor, labels: Tensor) -> Pairs:
    return losses.pairs_of(distances(vectors, vectors, "l2"), labels, labels)


def naive_dlib(vectors: Tensor, labels: Tensor) -> float:
    """dlib/dnn/loss.h, loss_metric_::compute_loss_value_and_gradient, step by step."""
    positive, negative = naive_pairs(vectors, labels)
    scale = 0.5 / len(positive)
    hardest = sorted(negative)[min(len(positive), len(negative)) - 1]
    loss = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            distance = float((vectors[i].double() - vectors[j].double()).norm())
            if i == j:
                continue
            if labels[i] == labels[j]:
                loss += scale * max(0.0, distance - (THRESHOLD - MARGIN))
            elif distance <= hardest + 1e-9:
                loss += scale * max(0.0, (THRESHOLD + MARGIN) - distance)
    return loss


@pytest.mark.parametrize(("n", "num_identities"), [(12, 3), (20, 8), (7, 3)])
def test_the_pair_hinge_is_dlibs(n: int, num_identities: int) -> None:
    for seed in range(4):
        vectors, labels = drawn(seed, n, num_identities)
        given = losses.pair_hinge(pairs_of_batch(vectors, labels), THRESHOLD, MARGIN, "hardest")
        assert float(given) > 0.0
        assert float(given) == pytest.approx(naive_dlib(vectors, labels), abs=1e-5)


def test_the_pair_hinge_over_all_negatives_divides_each_kind_by_its_number() -> None:
    vectors, labels = drawn(5, 14, 4)
    positive, negative = naive_pairs(vectors, labels)
    expected = sum(max(0.0, d - 0.56) for d in positive) / len(positive)
    expected += sum(max(0.0, 0.64 - d) for d in negative) / len(negative)
    given = losses.pair_hinge(pairs_of_batch(vectors, labels), THRESHOLD, MARGIN, "all")
    assert float(given) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("negatives", ["all", "hardest"])
def test_the_contrastive_loss_is_hadsells_with_equal_weight_of_both_kinds(
    negatives: losses.NegativePairs,
) -> None:
    vectors, labels = drawn(3, 12, 4)
    positive, negative = naive_pairs(vectors, labels)
    if negatives == "hardest":
        negative = sorted(negative)[: len(positive)]
    expected = sum(0.5 * d * d for d in positive) / len(positive)
    expected += sum(0.5 * max(0.0, 0.8 - d) ** 2 for d in negative) / len(negative)
    given = losses.contrastive(pairs_of_batch(vectors, labels), 0.8, negatives)
    assert float(given) == pytest.approx(expected, abs=1e-5)


def test_pairs_with_earlier_vectors_count_once_and_pairs_among_them_never() -> None:
    d = torch.arange(1.0, 9.0).reshape(2, 4)
    pairs = losses.pairs_of(d, torch.tensor([0, 1]), torch.tensor([0, 1, 0, 0]))
    assert pairs.positive.tolist() == [3.0, 4.0]
    assert pairs.negative.tolist() == [2.0, 7.0, 8.0]


def test_hardest_negatives_are_as_many_as_positives_with_ties() -> None:
    negative = torch.tensor([0.9, 0.2, 0.5, 0.5, 0.7])
    kept = losses.hardest(Pairs(torch.tensor([0.1, 0.3]), negative))
    assert sorted(kept.negative.tolist()) == pytest.approx([0.2, 0.5, 0.5])
    assert len(losses.hardest(Pairs(torch.empty(0), negative)).negative) == 0
    assert len(losses.hardest(Pairs(torch.ones(9), negative)).negative) == 5


def test_the_margin_grows_from_zero_in_a_line() -> None:
    assert [losses.warmed_margin(0.2, step, 4) for step in range(6)] == pytest.approx(
        [0.0, 0.05, 0.1, 0.15, 0.2, 0.2]
    )
    assert losses.warmed_margin(0.2, 0, 0) == 0.2


NONE = Triplets(*(torch.empty(0, dtype=torch.int64) for _ in range(3)))
Empty = Callable[[Tensor], Tensor]
EMPTY: dict[str, Empty] = {
    "triplets": lambda d: losses.mean_or_zero(losses.triplet_margin(d, NONE, 0.2)),
    "soft triplets": lambda d: losses.mean_or_zero(losses.triplet_soft_margin(d, NONE)),
    "contrastive": lambda d: losses.contrastive(Pairs(d[0, :0], d[0, :0]), 1.0, "all"),
    "contrastive, hardest": lambda d: losses.contrastive(Pairs(d[0, :0], d[0, 1:] + 0.1), 1.0, "hardest"),
    "pair hinge, no positives": lambda d: losses.pair_hinge(Pairs(d[0, :0], d[0, 1:]), 0.6, 0.04, "hardest"),
    "pair hinge": lambda d: losses.pair_hinge(Pairs(d[0, :0], d[0, :0]), 0.6, 0.04, "all"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_where_there_is_nothing_the_loss_and_its_gradient_are_zero(name: str) -> None:
    d = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = EMPTY[name](d)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0.0
    assert d.grad is not None
    assert not d.grad.any()


def test_the_mean_counts_what_it_is_told_to() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert float(losses.mean_or_zero(values)) == 3.0
    assert float(losses.mean_or_zero(values, torch.tensor([True, False, True]))) == 3.5
    assert float(losses.mean_or_zero(values, torch.zeros(3, dtype=torch.bool))) == 0.0


def test_the_global_threshold_charges_misses_below_it_and_strangers_above_it() -> None:
    similarities = torch.tensor([[1.0, 0.7, 0.4, 0.9], [0.7, 1.0, 0.3, 0.2], [0.4, 0.3, 1.0, 0.1]])
    labels, reference_labels = torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1, 2])
    tops = losses.non_mated_tops(similarities, labels, reference_labels)
    assert tops.similarities.tolist() == pytest.approx([0.9, 0.3, 0.4])
    is_mated = torch.zeros(3, 4, dtype=torch.bool)
    is_mated[0, 1] = is_mated[1, 0] = True
    given = losses.global_threshold(
        similarities, is_mated, tops, torch.tensor(0.75), share=0.25, softness=0.1
    )
    miss = 0.1 * math.log1p(math.exp((0.75 - 0.7) / 0.1))
    assert float(given) == pytest.approx(miss + (0.9 - 0.75) / 3 / 0.25, abs=1e-6)


def test_rows_without_strangers_charge_nothing_for_them() -> None:
    similarities = torch.ones(3, 3, requires_grad=True)
    labels = torch.zeros(3, dtype=torch.int64)
    tops = losses.non_mated_tops(similarities, labels, labels)
    assert not tops.is_there.any()
    nobody = torch.zeros(3, 3, dtype=torch.bool)
    loss = losses.global_threshold(similarities, nobody, tops, torch.tensor(0.5), share=0.1, softness=0.02)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0.0
    assert similarities.grad is not None
    assert not similarities.grad.any()
    empty = losses.non_mated_tops(torch.empty(0, 0), labels[:0], labels[:0])
    assert empty.similarities.shape == empty.is_there.shape == (0,)
