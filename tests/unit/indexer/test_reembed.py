"""A gallery moved to another network: whole, with gaps, killed on the way, refused."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.embedding.align import ALIGNMENTS, DLIB, Alignment, align
from engine.embedding.embed import Embedder
from engine.embedding.kept import keep, restore
from engine.errors import (
    AlreadyExistsError,
    ContractMismatchError,
    GalleryNotFoundError,
    InvalidInputError,
    PreconditionError,
)
from engine.types import (
    CrowdingCorrection,
    EmbeddingContract,
    Enrollment,
    EnrollResult,
    GallerySettings,
    Template,
    Vector,
    Vectors,
)
from indexer.reembed import (
    COLUMNS,
    CropEmbedder,
    Loss,
    Moved,
    check_alias,
    find_old,
    reembed,
    settings_for,
    write_report,
)
from indexer.target import LocalTarget, Target
from tests.contract.naive import unit_vectors

OLD = EmbeddingContract("old", "", "", mirror=False, dimension=16, threshold=0.5)
KEPT = GallerySettings(templates_per_identity_max=4, threshold=0.7, keep_crops=True)
VECTORS = unit_vectors(np.random.default_rng(3), 200, OLD.dimension)
EXPIRE_TIME = 4e9


class Projection:
    """A seeded projection of a coarse view of the crop: real, deterministic, and knows no one."""

    weights_sha256 = "1" * 64
    alignment: Alignment = ALIGNMENTS["arcface-112"]
    dimension = 24
    device = "cpu"
    mirror = False
    threshold = 0.25

    def __init__(self, name: str = "new"):
        self.name = name
        self.num_crops = 0
        self._matrix = np.random.default_rng(6).normal(size=(28 * 28 * 3, self.dimension)) / 100

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
        self.num_crops += len(crops)
        coarse = crops[:, ::4, ::4].reshape(len(crops), -1).astype(np.float32)
        # A crop of one colour alone gives nothing, as may happen to any network.
        coarse[crops.reshape(len(crops), -1).std(axis=1) == 0] = 0
        vectors: Vectors = (coarse @ self._matrix).astype(np.float32)
        return vectors


def picture_crop(number: int) -> bytes:
    """The kept crop of a picture like no other."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (13, 12, 3), np.uint8)
    picture = np.kron(coarse, np.ones((15, 15, 1), np.uint8))
    return keep(picture, (DLIB.points + rng.normal(0, 2, (5, 2))).astype(np.float32))


CROPS = [picture_crop(number) for number in range(40)]
BLANK = keep(np.full((150, 150, 3), 90, np.uint8), DLIB.points)


def template(number: int, crop: bytes | None = None) -> Template:
    return Template(
        VECTORS[number], 0.5 + number / 1000, f"{number}.jpg", CROPS[number] if crop is None else crop
    )


@contextmanager
def opened(tmp_path: Path) -> Iterator[LocalTarget]:
    with LocalTarget.open(tmp_path / "data") as target:
        yield target


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LocalTarget]:
    with opened(tmp_path) as one:
        one.create("old", OLD, KEPT)
        yield one


@pytest.fixture
def embed() -> CropEmbedder:
    return CropEmbedder(Embedder(Projection()))


def enroll(target: Target, gallery_id: str, *enrollments: Enrollment) -> None:
    for outcome in target.enroll(gallery_id, enrollments):
        assert isinstance(outcome, EnrollResult), outcome


def fill(target: Target, num_identities: int = 12) -> None:
    """Identities of one to three pictures each."""
    enroll(
        target,
        "old",
        *(
            Enrollment(
                f"p{number:02d}",
                tuple(template(3 * number + row) for row in range(1 + number % 3)),
                {"name": f"Zoë {number}"},
                EXPIRE_TIME if number % 2 else None,
            )
            for number in range(num_identities)
        ),
    )


def move(target: Target, embed: CropEmbedder, to: str = "new", gallery: str = "old") -> Moved:
    return reembed(target, find_old(target, gallery), to, embed)


def held(target: LocalTarget, gallery_id: str) -> list[object]:
    """All of a gallery that must come over, without vectors."""
    return [
        (
            identity.identity_id,
            identity.attributes,
            identity.expire_time,
            [(one.source, one.quality, one.crop) for one in templates],
        )
        for page in target.pages(gallery_id)
        for identity, templates in page
    ]


def vectors_of(target: LocalTarget, gallery_id: str) -> list[Vector]:
    return [one.vector for page in target.pages(gallery_id) for _, templates in page for one in templates]


def test_everybody_is_moved_with_all_that_is_known_of_them(target: LocalTarget, embed: CropEmbedder) -> None:
    fill(target)
    before, info = held(target, "old"), target.find("old")
    moved = move(target, embed)
    assert (moved.gallery_id, moved.num_identities, moved.num_templates) == ("new", 12, 24)
    assert (moved.losers, moved.in_need, moved.num_others) == ([], [], 0)
    assert held(target, "new") == before == held(target, "old")
    assert target.find("old") == info, "nothing of the old gallery changed"
    new = target.find("new")
    assert new is not None
    assert new.contract == embed.contract
    assert new.settings == GallerySettings(4, None, keep_crops=True), (
        "the old threshold is of the old network"
    )
    assert target.galleries.get("new").index_status().generation == 1
    expected = embed([one.crop for page in target.pages("old") for _, own in page for one in own])
    np.testing.assert_array_equal(vectors_of(target, "new"), expected)
    answers = target.nearest("new", np.stack(vectors_of(target, "new")))
    assert all(similarity > 0.999 for _, similarity in answers)


def test_rates_are_wished_of_any_network_unless_there_is_a_threshold_in_their_place() -> None:
    by_rate = GallerySettings(
        4,
        keep_crops=True,
        target_fpir=0.01,
        review_fpir=0.1,
        ambiguity=0.02,
        target_fmr=1e-3,
        crowding=CrowdingCorrection.ON,
        has_probe_statistics=True,
    )
    assert settings_for(by_rate, None) == by_rate
    fixed = GallerySettings(4, 0.6, keep_crops=True, ambiguity=0.02, has_probe_statistics=True)
    assert settings_for(by_rate, 0.6) == fixed
    assert settings_for(fixed, None).threshold is None
    assert settings_for(fixed, 0.7).threshold == 0.7


def test_templates_are_those_of_the_picture(embed: CropEmbedder) -> None:
    network = Projection()
    aligned = [align(*restore(crop), network.alignment) for crop in CROPS]
    expected = Embedder(network).embed(np.stack(aligned))
    np.testing.assert_allclose(
        np.stack([one for one in embed(CROPS) if not isinstance(one, Loss)]), expected, atol=1e-6
    )
    np.testing.assert_array_equal(embed(CROPS[5:6])[0], embed(CROPS)[5])
    assert embed([]) == []


def test_who_has_no_crop_is_moved_without_templates_and_told(
    target: LocalTarget, embed: CropEmbedder, tmp_path: Path
) -> None:
    fill(target, 3)
    enroll(
        target,
        "old",
        Enrollment("bare", (), {"name": "nobody"}),
        Enrollment("=vector", (template(30, b""),), {"name": "v"}),
        Enrollment("half", (template(31, b""), template(32))),
        Enrollment("garbled", (template(33, b"\x01" + bytes(60)),)),
        Enrollment("blank", (template(34, BLANK), template(35))),
        Enrollment("grey", (template(36, BLANK),)),
    )
    moved = move(target, embed)
    assert moved.in_need == ["=vector", "garbled", "grey"]
    write_report(tmp_path / "lost.csv", moved)
    rows = list(csv.reader((tmp_path / "lost.csv").read_text("utf-8-sig").splitlines()))
    assert rows[0] == list(COLUMNS)
    assert sorted(tuple(row) for row in rows[1:]) == [
        ("'=vector", "1", "0", "no_crop"),
        ("blank", "2", "1", "bad_vector"),
        ("garbled", "1", "0", "damaged_crop"),
        ("grey", "1", "0", "bad_vector"),
        ("half", "2", "1", "no_crop"),
    ]
    sizes = target.sizes("new")
    assert (sizes["bare"], sizes["=vector"], sizes["half"], len(sizes)) == (0, 0, 1, 9)
    identity, _ = target.galleries.get("new").get_identity("=vector")
    assert identity.attributes == {"name": "v"}
    # New pictures, enrolled into the new gallery, end the need.
    new = embed(CROPS[37:38])[0]
    assert not isinstance(new, Loss)
    enroll(target, "new", Enrollment("=vector", (Template(new, 1.0, "new.jpg", CROPS[37]),)))
    assert move(target, embed).in_need == ["garbled", "grey"]


def test_a_gallery_that_keeps_no_crops_makes_no_new_one(target: LocalTarget, embed: CropEmbedder) -> None:
    target.create("plain", OLD, GallerySettings())
    enroll(target, "plain", Enrollment("a", (template(0, b""), template(1, b""))), Enrollment("bare"))
    moved = move(target, embed, gallery="plain")
    assert (moved.gallery_id, moved.in_need) == ("", ["a"])
    assert target.find("new") is None


class Killed(Exception):  # noqa: N818 - stands for the end of the process
    pass


class Dying(LocalTarget):
    """Ends after so many enrollments, in the middle of a page."""

    num_left = 0

    def enroll(self, gallery_id: str, enrollments: Sequence[Enrollment]) -> Iterator[EnrollResult]:
        for enrollment in enrollments:
            if not self.num_left:
                raise Killed
            self.num_left -= 1
            for outcome in super().enroll(gallery_id, [enrollment]):
                assert isinstance(outcome, EnrollResult)
                yield outcome


@pytest.mark.parametrize("num_before", [0, 1, 7, 11])
def test_what_was_killed_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, target: LocalTarget, embed: CropEmbedder, num_before: int
) -> None:
    fill(target)
    move(target, embed, to="whole")
    dying = Dying(tmp_path, target.galleries)
    dying.num_left = num_before
    with pytest.raises(Killed):
        move(dying, embed)
    network = Projection()
    moved = move(target, CropEmbedder(Embedder(network)))
    assert moved.losers == []
    assert held(target, "new") == held(target, "whole")
    np.testing.assert_allclose(vectors_of(target, "new"), vectors_of(target, "whole"), atol=1e-6)
    num_left = sum(1 + number % 3 for number in range(num_before, 12))
    assert network.num_crops == -(-num_left // 16) * 16, "nobody is embedded twice"
    again = target.find("new")
    assert move(target, CropEmbedder(Embedder(network))) == moved
    assert target.find("new") == again
    assert network.num_crops == -(-num_left // 16) * 16


def test_what_is_enrolled_in_the_old_gallery_meanwhile_follows_and_who_left_is_told(
    target: LocalTarget, embed: CropEmbedder
) -> None:
    fill(target, 4)
    move(target, embed)
    enroll(target, "old", Enrollment("p00", (template(38),)), Enrollment("late", (template(39),)))
    target.galleries.get("old").remove_identities(["p01"])
    moved = move(target, embed)
    assert (moved.num_identities, moved.num_others) == (4, 1)
    assert target.sizes("new") == {"p00": 2, "p01": 2, "p02": 3, "p03": 1, "late": 1}


def test_crops_are_left_behind_where_the_new_gallery_keeps_none(
    target: LocalTarget, embed: CropEmbedder
) -> None:
    fill(target, 3)
    target.create("new", embed.contract, GallerySettings())
    assert move(target, embed).losers == []
    assert [one.crop for page in target.pages("new") for _, own in page for one in own] == [b""] * 6


def test_templates_of_two_networks_never_meet(target: LocalTarget, embed: CropEmbedder) -> None:
    fill(target, 3)
    with pytest.raises(InvalidInputError, match="name of its own"):
        move(target, embed, to="old")
    target.create("third", OLD, KEPT)
    with pytest.raises(ContractMismatchError, match="'old' with 16 numbers"):
        move(target, embed, to="third")
    move(target, embed)
    with pytest.raises(ContractMismatchError, match="'new' with 24"):
        move(target, CropEmbedder(Embedder(Projection("another"))))
    with pytest.raises(PreconditionError, match="this very network"):
        move(target, embed, gallery="new", to="newer")
    assert target.find("newer") is None
    assert target.sizes("third") == {}


def test_names_that_cannot_be_are_refused(target: LocalTarget, embed: CropEmbedder) -> None:
    with pytest.raises(GalleryNotFoundError):
        find_old(target, "nobody")
    target.set_alias("second", "old")
    with pytest.raises(InvalidInputError, match="name of its own"):
        move(target, embed, to="second")
    check_alias(target, "second")
    check_alias(target, "free")
    with pytest.raises(AlreadyExistsError):
        check_alias(target, "old")


@pytest.mark.parametrize(("num_bytes", "num_commits"), [(1, 12), (1 << 30, 1)])
def test_crops_are_committed_by_their_bytes(
    target: LocalTarget, monkeypatch: pytest.MonkeyPatch, num_bytes: int, num_commits: int
) -> None:
    monkeypatch.setattr("indexer.target.CROP_BYTES_PER_COMMIT", num_bytes)
    fill(target)
    info = target.find("old")
    assert info is not None
    assert (info.num_identities, info.num_templates, info.sequence) == (12, 24, num_commits)


def test_an_empty_gallery_is_moved(target: LocalTarget, embed: CropEmbedder) -> None:
    assert move(target, embed) == Moved("new", 0, 0, 0, [])


def test_of_templates_over_a_lowered_limit_the_best_are_moved(
    target: LocalTarget, embed: CropEmbedder
) -> None:
    enroll(target, "old", Enrollment("ada", tuple(template(number) for number in (3, 0, 2, 1))))
    gallery = target.galleries.get("old")
    gallery.update(templates_per_identity_max=2, threshold=None, clear_threshold=False)
    for _ in range(2):
        moved = move(target, embed)
        assert [(one.num_templates, one.num_moved, one.reason) for one in moved.losers] == [
            (4, 2, Loss.OVER_LIMIT)
        ]
        assert moved.in_need == []
        ((_, templates),) = next(iter(target.pages("new")))
        assert sorted(one.source for one in templates) == ["2.jpg", "3.jpg"]
