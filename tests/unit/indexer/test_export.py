"""A gallery as Parquet: all of it, in the order said, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import InvalidInputError, StorageFullError
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.types import (
    EmbeddingContract,
    Enrollment,
    GallerySettings,
    Identity,
    StoredTemplate,
    Template,
    Vector,
    Vectors,
)
from indexer.export import ExportResult, export_gallery
from indexer.pages import Page, stored_pages

DIMENSION = 4
CONTRACT = EmbeddingContract("elsewhere", "ab" * 32, "none", mirror=True, dimension=DIMENSION, threshold=0.9)
SETTINGS = GallerySettings(templates_per_identity_max=5, threshold=0.75)
EXPIRE_TIME = 4_000_000_000.125


def units(num_rows: int, seed: int = 7, dimension: int = DIMENSION) -> Vectors:
    rows = np.random.default_rng(seed).normal(size=(num_rows, dimension))
    units: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units


@pytest.fixture
def galleries(tmp_path: Path) -> Iterator[Galleries]:
    opened = Galleries.open(tmp_path / "data", GalleriesSettings(maintenance_s=0.0))
    with contextlib.closing(opened):
        yield opened


def make(galleries: Galleries, enrollments: list[Enrollment], gallery_id: str = "staff") -> Gallery:
    galleries.create(gallery_id, CONTRACT, SETTINGS)
    gallery = galleries.get(gallery_id)
    for enrollment in enrollments:
        (outcome,) = gallery.enroll([enrollment])
        assert not isinstance(outcome, Exception)
    return gallery


def many() -> list[Enrollment]:
    """Names in many scripts, several templates, none, attributes, expiry, sources that sort otherwise."""
    rows = iter(units(20))

    def template(source: str = "", quality: float = 0.3) -> Template:
        return Template(next(rows), quality, source)

    return [
        Enrollment("山田太郎", (template("z/1.jpg", 0.9), template("a/2.jpg", 0.1)), {"b": "2", "a": "ü=1"}),
        Enrollment("ada", (template("m.jpg"), template("c.jpg"), template("y.jpg")), {}, EXPIRE_TIME),
        Enrollment("Zoë", (template(),)),
        Enrollment("nobody yet", (), {"team": "space"}),
        Enrollment("أحمد", (template("b.jpg", 1.0),)),
    ]


def exported(gallery: Gallery, target: Path, **options: Any) -> ExportResult:
    return export_gallery(stored_pages(gallery), gallery.contract, target, settings=SETTINGS, **options)


def told(gallery: Gallery) -> list[dict[str, Any]]:
    """What a gallery holds, row by row, asked of the gallery itself."""
    rows: list[dict[str, Any]] = []
    for identity, templates in gallery.list_identities(limit=10_000):
        common = {
            "identity_id": identity.identity_id,
            "identity_create_time": identity.create_time,
            "attributes": sorted(identity.attributes.items()),
            "expire_time": identity.expire_time,
        }
        rows += [
            common
            | {
                "template_id": template.template_id,
                "vector": template.vector.tolist(),
                "source": template.source,
                "quality": template.quality,
                "create_time": template.create_time,
            }
            for template in templates
        ]
        if not templates:
            absent = ("template_id", "vector", "source", "quality", "create_time")
            rows.append(common | dict.fromkeys(absent))
    return rows


@pytest.mark.parametrize("row_group_rows", [1, 3, 1000])
def test_every_row_of_a_gallery_is_in_the_file_as_the_gallery_tells_it(
    galleries: Galleries, tmp_path: Path, row_group_rows: int
) -> None:
    gallery = make(galleries, many())
    target = tmp_path / "staff.parquet"
    assert exported(gallery, target, row_group_rows=row_group_rows) == ExportResult(5, 7)
    table = pq.read_table(target, page_checksum_verification=True)
    assert table.to_pylist() == told(gallery)
    assert pq.ParquetFile(target).metadata.num_row_groups == -(-8 // row_group_rows)
    names = [row["identity_id"].encode() for row in table.to_pylist()]
    assert names == sorted(names)
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[4]"
    assert list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*")) == []


def test_what_made_the_vectors_is_in_the_metadata(galleries: Galleries, tmp_path: Path) -> None:
    exported(make(galleries, many()), tmp_path / "staff.parquet")
    metadata = pq.read_schema(tmp_path / "staff.parquet").metadata
    assert EmbeddingContract(**json.loads(metadata[b"identiface.contract"])) == CONTRACT
    assert GallerySettings(**json.loads(metadata[b"identiface.gallery"])) == SETTINGS
    assert metadata[b"identiface.format"] == b"1"


def test_a_file_fills_a_gallery_that_makes_the_same_file(galleries: Galleries, tmp_path: Path) -> None:
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    exported(make(galleries, many()), first, order="source", without_times=True)
    back: dict[str, Enrollment] = {}
    for row in pq.read_table(first).to_pylist():
        given = back.get(row["identity_id"], Enrollment(row["identity_id"]))
        added = []
        if row["vector"] is not None:
            added.append(Template(np.array(row["vector"], np.float32), row["quality"], row["source"]))
        back[row["identity_id"]] = dataclasses.replace(
            given,
            templates=(*given.templates, *added),
            attributes=dict(row["attributes"]),
            expire_time=row["expire_time"],
        )
    again = make(galleries, list(reversed(back.values())), "again")
    exported(again, second, order="source", without_times=True)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("row_group_rows", [2, 1000])
def test_by_source_and_without_times_two_runs_are_equal_to_the_byte(
    galleries: Galleries, tmp_path: Path, row_group_rows: int
) -> None:
    # Nothing tells the last two apart but their vectors.
    same = [Enrollment("twin", (Template(vector),)) for vector in units(2, seed=11)]
    one = make(galleries, many() + same, "one")
    turned = [dataclasses.replace(item, templates=item.templates[::-1]) for item in many() + same]
    other = make(galleries, turned[::-1], "other")
    targets = [tmp_path / "one.parquet", tmp_path / "other.parquet"]
    for gallery, target in zip((one, other), targets, strict=True):
        exported(gallery, target, order="source", without_times=True, row_group_rows=row_group_rows)
    assert targets[0].read_bytes() == targets[1].read_bytes()
    table = pq.read_table(targets[0])
    assert not {"template_id", "create_time", "identity_create_time"} & set(table.column_names)
    sources = [(row["source"] or "").encode() for row in table.to_pylist()]
    assert sources == sorted(sources)
    assert sum(row["expire_time"] == EXPIRE_TIME for row in table.to_pylist()) == 3

    def rows_of(gallery: Gallery) -> list[tuple[object, ...]]:
        names = ("identity_id", "vector", "source", "quality", "attributes", "expire_time")
        return sorted((tuple(row[name] for name in names) for row in told(gallery)), key=repr)

    held = sorted((tuple(row[name] for name in table.column_names) for row in table.to_pylist()), key=repr)
    assert held == rows_of(one)
    exported(other, targets[1], overwrite=True)
    assert targets[0].read_bytes() != targets[1].read_bytes()


@pytest.mark.parametrize("order", ["identity", "source"])
def test_an_empty_gallery_and_one_of_one_row(galleries: Galleries, tmp_path: Path, order: str) -> None:
    target = tmp_path / "g.parquet"
    assert exported(make(galleries, []), target, order=order) == ExportResult(0, 0)
    table = pq.read_table(target)
    assert (table.num_rows, table.num_columns) == (0, 9)
    (vector,) = units(1)
    one = make(galleries, [Enrollment("a", (Template(vector),))], "one")
    assert exported(one, target, order=order, overwrite=True) == ExportResult(1, 1)
    assert pq.read_table(target)["vector"].to_pylist() == [vector.tolist()]


@pytest.mark.parametrize("order", ["identity", "source"])
def test_only_identities_without_templates(galleries: Galleries, tmp_path: Path, order: str) -> None:
    gallery = make(galleries, [Enrollment("b"), Enrollment("a", (), {"k": "v"})])
    assert exported(gallery, tmp_path / "g.parquet", order=order) == ExportResult(2, 0)
    table = pq.read_table(tmp_path / "g.parquet")
    assert table["identity_id"].to_pylist() == ["a", "b"]
    assert table["vector"].to_pylist() == table["template_id"].to_pylist() == [None, None]


def test_more_identities_than_a_page(galleries: Galleries, tmp_path: Path) -> None:
    galleries.create("staff", CONTRACT)
    gallery = galleries.get("staff")
    vectors = units(1100)
    people = [Enrollment(f"p{row:04}", (Template(vectors[row]),)) for row in range(len(vectors))]
    for start in range(0, len(people), 200):
        gallery.enroll(people[start : start + 200])
    result = export_gallery(stored_pages(gallery), CONTRACT, tmp_path / "g.parquet", row_group_rows=300)
    assert result == ExportResult(1100, 1100)
    table = pq.read_table(tmp_path / "g.parquet")
    assert table["identity_id"].to_pylist() == [person.identity_id for person in people]
    held = table["vector"].combine_chunks().values.to_numpy().reshape(-1, DIMENSION)
    assert np.array_equal(held, vectors)


def page_of(vector: Vector) -> Iterator[Page]:
    identity = Identity("ada", {}, (1,), 1.0)
    yield [(identity, (StoredTemplate(1, vector, 0.5, "a.jpg", 1.0),))]


def test_a_file_that_is_there_stays_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "g.parquet"
    target.write_bytes(b"mine")
    (vector,) = units(1)
    with pytest.raises(InvalidInputError, match=r"g\.parquet exists"):
        export_gallery(page_of(vector), CONTRACT, target)
    assert target.read_bytes() == b"mine"
    export_gallery(page_of(vector), CONTRACT, target, overwrite=True)
    assert pq.read_table(target).num_rows == 1


def test_a_file_that_was_made_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "g.parquet"

    def pages() -> Iterator[Page]:
        target.write_bytes(b"theirs")
        yield from page_of(units(1)[0])

    with pytest.raises(InvalidInputError, match="exists"):
        export_gallery(pages(), CONTRACT, target)
    assert [path.name for path in tmp_path.iterdir()] == ["g.parquet"]
    assert target.read_bytes() == b"theirs"


@pytest.mark.parametrize("where", ["missing/g.parquet", "folder.parquet"])
def test_places_where_no_file_can_be(tmp_path: Path, where: str) -> None:
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InvalidInputError, match="folder"):
        export_gallery(page_of(units(1)[0]), CONTRACT, tmp_path / where)


def test_where_reading_fails_nothing_is_left(tmp_path: Path) -> None:
    def pages() -> Iterator[Page]:
        yield from page_of(units(1)[0])
        raise StorageFullError("as any error of the gallery")

    with pytest.raises(StorageFullError):
        export_gallery(pages(), CONTRACT, tmp_path / "g.parquet", row_group_rows=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 1, 3, 5])
def test_vectors_of_another_length_are_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(InvalidInputError, match="identity 'ada'"):
        export_gallery(page_of(np.ones(length, np.float32)), CONTRACT, tmp_path / "g.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_row_group_holds_a_row(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="row_group_rows"):
        export_gallery(iter(()), CONTRACT, tmp_path / "g.parquet", row_group_rows=0)


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "g.parquet"
    target.write_bytes(b"mine")
    vectors = units(64, dimension=1024)
    contract = dataclasses.replace(CONTRACT, dimension=1024)
    pages = (page for vector in vectors for page in page_of(vector))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses a file beyond this size as it refuses one on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageFullError, match=r"no space left for .*g\.parquet"):
            export_gallery(pages, contract, target, overwrite=True, row_group_rows=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["g.parquet"]
    assert target.read_bytes() == b"mine"
