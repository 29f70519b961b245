"""What a server withstands: sizes, deadlines, callers that leave, crowds; and what its log never says."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from engine.pb.identiface.v1 import admin_pb2, gallery_pb2, types_pb2
from engine.pb.identiface.v1 import enrollment_pb2 as pb
from engine.pb.identiface.v1 import identification_pb2 as identification
from engine.wire.limits import MESSAGE_SIZE_BYTES_MAX
from tests.e2e.conftest import Launch, Stubs, as_message, make_gallery, refusal, unit

pytestmark = pytest.mark.e2e
ANSWER_S = 60.0
ONE = unit(np.random.default_rng(1))


def draft(identity_id: str, **fields: Any) -> pb.Enrollment:
    return pb.Enrollment(identity_id=identity_id, samples=[pb.Sample(vector=as_message(ONE))], **fields)


def listed(stubs: Stubs, gallery_id: str) -> list[str]:
    request = pb.ListIdentitiesRequest(gallery_id=gallery_id, page_size=1000)
    return [identity.identity_id for identity in stubs.enrollment.ListIdentities(request).identities]


def test_a_message_over_the_limit_is_refused_and_the_server_stays(stubs: Stubs, gallery_id: str) -> None:
    picture = types_pb2.Picture(data=bytes(MESSAGE_SIZE_BYTES_MAX))
    enrollment = pb.Enrollment(identity_id="a", samples=[pb.Sample(picture=picture)])
    with pytest.raises(grpc.RpcError) as caught:
        stubs.enrollment.Enroll(pb.EnrollRequest(gallery_id=gallery_id, enrollment=enrollment))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert listed(stubs, gallery_id) == []


def test_bytes_that_are_no_message_are_refused(stubs: Stubs) -> None:
    channel: Any = stubs.channel
    for method in ("EnrollmentService/Enroll", "IdentificationService/Identify"):
        call = channel.unary_unary(f"/identiface.v1.{method}")
        code, reason, _ = refusal(lambda call=call: call(b"\xff\xff\xff\xff"))  # type: ignore[misc]
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    stream = channel.stream_stream("/identiface.v1.EnrollmentService/EnrollStream")
    assert refusal(lambda: next(stream(iter([b"\xff\xff\xff\xff"]))))[1] == "INVALID_INPUT"


def test_a_method_that_is_not_there_is_unimplemented(stubs: Stubs) -> None:
    channel: Any = stubs.channel
    call = channel.unary_unary("/identiface.v1.GalleryService/Nothing")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def slow_request() -> identification.BatchIdentifyRequest:
    """A call that takes a while."""
    rng = np.random.default_rng(3)
    probes = [identification.Probe(vector=as_message(unit(rng))) for _ in range(256)]
    return identification.BatchIdentifyRequest(
        gallery_id="slow", probes=probes, options=identification.SearchOptions(k=100)
    )


def make_slow_gallery(stubs: Stubs) -> None:
    make_gallery(stubs, gallery_id="slow")
    enrollments = [draft(f"{number}") for number in range(256)]
    list(
        stubs.enrollment.EnrollStream(
            iter([pb.EnrollStreamRequest(gallery_id="slow", enrollments=enrollments)])
        )
    )


def test_a_write_whose_deadline_is_past_is_not_made(stubs: Stubs, gallery_id: str) -> None:
    request = pb.EnrollRequest(gallery_id=gallery_id, enrollment=draft("late"))
    for timeout_s in (0, -1):
        with pytest.raises(grpc.RpcError) as caught:
            stubs.enrollment.Enroll(request, timeout=timeout_s)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert listed(stubs, gallery_id) == []


def test_a_write_whose_deadline_passes_in_the_queue_is_not_made(
    launch: Launch, slow_request: identification.BatchIdentifyRequest
) -> None:
    server = launch("--model", "none", settings="threads = 1").ready()
    with server.stubs() as stubs:
        make_slow_gallery(stubs)
        gallery_id = make_gallery(stubs)
        ahead = [stubs.identification.BatchIdentify.future(slow_request) for _ in range(3)]
        request = pb.EnrollRequest(gallery_id=gallery_id, enrollment=draft("late"))
        with pytest.raises(grpc.RpcError) as caught:
            stubs.enrollment.Enroll(request, timeout=0.01)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert [call.code() for call in ahead] == [grpc.StatusCode.OK] * 3
        assert listed(stubs, gallery_id) == []
    server.stop()


def test_a_caller_gone_in_mid_stream_leaves_what_was_answered(launch: Launch) -> None:
    """Callers cancel, or their connection is cut, between two messages of their stream."""
    server = launch("--model", "none").ready()
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs)
        for number in range(10):
            gone = server.stubs()
            more = threading.Event()

            def messages(number: int = number, more: threading.Event = more) -> Iterator[Any]:
                yield pb.EnrollStreamRequest(gallery_id=gallery_id, enrollments=[draft(f"{number}")])
                more.wait(ANSWER_S)

            stream = gone.enrollment.EnrollStream(messages())
            assert next(stream).outcomes[0].enrolled.num_added == 1
            if number % 2:
                stream.cancel()
            gone.channel.close()
            more.set()
        assert listed(stubs, gallery_id) == [str(number) for number in range(10)]
    server.stop()
    codes = [line["code"] for line in server.requests if line["rpc"].endswith("EnrollStream")]
    # A stream that is cancelled while it waits may look ended for a moment.
    assert len(codes) == 10
    assert set(codes) <= {"CANCELLED", "OK"}


def test_streams_over_the_cap_are_refused_with_a_time_to_retry(launch: Launch) -> None:
    server = launch("--model", "none", settings="streams_max = 3\nthreads = 1").ready()
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs)
        ended = threading.Event()

        def silence() -> Iterator[Any]:
            yield pb.EnrollStreamRequest(gallery_id=gallery_id, enrollments=[draft("a")])
            ended.wait(ANSWER_S)

        streams = [stubs.enrollment.EnrollStream(silence()) for _ in range(3)]
        for stream in streams:
            next(stream)
        with pytest.raises(grpc.RpcError) as caught:
            next(stubs.enrollment.EnrollStream(silence()))
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = rpc_status.from_call(error).details
        info, retry = ErrorInfo(), RetryInfo()
        assert details[0].Unpack(info)
        assert details[1].Unpack(retry)
        assert (info.reason, info.domain) == ("OVERLOADED", "identiface")
        assert 0 < retry.retry_delay.ToNanoseconds() < 10e9
        # Idle streams take no thread from unary calls and health checks.
        assert listed(stubs, gallery_id) == ["a"]
        assert stubs.health.Check(health_pb2.HealthCheckRequest()).status == 1
        ended.set()
        for stream in streams:
            assert list(stream) == []
        assert len(list(stubs.enrollment.EnrollStream(silence()))) == 1
    server.stop()


def test_calls_over_the_queue_are_refused_and_the_others_answered(
    launch: Launch, slow_request: identification.BatchIdentifyRequest
) -> None:
    server = launch("--model", "none", settings="threads = 1\nunary_queue_max = 1").ready()
    with server.stubs() as stubs:
        make_slow_gallery(stubs)
        calls = [stubs.identification.BatchIdentify.future(slow_request, timeout=ANSWER_S) for _ in range(30)]
        codes = [call.code() for call in calls]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    server.stop()
    reasons = {line.get("reason") for line in server.requests if line["code"] == "RESOURCE_EXHAUSTED"}
    assert reasons == {"OVERLOADED"}


def test_the_log_says_what_was_asked_but_never_whom_or_what_it_held(launch: Launch) -> None:
    server = launch("--model", "none").ready()
    marker = "Zaphod-Beeblebrox"
    with server.stubs() as stubs:
        make_gallery(stubs, gallery_id="spoken-of")
        enrollment = draft(marker, attributes={f"{marker}-key": f"{marker}-value"})
        enrollment.samples[0].source = f"{marker}.jpg"
        service = stubs.enrollment
        where: dict[str, Any] = {"gallery_id": "spoken-of", "identity_id": marker}
        service.Enroll(
            pb.EnrollRequest(gallery_id="spoken-of", enrollment=enrollment, request_id="request 7")
        )
        list(
            service.EnrollStream(
                iter([pb.EnrollStreamRequest(gallery_id="spoken-of", enrollments=[enrollment] * 2)])
            )
        )
        service.GetIdentity(pb.GetIdentityRequest(**where))
        probe = identification.Probe(vector=as_message(ONE))
        stubs.identification.Verify(identification.VerifyRequest(probe=probe, **where))
        service.RemoveIdentity(pb.RemoveIdentityRequest(**where))
        for refused in (
            lambda: service.GetIdentity(pb.GetIdentityRequest(**where)),
            lambda: service.Enroll(pb.EnrollRequest(gallery_id="spoken-of", enrollment=draft(f"{marker}\n"))),
            lambda: service.GetIdentity(pb.GetIdentityRequest(gallery_id=marker, identity_id=marker)),
        ):
            refusal(refused)
    server.stop()
    assert marker.lower() not in server.output.lower()
    lines = {line["rpc"]: line for line in server.requests if line["code"] == "OK"}
    one = lines["EnrollmentService/Enroll"]
    assert (one["gallery"], one["request_id"], one["num_items"]) == ("spoken-of", "request 7", 1)
    assert one["peer"].startswith("ipv4:127.0.0.1:")
    assert one["latency_ms"] >= one["stages_ms"]["store"] > 0
    assert one["request_size_bytes"] > 512 > one["response_size_bytes"] > 0
    many = lines["EnrollmentService/EnrollStream"]
    assert (many["num_messages"], many["num_items"]) == (1, 2)
    refused_lines = [line for line in server.requests if line["code"] != "OK"]
    assert [line["reason"] for line in refused_lines] == [
        "IDENTITY_NOT_FOUND",
        "INVALID_ID",
        "GALLERY_NOT_FOUND",
    ]


def test_metrics_are_served_where_that_was_asked_for(launch: Launch) -> None:
    server = launch("--model", "none", "--metrics-listen", "127.0.0.1:0")
    address = server.wait_for("metrics")["listen"]
    server.ready()
    with server.stubs() as stubs:
        make_gallery(stubs, gallery_id="counted")
        stubs.enrollment.Enroll(pb.EnrollRequest(gallery_id="counted", enrollment=draft("a")))
        stubs.admin.Status(admin_pb2.StatusRequest())
        refusal(lambda: stubs.galleries.GetGallery(gallery_pb2.GetGalleryRequest(gallery_id="no")))
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=ANSWER_S) as answer:
        text = answer.read().decode()
    for line in (
        'identiface_requests_total{code="OK",rpc="EnrollmentService/Enroll"} 1.0',
        'identiface_requests_total{code="NOT_FOUND",rpc="GalleryService/GetGallery"} 1.0',
        'identiface_request_latency_seconds_count{rpc="AdminService/Status"} 1.0',
        "identiface_requests_in_flight 0.0",
        "identiface_streams_open 0.0",
        'identiface_device_info{device="none",model="none"} 1.0',
        'identiface_gallery_templates{gallery="counted"} 1.0',
        'identiface_gallery_identities{gallery="counted"} 1.0',
    ):
        assert line in text.splitlines()
    server.stop()
    assert json.loads(server.lines[-1])["event"] == "stopped"
