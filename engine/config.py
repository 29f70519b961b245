"""Settings: from a TOML file and overrides to frozen values, strictly.

Each part owns its settings class beside its own code; this module only reads files and refuses wrong
keys, types and values by name. Knows none of the parts.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from engine.errors import SettingsError


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all settings: frozen, and refuses keys that it does not know."""


S = TypeVar("S", bound=Settings)


def read_file(path: Path, flag: str = "--config") -> dict[str, Any]:
    """Read a TOML file of settings, which `flag` of the command line named.

    Raises SettingsError where the file is missing or no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(
            f"cannot read settings file {path}: {error.strerror}", hint=f"Check the path of {flag}."
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

    Raises SettingsError naming the key, what was expected, for a typing error the nearest known key of the
    same table, and for a value that is none of a few, these.
    """
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {error}{_possible(kind, str(error))}") from error


def _possible(kind: type[Settings], message: str) -> str:
    """What msgspec does not tell: the keys or the values that could have been meant."""
    # Only what stands at the very end is msgspec's own: a key may be called anything.
    place = re.search(r" - at `\$\.?([^`]*)`$", message)
    types = _types_at(kind, place[1].split(".") if place else ())
    if "unknown field" in message:
        tables = [type_ for type_ in types if isinstance(type_, inspect.StructType)]
        return _nearest(message.split("`")[1], [field.encode_name for one in tables for field in one.fields])
    values = [value for type_ in types if isinstance(type_, inspect.LiteralType) for value in type_.values]
    return f"; allowed: {', '.join(map(str, values))}" if values and "enum value" in message else ""


def _types_at(kind: type[Settings], place: Sequence[str]) -> list[inspect.Type]:
    """Types that the value of a key may have; where there is no such key, those of the table above it."""
    types: list[inspect.Type] = [inspect.type_info(kind)]
    for key in place:
        tables = [type_ for type_ in types if isinstance(type_, inspect.StructType)]
        found = [field.type for table in tables for field in table.fields if field.encode_name == key]
        below = [one for of in found for one in (of.types if isinstance(of, inspect.UnionType) else (of,))]
        types = below or types
    return types


def _nearest(wrong: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known keys: {', '.join(sorted(known))}"
