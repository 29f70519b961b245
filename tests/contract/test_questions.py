"""How a gallery can be asked: exactly, by the mean, with a filter; in process and over gRPC."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from engine.client import Client
from engine.errors import EngineError, InvalidInputError, InvalidVectorError
from engine.galleries import Galleries
from engine.gallery import Gallery
from engine.limits import K_DEFAULT, K_MAX, PROBES_MAX
from engine.live_index import report_nothing
from engine.server.backend import Backend
from engine.server.endpoint import Endpoint
from engine.server.services import all_services
from engine.server.settings import ServeSettings
from engine.store.tables import Reader
from engine.telemetry import Telemetry
from engine.types import (
    SEARCH_DEFAULTS,
    Consistency,
    Decision,
    Enrollment,
    Fusion,
    Identification,
    SearchOptions,
    Template,
    Vectors,
)
from tests.contract.conftest import DIMENSION, VECTORS, Maker, enroll
from tests.contract.naive import NaiveGallery, unit_vectors

Ask = Callable[..., Sequence[Identification]]
"""Probes, k and options to answers."""
SITES = ("berlin", "tokyo", "lima")
FILTERS: list[dict[str, str]] = [
    *({}, {"site": "tokyo"}, {"site": "lima", "shift": "1"}),
    *({"rare": "yes"}, {"site": "nowhere"}),
]
OPTIONS = [
    SearchOptions(exact, fusion, filter_)
    for exact in (False, True)
    for fusion in Fusion
    for filter_ in FILTERS
]


@contextmanager
def served(galleries: Galleries) -> Iterator[Client]:
    """The galleries behind a server of this process, and a client of it."""
    endpoint = Endpoint(ServeSettings(data="unused"), Telemetry(), all_services(Backend(galleries)))
    with Client(f"127.0.0.1:{endpoint.bind('127.0.0.1', 0)}") as client:
        endpoint.start()
        endpoint.open()
        try:
            yield client
        finally:
            endpoint.close()


@pytest.fixture(params=["in process", "over gRPC"])
def ask(request: pytest.FixtureRequest, galleries: Galleries, gallery: Gallery) -> Iterator[Ask]:
    """The same question to the gallery itself and through a client."""

    def locally(
        probes: Vectors, k: int = K_DEFAULT, options: SearchOptions = SEARCH_DEFAULTS
    ) -> Sequence[Identification]:
        return gallery.identify(probes, k, options=options)

    if request.param == "in process":
        yield locally
        return

    with served(galleries) as client:

        def remotely(
            probes: Vectors, k: int = K_DEFAULT, options: SearchOptions = SEARCH_DEFAULTS
        ) -> Sequence[Identification]:
            how = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
            answers: list[Identification] = []
            for outcome in client.batch_identify("people", list(probes), k, **how):
                if isinstance(outcome, EngineError):
                    raise outcome
                answers.extend(outcome)
            return answers

        yield remotely


def pairs(answer: Identification) -> list[tuple[str, float]]:
    return [(one.identity_id, one.similarity) for one in answer.candidates]


def crowd(rng: np.random.Generator, num: int) -> list[Enrollment]:
    """Identities of one to four templates, at a site, on a shift, a few of them rare."""
    enrollments = []
    for number in range(num):
        rows = rng.integers(0, len(VECTORS), rng.integers(1, 5))
        attributes = {"site": SITES[number % 3], "shift": str(number % 2), "name": f"name {number}"}
        if number % 50 == 0:
            attributes["rare"] = "yes"
        enrollments.append(Enrollment(f"p{number}", tuple(map(Template, VECTORS[rows])), attributes))
    return enrollments


@pytest.mark.parametrize("is_built", [False, True])
def test_every_way_to_ask_gives_what_the_naive_gallery_gives(
    ask: Ask, gallery: Gallery, maker: Maker, is_built: bool
) -> None:
    rng, model, now = np.random.default_rng(31), NaiveGallery(), maker.clock.now
    batch = crowd(rng, 250)
    for half in (batch[:150], batch[150:]):
        gallery.enroll(half)
        model.enroll(half, now)
        if is_built and len(half) == 150:
            gallery.build(report_nothing)
    names = [f"p{number}" for number in range(0, 250, 7)]
    gallery.remove_identities(names)
    model.remove(names, now)
    probes = unit_vectors(rng, 5, DIMENSION)
    for options in OPTIONS:
        for k in (1, 7, 100):
            answers = ask(probes, k, options)
            for probe, answer in zip(probes, answers, strict=True):
                assert pairs(answer) == model.identify(probe, k, now, options)
                assert answer.is_exact or options == SearchOptions(False, Fusion.MEAN, options.filter)


def test_a_filter_follows_every_change_of_an_identity(ask: Ask, gallery: Gallery, maker: Maker) -> None:
    probe, now = VECTORS[:1], maker.clock.now

    def named(**filter_: str) -> list[str]:
        (answer,) = ask(probe, 10, SearchOptions(filter=filter_))
        return [one.identity_id for one in answer.candidates]

    enroll(gallery, "a", VECTORS[0], attributes={"team": "red", "room": "1"})
    enroll(gallery, "b", VECTORS[1], attributes={"team": "red"}, expire_time=now + 10)
    enroll(gallery, "c", VECTORS[2])
    assert named(team="red") == ["a", "b"]
    assert named(team="red", room="1") == ["a"]
    assert named(team="Red") == named(Team="red") == named(team="red", room="2") == named(tea="mred") == []
    enroll(gallery, "c", attributes={"team": "red"})
    enroll(gallery, "a", VECTORS[3])
    assert sorted(named(team="red")) == ["a", "b", "c"]
    changed = {"attributes": {"team": "blue"}, "remove_attributes": ["room"]}
    gallery.update_identity("a", **changed, expire_time=None, clear_expire_time=False)  # type: ignore[arg-type]
    assert (named(team="blue"), named(room="1")) == (["a"], [])
    enroll(gallery, "c", VECTORS[2], replace=True)
    assert named(team="red") == ["b"]
    maker.clock.now = now + 10
    assert named(team="red") == []
    enroll(gallery, "b", VECTORS[1])
    assert named(team="red") == []
    gallery.remove_identities(["a"])
    assert named(team="blue") == []


def test_an_identity_without_templates_matches_and_is_no_candidate(ask: Ask, gallery: Gallery) -> None:
    enroll(gallery, "bare", attributes={"team": "red"})
    for options in OPTIONS[:2]:
        (answer,) = ask(VECTORS[:1], 3, dataclasses.replace(options, filter={"team": "red"}))
        assert (answer.candidates, answer.decision) == ((), Decision.NO_MATCH)


def test_few_nobody_and_less_than_k_are_answers(ask: Ask, gallery: Gallery) -> None:
    attributes, probes = {"site": "tokyo"}, VECTORS[:2]
    for options in OPTIONS:
        assert [pairs(answer) for answer in ask(probes, 5, options)] == [[], []]
    enroll(gallery, "only", VECTORS[0], VECTORS[1], attributes=attributes)
    for options in OPTIONS:
        expected = ["only"] if options.filter.items() <= attributes.items() else []
        for k in (1, K_MAX):
            for answer in ask(probes, k, options):
                assert [name for name, _ in pairs(answer)] == expected
                assert answer.is_exact
    gallery.remove_identities(["only"])
    for options in OPTIONS:
        for answer in ask(probes, 5, options):
            assert (answer.candidates, answer.num_searched, answer.is_exact) == ((), 0, True)


def test_the_mean_is_over_all_templates_and_never_above_the_best(ask: Ask, gallery: Gallery) -> None:
    probe = VECTORS[0]
    enroll(gallery, "mixed", probe, -probe)
    enroll(gallery, "single", VECTORS[1])
    (by_best,) = ask(probe[None], 2)
    (by_mean,) = ask(probe[None], 2, SearchOptions(fusion=Fusion.MEAN))
    assert [one.identity_id for one in by_best.candidates] == ["mixed", "single"]
    means = {one.identity_id: one for one in by_mean.candidates}
    assert means["mixed"].similarity == pytest.approx(0.0, abs=1e-12)
    assert means["mixed"].template_id == by_best.candidates[0].template_id
    assert means["single"].similarity == by_best.candidates[1].similarity


def test_an_exact_mean_finds_whom_many_better_single_templates_hide(ask: Ask, gallery: Gallery) -> None:
    """Ten have a better best template than the one with the best mean: by default it is not seen."""
    probe = VECTORS[0]
    near = probe + 0.3 * VECTORS[1]
    near /= np.linalg.norm(near)
    for number in range(10):
        enroll(gallery, f"loud{number}", probe, -VECTORS[20 + number])
    enroll(gallery, "steady", near.astype(np.float32))
    (first,) = ask(probe[None], 1, SearchOptions(fusion=Fusion.MEAN))
    assert first.candidates[0].identity_id != "steady"
    assert not first.is_exact
    (proven,) = ask(probe[None], 1, SearchOptions(exact=True, fusion=Fusion.MEAN))
    assert (proven.candidates[0].identity_id, proven.is_exact) == ("steady", True)


def test_what_was_written_is_seen_with_either_consistency_where_nobody_is_behind(
    ask: Ask, gallery: Gallery
) -> None:
    sequence = enroll(gallery, "a", VECTORS[0]).sequence
    for consistency in Consistency:
        (answer,) = ask(VECTORS[:1], 1, SearchOptions(consistency=consistency))
        assert (answer.searched_sequence, answer.candidates[0].identity_id) == (sequence, "a")


def test_what_cannot_be_asked_is_refused(ask: Ask, gallery: Gallery) -> None:
    enroll(gallery, "a", VECTORS[0])
    refused: list[tuple[int, dict[str, str]]] = [
        (-1, {}),
        (K_MAX + 1, {}),
        (1, {"": "x"}),
        (1, {"a": "v" * 1024}),
        (1, {f"name {number}": "value" for number in range(200)}),
        (1, {"a": "\x00"}),
    ]
    for k, filter_ in refused:
        with pytest.raises(InvalidInputError):
            ask(VECTORS[:1], k, SearchOptions(filter=filter_))


def test_a_probe_that_is_no_unit_vector_is_refused(ask: Ask, gallery: Gallery) -> None:
    enroll(gallery, "a", VECTORS[0])
    for value in (np.nan, np.inf, 0.0, 3e38):
        probes = VECTORS[:3].copy()
        probes[1] = value
        with pytest.raises(InvalidVectorError, match=r"probes?\W*1"):
            ask(probes)
    with pytest.raises(InvalidVectorError):
        ask(VECTORS[:2, : DIMENSION - 1])


def test_probes_over_grpc_are_1_to_256(galleries: Galleries, gallery: Gallery) -> None:
    enroll(gallery, "a", VECTORS[0])
    with served(galleries) as client:
        for num in (0, PROBES_MAX + 1):
            with pytest.raises(InvalidInputError, match=f"{num} given"):
                client.batch_identify("people", list(VECTORS[:num]))
        assert len(client.batch_identify("people", list(VECTORS[:PROBES_MAX]))) == PROBES_MAX
        with pytest.raises(TypeError, match="exactly"):
            client.identify("people", VECTORS[0], exactly=True)  # type: ignore[call-arg]
    assert gallery.identify(VECTORS[:0]) == []


def test_a_write_between_the_view_and_the_snapshot_of_a_search_is_seen_whole_or_not_at_all(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a replaced identity the view has the old template and the snapshot the new: both have neither."""
    old, new = VECTORS[:2]
    gallery.enroll([Enrollment("anna", (Template(old),)), Enrollment("ben", (Template(VECTORS[2]),))])
    gallery.identify(old[None], 1)
    read = gallery._store.read
    is_first = True

    def replaced_behind() -> None:
        gallery.enroll([Enrollment("anna", (Template(new),), replace=True)])
        gallery.identify(new[None], 1)

    @contextmanager
    def read_late() -> Iterator[Reader]:
        nonlocal is_first
        with read() as reader:
            if is_first:
                is_first = False
                other = threading.Thread(target=replaced_behind)
                other.start()
                other.join()
            yield reader

    monkeypatch.setattr(gallery._store, "read", read_late)
    (answer,) = gallery.identify(new[None], 2)
    assert [one.identity_id for one in answer.candidates] == ["anna", "ben"]
    assert answer.candidates[0].similarity == pytest.approx(1.0)
    assert answer.is_exact
    assert answer.searched_sequence == 2
    assert not is_first
