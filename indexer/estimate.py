"""What a job will take, said before it begins: time, memory, disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.errors import StorageFullError
from indexer.plan import Plan

TEMPLATE_DISK_BYTES = 2600
"""Of a template in the store and two generations of the index, with vectors of 128 dimensions."""
FLOAT_DISK_BYTES = 16
"""For each further dimension: the store, its journal and two generations hold it."""
OUTCOME_DISK_BYTES = 800
"""Of a picture's outcome."""
CROP_DISK_BYTES = 20_000
"""Of a kept crop in the store, whole pages of it; while a job runs, as much again in its folder."""
PICTURE_S = 0.035
"""Of a core, for a picture of 250 x 250 pixels with one face; large pictures take several times as long."""
ROW_S = 35e-6
"""To load a row of vectors."""
BUILD_ROW_S = 20e-6
"""To build and verify the index, a template."""
LOADER_BYTES = 700 << 20
"""Of the process that loads, and of the one that builds beside its vectors."""
PROCESS_BYTES = 700 << 20
"""Of a process that holds the default network."""


@dataclass(frozen=True)
class Estimate:
    """Of a whole job, roughly."""

    seconds: float
    memory_bytes: int
    disk_bytes: int

    def line(self) -> str:
        """Say it."""
        return (
            f"about {self.seconds:,.0f} s, {self.memory_bytes / 1e9:,.1f} GB of memory, "
            f"{self.disk_bytes / 1e9:,.2f} GB of disk"
        )


def estimate(planned: Plan, num_workers: int) -> Estimate:
    """Estimate a job before it begins."""
    num = planned.num_items
    dimension = planned.dimension or 128
    per_template = TEMPLATE_DISK_BYTES + max(0, dimension - 128) * FLOAT_DISK_BYTES
    build_bytes = num * (dimension * 4 + 100)
    if not planned.is_pictures:
        return Estimate(num * (ROW_S + BUILD_ROW_S), LOADER_BYTES + build_bytes, num * per_template)
    seconds = num * (PICTURE_S / num_workers + ROW_S + BUILD_ROW_S)
    memory = num_workers * PROCESS_BYTES + LOADER_BYTES + build_bytes
    return Estimate(seconds, memory, num * (per_template + OUTCOME_DISK_BYTES))


def refuse_if_full(
    planned: Plan, job: Path, data: Path | None, num_done: int, *, keep_crops: bool = False
) -> None:
    """Raise StorageFullError where a disk cannot hold what is still to be done.

    `data` is the data folder; None: a server has its own.
    """
    share = 1 - num_done / max(1, planned.num_items)
    outcomes = planned.num_items * OUTCOME_DISK_BYTES if planned.is_pictures else 0
    crops = planned.num_items * CROP_DISK_BYTES if planned.is_pictures and keep_crops else 0
    needs = {job: outcomes + crops}
    if data is not None:
        needs = {job: 0, data: outcomes + crops} if _is_one_disk(job, data) else needs
        needs[data] = needs.get(data, 0) + estimate(planned, 1).disk_bytes - outcomes + crops
    for folder, num_bytes in needs.items():
        free = shutil.disk_usage(folder).free
        if num_bytes * share > free:
            raise StorageFullError(
                f"the job needs about {num_bytes * share / 1e6:,.0f} MB of disk under {folder}, "
                f"{free / 1e6:,.0f} MB are free",
                hint="Make room, or keep the data on a larger disk.",
            )


def _is_one_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev
