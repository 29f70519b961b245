"""A job of pictures: what it loaded, templates and crops, is in the gallery and in no file of the job."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from engine.assembly import EmbeddingSettings
from engine.embedding.align import align
from engine.embedding.kept import restore
from engine.errors import InvalidInputError, StorageFullError
from engine.types import Enrollment, EnrollResult, GallerySettings
from indexer import estimate, plan
from indexer.gate import GateSettings
from indexer.items import VectorSource
from indexer.job import Job, Pictures, Summary
from indexer.mapper import Outcome, PictureMapper
from indexer.record import JobFolder, JobSettings
from indexer.runners import Inline
from indexer.sources import open_source
from indexer.target import LocalTarget

pytestmark = [pytest.mark.data, pytest.mark.model]

PEOPLE = ("Aaron_Peirsol", "Abdullah")
GATE = GateSettings(faces="centre")
EMBEDDING = EmbeddingSettings(device="cpu", num_threads=1)
KEEPING = GallerySettings(keep_crops=True)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PICTURES_PER_SHARD", 2)


@pytest.fixture(scope="module")
def people(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people") / "root"
    for name in PEOPLE:
        (root / name).mkdir(parents=True)
        for path in sorted((data_folder / "lfw" / "images" / name).iterdir())[:2]:
            shutil.copy(path, root / name)
    return root


@pytest.fixture(scope="module")
def mapper(people: Path) -> PictureMapper:
    source = open_source(people)
    assert not isinstance(source, VectorSource)
    made = PictureMapper(source, EMBEDDING, GATE)
    made.load()
    return made


@contextmanager
def opened(tmp_path: Path) -> Iterator[LocalTarget]:
    with LocalTarget.open(tmp_path / "data") as target:
        yield target


def run(
    tmp_path: Path,
    target: LocalTarget,
    people: Path,
    mapper: PictureMapper,
    settings: GallerySettings = KEEPING,
    *,
    is_reread: bool = False,
) -> Summary:
    asked = JobSettings(
        source=str(people), gallery="people", target=target.name, model="dlib-resnet", gate=GATE
    )
    folder = JobFolder(tmp_path / "data" / "jobs", asked.id)
    pictures = Pictures(mapper.source, mapper, Inline())
    with folder.locked(asked):
        return Job(folder, asked, target, lambda _line: None).run(
            pictures, lambda: mapper.contract, settings, is_reread=is_reread
        )


def crops(target: LocalTarget, gallery: str = "people") -> dict[str, bytes]:
    return {one.source: one.crop for page in target.pages(gallery) for _, own in page for one in own}


def templates(target: LocalTarget, gallery: str = "people") -> dict[str, bytes]:
    return {
        one.source: one.vector.tobytes() for page in target.pages(gallery) for _, own in page for one in own
    }


def outcomes(tmp_path: Path, summary: Summary) -> list[Outcome]:
    folder = JobFolder(tmp_path / "data" / "jobs", summary.job_id)
    planned = folder.read_plan()
    assert planned is not None
    assert planned.num_shards > 1
    return [one for number in range(planned.num_shards) for one in folder.outcomes(number)]


def test_templates_have_the_crops_that_they_were_made_from(
    tmp_path: Path, people: Path, mapper: PictureMapper
) -> None:
    with opened(tmp_path) as target:
        summary = run(tmp_path, target, people, mapper)
        found = crops(target)
        assert len(found) == summary.num_templates == sum(1 for _ in people.rglob("*.jpg"))
        embedder = mapper._parts.embedder
        aligned = [align(*restore(crop), embedder.alignment) for crop in found.values()]
        vectors = [one.vector for page in target.pages("people") for _, own in page for one in own]
        cosines = (embedder.embed(np.stack(aligned)) * np.stack(vectors)).sum(axis=1)
        assert cosines.min() > 0.9995
        assert not any(one.crops or one.vectors for one in outcomes(tmp_path, summary))
        # Nobody else holds a face: erased in the gallery, it is in no file of the data folder.
        crop = next(iter(found.values()))
        gone = next(iter(target.pages("people")))[0][0].identity_id
        assert files_with(tmp_path, crop)
        target.galleries.get("people").remove_identities([gone], erase=True)
        assert not files_with(tmp_path, crop)
        assert run(tmp_path, target, people, mapper).is_unchanged


def files_with(folder: Path, crop: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and crop[60:] in path.read_bytes()]


def test_a_gallery_that_keeps_none_is_given_none(tmp_path: Path, people: Path, mapper: PictureMapper) -> None:
    with opened(tmp_path) as target:
        run(tmp_path, target, people, mapper, GallerySettings())
        assert set(crops(target).values()) == {b""}
        target.create("there", mapper.contract, GallerySettings())
        target.set_alias("people", "there")
        with pytest.raises(InvalidInputError, match="keeps no crops"):
            run(tmp_path, target, people, mapper)


class Killed(Exception):  # noqa: N818 - stands for the end of the process
    pass


class Dying(LocalTarget):
    """Ends at the second shard."""

    num_left = 1

    def enroll(self, gallery_id: str, enrollments: list[Enrollment]) -> Iterator[EnrollResult]:  # type: ignore[override]
        if not self.num_left:
            raise Killed
        self.num_left -= 1
        for outcome in super().enroll(gallery_id, enrollments):
            assert isinstance(outcome, EnrollResult)
            yield outcome


def test_what_was_killed_keeps_every_crop_and_so_does_another_gallery(
    tmp_path: Path, people: Path, mapper: PictureMapper
) -> None:
    with opened(tmp_path) as target:
        with pytest.raises(Killed):
            run(tmp_path, Dying(tmp_path / "data", target.galleries), people, mapper)
        summary = run(tmp_path, target, people, mapper)
        found = crops(target)
        assert all(found.values())
        # The gallery is gone, and the job's outcomes have given their crops away.
        target.galleries.delete_alias("people")
        target.galleries.delete(summary.gallery_id)
        again = run(tmp_path, target, people, mapper)
        assert not again.is_unchanged
        assert crops(target) == found
        # Embedded for a gallery that keeps none first, then for one that keeps them.
    with opened(tmp_path / "other") as target:
        plain = run(tmp_path / "other", target, people, mapper, GallerySettings())
        target.galleries.delete_alias("people")
        target.galleries.delete(plain.gallery_id)
        run(tmp_path / "other", target, people, mapper)
        assert crops(target) == found


def test_a_killed_job_leaves_no_crop_where_the_next_gallery_keeps_none(
    tmp_path: Path, people: Path, mapper: PictureMapper
) -> None:
    with opened(tmp_path) as target:
        with pytest.raises(Killed):
            run(tmp_path, Dying(tmp_path / "data", target.galleries), people, mapper)
        (begun,) = target.galleries.infos()
        crop = next(crop for crop in crops(target, begun.gallery_id).values() if crop)
        assert len(files_with(tmp_path, crop)) > 1
        target.galleries.delete(begun.gallery_id)
        summary = run(tmp_path, target, people, mapper, GallerySettings())
        assert summary.num_templates
        assert all(one.crops == [] for one in outcomes(tmp_path, summary))
        assert not files_with(tmp_path, crop)


def test_crops_count_among_what_the_disk_must_hold(
    tmp_path: Path, people: Path, mapper: PictureMapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(estimate, "CROP_DISK_BYTES", free)
    with opened(tmp_path) as target, pytest.raises(StorageFullError):
        run(tmp_path, target, people, mapper)


def in_files(folder: Path, found: dict[str, bytes]) -> set[str]:
    """Those of which some file holds the bytes."""
    data = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return {name for name, value in found.items() if any(value in one for one in data)}


def test_a_finished_job_holds_no_template_and_is_still_done(
    tmp_path: Path, people: Path, mapper: PictureMapper
) -> None:
    with opened(tmp_path) as target:
        summary = run(tmp_path, target, people, mapper, GallerySettings())
        found, job = templates(target), tmp_path / "data" / "jobs" / summary.job_id
        assert len(found) == summary.num_templates > 2
        assert not in_files(job, found)
        kept = {path: path.read_bytes() for path in (job / "embedded").iterdir()}
        for is_reread in (False, True):
            assert run(tmp_path, target, people, mapper, GallerySettings(), is_reread=is_reread).is_unchanged
        assert {path: path.read_bytes() for path in (job / "embedded").iterdir()} == kept
        # Erased in the gallery, a template is in no file of the data folder.
        assert in_files(tmp_path, found) == set(found)
        target.galleries.get("people").remove_identities([PEOPLE[0]], erase=True)
        assert in_files(tmp_path, found) == {name for name in found if not name.startswith(PEOPLE[0])}
        # Without its gallery all is embedded anew, to the same bits.
        target.galleries.delete_alias("people")
        target.galleries.delete(summary.gallery_id)
        assert not run(tmp_path, target, people, mapper, GallerySettings()).is_unchanged
        assert templates(target) == found
        assert not in_files(job, found)


@pytest.mark.parametrize("is_gallery_lost", [False, True])
def test_a_job_killed_while_it_gives_its_templates_away_loses_none(
    tmp_path: Path, people: Path, mapper: PictureMapper, *, is_gallery_lost: bool
) -> None:
    keep, num_kept = JobFolder.keep_outcomes, 0

    def keep_one(self: JobFolder, number: int, given: list[Outcome]) -> None:
        nonlocal num_kept
        num_kept += not any(one.vectors for one in given)
        if num_kept > 1:
            raise Killed
        keep(self, number, given)

    with opened(tmp_path) as target:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(JobFolder, "keep_outcomes", keep_one)
            with pytest.raises(Killed):
                run(tmp_path, target, people, mapper, GallerySettings())
        (begun,) = target.galleries.infos()
        found = templates(target, begun.gallery_id)
        assert 0 < len(in_files(tmp_path / "data" / "jobs", found)) < len(found)
        if is_gallery_lost:
            target.galleries.delete(begun.gallery_id)
        run(tmp_path, target, people, mapper, GallerySettings())
        assert templates(target) == found
        assert not in_files(tmp_path / "data" / "jobs", found)
