"""What is remembered is the last of what was written, and survives a resume."""

from __future__ import annotations

import pytest
import torch

from engine.trainer.memory import Memory, RunningQuantile


def numbered(start: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n rows with their numbers as vectors and labels."""
    labels = torch.arange(start, start + n)
    return labels[:, None].float().repeat(1, 2), labels


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
def test_the_last_rows_are_remembered_whatever_the_batch(batch: int) -> None:
    memory = Memory(5, 2)
    for step in range(6):
        memory.add(*numbered(step * batch, batch))
        written = (step + 1) * batch
        kept = sorted(label for label in memory.labels.tolist() if label >= 0)
        assert kept == list(range(max(0, written - 5), written))
        is_written = memory.labels >= 0
        assert torch.equal(memory.vectors[is_written][:, 0].long(), memory.labels[is_written])


def test_a_batch_is_compared_with_itself_first_and_with_nothing_of_an_empty_memory() -> None:
    memory = Memory(4, 2)
    vectors, labels = numbered(0, 3)
    assert len(memory.beside(vectors, labels).references) == 3
    memory.add(*numbered(7, 2))
    beside = memory.beside(vectors.requires_grad_(), labels)
    assert beside.reference_labels.tolist() == [0, 1, 2, 7, 8]
    torch.autograd.backward(beside.references.sum())
    assert vectors.grad is not None
    assert not memory.vectors.requires_grad


def test_an_empty_batch_changes_nothing() -> None:
    memory = Memory(3, 2)
    memory.add(*numbered(0, 2))
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    memory.add(*numbered(9, 0))
    assert all(torch.equal(before[name], value) for name, value in memory.state_dict().items())


def test_a_memory_resumes_where_it_was() -> None:
    whole, first = Memory(5, 2), Memory(5, 2)
    for memory in (whole, first):
        memory.add(*numbered(0, 3))
    resumed = Memory(5, 2)
    resumed.load_state_dict(first.state_dict())
    for memory in (whole, resumed):
        memory.add(*numbered(3, 4))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_threshold_is_the_quantile_of_the_last_values() -> None:
    quantile = RunningQuantile(share=0.1, size=100)
    assert torch.isnan(quantile.threshold())
    quantile.add(torch.full((60,), 9.0))
    values = torch.rand(100, generator=torch.Generator().manual_seed(0))
    quantile.add(values[:70])
    quantile.add(values[70:])
    assert float(quantile.threshold()) == pytest.approx(float(values.quantile(0.9)))
    assert float((values > quantile.threshold()).float().mean()) == pytest.approx(0.1)
    quantile.add(torch.empty(0))
    quantile.add(torch.arange(1000.0))
    assert float(quantile.threshold()) == pytest.approx(900 + 0.9 * 99)


def test_before_it_is_full_only_what_was_written_counts() -> None:
    quantile = RunningQuantile(share=0.5, size=4096)
    quantile.add(torch.tensor([0.2, 0.4, 0.6]))
    assert float(quantile.threshold()) == pytest.approx(0.4)
