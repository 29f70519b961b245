"""Settings, thresholds, statistics and calibrations of an open set survive the wire."""

from __future__ import annotations

import math

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInputError, NotImplementedYetError
from engine.gallery_settings import SettingsChanges
from engine.open_set_types import (
    Estimate,
    GalleryCalibration,
    GalleryThresholds,
    ProbeStatistics,
    SimilarityBin,
)
from engine.pb.identiface.v1 import admin_pb2, gallery_pb2, types_pb2
from engine.types import CrowdingCorrection, GallerySettings, ThresholdOrigin
from engine.wire import answers, galleries, open_set

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SIMILARITIES = st.floats(-2, 2)
RATES = st.floats(0, 1)
COUNTS = st.integers(0, 2**63 - 1)
WARNINGS = st.lists(TEXT, max_size=3).map(tuple)
ESTIMATES = st.builds(Estimate, SIMILARITIES, SIMILARITIES, SIMILARITIES)
THRESHOLDS = st.builds(
    GalleryThresholds,
    threshold=SIMILARITIES,
    threshold_origin=st.sampled_from(ThresholdOrigin),
    effective_size=st.floats(0, 1e9),
    estimate=st.none() | ESTIMATES,
    target_fpir=st.none() | RATES,
    review_threshold=st.none() | SIMILARITIES,
    estimated_fpir=st.none() | RATES,
    expected_fnir=st.none() | RATES,
    is_crowding_corrected=st.booleans(),
    warnings=WARNINGS,
    calibrated_on=TEXT,
)
STATISTICS = st.builds(
    ProbeStatistics,
    num_probes=COUNTS,
    bins=st.lists(st.builds(SimilarityBin, SIMILARITIES, SIMILARITIES, COUNTS), max_size=4).map(tuple),
    drift=st.none() | st.floats(-1, 1),
    is_alarming=st.booleans(),
)
CALIBRATIONS = st.builds(
    GalleryCalibration,
    target_fpir=RATES,
    threshold=SIMILARITIES,
    threshold_origin=st.sampled_from(ThresholdOrigin),
    num_identities=COUNTS,
    by_calibration=st.none() | ESTIMATES,
    by_own_people=st.none() | ESTIMATES,
    num_probes=COUNTS,
    num_left_out=COUNTS,
    has_disagreement=st.booleans(),
    warnings=WARNINGS,
)
CHANGES = st.builds(
    SettingsChanges,
    templates_per_identity_max=st.none() | st.integers(0, 16),
    threshold=st.none() | SIMILARITIES,
    clear_threshold=st.booleans(),
    target_fpir=st.none() | RATES,
    clear_target_fpir=st.booleans(),
    review_fpir=st.none() | RATES,
    clear_review_fpir=st.booleans(),
    ambiguity=st.none() | st.floats(0, 2),
    target_fmr=st.none() | RATES,
    clear_target_fmr=st.booleans(),
    crowding=st.none() | st.sampled_from(CrowdingCorrection),
    has_probe_statistics=st.none() | st.booleans(),
)


def over_the_wire(message: Message) -> Message:
    """The message as its receiver has it."""
    return type(message).FromString(message.SerializeToString())


@given(THRESHOLDS)
def test_thresholds_survive_the_wire(thresholds: GalleryThresholds) -> None:
    packed = open_set.pack_thresholds(thresholds)
    assert packed is not None
    message = over_the_wire(packed)
    assert isinstance(message, admin_pb2.GalleryThresholds)
    assert open_set.unpack_thresholds(message) == thresholds


@given(STATISTICS)
def test_probe_statistics_survive_the_wire(statistics: ProbeStatistics) -> None:
    packed = open_set.pack_probe_statistics(statistics)
    assert packed is not None
    message = over_the_wire(packed)
    assert isinstance(message, admin_pb2.ProbeStatistics)
    assert open_set.unpack_probe_statistics(message) == statistics


def test_what_is_not_known_leaves_its_field_unset() -> None:
    status = admin_pb2.GalleryStatus(
        thresholds=open_set.pack_thresholds(None),
        probe_statistics=open_set.pack_probe_statistics(None),
    )
    assert not status.HasField("thresholds")
    assert not status.HasField("probe_statistics")


@given(CALIBRATIONS)
def test_calibrations_survive_the_wire_in_the_last_message(calibration: GalleryCalibration) -> None:
    message = over_the_wire(open_set.pack_calibration(calibration))
    assert isinstance(message, admin_pb2.CalibrateResponse)
    assert (message.is_done, message.progress) == (True, 1.0)
    assert open_set.unpack_calibration(message) == calibration


@given(CHANGES)
def test_changes_of_settings_survive_the_wire(changes: SettingsChanges) -> None:
    message = over_the_wire(galleries.pack_settings_changes("staff", changes, "once"))
    assert isinstance(message, gallery_pb2.UpdateGalleryRequest)
    assert (message.gallery_id, message.request_id) == ("staff", "once")
    assert SettingsChanges(**galleries.unpack_settings_changes(message)) == changes


def test_a_rate_that_is_no_number_arrives_to_be_refused() -> None:
    settings = GallerySettings(target_fpir=math.nan, ambiguity=math.nan)
    back = galleries.unpack_gallery_settings(galleries.pack_gallery_settings(settings))
    assert back.target_fpir is not None
    assert math.isnan(back.target_fpir)
    assert math.isnan(back.ambiguity)


def test_a_crowding_correction_that_is_not_known_is_refused_by_name() -> None:
    settings = gallery_pb2.GallerySettings()
    settings.crowding = 9  # type: ignore[assignment]
    with pytest.raises(InvalidInputError, match="crowding 9 is not known: use AUTO, ON or OFF"):
        galleries.unpack_gallery_settings(settings)
    with pytest.raises(InvalidInputError, match="crowding 9"):
        galleries.unpack_settings_changes(gallery_pb2.UpdateGalleryRequest(settings=settings))
    # A client that reads a newer server's gallery did nothing wrong.
    with pytest.raises(NotImplementedYetError, match="crowding correction 9"):
        galleries.unpack_gallery(gallery_pb2.Gallery(settings=settings))


def test_an_unspecified_crowding_correction_is_auto_at_creation_and_no_change_later() -> None:
    settings = gallery_pb2.GallerySettings(crowding=gallery_pb2.CROWDING_CORRECTION_UNSPECIFIED)
    assert galleries.unpack_gallery_settings(settings).crowding is CrowdingCorrection.AUTO
    changes = galleries.unpack_settings_changes(gallery_pb2.UpdateGalleryRequest(settings=settings))
    assert SettingsChanges(**changes).is_empty


def test_a_candidate_of_a_server_of_before_has_no_corrected_similarity() -> None:
    sent = types_pb2.Candidate(identity_id="ada", similarity=0.5, template_id=1)
    assert answers.unpack_candidate(sent).similarity_corrected is None
    sent.similarity_corrected = 0.0
    assert answers.unpack_candidate(sent).similarity_corrected == 0.0
