"""What callers give reaches the server, and what it answers reaches them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.client import Client, EnrollOptions, Picture, RawVector, Sample, SearchKeywords
from engine.errors import (
    InvalidInputError,
)
from engine.pb.identiface.v1 import (
    enrollment_pb2,
    identification_pb2,
    types_pb2,
)
from engine.types import Consistency, FaceChoice, Fusion, Template
from tests.unit.client.servicers import UNIT, Enrolling, Failing, Identifying, Start


def test_galleries_come_with_their_aliases_and_in_pages(start: Start) -> None:
    failing = Failing()
    with Client(start(failing)) as client:
        assert client.get_gallery("staff").aliases == ("all",)
        assert [gallery.gallery_id for gallery in client.list_galleries()] == ["a", "b", "c"]
    assert failing.requests[1:] == ["", "page2"]


def test_samples_may_be_pictures_vectors_and_templates(start: Start) -> None:
    enrolling = Enrolling()
    samples: list[Sample] = [
        b"jpeg",
        Picture(b"png", FaceChoice.CENTRE, 70, source="p"),
        UNIT,
        Template(UNIT, quality=0.5, source="s"),
    ]
    with Client(start(enrolling)) as client:
        options = EnrollOptions(expire_time=5.0, replace=True, evict_lowest_quality=True)
        result = client.enroll("staff", "ada", samples, attributes={"team": "a"}, options=options)
    assert (result.identity_id, result.num_added, result.sequence) == ("ada", 4, 7)
    enrollment = enrolling.requests[0].enrollment
    sent = enrollment.samples
    assert [sample.WhichOneof("content") for sample in sent] == ["picture", "picture", "vector", "vector"]
    assert (sent[1].picture.face_choice, sent[1].picture.min_face_px) == (types_pb2.FACE_CHOICE_CENTRE, 70)
    assert [sample.source for sample in sent] == ["", "p", "", "s"]
    assert sent[3].quality == 0.5
    assert sent[2].vector.data == UNIT.tobytes()
    assert (enrollment.replace, enrollment.expire_time.seconds) == (True, 5)
    assert enrollment.evict == enrollment_pb2.EVICT_POLICY_LOWEST_QUALITY


@pytest.mark.parametrize(
    "samples", [UNIT, RawVector(UNIT), b"jpeg", "ada.jpg", Picture(b"png"), Template(UNIT)]
)
def test_one_sample_where_a_list_is_due_is_refused_before_the_call(samples: Any) -> None:
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(InvalidInputError, match="give a list of samples") as raised,
    ):
        client.enroll("staff", "ada", samples)
    assert raised.value.__notes__ == ["Write [sample] instead of sample."]


def test_rows_of_a_matrix_are_samples_and_raw_vectors_are_normalized_by_the_server(start: Start) -> None:
    enrolling, identifying = Enrolling(), Identifying()
    with Client(start(enrolling, identifying)) as client:
        client.enroll("staff", "ada", np.stack([UNIT, 2 * UNIT]))  # type: ignore[arg-type]
        client.enroll("staff", "ada", [UNIT, RawVector(2 * UNIT)])
        client.identify("staff", RawVector(2 * UNIT))
        client.verify("staff", "ada", RawVector(2 * UNIT))
        client.verify_pair(UNIT, RawVector(2 * UNIT))
    sent = [[sample.vector.normalize for sample in r.enrollment.samples] for r in enrolling.requests]
    assert sent == [[False, False], [False, True]]
    first, verify, pair = identifying.requests
    assert first.probe.vector.normalize
    assert verify.probe.vector.normalize
    assert pair.reference.vector.normalize


@pytest.mark.parametrize("sample", ["ada.jpg", [0.6, 0.8], None, 7])
def test_what_is_neither_picture_nor_vector_is_refused_before_the_call(sample: Any) -> None:
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(InvalidInputError, match="expected a picture as bytes"),
    ):
        client.identify("staff", sample)


def test_options_of_identify_and_verify_reach_the_server(start: Start) -> None:
    identifying = Identifying()
    with Client(start(identifying)) as client:
        found = client.identify("staff", b"ada", 3, threshold=0.0, choice=FaceChoice.ALL, min_face_px=20)
        client.identify("staff", UNIT)
        how: SearchKeywords = {"exact": True, "fusion": Fusion.MEAN, "filter": {"site": "lima"}}
        client.identify("staff", UNIT, exact=True, consistency=Consistency.EVENTUAL, filter={"site": "lima"})
        list(client.identify_stream("staff", [UNIT], **how))
        one = client.verify("staff", "ada", UNIT, threshold=0.5)
        client.verify_pair(b"a", b"b", choice=FaceChoice.CENTRE)
    assert [face.candidates[0].identity_id for face in found] == ["ada"]
    assert (one.similarity, one.template_id) == (0.25, None)
    first, second, third, streamed, verify, pair = identifying.requests
    assert (third.options.exact, dict(third.options.filter)) == (True, {"site": "lima"})
    assert (streamed.options.exact, streamed.options.fusion) == (True, identification_pb2.FUSION_MEAN)
    assert third.options.consistency == identification_pb2.CONSISTENCY_EVENTUAL
    assert (first.options.k, first.options.threshold, first.options.HasField("threshold")) == (3, 0.0, True)
    assert (first.probe.picture.face_choice, first.probe.picture.min_face_px) == (
        types_pb2.FACE_CHOICE_ALL,
        20,
    )
    assert not second.options.HasField("threshold")
    assert (verify.identity_id, verify.threshold) == ("ada", 0.5)
    assert pair.WhichOneof("claim") == "reference"
    assert pair.reference.picture.face_choice == types_pb2.FACE_CHOICE_CENTRE
