"""Several processes that train one network, started by torchrun. Knows nothing of faces.

Every process embeds its part of the batch, gathers the vectors of all and takes the loss of the whole batch,
as one process would: mining sees every pair. Its own rows alone carry gradients to its network;
DistributedDataParallel then averages over processes, so `gather` multiplies by their number to make the sum.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from engine.errors import SettingsError, TrainingError


@dataclass(frozen=True, slots=True)
class Ranks:
    """Place of a process among those that train together."""

    rank: int = 0
    num_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0


ALONE = Ranks()
PATIENCE = dt.timedelta(hours=6)
"""How long processes wait for the first, which validates and makes files alone."""

_LEFT = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""How gloo says that a process is gone; nccl raises a DistError."""


def join(device: str) -> Ranks:
    """Meet the other processes that torchrun started, over nccl on CUDA and gloo elsewhere; alone without it.

    On CUDA the process takes the device of its LOCAL_RANK. Raises SettingsError where torchrun's variables
    are no numbers.
    """
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    try:
        ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    except (KeyError, ValueError) as error:
        raise SettingsError(
            f"WORLD_SIZE is set, but RANK, WORLD_SIZE and LOCAL_RANK are not all numbers: {error}",
            hint="Start several processes with torchrun, or unset WORLD_SIZE for one.",
        ) from error
    if ranks.num_ranks == 1:
        return ALONE
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    return ranks


def leave(ranks: Ranks) -> None:
    """Part from the others; nothing where alone."""
    if ranks.num_ranks > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def shared(module: nn.Module, ranks: Ranks, device: str) -> nn.Module:
    """Give a module whose gradients are averaged over all processes; itself where alone or nothing learns.

    On CUDA batch normalisation takes its statistics over all processes. gloo cannot: raises SettingsError for
    a network that has some in training, since each process would have its own.
    """
    if ranks.num_ranks == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    if device != "cuda" and any(_has_statistics(part) for part in module.modules()):
        raise SettingsError(
            "batch normalisation cannot take its statistics over several processes without CUDA",
            hint="Set network.is_normalisation_frozen, train in one process, or take a network without.",
        )
    if device == "cuda":
        synchronise(module)
    return nn.parallel.DistributedDataParallel(module)


def synchronise(module: nn.Module) -> None:
    """Make batch normalisation below `module` that is in training take its statistics over all processes.

    That which is frozen stays as it is: torch's converter would make it anew, and lose that it never trains.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.modules.batchnorm._BatchNorm):
            synchronise(child)
        elif _has_statistics(child):
            convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
            setattr(module, name, convert(child))


@contextmanager
def apart(module: nn.Module) -> Iterator[None]:
    """Keep a forward pass below `module` from waiting for other processes within a `with`.

    Synchronised batch normalisation takes the statistics that it has.
    """
    synchronised = [part for part in module.modules() if isinstance(part, nn.SyncBatchNorm) and part.training]
    for part in synchronised:
        part.eval()
    try:
        yield
    finally:
        for part in synchronised:
            part.train()


@contextmanager
def naming_who_left(ranks: Ranks) -> Iterator[None]:
    """Raise TrainingError where another process ended while this one waited for it within a `with`."""
    try:
        yield
    except RuntimeError as error:
        is_left = isinstance(error, torch.distributed.DistError) or any(w in str(error) for w in _LEFT)
        if ranks.num_ranks == 1 or not is_left:
            raise
        raise TrainingError(
            f"process {ranks.rank} of {ranks.num_ranks} lost the others: one of them has ended",
            hint="Look for what that one said last.",
        ) from error


def gather(vectors: Tensor, ranks: Ranks) -> Tensor:
    """Rows of all processes, in order of rank; every process must give as many. Gradients as said above."""
    if ranks.num_ranks == 1:
        return vectors
    gathered: Tensor = _Gather.apply(vectors, ranks.rank, ranks.num_ranks)  # type: ignore[no-untyped-call]
    return gathered


def any_of(flag: bool, ranks: Ranks, device: str) -> bool:
    """Whether the flag is set in any process, the same answer in all."""
    if ranks.num_ranks == 1:
        return flag
    told = torch.tensor([float(flag)], device=device)
    torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
    return bool(told.item() > 0)


def wait(ranks: Ranks) -> None:
    """Wait until all processes are here."""
    if ranks.num_ranks > 1:
        torch.distributed.barrier()


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, vectors: Tensor, rank: int, num_ranks: int) -> Tensor:
        context.place = (rank, num_ranks, len(vectors))
        parts = [torch.empty_like(vectors) for _ in range(num_ranks)]
        torch.distributed.all_gather(parts, vectors.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rank, num_ranks, num_rows = context.place
        return gradients[0][rank * num_rows : (rank + 1) * num_rows] * num_ranks, None, None
