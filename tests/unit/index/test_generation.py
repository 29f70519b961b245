"""Generations on disk: built, opened, and refused where anything of them does not hold."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.errors import CorruptDataError, DataFolderError, NewerFormatError
from engine.generations import Generations
from engine.index.build import build
from engine.index.generation import (
    IDENTITY_NUMBERS,
    MANIFEST,
    TEMPLATE_IDS,
    VECTORS,
    Generation,
    Manifest,
    seal,
)
from engine.types import Columns
from tests.contract.naive import unit_vectors

DIMENSION = 8
FILES = [MANIFEST, VECTORS, TEMPLATE_IDS, IDENTITY_NUMBERS]


def make(folder: Path, num: int = 5, number: int = 1) -> Path:
    columns = Columns(
        np.arange(10, 10 + 2 * num, 2, dtype=np.uint64),
        np.arange(100, 100 + num, dtype=np.uint64),
        unit_vectors(np.random.default_rng(num), num, DIMENSION),
    )
    return build(folder, columns, number=number, sequence=7, contract_digest="digest").folder


@pytest.mark.parametrize("num", [0, 1, 5])
def test_a_generation_opens_as_it_was_built(tmp_path: Path, num: int) -> None:
    opened = Generation(make(tmp_path, num), "digest")
    assert opened.num_rows == num
    assert (opened.manifest.number, opened.manifest.sequence, opened.manifest.dimension) == (1, 7, DIMENSION)
    ids = np.arange(10, 10 + 2 * num, 2, dtype=np.uint64)
    assert opened.rows_of(ids).tolist() == list(range(num))
    assert opened.rows_of(ids[::-1]).tolist() == list(range(num))[::-1]
    assert opened.rows_of(np.array([9, 11, 10 + 2 * num, 1 << 63], np.uint64)).tolist() == [-1] * 4
    assert opened.identity_numbers.tolist() == [100 + row for row in range(num)]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_corrupt_data(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path)
    (folder / name).unlink()
    with pytest.raises(CorruptDataError, match=r"cannot be read|no readable manifest"):
        Generation(folder, "digest")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_corrupt_data(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path)
    whole = (folder / name).read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        (folder / name).write_bytes(damaged)
        with pytest.raises((CorruptDataError, NewerFormatError)):
            Generation(folder, "digest").verify_vectors()


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_corrupt_data(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(CorruptDataError):
        Generation(folder, "digest")


def test_a_folder_in_the_place_of_a_file_is_corrupt_data(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / VECTORS).unlink()
    (folder / VECTORS).mkdir()
    with pytest.raises(CorruptDataError):
        Generation(folder, "digest")


def test_another_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match="another embedding contract"):
        Generation(make(tmp_path), "other")


def test_a_newer_format_is_refused_by_its_number(tmp_path: Path) -> None:
    folder = make(tmp_path)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    (folder / MANIFEST).write_bytes(seal(msgspec.structs.replace(manifest, format=4, checksum="")))
    with pytest.raises(NewerFormatError, match="format 4"):
        Generation(folder, "digest")


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "taken").touch()
    columns = Columns.empty(0, DIMENSION)
    with pytest.raises(DataFolderError, match="generation 1 could not be written"):
        build(tmp_path, columns, number=1, sequence=1, contract_digest="digest")
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_build_begun_and_left_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "1.building").mkdir()
    (tmp_path / "1.building" / "junk").write_text("left by a crash")
    assert sorted(path.name for path in make(tmp_path).iterdir()) == sorted(FILES)


def test_a_folder_that_cannot_be_written_is_the_operators(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError, match="could not be written"):
        make(tmp_path / "file")


def test_older_generations_are_removed_when_nobody_has_them_open(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        make(tmp_path, number=number)
    (tmp_path / "4.building").mkdir()
    (tmp_path / "notes.txt").write_text("an operator's file")
    generations = Generations(tmp_path, "digest")
    open_one = generations.open(1)
    assert generations.remove_older(3) == [tmp_path / "1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "4.building", "notes.txt"]
    probe = unit_vectors(np.random.default_rng(5), 1, DIMENSION)
    _, rows = open_one.search(probe, 5, None)
    assert sorted(rows[0].tolist()) == [0, 1, 2, 3, 4]
    del open_one
    assert generations.remove_older(3) == []
    generations.remove_unfinished(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "notes.txt"]
    assert Generations(tmp_path / "new", "digest").remove_older(3) == []
