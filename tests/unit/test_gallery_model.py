"""Random walks through a gallery's life, compared step by step with a dict of lists."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.errors import EngineError, IdentityNotFoundError, PreconditionError, TemplateNotFoundError
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.index.settings import IndexSettings
from engine.live_index import report_nothing
from engine.store.environment import StoreSettings
from engine.types import (
    SEARCH_DEFAULTS,
    EmbeddingContract,
    Enrollment,
    Fusion,
    GallerySettings,
    SearchOptions,
    Template,
)
from tests.contract.clock import Clock
from tests.contract.naive import NaiveGallery, cosine, unit_vectors

DIMENSION = 4
CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=DIMENSION)
TEMPLATES_MAX = 3
SETTINGS = GalleriesSettings(
    store=StoreSettings(map_size_bytes_max=1 << 24),
    index=IndexSettings(delta_rows_max=6, dead_share_max=0.3),
    maintenance_s=0,
)
_RANDOM = unit_vectors(np.random.default_rng(7), 12, DIMENSION)
VECTORS = [*_RANDOM, -_RANDOM[0], np.eye(DIMENSION, dtype=np.float32)[0]]
PROBES = np.ascontiguousarray([*VECTORS[:4], *unit_vectors(np.random.default_rng(8), 3, DIMENSION)])

IDS = st.sampled_from(["Z", "a", "aa", "b", "é", "中"])
TEMPLATES = st.lists(
    st.builds(Template, st.sampled_from(VECTORS), st.sampled_from([0.0, 0.1, 0.7, 0.9])), max_size=4
)
ATTRIBUTES = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["", "1"]), max_size=2)
ASKED = [
    (100, SearchOptions(exact=True)),
    (2, SearchOptions(filter={"x": "1"})),
    (1, SearchOptions(fusion=Fusion.MEAN)),
    (3, SearchOptions(True, Fusion.MEAN, {"x": "1", "y": ""})),
]
SECONDS = st.sampled_from([None, None, None, 1.0, 5.0, 100.0])


class GalleryModel(RuleBasedStateMachine):
    """Engine and model take every step together."""

    @initialize()
    def create(self) -> None:
        self.clock, self.model = Clock(), NaiveGallery(TEMPLATES_MAX)
        self.data = Path(tempfile.mkdtemp())
        self.galleries = Galleries.open(self.data, SETTINGS, clock=self.clock)
        self.galleries.create("people", CONTRACT, GallerySettings(templates_per_identity_max=TEMPLATES_MAX))

    def teardown(self) -> None:
        if hasattr(self, "galleries"):
            self.galleries.close()
            shutil.rmtree(self.data)

    @property
    def gallery(self) -> Gallery:
        return self.galleries.get("people")

    @rule(
        names=st.lists(IDS, min_size=1, max_size=3),
        templates=TEMPLATES,
        attributes=ATTRIBUTES,
        seconds=SECONDS,
        replace=st.booleans(),
        evict=st.booleans(),
    )
    def enroll(
        self,
        names: list[str],
        templates: list[Template],
        attributes: dict[str, str],
        seconds: float | None,
        replace: bool,
        evict: bool,
    ) -> None:
        expire_time = None if seconds is None else self.clock.now + seconds
        batch = [
            Enrollment(name, tuple(templates), attributes, expire_time, replace, evict) for name in names
        ]
        expected = self.model.enroll(batch, self.clock.now)
        for outcome, other in zip(self.gallery.enroll(batch), expected, strict=True):
            if isinstance(other, EngineError):
                assert type(outcome) is type(other)
            else:
                assert outcome == other

    @rule(names=st.lists(IDS, max_size=3), erase=st.booleans())
    def remove(self, names: list[str], erase: bool) -> None:
        missing, num_templates = self.model.remove(names, self.clock.now, erase=erase)
        result, engine_missing = self.gallery.remove_identities(names, erase=erase)
        assert (engine_missing, result.num_templates) == (missing, num_templates)
        assert (result.sequence, result.is_erased) == (self.model.sequence, erase)

    @rule(name=IDS, position=st.integers(0, TEMPLATES_MAX), erase=st.booleans())
    def remove_template(self, name: str, position: int, erase: bool) -> None:
        one = self.model.living(self.clock.now).get(name)
        if one is None:
            with pytest.raises(IdentityNotFoundError):
                self.gallery.remove_template(name, 1, erase=erase)
        elif position >= len(one.templates):
            with pytest.raises(TemplateNotFoundError):
                self.gallery.remove_template(name, self.model.template_id_last + 1, erase=erase)
        else:
            template_id = one.templates[position].template_id
            self.model.remove_template(name, template_id, self.clock.now)
            assert (
                self.gallery.remove_template(name, template_id, erase=erase).sequence == self.model.sequence
            )

    @rule(name=IDS, attributes=ATTRIBUTES, seconds=SECONDS, clear=st.booleans())
    def update(self, name: str, attributes: dict[str, str], seconds: float | None, clear: bool) -> None:
        is_there = name in self.model.living(self.clock.now)
        expire_time = None if seconds is None or clear else self.clock.now + seconds

        def update() -> int:
            return self.gallery.update_identity(
                name,
                attributes=attributes,
                remove_attributes=["x"],
                expire_time=expire_time,
                clear_expire_time=clear,
            )[0]

        if not is_there:
            with pytest.raises(IdentityNotFoundError):
                update()
            return
        before = self.model.sequence
        self.model.update(name, self.clock.now, attributes, ["x"])
        if clear or expire_time is not None:
            self.model.set_expire_time(name, self.clock.now, expire_time)
        self.model.sequence = min(self.model.sequence, before + 1)
        assert update() == self.model.sequence

    @rule(seconds=st.sampled_from([0.5, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def build(self) -> None:
        assert self.gallery.build(report_nothing)[1] == self.model.sequence

    @rule()
    def maintain(self) -> None:
        self.gallery.maintain()
        self.model.purge(self.clock.now)

    @rule()
    def reopen(self) -> None:
        self.galleries.close()
        self.galleries = Galleries.open(self.data, SETTINGS, clock=self.clock)

    @invariant()
    def counts_are_equal(self) -> None:
        if not hasattr(self, "galleries"):
            return
        info = self.gallery.info()
        identities = self.model.identities.values()
        assert info.sequence == self.model.sequence
        assert info.num_identities == len(identities)
        assert info.num_templates == sum(len(one.templates) for one in identities)

    @invariant()
    def lists_are_equal(self) -> None:
        if not hasattr(self, "galleries"):
            return
        listed = self.gallery.list_identities(limit=100)
        living = self.model.living(self.clock.now)
        assert [identity.identity_id for identity, _ in listed] == list(living)
        for (identity, templates), one in zip(listed, living.values(), strict=True):
            assert identity.attributes == one.attributes
            assert identity.expire_time == one.expire_time
            assert [(item.template_id, item.vector.tobytes()) for item in templates] == [
                (item.template_id, item.data) for item in one.templates
            ]

    @invariant()
    def searches_are_equal(self) -> None:
        if not hasattr(self, "galleries"):
            return
        for k, options in ((1, SEARCH_DEFAULTS), (3, SEARCH_DEFAULTS), *ASKED):
            answers = self.gallery.identify(PROBES, k, options=options)
            for probe, answer in zip(PROBES, answers, strict=True):
                given = [(one.identity_id, one.similarity) for one in answer.candidates]
                assert given == self.model.identify(probe, k, self.clock.now, options)
                assert answer.searched_sequence == self.model.sequence
                assert answer.is_exact or not options.exact

    @invariant()
    def verifications_are_equal(self) -> None:
        if not hasattr(self, "galleries"):
            return
        probe = PROBES[0]
        for name, one in self.model.living(self.clock.now).items():
            if one.templates:
                best = max(cosine(probe, item.template.vector) for item in one.templates)
                assert self.gallery.verify(probe, name).similarity == best
            else:
                with pytest.raises(PreconditionError):
                    self.gallery.verify(probe, name)


TestGalleryModel = GalleryModel.TestCase
TestGalleryModel.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
