"""The door to pytorch-metric-learning, which the extra `train` brings.

Knows nothing of what is taken from it.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from engine.errors import SettingsError


def metric_learning(part: str) -> ModuleType:
    """Give the module ``pytorch_metric_learning.<part>``; SettingsError where the library is missing."""
    try:
        return importlib.import_module(f"pytorch_metric_learning.{part}")
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"this miner or head needs pytorch-metric-learning: {error}",
            hint="Run: pip install 'identiface[train]'",
        ) from error
