"""What every implementation of a gallery owes: the same questions, the answers of the naive one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.errors import (
    DeadlineError,
    IdentityNotFoundError,
    InvalidIdError,
    InvalidInputError,
    InvalidVectorError,
    PreconditionError,
    RequestIdReusedError,
    TemplateLimitError,
    TemplateNotFoundError,
)
from engine.galleries import Galleries
from engine.gallery import Gallery
from engine.types import (
    AnsweredBefore,
    Decision,
    Enrollment,
    EnrollResult,
    GallerySettings,
    Template,
)
from tests.contract.conftest import CONTRACT, DIMENSION, VECTORS, Maker, enroll, found, receipt
from tests.contract.naive import NaiveGallery, cosine, unit_vectors


class TestEnroll:
    def test_nothing_is_a_batch(self, gallery: Gallery) -> None:
        assert gallery.enroll([]) == []
        assert gallery.info().sequence == 0

    def test_each_item_has_its_own_outcome_in_order(self, gallery: Gallery) -> None:
        template = Template(VECTORS[0])
        outcomes = gallery.enroll(
            [
                Enrollment("", (template,)),
                Enrollment("fine", (template,)),
                Enrollment("large", (), {"k": "v" * 2000}),
                Enrollment("late", (template,), expire_time=-1.0),
                Enrollment("source", (Template(VECTORS[0], source="a\nb"),)),
                Enrollment("short", (Template(VECTORS[0][:8]),)),
                Enrollment("many", tuple(map(Template, VECTORS[:17]))),
                Enrollment("fine too"),
            ]
        )
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [
            InvalidIdError,
            EnrollResult,
            InvalidInputError,
            InvalidInputError,
            InvalidInputError,
            InvalidVectorError,
            TemplateLimitError,
            EnrollResult,
        ]
        assert [one.identity_id for one, _ in gallery.list_identities()] == ["fine", "fine too"]
        assert found(gallery, VECTORS[0]) == [("fine", cosine(VECTORS[0], VECTORS[0]))]

    def test_a_batch_of_refused_items_is_no_write(self, gallery: Gallery) -> None:
        assert [type(one) for one in gallery.enroll([Enrollment(""), Enrollment("\n")])] == [
            InvalidIdError
        ] * 2
        assert gallery.info().sequence == 0

    def test_the_gallerys_limit_of_templates_holds(self, galleries: Galleries) -> None:
        galleries.create("people", CONTRACT, GallerySettings(templates_per_identity_max=2))
        gallery = galleries.get("people")
        enroll(gallery, "x", VECTORS[0], VECTORS[1])
        (outcome,) = gallery.enroll([Enrollment("x", (Template(VECTORS[2]),))])
        assert isinstance(outcome, TemplateLimitError)
        galleries.get("people").update(templates_per_identity_max=3, threshold=None, clear_threshold=False)
        assert enroll(gallery, "x", VECTORS[2]).template_ids == (3,)

    def test_what_was_enrolled_is_listed_and_got(self, gallery: Gallery, maker: Maker) -> None:
        now = maker.clock.now
        template = Template(VECTORS[0], 0.75, "file.jpg")
        gallery.enroll([Enrollment("x", (template,), {"name": "Zoë"}, expire_time=now + 5)])
        identity, (stored,) = gallery.get_identity("x")
        assert (identity.attributes, identity.expire_time) == ({"name": "Zoë"}, now + 5)
        assert identity.create_time == stored.create_time == pytest.approx(now)
        assert (stored.template_id, stored.quality, stored.source) == (1, 0.75, "file.jpg")
        assert stored.vector.tobytes() == VECTORS[0].tobytes()
        listed, (again,) = gallery.list_identities()[0]
        assert (listed, again.vector.tobytes()) == (identity, stored.vector.tobytes())

    def test_identities_are_listed_page_by_page_by_their_bytes(self, gallery: Gallery) -> None:
        names = ["Z", "a", "aa", "é", "中"]
        gallery.enroll([Enrollment(name) for name in reversed(names)])
        pages: list[str] = []
        while page := gallery.list_identities(after=pages[-1] if pages else "", limit=2):
            pages += [identity.identity_id for identity, _ in page]
        assert pages == names

    def test_a_repeated_write_gets_its_first_answer(self, gallery: Gallery, maker: Maker) -> None:
        first = gallery.enroll([Enrollment("x", (Template(VECTORS[0]),))], receipt=receipt(1))
        gallery.remove_identities(["x"])
        again = maker.open().get("people")
        with pytest.raises(AnsweredBefore) as caught:
            again.enroll([Enrollment("x", (Template(VECTORS[0]),))], receipt=receipt(1))
        assert caught.value.answer == repr((1, first)).encode() == again.find_receipt(receipt(1))
        with pytest.raises(RequestIdReusedError):
            again.enroll([Enrollment("y")], receipt=receipt(1, body=2))
        assert again.list_identities() == []

    def test_a_write_whose_time_is_up_is_not_made(self, gallery: Gallery) -> None:
        with pytest.raises(DeadlineError):
            gallery.enroll([Enrollment("x")], deadline=time.monotonic() - 1)
        assert gallery.list_identities() == []


class TestUpdateAndRemove:
    def update(self, gallery: Gallery, identity_id: str, **fields: object) -> tuple[int, dict[str, str]]:
        given: dict[str, object] = {
            "attributes": {},
            "remove_attributes": [],
            "expire_time": None,
            "clear_expire_time": False,
        }
        sequence, identity, _ = gallery.update_identity(identity_id, **{**given, **fields})  # type: ignore[arg-type]
        return sequence, dict(identity.attributes)

    def test_attributes_and_expiry_are_changed(self, gallery: Gallery, maker: Maker) -> None:
        enroll(gallery, "x", attributes={"a": "1", "b": "2"})
        now = maker.clock.now
        assert self.update(gallery, "x", attributes={"b": "3", "c": "4"}, remove_attributes=["a", "z"]) == (
            2,
            {"b": "3", "c": "4"},
        )
        assert self.update(gallery, "x") == (2, {"b": "3", "c": "4"})
        assert self.update(gallery, "x", expire_time=now + 1)[0] == 3
        assert self.update(gallery, "x")[0] == 3
        assert self.update(gallery, "x", clear_expire_time=True)[0] == 4
        assert gallery.get_identity("x")[0].expire_time is None

    def test_what_cannot_be_is_refused(self, gallery: Gallery) -> None:
        enroll(gallery, "x", attributes={"a": "v" * 1000})
        for wrong in (
            {"attributes": {"b": "v" * 1000}},
            {"attributes": {"": "1"}},
            {"expire_time": -1.0},
            {"expire_time": 2e9, "clear_expire_time": True},
        ):
            with pytest.raises(InvalidInputError):
                self.update(gallery, "x", **wrong)
        with pytest.raises(IdentityNotFoundError):
            self.update(gallery, "nobody")
        assert gallery.info().sequence == 1

    def test_removed_identities_are_not_found_and_missing_ones_are_named(self, gallery: Gallery) -> None:
        for number, name in enumerate("abc"):
            enroll(gallery, name, VECTORS[number])
        result, missing = gallery.remove_identities(["a", "nobody", "c"])
        assert (result.num_identities, result.num_templates, result.sequence) == (2, 2, 4)
        assert missing == ["nobody"]
        assert [name for name, _ in found(gallery, VECTORS[0])] == ["b"]
        with pytest.raises(IdentityNotFoundError, match="nobody"):
            gallery.remove_identities(["b", "nobody"], must_exist=True)
        assert gallery.remove_identities([])[0].num_identities == 0
        assert gallery.info().num_identities == 1
        for missing_id in ("a", "", "x" * 5000):
            with pytest.raises(IdentityNotFoundError):
                gallery.get_identity(missing_id)
            with pytest.raises(IdentityNotFoundError):
                gallery.verify(VECTORS[0], missing_id)

    def test_a_removed_template_is_not_found(self, gallery: Gallery) -> None:
        enroll(gallery, "x", VECTORS[0], VECTORS[1])
        assert gallery.remove_template("x", 1).num_templates == 1
        assert found(gallery, VECTORS[0]) == [("x", cosine(VECTORS[0], VECTORS[1]))]
        with pytest.raises(TemplateNotFoundError):
            gallery.remove_template("x", 1)
        gallery.remove_template("x", 2)
        assert found(gallery, VECTORS[0]) == []
        with pytest.raises(PreconditionError, match="no templates"):
            gallery.verify(VECTORS[0], "x")


class TestExpiry:
    def test_whose_time_is_over_is_nowhere_even_before_housekeeping(
        self, gallery: Gallery, maker: Maker
    ) -> None:
        enroll(gallery, "brief", VECTORS[0], expire_time=maker.clock.now + 1)
        enroll(gallery, "long", VECTORS[1])
        assert found(gallery, VECTORS[0])[0][0] == "brief"
        maker.clock.now += 1
        for _ in range(2):
            assert [name for name, _ in found(gallery, VECTORS[0])] == ["long"]
            assert [one.identity_id for one, _ in gallery.list_identities()] == ["long"]
            for call in (
                lambda: gallery.get_identity("brief"),
                lambda: gallery.verify(VECTORS[0], "brief"),
                lambda: gallery.remove_template("brief", 1),
            ):
                with pytest.raises(IdentityNotFoundError):
                    call()
            assert gallery.remove_identities(["brief"])[1] == ["brief"]
            gallery.maintain()
        assert gallery.info().num_identities == 1

    def test_an_expiry_moved_in_time_keeps_the_identity(self, gallery: Gallery, maker: Maker) -> None:
        enroll(gallery, "x", VECTORS[0], expire_time=maker.clock.now + 1)
        enroll(gallery, "x", expire_time=maker.clock.now + 10)
        maker.clock.now += 5
        gallery.maintain()
        assert found(gallery, VECTORS[0])[0][0] == "x"
        gallery.update_identity(
            "x", attributes={}, remove_attributes=(), expire_time=None, clear_expire_time=True
        )
        maker.clock.now += 50
        gallery.maintain()
        assert found(gallery, VECTORS[0])[0][0] == "x"


class TestSearch:
    @pytest.mark.parametrize("is_built", [False, True])
    def test_candidates_are_those_of_the_naive_gallery(
        self, gallery: Gallery, maker: Maker, is_built: bool
    ) -> None:
        rng = np.random.default_rng(9)
        model = NaiveGallery()
        for round_ in range(3):
            batch = [
                Enrollment(f"p{rng.integers(200)}", tuple(map(Template, VECTORS[rows])))
                for rows in rng.integers(0, len(VECTORS), (100, 3))
            ]
            gallery.enroll(batch)
            model.enroll(batch, maker.clock.now)
            names = [f"p{number}" for number in rng.integers(0, 200, 20)]
            gallery.remove_identities(names)
            model.remove(names, maker.clock.now)
            if is_built and round_ < 2:
                gallery.build(lambda _done, _total: None)
        probes = unit_vectors(rng, 20, DIMENSION)
        for k in (1, 10, 100):
            answers = gallery.identify(probes, k)
            assert all(answer.num_searched == gallery.info().num_templates for answer in answers)
            assert all(answer.searched_sequence == gallery.info().sequence for answer in answers)
            for probe, answer in zip(probes, answers, strict=True):
                given = [(one.identity_id, one.similarity) for one in answer.candidates]
                assert given == model.identify(probe, k, maker.clock.now)
                for one in answer.candidates:
                    verification = gallery.verify(probe, one.identity_id)
                    assert (verification.similarity, verification.template_id) == (
                        one.similarity,
                        one.template_id,
                    )

    def test_no_probes_have_no_answers_and_k_has_limits(self, gallery: Gallery) -> None:
        assert gallery.identify(VECTORS[:0]) == []
        for k in (0, 101):
            with pytest.raises(InvalidInputError):
                gallery.identify(VECTORS[:1], k)

    def test_nobody_is_no_match_whatever_the_threshold(self, gallery: Gallery) -> None:
        (answer,) = gallery.identify(VECTORS[:1], threshold=-1.0)
        assert (answer.decision, answer.candidates, answer.num_searched) == (Decision.NO_MATCH, (), 0)

    def test_a_search_whose_time_is_up_is_refused(self, gallery: Gallery) -> None:
        enroll(gallery, "x", VECTORS[0])
        with pytest.raises(DeadlineError):
            gallery.identify(VECTORS[:1], deadline=time.monotonic() - 1)

    @pytest.mark.parametrize("is_built", [False, True])
    def test_ties_are_ordered_by_the_bytes_of_the_ids_before_and_after_a_build(
        self, gallery: Gallery, is_built: bool
    ) -> None:
        names = ["Z", "a", "aa", "b", "é", "中"]
        for name in ("中", "b", "Z"):
            enroll(gallery, name, VECTORS[0])
        if is_built:
            gallery.build(lambda _done, _total: None)
        for name in ("é", "a", "aa"):
            enroll(gallery, name, VECTORS[0])
        for num_probes in (1, 40):
            for answer in gallery.identify(VECTORS[:num_probes], 6):
                assert [one.identity_id for one in answer.candidates] == names
                assert len({one.similarity for one in answer.candidates}) == 1

    def test_k_identities_are_found_where_each_has_as_many_templates_as_allowed(
        self, gallery: Gallery, maker: Maker
    ) -> None:
        rng, probe, model = np.random.default_rng(5), VECTORS[0], NaiveGallery()
        wide = probe + 0.02 * rng.normal(size=(100, 16, DIMENSION))
        near = (wide / np.linalg.norm(wide, axis=2, keepdims=True)).astype(np.float32)
        batch = [Enrollment(f"p{number:03d}", tuple(map(Template, one))) for number, one in enumerate(near)]
        gallery.enroll(batch)
        model.enroll(batch, maker.clock.now)
        for k in (1, 30, 100):
            assert found(gallery, probe, k) == model.identify(probe, k, maker.clock.now)


def test_eight_threads_each_read_their_own_writes(gallery: Gallery) -> None:
    def work(thread: int) -> None:
        for step in range(12):
            name, vector = f"{thread}-{step}", VECTORS[100 * thread + step]
            sequence = enroll(gallery, name, vector).sequence
            (answer,) = gallery.identify(vector[None], 1)
            assert answer.searched_sequence >= sequence
            assert answer.candidates[0].identity_id == name
            assert gallery.verify(vector, name).searched_sequence >= sequence
            if step % 3 == 0:
                gallery.remove_identities([name], erase=step % 6 == 0)
                (answer,) = gallery.identify(vector[None], 5)
                assert name not in [one.identity_id for one in answer.candidates]
            if step % 5 == 0:
                gallery.maintain()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert gallery.info().num_identities == 8 * 8


def test_everything_is_there_after_reopening(gallery: Gallery, maker: Maker) -> None:
    for number in range(5):
        enroll(gallery, f"p{number}", VECTORS[number])
    gallery.build(lambda _done, _total: None)
    enroll(gallery, "late", VECTORS[5])
    gallery.remove_identities(["p1"])
    before = gallery.info(), found(gallery, VECTORS[1])
    reopened = maker.open().get("people")
    assert (reopened.info(), found(reopened, VECTORS[1])) == before
    assert reopened.generation() == 1
