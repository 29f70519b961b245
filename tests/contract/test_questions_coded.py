"""The same questions to an index of compressed vectors: nearly right, or provably so if asked."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.index.settings import IndexSettings
from engine.live_index import report_nothing
from engine.store.environment import StoreSettings
from engine.types import SEARCH_DEFAULTS, Enrollment, Fusion, SearchOptions, Template
from tests.contract.clock import Clock
from tests.contract.conftest import CONTRACT, DIMENSION
from tests.contract.naive import NaiveGallery, unit_vectors

SETTINGS = GalleriesSettings(
    store=StoreSettings(map_size_bytes_max=1 << 28),
    index=IndexSettings(flat_rows_max=0, delta_rows_max=10_000, dead_share_max=1.0),
    maintenance_s=0,
)
NUM_IDENTITIES = 1200
EXACT = SearchOptions(exact=True)
EXACT_MEAN = SearchOptions(exact=True, fusion=Fusion.MEAN)


class Both:
    """A gallery, and the model of it."""

    def __init__(self, galleries: Galleries, model: NaiveGallery, clock: Clock):
        self.galleries, self.model, self.clock = galleries, model, clock

    @property
    def gallery(self) -> Gallery:
        return self.galleries.get("people")

    def enroll(self, *enrollments: Enrollment) -> None:
        for start in range(0, len(enrollments), 256):
            self.gallery.enroll(enrollments[start : start + 256])
        self.model.enroll(enrollments, self.clock.now)

    def remove(self, *identity_ids: str) -> None:
        self.gallery.remove_identities(identity_ids)
        self.model.remove(identity_ids, self.clock.now)

    def check_exact(self, probes: np.ndarray, k: int, options: SearchOptions) -> None:
        for probe, answer in zip(probes, self.gallery.identify(probes, k, options=options), strict=True):
            given = [(one.identity_id, one.similarity) for one in answer.candidates]
            assert given == self.model.identify(probe, k, self.clock.now, options)
            assert answer.is_exact


def crowd(rng: np.random.Generator) -> list[Enrollment]:
    """Identities of one to three templates around a centre of their own, some with the same attributes."""
    centres = unit_vectors(rng, NUM_IDENTITIES, DIMENSION)
    enrollments = []
    for number, centre in enumerate(centres):
        wide = centre + 0.1 * rng.normal(size=(rng.integers(1, 4), DIMENSION))
        near = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
        attributes = {"half": str(number % 2), "part": str(number % 40)}
        enrollments.append(Enrollment(f"p{number}", tuple(map(Template, near)), attributes))
    return enrollments


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NaiveGallery]:
    """A data folder with a generation of codes, and the model of its gallery."""
    data = tmp_path_factory.mktemp("coded")
    galleries = Galleries.open(data, SETTINGS, clock=Clock())
    galleries.create("people", CONTRACT)
    both = Both(galleries, NaiveGallery(), Clock())
    both.enroll(*crowd(np.random.default_rng(17)))
    both.gallery.build(report_nothing)
    assert both.gallery.index_status().kind == "codes"
    galleries.close()
    return data, both.model


@pytest.fixture
def both(built: tuple[Path, NaiveGallery], tmp_path: Path) -> Iterator[Both]:
    shutil.copytree(built[0], tmp_path / "data")
    clock = Clock()
    galleries = Galleries.open(tmp_path / "data", SETTINGS, clock=clock)
    yield Both(galleries, copy.deepcopy(built[1]), clock)
    galleries.close()


# The last two are centres of identities.
PROBES = np.concatenate(
    [unit_vectors(np.random.default_rng(seed), num, DIMENSION) for seed, num in ((18, 6), (17, 2))]
)


@pytest.mark.parametrize("options", [EXACT, EXACT_MEAN], ids=lambda options: options.fusion)
def test_exact_answers_are_the_naive_ones_through_enrollments_removals_and_expiry(
    both: Both, options: SearchOptions
) -> None:
    rng = np.random.default_rng(19)
    both.check_exact(PROBES, 10, options)
    both.remove(*(f"p{number}" for number in range(0, NUM_IDENTITIES, 9)))
    for round_ in range(3):
        vectors = unit_vectors(rng, 40, DIMENSION)
        soon = both.clock.now + round_ + 1
        both.enroll(
            *(
                Enrollment(f"new{round_}-{row}", (Template(vector),), expire_time=soon if row % 3 else None)
                for row, vector in enumerate(vectors)
            )
        )
        for k in (1, 10, 100):
            both.check_exact(np.concatenate([PROBES, vectors[:2]]), k, options)
        both.clock.now += 1
        both.check_exact(vectors[:4], 10, options)


def test_default_answers_are_nearly_those_and_say_that_they_are_not_proven(both: Both) -> None:
    probes, k = unit_vectors(np.random.default_rng(20), 60, DIMENSION), 10
    num_same = 0
    for probe, answer in zip(probes, both.gallery.identify(probes, k), strict=True):
        assert not answer.is_exact
        everybody = dict(both.model.identify(probe, NUM_IDENTITIES, both.clock.now))
        given = [(one.identity_id, one.similarity) for one in answer.candidates]
        assert len(given) == k
        assert given == sorted(given, key=lambda pair: (-pair[1], pair[0].encode()))
        assert all(everybody[name] == value for name, value in given)
        num_same += len({name for name, _ in given} & set(list(everybody)[:k]))
    assert num_same >= 0.98 * k * len(probes)


@pytest.mark.parametrize("options", [SEARCH_DEFAULTS, EXACT, EXACT_MEAN], ids=str)
def test_a_filter_compares_whoever_matches_one_and_all(both: Both, options: SearchOptions) -> None:
    for filter_ in ({"part": "7"}, {"part": "7", "half": "1"}, {"half": "0"}):
        asked = SearchOptions(options.exact, options.fusion, filter_)
        for k in (1, 20, 100):
            both.check_exact(PROBES, k, asked)
    for filter_ in ({"part": "40"}, {"part": "7", "half": "0"}, {"half": "0", "nobody": "x"}):
        assert both.gallery.identify(PROBES[:1], 5, options=SearchOptions(filter=filter_))[0].candidates == ()


def test_more_equal_templates_than_are_fetched_are_ordered_by_their_ids(both: Both) -> None:
    """All templates are the same one: whatever is fetched ties with the rest, and only ids decide."""
    both.remove(*(f"p{number}" for number in range(NUM_IDENTITIES)))
    shared = Template(PROBES[0])
    both.enroll(
        *(Enrollment(f"q{number:04d}", (shared,)) for number in np.random.default_rng(3).permutation(1300))
    )
    both.gallery.build(report_nothing)
    assert both.gallery.index_status().kind == "codes"
    for options in (SEARCH_DEFAULTS, EXACT):
        both.check_exact(PROBES[:2], 5, options)


def test_an_exact_search_for_more_than_there_are_gives_everybody(both: Both) -> None:
    both.remove(*(f"p{number}" for number in range(60, NUM_IDENTITIES)))
    both.check_exact(PROBES[:3], 100, EXACT)
    both.check_exact(PROBES[:3], 100, EXACT_MEAN)
