"""What a gallery's own people say of its threshold: by themselves, on demand, and over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.client import Client
from engine.errors import EngineError, InvalidInputError, PreconditionError
from engine.galleries import Galleries
from engine.live_index import report_nothing
from engine.types import Decision, GallerySettings, ThresholdOrigin
from tests.calibrations import CONTRACT, calibration, people
from tests.contract.naive import cosine
from tests.contract.test_open_set import CORRECTED_SETTINGS, RATED, fill, made, opened
from tests.contract.test_questions import served


@pytest.fixture
def galleries(tmp_path: Path) -> Iterator[Galleries]:
    with opened(tmp_path / "data", calibration()) as found:
        yield found


def test_own_people_more_alike_than_the_calibrations_raise_the_threshold(galleries: Galleries) -> None:
    gallery = made(galleries)
    fill(gallery, people(1200, 6, spread=0.8))
    before = gallery.thresholds()
    assert before.threshold_origin is ThresholdOrigin.CALIBRATION
    gallery.build(report_nothing)
    after = gallery.thresholds()
    assert after.threshold_origin is ThresholdOrigin.OWN_PEOPLE
    assert after.threshold > before.threshold + 0.01
    assert after.estimated_fpir == pytest.approx(0.05)
    assert after.review_threshold is not None
    assert before.review_threshold is not None
    assert after.review_threshold - before.review_threshold == pytest.approx(
        after.threshold - before.threshold
    )
    assert gallery.has_disagreement()
    assert any("more alike" in text for text in after.warnings)
    strangers = gallery.identify(people(2000, 7, spread=0.8))
    rate = sum(answer.decision is Decision.MATCH for answer in strangers) / len(strangers)
    assert 0.05 / 1.6 < rate < 0.05 * 1.6
    assert {answer.threshold_origin for answer in strangers} == {ThresholdOrigin.OWN_PEOPLE}
    # What is known of strangers does not depend on whose threshold counts.
    (asked,) = gallery.identify(people(1, 7, spread=0.8), threshold=0.9)
    (wished,) = gallery.identify(people(1, 7, spread=0.8))
    assert asked.threshold_origin is ThresholdOrigin.REQUEST
    assert asked.estimated_fpir == wished.estimated_fpir


def test_while_a_damaged_generation_is_withdrawn_own_people_go_on_to_count(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with opened(data, calibration()) as galleries:
        gallery = made(galleries)
        # Of a size that a generation without own people was asked about, too.
        fill(gallery, people(1200, 6, spread=0.8))
        low = gallery.identify(people(1, 7))[0].threshold
        assert any("no index" in text for text in gallery.thresholds().warnings)
        gallery.build(report_nothing)
        raised = gallery.thresholds()
        assert raised.threshold > low + 0.01
        assert not any("no index" in text for text in raised.warnings)
        (folder,) = data.glob("galleries/*/index/1")
        (folder / "damaged").touch()
        gallery.refresh()
        for found in (gallery.identify(people(1, 7))[0], gallery.thresholds()):
            assert found.threshold == raised.threshold
            assert found.threshold_origin is ThresholdOrigin.OWN_PEOPLE
        assert gallery.has_disagreement()
        assert gallery.index_status().generation == 0
    with opened(data, calibration()) as galleries:
        # A process that never saw it cannot know, and says so.
        gallery = galleries.get("people")
        assert gallery.thresholds().threshold == low
        assert any("no index" in text for text in gallery.thresholds().warnings)
        gallery.maintain()
        assert gallery.thresholds().threshold == raised.threshold
        assert gallery.thresholds().warnings == raised.warnings


def test_where_own_people_raise_the_threshold_nothing_is_corrected(galleries: Galleries) -> None:
    for name, spread, is_corrected in (("alike", 0.8, False), ("as calibrated", 1.0, True)):
        galleries.create(name.replace(" ", "-"), CONTRACT, CORRECTED_SETTINGS)
        gallery = galleries.get(name.replace(" ", "-"))
        fill(gallery, people(1200, 6, spread=spread))
        gallery.build(report_nothing)
        (answer,) = gallery.identify(people(1, 7, spread=spread))
        assert (answer.candidates[0].similarity_corrected is not None) == is_corrected
        found = gallery.thresholds()
        assert found.is_crowding_corrected == is_corrected
        assert any("not corrected by crowding" in text for text in found.warnings) != is_corrected
        measured = gallery.calibrate(None, report_nothing)
        assert measured.threshold == pytest.approx(found.threshold, abs=0.01)
        assert measured.threshold_origin is found.threshold_origin


def test_own_people_like_the_calibrations_change_nothing_and_less_alike_ones_are_told(
    galleries: Galleries,
) -> None:
    gallery = made(galleries)
    fill(gallery, people(1200, 8))
    gallery.build(report_nothing)
    assert gallery.thresholds().threshold_origin is ThresholdOrigin.CALIBRATION
    assert not gallery.has_disagreement()
    galleries.create("sparse", CONTRACT, RATED)
    sparse = galleries.get("sparse")
    fill(sparse, people(1200, 9, spread=1.6))
    sparse.build(report_nothing)
    found = sparse.thresholds()
    assert found.threshold_origin is ThresholdOrigin.CALIBRATION
    assert any("less alike" in text for text in found.warnings)
    assert sparse.has_disagreement()


@pytest.fixture
def client(galleries: Galleries) -> Iterator[Client]:
    with served(galleries) as found:
        yield found


def test_a_gallery_is_calibrated_on_demand(client: Client, galleries: Galleries) -> None:
    gallery = made(galleries)
    fill(gallery, people(1200, 6, spread=0.8))
    gallery.build(report_nothing)
    told: list[float] = []
    found = client.calibrate_gallery("people", progress=told.append)
    assert (found.target_fpir, found.num_identities, found.has_disagreement) == (0.05, 1200, True)
    assert found.threshold_origin is ThresholdOrigin.OWN_PEOPLE
    assert found.threshold == pytest.approx(gallery.thresholds().threshold, abs=1e-6)
    assert found.num_probes + found.num_left_out == 1200
    assert told == sorted(told)
    assert told[-1] == 1.0
    other = client.calibrate_gallery("people", 0.2)
    assert other.threshold < found.threshold
    assert gallery.info().settings == RATED
    for target in (1.0, -0.1):
        with pytest.raises(InvalidInputError, match="target_fpir"):
            client.calibrate_gallery("people", target)


@pytest.mark.parametrize("num", [0, 1, 50, 300])
def test_a_small_gallery_is_calibrated_with_a_warning(client: Client, galleries: Galleries, num: int) -> None:
    gallery = made(galleries, GallerySettings(threshold=0.4))
    fill(gallery, people(num, 6, spread=0.8))
    gallery.build(report_nothing)
    with pytest.raises(InvalidInputError, match="target_fpir"):
        client.calibrate_gallery("people")
    found = client.calibrate_gallery("people", 0.1)
    assert found.threshold_origin is ThresholdOrigin.CALIBRATION
    assert found.by_calibration is not None
    assert (found.by_own_people is not None) is (num == 300)
    assert any("own people" in text for text in found.warnings)


def test_without_a_calibration_own_people_tell_where_they_are_enough(tmp_path: Path) -> None:
    with opened(tmp_path / "data", None) as galleries:
        gallery = made(galleries, GallerySettings())
        with pytest.raises(PreconditionError, match="own people"):
            gallery.calibrate(0.1)
        fill(gallery, people(1200, 6))
        gallery.build(report_nothing)
        found = gallery.calibrate(0.1)
        assert (found.by_calibration, found.threshold_origin) == (None, ThresholdOrigin.OWN_PEOPLE)
        strangers = people(2000, 7)
        num = sum(
            max(value for _, value in [(one.identity_id, one.similarity) for one in answer.candidates])
            >= found.threshold
            for answer in gallery.identify(strangers, 1)
        )
        assert 0.1 / 1.5 < num / len(strangers) < 0.1 * 1.5
        with pytest.raises(EngineError, match="enough"):
            gallery.calibrate(0.1, lambda _done, _total: (_ for _ in ()).throw(EngineError("enough")))


def test_all_is_told_over_the_wire(client: Client, galleries: Galleries) -> None:
    gallery = made(galleries, GallerySettings(target_fpir=0.05, review_fpir=0.2, has_probe_statistics=True))
    vectors = people(100, 2)
    fill(gallery, vectors)
    (remote,) = client.identify("people", vectors[0])
    (local,) = gallery.identify(vectors[:1])
    for name in ("threshold", "threshold_origin", "review_threshold", "estimated_fpir", "num_identities"):
        assert getattr(remote, name) == getattr(local, name)
    (status,) = client.status().galleries
    assert status.thresholds == gallery.thresholds()
    assert status.probe_statistics is not None
    assert status.probe_statistics.num_probes == 2
    assert cosine(vectors[0], vectors[0]) >= status.probe_statistics.bins[-1].low
