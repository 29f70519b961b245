"""Settings: from a TOML file and overrides to frozen values, strictly.

Each part owns its settings class beside its own code; this module only reads files and refuses wrong
keys, types and values by name. Knows none of the parts.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.errors import SettingsError


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all settings: frozen, and refuses keys that it does not know."""


S = TypeVar("S", bound=Settings)


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings.

    Raises SettingsError where the file is missing or no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(
            f"cannot read settings file {path}: {error.strerror}", hint="Check the path of --config."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not valid TOML: {error}") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`, table by table; a None in `over` means not given."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping):
            below = merged.get(key, {})
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        elif value is not None:
            merged[key] = value
    return merged


def build(kind: type[S], values: Mapping[str, Any]) -> S:
    """Make settings of `kind` from plain values.

    Raises SettingsError naming the key, what was expected, and for a typing error the nearest known key of
    the same table.
    """
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {error}{_nearest(kind, str(error))}") from error


def _nearest(kind: type[Settings], message: str) -> str:
    if "unknown field" not in message:
        return ""
    wrong = message.split("`")[1]
    # Only what follows the last `$` is msgspec's own: a key may be called anything.
    for table in message.rpartition("`$")[2].rstrip("`").split(".")[1:]:
        kind = _tables(kind).get(table, kind)
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known keys: {', '.join(sorted(known))}"


def _tables(kind: type[Settings]) -> dict[str, type[Settings]]:
    """The tables directly in settings of a kind."""
    return {
        field.encode_name: field.type
        for field in msgspec.structs.fields(kind)
        if isinstance(field.type, type) and issubclass(field.type, Settings)
    }
