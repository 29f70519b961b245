"""Heads give the losses of their papers, and stay finite where a vector lies on its identity's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.errors import InvalidInputError
from engine.trainer.heads import Head, HeadName

NAMES: tuple[HeadName, ...] = ("arcface", "cosface")


def naive(
    name: HeadName, weights: Tensor, vectors: Tensor, labels: Tensor, margin: float, scale: float
) -> float:
    """Deng et al. 2019, equation 3, and Wang et al. 2018, equation 4, row by row in float64."""
    total = 0.0
    for vector, label in zip(vectors.double(), labels.tolist(), strict=True):
        logits = []
        for identity, weight in enumerate(weights.double().T):
            cosine = float(vector @ weight / (vector.norm() * weight.norm()))
            if identity == label:
                angle = math.acos(cosine)
                if name == "cosface":
                    cosine -= margin
                elif angle + margin <= math.pi:
                    cosine = math.cos(angle + margin)
                else:
                    cosine -= margin * math.sin(margin)
            logits.append(scale * cosine)
        highest = max(logits)
        total += highest + math.log(sum(math.exp(x - highest) for x in logits)) - logits[label]
    return total / len(labels)


def head_of(name: HeadName, *, num_identities: int = 7, scale: float = 64.0, seed: int = 0) -> Head:
    return Head(name, num_identities=num_identities, dimension=6, scale=scale, seed=seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("margin", [0.0, 0.35, 0.5, 2.0])
@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_a_head_gives_its_papers_loss(name: HeadName, margin: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(2)
    vectors = 3.0 * torch.randn(20, 6, generator=generator)
    labels = torch.randint(0, 7, (20,), generator=generator)
    head = head_of(name, scale=scale)
    given = float(head(vectors, labels, margin).detach())
    assert given == pytest.approx(naive(name, head.loss.W.detach(), vectors, labels, margin, scale), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_a_vector_on_or_against_its_identitys_or_zero_has_finite_gradients(
    name: HeadName, sign: float
) -> None:
    head = head_of(name)
    labels = torch.arange(7)
    vectors = (sign * head.loss.W.detach().T).clone().requires_grad_()
    loss = head(vectors, labels, 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
    assert torch.isfinite(head.loss.W.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_seed_and_travel_in_the_state(name: HeadName) -> None:
    before = torch.get_rng_state()
    first, again, other = head_of(name, seed=1), head_of(name, seed=1), head_of(name, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.loss.W, again.loss.W)
    assert not torch.equal(first.loss.W, other.loss.W)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.loss.W, other.loss.W)
    assert [tuple(p.shape) for p in first.parameters()] == [(6, 7)]


@pytest.mark.parametrize("label", [-1, 7])
def test_a_label_of_no_identity_is_refused_by_its_number(label: int) -> None:
    with pytest.raises(
        InvalidInputError, match=f"labels go from .*{label}.*; this head knows 0 to 6|to 7; this"
    ):
        head_of("arcface")(torch.randn(2, 6), torch.tensor([label, 3]), 0.5)


def test_no_rows_cost_nothing() -> None:
    head = head_of("cosface")
    vectors = torch.empty(0, 6, requires_grad=True)
    loss = head(vectors, torch.empty(0, dtype=torch.int64), 0.35)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not head.loss.W.grad.any()


def test_cosines_are_the_means_over_own_and_other_identities() -> None:
    head = head_of("arcface")
    vectors, labels = (
        torch.randn(5, 6, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 1, 1, 6, 3]),
    )
    cosines = torch.cosine_similarity(vectors[:, None], head.loss.W.T[None], dim=2)
    is_own = torch.zeros(5, 7, dtype=torch.bool)
    is_own[torch.arange(5), labels] = True
    own, others = head.cosines(vectors, labels)
    torch.testing.assert_close(own, cosines[is_own].mean().detach())
    torch.testing.assert_close(others, cosines[~is_own].mean().detach())
