"""What is slow is made once, and only what was finished is kept; memory of processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.cache import copied, is_kept, kept
from benchmarks.memory import drop_page_cache, family, pss_bytes, rss_bytes


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("x")

    first = kept(tmp_path, "a/b", make)
    assert kept(tmp_path, "a/b", make) == first
    assert len(made) == 1
    assert (first / "file").read_text() == "x"
    assert is_kept(tmp_path, "a/b")


def test_what_failed_half_way_is_not_kept_and_made_anew(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        kept(tmp_path, "key", fail)
    assert not is_kept(tmp_path, "key")
    folder = kept(tmp_path, "key", lambda target: (target / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_a_copy_is_independent_and_survives_an_emptied_page_cache(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "below" / "file").write_text("before")
    copy = copied(source, tmp_path / "copy")
    (copy / "below" / "file").write_text("after")
    drop_page_cache(source)
    assert (source / "below" / "file").read_text() == "before"


def test_memory_of_this_process() -> None:
    assert os.getpid() in family(os.getpid())
    assert 0 < pss_bytes(os.getpid()) <= rss_bytes(os.getpid())
