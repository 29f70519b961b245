"""EnrollmentService over the wire: vectors, ids, retries, pages, removal."""

from __future__ import annotations

import unicodedata
from typing import Any

import grpc
import numpy as np
import pytest

from engine.pb.identiface.v1 import enrollment_pb2 as pb
from engine.pb.identiface.v1 import identification_pb2 as identification
from engine.pb.identiface.v1 import types_pb2
from engine.types import Vector
from tests.e2e.conftest import Stubs, as_message, make_gallery, reason_of, refusal, unit

pytestmark = pytest.mark.e2e
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
ONE = unit(np.random.default_rng(1))


def draft(identity_id: str, *vectors: Vector, **fields: Any) -> pb.Enrollment:
    samples = [pb.Sample(vector=as_message(vector)) for vector in vectors]
    return pb.Enrollment(identity_id=identity_id, samples=samples, **fields)


def enroll(stubs: Stubs, gallery_id: str, enrollment: pb.Enrollment, request_id: str = "") -> Any:
    return stubs.enrollment.Enroll(
        pb.EnrollRequest(gallery_id=gallery_id, enrollment=enrollment, request_id=request_id)
    )


def stream(stubs: Stubs, *messages: pb.EnrollStreamRequest) -> list[Any]:
    return list(stubs.enrollment.EnrollStream(iter(messages)))


def listed(stubs: Stubs, gallery_id: str) -> list[str]:
    request = pb.ListIdentitiesRequest(gallery_id=gallery_id, page_size=1000)
    return [identity.identity_id for identity in stubs.enrollment.ListIdentities(request).identities]


def changed(vector: Vector, index: int, value: float) -> Vector:
    copy = vector.copy()
    copy[index] = value
    return copy


BAD_VECTORS: list[tuple[str, Vector]] = [
    ("127", ONE[:127]),
    ("129", np.append(ONE, np.float32(0.0))),
    ("0 bytes", ONE[:0]),
    ("NaN", changed(ONE, 5, np.nan)),
    ("NaN", changed(ONE, 5, np.inf)),
    ("zero", np.zeros(128, np.float32)),
    ("length 1.5", ONE * np.float32(1.5)),
]


@pytest.mark.parametrize(("word", "vector"), BAD_VECTORS)
def test_bad_vectors_are_refused_by_name(stubs: Stubs, gallery_id: str, word: str, vector: Vector) -> None:
    enrollment = draft("a", ONE, vector)
    code, reason, message = refusal(lambda: enroll(stubs, gallery_id, enrollment))
    assert (code, reason) == (INVALID, "INVALID_VECTOR")
    assert message.startswith("samples[1]: ")
    assert word in message
    assert listed(stubs, gallery_id) == []


def test_a_vector_is_brought_to_unit_length_where_that_is_asked_for(stubs: Stubs, gallery_id: str) -> None:
    sample = pb.Sample(vector=as_message(ONE * np.float32(7), normalize=True), quality=0.5, source="a.jpg")
    answer = enroll(stubs, gallery_id, pb.Enrollment(identity_id="a", samples=[sample]))
    assert (answer.num_added, answer.is_new_identity) == (1, True)
    request = pb.GetIdentityRequest(gallery_id=gallery_id, identity_id="a", with_vectors=True)
    template = stubs.enrollment.GetIdentity(request).identity.templates[0]
    np.testing.assert_allclose(np.frombuffer(template.vector, "<f4"), ONE, atol=1e-6)
    assert (template.template_id, template.quality, template.source) == (
        answer.templates[0].template_id,
        0.5,
        "a.jpg",
    )


def test_a_sample_without_content_and_a_quality_out_of_range_are_refused(
    stubs: Stubs, gallery_id: str
) -> None:
    empty = pb.Enrollment(identity_id="a", samples=[pb.Sample()])
    assert refusal(lambda: enroll(stubs, gallery_id, empty))[:2] == (INVALID, "INVALID_INPUT")
    for quality in (-0.1, 1.5, float("nan")):
        sample = pb.Sample(vector=as_message(ONE), quality=quality)
        wrong = pb.Enrollment(identity_id="a", samples=[sample])
        code, reason, message = refusal(lambda wrong=wrong: enroll(stubs, gallery_id, wrong))  # type: ignore[misc]
        assert (code, reason) == (INVALID, "INVALID_INPUT")
        assert "samples[0].quality" in message


@pytest.mark.parametrize(
    "identity_id",
    ["", "x" * 512, "é" * 128, "a\x00b", "a\nb", "\x7f", "a\u2028b", " a", "a ", "e\u0301"],
)
def test_identity_ids_that_break_the_rule_are_refused(
    stubs: Stubs, gallery_id: str, identity_id: str
) -> None:
    assert refusal(lambda: enroll(stubs, gallery_id, draft(identity_id, ONE)))[:2] == (INVALID, "INVALID_ID")
    outcome = stream(
        stubs, pb.EnrollStreamRequest(gallery_id=gallery_id, enrollments=[draft(identity_id, ONE)])
    )[0].outcomes[0]
    assert reason_of(outcome.error) == "INVALID_ID"


def test_identity_ids_of_every_script_come_back_in_order_of_their_bytes(
    stubs: Stubs, gallery_id: str
) -> None:
    names = [
        "Ada Lovelace", "Søren Åström", "Ζωή Παπαδοπούλου", "Анна Каренина", "עדה", "عائشة", "प्रिया", "ஆதா",
        "สมชาย", "李小龍", "さくら", "김민준", "ქეთევან", "አበበ", "👩‍🚀", "𐍈𐌰", "x" * 255, "é" * 127,
    ]  # fmt: skip
    names = [unicodedata.normalize("NFC", name) for name in names]
    rng = np.random.default_rng(3)
    for name in names:
        enroll(stubs, gallery_id, draft(name, unit(rng), attributes={name[:20]: name[:20]}))
    assert listed(stubs, gallery_id) == sorted(names, key=lambda name: name.encode())
    for name in names:
        request = pb.GetIdentityRequest(gallery_id=gallery_id, identity_id=name)
        got = stubs.enrollment.GetIdentity(request).identity
        assert (got.identity_id, dict(got.attributes)) == (name, {name[:20]: name[:20]})


@pytest.mark.parametrize("identity_id", ["", "x" * 600, "a\nb", "e\u0301"])
def test_identity_ids_that_break_the_rule_are_refused_by_every_rpc(
    stubs: Stubs, gallery_id: str, identity_id: str
) -> None:
    where: dict[str, Any] = {"gallery_id": gallery_id, "identity_id": identity_id}
    service = stubs.enrollment
    probe = identification.Probe(vector=as_message(ONE))
    calls: list[tuple[Any, Any]] = [
        (service.GetIdentity, pb.GetIdentityRequest(**where)),
        (service.UpdateIdentity, pb.UpdateIdentityRequest(**where)),
        (service.RemoveIdentity, pb.RemoveIdentityRequest(**where)),
        (service.RemoveTemplate, pb.RemoveTemplateRequest(template_id=1, **where)),
        (stubs.identification.Verify, identification.VerifyRequest(probe=probe, **where)),
    ]
    for call, request in calls:
        assert refusal(lambda call=call, request=request: call(request))[:2] == (INVALID, "INVALID_ID")  # type: ignore[misc]
    batch = pb.BatchRemoveRequest(gallery_id=gallery_id, identity_ids=["fine", identity_id])
    code, reason, message = refusal(lambda: service.BatchRemove(batch))
    assert (code, reason) == (INVALID, "INVALID_ID")
    assert message.startswith("identity_ids[1]: ")


def test_counts_are_checked_before_any_picture_is_looked_at(stubs: Stubs, gallery_id: str) -> None:
    # This server has no network: what is looked at is refused as NO_EMBEDDER.
    one = pb.Sample(picture=types_pb2.Picture(data=b"jpeg"))
    crowd = pb.Enrollment(identity_id="crowd", samples=[one] * 17)
    code, reason, message = refusal(lambda: enroll(stubs, gallery_id, crowd))
    assert (code, reason) == (INVALID, "INVALID_INPUT")
    assert "17 given, at most 16" in message
    few = pb.Enrollment(identity_id="few", samples=[one] * 16)
    request = pb.EnrollStreamRequest(gallery_id=gallery_id, enrollments=[crowd, few, few, few, few])
    outcomes = stream(stubs, request)[0].outcomes
    assert [reason_of(outcome.error) for outcome in outcomes] == ["INVALID_INPUT"] + ["NO_EMBEDDER"] * 4
    request.enrollments.add(identity_id="more", samples=[one])
    code, reason, message = refusal(lambda: stream(stubs, request))
    assert (code, reason) == (INVALID, "INVALID_INPUT")
    assert "65 pictures in one message; at most 64" in message


def test_names_that_are_not_there_are_not_found(stubs: Stubs, gallery_id: str) -> None:
    missing = (NOT_FOUND, "GALLERY_NOT_FOUND")
    assert refusal(lambda: enroll(stubs, "nothing", draft("a", ONE)))[:2] == missing
    request = pb.EnrollStreamRequest(gallery_id="nothing", enrollments=[draft("a", ONE)])
    assert refusal(lambda: stream(stubs, request))[:2] == missing
    nobody = (NOT_FOUND, "IDENTITY_NOT_FOUND")
    where: dict[str, Any] = {"gallery_id": gallery_id, "identity_id": "nobody"}
    service = stubs.enrollment
    assert refusal(lambda: service.GetIdentity(pb.GetIdentityRequest(**where)))[:2] == nobody
    assert refusal(lambda: service.UpdateIdentity(pb.UpdateIdentityRequest(**where)))[:2] == nobody
    assert refusal(lambda: service.RemoveIdentity(pb.RemoveIdentityRequest(**where)))[:2] == nobody
    assert refusal(lambda: service.RemoveTemplate(pb.RemoveTemplateRequest(**where)))[:2] == nobody
    enroll(stubs, gallery_id, draft("a", ONE))
    wrong = pb.RemoveTemplateRequest(gallery_id=gallery_id, identity_id="a", template_id=99)
    assert refusal(lambda: service.RemoveTemplate(wrong))[:2] == (NOT_FOUND, "TEMPLATE_NOT_FOUND")


def test_a_repeated_request_gets_the_first_answer_and_another_body_is_refused(
    stubs: Stubs, gallery_id: str
) -> None:
    other = unit(np.random.default_rng(4))
    first = enroll(stubs, gallery_id, draft("a", ONE), "r1")
    assert enroll(stubs, gallery_id, draft("a", ONE), "r1") == first
    again = enroll(stubs, gallery_id, draft("a", ONE), "r2")
    assert (again.num_added, again.num_ignored) == (0, 1)
    assert again.templates == first.templates
    reused = refusal(lambda: enroll(stubs, gallery_id, draft("a", other), "r1"))
    assert reused[:2] == (INVALID, "REQUEST_ID_REUSED")
    # What was refused left no answer: the same id may be used for the corrected request.
    assert refusal(lambda: enroll(stubs, gallery_id, draft("", ONE), "r3"))[:2] == (INVALID, "INVALID_ID")
    assert enroll(stubs, gallery_id, draft("b", other), "r3").num_added == 1


def test_every_kind_of_write_can_be_retried(stubs: Stubs, gallery_id: str) -> None:
    rng = np.random.default_rng(5)
    template_id = enroll(stubs, gallery_id, draft("a", ONE, unit(rng))).templates[0].template_id
    for name in ("b", "c", "d"):
        enroll(stubs, gallery_id, draft(name, unit(rng)))
    service = stubs.enrollment
    where: dict[str, Any] = {"gallery_id": gallery_id, "request_id": "once"}
    update = pb.UpdateIdentityRequest(identity_id="a", attributes={"k": "v"}, **where)
    template = pb.RemoveTemplateRequest(identity_id="a", template_id=template_id, **where)
    identity = pb.RemoveIdentityRequest(identity_id="a", **where)
    batch = pb.BatchRemoveRequest(identity_ids=["b", "c", "nobody"], **where)
    message = pb.EnrollStreamRequest(enrollments=[draft("e", ONE), draft("", ONE)], **where)
    for call, request in (
        (service.UpdateIdentity, update),
        (service.RemoveTemplate, template),
        (service.RemoveIdentity, identity),
        (service.BatchRemove, batch),
        (lambda request: stream(stubs, request)[0], message),
    ):
        assert call(request) == call(request)
    assert listed(stubs, gallery_id) == ["d", "e"]
    assert list(service.BatchRemove(batch).not_found_identity_ids) == ["nobody"]


def test_a_bad_id_is_found_before_its_picture_is_looked_at(stubs: Stubs, gallery_id: str) -> None:
    """A server without a network would refuse the picture."""
    bad = pb.Enrollment(identity_id=" ada", samples=[pb.Sample(picture=types_pb2.Picture(data=b"jpeg"))])
    late = pb.Enrollment(identity_id="ada", samples=bad.samples)
    late.expire_time.FromSeconds(-5)
    (answer,) = stream(stubs, pb.EnrollStreamRequest(gallery_id=gallery_id, enrollments=[bad, late]))
    assert [reason_of(outcome.error) for outcome in answer.outcomes] == ["INVALID_ID", "INVALID_INPUT"]
    assert answer.outcomes[0].error.message.startswith("enrollments[0]: identity_id ' ada'")


def test_items_of_a_stream_share_a_commit_but_not_a_fate(stubs: Stubs, gallery_id: str) -> None:
    rng = np.random.default_rng(6)
    good, bad = draft("good", unit(rng)), draft("bad", np.zeros(128, np.float32))
    many = draft("many", *(unit(rng) for _ in range(17)))
    policy = draft("policy", unit(rng))
    policy.evict = 7  # type: ignore[assignment]
    request = pb.EnrollStreamRequest(
        gallery_id=gallery_id, enrollments=[good, bad, many, policy, draft("", unit(rng)), draft("empty")]
    )
    answers = stream(stubs, request, pb.EnrollStreamRequest(enrollments=[draft("later", unit(rng))]))
    kinds = [outcome.WhichOneof("outcome") for outcome in answers[0].outcomes]
    assert kinds == ["enrolled", "error", "error", "error", "error", "enrolled"]
    reasons = [reason_of(outcome.error) for outcome in answers[0].outcomes[1:5]]
    assert reasons == ["INVALID_VECTOR", "INVALID_INPUT", "INVALID_INPUT", "INVALID_ID"]
    for item in range(1, 5):
        assert answers[0].outcomes[item].error.message.startswith(f"enrollments[{item}]")
    assert (answers[0].receipt.sequence, answers[1].receipt.sequence) == (1, 2)
    assert answers[0].receipt.durability == types_pb2.DURABILITY_SYNCED
    assert listed(stubs, gallery_id) == ["empty", "good", "later"]


def test_a_message_where_all_fails_is_answered_without_a_receipt(stubs: Stubs, gallery_id: str) -> None:
    answer = stream(stubs, pb.EnrollStreamRequest(gallery_id=gallery_id, enrollments=[draft("", ONE)]))[0]
    assert not answer.receipt.sequence
    assert reason_of(answer.outcomes[0].error) == "INVALID_ID"


def test_messages_that_break_the_stream_end_it_after_what_was_answered(stubs: Stubs, gallery_id: str) -> None:
    fine = pb.EnrollStreamRequest(gallery_id=gallery_id, enrollments=[draft("a", ONE)])
    crowd = [draft(str(number)) for number in range(257)]
    another = make_gallery(stubs)
    for wrong in (
        pb.EnrollStreamRequest(),
        pb.EnrollStreamRequest(enrollments=crowd),
        pb.EnrollStreamRequest(gallery_id=another, enrollments=[draft("a", ONE)]),
    ):
        answers = stubs.enrollment.EnrollStream(iter([fine, wrong, fine]))
        assert next(answers).outcomes[0].WhichOneof("outcome") == "enrolled"
        assert refusal(lambda answers=answers: next(answers))[:2] == (INVALID, "INVALID_INPUT")  # type: ignore[misc]
    assert list(stubs.enrollment.EnrollStream(iter(()))) == []


def test_templates_beyond_the_limit_need_a_policy(stubs: Stubs, gallery_id: str) -> None:
    rng = np.random.default_rng(7)
    enroll(stubs, gallery_id, draft("a", *(unit(rng) for _ in range(16))))
    assert refusal(lambda: enroll(stubs, gallery_id, draft("a", ONE)))[:2] == (PRECONDITION, "TEMPLATE_LIMIT")
    evicting = draft("a", evict=pb.EVICT_POLICY_LOWEST_QUALITY)
    evicting.samples.add(vector=as_message(ONE), quality=0.9)
    answer = enroll(stubs, gallery_id, evicting)
    assert (answer.num_added, answer.num_evicted) == (1, 1)
    replaced = enroll(stubs, gallery_id, draft("a", ONE, replace=True))
    assert (replaced.num_added, replaced.num_ignored) == (0, 1)
    request = pb.GetIdentityRequest(gallery_id=gallery_id, identity_id="a")
    assert len(stubs.enrollment.GetIdentity(request).identity.templates) == 1


def test_a_digest_of_another_contract_is_refused(stubs: Stubs, gallery_id: str) -> None:
    wrong = pb.EnrollRequest(gallery_id=gallery_id, enrollment=draft("a", ONE), contract_digest="0" * 64)
    assert refusal(lambda: stubs.enrollment.Enroll(wrong))[:2] == (PRECONDITION, "CONTRACT_MISMATCH")
    message = pb.EnrollStreamRequest(
        gallery_id=gallery_id, enrollments=[draft("a", ONE)], contract_digest="0" * 64
    )
    assert refusal(lambda: stream(stubs, message))[:2] == (PRECONDITION, "CONTRACT_MISMATCH")


def test_a_picture_needs_a_network(stubs: Stubs, gallery_id: str) -> None:
    picture = pb.Enrollment(
        identity_id="a", samples=[pb.Sample(picture=types_pb2.Picture(data=b"\xff\xd8\xff"))]
    )
    assert refusal(lambda: enroll(stubs, gallery_id, picture))[:2] == (PRECONDITION, "NO_EMBEDDER")
    outcome = stream(
        stubs, pb.EnrollStreamRequest(gallery_id=gallery_id, enrollments=[picture, draft("b", ONE)])
    )[0].outcomes
    assert reason_of(outcome[0].error) == "NO_EMBEDDER"
    assert outcome[1].WhichOneof("outcome") == "enrolled"


def test_attributes_and_expiry_are_changed(stubs: Stubs, gallery_id: str) -> None:
    enroll(stubs, gallery_id, draft("a", ONE, attributes={"role": "guest", "floor": "2"}))
    request = pb.UpdateIdentityRequest(
        gallery_id=gallery_id, identity_id="a", attributes={"role": "host"}, remove_attributes=["floor"]
    )
    request.expire_time.FromSeconds(4_000_000_000)
    answer = stubs.enrollment.UpdateIdentity(request)
    assert dict(answer.identity.attributes) == {"role": "host"}
    assert answer.identity.expire_time.seconds == 4_000_000_000
    assert answer.receipt.sequence == 2
    request.clear_expire_time = True
    assert refusal(lambda: stubs.enrollment.UpdateIdentity(request))[:2] == (INVALID, "INVALID_INPUT")
    request.ClearField("expire_time")
    assert not stubs.enrollment.UpdateIdentity(request).identity.HasField("expire_time")
    request.expire_time.seconds = 2**60
    assert refusal(lambda: stubs.enrollment.UpdateIdentity(request))[:2] == (INVALID, "INVALID_INPUT")


def test_pages_of_identities_hold_each_once(stubs: Stubs, gallery_id: str) -> None:
    names = [f"{number:03d}" for number in range(25)]
    stream(stubs, pb.EnrollStreamRequest(gallery_id=gallery_id, enrollments=[draft(name) for name in names]))
    seen: list[str] = []
    token = ""
    while True:
        request = pb.ListIdentitiesRequest(gallery_id=gallery_id, page_size=10, page_token=token)
        page = stubs.enrollment.ListIdentities(request)
        seen.extend(identity.identity_id for identity in page.identities)
        token = page.next_page_token
        if not token:
            break
    assert seen == names
    empty = make_gallery(stubs)
    page = stubs.enrollment.ListIdentities(pb.ListIdentitiesRequest(gallery_id=empty))
    assert (list(page.identities), page.next_page_token) == ([], "")


def test_removal_says_how_far_it_went(stubs: Stubs, gallery_id: str) -> None:
    rng = np.random.default_rng(8)
    enroll(stubs, gallery_id, draft("a", unit(rng), unit(rng)))
    request = pb.RemoveIdentityRequest(gallery_id=gallery_id, identity_id="a", erase=True)
    removal = stubs.enrollment.RemoveIdentity(request).removal
    assert (removal.num_identities, removal.num_templates, removal.is_erased) == (1, 2, True)
    for ids in ([], [str(number) for number in range(1001)]):
        wrong = pb.BatchRemoveRequest(gallery_id=gallery_id, identity_ids=ids)
        assert refusal(lambda wrong=wrong: stubs.enrollment.BatchRemove(wrong))[:2] == (  # type: ignore[misc]
            INVALID,
            "INVALID_INPUT",
        )
