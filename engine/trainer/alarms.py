"""When a run must stop: no finite numbers, collapsed vectors, no memory. Knows nothing of data or files.

Collapse is what triplet losses fall into when all vectors become one: every distance is zero and the loss
stays at its margin (Schroff et al. 2015, section 3.2; Hermans et al. 2017, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from engine.errors import TrainingError

COLLAPSED_STEPS = 25
"""So many steps in a row must look collapsed: one unlucky batch is no alarm."""
SPREAD_MIN = 1e-3
"""Mean squared distance of unit vectors below which they count as one. Seeded networks begin above 0.01, and
dlib's faces, which lie in a narrow cone, have 0.3."""

_STEPS_SHOWN = 5
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "could not create a memory",
    "could not create a primitive",
)
"""How torch and its kernels say so on a CPU."""


class Alarms:
    """Looks at every step before its weights move. Its state is part of a checkpoint."""

    def __init__(self) -> None:
        self.num_collapsed = 0
        self._last: list[str] = []

    def check(self, step: int, loss: float, gradient_norm: float, spread: float) -> None:
        """Raise TrainingError where this step must be the last; the weights are still those before it."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            before = f"; before: {', '.join(self._last)}" if self._last else ""
            raise TrainingError(
                f"the {what} of step {step} is not finite (loss {loss}, gradient {gradient_norm}){before}",
                hint="Lower optimizer.learning_rate, raise optimizer.warmup_steps, set optimizer.clip_norm,"
                " or use precision float32; then train in a new folder.",
            )
        self._last = [*self._last[1 - _STEPS_SHOWN :], f"step {step} loss {loss:.4g}"]
        self.num_collapsed = self.num_collapsed + 1 if spread < SPREAD_MIN else 0
        if self.num_collapsed >= COLLAPSED_STEPS:
            raise TrainingError(
                f"all vectors have become one: mean squared distance {spread:.2g} for {COLLAPSED_STEPS} steps"
                f" up to step {step}, at loss {loss:.4g}",
                hint="Lower optimizer.learning_rate, mine semihard instead of hard, warm the margin up"
                " (objective.margin_warmup_steps), or begin with the arcface or cosface loss; then train in a"
                " new folder.",
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch said by this error that memory was short, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


def out_of_memory(
    num_pictures: int, does_fit: Callable[[int], bool], device: str, num_ranks: int = 1
) -> TrainingError:
    """Say which batch would fit, by trying halves of `num_pictures`, the pictures of this process's part."""
    size = num_pictures // 2
    while size > 1 and not does_fit(size):
        size //= 2
    told = f"{size} pictures would fit" if size > 1 else "not even two pictures fit"
    what = (
        f"one process's part of a batch, {num_pictures} pictures,"
        if num_ranks > 1
        else (f"a batch of {num_pictures} pictures")
    )
    return TrainingError(
        f"{what} does not fit into the memory of {device}: {told}",
        hint="Lower batch.num_identities or batch.num_pictures, whose product is the batch; or train fewer"
        " stages (network.num_trainable_stages), in bfloat16, or on more devices.",
    )


def plain(figures: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Read tensors of one number each from the device, all at once."""
    if not figures:
        return {}
    values = torch.stack([value.detach().float().reshape(()) for value in figures.values()]).tolist()
    return dict(zip(figures, values, strict=True))
