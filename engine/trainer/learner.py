"""What learns: a network with its objective, optimizer and moving average, and one step of it.

Knows nothing of where batches come from, of files, or of when to stop.

One step: pixels -> this process's vectors -> vectors of all -> loss -> gradients -> (alarms) -> weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.embedding.torch_network import Scaling
from engine.trainer import distributed
from engine.trainer.alarms import is_out_of_memory, plain
from engine.trainer.distributed import Ranks
from engine.trainer.settings import OptimizerSettings, TrainSettings
from engine.trainer.spread import collapse_figures

MOMENTUM = 0.9
STATES = {"adamw": 2, "sgd": 1}
"""Tensors as large as all that learns, that an optimizer keeps."""
SEED_STRIDE = 1_000_003
"""Between the seeds of neighbouring steps: a prime, so that runs of neighbouring seeds share no step's."""

_LOSS, _NORM, _SPREAD = "loss", "gradient_norm", "mean_pairwise_distance"


class Faces(nn.Module):
    """A batch as the loader gives it to raw vectors float32[n, d], of each face alone or with its mirror."""

    def __init__(self, module: nn.Module, scaling: Scaling | None, *, is_mirrored: bool, is_bfloat16: bool):
        """`scaling` None: no pixels come, but float[n, v, ...], v views of what frozen stages gave."""
        super().__init__()
        self.module = module
        self.is_mirrored = is_mirrored
        self.is_bfloat16 = is_bfloat16
        self.scaling = scaling
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(scaling.mean_rgb if scaling else (0.0,)), persistent=False)

    def forward(self, batch: Tensor) -> Tensor:
        """Raw vectors of uint8[n, s, s, 3], or of float[n, v, ...]."""
        views = self._views(batch)
        with torch.autocast(views.device.type, dtype=torch.bfloat16, enabled=self.is_bfloat16):
            raw: Tensor = self.module(views)
        return raw.float().reshape(-1, len(batch), raw.shape[1]).sum(dim=0)

    def _views(self, batch: Tensor) -> Tensor:
        """All faces, then all mirrored ones where they are wanted."""
        if self.scaling is None:
            return batch.transpose(0, 1).flatten(0, 1).float()
        pixels = (batch.permute(0, 3, 1, 2).float() - self.mean.reshape(1, 3, 1, 1)) / self.scaling.divisor
        return torch.cat([pixels, pixels.flip(3)]) if self.is_mirrored else pixels


@dataclass(frozen=True, slots=True)
class Figures:
    """What one step says of itself, read from the device."""

    loss: float
    gradient_norm: float
    """Before clipping."""
    spread: float
    """Mean squared distance of the batch's unit vectors."""
    others: dict[str, float]
    """The objective's own."""


class Learner:
    """Weights in training. `forward_backward`, then `move` with the same step, or nothing has happened."""

    def __init__(
        self, faces: Faces, objective: nn.Module, settings: TrainSettings, ranks: Ranks, device: str
    ):
        # Convolutions on CPUs are faster in this layout.
        self.faces = faces.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective.to(device)
        self.settings = settings
        self.ranks = ranks
        self._shared = distributed.shared(self.faces, ranks, device)
        self.parameters = [
            p for module in (self.faces, self.objective) for p in module.parameters() if p.requires_grad
        ]
        self.optimizer = _optimizer(self.faces, self.objective, settings.optimizer)
        self.average = [values.detach().clone() for values in learnt(self.faces)]
        self._start = [p.clone() for p in self.average]

    def forward_backward(self, pixels: Tensor, labels: Tensor, step: int) -> Figures:
        """Take the loss of all processes' batch and leave its gradients; the weights stay."""
        # Dropout depends on the step alone, so that a resumed run draws the same.
        torch.manual_seed(self.settings.seed + SEED_STRIDE * (step * self.ranks.num_ranks + self.ranks.rank))
        self.optimizer.zero_grad(set_to_none=True)
        vectors = distributed.gather(self._shared(pixels), self.ranks)
        labels = distributed.gather(labels, self.ranks)
        outcome = self.objective(vectors, labels, step)
        outcome.loss.backward()
        limit = self.settings.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        spread = collapse_figures(vectors.detach(), labels)["mean_pairwise_distance"]
        told = plain({_LOSS: outcome.loss, _NORM: norm, _SPREAD: spread, **outcome.figures})
        return Figures(told.pop(_LOSS), told.pop(_NORM), told.pop(_SPREAD), told)

    def move(self, step: int) -> float:
        """Move the weights by the gradients and give the learning rate used."""
        rate = learning_rate(step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        # Else the average of a short run would be mostly its start.
        decay = min(self.settings.optimizer.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, now in zip(self.average, learnt(self.faces), strict=True):
                kept.lerp_(now, 1.0 - decay)
        return rate

    def does_fit(self, num_pictures: int, pixels: Tensor) -> bool:
        """Whether the network's part of a step fits into memory with so many of these pictures.

        Nothing in it waits for other processes: they are in a step that this one has left.
        """
        self.optimizer.zero_grad(set_to_none=True)
        learning = [p for p in self.faces.parameters() if p.requires_grad]
        try:
            # What the first move adds: the optimizer's own.
            num_states = 0 if self.optimizer.state else STATES[self.settings.optimizer.kind]
            _states = [torch.empty_like(p) for p in self.parameters for _ in range(num_states)]
            with distributed.apart(self.faces):
                total = self.faces(pixels[:num_pictures]).sum()
            if learning:
                # Unlike `backward` it runs none of the hooks that average gradients over processes.
                torch.autograd.grad(total, learning, allow_unused=True)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return True

    def averaged(self) -> Averaged:
        """Have what is shipped in the network's place within a `with`: the average, drawn to the start."""
        share = self.settings.optimizer.start_share
        values = [torch.lerp(a, b, share) for a, b in zip(self.average, self._start, strict=True)]
        return Averaged(self.faces, values)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "network": self.faces.module.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take a `state` back. Raises RuntimeError or KeyError where it is another network's."""
        self.faces.module.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for kept, given in zip(self.average, state["average"], strict=True):
                kept.copy_(given)


class Averaged:
    """Puts weights into a network and, on leaving, its own back; evaluation mode inside."""

    def __init__(self, faces: nn.Module, values: list[Tensor]):
        self._faces, self._values = faces, values
        self._kept: list[Tensor] = []

    def __enter__(self) -> nn.Module:
        self._kept = [values.detach().clone() for values in learnt(self._faces)]
        self._put(self._values)
        return self._faces.eval()

    def __exit__(self, *_: object) -> None:
        self._put(self._kept)
        self._faces.train()

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for now, value in zip(learnt(self._faces), values, strict=True):
                now.copy_(value)


def learnt(faces: nn.Module) -> list[Tensor]:
    """All that training moves: the weights, and the running statistics of batch normalisation."""
    statistics = (values for values in faces.buffers() if values.is_floating_point())
    return [*faces.parameters(), *statistics]


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Rate of a step: linear from zero over the warm-up, then half a cosine (Loshchilov and Hutter 2017)."""
    optimizer = settings.optimizer
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    done = (step - optimizer.warmup_steps) / max(1, settings.num_steps - optimizer.warmup_steps)
    share = optimizer.final_share + (1.0 - optimizer.final_share) * 0.5 * (1.0 + math.cos(math.pi * done))
    return optimizer.learning_rate * share


def _optimizer(faces: nn.Module, objective: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    learning = [p for module in (faces, objective) for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": list(_where(learning, is_matrix=True)), "weight_decay": settings.weight_decay},
        {"params": list(_where(learning, is_matrix=False)), "weight_decay": 0.0},
    ]
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=MOMENTUM)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _where(parameters: list[nn.Parameter], *, is_matrix: bool) -> Iterator[nn.Parameter]:
    """Weights of convolutions and linear maps, or the rest: biases, normalisation, slopes."""
    return (p for p in parameters if (p.ndim > 1) == is_matrix)
