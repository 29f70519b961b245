"""IdentificationService over the wire, with vectors."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from engine.pb.identiface.v1 import enrollment_pb2, gallery_pb2, types_pb2
from engine.pb.identiface.v1 import identification_pb2 as pb
from engine.types import Vector, Vectors
from tests.e2e.conftest import Stubs, as_message, make_gallery, reason_of, refusal, unit

pytestmark = pytest.mark.e2e
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
NUM_ENROLLED = 300
TOLERANCE = 1e-5


def probe(vector: Vector, *, normalize: bool = False) -> pb.Probe:
    return pb.Probe(vector=as_message(vector, normalize=normalize))


@pytest.fixture
def enrolled(stubs: Stubs, gallery_id: str) -> Vectors:
    """One template each for the identities 000, 001, ..."""
    rng = np.random.default_rng(11)
    vectors = np.stack([unit(rng) for _ in range(NUM_ENROLLED)])
    requests = [
        enrollment_pb2.EnrollStreamRequest(
            gallery_id=gallery_id,
            enrollments=[
                enrollment_pb2.Enrollment(
                    identity_id=f"{row:03d}",
                    samples=[enrollment_pb2.Sample(vector=as_message(vectors[row]))],
                )
                for row in range(start, min(start + 256, NUM_ENROLLED))
            ],
        )
        for start in range(0, NUM_ENROLLED, 256)
    ]
    list(stubs.enrollment.EnrollStream(iter(requests)))
    return vectors


def assert_exact(face: Any, vector: Vector, enrolled: Vectors, k: int) -> None:
    """The answer is that of a naive scan."""
    similarities = enrolled.astype(np.float64) @ vector
    best = np.argsort(-similarities, kind="stable")[:k]
    assert [candidate.identity_id for candidate in face.candidates] == [f"{row:03d}" for row in best]
    np.testing.assert_allclose(
        [candidate.similarity for candidate in face.candidates], similarities[best], atol=TOLERANCE
    )
    assert face.num_searched == len(enrolled)
    assert not face.HasField("face")


def test_candidates_are_those_of_a_naive_scan(stubs: Stubs, gallery_id: str, enrolled: Vectors) -> None:
    rng = np.random.default_rng(12)
    for k in (0, 1, 7, 100):
        vector = unit(rng)
        request = pb.IdentifyRequest(
            gallery_id=gallery_id, probe=probe(vector), options=pb.SearchOptions(k=k)
        )
        (face,) = stubs.identification.Identify(request).faces
        assert_exact(face, vector, enrolled, k or 10)
        assert face.searched_sequence == 2
        assert (face.decision, face.threshold) == (types_pb2.DECISION_NO_MATCH, 0.5)


def test_thresholds_of_request_gallery_and_contract_hold_in_this_order(
    stubs: Stubs, gallery_id: str, enrolled: Vectors
) -> None:
    def ask(**options: Any) -> Any:
        request = pb.IdentifyRequest(
            gallery_id=gallery_id, probe=probe(enrolled[5]), options=pb.SearchOptions(**options)
        )
        return stubs.identification.Identify(request).faces[0]

    face = ask()
    assert (face.decision, face.threshold_origin) == (
        types_pb2.DECISION_MATCH,
        types_pb2.THRESHOLD_ORIGIN_CONTRACT,
    )
    settings = gallery_pb2.GallerySettings(threshold=0.75)
    stubs.galleries.UpdateGallery(gallery_pb2.UpdateGalleryRequest(gallery_id=gallery_id, settings=settings))
    face = ask()
    assert (face.threshold, face.threshold_origin) == (0.75, types_pb2.THRESHOLD_ORIGIN_GALLERY)
    face = ask(threshold=-1.0)
    assert (face.threshold, face.threshold_origin) == (-1.0, types_pb2.THRESHOLD_ORIGIN_REQUEST)


def test_a_batch_and_a_stream_answer_each_probe_on_its_own(
    stubs: Stubs, gallery_id: str, enrolled: Vectors
) -> None:
    rng = np.random.default_rng(13)
    first, second = unit(rng), unit(rng)
    probes = [
        probe(first),
        probe(np.zeros(128, np.float32)),
        pb.Probe(),
        pb.Probe(picture=types_pb2.Picture(data=b"x")),
        probe(second * np.float32(3), normalize=True),
        probe(second[:100]),
    ]
    batch = stubs.identification.BatchIdentify(pb.BatchIdentifyRequest(gallery_id=gallery_id, probes=probes))
    messages = [pb.IdentifyStreamRequest(gallery_id=gallery_id, probes=probes)] * 2
    streamed = list(stubs.identification.IdentifyStream(iter(messages)))
    assert len(streamed) == 2
    for answer in (batch, *streamed):
        outcomes = answer.outcomes
        assert_exact(outcomes[0].identified.faces[0], first, enrolled, 10)
        assert_exact(outcomes[4].identified.faces[0], second, enrolled, 10)
        assert [reason_of(outcomes[item].error) for item in (1, 2, 3, 5)] == [
            "INVALID_VECTOR",
            "INVALID_INPUT",
            "NO_EMBEDDER",
            "INVALID_VECTOR",
        ]
        assert outcomes[1].error.message.startswith("probes[1]")


def test_an_empty_gallery_is_an_answer(stubs: Stubs, gallery_id: str) -> None:
    vector = unit(np.random.default_rng(14))
    (face,) = stubs.identification.Identify(
        pb.IdentifyRequest(gallery_id=gallery_id, probe=probe(vector))
    ).faces
    assert (list(face.candidates), face.decision, face.num_searched) == ([], types_pb2.DECISION_NO_MATCH, 0)


@pytest.mark.parametrize(
    "options", [{"k": -1}, {"k": 101}, {"threshold": 1.5}, {"threshold": -1.5}, {"threshold": float("nan")}]
)
def test_options_out_of_range_are_refused(stubs: Stubs, gallery_id: str, options: dict[str, Any]) -> None:
    request = pb.IdentifyRequest(
        gallery_id=gallery_id,
        probe=probe(unit(np.random.default_rng(1))),
        options=pb.SearchOptions(**options),
    )
    assert refusal(lambda: stubs.identification.Identify(request))[:2] == (INVALID, "INVALID_INPUT")


@pytest.mark.parametrize("count", [0, 257])
def test_batches_of_none_or_too_many_are_refused(stubs: Stubs, gallery_id: str, count: int) -> None:
    probes = [probe(unit(np.random.default_rng(1)))] * count
    batch = pb.BatchIdentifyRequest(gallery_id=gallery_id, probes=probes)
    assert refusal(lambda: stubs.identification.BatchIdentify(batch))[:2] == (INVALID, "INVALID_INPUT")
    message = pb.IdentifyStreamRequest(gallery_id=gallery_id, probes=probes)
    stream = stubs.identification.IdentifyStream(iter([message]))
    assert refusal(lambda: next(stream))[:2] == (INVALID, "INVALID_INPUT")


def test_bad_probes_and_unknown_galleries_are_refused(stubs: Stubs, gallery_id: str) -> None:
    def identify(**fields: Any) -> Any:
        return stubs.identification.Identify(pb.IdentifyRequest(**fields))

    vector = unit(np.random.default_rng(1))
    nothing = refusal(lambda: identify(gallery_id=gallery_id))
    assert nothing[:2] == (INVALID, "INVALID_INPUT")
    short = refusal(lambda: identify(gallery_id=gallery_id, probe=probe(vector[:127])))
    assert short[:2] == (INVALID, "INVALID_VECTOR")
    assert short[2].startswith("probe: ")
    missing = refusal(lambda: identify(gallery_id="nothing", probe=probe(vector)))
    assert missing[:2] == (NOT_FOUND, "GALLERY_NOT_FOUND")
    options = pb.SearchOptions(contract_digest="0" * 64)
    other = refusal(lambda: identify(gallery_id=gallery_id, probe=probe(vector), options=options))
    assert other[:2] == (PRECONDITION, "CONTRACT_MISMATCH")
    picture = pb.Probe(picture=types_pb2.Picture(data=b"x"))
    assert refusal(lambda: identify(gallery_id=gallery_id, probe=picture))[:2] == (
        PRECONDITION,
        "NO_EMBEDDER",
    )


def test_a_claim_is_verified_by_the_identitys_best_template(stubs: Stubs, gallery_id: str) -> None:
    rng = np.random.default_rng(15)
    templates, vector = [unit(rng) for _ in range(3)], unit(rng)
    samples = [enrollment_pb2.Sample(vector=as_message(template)) for template in templates]
    enrollment = enrollment_pb2.Enrollment(identity_id="a", samples=samples)
    ids = stubs.enrollment.Enroll(
        enrollment_pb2.EnrollRequest(gallery_id=gallery_id, enrollment=enrollment)
    ).templates
    similarities = np.stack(templates).astype(np.float64) @ vector
    best = int(np.argmax(similarities))
    request = pb.VerifyRequest(gallery_id=gallery_id, probe=probe(vector), identity_id="a")
    answer = stubs.identification.Verify(request)
    assert answer.similarity == pytest.approx(similarities[best], abs=TOLERANCE)
    assert (answer.template_id, answer.searched_sequence) == (ids[best].template_id, 1)
    assert answer.decision == types_pb2.DECISION_NO_MATCH
    request.threshold = float(similarities[best]) - 0.01
    assert stubs.identification.Verify(request).decision == types_pb2.DECISION_MATCH
    request.identity_id = "nobody"
    assert refusal(lambda: stubs.identification.Verify(request))[:2] == (NOT_FOUND, "IDENTITY_NOT_FOUND")


def test_an_identity_without_templates_cannot_be_verified(stubs: Stubs, gallery_id: str) -> None:
    enrollment = enrollment_pb2.Enrollment(identity_id="empty")
    stubs.enrollment.Enroll(enrollment_pb2.EnrollRequest(gallery_id=gallery_id, enrollment=enrollment))
    vector = unit(np.random.default_rng(1))
    request = pb.VerifyRequest(gallery_id=gallery_id, probe=probe(vector), identity_id="empty")
    assert refusal(lambda: stubs.identification.Verify(request))[0] is PRECONDITION


def test_two_probes_are_compared_under_a_gallery_or_a_threshold(stubs: Stubs) -> None:
    rng = np.random.default_rng(16)
    one, two = unit(rng, 64), unit(rng, 64)
    expected = float(one.astype(np.float64) @ two)
    request = pb.VerifyRequest(probe=probe(one), reference=probe(two))
    code, reason, message = refusal(lambda: stubs.identification.Verify(request))
    assert (code, reason) == (INVALID, "INVALID_INPUT")
    assert message.startswith("threshold")
    request.threshold = 0.9
    answer = stubs.identification.Verify(request)
    assert answer.similarity == pytest.approx(expected, abs=TOLERANCE)
    assert (answer.threshold, answer.threshold_origin) == (0.9, types_pb2.THRESHOLD_ORIGIN_REQUEST)
    assert (answer.template_id, answer.searched_sequence) == (0, 0)
    request.ClearField("threshold")
    request.gallery_id = make_gallery(stubs, dimension=64)
    assert stubs.identification.Verify(request).threshold_origin == types_pb2.THRESHOLD_ORIGIN_CONTRACT
    request.reference.CopyFrom(probe(unit(rng, 65)))
    assert refusal(lambda: stubs.identification.Verify(request))[:2] == (INVALID, "INVALID_VECTOR")
    request.ClearField("reference")
    assert refusal(lambda: stubs.identification.Verify(request))[:2] == (INVALID, "INVALID_INPUT")


def test_more_pictures_than_a_message_may_hold_are_refused_before_any_is_looked_at(
    stubs: Stubs, gallery_id: str
) -> None:
    asked = pb.Probe(picture=types_pb2.Picture(data=b"jpeg"))
    fine = pb.BatchIdentifyRequest(gallery_id=gallery_id, probes=[asked] * 64)
    outcomes = stubs.identification.BatchIdentify(fine).outcomes
    assert {reason_of(outcome.error) for outcome in outcomes} == {"NO_EMBEDDER"}
    fine.probes.append(asked)
    code, reason, message = refusal(lambda: stubs.identification.BatchIdentify(fine))
    assert (code, reason) == (INVALID, "INVALID_INPUT")
    assert "65 pictures" in message


def test_the_similarity_shown_is_the_one_that_was_compared(stubs: Stubs, gallery_id: str) -> None:
    vector = unit(np.random.default_rng(17))
    near = vector + np.float32(2e-4) * unit(np.random.default_rng(18))
    near /= np.linalg.norm(near)
    enrollment = enrollment_pb2.Enrollment(
        identity_id="a", samples=[enrollment_pb2.Sample(vector=as_message(vector))]
    )
    stubs.enrollment.Enroll(enrollment_pb2.EnrollRequest(gallery_id=gallery_id, enrollment=enrollment))
    claim: dict[str, Any] = {"gallery_id": gallery_id, "probe": probe(near), "threshold": 1.0}
    answers = [
        stubs.identification.Verify(pb.VerifyRequest(identity_id="a", **claim)),
        stubs.identification.Verify(pb.VerifyRequest(reference=probe(vector), **claim)),
    ]
    for answer in answers:
        # As float32 it would be 1: the same as the threshold that it missed.
        assert np.float32(answer.similarity) == 1.0 > answer.similarity
        assert answer.decision == types_pb2.DECISION_NO_MATCH
    options = pb.SearchOptions(threshold=1.0)
    request = pb.IdentifyRequest(gallery_id=gallery_id, probe=probe(near), options=options)
    (face,) = stubs.identification.Identify(request).faces
    is_match = face.decision == types_pb2.DECISION_MATCH
    assert is_match == (face.candidates[0].similarity >= face.threshold)
