"""Kept crops live and die with their templates, and are in no file once they are erased."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from engine.errors import CorruptDataError, EngineError, InvalidInputError
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.limits import CROP_BYTES_MAX
from engine.store.environment import StoreSettings
from engine.types import EmbeddingContract, Enrollment, EnrollResult, GallerySettings, Template
from tests.contract.clock import Clock
from tests.contract.naive import unit_vectors
from tests.unit.store.conftest import flipped, raw_rows

CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=4, threshold=0.5)
SETTINGS = GalleriesSettings(store=StoreSettings(map_size_bytes_max=1 << 26), maintenance_s=0)
VECTORS = unit_vectors(np.random.default_rng(1), 50, 4)
CROPS = [np.random.default_rng(number).bytes(5000 * (number % 5) + 60) for number in range(50)]
"""The store does not look at them."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def galleries(tmp_path: Path, clock: Clock) -> Iterator[Galleries]:
    with closing(Galleries.open(tmp_path, SETTINGS, clock=clock)) as opened:
        yield opened


@pytest.fixture
def gallery(galleries: Galleries) -> Gallery:
    galleries.create("kept", CONTRACT, GallerySettings(templates_per_identity_max=3, keep_crops=True))
    return galleries.get("kept")


def template(number: int, *, crop: bool = True, quality: float = 0.0) -> Template:
    return Template(VECTORS[number], quality, f"{number}.jpg", CROPS[number] if crop else b"")


def enroll(gallery: Gallery, enrollment: Enrollment) -> EnrollResult:
    (outcome,) = gallery.enroll([enrollment])
    assert isinstance(outcome, EnrollResult), outcome
    return outcome


def crops(gallery: Gallery, identity_id: str) -> list[bytes]:
    return [one.crop for one in gallery.get_identity(identity_id, with_crops=True)[1]]


def held_in(folder: Path, number: int) -> list[Path]:
    # LMDB keeps a value of more than a page in one piece.
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if CROPS[number] in path.read_bytes()]


def test_a_crop_comes_back_where_it_is_asked_for(gallery: Gallery) -> None:
    enroll(gallery, Enrollment("ada", (template(0), template(1, crop=False), template(2))))
    assert crops(gallery, "ada") == [CROPS[0], b"", CROPS[2]]
    assert [one.crop for one in gallery.get_identity("ada")[1]] == [b""] * 3
    ((_, listed),) = gallery.list_identities(with_crops=True)
    assert [one.crop for one in listed] == [CROPS[0], b"", CROPS[2]]
    ((_, listed),) = gallery.list_identities()
    assert [one.crop for one in listed] == [b""] * 3


def test_only_a_gallery_that_keeps_crops_takes_them(galleries: Galleries) -> None:
    galleries.create("plain", CONTRACT)
    plain = galleries.get("plain")
    refused, taken = plain.enroll(
        [Enrollment("a", (template(0),)), Enrollment("b", (template(1, crop=False),))]
    )
    assert isinstance(refused, InvalidInputError)
    assert "keeps none" in refused.message
    assert isinstance(taken, EnrollResult)
    assert not plain.keeps_crops
    assert not plain.info().settings.keep_crops


def test_a_crop_has_a_largest_size(gallery: Gallery) -> None:
    largest = Template(VECTORS[0], crop=bytes(CROP_BYTES_MAX))
    beyond = Template(VECTORS[1], crop=bytes(CROP_BYTES_MAX + 1))
    taken, refused = gallery.enroll([Enrollment("a", (largest,)), Enrollment("b", (beyond,))])
    assert isinstance(taken, EnrollResult)
    assert isinstance(refused, EngineError)
    assert str(CROP_BYTES_MAX) in refused.message


def test_settings_change_and_crops_stay_kept(gallery: Gallery) -> None:
    info = gallery.update(templates_per_identity_max=5, threshold=0.25, clear_threshold=False)
    assert info.settings == GallerySettings(5, 0.25, keep_crops=True)
    info = gallery.update(templates_per_identity_max=None, threshold=None, clear_threshold=True)
    assert info.settings == GallerySettings(5, None, keep_crops=True)


def test_the_crop_of_a_template_enrolled_as_a_vector_is_kept_later(gallery: Gallery) -> None:
    first = enroll(gallery, Enrollment("ada", (template(1, crop=False), template(2))))
    again = enroll(gallery, Enrollment("ada", (template(1), Template(VECTORS[2], crop=CROPS[3]))))
    assert (again.num_added, again.num_ignored) == (0, 2)
    assert again.template_ids == first.template_ids
    assert again.sequence == first.sequence + 1
    assert crops(gallery, "ada") == [CROPS[1], CROPS[2]], "the one that was there stays"
    same = enroll(gallery, Enrollment("ada", (template(1),)))
    assert same.sequence == again.sequence, "nothing changed"


@pytest.mark.parametrize("how", ["identity", "template", "replaced", "evicted", "expired"])
def test_what_ends_a_template_ends_its_crop_and_erasing_leaves_it_in_no_file(
    gallery: Gallery, galleries: Galleries, tmp_path: Path, clock: Clock, how: str
) -> None:
    given = tuple(template(number, quality=0.5 if number == 2 else 0.9) for number in (1, 2, 3))
    first = enroll(gallery, Enrollment("ada", given, expire_time=clock.now + 60))
    enroll(gallery, Enrollment("grace", (template(4),)))
    assert held_in(tmp_path, 2)
    match how:
        case "identity":
            gallery.remove_identities(["ada"])
        case "template":
            gallery.remove_template("ada", first.template_ids[1])
        case "replaced":
            enroll(gallery, Enrollment("ada", (template(1), template(3)), replace=True))
        case "evicted":
            enroll(gallery, Enrollment("ada", (template(6, quality=0.8),), evict_lowest_quality=True))
        case "expired":
            clock.now += 61
            gallery.maintain()
    if how in {"template", "replaced", "evicted"}:
        assert CROPS[2] not in crops(gallery, "ada")
        assert {CROPS[1], CROPS[3]} <= set(crops(gallery, "ada"))
    gallery.remove_identities(["nobody"], erase=True)
    assert not held_in(tmp_path, 2)
    assert crops(gallery, "grace") == [CROPS[4]]
    assert held_in(tmp_path, 4)
    galleries.close()
    with closing(Galleries.open(tmp_path, SETTINGS, clock=clock)) as again:
        assert crops(again.get("kept"), "grace") == [CROPS[4]]


def test_a_damaged_crop_is_said_to_be_damaged_and_its_template_can_be_searched(
    gallery: Gallery, galleries: Galleries, tmp_path: Path, clock: Clock
) -> None:
    enroll(gallery, Enrollment("ada", (template(1),)))
    galleries.close()
    (folder,) = tmp_path.glob("galleries/*/store/1")
    with raw_rows(folder, "crops") as rows:
        (key,) = rows.keys()
        rows.put(key, flipped(rows.get(key)))
    with closing(Galleries.open(tmp_path, SETTINGS, clock=clock)) as again:
        opened = again.get("kept")
        with pytest.raises(CorruptDataError, match="kept crop"):
            crops(opened, "ada")
        assert opened.identify(VECTORS[1][None], 1)[0].candidates[0].identity_id == "ada"
