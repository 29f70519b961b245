"""kill -9 at any moment: all that was answered is there, and nothing is there by half."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from engine.gallery import Gallery
from engine.store.gallery_store import GalleryStore
from engine.types import GallerySettings
from tests.contract.naive import NaiveGallery, unit_vectors
from tests.fault.writer import (
    CALM,
    CONTRACT,
    DIMENSION,
    SETTINGS,
    STORMY,
    TEMPLATES_MAX,
    Step,
    enrollments,
    opened,
    write_until_killed,
)

NUM_ROUNDS = 50
NOW = 0.0
"""Nothing expires in this test."""
PROBES = unit_vectors(np.random.default_rng(30), 5, DIMENSION)


def replay(model: NaiveGallery, step: Step) -> None:
    """Take the step in the model."""
    kind, ids = step["kind"], step["ids"]
    if kind == "enroll":
        model.enroll(enrollments(step), NOW)
    elif kind in ("remove", "erase"):
        model.remove(ids, NOW)
    elif kind == "remove_template" and ids:
        model.remove_template(ids[0], step["template_id"], NOW)
    elif kind == "update" and model.identities:
        first = next(iter(model.living(NOW)))
        model.update(first, NOW, {"updated": str(step["row"])}, ["step"])


def read_log(log: Path) -> tuple[list[Step], Step | None]:
    """The steps that were answered, and the one that was not."""
    answered: list[Step] = []
    begun: Step | None = None
    for line in log.read_text().splitlines():
        if line == "done":
            assert begun is not None
            answered.append(begun)
            begun = None
        else:
            begun = json.loads(line.removeprefix("begin "))
    return answered, begun


def is_equal(gallery: Gallery, model: NaiveGallery) -> bool:
    """Whether the gallery holds what the model holds."""
    listed = {
        identity.identity_id: (
            dict(identity.attributes),
            [(one.template_id, one.vector.tobytes(), one.quality) for one in templates],
        )
        for identity, templates in gallery.list_identities(limit=1000)
    }
    expected = {
        name: (one.attributes, [(item.template_id, item.data, item.quality) for item in one.templates])
        for name, one in model.identities.items()
    }
    return (gallery.info().sequence, listed) == (model.sequence, expected)


def check_searches(gallery: Gallery, model: NaiveGallery) -> None:
    for k in (1, 10):
        for probe, answer in zip(PROBES, gallery.identify(PROBES, k), strict=True):
            given = [(one.identity_id, one.similarity) for one in answer.candidates]
            assert given == model.identify(probe, k, NOW)


def check_rows(folder: Path) -> None:
    """Every row of the store fits every other."""
    store = GalleryStore(folder, SETTINGS.store)
    with store.read() as reader:
        state = reader.state()
        templates = dict(reader.templates())
        identities = dict(reader.identities(""))
        assert (state.num_identities, state.num_templates) == (len(identities), len(templates))
        held = [template_id for record in identities.values() for template_id in record.template_ids]
        assert sorted(held) == sorted(templates)
        for name, record in identities.items():
            assert reader.identity_id(record.number) == name
            assert all(templates[one].identity_number == record.number for one in record.template_ids)
            assert record.number <= state.identity_number_last
        assert max(templates, default=0) <= state.template_id_last
        journal = list(reader.journal(state.generation_sequence + 1, state.sequence))
        assert len(journal) == state.sequence - state.generation_sequence
        assert state.erase_sequence == 0
        generations = [path.name for path in store.index_folder.iterdir()]
        assert generations == ([str(state.generation)] if state.generation else [])
    store.close()


def vectors_erased(before: NaiveGallery, after: NaiveGallery) -> list[bytes]:
    """Vectors that the model had before and has not after."""
    living = {item.data for one in after.identities.values() for item in one.templates}
    gone = {item.data for one in before.identities.values() for item in one.templates} - living
    return sorted(gone)


def run_and_kill(data: Path, log: Path, round_: int) -> None:
    """One writer, killed within a third of a second of its start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fault.writer"])
    odds = STORMY if round_ % 2 else CALM
    process = context.Process(target=write_until_killed, args=(str(data), str(log), round_ + 1, odds))
    process.start()
    process.join(float(np.random.default_rng(round_).uniform(0.01, 0.35)))
    assert process.exitcode is None, "the writer ended by itself"
    process.kill()
    process.join()
    process.close()


class Truth:
    """The model, brought forward by what each writer was answered, and compared with what it left."""

    def __init__(self) -> None:
        self.model = NaiveGallery(TEMPLATES_MAX)
        self.num_answered = 0
        self.num_made_unanswered = 0

    def follow(self, gallery: Gallery, log: Path) -> list[bytes]:
        """Replay a log; the last step may or may not have been made. Returns the vectors erased."""
        answered, unanswered = read_log(log)
        self.num_answered += len(answered)
        erased: list[bytes] = []
        for step in answered:
            erased += self._take(step, self._after(step))
        if unanswered and is_equal(gallery, after := self._after(unanswered)):
            self.num_made_unanswered += not is_equal(gallery, self.model)
            erased += self._take(unanswered, after)
        assert is_equal(gallery, self.model)
        return erased

    def _after(self, step: Step) -> NaiveGallery:
        after = self.model.copy()
        replay(after, step)
        return after

    def _take(self, step: Step, after: NaiveGallery) -> list[bytes]:
        before, self.model = self.model, after
        return vectors_erased(before, after) if step["kind"] == "erase" else []


@pytest.mark.fault
def test_nothing_answered_is_lost_and_nothing_is_there_by_half(tmp_path: Path) -> None:
    data, truth = tmp_path / "data", Truth()
    with opened(data) as galleries:
        galleries.create("people", CONTRACT, GallerySettings(templates_per_identity_max=TEMPLATES_MAX))
    (folder,) = (data / "galleries").iterdir()
    for round_ in range(NUM_ROUNDS):
        log = tmp_path / f"log-{round_}"
        log.touch()
        run_and_kill(data, log, round_)
        with opened(data) as galleries:
            gallery = galleries.get("people")
            erased = truth.follow(gallery, log)
            check_searches(gallery, truth.model)
            galleries.maintain()
            assert is_equal(gallery, truth.model)
            check_searches(gallery, truth.model)
        check_rows(folder)
        contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
        assert not any(one in content for one in erased for content in contents)
    # It was worth it: there were writes, and some kills fell between a commit and its answer.
    assert truth.num_answered > NUM_ROUNDS
    assert 0 < truth.num_made_unanswered < NUM_ROUNDS
