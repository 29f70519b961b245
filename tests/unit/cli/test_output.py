"""The JSON that scripts rely on: these keys and types are frozen; keys may be added, never changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from engine.cli import layout, output, output_admin
from engine.cli.evaluate import report_lines
from engine.client import (
    BuildProgress,
    EnrolledIdentity,
    FaceEnrollResult,
    FaceIdentification,
    FaceVerification,
    GalleryStatus,
    RecallProgress,
    ServedGallery,
    ServerStatus,
)
from engine.errors import UndecodablePictureError
from engine.trainer.evaluate import PairsReport
from engine.types import (
    Agreement,
    Box,
    Candidate,
    Decision,
    EmbeddedFace,
    EmbeddingContract,
    Face,
    GallerySettings,
    RemoveResult,
    StoredTemplate,
    ThresholdOrigin,
)

FACE = Face(Box(1.25, 2.0, 30.004, 40.0), 0.5, np.arange(10, dtype=np.float32).reshape(5, 2))
CONTRACT = EmbeddingContract("dlib-resnet", "", "", mirror=True, dimension=128, threshold=0.94)
NOBODY = FaceIdentification(
    Decision.NO_MATCH, (), 0.94, ThresholdOrigin.CONTRACT, 7, 0, is_exact=True, face=FACE
)
ADA = FaceIdentification(
    Decision.MATCH,
    (Candidate("ada", 0.96875, 3), Candidate("eve", 0.5, 4)),
    0.94,
    ThresholdOrigin.GALLERY,
    7,
    2,
    is_exact=True,
    face=FACE,
)
REPORT = PairsReport(
    pairs=4800,
    folds=8,
    accuracy_mean=0.99,
    accuracy_std=0.002,
    auc=0.999,
    eer=0.01,
    tar_at_far={"1e-1": 1.0, "1e-2": 0.99, "1e-3": 0.96},
    not_detected=0,
    threshold=0.94,
    per_person_accuracy=0.98,
    conditions={
        "pictures": 7000,
        "min_face_px": 70,
        "face_choice": "centre",
        "contract": "dlib-resnet",
        "device": "cpu",
        "seconds": 250.0,
    },
)
STATUS = ServerStatus("0.1.0", "cpu", CONTRACT, (GalleryStatus("staff", 1, 2, 3, 4),))


def assert_shape(value: Any, shape: Any) -> None:
    """Check that all keys of a shape are there with its types; more keys may be."""
    if isinstance(shape, Mapping):
        assert isinstance(value, dict)
        for key, below in shape.items():
            assert_shape(value[key], below)
    elif isinstance(shape, list):
        assert isinstance(value, list)
        assert value
        for item in value:
            assert_shape(item, shape[0])
    else:
        assert type(value) is shape


def printed(value: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Any:
    """The value as a script reads it: one object on one line."""
    layout.print_json(value)
    out = capsys.readouterr().out
    assert out.endswith("\n")
    assert out.count("\n") == 1
    return json.loads(out)


def test_identify_json_is_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(output.identification_json([ADA]), capsys)
    shape = {
        "box": [float],
        "decision": str,
        "candidates": [{"identity_id": str, "similarity": float}],
        "threshold": float,
        "searched_sequence": int,
    }
    assert_shape(told, {"faces": [shape]})
    face = told["faces"][0]
    assert face["box"] == [1.25, 2.0, 30.0, 40.0]
    assert face["decision"] == "MATCH"
    assert face["candidates"][0] == {
        "identity_id": "ada",
        "similarity": 0.96875,
        "template_id": 3,
        "similarity_corrected": None,
    }
    assert (face["threshold"], face["searched_sequence"]) == (0.94, 7)


def test_identify_json_without_face_or_candidates_is_empty_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(output.identification_json([]), capsys) == {"faces": []}
    assert printed(output.identification_json([NOBODY]), capsys)["faces"][0]["candidates"] == []


def test_decisions_are_these_three_words() -> None:
    assert [decision.value for decision in Decision] == ["MATCH", "REVIEW", "NO_MATCH"]


def test_verify_json_is_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    answer = FaceVerification(Decision.NO_MATCH, 0.25, 0.94, ThresholdOrigin.REQUEST)
    told = printed(output.verification_json(answer), capsys)
    assert_shape(told, {"decision": str, "similarity": float, "threshold": float})
    assert (told["decision"], told["similarity"], told["threshold"]) == ("NO_MATCH", 0.25, 0.94)


def test_evaluate_pairs_json_is_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(REPORT.as_json(), capsys)
    shape = {
        "pairs": int,
        "folds": int,
        "accuracy_mean": float,
        "accuracy_std": float,
        "auc": float,
        "eer": float,
        "tar_at_far": {"1e-1": float, "1e-2": float, "1e-3": float},
        "not_detected": int,
    }
    assert_shape(told, shape)


def test_status_json_is_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(output_admin.status_json(STATUS), capsys)
    gallery = {"id": str, "identities": int, "templates": int, "sequence": int, "search_device": str}
    assert_shape(told, {"version": str, "device": str, "model": str, "galleries": [gallery], "workers": int})
    assert told["model"] == "dlib-resnet"
    assert (told["galleries"][0]["id"], told["galleries"][0]["identities"]) == ("staff", 1)
    assert (told["galleries"][0]["templates"], told["galleries"][0]["sequence"]) == (2, 3)


def test_recall_json_is_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RecallProgress(10, 10, Agreement(10, 1.0, 0.9), 4, "codes")
    told = printed(output_admin.recall_json("staff", progress), capsys)
    shape = {
        "id": str,
        "generation": int,
        "kind": str,
        "agreement": {"probes": int, "top1": float, "top10": float},
    }
    assert_shape(told, shape)
    assert told["agreement"] == {"probes": 10, "top1": 1.0, "top10": 0.9}


def test_status_json_of_a_server_of_vectors_has_the_model_none() -> None:
    assert output_admin.status_json(ServerStatus("1", "none", None, ()))["model"] == "none"


def test_names_of_any_script_are_printed_as_they_are_and_read_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("山田", "Ξ", 'quo"te', "back\\slash", "😀"):
        assert printed({"identity_id": name}, capsys) == {"identity_id": name}


def test_identify_text_puts_names_below_the_threshold_in_brackets() -> None:
    assert output.identification_lines("a.jpg", [ADA, NOBODY]) == [
        "a.jpg: 2 faces; threshold 0.9400 of the gallery, 2 templates searched",
        "  face  box        decision  identity  similarity",
        "     1  1,2-30,40  MATCH     ada           0.9688",
        "                             (eve)         0.5000",
        "     2  1,2-30,40  NO_MATCH  -                  -",
    ]
    assert output.identification_lines("a.jpg", []) == ["a.jpg: no face"]


def test_labels_on_pictures_never_call_a_stranger_by_a_name() -> None:
    stranger = FaceIdentification(
        Decision.NO_MATCH, ADA.candidates[1:], 0.94, ThresholdOrigin.CONTRACT, 1, 1, is_exact=True, face=FACE
    )
    assert output.identification_label(ADA) == "ada 0.969"
    assert output.identification_label(stranger) == "unknown (eve 0.500)"
    assert output.identification_label(NOBODY) == "unknown"


def test_embed_json_has_vectors_or_the_rows_where_they_went() -> None:
    face = EmbeddedFace(FACE, np.array([0.5, -0.5], np.float32))
    assert output.embedding_json([face], None)["faces"][0]["vector"] == [0.5, -0.5]
    rows = output.embedding_json([face, face], 5)["faces"]
    assert [told["row"] for told in rows] == [5, 6]
    assert "vector" not in rows[0]
    assert output.embedding_lines("a.jpg", [], 0) == ["a.jpg: no face"]


def test_enroll_and_remove_are_told() -> None:
    result = FaceEnrollResult(9, "ada", (1, 2), 1, 1, 0, is_new_identity=True, faces=(FACE, None))
    told = output.enroll_json(result)
    assert (told["added"], told["ignored"], told["template_ids"], told["faces"][1]) == (1, 1, [1, 2], None)
    assert output.enroll_lines(result) == [
        "ada: 1 template added, 1 already there (new identity, sequence 9)"
    ]
    replaced = FaceEnrollResult(10, "ada", (3,), 1, 0, 0, is_new_identity=False, num_replaced=15)
    assert output.enroll_json(replaced)["replaced"] == 15
    assert "1 template added, 15 of before dropped" in output.enroll_lines(replaced)[0]
    removed = RemoveResult(10, 0, 1, is_erased=False)
    assert output.removal_json("ada", removed)["templates"] == 1
    assert "identity kept, 1 template removed" in output.removal_lines("ada", removed)[0]
    erased_late = output.removal_lines("ada", RemoveResult(3, 0, 0, is_erased=True))
    assert erased_late == [
        "ada: not enrolled; what was removed before is gone from every file of the gallery"
    ]


def test_identities_are_listed_with_times_in_utc() -> None:
    template = StoredTemplate(3, np.empty(0, np.float32), 0.5, "ada.jpg", 0.0)
    ada = EnrolledIdentity("ada", {"b": "2", "a": "1"}, (3,), 0.0, 86400.0, templates=(template,))
    told = output.identity_json(ada)
    assert told["create_time"] == "1970-01-01T00:00:00Z"
    assert told["expire_time"] == "1970-01-02T00:00:00Z"
    assert told["templates"][0]["source"] == "ada.jpg"
    assert "a=1 b=2" in output.identity_lines([ada], has_header=True)[1]
    assert len(output.identity_lines([ada], has_header=False)) == 1


@pytest.mark.parametrize(("fixed", "origin"), [(None, "contract"), (0.5, "gallery")])
def test_a_gallery_tells_the_threshold_that_holds(fixed: float | None, origin: str) -> None:
    gallery = ServedGallery("staff", CONTRACT, GallerySettings(4, fixed), 1, 2, 3, 0.0, aliases=("all",))
    told = output.gallery_json(gallery)
    assert (told["threshold"], told["threshold_origin"]) == (0.94 if fixed is None else fixed, origin)
    assert any(line.startswith("aliases") and line.endswith("all") for line in output.gallery_lines(gallery))
    assert len(output.galleries_lines([gallery, gallery])) == 3
    assert "gallery create" in output.galleries_lines([])[0]


def test_status_and_build_and_report_read_as_text() -> None:
    assert output_admin.status_lines("h:1", STATUS)[0] == (
        "identiface 0.1.0 at h:1, model dlib-resnet on cpu, 1 gallery"
    )
    assert "vectors only" in output_admin.status_lines("h:1", ServerStatus("1", "none", None, ()))[0]
    progress = BuildProgress(5, 5, is_done=True, generation=2, sequence=9)
    assert output_admin.build_lines("staff", progress) == [
        "staff: generation 2 of 5 templates is current, covering sequence 9"
    ]
    assert output_admin.build_json("staff", progress)["generation"] == 2
    measured = GalleryStatus("staff", 1, 2, 3, 4, "codes", Agreement(1000, 0.9975, 0.95))
    lines = output_admin.status_lines("h:1", dataclasses.replace(STATUS, galleries=(measured,)))
    assert lines[-1].split() == ["staff", "1", "2", "3", "4", "codes", "99.75%", "95.00%"]
    on_gpu = dataclasses.replace(measured, search_device="cuda:0 (H) by torch 2")
    several = dataclasses.replace(STATUS, galleries=(on_gpu,), num_workers=4)
    lines = output_admin.status_lines("h:1", several)
    assert lines[0].endswith(", 1 gallery, 4 workers")
    assert "codes on cuda:0 (H) by torch 2  " in lines[-1]
    recall = RecallProgress(1000, 1000, measured.agreement, 4, "codes")
    assert output_admin.recall_lines("staff", recall, Agreement(1000, 0.9975, 0.95)) == [
        "staff: generation 4 (codes) finds the nearest template of an exact scan for 99.75% of 1,000 probes,"
        " and 95.00% of the ten nearest"
    ]
    assert any(line.split() == ["TAR", "at", "FAR", "1e-3", "96.00%"] for line in report_lines(REPORT))


def test_an_error_of_one_picture_is_told_by_reason_message_and_hint() -> None:
    told = output.error_json(UndecodablePictureError("a.jpg: no bytes"))
    assert told["error"]["reason"] == "UNDECODABLE_PICTURE"
    assert set(told["error"]) == {"reason", "message", "hint"}


def test_tables_align_numbers_right_and_wide_letters_by_their_columns() -> None:
    rows = [("山田", 5), ("ada", 1000), ("Zoe\N{COMBINING DIAERESIS}", "-")]
    assert layout.table(("who", "number"), rows) == [
        "who   number",
        "山田       5",
        "ada     1000",
        "Zoe\N{COMBINING DIAERESIS}        -",
    ]
    assert layout.table(("", ""), [("key", "value")]) == ["key  value"]
    assert layout.table(("a", "b"), []) == ["a  b"]


def test_counts_agree_with_their_nouns() -> None:
    assert [layout.count(n, "identity") for n in (0, 1, 2000)] == [
        "0 identities",
        "1 identity",
        "2,000 identities",
    ]
    assert layout.count(2, "face") == "2 faces"
