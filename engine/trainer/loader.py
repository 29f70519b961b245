"""Batches of augmented crops, ready before they are asked for. Knows nothing of networks or losses.

::

    worker processes:  rows of the step -> crops -> augment ─┐  AHEAD batches for each worker
    caller:                                                  └> to the device, in order of steps

A batch depends on step, seed and sampler alone: it has the same bytes with no worker, one or many, and in a
run that is resumed. Workers are processes, not threads: each works on one core, whatever threads the network
uses, and Python in one does not hold up another. They end with the iteration, and when their parent dies.

A resident loader keeps all crops in the device's memory instead, and gathers and augments there: for a GPU,
where no number of cores keeps up with it. JPEG is left out there, see engine.trainer.augment.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from engine.errors import DeviceError, EngineError, InvalidInputError, SettingsError, TrainingError
from engine.trainer.augment import DEFAULT_SETTINGS, AugmentSettings, augment, row_seeds
from engine.trainer.crop_set import CropSet

Rows = NDArray[np.int64]

WORKER_DIED = "DataLoader worker (pid"
"""How torch says that one ended, as by kill -9."""
AHEAD = 2
"""Batches that each worker makes before they are asked for; bounds memory."""
WORKERS_MAX = 64
SEED_MAX = 2**63 - 1
UPLOADED_CROPS = 4096
"""Crops copied to the device at once, so that they need no second place in memory."""


class Sampler(Protocol):
    """What batches are made of, as PKSampler says it."""

    @property
    def first_place(self) -> int:
        """Where in the whole batch this process' part begins: what is done to a crop follows its place."""
        ...

    def rows(self, step: int) -> Rows:
        """Rows int64[n] of a step's batch."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one step trains on."""

    step: int
    pixels: Tensor
    """uint8[n, s, s, 3], RGB."""
    labels: Tensor
    """int64[n]"""


class Loader:
    """Makes the batches of any range of steps; use it as a context, or close it."""

    def __init__(
        self,
        crops: CropSet,
        sampler: Sampler,
        settings: AugmentSettings = DEFAULT_SETTINGS,
        num_workers: int = 0,
        seed: int = 0,
        device: str | torch.device = "cpu",
        *,
        is_resident: bool = False,
    ):
        """`device` is where batches are given; with `is_resident` the crops are there, too, and workers idle.

        Raises SettingsError for numbers that cannot be, and DeviceError where the crops do not fit on the
        device or there is none of that name.
        """
        if not 0 <= num_workers <= WORKERS_MAX:
            raise SettingsError(f"num_workers is {num_workers}; it must be 0 to {WORKERS_MAX}")
        if not 0 <= seed <= SEED_MAX:
            raise SettingsError(f"seed is {seed}; it must be 0 to {SEED_MAX}")
        self._num_workers = 0 if is_resident else num_workers
        self._device = torch.device(device)
        self._steps = _Steps(crops, sampler, settings, seed)
        if is_resident:
            self._steps.pixels = _upload(crops, self._device)
        self._running: Iterator[Batch] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Batches of steps start_step to stop_step - 1, in order; none where there are no such steps.

        One iteration at a time: the next one closes the one before. Errors of a worker are raised here.
        """
        if start_step < 0:
            raise InvalidInputError(f"start_step is {start_step}; steps are counted from 0")
        self.close()
        self._running = self._batches(range(start_step, stop_step))
        return self._running

    def close(self) -> None:
        """End the iteration that runs, and its workers. May be repeated; the loader can be used again."""
        running, self._running = self._running, None
        if running is not None:
            running.close()  # type: ignore[attr-defined]

    def _batches(self, steps: range) -> Iterator[Batch]:
        for step, (pixels, labels) in zip(steps, self._made(steps), strict=True):
            yield Batch(
                step,
                pixels.to(self._device, non_blocking=True),
                labels.to(self._device, non_blocking=True),
            )

    def _made(self, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        if not self._num_workers or not len(steps):
            for step in steps:
                yield self._steps[step]
            return
        made = iter(self._workers(steps))
        try:
            for one in made:
                if isinstance(one, EngineError):
                    raise one
                yield one
        except (RuntimeError, ConnectionError, EOFError) as error:
            # What is lost first, the process or what it was sending, is a matter of luck.
            if isinstance(error, RuntimeError) and WORKER_DIED not in str(error):
                raise
            raise TrainingError(
                "a process that reads and augments batches was killed",
                hint="Where memory was short, take fewer --workers; the same command goes on.",
            ) from error
        finally:
            # Else they would live on for as long as anybody holds the traceback of an error.
            made._shutdown_workers()  # type: ignore[attr-defined]

    def _workers(self, steps: range) -> DataLoader[tuple[Tensor, Tensor] | EngineError]:
        # Workers are forked from a process of few threads that has imported all of this once: a new one takes
        # a hundredth of the seconds that importing torch does.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return DataLoader(
            _Sent(self._steps),
            batch_size=None,
            sampler=steps,
            num_workers=min(self._num_workers, len(steps)),
            prefetch_factor=AHEAD,
            multiprocessing_context=context,
            worker_init_fn=_watch_parent,
            pin_memory=self._device.type == "cuda",
            # Else it would draw from torch's own numbers, and change what comes after it.
            generator=torch.Generator(),
        )


def _watch_parent(worker: int) -> None:
    """End this worker when the process that made it is gone, even killed, and not by Ctrl-C.

    torch looks at the parent's process id, which here is that of the process that workers are forked from.
    A terminal sends Ctrl-C to all processes: the trainer still wants its batch, and ends its workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name=f"parent-of-worker-{worker}", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Steps:
    """Pixels uint8[n, s, s, 3] and labels int64[n] of each step; can be pickled, then without `pixels`."""

    def __init__(self, crops: CropSet, sampler: Sampler, settings: AugmentSettings, seed: int):
        self._crops, self._labels = crops.crops, torch.from_numpy(crops.labels.copy())
        self._sampler, self._settings, self._seed = sampler, settings, seed
        self.pixels: Tensor | None = None
        """All crops, on the device."""

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rows = self._sampler.rows(step)
        seeds = row_seeds(self._seed, step, len(rows), self._sampler.first_place)
        places = torch.from_numpy(rows)
        if self.pixels is None:
            pixels = torch.from_numpy(self._crops[rows])
        else:
            pixels = self.pixels[places.to(self.pixels.device)]
        return augment(pixels, seeds, self._settings), self._labels[places]


class _Sent(Dataset[tuple[Tensor, Tensor] | EngineError]):
    """What a worker sends of each step: its crops, or the error that the caller shall raise.

    An error that is raised in a worker would arrive with a traceback for its message, without its hint.
    """

    def __init__(self, steps: _Steps):
        self._steps = steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor] | EngineError:
        try:
            return self._steps[step]
        except EngineError as error:
            return error


def _upload(crops: CropSet, device: torch.device) -> Tensor:
    """All crops uint8[n, s, s, 3] in the device's memory."""
    try:
        pixels = torch.empty(crops.crops.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(crops), UPLOADED_CROPS):
            part = torch.from_numpy(crops.crops[start : start + UPLOADED_CROPS])
            pixels[start : start + len(part)] = part.to(device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"{len(crops):,} crops take {crops.crops.nbytes / 2**20:,.0f} MiB on device {device}: {error}",
            hint="Train on fewer people, or on a device with more memory.",
        ) from error
    return pixels
