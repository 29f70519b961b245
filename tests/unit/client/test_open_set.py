"""Target rates reach the server, and calibrations and statuses come back."""

from __future__ import annotations

import math

import pytest

from engine.client import Client
from engine.client.values import server_status
from engine.errors import EngineError, InvalidInputError
from engine.open_set_types import Estimate, GalleryCalibration, GalleryThresholds, ProbeStatistics
from engine.pb.identiface.v1 import admin_pb2, gallery_pb2
from engine.types import CrowdingCorrection, ThresholdOrigin
from engine.wire.open_set import pack_calibration, pack_probe_statistics, pack_thresholds
from tests.unit.client.servicers import Calibrating, Failing, Start

FOUND = GalleryCalibration(0.01, 0.95, ThresholdOrigin.CALIBRATION, 300, Estimate(0.95, 0.94, 0.96))


def test_settings_that_are_changed_reach_the_server_and_no_others(start: Start) -> None:
    failing = Failing()
    with Client(start(failing)) as client:
        gallery = client.update_gallery(
            "staff", target_fpir=0.001, ambiguity=0.0, crowding=CrowdingCorrection.OFF, clear_review_fpir=True
        )
    (request,) = failing.requests
    assert {field.name for field, _ in request.settings.ListFields()} == {
        "target_fpir",
        "ambiguity",
        "crowding",
    }
    assert request.settings.crowding == gallery_pb2.CROWDING_CORRECTION_OFF
    assert (request.clear_review_fpir, request.clear_threshold, request.clear_target_fpir) == (
        True,
        False,
        False,
    )
    assert request.request_id
    assert gallery.settings.target_fpir == 0.001


@pytest.mark.parametrize(("target_fpir", "sent"), [(None, 0.0), (0.01, 0.01)])
def test_a_calibration_comes_after_its_progress(target_fpir: float | None, sent: float, start: Start) -> None:
    calibrating = Calibrating(pack_calibration(FOUND))
    told: list[float] = []
    with Client(start(calibrating)) as client:
        assert client.calibrate_gallery("staff", target_fpir, told.append) == FOUND
    assert told == [0.0, 0.5, 1.0]
    assert [(request.gallery_id, request.target_fpir) for request in calibrating.requests] == [
        ("staff", sent)
    ]


@pytest.mark.parametrize("target_fpir", [0.0, 1.0, -0.1, math.nan])
def test_a_target_that_is_no_rate_is_refused_before_the_call(target_fpir: float) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidInputError, match="target_fpir is"):
        client.calibrate_gallery("staff", target_fpir)


def test_a_calibration_that_ends_without_an_answer_is_an_error(start: Start) -> None:
    with Client(start(Calibrating(None))) as client, pytest.raises(EngineError, match="without an answer"):
        client.calibrate_gallery("staff", 0.01)


def test_a_status_has_thresholds_and_statistics_where_the_server_tells_them() -> None:
    thresholds = GalleryThresholds(0.94, ThresholdOrigin.GALLERY, 12.0, warnings=("old",))
    statistics = ProbeStatistics(3, drift=0.5, is_alarming=True)
    told = admin_pb2.GalleryStatus(
        gallery_id="staff",
        thresholds=pack_thresholds(thresholds),
        probe_statistics=pack_probe_statistics(statistics),
    )
    answer = admin_pb2.StatusResponse(galleries=[told, admin_pb2.GalleryStatus(gallery_id="before")])
    staff, before = server_status(answer).galleries
    assert (staff.thresholds, staff.probe_statistics) == (thresholds, statistics)
    assert (before.thresholds, before.probe_statistics) == (None, None)
