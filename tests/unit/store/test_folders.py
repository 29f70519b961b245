"""Folders held against removal, by this process and others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import DataFolderError
from engine.store import folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "inside").mkdir(parents=True)
    (made / "inside" / "file").write_text("content")
    return made


def test_a_folder_is_removed_only_when_nobody_holds_it(folder: Path) -> None:
    first, second = folders.hold(folder), folders.hold(folder)
    assert first is not None
    assert second is not None
    assert not folders.remove_unheld(folder)
    os.close(first)
    assert not folders.remove_unheld(folder)
    os.close(second)
    assert folders.remove_unheld(folder)
    assert not folder.exists()
    assert folders.remove_unheld(folder)


def test_who_holds_alone_is_alone_until_it_shares(folder: Path) -> None:
    alone = folders.hold_alone(folder)
    assert alone is not None
    assert folders.hold_alone(folder) is None
    assert not folders.remove_unheld(folder)
    folders.share(alone)
    other = folders.hold(folder)
    assert other is not None
    assert folders.hold_alone(folder) is None
    os.close(other)
    os.close(alone)


def test_what_is_not_there_cannot_be_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        assert folders.hold(tmp_path / name) is None
        assert folders.hold_alone(tmp_path / name) is None


def test_the_hold_of_a_killed_process_ends_with_it(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from engine.store import folders;"
        "folders.hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        assert not folders.remove_unheld(folder)
        holder.kill()
        holder.wait()
        assert folders.remove_unheld(folder)


def test_the_lock_of_a_data_folder_lasts_until_the_last_of_its_descriptors(tmp_path: Path) -> None:
    first = folders.lock_folder(tmp_path)
    second = os.dup(first)
    os.close(first)
    with pytest.raises(DataFolderError, match=f"in use by another process .pid {os.getpid()}."):
        folders.lock_folder(tmp_path)
    folders.check_lock(tmp_path, second)
    os.close(second)
    os.close(folders.lock_folder(tmp_path))


def test_a_descriptor_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    lock = folders.lock_folder(tmp_path)
    with (tmp_path / "lock").open("r+") as other, pytest.raises(DataFolderError, match="does not hold"):
        folders.check_lock(tmp_path, other.fileno())
    with pytest.raises(DataFolderError, match="does not hold"):
        folders.check_lock(tmp_path, 10_000)
    os.close(lock)


def test_the_parent_of_workers_need_not_load_what_they_do() -> None:
    program = (
        "import sys, engine.store.folders; print(sorted({'lmdb', 'numpy', 'faiss'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
