"""From nearest templates to identities, against the naive gallery."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from engine.candidates import FILTER_AMONG_MAX, ROWS_FETCHED_MIN, Question, best_identities
from engine.errors import DeadlineError
from engine.index.search import Snapshot
from engine.store import changes, records
from engine.store.columns import collect
from engine.store.environment import StoreSettings
from engine.store.gallery_store import GalleryStore
from engine.types import (
    SEARCH_DEFAULTS,
    EmbeddingContract,
    Enrollment,
    Fusion,
    GallerySettings,
    SearchOptions,
    Template,
    Vectors,
)
from tests.contract.clock import Clock
from tests.contract.naive import NaiveGallery, unit_vectors

DIMENSION = 8
CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=DIMENSION)


class Pair:
    """A store with a snapshot of it, and the model of both."""

    def __init__(self, store: GalleryStore, clock: Clock):
        self.store, self.clock, self.model = store, clock, NaiveGallery()
        self.snapshot = Snapshot.base(None, 0, DIMENSION)

    def enroll(self, enrollments: Sequence[Enrollment]) -> None:
        self.model.enroll(enrollments, self.clock.now)
        self.store.write(
            lambda writer: changes.enroll(writer, enrollments, self.store.now_ms(), 16),
            num_records=len(enrollments),
        )
        with self.store.read() as reader:
            columns = collect(reader, lambda _done, _total: None)
        self.snapshot = Snapshot.base(None, 0, DIMENSION).advanced(1, columns, ())

    def remove(self, *identity_ids: str) -> None:
        """From the store and the model; the snapshot stays behind."""
        self.model.remove(identity_ids, self.clock.now)
        self.store.write(
            lambda writer: changes.remove_identities(writer, identity_ids, self.store.now_ms(), erase=False)
        )

    def check(
        self,
        probes: Vectors,
        k: int,
        options: SearchOptions = SEARCH_DEFAULTS,
        among_max: int = FILTER_AMONG_MAX,
    ) -> None:
        question = Question(k, self.store.now_ms(), options, among_max=among_max)
        with self.store.read() as reader:
            answers = best_identities(reader, self.snapshot, probes, question)
        assert len(answers) == len(probes)
        for probe, answer in zip(probes, [answer.candidates for answer in answers], strict=True):
            expected = self.model.identify(probe, k, self.clock.now, options)
            assert [(one.identity_id, one.similarity) for one in answer] == expected
            for one in answer if options.fusion is Fusion.MAX else ():
                best = [
                    item.template_id
                    for item in self.model.identities[one.identity_id].templates
                    if abs(min(float(item.template.vector @ probe), 1.0) - one.similarity) < 1e-6
                ]
                assert one.template_id in best


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    settings = StoreSettings(map_size_bytes_max=1 << 28)
    GalleryStore.create(tmp_path / "g", CONTRACT, GallerySettings(), settings, 0.0)
    clock = Clock()
    with closing(GalleryStore(tmp_path / "g", settings, clock=clock)) as store:
        yield Pair(store, clock)


def around(rng: np.random.Generator, centre: Vectors, num: int, spread: float) -> Vectors:
    wide = centre + spread * rng.normal(size=(num, DIMENSION))
    return np.ascontiguousarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


def test_an_empty_gallery_and_an_empty_batch_have_no_candidates(pair: Pair, rng: np.random.Generator) -> None:
    probes = unit_vectors(rng, 2, DIMENSION)
    pair.check(probes, 10)
    pair.enroll([Enrollment("a", (Template(probes[0]),))])
    pair.check(probes[:0], 10)
    pair.check(probes, 1)
    pair.check(probes, 10)


def test_k_identities_are_found_where_each_holds_many_of_the_nearest_templates(
    pair: Pair, rng: np.random.Generator
) -> None:
    """The 300 rows fetched first belong to about 19 identities, however near the others are."""
    probe = unit_vectors(rng, 1, DIMENSION)
    pair.enroll(
        [
            Enrollment(f"p{number:02d}", tuple(map(Template, around(rng, probe, 16, 0.01 * (number + 1)))))
            for number in range(60)
        ]
    )
    assert pair.snapshot.num_alive > 3 * ROWS_FETCHED_MIN
    for k in (1, 10, 50, 60, 100):
        pair.check(np.concatenate([probe, unit_vectors(rng, 3, DIMENSION)]), k)


def test_ties_are_ordered_by_the_bytes_of_the_ids_also_where_more_tie_than_are_fetched(
    pair: Pair, rng: np.random.Generator
) -> None:
    probe = unit_vectors(rng, 1, DIMENSION)
    names = [f"{letter}{number:03d}" for letter in ("Z", "a", "ä", "中") for number in range(100)]
    pair.enroll([Enrollment(str(name), (Template(probe[0]),)) for name in rng.permutation(names)])
    assert len(names) > ROWS_FETCHED_MIN
    for k in (1, 10, 100):
        pair.check(probe, k)


def test_equal_vectors_tie_whoever_asks_beside(pair: Pair, rng: np.random.Generator) -> None:
    """Float32 scans give equal vectors unequal similarities, by where they lie and who asks beside."""
    shared = unit_vectors(rng, 20, DIMENSION)
    order = rng.permutation(200)
    pair.enroll([Enrollment(f"{number:03d}", (Template(shared[number % 20]),)) for number in order])
    for num_probes in (1, 2, 17, 64):
        pair.check(unit_vectors(rng, num_probes, DIMENSION), 30)


def test_nearly_equal_vectors_are_ordered_as_in_float64(pair: Pair, rng: np.random.Generator) -> None:
    centre = unit_vectors(rng, 1, DIMENSION)
    pair.enroll(
        [
            Enrollment(f"{number:03d}", tuple(map(Template, around(rng, centre, 1, 3e-8))))
            for number in range(100)
        ]
    )
    for k in (1, 5, 99):
        pair.check(np.concatenate([centre, unit_vectors(rng, 5, DIMENSION)]), k)


def test_whoever_was_removed_since_the_snapshot_is_not_found(pair: Pair, rng: np.random.Generator) -> None:
    vectors = unit_vectors(rng, 400, DIMENSION)
    pair.enroll([Enrollment(f"{row:03d}", (Template(vector),)) for row, vector in enumerate(vectors)])
    nearest = [name for name, _ in pair.model.identify(vectors[0], 350, pair.clock.now)]
    pair.remove(*nearest)
    pair.check(vectors[:3], 10)
    pair.remove(*[f"{row:03d}" for row in range(400)])
    pair.check(vectors[:3], 10)


def test_a_template_removed_since_the_snapshot_does_not_count(pair: Pair, rng: np.random.Generator) -> None:
    probe, other = unit_vectors(rng, 2, DIMENSION)
    pair.enroll([Enrollment("a", (Template(probe), Template(other)))])
    pair.model.remove_template("a", 1, pair.clock.now)
    pair.store.write(lambda writer: changes.remove_template(writer, "a", 1, 1, erase=False))
    pair.check(probe[None], 1)


def test_whose_time_is_over_is_not_found(pair: Pair, rng: np.random.Generator) -> None:
    vectors = unit_vectors(rng, 350, DIMENSION)
    now = pair.clock.now
    pair.enroll(
        [
            Enrollment(f"{row:03d}", (Template(vector),), expire_time=now + 1 if row % 8 else None)
            for row, vector in enumerate(vectors)
        ]
    )
    pair.check(vectors[:5], 20)
    pair.clock.now += 1
    pair.check(vectors[:5], 20)
    pair.check(vectors[:5], 100)


def test_identities_without_templates_are_no_candidates(pair: Pair, rng: np.random.Generator) -> None:
    vectors = unit_vectors(rng, 3, DIMENSION)
    pair.enroll([Enrollment("empty"), Enrollment("a", (Template(vectors[0]),)), Enrollment("bare")])
    pair.check(vectors, 3)


def test_a_search_whose_time_is_up_is_not_begun(pair: Pair, rng: np.random.Generator) -> None:
    vectors = unit_vectors(rng, 1, DIMENSION)
    pair.enroll([Enrollment("a", (Template(vectors[0]),))])
    question = Question(1, pair.store.now_ms(), deadline=time.monotonic())
    with pair.store.read() as reader, pytest.raises(DeadlineError):
        best_identities(reader, pair.snapshot, vectors, question)


@pytest.mark.parametrize("among_max", [0, 20, 10_000])
@pytest.mark.parametrize("fusion", Fusion)
def test_a_filter_gives_the_same_however_many_match_it(
    pair: Pair, rng: np.random.Generator, among_max: int, fusion: Fusion
) -> None:
    """Where more than `among_max` match, rows of others are passed over instead."""
    vectors = unit_vectors(rng, 900, DIMENSION)
    pair.enroll(
        [
            Enrollment(
                f"{row:03d}",
                (Template(vector), Template(-vector)) if row % 5 == 0 else (Template(vector),),
                {"a": str(row % 2), "b": str(row % 3), "c": str(row % 300)},
            )
            for row, vector in enumerate(vectors)
        ]
    )
    pair.remove(*(f"{row:03d}" for row in range(0, 900, 11)))
    filters = ({"a": "1"}, {"a": "0", "b": "2"}, {"c": "7"}, {"a": "0", "c": "7"}, {"d": "1"})
    for filter_ in filters:
        for exact in (False, True):
            pair.check(vectors[:4], 10, SearchOptions(exact, fusion, filter_), among_max)


def test_digests_that_collide_do_not_let_others_in(pair: Pair, rng: np.random.Generator) -> None:
    """The table of attributes holds digests: an identity's own record has the last word."""
    (vector,) = unit_vectors(rng, 1, DIMENSION)
    pair.enroll([Enrollment("a", (Template(vector),), {"team": "red"})])
    number = records.key(1)
    pair.store.write(
        lambda writer: writer._transaction.put(
            records.attribute_key("team", "blue"), number, db=writer._tables["attributes"]
        )
    )
    pair.check(vector[None], 1, SearchOptions(filter={"team": "blue"}))


def test_vectors_longer_than_1_are_as_alike_as_can_be_and_ids_decide(
    pair: Pair, rng: np.random.Generator
) -> None:
    """Lengths may be off by a thousandth: the longest is no more alike than the others."""
    probe = unit_vectors(rng, 1, DIMENSION)
    lengths = 1.0 + np.linspace(1e-4, 9e-4, 20)
    pair.enroll(
        [
            Enrollment(f"p{number:02d}", (Template((probe[0] * length).astype(np.float32)),))
            for number, length in enumerate(lengths)
        ]
    )
    for k in (1, 3, 20):
        pair.check(probe, k)


def test_more_templates_than_are_compared_at_once_are_ranked_alike(
    pair: Pair, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.ranking.COMPARED_AT_ONCE", 7)
    probes = unit_vectors(rng, 3, DIMENSION)
    pair.enroll(
        [
            Enrollment(f"p{number:02d}", tuple(map(Template, around(rng, probes[:1], 3, 0.2))))
            for number in range(40)
        ]
    )
    pair.check(probes, 10)
    # The snapshot still has their rows, which the store has not.
    pair.remove(*(f"p{number:02d}" for number in range(0, 40, 3)))
    pair.check(probes, 10)
