"""What a gallery's builds keep of its people: by its setting, in either process, gone with who was erased."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.decision.calibration import CORRECTED, Calibration
from engine.galleries import Galleries
from engine.gallery import Gallery
from engine.index.generation import Generation
from engine.index.neighbours import crowding, own_tops
from engine.index.population import CROWDING, OWN_PEOPLE
from engine.live_index import report_nothing
from engine.store import changes
from engine.store.tables import Writer
from engine.types import CrowdingCorrection
from tests.calibrations import calibration, without
from tests.contract.peer import CONTRACT, FACES, enroll, settings

NUM_ROWS = 1_000
KILLED = 77
Opener = Callable[..., contextlib.AbstractContextManager[Gallery]]


@contextlib.contextmanager
def opened(
    data: Path,
    correction: CrowdingCorrection = CrowdingCorrection.AUTO,
    calibrated: Calibration | None = None,
    **fields: Any,
) -> Iterator[Gallery]:
    """The gallery `people`, made where it is not there."""
    known = {} if calibrated is None else {CONTRACT.digest: calibrated}
    with contextlib.closing(Galleries.open(data, settings(**fields), calibrations=known)) as galleries:
        if not (data / "galleries").is_dir() or not list((data / "galleries").iterdir()):
            galleries.create("people", CONTRACT)
            set_crowding(galleries.get("people"), correction)
        yield galleries.get("people")


def set_crowding(gallery: Gallery, correction: CrowdingCorrection, target_fpir: float | None = 0.01) -> None:
    """Past the gallery, that asks for a calibration: what is built does not take one."""

    def apply(writer: Writer) -> int:
        new = dataclasses.replace(writer.settings(), crowding=correction, target_fpir=target_fpir)
        return changes.update_settings(writer, new)

    gallery._store.write(apply)


def generation_of(gallery: Gallery) -> Generation:
    generation = gallery._index._snapshot.generation
    assert generation is not None
    return generation


def files(data: Path) -> list[Path]:
    """Of all generations, what this module is about."""
    return sorted(path for name in (CROWDING, OWN_PEOPLE) for path in data.rglob(name))


@pytest.mark.parametrize("fields", [{}, {"build_inline_rows_max": 0}, {"flat_rows_max": 0}])
def test_a_build_keeps_both_wherever_it_runs(tmp_path: Path, fields: dict[str, Any]) -> None:
    with opened(tmp_path, **fields) as gallery:
        enroll(gallery, 0, NUM_ROWS + 1)
        reports: list[tuple[int, int]] = []
        gallery.build(lambda done, total: reports.append((done, total)))
        assert reports == sorted(reports)
        assert reports[-1] == (NUM_ROWS + 1, NUM_ROWS + 1)
        generation = generation_of(gallery)
        assert generation.crowding is not None
        assert generation.own_tops is not None
        np.testing.assert_allclose(generation.crowding, crowding(generation), atol=1e-6)
        np.testing.assert_allclose(generation.own_tops.tops, own_tops(generation).tops, atol=1e-6)
        assert generation.manifest.templates_histogram == (0, NUM_ROWS + 1)
        ids = np.append(generation.template_ids[[3, 900]], np.uint64(1 << 40))
        known = gallery._index._snapshot.crowding_of(ids)
        np.testing.assert_array_equal(known, np.append(generation.crowding[[3, 900]], np.float32(np.nan)))


@pytest.mark.parametrize("inline_rows_max", [0, 10_000])
def test_the_gallerys_setting_and_the_operators_limit_hold(tmp_path: Path, inline_rows_max: int) -> None:
    fields: dict[str, Any] = {"build_inline_rows_max": inline_rows_max, "crowding_templates_max": 300}
    with opened(tmp_path, CrowdingCorrection.OFF, **fields) as gallery:
        enroll(gallery, 0, 300)
        gallery.build(report_nothing)
        assert generation_of(gallery).crowding is None
        set_crowding(gallery, CrowdingCorrection.AUTO)
        enroll(gallery, 300, 1)
        gallery.build(report_nothing)
        assert generation_of(gallery).crowding is None
        set_crowding(gallery, CrowdingCorrection.ON)
        # Asked for and not there: the next round of housekeeping builds it, and only that one.
        gallery.maintain()
        assert gallery.generation() == 3
        assert generation_of(gallery).crowding is not None
        gallery.maintain()
        assert gallery.generation() == 3


@pytest.mark.parametrize("inline_rows_max", [0, 10_000])
def test_a_calibration_that_finds_nobody_by_it_makes_auto_look_for_no_crowding(
    tmp_path: Path, inline_rows_max: int
) -> None:
    fields: dict[str, Any] = {"build_inline_rows_max": inline_rows_max}
    useless, better = calibration(), calibration(is_crowding_better=True)
    auto = CrowdingCorrection.AUTO
    with opened(tmp_path, auto, without(better, CORRECTED), **fields) as gallery:
        enroll(gallery, 0, 300)
        gallery.maintain()
        assert gallery.generation() == 0
    with opened(tmp_path, auto, useless, **fields) as gallery:
        enroll(gallery, 300, NUM_ROWS - 300)
        for _ in range(2):
            gallery.maintain()
            assert gallery.generation() == 1
        assert generation_of(gallery).crowding is None
        assert generation_of(gallery).own_tops is not None
        set_crowding(gallery, CrowdingCorrection.ON)
        gallery.maintain()
        assert generation_of(gallery).crowding is not None
        set_crowding(gallery, auto)
        gallery.build(report_nothing)
        assert generation_of(gallery).crowding is None
    # Measured anew, with more people: the next round of housekeeping looks for it.
    with opened(tmp_path, auto, better, **fields) as gallery:
        gallery.maintain()
        assert generation_of(gallery).crowding is not None


def test_without_a_target_nothing_is_looked_for_and_with_one_it_soon_is(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery:
        set_crowding(gallery, CrowdingCorrection.AUTO, target_fpir=None)
        enroll(gallery, 0, NUM_ROWS)
        gallery.build(report_nothing)
        assert (generation_of(gallery).crowding, generation_of(gallery).own_tops) == (None, None)
        gallery.maintain()
        assert gallery.generation() == 1
        set_crowding(gallery, CrowdingCorrection.AUTO)
        for _ in range(2):
            gallery.maintain()
            assert gallery.generation() == 2
        assert generation_of(gallery).crowding is not None
        assert generation_of(gallery).own_tops is not None


def test_a_gallery_that_grows_is_looked_at_before_its_delta_is_full(tmp_path: Path) -> None:
    with opened(tmp_path, delta_rows_max=50_000) as gallery:
        for first, more, number in ((0, 299, 0), (299, 1, 1), (300, 300, 1), (600, 1, 2), (601, 400, 3)):
            enroll(gallery, first, more)
            for _ in range(2):
                gallery.maintain()
                assert gallery.generation() == number, first


def test_the_smallest_galleries_build_with_the_correction_on(tmp_path: Path) -> None:
    with opened(tmp_path, CrowdingCorrection.ON) as gallery:
        for num_rows in (0, 1, 2):
            if num_rows:
                enroll(gallery, num_rows, 1)
            gallery.build(report_nothing)
            known = generation_of(gallery).crowding
            assert known is not None
            assert known.shape == (num_rows,)
            assert np.isnan(known).all() == (num_rows < 2)


def test_erasing_leaves_no_such_file_of_an_older_generation(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery:
        enroll(gallery, 0, NUM_ROWS)
        gallery.build(report_nothing)
        before = files(tmp_path)
        assert [path.name for path in before] == [CROWDING, OWN_PEOPLE]
        inodes = {path.stat().st_ino for path in before}
        kept = [os.open(path, os.O_RDONLY) for path in before]  # so that no new file gets their inodes
        gallery.remove_identities([f"p{row}" for row in range(701)], erase=True)
        after = files(tmp_path)
        assert [path.name for path in after] == []
        assert generation_of(gallery).num_rows == NUM_ROWS - 701
        enroll(gallery, 0, 701)
        gallery.build(report_nothing)
        again = files(tmp_path)
        assert [path.name for path in again] == [CROWDING, OWN_PEOPLE]
        assert not inodes & {path.stat().st_ino for path in again}
        for descriptor in kept:
            os.close(descriptor)


DYING = """
import contextlib, os, sys
from pathlib import Path
from typing import Any
from engine.builder import Arguments, build_here
from engine.index import neighbours
from engine.store.environment import StoreSettings
from engine.store.gallery_store import GalleryStore

folder, flat_rows_max, when = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
calls = 0

def die(*_arguments):
    os._exit({killed})

def progress(done, total):
    global calls
    calls += 3 * done >= 2 * total
    if (when == "first block" and calls == 1) or (when == "last block" and done == total):
        die()

if when == "before the manifest":
    neighbours.replace_manifest = die
store_settings = StoreSettings(map_size_bytes_max=1 << 28)
with contextlib.closing(GalleryStore(folder, store_settings, is_shared=True)) as store:
    build_here(store, Arguments(2, flat_rows_max, 1, store_settings), progress)
"""


@pytest.mark.parametrize("flat_rows_max", [0, 5_000])
@pytest.mark.parametrize("when", ["first block", "last block", "before the manifest"])
def test_a_build_killed_among_the_neighbours_leaves_the_old_generation(
    tmp_path: Path, when: str, flat_rows_max: int
) -> None:
    with opened(tmp_path, flat_rows_max=flat_rows_max) as gallery:
        enroll(gallery, 0, NUM_ROWS)
        gallery.build(report_nothing)
        enroll(gallery, NUM_ROWS, 10)
    (folder,) = (tmp_path / "galleries").iterdir()
    program = DYING.format(killed=KILLED)
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(flat_rows_max), when], check=False, timeout=60
    )
    assert done.returncode == KILLED
    assert sorted(path.name for path in (folder / "index").iterdir()) == ["1", "2"]
    with opened(tmp_path, flat_rows_max=flat_rows_max) as gallery:
        assert sorted(path.name for path in (folder / "index").iterdir()) == ["1"]
        assert gallery.generation() == 1
        assert generation_of(gallery).crowding is not None
        (answer,) = gallery.identify(FACES[NUM_ROWS + 5][None], 1, threshold=0.0)
        assert answer.candidates[0].identity_id == f"p{NUM_ROWS + 5}"
        gallery.build(report_nothing)
        assert generation_of(gallery).own_tops is not None
        assert [path.parent.name for path in files(tmp_path)] == [str(gallery.generation())] * 2


def test_a_build_cancelled_among_the_neighbours_leaves_the_old_generation(tmp_path: Path) -> None:
    with opened(tmp_path) as gallery:
        enroll(gallery, 0, NUM_ROWS)
        gallery.build(report_nothing)

        def give_up(done: int, total: int) -> None:
            if 3 * done > 2 * total:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            gallery.build(give_up)
        assert gallery.generation() == 1
        assert [path.parent.name for path in files(tmp_path)] == ["1", "1"]
        assert len(list(tmp_path.glob("galleries/*/index/*"))) == 1
