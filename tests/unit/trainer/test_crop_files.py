"""The folder of crops where it cannot be written or read."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from engine.errors import InvalidInputError, StorageFullError
from engine.trainer.crop_files import locked, make_folder, read_value, write_value


def test_a_place_that_cannot_be_written_is_told_without_words_of_a_server(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for refused in (make_folder, lambda path: locked(path).__enter__(), lambda path: write_value(path, 1)):
        with pytest.raises(InvalidInputError, match="cannot be written: Not a directory") as raised:
            refused(tmp_path / "file" / "crops")
        assert raised.value.hint == "Choose a place that can be written."


def test_a_full_disk_is_told_without_words_of_a_server(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageFullError, match="no space left for") as raised:
            write_value(tmp_path / "part", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.hint == "Free disk space there, or choose another place."
    assert not list(tmp_path.iterdir())


def test_a_value_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read: Is a directory"):
        read_value(tmp_path, int)
