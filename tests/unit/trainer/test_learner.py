"""One step of training: what a vector is made of, how weights and their average move."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.embedding.torch_network import Scaling
from engine.trainer.distributed import ALONE
from engine.trainer.learner import Faces, Learner, learning_rate
from engine.trainer.objectives import build_objective
from engine.trainer.settings import OptimizerSettings, TrainSettings

SCALING = Scaling((127.5, 127.5, 127.5), 128.0)
DIMENSION = 64


class Tiny(nn.Module):
    """Pixels to raw vectors by one linear map that tells left from right."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3 * 8 * 8, DIMENSION)

    def forward(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.map(pixels.flatten(1))
        return vectors


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (8, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def learner(settings: TrainSettings | None = None, *, is_mirrored: bool = False) -> Learner:
    settings = settings or TrainSettings()
    torch.manual_seed(1)
    faces = Faces(Tiny(), SCALING, is_mirrored=is_mirrored, is_bfloat16=settings.precision == "bfloat16")
    return Learner(faces, build_objective(settings.objective, 4, DIMENSION), settings, ALONE, "cpu")


def test_pixels_are_scaled_and_turned_to_channels_first() -> None:
    pixels, _ = batch()
    tiny = Tiny()
    vectors = Faces(tiny, SCALING, is_mirrored=False, is_bfloat16=False)(pixels)
    by_hand = (pixels.numpy().transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128.0
    torch.testing.assert_close(vectors, tiny(torch.from_numpy(by_hand)))


def test_a_template_is_the_sum_of_a_face_and_its_mirror() -> None:
    pixels, _ = batch()
    tiny = Tiny()
    both = Faces(tiny, SCALING, is_mirrored=True, is_bfloat16=False)(pixels)
    one = Faces(tiny, SCALING, is_mirrored=False, is_bfloat16=False)
    torch.testing.assert_close(both, one(pixels) + one(pixels.flip(2)))


def test_views_of_features_are_summed() -> None:
    features = torch.randn(5, 2, 10)
    module = nn.Linear(10, DIMENSION)
    vectors = Faces(module, None, is_mirrored=False, is_bfloat16=False)(features.half())
    halves = features.half().float()
    torch.testing.assert_close(vectors, module(halves[:, 0]) + module(halves[:, 1]))


def test_vectors_are_float32_in_bfloat16_too() -> None:
    pixels, _ = batch()
    vectors = Faces(Tiny(), SCALING, is_mirrored=False, is_bfloat16=True)(pixels)
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, vectors.bfloat16().float())


def test_nothing_moves_before_the_alarms_have_looked() -> None:
    training = learner()
    before = [p.detach().clone() for p in training.faces.parameters()]
    figures = training.forward_backward(*batch(), 0)
    assert figures.loss > 0
    assert figures.gradient_norm > 0
    assert all(torch.equal(a, b) for a, b in zip(before, training.faces.parameters(), strict=True))
    training.move(0)
    assert not all(torch.equal(a, b) for a, b in zip(before, training.faces.parameters(), strict=True))


def test_gradients_are_clipped_to_their_largest_length() -> None:
    training = learner(TrainSettings(optimizer=OptimizerSettings(clip_norm=0.01)))
    figures = training.forward_backward(*batch(), 0)
    squares = [p.grad.square().sum() for p in training.parameters if p.grad is not None]
    assert figures.gradient_norm > 0.01
    assert torch.stack(squares).sum().sqrt().item() == pytest.approx(0.01, rel=1e-3)


def test_the_average_follows_the_weights_by_its_decay_and_is_what_is_shown() -> None:
    training = learner(TrainSettings(optimizer=OptimizerSettings(ema_decay=0.75, warmup_steps=0)))
    weights = training.faces.module.map.weight
    start = weights.detach().clone()
    training.forward_backward(*batch(), 0)
    training.move(0)
    moved = weights.detach().clone()
    expected = 0.1 * start + 0.9 * moved
    with training.averaged():
        torch.testing.assert_close(weights.detach(), expected)
    assert torch.equal(weights.detach(), moved)
    training.forward_backward(*batch(), 100)
    training.move(100)
    moved = weights.detach().clone()
    with training.averaged():
        torch.testing.assert_close(weights.detach(), 0.75 * expected + 0.25 * moved)


def test_what_is_shipped_is_drawn_to_the_start_by_its_share() -> None:
    training = learner(TrainSettings(optimizer=OptimizerSettings(start_share=0.25, warmup_steps=0)))
    weights = training.faces.module.map.weight
    start = weights.detach().clone()
    training.forward_backward(*batch(), 0)
    training.move(0)
    moved = weights.detach().clone()
    resumed = learner(TrainSettings(optimizer=OptimizerSettings(start_share=0.25, warmup_steps=0)))
    resumed.load(training.state())
    for one in (training, resumed):
        with one.averaged():
            torch.testing.assert_close(one.faces.module.map.weight.detach(), 0.25 * start + 0.75 * moved)
    assert torch.equal(weights.detach(), moved)


def test_a_state_taken_back_goes_on_with_the_same_bits() -> None:
    whole, broken = learner(), learner()
    for step in range(6):
        whole.forward_backward(*batch(step), step)
        whole.move(step)
    for step in range(3):
        broken.forward_backward(*batch(step), step)
        broken.move(step)
    resumed = learner()
    resumed.load(broken.state())
    for step in range(3, 6):
        resumed.forward_backward(*batch(step), step)
        resumed.move(step)
    assert torch.equal(whole.faces.module.map.weight, resumed.faces.module.map.weight)
    assert all(torch.equal(a, b) for a, b in zip(whole.average, resumed.average, strict=True))


def test_weights_decay_but_biases_do_not() -> None:
    training = learner(TrainSettings(optimizer=OptimizerSettings(weight_decay=0.5)))
    by_decay = {group["weight_decay"]: len(group["params"]) for group in training.optimizer.param_groups}
    assert by_decay == {0.5: 1, 0.0: 1}


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    settings = TrainSettings(
        num_steps=110, optimizer=OptimizerSettings(learning_rate=1.0, warmup_steps=10, final_share=0.1)
    )
    assert [learning_rate(step, settings) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert learning_rate(10, settings) == 1.0
    assert learning_rate(60, settings) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(109, settings) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 0.99)))


def test_what_fits_is_tried_with_a_whole_step() -> None:
    training = learner()
    pixels, _ = batch()
    assert training.does_fit(4, pixels)
    assert all(p.grad is None for p in training.faces.parameters())


def test_the_average_is_of_running_statistics_too() -> None:
    settings = TrainSettings(optimizer=OptimizerSettings(ema_decay=0.5, warmup_steps=0))
    torch.manual_seed(1)
    module = nn.Sequential(nn.BatchNorm2d(3), Tiny())
    faces = Faces(module, SCALING, is_mirrored=False, is_bfloat16=False)
    learning = Learner(faces, build_objective(settings.objective, 4, DIMENSION), settings, ALONE, "cpu")
    statistics = module.get_buffer("0.running_mean")
    expected = statistics.clone()
    for step in range(20):
        learning.forward_backward(*batch(step), step)
        learning.move(step)
        expected = expected.lerp(statistics, 1.0 - min(0.5, (1 + step) / (10 + step)))
    live = statistics.clone()
    assert (live - expected).abs().max() > 1e-5
    with learning.averaged():
        torch.testing.assert_close(module.get_buffer("0.running_mean"), expected)
    assert torch.equal(module.get_buffer("0.running_mean"), live)
