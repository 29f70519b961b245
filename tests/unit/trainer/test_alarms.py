"""When a run must stop."""

from __future__ import annotations

import pytest
import torch

from engine.errors import TrainingError
from engine.trainer import alarms
from engine.trainer.alarms import COLLAPSED_STEPS, SPREAD_MIN, Alarms


def test_healthy_steps_raise_nothing() -> None:
    watch = Alarms()
    for step in range(100):
        watch.check(step, 0.2, 1.0, 0.5)


@pytest.mark.parametrize(
    ("loss", "gradient_norm", "what"),
    [
        (float("nan"), 1.0, "loss of step 7"),
        (float("inf"), 1.0, "loss of step 7"),
        (0.1, float("nan"), "gradient of step 7"),
        (0.1, float("inf"), "gradient of step 7"),
    ],
)
def test_what_is_not_finite_stops_the_run_and_says_what_came_before(
    loss: float, gradient_norm: float, what: str
) -> None:
    watch = Alarms()
    watch.check(6, 0.25, 1.0, 0.5)
    with pytest.raises(TrainingError, match=what) as raised:
        watch.check(7, loss, gradient_norm, 0.5)
    assert "step 6 loss 0.25" in raised.value.message
    assert "optimizer.learning_rate" in raised.value.hint
    # At the first steps there is none.
    assert "checkpoint" not in raised.value.hint


def test_vectors_that_have_become_one_stop_the_run_after_some_steps_in_a_row() -> None:
    watch = Alarms()
    for step in range(COLLAPSED_STEPS - 1):
        watch.check(step, 0.2, 0.0, SPREAD_MIN / 2)
    with pytest.raises(TrainingError, match="have become one") as raised:
        watch.check(COLLAPSED_STEPS, 0.2, 0.0, SPREAD_MIN / 2)
    assert "semihard" in raised.value.hint


def test_one_step_that_is_spread_out_ends_the_count() -> None:
    watch = Alarms()
    for step in range(10 * COLLAPSED_STEPS):
        watch.check(step, 0.2, 0.0, 0.5 if step % (COLLAPSED_STEPS - 1) == 0 else 0.0)


def test_short_memory_names_the_largest_half_that_fits() -> None:
    tried: list[int] = []

    def does_fit(size: int) -> bool:
        tried.append(size)
        return size <= 20

    error = alarms.out_of_memory(128, does_fit, "cpu")
    assert (
        "a batch of 128 pictures does not fit into the memory of cpu: 16 pictures would fit" in error.message
    )
    assert tried == [64, 32, 16]


def test_short_memory_for_anything_says_so() -> None:
    assert "not even two" in alarms.out_of_memory(4, lambda _size: False, "cpu").message


def test_short_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert alarms.is_out_of_memory(raised.value)
    assert alarms.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not alarms.is_out_of_memory(RuntimeError("shapes do not fit"))


def test_figures_are_read_at_once() -> None:
    figures = {"loss": torch.tensor(0.5), "num_triplets": torch.tensor(3)}
    assert alarms.plain(figures) == {"loss": 0.5, "num_triplets": 3.0}
    assert alarms.plain({}) == {}


@pytest.mark.parametrize(
    ("error", "is_short"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_words_of_short_memory_are_known(error: Exception, is_short: bool) -> None:
    assert alarms.is_out_of_memory(error) is is_short
