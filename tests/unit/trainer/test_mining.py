"""Each miner gives what its slow and obvious definition gives, and nothing where there is nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.errors import InvalidInputError
from engine.trainer import losses, mining
from engine.trainer.comparisons import Comparison, Distance, distances
from engine.trainer.mining import (
    Triplets,
    mine_all,
    mine_distance_weighted,
    mine_hard,
    mine_semihard,
    mine_semihard_window,
    picked,
    seed_of_step,
    triplet_figures,
)

MARGIN = 0.4
KINDS: tuple[Distance, ...] = ("angular", "squared-l2", "l2")
BY_DISTANCE: dict[str, Callable[[Tensor, Tensor, Tensor], Triplets]] = {
    "semihard": mine_semihard,
    "semihard-window": lambda d, a, r: mine_semihard_window(d, a, r, MARGIN),
    "hard": mine_hard,
    "all": lambda _, a, r: mine_all(a, r),
}
Rows = list[tuple[int, int, int]]


def all_triplets(labels: Tensor, reference_labels: Tensor) -> Rows:
    """Every (anchor, positive, negative), by three loops."""
    own, others = labels.tolist(), reference_labels.tolist()
    return [
        (a, p, n)
        for a in range(len(own))
        for p in range(len(others))
        if p != a and others[p] == own[a]
        for n in range(len(others))
        if others[n] != own[a]
    ]


def oracle(name: str, d: Tensor, labels: Tensor, reference_labels: Tensor) -> Rows:
    """What a miner must give, sorted; distances of the tests have no ties."""
    rows = all_triplets(labels, reference_labels)
    if name == "all":
        return sorted(rows)
    if name == "semihard-window":
        return sorted(
            row for row in rows if d[row[0], row[1]] < d[row[0], row[2]] <= d[row[0], row[1]] + MARGIN
        )
    chosen: Rows = []
    if name == "hard":
        for anchor in {a for a, _, _ in rows}:
            positive = max((p for a, p, _ in rows if a == anchor), key=lambda p: float(d[anchor, p]))
            negative = min((n for a, _, n in rows if a == anchor), key=lambda n: float(d[anchor, n]))
            chosen.append((anchor, positive, negative))
        return sorted(chosen)
    for anchor, positive in {(a, p) for a, p, _ in rows}:
        negatives = [n for a, p, n in rows if (a, p) == (anchor, positive)]
        farther = [n for n in negatives if d[anchor, n] > d[anchor, positive]]
        if farther:
            chosen.append((anchor, positive, min(farther, key=lambda n: float(d[anchor, n]))))
        else:
            chosen.append((anchor, positive, max(negatives, key=lambda n: float(d[anchor, n]))))
    return sorted(chosen)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for one in given if isinstance(given, (tuple, list)) else [given]:
            if isinstance(one, Tensor):
                self.num_bytes = max(self.num_bytes, one.nelement() * one.element_size())
        return given


def rows_of(triplets: Triplets) -> Rows:
    stacked = torch.stack([triplets.anchors, triplets.positives, triplets.negatives], 1)
    return sorted((a, p, n) for a, p, n in stacked.tolist())


def draw(seed: int, n: int, extra: int, num_identities: int) -> Comparison:
    """A batch of n rows, and `extra` references of earlier batches."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n + extra, 5, generator=generator)
    labels = torch.randint(0, num_identities, (n + extra,), generator=generator)
    return Comparison(vectors[:n], labels[:n], vectors, labels)


@pytest.mark.parametrize("name", BY_DISTANCE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "extra", "num_identities"),
    [(16, 0, 4), (13, 0, 11), (6, 0, 1), (9, 14, 4), (5, 8, 20), (4, 3, 2)],
)
def test_a_miner_gives_what_its_definition_by_loops_gives(
    name: str, kind: Distance, n: int, extra: int, num_identities: int
) -> None:
    for seed in range(3):
        batch = draw(seed, n, extra, num_identities)
        d = batch.distances(kind)
        mined = BY_DISTANCE[name](d, batch.labels, batch.reference_labels)
        assert rows_of(mined) == oracle(name, d, batch.labels, batch.reference_labels)


@pytest.mark.parametrize(("n", "extra", "num_identities"), [(1, 0, 1), (30, 0, 9), (12, 50, 3), (24, 5, 2)])
def test_semihard_gives_the_same_by_scan_in_blocks_and_by_sort(
    n: int, extra: int, num_identities: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = draw(4, n, extra, num_identities)
    d = batch.distances("squared-l2")
    mined = []
    for positives_max, block in ((0, 1), (10**6, 1), (10**6, 100), (10**6, 2**20)):
        monkeypatch.setattr(mining, "SCANNED_POSITIVES_MAX", positives_max)
        monkeypatch.setattr(mining, "SCANNED_BLOCK", block)
        mined.append(rows_of(mine_semihard(d, batch.labels, batch.reference_labels)))
    assert mined[1:] == mined[:1] * 3


def published(path: Path) -> list[tuple[str, int, str, float]]:
    values: dict[str, Any] = json.loads(path.read_text())
    return [
        (name, int(seed.removeprefix("seed ")), kind, value)
        for name, by_seed in values.items()
        if name != "note"
        for seed, by_kind in by_seed.items()
        for kind, value in by_kind.items()
    ]


@pytest.mark.data
def test_semihard_and_hard_give_the_published_values(data_folder: Path) -> None:
    rows = published(data_folder / "training" / "triplet_expected.json")
    assert len(rows) == 18
    for name, seed, file_kind, expected in rows:
        random = np.random.RandomState(seed)
        n = 10 if name.startswith("semi_hard") else 20
        vectors = torch.from_numpy(random.rand(n, 6).astype(np.float32))
        labels = torch.from_numpy(random.randint(0, 4, n))
        kind = {"angular": "angular", "squared_l2": "squared-l2", "l2": "l2"}[file_kind]
        d = distances(vectors, vectors, kind)  # type: ignore[arg-type]
        triplets = (mine_semihard if name.startswith("semi_hard") else mine_hard)(d, labels, labels)
        is_soft = "soft_margin" in name
        paid = losses.triplet_soft_margin(d, triplets) if is_soft else losses.triplet_margin(d, triplets, 1.0)
        assert float(losses.mean_or_zero(paid)) == pytest.approx(expected, abs=1e-5), (name, seed, kind)


@pytest.mark.parametrize("name", [*BY_DISTANCE, "distance-weighted"])
@pytest.mark.parametrize(
    "labels", [[], [0], [3, 3, 3], [0, 1, 2, 3]], ids=["no rows", "one row", "one identity", "only singles"]
)
def test_where_no_triplet_is_possible_none_is_mined(name: str, labels: list[int]) -> None:
    numbers = torch.tensor(labels, dtype=torch.int64)
    vectors = torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(0))
    batch = Comparison.of(vectors, numbers)
    if name == "distance-weighted":
        mined = mine_distance_weighted(batch, 0)
    else:
        mined = BY_DISTANCE[name](batch.distances("squared-l2"), numbers, numbers)
    assert len(mined) == 0
    assert mined.anchors.dtype == torch.int64
    figures = triplet_figures(batch.distances("squared-l2"), mined, 0.2)
    assert float(figures.num_triplets) == 0.0
    assert float(figures.mean_positive_distance) == 0.0


@pytest.mark.parametrize("name", BY_DISTANCE)
def test_equal_vectors_are_mined_by_label_alone(name: str) -> None:
    labels = torch.tensor([0, 0, 1, 1, 1])
    mined = BY_DISTANCE[name](torch.zeros(5, 5), labels, labels)
    assert set(rows_of(mined)) <= set(all_triplets(labels, labels))
    # A window takes only negatives that are farther; every other miner has triplets to give.
    assert len(mined) == {"semihard": 8, "semihard-window": 0, "hard": 5, "all": 18}[name]


def test_semihard_passes_over_negatives_exactly_as_far_as_the_positive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of anchor 0 with positive 1 at 2.0: negatives at 2.0 are no farther, so 5 at 3.0 is taken; of anchor 1
    no negative is farther, so its farthest. TensorFlow Addons' mask is likewise strict."""
    labels = torch.tensor([0, 0, 1, 2, 3, 4])
    d = torch.full((6, 6), 9.0).fill_diagonal_(0.0)
    d[0, 1:] = torch.tensor([2.0, 2.0, 4.0, 2.0, 3.0])
    d[1] = torch.tensor([2.0, 0.0, 1.0, 2.0, 0.5, 1.5])
    for positives_max in (0, 10**6):
        monkeypatch.setattr(mining, "SCANNED_POSITIVES_MAX", positives_max)
        assert rows_of(mine_semihard(d, labels, labels)) == [(0, 1, 5), (1, 0, 3)]
    assert rows_of(mine_semihard_window(d, labels, labels, 1.0)) == [(0, 1, 5)]


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_triplets_are_listed_alike_in_blocks_of_any_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = draw(5, 12, 9, 4)
    d = batch.distances("squared-l2")
    monkeypatch.setattr(mining, "SCANNED_BLOCK", block)
    for name in ("all", "semihard-window"):
        mined = BY_DISTANCE[name](d, batch.labels, batch.reference_labels)
        assert len(mined) > 0
        assert rows_of(mined) == oracle(name, d, batch.labels, batch.reference_labels)


@pytest.mark.parametrize("kind", ["few positives", "few negatives"])
def test_nothing_larger_than_a_block_or_the_triplets_is_built(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mining, "SCANNED_BLOCK", 2**14)
    if kind == "few positives":
        labels = torch.arange(64).repeat_interleave(2)
        references, num = torch.cat([labels, torch.arange(64, 4014)]), 128 * (4078 - 2)
    else:
        labels = references = torch.arange(300).clamp(max=1)
        num = 299 * 298
    with Largest() as seen:
        mined = mine_all(labels, references)
    assert len(mined) == num
    # Row numbers of 8 bytes, three for each triplet.
    assert seen.num_bytes <= 8 * 3 * num


def test_distance_weighted_draws_the_same_for_the_same_seed_and_moves_no_generator() -> None:
    batch = draw(1, 24, 0, 5)
    before = torch.get_rng_state()
    first, again = mine_distance_weighted(batch, 7), mine_distance_weighted(batch, 7)
    assert torch.equal(torch.get_rng_state(), before)
    assert rows_of(first) == rows_of(again)
    assert rows_of(first) != rows_of(mine_distance_weighted(batch, 8))
    assert set(rows_of(first)) <= set(all_triplets(batch.labels, batch.labels))


def test_distance_weighted_never_takes_a_row_for_its_own_positive_beside_a_memory() -> None:
    batch = draw(2, 10, 20, 3)
    mined = mine_distance_weighted(batch, 3)
    assert len(mined) > 0
    assert set(rows_of(mined)) <= set(all_triplets(batch.labels, batch.reference_labels))


def test_distance_weighted_draws_each_negative_as_often_as_the_paper_says() -> None:
    """One anchor with one positive and three negatives on the sphere: the chance is 1 / q(distance), where
    q(D) = D^(d-2) (1 - D^2 / 4)^((d-3)/2) (Wu et al. 2017, section 4)."""
    d = 8
    angles = torch.tensor([0.0, 0.1, 0.7, 0.9, 1.2])
    vectors = torch.zeros(5, d)
    vectors[:, 0], vectors[:, 1] = angles.cos(), angles.sin()
    labels = torch.tensor([0, 0, 1, 2, 3])
    far = (vectors[2:] - vectors[0]).norm(dim=1)
    q = far ** (d - 2) * (1.0 - far**2 / 4.0) ** ((d - 3) / 2)
    expected = (1.0 / q) / (1.0 / q).sum()
    drawn = []
    for seed in range(1200):
        mined = mine_distance_weighted(Comparison.of(vectors, labels), seed)
        drawn += mined.negatives[mined.anchors == 0].tolist()
    shares = np.bincount(drawn, minlength=5)[2:] / len(drawn)
    np.testing.assert_allclose(shares, expected.numpy(), atol=4.0 * np.sqrt(0.25 / len(drawn)))


def test_too_many_triplets_are_refused_before_they_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(4).repeat_interleave(2)
    num = len(all_triplets(labels, labels))
    monkeypatch.setattr(mining, "NUM_TRIPLETS_MAX", num)
    assert len(mine_all(labels, labels)) == num
    monkeypatch.setattr(mining, "NUM_TRIPLETS_MAX", num - 1)
    with pytest.raises(InvalidInputError, match=f"8 anchors and 8 references make {num} triplets"):
        mine_all(labels, labels)
    with pytest.raises(InvalidInputError, match="more than"):
        mine_semihard_window(torch.zeros(8, 8), labels, labels, 0.2)


def test_figures_are_the_means_over_what_was_mined() -> None:
    d = torch.tensor([[0.0, 1.0, 1.5, 4.0], [1.0, 0.0, 3.0, 2.0], [1.5, 3.0, 0.0, 9.0], [4.0, 2.0, 9.0, 0.0]])
    triplets = Triplets(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0]), torch.tensor([2, 3, 3]))
    figures = triplet_figures(d, triplets, margin=0.75)
    assert float(figures.num_triplets) == 3.0
    assert float(figures.share_active) == pytest.approx(1 / 3)
    assert float(figures.mean_positive_distance) == pytest.approx(1.0)
    assert float(figures.mean_negative_distance) == pytest.approx((1.5 + 4.0 + 2.0) / 3)


def test_the_gradient_of_a_place_picked_often_is_the_same_to_the_bit_with_two_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    d = torch.rand(64, 64, generator=generator, requires_grad=True)
    rows = torch.randint(0, 4, (2_000_000,), generator=generator)
    weights = torch.rand(2_000_000, generator=generator)
    num_threads = torch.get_num_threads()
    gradients = []
    try:
        for threads in (2, 2, 2, 1):
            torch.set_num_threads(threads)
            (gradient,) = torch.autograd.grad((picked(d, rows, rows) * weights).sum(), d)
            gradients.append(gradient)
    finally:
        torch.set_num_threads(num_threads)
    assert all(torch.equal(gradients[0], gradient) for gradient in gradients)


def test_each_step_of_a_run_has_a_seed_of_its_own() -> None:
    seeds = {seed_of_step(seed, step) for seed in range(5) for step in range(100)}
    assert len(seeds) == 500
    assert seed_of_step(3, 9) == seed_of_step(3, 9)
