"""What every implementation of galleries owes: names, aliases, deletion, settings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from engine.errors import (
    AlreadyExistsError,
    EngineError,
    GalleryNotFoundError,
    InvalidIdError,
    InvalidInputError,
    PreconditionError,
    RequestIdReusedError,
)
from engine.galleries import Galleries
from engine.types import (
    AnsweredBefore,
    Decision,
    EmbeddingContract,
    GallerySettings,
    ThresholdOrigin,
)
from tests.contract.conftest import CONTRACT, VECTORS, Maker, enroll, found, receipt
from tests.contract.naive import cosine


class TestGalleries:
    def test_a_new_gallery_is_empty(self, galleries: Galleries, maker: Maker) -> None:
        settings = GallerySettings(templates_per_identity_max=2, threshold=0.25)
        info = galleries.create("people", CONTRACT, settings)
        assert (info.gallery_id, info.contract, info.settings) == ("people", CONTRACT, settings)
        assert (info.num_identities, info.num_templates, info.sequence) == (0, 0, 0)
        assert info.create_time == pytest.approx(maker.clock.now)
        assert galleries.get("people").info() == info
        assert galleries.infos() == [info]
        assert galleries.get("people").list_identities() == []
        assert found(galleries.get("people"), VECTORS[0]) == []

    @pytest.mark.parametrize(
        ("gallery_id", "contract", "settings", "kind"),
        [
            ("People", CONTRACT, GallerySettings(), InvalidIdError),
            ("people", dataclasses.replace(CONTRACT, dimension=0), GallerySettings(), InvalidInputError),
            ("people", CONTRACT, GallerySettings(templates_per_identity_max=17), InvalidInputError),
        ],
    )
    def test_what_cannot_be_is_not_made(
        self,
        galleries: Galleries,
        gallery_id: str,
        contract: EmbeddingContract,
        settings: GallerySettings,
        kind: type[EngineError],
    ) -> None:
        with pytest.raises(kind):
            galleries.create(gallery_id, contract, settings)
        assert galleries.infos() == []

    def test_galleries_are_listed_page_by_page(self, galleries: Galleries) -> None:
        for name in ("c", "a", "b"):
            galleries.create(name, CONTRACT)
        assert [info.gallery_id for info in galleries.infos(limit=2)] == ["a", "b"]
        assert [info.gallery_id for info in galleries.infos(after="b", limit=2)] == ["c"]
        assert galleries.infos(after="c") == []

    def test_galleries_are_apart(self, galleries: Galleries) -> None:
        for name in ("a", "b"):
            galleries.create(name, CONTRACT)
        enroll(galleries.get("a"), "x", VECTORS[0])
        assert found(galleries.get("a"), VECTORS[0])
        assert found(galleries.get("b"), VECTORS[0]) == []

    def test_an_alias_moves_from_one_gallery_to_another(self, galleries: Galleries) -> None:
        for name in ("a", "b"):
            galleries.create(name, CONTRACT)
            enroll(galleries.get(name), name, VECTORS[0])
        assert galleries.set_alias("now", "a") == ""
        assert found(galleries.get("now"), VECTORS[0])[0][0] == "a"
        assert galleries.set_alias("now", "b") == "a"
        assert found(galleries.get("now"), VECTORS[0])[0][0] == "b"
        with pytest.raises(AlreadyExistsError):
            galleries.create("now", CONTRACT)
        with pytest.raises(PreconditionError):
            galleries.delete("b")
        with pytest.raises(InvalidIdError, match="alias"):
            galleries.set_alias("Now", "a")
        galleries.delete_alias("now")
        assert galleries.aliases() == {}
        with pytest.raises(GalleryNotFoundError):
            galleries.get("now")

    def test_a_deleted_gallery_is_gone_and_its_name_free(self, galleries: Galleries, maker: Maker) -> None:
        galleries.create("people", CONTRACT)
        enroll(galleries.get("people"), "x", VECTORS[0])
        galleries.delete("people")
        for missing in (galleries.get, galleries.delete):
            with pytest.raises(GalleryNotFoundError):
                missing("people")
        galleries.create("people", CONTRACT)
        assert found(galleries.get("people"), VECTORS[0]) == []
        assert [info.num_identities for info in maker.open().infos()] == [0]

    def test_a_repeated_creation_or_deletion_gets_its_first_answer(self, galleries: Galleries) -> None:
        galleries.create("people", CONTRACT, receipt=receipt(1))
        assert galleries.find_receipt(receipt(1)) is not None
        with pytest.raises(AnsweredBefore):
            galleries.create("people", CONTRACT, receipt=receipt(1))
        with pytest.raises(RequestIdReusedError):
            galleries.create("others", CONTRACT, receipt=receipt(1, body=2))
        galleries.delete("people", receipt=receipt(2))
        with pytest.raises(AnsweredBefore):
            galleries.delete("people", receipt=receipt(2))
        assert galleries.infos() == []


class TestSettings:
    def test_they_are_changed_one_by_one(self, galleries: Galleries, maker: Maker) -> None:
        galleries.create("people", CONTRACT)

        def update(**fields: object) -> tuple[GallerySettings, int]:
            given = {"templates_per_identity_max": None, "threshold": None, "clear_threshold": False}
            info = galleries.get("people").update(**{**given, **fields})  # type: ignore[arg-type]
            assert info == galleries.get("people").info()
            return info.settings, info.sequence

        assert update(threshold=0.75) == (GallerySettings(16, 0.75), 1)
        assert update(templates_per_identity_max=2) == (GallerySettings(2, 0.75), 2)
        assert update() == (GallerySettings(2, 0.75), 2)
        assert update(clear_threshold=True) == (GallerySettings(2, None), 3)
        for wrong in (
            {"templates_per_identity_max": 0},
            {"threshold": 2.0},
            {"threshold": 0.5, "clear_threshold": True},
        ):
            with pytest.raises(InvalidInputError):
                update(**wrong)
        assert maker.open().get("people").info().settings == GallerySettings(2, None)

    def test_the_threshold_that_holds_is_named(self, galleries: Galleries) -> None:
        galleries.create("people", CONTRACT)
        gallery = galleries.get("people")
        enroll(gallery, "x", VECTORS[0])
        probe = VECTORS[1]
        similarity = cosine(probe, VECTORS[0])

        def check(threshold: float | None, expected: float, origin: ThresholdOrigin) -> None:
            decision = Decision.MATCH if similarity >= expected else Decision.NO_MATCH
            (one,) = gallery.identify(probe[None], threshold=threshold)
            other = gallery.verify(probe, "x", threshold=threshold)
            for answer in (one, other):
                assert (answer.threshold, answer.threshold_origin) == (expected, origin)
                assert answer.decision == decision

        check(None, 0.5, ThresholdOrigin.CONTRACT)
        check(similarity, similarity, ThresholdOrigin.REQUEST)
        check(float(np.nextafter(similarity, 1)), float(np.nextafter(similarity, 1)), ThresholdOrigin.REQUEST)
        galleries.get("people").update(templates_per_identity_max=None, threshold=0.0, clear_threshold=False)
        check(None, 0.0, ThresholdOrigin.GALLERY)
        for wrong in (1.5, float("nan")):
            with pytest.raises(InvalidInputError):
                gallery.identify(probe[None], threshold=wrong)
            with pytest.raises(InvalidInputError):
                gallery.verify(probe, "x", threshold=wrong)
