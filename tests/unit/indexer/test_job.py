"""A job from its source to a published gallery, in this process; interrupted, repeated, refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from engine.errors import (
    AlreadyExistsError,
    ContractMismatchError,
    EngineError,
    InvalidInputError,
    PreconditionError,
    StorageFullError,
)
from engine.types import EmbeddingContract, Enrollment, EnrollResult, GallerySettings, Vectors
from indexer import estimate, plan
from indexer.export import export_gallery
from indexer.fault import FAULT_ITEMS
from indexer.items import Reason, VectorSource
from indexer.job import Job, Summary
from indexer.pages import stored_pages
from indexer.record import JobFolder, JobSettings
from indexer.sources import open_source
from indexer.target import LocalTarget, Target
from tests.contract.naive import unit_vectors

DIMENSION = 16
CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=DIMENSION, threshold=0.5)
NUM_ROWS = 300


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "ROWS_PER_SHARD", 64)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write(tmp_path / "vectors.npy", unit_vectors(np.random.default_rng(1), NUM_ROWS, DIMENSION))
    return tmp_path / "vectors.npy"


def write(path: Path, vectors: Vectors, names: Sequence[str] | None = None) -> None:
    np.save(path, vectors)
    names = names or [f"person {row % 100}" for row in range(len(vectors))]
    path.with_suffix(".txt").write_text("".join(f"{name}\n" for name in names))


@contextmanager
def opened(tmp_path: Path) -> Iterator[LocalTarget]:
    with LocalTarget.open(tmp_path / "data") as target:
        yield target


def run(
    tmp_path: Path,
    target: Target,
    source: Path,
    gallery: str = "people",
    *,
    contract: EmbeddingContract | None = CONTRACT,
    is_replanned: bool = False,
    is_reread: bool = False,
    normalize: bool = False,
    replace: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Summary:
    settings = JobSettings(
        source=str(source), gallery=gallery, target=target.name, normalize=normalize, replace=replace
    )
    folder = JobFolder(tmp_path / "jobs", settings.id)
    rows = open_source(source, source.with_suffix(".txt") if source.suffix == ".npy" else None)
    assert isinstance(rows, VectorSource)
    with folder.locked(settings):
        return Job(folder, settings, target, say).run(
            rows,
            lambda: contract,
            GallerySettings(),
            is_replanned=is_replanned,
            is_reread=is_reread,
        )


def exported(target: LocalTarget, gallery: str, file: Path) -> bytes:
    opened_gallery = target.galleries.get(gallery)
    export_gallery(
        stored_pages(opened_gallery), CONTRACT, file, overwrite=True, order="source", without_times=True
    )
    return file.read_bytes()


def gallery_id(target: Target, name: str) -> str:
    found = target.find(name)
    return found.gallery_id if found else ""


def num_templates(target: Target, name: str) -> int:
    found = target.find(name)
    return found.num_templates if found else -1


def reasons(summary: Summary, tmp_path: Path) -> list[tuple[str, Reason]]:
    folder = JobFolder(tmp_path / "jobs", summary.job_id)
    planned = folder.read_plan()
    assert planned is not None
    return [(refusal.key, refusal.reason) for refusal in folder.refusals(planned)]


def test_a_new_gallery_is_filled_built_and_published_under_its_name(tmp_path: Path, source: Path) -> None:
    with opened(tmp_path) as target:
        summary = run(tmp_path, target, source)
        assert (summary.num_items, summary.num_refused, summary.num_templates) == (NUM_ROWS, 0, NUM_ROWS)
        assert gallery_id(target, "people") == summary.gallery_id != "people"
        probes = np.load(source)[:20]
        answers = target.nearest("people", probes)
        assert [name for name, _ in answers] == [f"person {row}" for row in range(20)]
        np.testing.assert_allclose([similarity for _, similarity in answers], 1.0, atol=1e-6)
        assert target.galleries.get("people").index_status().generation == 1
        assert (summary.report / "report.html").is_file()


def test_the_same_job_again_changes_nothing(tmp_path: Path, source: Path) -> None:
    with opened(tmp_path) as target:
        first = run(tmp_path, target, source)
        before = target.galleries.get("people").info()
        again = run(tmp_path, target, source)
        assert again.is_unchanged
        assert not first.is_unchanged
        assert target.galleries.get("people").info() == before


class Killed(Exception):  # noqa: N818 - stands for the end of the process
    pass


class Dying(LocalTarget):
    """Ends after so many enrollments, in the middle of a shard."""

    num_left = 0

    def enroll(
        self, gallery_id: str, enrollments: Sequence[Enrollment]
    ) -> Iterator[EnrollResult | EngineError]:
        for enrollment in enrollments:
            if not self.num_left:
                raise Killed
            self.num_left -= 1
            yield from super().enroll(gallery_id, [enrollment])


@pytest.mark.parametrize("num_before", [0, 1, 63, 64, 100, NUM_ROWS - 1])
def test_a_job_that_died_while_loading_ends_as_if_it_had_not(
    tmp_path: Path, source: Path, num_before: int
) -> None:
    with opened(tmp_path / "whole") as target:
        run(tmp_path / "whole", target, source)
        expected = exported(target, "people", tmp_path / "expected.parquet")
    with Dying.open(tmp_path / "data") as target:
        assert isinstance(target, Dying)
        target.num_left = num_before
        with pytest.raises(Killed):
            run(tmp_path, target, source)
        assert target.find("people") is None, "nobody sees half of it"
    with opened(tmp_path) as target:
        summary = run(tmp_path, target, source)
        assert summary.num_templates == NUM_ROWS
        assert exported(target, "people", tmp_path / "found.parquet") == expected


def test_bad_rows_are_refused_and_the_others_loaded(tmp_path: Path) -> None:
    vectors = unit_vectors(np.random.default_rng(2), 200, DIMENSION)
    vectors[3] = np.nan
    vectors[70] = 0
    vectors[199] *= 2
    write(tmp_path / "v.npy", vectors, [f"p{row}" for row in range(199)] + ["\u200b"])
    with opened(tmp_path) as target:
        summary = run(tmp_path, target, tmp_path / "v.npy")
        assert summary.num_templates == 197
        found = reasons(summary, tmp_path)
    assert [key for key, _ in found] == ["v.npy:3", "v.npy:70", "v.npy:199"]
    assert [reason for _, reason in found][:2] == [Reason.BAD_VECTOR] * 2


def test_vectors_of_any_length_are_brought_to_unit_length_where_asked(tmp_path: Path, source: Path) -> None:
    vectors = np.load(source)
    write(tmp_path / "long.npy", vectors * 3)
    with opened(tmp_path) as target:
        assert run(tmp_path, target, tmp_path / "long.npy", normalize=True).num_templates == NUM_ROWS


def test_where_the_first_are_all_refused_for_one_reason_the_job_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "ROWS_PER_SHARD", 2 * FAULT_ITEMS)
    write(tmp_path / "v.npy", np.zeros((FAULT_ITEMS * 3, DIMENSION), np.float32))
    with (
        opened(tmp_path) as target,
        pytest.raises(PreconditionError, match=r"all refused: bad_vector.*v.npy:0"),
    ):
        run(tmp_path, target, tmp_path / "v.npy")


def test_more_templates_than_an_identity_may_have_are_refused_by_name(tmp_path: Path) -> None:
    vectors = unit_vectors(np.random.default_rng(3), 20, DIMENSION)
    write(tmp_path / "v.npy", vectors, ["ada"] * 20)
    with opened(tmp_path) as target:
        summary = run(tmp_path, target, tmp_path / "v.npy")
        assert summary.num_templates == GallerySettings().templates_per_identity_max
        assert reasons(summary, tmp_path) == [
            (f"v.npy:{row}", Reason.TEMPLATE_LIMIT) for row in range(16, 20)
        ]


def test_a_gallery_that_is_there_is_added_to(tmp_path: Path, source: Path) -> None:
    with opened(tmp_path) as target:
        target.create("people", CONTRACT, GallerySettings())
        target.galleries.get("people").enroll([Enrollment("zoe")])
        summary = run(tmp_path, target, source, contract=None)
        assert summary.gallery_id == "people"
        assert target.galleries.get("people").info().num_identities == 101


def test_a_gallery_is_replaced_in_one_step(tmp_path: Path, source: Path) -> None:
    write(tmp_path / "new.npy", unit_vectors(np.random.default_rng(5), 10, DIMENSION))
    with opened(tmp_path) as target:
        old = run(tmp_path, target, source)
        new = run(tmp_path, target, tmp_path / "new.npy", replace=True)
        assert gallery_id(target, "people") == new.gallery_id != old.gallery_id
        assert num_templates(target, "people") == 10
        assert num_templates(target, old.gallery_id) == NUM_ROWS


def test_what_cannot_be_is_said_before_anything_is_made(tmp_path: Path, source: Path) -> None:
    other = EmbeddingContract("other", "", "", mirror=False, dimension=DIMENSION, threshold=0.5)
    with opened(tmp_path) as target:
        with pytest.raises(InvalidInputError, match="what made the vectors"):
            run(tmp_path, target, source, contract=None)
        target.create("people", CONTRACT, GallerySettings())
        with pytest.raises(ContractMismatchError, match=r"'vectors'.*'other'"):
            run(tmp_path, target, source, contract=other)
        with pytest.raises(AlreadyExistsError, match="its own name"):
            run(tmp_path, target, source, replace=True)
        assert num_templates(target, "people") == 0


def test_vectors_of_another_dimension_are_refused_for_what_they_are(tmp_path: Path) -> None:
    write(tmp_path / "v.npy", unit_vectors(np.random.default_rng(6), 10, DIMENSION + 1))
    with opened(tmp_path) as target:
        target.create("people", CONTRACT, GallerySettings())
        with pytest.raises(ContractMismatchError, match=r"17.*16"):
            run(tmp_path, target, tmp_path / "v.npy", contract=None)
        with pytest.raises(ContractMismatchError, match=r"17.*16"):
            run(tmp_path, target, tmp_path / "v.npy", "new", contract=CONTRACT)
        assert [info.gallery_id for info in target.galleries.infos()] == ["people"]


def test_two_processes_do_not_run_one_job(tmp_path: Path, source: Path) -> None:
    settings = JobSettings(source=str(source), gallery="people", target=str((tmp_path / "data").resolve()))
    folder = JobFolder(tmp_path / "jobs", settings.id)
    with (
        opened(tmp_path) as target,
        folder.locked(settings),
        pytest.raises(PreconditionError, match="another process"),
    ):
        run(tmp_path, target, source)


def test_a_disk_that_cannot_hold_it_is_found_before(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "TEMPLATE_DISK_BYTES", 1 << 60)
    with opened(tmp_path) as target:
        with pytest.raises(StorageFullError, match="MB are free"):
            run(tmp_path, target, source)
        assert target.find("people") is None


def delete(target: LocalTarget, name: str, gallery: str) -> None:
    target.galleries.delete_alias(name)
    target.galleries.delete(gallery)


def test_a_gallery_that_was_deleted_is_filled_again(tmp_path: Path, source: Path) -> None:
    with opened(tmp_path) as target:
        first = run(tmp_path, target, source)
        delete(target, "people", first.gallery_id)
        assert run(tmp_path, target, source).num_templates == NUM_ROWS
        # Another one under its name is not taken for it.
        delete(target, "people", gallery_id(target, "people"))
        target.create(first.gallery_id, CONTRACT, GallerySettings())
        assert run(tmp_path, target, source).num_templates == NUM_ROWS
        assert num_templates(target, "people") == NUM_ROWS


def test_a_gallery_deleted_while_it_was_filled_is_not_published_empty(tmp_path: Path, source: Path) -> None:
    with Dying.open(tmp_path / "data") as target:
        assert isinstance(target, Dying)
        target.num_left = 150
        with pytest.raises(Killed):
            run(tmp_path, target, source)
        (made,) = [info.gallery_id for info in target.galleries.infos()]
        target.galleries.delete(made)
        target.num_left = 1000
        assert run(tmp_path, target, source).num_templates == NUM_ROWS


def test_a_job_does_not_take_a_name_that_means_another_gallery_by_then(tmp_path: Path, source: Path) -> None:
    write(tmp_path / "other.npy", unit_vectors(np.random.default_rng(5), 10, DIMENSION))
    with Dying.open(tmp_path / "data") as target:
        assert isinstance(target, Dying)
        target.num_left = 150
        with pytest.raises(Killed):
            run(tmp_path, target, source)
        target.num_left = 1000
        other = run(tmp_path, target, tmp_path / "other.npy")
        with pytest.raises(PreconditionError, match=f"means gallery '{other.gallery_id}'"):
            run(tmp_path, target, source)
        assert gallery_id(target, "people") == other.gallery_id


def test_what_the_name_means_now_is_what_counts(tmp_path: Path, source: Path) -> None:
    write(tmp_path / "other.npy", unit_vectors(np.random.default_rng(5), 10, DIMENSION))
    with opened(tmp_path) as target:
        first = run(tmp_path, target, source)
        target.galleries.delete_alias("people")
        again = run(tmp_path, target, source)
        assert (gallery_id(target, "people"), again.is_unchanged) == (first.gallery_id, False)
        other = run(tmp_path, target, tmp_path / "other.npy", replace=True)
        assert gallery_id(target, "people") == other.gallery_id
        # The name is another gallery's now: that one is added to.
        assert run(tmp_path, target, source).gallery_id == other.gallery_id
        assert num_templates(target, "people") == NUM_ROWS + 10


def test_nothing_is_published_where_everything_was_refused(tmp_path: Path) -> None:
    write(tmp_path / "v.npy", np.zeros((FAULT_ITEMS - 1, DIMENSION), np.float32))
    with opened(tmp_path) as target:
        with pytest.raises(PreconditionError, match="nothing of the source was loaded"):
            run(tmp_path, target, tmp_path / "v.npy")
        assert target.find("people") is None
    (report,) = (tmp_path / "jobs").glob("*/report/report.csv")
    assert report.read_text("utf-8-sig").count("bad_vector") == FAULT_ITEMS - 1
