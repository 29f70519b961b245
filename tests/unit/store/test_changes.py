"""What a write changes, against a dict of lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import (
    EngineError,
    IdentityNotFoundError,
    InvalidInputError,
    TemplateLimitError,
    TemplateNotFoundError,
)
from engine.store import changes
from engine.store.gallery_store import GalleryStore
from engine.store.records import Journal
from engine.types import Enrollment, EnrollResult, GallerySettings, Template
from tests.contract.clock import Clock
from tests.contract.naive import NaiveGallery, unit_vectors
from tests.unit.store.conftest import CONTRACT, SETTINGS

VECTORS = unit_vectors(np.random.default_rng(2), 8, 4)
TEMPLATES_MAX = 3
TEMPLATES = st.builds(
    Template,
    vector=st.sampled_from(list(VECTORS)),
    quality=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    source=st.just(""),
)


def enrollments(now: float) -> st.SearchStrategy[Enrollment]:
    return st.builds(
        Enrollment,
        identity_id=st.sampled_from("ab"),
        templates=st.lists(TEMPLATES, max_size=5).map(tuple),
        attributes=st.dictionaries(st.sampled_from("xy"), st.sampled_from(["1", "2", "v" * 600]), max_size=1),
        expire_time=st.sampled_from([None, now - 1, now, now + 1]),
        replace=st.booleans(),
        evict_lowest_quality=st.booleans(),
    )


def enroll(store: GalleryStore, *batch: Enrollment) -> list[EnrollResult | EngineError]:
    now_ms = store.now_ms()
    return store.write(lambda writer: changes.enroll(writer, batch, now_ms, TEMPLATES_MAX))


def simplified(outcomes: list[EnrollResult | EngineError]) -> list[object]:
    return [type(outcome) if isinstance(outcome, EngineError) else outcome for outcome in outcomes]


def compare(store: GalleryStore, model: NaiveGallery) -> None:
    with store.read() as reader:
        state = reader.state()
        stored = {name: changes.describe(reader, name, record) for name, record in reader.identities("")}
        num_templates = sum(1 for _ in reader.templates())
        numbers = {name: record.number for name, record in reader.identities("")}
        for name, number in numbers.items():
            assert reader.identity_id(number) == name
    assert state.sequence == model.sequence
    assert state.num_identities == len(model.identities)
    assert (
        state.num_templates == num_templates == sum(len(one.templates) for one in model.identities.values())
    )
    assert state.template_id_last == model.template_id_last
    assert list(stored) == sorted(model.identities)
    for name, (identity, templates) in stored.items():
        one = model.identities[name]
        assert identity.attributes == one.attributes
        assert identity.expire_time == one.expire_time
        assert [
            (template.template_id, template.vector.tobytes(), template.quality) for template in templates
        ] == [(item.template_id, item.data, item.quality) for item in one.templates]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(enrollments(1_800_000_000.0), max_size=3), min_size=1, max_size=5))
def test_any_enrollments_leave_what_the_model_says(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Enrollment]]
) -> None:
    folder = tmp_path_factory.mktemp("g")

    clock, model = Clock(), NaiveGallery(TEMPLATES_MAX)
    GalleryStore.create(folder, CONTRACT, GallerySettings(), SETTINGS, 0.0)
    store = GalleryStore(folder, SETTINGS, clock=clock)
    try:
        for batch in batches:
            assert simplified(enroll(store, *batch)) == simplified(model.enroll(batch, clock.now))
            compare(store, model)
    finally:
        store.close()


def test_nothing_to_enroll_makes_no_sequence(store: GalleryStore) -> None:
    assert enroll(store) == []
    compare(store, NaiveGallery())


def test_a_repetition_names_the_sequence_that_already_shows_it(store: GalleryStore) -> None:
    enrollment = Enrollment("a", (Template(VECTORS[0]),), {"x": "1"})
    first, again = enroll(store, enrollment)[0], enroll(store, enrollment)[0]
    assert isinstance(first, EnrollResult)
    assert isinstance(again, EnrollResult)
    assert (first.sequence, first.num_added, first.is_new_identity) == (1, 1, True)
    assert (again.sequence, again.num_added, again.num_ignored, again.is_new_identity) == (1, 0, 1, False)
    assert again.template_ids == first.template_ids


def test_one_refused_item_does_not_fail_those_beside_it(store: GalleryStore) -> None:
    many = tuple(Template(vector) for vector in VECTORS[: TEMPLATES_MAX + 1])
    refused, accepted = enroll(store, Enrollment("a", many), Enrollment("b", many[:1]))
    assert isinstance(refused, TemplateLimitError)
    assert isinstance(accepted, EnrollResult)
    with store.read() as reader:
        assert [name for name, _ in reader.identities("")] == ["b"]


def test_of_equal_quality_the_oldest_is_evicted(store: GalleryStore) -> None:
    """0.1 and 0.7 round up and down in float32: neither may make the new one differ from the old."""
    for quality in (0.1, 0.7):
        first = [
            Enrollment(f"{quality}", tuple(Template(vector, quality) for vector in VECTORS[:TEMPLATES_MAX]))
        ]
        (before,) = enroll(store, *first)
        (after,) = enroll(
            store, Enrollment(f"{quality}", (Template(VECTORS[5], quality),), evict_lowest_quality=True)
        )
        assert isinstance(before, EnrollResult)
        assert isinstance(after, EnrollResult)
        assert (after.num_added, after.num_evicted) == (1, 1)
        with store.read() as reader:
            record = reader.identity(f"{quality}")
        assert record is not None
        assert record.template_ids == [*before.template_ids[1:], *after.template_ids]


def test_what_replace_dropped_is_counted_and_what_stayed_or_was_evicted_is_not(store: GalleryStore) -> None:
    old, new = VECTORS[:TEMPLATES_MAX], VECTORS[TEMPLATES_MAX - 1 : 2 * TEMPLATES_MAX]
    enroll(store, Enrollment("a", tuple(Template(vector, 0.5) for vector in old)))
    (outcome,) = enroll(
        store,
        Enrollment(
            "a", tuple(Template(vector, 0.9) for vector in new), replace=True, evict_lowest_quality=True
        ),
    )
    assert isinstance(outcome, EnrollResult)
    counts = (outcome.num_replaced, outcome.num_ignored, outcome.num_evicted, outcome.num_added)
    assert counts == (TEMPLATES_MAX - 1, 1, 1, TEMPLATES_MAX)


def test_attributes_merged_over_many_enrollments_stay_within_their_limit(store: GalleryStore) -> None:
    enroll(store, Enrollment("a", (), {"x": "v" * 1000}))
    (outcome,) = enroll(store, Enrollment("a", (), {"y": "v" * 1000}))
    assert isinstance(outcome, InvalidInputError)
    (outcome,) = enroll(store, Enrollment("a", (), {"x": "w" * 1000}))
    assert isinstance(outcome, EnrollResult)
    (outcome,) = enroll(store, Enrollment("a", (), {"y": "v" * 1000}, replace=True))
    assert isinstance(outcome, EnrollResult)


def test_a_limit_lowered_later_refuses_only_new_templates(store: GalleryStore) -> None:
    templates = tuple(Template(vector) for vector in VECTORS[:3])
    enroll(store, Enrollment("a", templates))

    def lowered(enrollment: Enrollment) -> EnrollResult | EngineError:
        return store.write(lambda writer: changes.enroll(writer, [enrollment], 1, 1))[0]

    assert isinstance(lowered(Enrollment("a", (), {"x": "1"})), EnrollResult)
    assert isinstance(lowered(Enrollment("a", templates)), EnrollResult)
    assert isinstance(lowered(Enrollment("a", templates[:1], evict_lowest_quality=True)), EnrollResult)
    assert isinstance(lowered(Enrollment("a", (Template(VECTORS[4]),))), TemplateLimitError)
    with store.read() as reader:
        assert reader.state().num_templates == 3
    lowest = lowered(Enrollment("a", (Template(VECTORS[4], 1.0),), evict_lowest_quality=True))
    assert isinstance(lowest, EnrollResult)
    assert lowest.num_evicted == 3


def test_an_expired_identity_comes_back_as_a_new_one(store: GalleryStore, clock: Clock) -> None:
    enroll(store, Enrollment("a", (Template(VECTORS[0]),), {"x": "1"}, expire_time=clock.now + 1))
    clock.now += 1
    (outcome,) = enroll(store, Enrollment("a", (Template(VECTORS[0]),)))
    assert isinstance(outcome, EnrollResult)
    assert (outcome.is_new_identity, outcome.template_ids, outcome.num_ignored) == (True, (2,), 0)
    with store.read() as reader:
        record = reader.identity("a")
        assert record is not None
        assert (record.attributes, record.expire_ms, record.number) == ({}, 0, 2)
        assert reader.identity_id(1) is None
        assert reader.expired(1 << 60, 10) == []
        assert list(reader.journal(2, 2)) == [Journal([2], [1])]


def test_removing_names_who_is_not_there_and_gives_the_vectors_back(store: GalleryStore) -> None:
    enroll(store, Enrollment("a", (Template(VECTORS[0]), Template(VECTORS[1]))), Enrollment("b"))
    result, missing, vectors = store.write(
        lambda writer: changes.remove_identities(writer, ["a", "nobody", "a", "b"], 1, erase=False)
    )
    assert (result.sequence, result.num_identities, result.num_templates) == (2, 2, 2)
    assert missing == ["nobody"]
    assert [vector.tobytes() for vector in vectors] == [VECTORS[0].tobytes(), VECTORS[1].tobytes()]
    compare_empty(store, sequence=2, template_id_last=2)
    result, missing, _ = store.write(lambda writer: changes.remove_identities(writer, ["a"], 1, erase=False))
    assert (result.sequence, result.num_identities, missing) == (2, 0, ["a"])


def compare_empty(store: GalleryStore, *, sequence: int, template_id_last: int) -> None:
    model = NaiveGallery()
    model.sequence, model.template_id_last = sequence, template_id_last
    compare(store, model)


def test_ids_of_removed_templates_are_never_given_again(store: GalleryStore) -> None:
    seen: set[int] = set()
    for _ in range(4):
        (outcome,) = enroll(store, Enrollment("a", (Template(VECTORS[0]), Template(VECTORS[1]))))
        assert isinstance(outcome, EnrollResult)
        assert seen.isdisjoint(outcome.template_ids)
        seen |= set(outcome.template_ids)
        store.write(lambda writer: changes.remove_identities(writer, ["a"], 1, erase=False))


def test_one_template_is_removed_and_the_identity_stays(store: GalleryStore) -> None:
    enroll(store, Enrollment("a", (Template(VECTORS[0]), Template(VECTORS[1]))), Enrollment("b"))

    def remove(identity_id: str, template_id: int) -> int:
        return store.write(
            lambda writer: changes.remove_template(writer, identity_id, template_id, 1, erase=False)
        )[0].sequence

    assert remove("a", 1) == 2
    with pytest.raises(TemplateNotFoundError):
        remove("a", 1)
    with pytest.raises(TemplateNotFoundError):
        remove("b", 2)
    with pytest.raises(IdentityNotFoundError):
        remove("nobody", 2)
    assert remove("a", 2) == 3
    with store.read() as reader:
        record = reader.identity("a")
        assert record is not None
        assert record.template_ids == []
        assert reader.state().num_identities == 2


def test_expired_identities_are_removed_a_few_at_a_time(store: GalleryStore, clock: Clock) -> None:
    for number in range(5):
        enroll(store, Enrollment(f"p{number}", (Template(VECTORS[number]),), expire_time=clock.now + number))
    enroll(store, Enrollment("forever", (Template(VECTORS[6]),)))
    now_ms = store.now_ms() + 3000
    removed = [store.write(lambda writer: changes.remove_expired(writer, now_ms, 3)) for _ in range(3)]
    assert removed == [3, 1, 0]
    with store.read() as reader:
        assert [name for name, _ in reader.identities("")] == ["forever", "p4"]
        assert reader.state().sequence == 8


def test_settings_make_a_sequence_only_where_they_change(store: GalleryStore) -> None:
    settings = GallerySettings(templates_per_identity_max=5, threshold=0.25)
    sequences = [store.write(lambda writer: changes.update_settings(writer, settings)) for _ in range(2)]
    assert sequences == [1, 1]
    with store.read() as reader:
        assert reader.settings() == settings


def test_an_older_generation_never_replaces_a_newer_one(store: GalleryStore) -> None:
    enroll(store, Enrollment("a"))
    enroll(store, Enrollment("b"))
    numbers = [store.write(changes.next_generation) for _ in range(2)]
    assert numbers == [1, 2]
    assert store.write(lambda writer: changes.make_current(writer, 2, 2))
    assert not store.write(lambda writer: changes.make_current(writer, 1, 2))
    assert not store.write(lambda writer: changes.make_current(writer, 3, 1))
    with store.read() as reader:
        state = reader.state()
        assert (state.generation, state.generation_sequence) == (2, 2)


def test_a_time_in_the_first_millisecond_of_1970_is_a_time() -> None:
    assert changes.to_ms(None) == changes.NO_EXPIRY
    assert changes.to_ms(0.0001) == 1
    assert changes.to_ms(1.5) == 1500
