"""Distances are what the definition says, and their gradients are numbers everywhere."""

from __future__ import annotations

import pytest
import torch

from engine.trainer.comparisons import Comparison, Distance, distances, is_positive, unit

KINDS: tuple[Distance, ...] = ("angular", "squared-l2", "l2")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (1, 1), (4, 7)])
def test_distances_are_those_of_the_definition(kind: Distance, n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(n + m)
    a, b = torch.randn(n, 6, generator=generator), torch.randn(m, 6, generator=generator)
    given = distances(a, b, kind)
    assert given.shape == (n, m)
    for i in range(n):
        for j in range(m):
            difference = float((a[i] - b[j]).double().norm())
            cosine = float(torch.cosine_similarity(a[i].double(), b[j].double(), dim=0))
            expected = {"angular": 1.0 - cosine, "squared-l2": difference**2, "l2": difference}[kind]
            assert float(given[i, j]) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_equal_vectors_have_distance_zero_and_a_finite_gradient(kind: Distance, value: float) -> None:
    vectors = torch.full((5, 8), value, requires_grad=True)
    given = distances(vectors, vectors, kind)
    torch.autograd.backward(given.sum())
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
    assert float(given.detach().abs().max()) <= (1.0 if kind == "angular" and value == 0.0 else 1e-6)


def test_a_zero_vector_stays_zero_with_a_finite_gradient() -> None:
    vectors = torch.zeros(2, 4, requires_grad=True)
    units = unit(vectors)
    torch.autograd.backward(units.sum() + distances(units, units, "l2").sum())
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
    assert not units.any()


def test_the_gradient_of_l2_is_the_direction() -> None:
    vectors = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    others = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: distances(v, others, "l2"), (vectors,))


def test_a_row_is_not_its_own_positive_but_a_memory_of_it_is() -> None:
    labels = torch.tensor([4, 5])
    assert is_positive(labels, torch.tensor([4, 5, 5, 4])).tolist() == [
        [False, False, False, True],
        [False, False, True, False],
    ]


def test_a_comparison_at_unit_length_keeps_the_batch_first() -> None:
    vectors, memory = torch.randn(2, 4), torch.randn(3, 4)
    labels = torch.tensor([0, 1])
    comparison = Comparison(
        vectors, labels, torch.cat([vectors, memory]), torch.tensor([0, 1, 1, 0, 2])
    ).unit()
    assert torch.equal(comparison.references[:2], comparison.vectors)
    torch.testing.assert_close(comparison.references.norm(dim=1), torch.ones(5))
