"""A job whose source has changed: planned anew, into the gallery that is meant, and killed while it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from engine.errors import PreconditionError
from engine.types import GallerySettings
from indexer import plan
from indexer.record import JobFolder
from tests.contract.naive import unit_vectors
from tests.unit.indexer.test_job import (
    CONTRACT,
    DIMENSION,
    NUM_ROWS,
    Dying,
    Killed,
    delete,
    gallery_id,
    num_templates,
    opened,
    run,
    write,
)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "ROWS_PER_SHARD", 64)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return changed(tmp_path / "vectors.npy", NUM_ROWS)


def changed(path: Path, num_rows: int) -> Path:
    """Write vectors that are others for each number of rows."""
    write(path, unit_vectors(np.random.default_rng(num_rows), num_rows, DIMENSION))
    return path


def test_a_source_that_changed_is_noticed(tmp_path: Path, source: Path) -> None:
    with Dying.open(tmp_path / "data") as target:
        assert isinstance(target, Dying)
        target.num_left = 100
        with pytest.raises(Killed):
            run(tmp_path, target, source)
        write(source, unit_vectors(np.random.default_rng(9), NUM_ROWS + 1, DIMENSION))
        with pytest.raises(PreconditionError, match="changed"):
            run(tmp_path, target, source)
        target.num_left = 1000
        assert run(tmp_path, target, source, is_replanned=True).num_items == NUM_ROWS + 1
        # One that is done is planned anew without being told to.
        write(source, unit_vectors(np.random.default_rng(10), 5, DIMENSION))
        assert run(tmp_path, target, source).num_items == 5


def test_a_source_whose_times_tell_nothing_is_read_again_where_asked(tmp_path: Path, source: Path) -> None:
    with opened(tmp_path) as target:
        run(tmp_path, target, source)
        assert run(tmp_path, target, source, is_reread=True).is_unchanged
        times = source.stat()
        write(source, unit_vectors(np.random.default_rng(77), NUM_ROWS, DIMENSION))
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        names = source.with_suffix(".txt")
        os.utime(names, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert run(tmp_path, target, source, is_reread=True).num_templates == 2 * NUM_ROWS


def test_a_replacement_whose_source_changed_fills_another_gallery(tmp_path: Path, source: Path) -> None:
    with opened(tmp_path) as target:
        run(tmp_path, target, source)
        run(tmp_path, target, source, replace=True)
        write(source, unit_vectors(np.random.default_rng(9), 50, DIMENSION))
        lines: list[str] = []
        told = run(tmp_path, target, source, replace=True, contract=None, say=lines.append)
        assert told.num_templates == 50
        assert num_templates(target, "people") == 50
        assert lines[0].endswith("another gallery is filled")
        write(source, unit_vectors(np.random.default_rng(10), 60, DIMENSION))
        run(tmp_path, target, source, "others")
        write(source, unit_vectors(np.random.default_rng(11), 70, DIMENSION))
        run(tmp_path, target, source, "others", say=lines.append)
        assert any(line.endswith("what is loaded stays") for line in lines)


def test_a_plan_that_was_being_forgotten_is_made_anew(tmp_path: Path, source: Path) -> None:
    with opened(tmp_path) as target:
        summary = run(tmp_path, target, source)
        (tmp_path / "jobs" / summary.job_id / "plan" / "header").unlink()
        assert run(tmp_path, target, source).num_templates == NUM_ROWS


@pytest.mark.parametrize(
    ("where", "name"),
    [(JobFolder, "forget_plan"), (JobFolder, "forget_gallery"), (plan, "make_plan")],
)
def test_a_replacement_killed_while_it_is_planned_anew_goes_on_by_itself(
    tmp_path: Path, source: Path, where: object, name: str
) -> None:
    def die(*_: object) -> None:
        raise Killed

    with opened(tmp_path) as target:
        first = run(tmp_path, target, source, replace=True)
        changed(source, 50)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(where, name, die)
            with pytest.raises(Killed):
                run(tmp_path, target, source, replace=True)
        assert gallery_id(target, "people") == first.gallery_id
        second = run(tmp_path, target, source, replace=True)
        # Not into the gallery that is searched meanwhile.
        assert second.gallery_id != first.gallery_id
        assert num_templates(target, first.gallery_id) == NUM_ROWS
        assert num_templates(target, "people") == 50


def test_a_changed_source_fills_the_gallery_that_the_name_means_now(tmp_path: Path, source: Path) -> None:
    other, lines = changed(tmp_path / "other.npy", 10), list[str]()
    with opened(tmp_path) as target:
        first = run(tmp_path, target, source)
        second = run(tmp_path, target, other, replace=True)
        changed(source, 50)
        assert run(tmp_path, target, source, say=lines.append).gallery_id == second.gallery_id
        assert num_templates(target, "people") == 60
        assert num_templates(target, first.gallery_id) == NUM_ROWS
    assert lines[0] == "the source has changed: everything is looked at again"


def test_where_nothing_is_loaded_a_changed_source_needs_no_word(tmp_path: Path, source: Path) -> None:
    lines: list[str] = []
    with Dying.open(tmp_path / "data") as target:
        assert isinstance(target, Dying)
        target.num_left = 150
        with pytest.raises(Killed):
            run(tmp_path, target, source)
        (begun,) = target.galleries.infos()
        target.galleries.delete(begun.gallery_id)
        changed(source, 50)
        target.num_left = 1000
        assert run(tmp_path, target, source, say=lines.append).num_templates == 50
        assert lines[0] == "the source has changed: everything is looked at again"
        # One that was done, and whose gallery and source are others, neither.
        delete(target, "people", gallery_id(target, "people"))
        target.create("people", CONTRACT, GallerySettings())
        changed(source, 60)
        assert run(tmp_path, target, source).num_templates == 60
