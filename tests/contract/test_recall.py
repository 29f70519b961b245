"""How often an index finds what an exact scan finds: measured, kept with it, said by Status."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidInputError, PreconditionError
from engine.galleries import Galleries
from engine.gallery import Gallery
from engine.index.agreement import IndexStatus
from engine.limits import RECALL_PROBES_MAX
from engine.live_index import report_nothing
from engine.types import Agreement, Enrollment, Template
from tests.contract.conftest import DIMENSION, VECTORS, Maker
from tests.contract.naive import unit_vectors
from tests.contract.test_questions import served


def fill(gallery: Gallery, num: int) -> None:
    gallery.enroll([Enrollment(f"p{row}", (Template(VECTORS[row]),)) for row in range(num)])


def test_an_exact_index_agrees_with_itself_and_the_measurement_is_kept(
    galleries: Galleries, gallery: Gallery, maker: Maker
) -> None:
    fill(gallery, 200)
    assert gallery.index_status() == IndexStatus()
    gallery.build(report_nothing)
    assert gallery.index_status() == IndexStatus(1, "flat")
    told: list[tuple[int, int]] = []
    measured = gallery.measure_recall(150, 3, lambda done, total: told.append((done, total)))
    assert measured == IndexStatus(1, "flat", Agreement(150, 1.0, 1.0)) == gallery.index_status()
    assert told[-1] == (150, 150)
    assert maker.open().get("people").index_status() == measured
    again = maker.open().get("people")
    fill(again, 201)
    again.build(report_nothing)
    assert again.index_status() == IndexStatus(2, "flat")


def test_there_is_nothing_to_measure_without_an_index_of_templates(gallery: Gallery) -> None:
    fill(gallery, 5)
    for num_probes in (0, RECALL_PROBES_MAX + 1):
        with pytest.raises(InvalidInputError, match="num_probes"):
            gallery.measure_recall(num_probes, 0)
    with pytest.raises(PreconditionError, match="no index"):
        gallery.measure_recall(10, 0)
    gallery.remove_identities([f"p{row}" for row in range(5)])
    gallery.build(report_nothing)
    with pytest.raises(PreconditionError, match="no index"):
        gallery.measure_recall(10, 0)


def test_a_measurement_that_is_given_up_keeps_nothing(gallery: Gallery) -> None:
    def give_up(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    fill(gallery, 100)
    gallery.build(report_nothing)
    with pytest.raises(KeyboardInterrupt):
        gallery.measure_recall(100, 0, give_up)
    assert gallery.index_status().agreement is None


def test_over_grpc_it_is_told_with_progress_and_status_shows_it(
    galleries: Galleries, gallery: Gallery
) -> None:
    gallery.enroll(
        [
            Enrollment(f"p{row}", (Template(vector),))
            for row, vector in enumerate(unit_vectors(np.random.default_rng(1), 250, DIMENSION))
        ]
    )
    with served(galleries) as client:
        with pytest.raises(PreconditionError, match="no index"):
            list(client.measure_recall("people"))
        with pytest.raises(InvalidInputError, match="num_probes"):
            list(client.measure_recall("people", num_probes=RECALL_PROBES_MAX + 1))
        *_, built = client.build_index("people")
        *before, last = client.measure_recall("people", num_probes=120, seed=5)
        assert all(progress.agreement is None for progress in before)
        assert (last.agreement, last.generation, last.kind) == (
            Agreement(120, 1.0, 1.0),
            built.generation,
            "flat",
        )
        assert (last.num_done, last.num_total) == (120, 120)
        (status,) = client.status().galleries
        assert (status.generation, status.kind, status.agreement) == (last.generation, "flat", last.agreement)
