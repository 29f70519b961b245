"""Settings from files and overrides, strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from engine import config
from engine.config import Settings
from engine.errors import SettingsError
from engine.galleries import GalleriesSettings


class Inner(Settings, frozen=True):
    size_bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 10


class Outer(Settings, frozen=True):
    inner: Inner = Inner()
    timeout_s: float = 1.0
    name: str | None = None


class Chosen(Settings, frozen=True):
    kind: Literal["small", "fast"] = "fast"
    inner: Inner | None = None


class Choices(Settings, frozen=True):
    table: Chosen = Chosen()
    other: Literal["red", "blue"] | None = None
    precision: int | str = 1


def test_nothing_given_is_all_defaults() -> None:
    assert config.build(Outer, {}) == Outer()


def test_values_are_taken_over_the_defaults() -> None:
    built = config.build(Outer, {"inner": {"size_bytes_max": 5}, "timeout_s": 2})
    assert built == Outer(inner=Inner(size_bytes_max=5), timeout_s=2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"timeout": 1.0}, "did you mean `timeout_s`"),
        ({"inner": {"size_byte_max": 1}}, "did you mean `size_bytes_max`"),
        ({"zzz": 1}, "known keys: inner, name, timeout_s$"),
        ({"inner": {"zzz": 1}}, "known keys: size_bytes_max$"),
        ({"a `$.b": 1}, "known keys: inner, name, timeout_s$"),
        ({"timeout_s": "1"}, "timeout_s"),
        ({"inner": {"size_bytes_max": 0}}, "inner.size_bytes_max"),
        ({"inner": 1}, "inner"),
    ],
)
def test_a_wrong_key_or_value_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        config.build(Outer, values)


@pytest.mark.parametrize(
    "values",
    [
        {"open_galleries_max": 0},
        {"maintenance_s": -1.0},
        {"store": {"map_size_bytes_max": 0}},
        {"store": {"queue_writes_max": 0}},
        {"store": {"commit_records_max": 0}},
        {"index": {"dead_share_max": 1.5}},
        {"index": {"delta_rows_max": -1}},
    ],
)
def test_settings_with_which_nothing_would_work_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        config.build(GalleriesSettings, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"table": {"kind": "foo"}}, r"'foo' - at `\$\.table\.kind`; allowed: fast, small$"),
        ({"other": "foo"}, r"'foo' - at `\$\.other`; allowed: blue, red$"),
        ({"other": "` - at `$.table.kind"}, "; allowed: blue, red$"),
        ({"table": {"inner": {"zzz": 1}}}, "known keys: size_bytes_max$"),
        ({"precision": 1.5}, r"at `\$\.precision`$"),
        ({"table": {"kind": 1}}, r"at `\$\.table\.kind`$"),
    ],
)
def test_a_value_that_is_none_of_a_few_is_told_these(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        config.build(Choices, values)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Outer().timeout_s = 2.0  # type: ignore[misc]


def test_overrides_are_laid_table_by_table_and_none_means_not_given() -> None:
    base = {"a": 1, "table": {"x": 1, "y": 2}, "flat": 3}
    over = {"a": None, "table": {"y": 5, "z": None}, "flat": {"deep": 1}, "new": {"q": 1}}
    assert config.merge(base, over) == {
        "a": 1,
        "table": {"x": 1, "y": 5},
        "flat": {"deep": 1},
        "new": {"q": 1},
    }
    assert base == {"a": 1, "table": {"x": 1, "y": 2}, "flat": 3}
    assert config.merge({}, {}) == {}


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("timeout_s = 2.5\n[inner]\nsize_bytes_max = 3\n")
    assert config.read_file(tmp_path / "settings.toml") == {
        "timeout_s": 2.5,
        "inner": {"size_bytes_max": 3},
    }


@pytest.mark.parametrize("content", [b"timeout_s = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=r"settings.toml is not valid TOML"):
        config.read_file(tmp_path / "settings.toml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SettingsError, match="cannot read settings file") as raised:
            config.read_file(path, "--recipe")
        assert raised.value.hint == "Check the path of --recipe."
