"""What is told of thresholds and rates: JSON that scripts rely on, words that claim no more than that."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from engine.cli import layout, output, output_admin, output_thresholds
from engine.cli.gallery_options import changes_of, settings_of
from engine.cli.verbs import build_parser
from engine.client import FaceIdentification, FaceVerification, GalleryStatus, ServedGallery, ServerStatus
from engine.gallery_settings import SettingsChanges
from engine.open_set_types import (
    Estimate,
    GalleryCalibration,
    GalleryThresholds,
    ProbeStatistics,
    SimilarityBin,
)
from engine.types import (
    Candidate,
    CrowdingCorrection,
    Decision,
    EmbeddingContract,
    GallerySettings,
    ThresholdOrigin,
)
from tests.unit.cli.test_output import assert_shape

CONTRACT = EmbeddingContract("dlib-resnet", "", "", mirror=True, dimension=128, threshold=0.94)
BY_RATE = GallerySettings(target_fpir=0.001, review_fpir=0.01, ambiguity=0.02)
ADA, EVE = Candidate("ada", 0.97, 3), Candidate("eve", 0.96, 4)
FACE = FaceIdentification(
    Decision.MATCH,
    (ADA,),
    0.9612,
    ThresholdOrigin.CALIBRATION,
    7,
    4000,
    is_exact=True,
    num_identities=3400,
    estimated_fpir=1 / 1234,
    review_threshold=0.95,
)
THRESHOLDS = GalleryThresholds(
    0.9612,
    ThresholdOrigin.CALIBRATION,
    3400.0,
    Estimate(0.9612, 0.958, 0.965),
    target_fpir=0.001,
    review_threshold=0.95,
    estimated_fpir=0.001,
    expected_fnir=0.124,
    is_crowding_corrected=True,
    warnings=("3,400 is more than it can carry",),
    calibrated_on="2,000 of our staff",
)
STATISTICS = ProbeStatistics(5, (SimilarityBin(0.9, 0.91, 2), SimilarityBin(0.91, 0.92, 3)), -0.25)
CALIBRATION = GalleryCalibration(
    0.001,
    0.97,
    ThresholdOrigin.OWN_PEOPLE,
    3400,
    Estimate(0.9612, 0.958, 0.965),
    Estimate(0.97, 0.968, 0.973),
    3390,
    10,
    has_disagreement=True,
    warnings=("calibrate on pictures like yours",),
)


def printed(value: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Any:
    """The value as a script reads it."""
    layout.print_json(value)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (0.0, "fewer than 1 in 1,000,000 strangers"),
        (9e-7, "fewer than 1 in 1,000,000 strangers"),
        (1e-6, "1 in 1,000,000 strangers"),
        (1 / 1234, "1 in 1,200 strangers"),
        (1 / 999.6, "1 in 1,000 strangers"),
        (0.001, "1 in 1,000 strangers"),
        (1 / 87, "1 in 87 strangers"),
        (0.1, "1 in 10 strangers"),
        (0.3, "1 in 3 strangers"),
        (0.4, "40 in 100 strangers"),
        (0.994, "99 in 100 strangers"),
        (0.996, "every stranger"),
        (1.0, "every stranger"),
    ],
)
def test_a_rate_is_a_share_of_strangers_to_two_digits(rate: float, said: str) -> None:
    assert output_thresholds.strangers_text(rate) == said


def test_identify_text_says_how_many_strangers_would_reach_it() -> None:
    assert output.identification_lines("a.jpg", [FACE]) == [
        "a.jpg: 1 face; threshold 0.9612 by the network's calibration, 4,000 templates searched",
        "  face  box  decision  identity  similarity",
        "     1    -  MATCH     ada           0.9700",
        "  1 in 1,200 strangers would reach 0.9700 among 3,400 people",
    ]
    nobody = dataclasses.replace(FACE, candidates=(), decision=Decision.NO_MATCH, estimated_fpir=None)
    lines = output.identification_lines("a.jpg", [nobody, FACE])
    assert lines[-1] == "  face 2: 1 in 1,200 strangers would reach 0.9700 among 3,400 people"
    assert len(lines) == 5
    one = dataclasses.replace(FACE, num_identities=1, estimated_fpir=0.5)
    assert output.identification_lines("a.jpg", [one])[-1] == (
        "  50 in 100 strangers would reach 0.9700 among 1 person"
    )
    assert "confidence" not in " ".join(lines)


def test_identify_text_shows_the_corrected_similarity_beside_the_plain_one_and_goes_by_it() -> None:
    corrected = dataclasses.replace(
        FACE,
        candidates=(
            Candidate("ada", 0.97, 3, 0.9625),
            Candidate("eve", 0.98, 4, 0.91),
            Candidate("zoe", 0.5, 5),
            Candidate("kim", 0.4, 6, -0.00001),
        ),
    )
    lines = output.identification_lines("a.jpg", [corrected])
    assert "; threshold 0.9612 of corrected similarities by the network's calibration, " in lines[0]
    assert lines[1].split() == ["face", "box", "decision", "identity", "similarity", "corrected"]
    assert lines[2].split() == ["1", "-", "MATCH", "ada", "0.9700", "0.9625"]
    assert lines[3].split() == ["(eve)", "0.9800", "0.9100"]
    assert lines[4].split() == ["(zoe)", "0.5000", "-"]
    assert lines[5].split() == ["(kim)", "0.4000", "0.0000"]
    assert "would reach 0.9625" in lines[6]
    nobody = dataclasses.replace(FACE, candidates=(), decision=Decision.NO_MATCH)
    assert output.identification_lines("a.jpg", [nobody, corrected])[2].split() == (
        ["1", "-", "NO_MATCH", "-", "-", "-"]
    )


@pytest.mark.parametrize(
    ("candidates", "review_threshold", "said"),
    [
        ((ADA, EVE), 0.95, "REVIEW: ada and eve are both this near: let a person look"),
        ((ADA,), None, "REVIEW: ada and another are both this near: let a person look"),
        ((EVE,), 0.95, "REVIEW: eve is near enough for a person to look at, 0.9500 or more"),
        ((EVE,), None, "REVIEW: eve is near enough for a person to look at"),
    ],
)
def test_a_review_is_told_in_words_with_its_reason(
    candidates: tuple[Candidate, ...], review_threshold: float | None, said: str
) -> None:
    face = dataclasses.replace(
        FACE, decision=Decision.REVIEW, candidates=candidates, review_threshold=review_threshold
    )
    assert output.identification_lines("a.jpg", [face])[-2] == f"  {said}"
    assert output.identification_label(face) == (
        f"to review ({candidates[0].identity_id} {candidates[0].similarity:.3f})"
    )


def test_identify_json_tells_rates_and_corrections(capsys: pytest.CaptureFixture[str]) -> None:
    candidates = (Candidate("ada", 0.97, 3, 0.9625), Candidate("eve", 0.5, 4))
    face = dataclasses.replace(FACE, candidates=candidates)
    told = printed(output.identification_json([face]), capsys)["faces"][0]
    assert_shape(told, {"num_identities": int, "estimated_fpir": float, "review_threshold": float})
    assert (told["threshold_origin"], told["num_identities"]) == ("calibration", 3400)
    assert told["threshold_of"] == "similarity_corrected"
    assert [one["similarity_corrected"] for one in told["candidates"]] == [0.9625, None]


def test_verify_says_whose_threshold_it_was() -> None:
    answer = FaceVerification(Decision.MATCH, 0.97, 0.96, ThresholdOrigin.CALIBRATION)
    assert output.verification_lines("a as ada", answer) == [
        "a as ada: MATCH, similarity 0.9700, threshold 0.9600 by the network's calibration"
    ]


def test_a_gallery_by_a_rate_tells_no_threshold_but_its_rates(capsys: pytest.CaptureFixture[str]) -> None:
    gallery = ServedGallery("staff", CONTRACT, BY_RATE, 1, 2, 3, 0.0)
    told = printed(output.gallery_json(gallery), capsys)
    assert (told["threshold"], told["threshold_origin"]) == (None, "calibration")
    assert (told["target_fpir"], told["review_fpir"], told["ambiguity"]) == (0.001, 0.01, 0.02)
    assert (told["target_fmr"], told["crowding"], told["has_probe_statistics"]) == (None, "auto", False)
    lines = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in output.gallery_lines(gallery)}
    assert lines["threshold"] == "for FPIR 0.001 by the network's calibration"
    assert lines["target fpir"] == "0.001, 1 in 1,000 strangers"
    assert lines["target fmr"] == "-"
    assert "for FPIR 0.001" in output.galleries_lines([gallery])[1]


def test_status_tells_thresholds_intervals_warnings_and_probes(capsys: pytest.CaptureFixture[str]) -> None:
    gallery = GalleryStatus(
        "staff", 3400, 3400, 3, 4, thresholds=THRESHOLDS, probe_statistics=dataclasses.replace(STATISTICS)
    )
    status = ServerStatus("0.1.0", "cpu", CONTRACT, (gallery,))
    told = printed(output_admin.status_json(status), capsys)["galleries"][0]
    estimate = {"threshold": float, "low": float, "high": float}
    shape = {
        "threshold": float,
        "threshold_origin": str,
        "estimate": estimate,
        "target_fpir": float,
        "effective_size": float,
        "expected_fnir": float,
        "is_crowding_corrected": bool,
        "warnings": [str],
        "calibrated_on": str,
    }
    assert_shape(told["thresholds"], shape)
    bins = {"low": float, "high": float, "probes": int}
    assert_shape(
        told["probe_statistics"], {"probes": int, "bins": [bins], "drift": float, "is_alarming": bool}
    )
    assert output_admin.status_lines("h:1", status)[3:] == [
        "  staff: threshold 0.9612 (0.9580 to 0.9650) by the network's calibration, for 1 in 1,000 strangers"
        " among 3,400 people, review from 0.9500 on, 12% of the enrolled would be missed, similarities"
        " corrected by crowding, calibrated on 2,000 of our staff",
        "    warning: 3,400 is more than it can carry",
        "  staff: 5 probes counted, drift -0.25 from the calibration",
    ]


def test_status_of_a_fixed_threshold_says_how_many_strangers_reach_it_where_that_is_known() -> None:
    fixed = GalleryThresholds(0.94, ThresholdOrigin.CONTRACT, 1850.0, estimated_fpir=0.2)
    assert output_thresholds.thresholds_lines("staff", 1200, fixed) == [
        "staff: threshold 0.9400 of the network, which 1 in 5 strangers would reach among 1,200 people"
        " (who count as 1,850 for their templates)"
    ]
    empty = dataclasses.replace(fixed, effective_size=1.0)
    assert output_thresholds.thresholds_lines("staff", 0, empty) == [
        "staff: threshold 0.9400 of the network, which 1 in 5 strangers would reach among 0 people"
    ]
    unknown = GalleryThresholds(0.5, ThresholdOrigin.GALLERY, 0.0)
    assert output_thresholds.thresholds_lines("staff", 0, unknown) == [
        "staff: threshold 0.5000 of the gallery"
    ]


def test_drift_that_alarms_is_a_warning_and_no_drift_is_not_told() -> None:
    told = output_thresholds.probe_statistics_lines
    assert told("staff", ProbeStatistics(0)) == ["staff: 0 probes counted"]
    alarming = told("staff", dataclasses.replace(STATISTICS, is_alarming=True))
    assert len(alarming) == 2
    assert alarming[1].startswith("  warning: probes are not like those of the calibration")


def test_a_calibration_tells_both_thresholds_and_which_holds(capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(output_thresholds.calibration_json("staff", CALIBRATION), capsys)
    estimate = {"threshold": float, "low": float, "high": float}
    shape = {
        "id": str,
        "identities": int,
        "target_fpir": float,
        "threshold": float,
        "threshold_origin": str,
        "by_calibration": estimate,
        "by_own_people": estimate,
        "probes": int,
        "left_out": int,
        "has_disagreement": bool,
        "warnings": [str],
    }
    assert_shape(told, shape)
    assert output_thresholds.calibration_lines("staff", CALIBRATION) == [
        "staff: threshold 0.9700 by the gallery's own people, for 1 in 1,000 strangers among 3,400 people",
        "  the network's calibration: 0.9612 (0.9580 to 0.9650)",
        "  the gallery's own people: 0.9700 (0.9680 to 0.9730) of 3,390 people, 10 left out as likely"
        " enrolled twice",
        "  the two disagree beyond both intervals: the higher one holds",
        "  warning: calibrate on pictures like yours",
    ]
    none = GalleryCalibration(0.1, 0.9, ThresholdOrigin.CALIBRATION, 5)
    assert output_thresholds.calibration_lines("staff", none)[1:] == [
        "  the network's calibration: none",
        "  the gallery's own people: too few",
    ]
    assert output_thresholds.calibration_json("staff", none)["by_own_people"] is None


def test_flags_become_settings() -> None:
    parse = build_parser().parse_args
    plain = settings_of(parse(["gallery", "create", "staff"]))
    assert plain == GallerySettings()
    chosen = "gallery create staff --target-fpir 0.001 --review-fpir 0.01 --ambiguity 0.02 --target-fmr 1e-4"
    chosen += " --crowding on --probe-statistics --templates-max 4 --keep-crops"
    assert settings_of(parse(chosen.split())) == GallerySettings(
        4,
        None,
        keep_crops=True,
        target_fpir=0.001,
        review_fpir=0.01,
        ambiguity=0.02,
        target_fmr=1e-4,
        crowding=CrowdingCorrection.ON,
        has_probe_statistics=True,
    )
    elsewhere = "gallery create others --dimension 4 --threshold 0.4"
    assert settings_of(parse(elsewhere.split())).threshold == 0.4
    by_rate = settings_of(parse(f"{elsewhere} --target-fpir 0.1".split()))
    assert (by_rate.threshold, by_rate.target_fpir) == (None, 0.1)


def test_flags_become_changes_and_what_is_not_given_stays() -> None:
    parse = build_parser().parse_args
    update = ["gallery", "update", "staff"]
    changed = parse([*update, "--ambiguity", "0", "--no-probe-statistics", "--crowding", "off"])
    assert SettingsChanges(**changes_of(changed)) == SettingsChanges(
        ambiguity=0.0, has_probe_statistics=False, crowding=CrowdingCorrection.OFF
    )
    cleared = parse([*update, "--clear-target-fpir", "--clear-target-fmr"])
    assert SettingsChanges(**changes_of(cleared)) == SettingsChanges(
        clear_target_fpir=True, clear_target_fmr=True
    )
