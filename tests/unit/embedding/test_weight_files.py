"""Weight files and folders: whole or not at all, on the disk before they take their name, for all to read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from engine.embedding import shards
from engine.embedding.weight_files import (
    folder_when_whole,
    read_tensors,
    replaced_when_whole,
    write_tensors,
)
from engine.errors import SettingsError, WeightsError

STATE = {"a": torch.arange(6.0), "b": torch.ones(2, 2)}
CONTRACT = shards.Contract(format=1, mirror=False, threshold=0.5, shards={})


def write_file(path: Path) -> None:
    with replaced_when_whole(path) as partial:
        write_tensors(partial, STATE, {"architecture": "small"})


def write_folder(path: Path) -> None:
    shards.write_folder(path, CONTRACT, [STATE], card="who it is for")


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    write_file(tmp_path / "net.safetensors")
    write_folder(tmp_path / "folder")
    files = [tmp_path / "net.safetensors", *(tmp_path / "folder").iterdir()]
    assert len(files) == 4
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_all_is_synced_before_it_takes_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((os.fstat(descriptor).st_ino, target.exists()))

    monkeypatch.setattr(os, "fsync", noted)
    target = tmp_path / "net.safetensors"
    write_file(target)
    assert synced == [(target.stat().st_ino, False), (tmp_path.stat().st_ino, True)]
    synced.clear()
    target = tmp_path / "folder"
    write_folder(target)
    inside = [target, *target.iterdir()]
    assert sorted(synced) == sorted(
        [*((path.stat().st_ino, False) for path in inside), (tmp_path.stat().st_ino, True)]
    )
    assert len(inside) == 4


def begin(write: Callable[[Path], AbstractContextManager[Path]], place: Path) -> None:
    with write(place) as partial:
        (partial / "part" if partial.is_dir() else partial).write_bytes(b"half")
        raise RuntimeError("in the middle")


def test_an_error_in_the_middle_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"before")
    for write, place in ((replaced_when_whole, path), (folder_when_whole, tmp_path / "folder")):
        with pytest.raises(RuntimeError, match="in the middle"):
            begin(write, place)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"


def test_a_process_killed_in_the_middle_does_not_block_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    child = os.fork()
    if child == 0:
        with folder_when_whole(folder) as partial:
            (partial / "part-00.safetensors").write_bytes(b"half")
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not folder.exists()
    write_folder(folder)
    assert {path.name for path in folder.iterdir()} == {
        "part-00.safetensors",
        "contract.json",
        "model-card.md",
    }
    assert read_tensors(folder / "part-00.safetensors")[0].keys() == STATE.keys()


@pytest.mark.parametrize("name", ["taken", ".", "..", "/"])
def test_a_folder_that_is_there_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(SettingsError, match="is there already"):
        write_folder(tmp_path / name)
    assert [found.name for found in tmp_path.iterdir()] == ["taken"]
    assert list((tmp_path / "taken").iterdir()) == []


@pytest.mark.parametrize("write", [replaced_when_whole, folder_when_whole])
def test_places_where_nothing_can_be_are_named(
    tmp_path: Path, write: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for place in (tmp_path / "file" / "net", Path("/proc/nope/net")):
        with pytest.raises(WeightsError, match=f"cannot write {place}: ") as caught, write(place):
            pytest.fail("it was begun")
        assert str(place.parent) in caught.value.hint
        assert "\n" not in caught.value.message


def test_a_file_in_place_of_which_a_folder_lies_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").mkdir()
    with pytest.raises(WeightsError, match="cannot write"):
        write_file(tmp_path / "net.safetensors")
    assert [found.name for found in tmp_path.iterdir()] == ["net.safetensors"]
