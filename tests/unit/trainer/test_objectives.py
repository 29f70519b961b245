"""An objective is what its settings say, learns, never hides a bad number, and resumes to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine import config
from engine.errors import InvalidInputError, SettingsError
from engine.trainer import losses, mining
from engine.trainer.comparisons import Comparison
from engine.trainer.objectives import (
    Objective,
    ObjectiveSettings,
    Outcome,
    ThresholdTerm,
    build_objective,
)

DIMENSION, NUM_IDENTITIES = 16, 12

pytestmark = pytest.mark.usefixtures("one_torch_thread")


EVERY: dict[str, dict[str, Any]] = {
    "triplet": {},
    "triplet, window": {"miner": "semihard-window"},
    "triplet, hard, l2": {"miner": "hard", "distance": "l2"},
    "triplet, weighted": {"miner": "distance-weighted"},
    "triplet, all, active, angular": {"miner": "all", "average": "active", "distance": "angular"},
    "triplet, warm-up, memory": {"margin_warmup_steps": 5, "memory_size": 40},
    "triplet, threshold, memory": {"global_threshold_weight": 1.0, "memory_size": 40},
    "triplet, not unit": {"is_unit": False},
    "soft-triplet": {"loss": "soft-triplet", "miner": "hard"},
    "soft-triplet, window": {"loss": "soft-triplet", "miner": "semihard-window", "margin": 0.5},
    "contrastive": {"loss": "contrastive"},
    "contrastive, hardest": {"loss": "contrastive", "negative_pairs": "hardest", "memory_size": 40},
    "pair-hinge": {"loss": "pair-hinge"},
    "pair-hinge, threshold": {"loss": "pair-hinge", "global_threshold_weight": 0.5},
    "arcface": {"loss": "arcface", "margin_warmup_steps": 5},
    "cosface": {"loss": "cosface", "scale": 16.0},
    "cosface, threshold": {"loss": "cosface", "global_threshold_weight": 1.0, "memory_size": 40},
}


def made(name: str, seed: int = 0) -> Objective:
    settings = config.build(ObjectiveSettings, EVERY[name])
    return build_objective(settings, NUM_IDENTITIES, DIMENSION, seed=seed)


def batch(seed: int, *, num_identities: int = 8, num_pictures: int = 3) -> tuple[Tensor, Tensor]:
    """Raw vectors about their identity's, not at unit length, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(NUM_IDENTITIES, generator=generator)[:num_identities].repeat_interleave(
        num_pictures
    )
    centres = torch.randn(NUM_IDENTITIES, DIMENSION, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(len(labels), DIMENSION, generator=generator)
    return 0.4 * (centres[labels] + 1.5 * noise), labels


def check(outcome: Outcome) -> None:
    assert outcome.loss.shape == ()
    assert outcome.loss.dtype == torch.float32
    for name, figure in outcome.figures.items():
        assert figure.shape == (), name
        assert figure.dtype == torch.float32, name
        assert not figure.requires_grad, name
        assert torch.isfinite(figure), name
    assert torch.equal(outcome.figures["loss"], outcome.loss.detach())


@pytest.mark.parametrize("name", EVERY)
def test_every_objective_goes_down_when_vectors_follow_its_gradient(name: str) -> None:
    objective = made(name)
    vectors, labels = batch(0)
    vectors.requires_grad_()
    optimizer = torch.optim.Adam([vectors, *objective.parameters()], lr=0.02)
    history = []
    for step in range(10, 60):  # past the warm-up of the margin
        outcome = objective(vectors, labels, step)
        check(outcome)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        history.append(float(outcome.loss.detach()))
    # An average over active triplets and a moving window lose their easiest ones as they are learnt, and old
    # vectors in a memory move away slowly.
    mated, strangers = _separation(vectors.detach(), labels)
    first, first_strangers = _separation(*batch(0))
    assert strangers - mated > first_strangers - first + 0.05
    if "active" not in name and "window" not in name:
        assert history[-1] < 0.7 * history[0]


def _separation(vectors: Tensor, labels: Tensor) -> tuple[float, float]:
    comparison = Comparison.of(vectors, labels).unit()
    d = comparison.distances("squared-l2")
    return float(d[comparison.is_positive()].mean()), float(d[comparison.is_negative()].mean())


LABELS = {
    "no rows": [],
    "one row": [4],
    "one identity": [2, 2, 2, 2],
    "only singles": [0, 1, 2, 3],
    "some singles": [0, 0, 1, 2, 3],
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("labels", LABELS)
def test_odd_batches_have_finite_losses_and_gradients(name: str, labels: str) -> None:
    numbers = torch.tensor(LABELS[labels], dtype=torch.int64)
    drawn = torch.randn(len(numbers), DIMENSION, generator=torch.Generator().manual_seed(3))
    for vectors in (drawn, torch.full_like(drawn, 0.3), torch.zeros_like(drawn)):
        vectors.requires_grad_()
        objective = made(name)
        for step in (0, 9):  # the second finds the first in memory
            outcome = objective(vectors, numbers, step)
            check(outcome)
            (gradient,) = torch.autograd.grad(outcome.loss, vectors)
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", [name for name in EVERY if "triplet" in name and "memory" not in name])
@pytest.mark.parametrize("labels", ["no rows", "one row", "one identity", "only singles"])
def test_without_a_triplet_the_loss_and_its_gradient_are_zero(name: str, labels: str) -> None:
    numbers = torch.tensor(LABELS[labels], dtype=torch.int64)
    vectors = torch.randn(
        len(numbers), DIMENSION, generator=torch.Generator().manual_seed(3)
    ).requires_grad_()
    outcome = made(name)(vectors, numbers, 9)
    outcome.loss.backward()
    assert float(outcome.loss.detach()) == 0.0
    assert float(outcome.figures["num_triplets"]) == 0.0
    assert vectors.grad is not None
    assert not vectors.grad.any()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_vector_that_is_no_number_makes_the_loss_none_even_where_no_triplet_holds_it(
    name: str, bad: float
) -> None:
    vectors, labels = batch(0)
    labels = labels.clone()
    labels[-1] = next(i for i in range(NUM_IDENTITIES) if i not in labels.tolist())
    vectors[-1, 0] = bad
    assert not torch.isfinite(made(name)(vectors, labels, 9).loss)


@pytest.mark.parametrize("name", EVERY)
def test_a_run_that_resumes_is_the_run_that_went_on_to_the_bit(name: str) -> None:
    def run(objective: Objective, steps: range) -> list[Tensor]:
        optimizer = torch.optim.SGD([*objective.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        seen = []
        for step in steps:
            vectors, labels = batch(step)
            vectors.requires_grad_()
            outcome = objective(vectors, labels, step)
            optimizer.zero_grad()
            outcome.loss.backward()
            optimizer.step()
            assert vectors.grad is not None
            seen += [outcome.loss.detach(), vectors.grad, *outcome.figures.values()]
        return seen

    whole = run(made(name), range(6))
    first = made(name)
    head = run(first, range(3))
    torch.manual_seed(12345)  # a process that begins anew has other draws behind it
    resumed = made(name)
    resumed.load_state_dict(first.state_dict())
    tail = run(resumed, range(3, 6))
    assert len(whole) == len(head) + len(tail)
    assert all(torch.equal(a, b) for a, b in zip(whole, head + tail, strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_under_autocast_all_is_float32(name: str) -> None:
    vectors, labels = batch(1)
    plain = made(name)(vectors, labels, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        casted = made(name)(vectors, labels, 9)
        from_half = made(name)(vectors.bfloat16(), labels, 9)
    assert torch.equal(plain.loss, casted.loss)
    assert from_half.loss.dtype == torch.float32


def test_the_default_is_semihard_on_squared_l2_of_unit_vectors_with_margin_a_fifth() -> None:
    vectors, labels = batch(2)
    comparison = Comparison.of(vectors, labels).unit()
    d = comparison.distances("squared-l2")
    triplets = mining.mine_semihard(d, labels, labels)
    outcome = made("triplet")(vectors, labels, 0)
    expected = losses.triplet_margin(d, triplets, 0.2).mean()
    torch.testing.assert_close(outcome.loss, expected)
    assert float(outcome.figures["num_triplets"]) == len(triplets) == 8 * 3 * 2
    assert float(outcome.figures["margin"]) == pytest.approx(0.2)


def test_a_memory_gives_the_loss_of_the_batch_beside_the_last_vectors() -> None:
    objective = made("triplet, warm-up, memory")
    earlier, labels_earlier = batch(5)
    objective(earlier, labels_earlier, 7)
    vectors, labels = batch(6)
    outcome = objective(vectors, labels, 8)
    assert float(outcome.figures["num_memory"]) == len(earlier)
    beside = Comparison(
        vectors, labels, torch.cat([vectors, earlier]), torch.cat([labels, labels_earlier])
    ).unit()
    d = beside.distances("squared-l2")
    triplets = mining.mine_semihard(d, labels, beside.reference_labels)
    assert int(triplets.negatives.max()) >= len(vectors)
    torch.testing.assert_close(outcome.loss, losses.triplet_margin(d, triplets, 0.2).mean())


def test_a_memory_begins_at_its_step_and_stands_still_in_evaluation() -> None:
    settings = ObjectiveSettings(memory_size=10, memory_start_step=2, global_threshold_weight=1.0)
    objective = build_objective(settings, NUM_IDENTITIES, DIMENSION)
    vectors, labels = batch(0, num_identities=2, num_pictures=2)
    seen = [float(objective(vectors, labels, step).figures["num_memory"]) for step in range(5)]
    assert seen == [0.0, 0.0, 0.0, 4.0, 8.0]
    objective.eval()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective(vectors, labels, 5)
    after = objective.state_dict()
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)


def test_the_threshold_settles_where_its_share_of_strangers_passes() -> None:
    settings = ObjectiveSettings(global_threshold_weight=1.0, global_threshold_share=0.1)
    objective = build_objective(settings, NUM_IDENTITIES, DIMENSION)
    passing = [float(objective(*batch(step), step).figures["share_passing"]) for step in range(80)]
    assert sum(passing[30:]) / 50 == pytest.approx(0.1, abs=0.03)


def test_the_threshold_term_is_added_to_the_main_loss_by_its_weight() -> None:
    vectors, labels = batch(4)
    plain = made("pair-hinge")(vectors, labels, 0).loss
    figures = made("pair-hinge, threshold")(vectors, labels, 0).figures
    torch.testing.assert_close(figures["main_loss"], plain)
    torch.testing.assert_close(figures["loss"], plain + figures["threshold_loss"])
    doubled = build_objective(
        ObjectiveSettings(loss="pair-hinge", global_threshold_weight=1.0), NUM_IDENTITIES, DIMENSION
    )
    other = doubled(vectors, labels, 0).figures
    torch.testing.assert_close(other["threshold_loss"], 2.0 * figures["threshold_loss"])


def test_the_threshold_term_brings_mated_pairs_over_the_threshold_of_strangers() -> None:
    """By itself: it is what FNIR at a fixed FPIR counts that goes down."""
    settings = ObjectiveSettings(global_threshold_weight=1.0, global_threshold_share=0.1)
    term = ThresholdTerm(settings)
    vectors, labels = batch(0)
    vectors.requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=0.01)
    first = _missed(vectors.detach(), labels)
    for _ in range(120):
        loss, _figures = term(Comparison.of(vectors, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first > 0.5
    assert _missed(vectors.detach(), labels) < 0.05


def _missed(vectors: Tensor, labels: Tensor) -> float:
    """Share of mated pairs at or below the similarity that a tenth of rows' top strangers pass."""
    comparison = Comparison.of(vectors, labels).unit()
    similarities = comparison.vectors @ comparison.vectors.T
    tops = similarities.masked_fill(~comparison.is_negative(), -1.0).amax(1)
    return float((similarities[comparison.is_positive()] <= tops.quantile(0.9)).float().mean())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "arcface", "miner": "hard"}, "objective.miner is 'hard', but loss arcface takes none"),
        ({"loss": "contrastive", "distance": "l2"}, "objective.distance is 'l2'"),
        ({"loss": "pair-hinge", "average": "active"}, "objective.average is 'active'"),
        ({"negative_pairs": "hardest"}, "objective.negative_pairs is 'hardest', but loss triplet"),
        ({"loss": "contrastive", "threshold": 0.6}, "objective.threshold is 0.6"),
        ({"scale": 64.0}, "objective.scale is 64.0"),
        ({"loss": "cosface", "is_unit": False}, "objective.is_unit is False"),
        ({"loss": "soft-triplet", "margin": 0.2}, "soft-triplet has no margin"),
        ({"loss": "soft-triplet", "margin_warmup_steps": 3}, "soft-triplet has no margin"),
        ({"loss": "pair-hinge", "margin": 0.7}, "objective.margin 0.7 is not below objective.threshold 0.6"),
        ({"loss": "arcface", "memory_size": 9}, "objective.memory_size is 9"),
        ({"memory_start_step": 9}, "objective.memory_size is 0"),
        ({"loss": "triplets"}, "triplets"),
        ({"margin": 0.0}, "margin"),
        ({"global_threshold_share": 1.0}, "global_threshold_share"),
        ({"marign": 0.2}, "did you mean `margin`"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        config.build(ObjectiveSettings, values)


@pytest.mark.parametrize("num_identities", [0, 1])
def test_fewer_than_two_identities_are_refused(num_identities: int) -> None:
    with pytest.raises(SettingsError, match="without a second one there are no negatives"):
        build_objective(ObjectiveSettings(), num_identities, DIMENSION)


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64), r"this objective takes float\[n, 16\]"),
        (torch.zeros(16), torch.zeros(16, dtype=torch.int64), "this objective takes"),
        (torch.zeros(3, 16, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), "this objective takes"),
        (torch.zeros(3, 16), torch.zeros(2, dtype=torch.int64), r"3 vectors need torch.int64\[3\]"),
        (torch.zeros(3, 16), torch.zeros(3), "labels are torch.float32"),
    ],
)
def test_wrong_shapes_and_types_are_refused_by_what_came(
    vectors: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        made("triplet")(vectors, labels, 0)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(SettingsError, match="pytorch-metric-learning") as raised:
        made("arcface")
    assert "pip install 'identiface[train]'" in raised.value.hint
