"""The figures of a collapse are what two loops over pairs give."""

from __future__ import annotations

import pytest
import torch

from engine.trainer.spread import collapse_figures


@pytest.mark.parametrize(("n", "num_identities"), [(2, 1), (2, 9), (17, 5), (30, 30)])
def test_figures_are_the_means_over_pairs(n: int, num_identities: int) -> None:
    generator = torch.Generator().manual_seed(n)
    vectors = 5.0 * torch.randn(n, 8, generator=generator)
    labels = torch.randint(0, num_identities, (n,), generator=generator)
    units = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
    pairs = [
        (float((units[i] - units[j]).square().sum()), bool(labels[i] == labels[j]))
        for i in range(n)
        for j in range(i)
    ]
    kinds = {
        "mean_pairwise_distance": [d for d, _ in pairs],
        "mean_mated_distance": [d for d, is_same in pairs if is_same],
        "mean_non_mated_distance": [d for d, is_same in pairs if not is_same],
    }
    figures = collapse_figures(vectors, labels)
    for name, distances in kinds.items():
        expected = sum(distances) / max(len(distances), 1)
        assert float(figures[name]) == pytest.approx(expected, abs=1e-6), name
    expected = float((units - units.mean(0)).norm(dim=1).mean())
    assert float(figures["spread"]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [0, 1, 6])
def test_one_point_has_no_spread(n: int) -> None:
    figures = collapse_figures(torch.full((n, 4), 0.3), torch.arange(n) // 2)
    assert set(figures) == {
        "spread",
        "mean_pairwise_distance",
        "mean_mated_distance",
        "mean_non_mated_distance",
    }
    assert all(float(figure) == pytest.approx(0.0, abs=1e-7) for figure in figures.values())


def test_vectors_that_spread_evenly_are_two_apart() -> None:
    figures = collapse_figures(torch.eye(64), torch.arange(64))
    assert float(figures["mean_pairwise_distance"]) == pytest.approx(2.0)
    assert float(figures["spread"]) == pytest.approx((1 - 1 / 64) ** 0.5)


def test_a_vector_that_is_no_number_shows() -> None:
    vectors = torch.eye(4)
    vectors[2, 1] = torch.nan
    assert torch.isnan(collapse_figures(vectors, torch.arange(4))["spread"])
