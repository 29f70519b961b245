"""Settings of runs that were tried, by what they are: a network and the data or the aim. Knows no run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine import config
from engine.errors import SettingsError
from engine.trainer.settings import TrainSettings

FOLDER = Path(__file__).parent
SUFFIX = ".toml"


def names() -> tuple[str, ...]:
    """Names of the recipes there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")))


def read_recipe(spec: str) -> dict[str, Any]:
    """Read a recipe by its name, or a .toml file by its path.

    Raises SettingsError where there is neither.
    """
    if spec in names():
        return config.read_file(FOLDER / f"{spec}{SUFFIX}")
    path = Path(spec)
    if path.suffix != SUFFIX:
        raise SettingsError(f"there is no recipe {spec!r}; recipes: {', '.join(names())}, or a .toml file")
    return config.read_file(path, "--recipe")


def settings_of(recipe: str | None, changes: Iterable[Mapping[str, Any]] = ()) -> TrainSettings:
    """The settings of a recipe, or without one their defaults, with `changes` laid over them in their order.

    Raises SettingsError for an unknown recipe, and naming every value that cannot be.
    """
    values = read_recipe(recipe) if recipe else {}
    for change in changes:
        values = config.merge(values, change)
    return config.build(TrainSettings, values)
