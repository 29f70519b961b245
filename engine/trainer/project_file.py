"""Writes a learnt map as a network's file, whole or not at all.

Knows nothing of how the map was learnt or judged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from engine.embedding.checkpoints import CONTRACT_NAME
from engine.embedding.mapped_network import VectorMap, write_mapped
from engine.embedding.networks import Network, load_network
from engine.errors import InvalidInputError, SettingsError
from engine.trainer.export import contract_name_of
from engine.trainer.project import ProjectionReport


def check_target(model: str, target: Path, dimension: int) -> Network:
    """Load the base, and refuse before the work what could not be written after it.

    Gives the base on the CPU. Raises SettingsError where the base is another folder's, the place cannot be
    written or no contract may be called so, WeightsError as `load_network`, InvalidInputError where there are
    not fewer numbers than before.
    """
    contract_name_of(target)
    network = load_network(model, "cpu")
    if dimension >= network.dimension:
        raise InvalidInputError(
            f"{model} gives {network.dimension} numbers: a map to {dimension} would save nothing; give a"
            " smaller --dimension"
        )
    with contextlib.suppress(FileNotFoundError):
        _written(target, model, network, VectorMap(network.dimension, dimension), {}).unlink()
    return network


def write_projection(
    target: Path, model: str, network: Network, learnt: VectorMap, report: ProjectionReport
) -> None:
    """Write the map with what it was learnt from and what it costs. Raises as `check_target`."""
    points = (("full", report.full), ("mapped", report.trained or report.pca))
    metadata = {
        CONTRACT_NAME: contract_name_of(target),
        "threshold": repr(report.threshold),
        "method": report.method,
        "num_people_learnt": str(report.num_people_learnt),
        "num_people_held_out": str(report.num_people_held_out),
        "num_enrolled": str(report.full.num_enrolled),
        **{
            f"fnir_at_fpir_{point.fpir_target:g}_{name}": f"{point.fnir:.5f}"
            for name, rates in points
            for point in rates.points
        },
    }
    _written(target, model, network, learnt, metadata).replace(target)


def _written(
    target: Path, model: str, network: Network, learnt: VectorMap, metadata: Mapping[str, str]
) -> Path:
    """Write beside the target, since a file can only be renamed within its file system."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        write_mapped(part, model, network, learnt, metadata)
        with part.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise SettingsError(f"{target} cannot be written: {error.strerror or error}") from error
    return part
