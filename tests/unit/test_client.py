"""The client against real gRPC servers on port 0 that answer what each test says."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status

from engine.client import Client, EnrollItem, EnrollOptions, FaceEnrollResult, Picture, Sample
from engine.client.channels import _RETRIED, ATTEMPTS_MAX, ChannelPool
from engine.client.streams import MESSAGE_ITEMS_SIZE_BYTES_MAX, batches
from engine.errors import (
    DeadlineError,
    EngineError,
    ExhaustedError,
    GalleryNotFoundError,
    InvalidInputError,
    InvalidVectorError,
    NotImplementedYetError,
    UnavailableError,
    UndecodablePictureError,
)
from engine.pb.identiface.v1 import (
    admin_pb2,
    embedding_pb2,
    enrollment_pb2,
    gallery_pb2,
    identification_pb2,
    types_pb2,
)
from engine.pb.identiface.v1.admin_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server
from engine.pb.identiface.v1.enrollment_pb2_grpc import (
    EnrollmentServiceServicer,
    add_EnrollmentServiceServicer_to_server,
)
from engine.pb.identiface.v1.gallery_pb2_grpc import (
    GalleryServiceServicer,
    add_GalleryServiceServicer_to_server,
)
from engine.pb.identiface.v1.identification_pb2_grpc import (
    IdentificationServiceServicer,
    add_IdentificationServiceServicer_to_server,
)
from engine.types import FaceChoice, Template
from engine.wire import MESSAGE_SIZE_BYTES_MAX, to_status
from engine.wire.answers import pack_receipt

UNIT = np.array([0.6, 0.8], np.float32)
Start = Callable[..., str]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers of the given servicers; returns the address."""
    servers: list[grpc.Server] = []

    def start(*servicers: Any, concurrent_max: int | None = None) -> str:
        server = grpc.server(
            futures.ThreadPoolExecutor(8),
            maximum_concurrent_rpcs=concurrent_max,
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_SIZE_BYTES_MAX)],
        )
        for servicer in servicers:
            for kind, add in _ADDERS.items():
                if isinstance(servicer, kind):
                    add(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


_ADDERS: dict[type, Callable[[Any, grpc.Server], None]] = {
    AdminServiceServicer: add_AdminServiceServicer_to_server,
    EnrollmentServiceServicer: add_EnrollmentServiceServicer_to_server,
    GalleryServiceServicer: add_GalleryServiceServicer_to_server,
    IdentificationServiceServicer: add_IdentificationServiceServicer_to_server,
}


class Blocked(AdminServiceServicer):
    """Answers once it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.peers: list[str] = []

    def Status(self, request: admin_pb2.StatusRequest, context: grpc.ServicerContext) -> Any:
        self.peers.append(context.peer())
        self.entered.release()
        self.let_go.wait(60)
        return admin_pb2.StatusResponse(version="1", device="none")


class Failing(GalleryServiceServicer):
    """Fails with the errors given, in turn, then answers."""

    def __init__(self, *errors: EngineError):
        self.errors = list(errors)
        self.requests: list[Any] = []

    def GetGallery(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self._fail(context)
        return gallery_pb2.GetGalleryResponse(
            gallery=gallery_pb2.Gallery(gallery_id="staff", aliases=["all"])
        )

    def DeleteGallery(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self._fail(context)
        return gallery_pb2.DeleteGalleryResponse()

    def ListGalleries(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request.page_token)
        last = "c" if request.page_token else ""
        ids = ["c"] if last else ["a", "b"]
        galleries = [gallery_pb2.Gallery(gallery_id=gallery_id) for gallery_id in ids]
        return gallery_pb2.ListGalleriesResponse(galleries=galleries, next_page_token="" if last else "page2")

    def _fail(self, context: grpc.ServicerContext) -> None:
        if self.errors:
            context.abort_with_status(rpc_status.to_status(to_status(self.errors.pop(0))))


class Enrolling(EnrollmentServiceServicer):
    """Answers every item with its number of samples; an item named "bad" with an error."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Enroll(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return enrollment_pb2.EnrollResponse(
            receipt=pack_receipt(7), num_added=len(request.enrollment.samples)
        )

    def EnrollStream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for sequence, request in enumerate(requests, start=1):
            self.requests.append(request)
            if request.gallery_id == "gone":
                context.abort_with_status(
                    rpc_status.to_status(to_status(GalleryNotFoundError("no gallery gone")))
                )
            answer = enrollment_pb2.EnrollStreamResponse(receipt=pack_receipt(sequence))
            for item in request.enrollments:
                if item.identity_id == "bad":
                    answer.outcomes.add(error=to_status(UndecodablePictureError("no picture")))
                else:
                    enrolled = enrollment_pb2.EnrollResponse(
                        receipt=pack_receipt(sequence), num_added=len(item.samples)
                    )
                    answer.outcomes.add(enrolled=enrolled)
            yield answer


class Identifying(IdentificationServiceServicer):
    """Answers each probe with one candidate, named after its bytes; remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Identify(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return _identified(request.probe)

    def IdentifyStream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            self.requests.append(request)
            outcomes = [
                identification_pb2.IdentifyOutcome(identified=_identified(probe)) for probe in request.probes
            ]
            yield identification_pb2.IdentifyStreamResponse(outcomes=outcomes)

    def Verify(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return identification_pb2.VerifyResponse(
            decision=types_pb2.DECISION_NO_MATCH,
            similarity=0.25,
            threshold=0.5,
            threshold_origin=types_pb2.THRESHOLD_ORIGIN_REQUEST,
        )


def _identified(probe: Any) -> Any:
    name = probe.picture.data.decode() if probe.WhichOneof("content") == "picture" else "vector"
    face = identification_pb2.FaceIdentification(
        decision=types_pb2.DECISION_MATCH,
        candidates=[types_pb2.Candidate(identity_id=name, similarity=0.5, template_id=1)],
        threshold_origin=types_pb2.THRESHOLD_ORIGIN_CONTRACT,
    )
    return identification_pb2.IdentifyResponse(faces=[face])


def test_an_error_of_the_server_is_raised_as_the_same_class(start: Start) -> None:
    address = start(Failing(GalleryNotFoundError("no gallery x", hint="look again")))
    with Client(address) as client, pytest.raises(GalleryNotFoundError) as raised:
        client.get_gallery("x")
    assert (raised.value.message, raised.value.hint) == ("no gallery x", "look again")


def test_an_unavailable_server_is_asked_again_with_the_same_request_id(start: Start) -> None:
    failing = Failing(UnavailableError("starting"), UnavailableError("starting"))
    with Client(start(failing)) as client:
        client.delete_gallery("staff")
        client.delete_gallery("staff")
    ids = [request.request_id for request in failing.requests]
    assert len(ids) == 4
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in ids)


def test_the_last_of_the_allowed_attempts_is_the_answer(start: Start) -> None:
    failing = Failing(*[UnavailableError("starting") for _ in range(ATTEMPTS_MAX + 1)])
    with Client(start(failing)) as client, pytest.raises(UnavailableError, match="starting"):
        client.get_gallery("staff")
    assert len(failing.requests) == ATTEMPTS_MAX


def test_what_cannot_work_is_not_tried_again(start: Start) -> None:
    failing = Failing(ExhaustedError("full"), ExhaustedError("full"))
    with Client(start(failing)) as client, pytest.raises(ExhaustedError):
        client.get_gallery("staff")
    assert len(failing.requests) == 1


def test_every_unary_rpc_but_the_streams_is_named_for_retries() -> None:
    files = (gallery_pb2, enrollment_pb2, identification_pb2, embedding_pb2, admin_pb2)
    unary = {
        (service.name, method.name)
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not method.client_streaming and not method.server_streaming
    }
    assert {(service, method) for service, methods in _RETRIED.items() for method in methods} == unary


def test_nobody_listening_is_said_in_a_sentence() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(UnavailableError) as raised:
        client.status()
    assert raised.value.message == "no server answers at 127.0.0.1:1"
    assert "identiface serve" in raised.value.hint


def test_an_unknown_host_is_said_in_a_sentence() -> None:
    with Client("no-such-host.invalid:7300") as client, pytest.raises(UnavailableError) as raised:
        client.status(timeout_s=20)
    assert raised.value.message == "no server answers at no-such-host.invalid:7300"


def test_a_server_that_does_not_answer_in_time_is_a_deadline_error(start: Start) -> None:
    blocked = Blocked()
    try:
        with Client(start(blocked)) as client, pytest.raises(DeadlineError, match="time allowed"):
            client.status(timeout_s=0.05)
    finally:
        blocked.let_go.set()


def test_a_message_over_the_limit_is_refused_naming_the_limit(start: Start) -> None:
    with Client(start(Identifying())) as client, pytest.raises(InvalidInputError, match="64 MiB"):
        client.identify("staff", bytes(MESSAGE_SIZE_BYTES_MAX + 1))


def test_a_server_that_is_no_identiface_is_named(start: Start) -> None:
    with Client(start()) as client, pytest.raises(NotImplementedYetError, match="does not know this call"):
        client.status()


def test_what_the_transport_refuses_for_load_is_exhausted(start: Start) -> None:
    blocked = Blocked()
    with Client(start(blocked, concurrent_max=1)) as client, futures.ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.status)
        blocked.entered.acquire()
        with pytest.raises(ExhaustedError, match="RESOURCE_EXHAUSTED"):
            client.status()
        blocked.let_go.set()
        assert first.result().contract is None


def test_a_client_closed_in_mid_call_says_so(start: Start) -> None:
    blocked = Blocked()
    client = Client(start(blocked))
    with futures.ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.status)
        blocked.entered.acquire()
        client.close()
        with pytest.raises(UnavailableError, match="cancelled"):
            call.result()
        blocked.let_go.set()
    with pytest.raises(UnavailableError, match="client is closed"):
        client.status()


@pytest.mark.parametrize("num_channels", [1, 3])
def test_calls_at_once_go_over_as_many_connections_as_channels(start: Start, num_channels: int) -> None:
    blocked = Blocked()
    with (
        Client(start(blocked), num_channels=num_channels) as client,
        futures.ThreadPoolExecutor(3) as threads,
    ):
        calls = [threads.submit(client.status) for _ in range(3)]
        for _ in calls:
            blocked.entered.acquire()
        blocked.let_go.set()
        assert {call.result().version for call in calls} == {"1"}
        assert len(set(blocked.peers)) == num_channels
        client.status()
        client.status()
    assert len(set(blocked.peers)) == num_channels


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", ":7300", "a b:1", "http://x:1", "host:port", "::1:7300"]
)
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match="expected HOST:PORT"):
        Client(address)


@pytest.mark.parametrize(
    "address", ["localhost:1", "[::1]:7300", "10.0.0.1:7300", "unix:/tmp/x", "face-server:80"]
)
def test_an_address_of_a_known_form_is_taken(address: str) -> None:
    Client(address).close()


def test_numbers_that_cannot_work_are_refused(start: Start) -> None:
    with pytest.raises(InvalidInputError, match="num_channels"):
        ChannelPool("localhost:1", 0)
    with Client(start(Failing())) as client, pytest.raises(InvalidInputError, match="timeout_s"):
        client.get_gallery("staff", timeout_s=0)


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
        one = client.verify("staff", "ada", UNIT, threshold=0.5)
        client.verify_pair(b"a", b"b", choice=FaceChoice.CENTRE)
    assert [face.candidates[0].identity_id for face in found] == ["ada"]
    assert (one.similarity, one.template_id) == (0.25, None)
    first, second, verify, pair = identifying.requests
    assert (first.options.k, first.options.threshold, first.options.HasField("threshold")) == (3, 0.0, True)
    assert (first.probe.picture.face_choice, first.probe.picture.min_face_px) == (
        types_pb2.FACE_CHOICE_ALL,
        20,
    )
    assert not second.options.HasField("threshold")
    assert (verify.identity_id, verify.threshold) == ("ada", 0.5)
    assert pair.WhichOneof("claim") == "reference"
    assert pair.reference.picture.face_choice == types_pb2.FACE_CHOICE_CENTRE


def test_an_empty_stream_is_a_stream(start: Start) -> None:
    with Client(start(Enrolling(), Identifying())) as client:
        assert list(client.enroll_stream("staff", [])) == []
        assert list(client.identify_stream("staff", [])) == []


def test_a_stream_answers_each_item_in_order_in_messages_of_bounded_items(start: Start) -> None:
    enrolling = Enrolling()
    items = [
        EnrollItem("bad" if number == 4 else f"p{number}", [UNIT] * (number % 3)) for number in range(10)
    ]
    with Client(start(enrolling)) as client:
        answers = list(client.enroll_stream("staff", iter(items), items_per_message=4))
    assert [identity_id for identity_id, _ in answers] == [item.identity_id for item in items]
    assert [len(request.enrollments) for request in enrolling.requests] == [4, 4, 2]
    assert len({request.request_id for request in enrolling.requests}) == 3
    for number, (identity_id, outcome) in enumerate(answers):
        if number == 4:
            assert isinstance(outcome, UndecodablePictureError)
        else:
            assert isinstance(outcome, FaceEnrollResult)
            assert (outcome.identity_id, outcome.num_added) == (identity_id, number % 3)


def test_a_stream_that_the_server_ends_raises_its_error(start: Start) -> None:
    with Client(start(Enrolling())) as client, pytest.raises(GalleryNotFoundError):
        list(client.enroll_stream("gone", [EnrollItem("ada", [UNIT])]))


def test_an_error_in_the_callers_iterator_is_raised_after_what_was_sent_is_answered(start: Start) -> None:
    def items() -> Iterator[EnrollItem]:
        yield EnrollItem("ada", [UNIT])
        yield EnrollItem("eve", [np.zeros((2, 2), np.float32)])

    answered = []
    with Client(start(Enrolling())) as client, pytest.raises(InvalidVectorError):  # noqa: PT012
        for identity_id, _ in client.enroll_stream("staff", items(), items_per_message=1):
            answered.append(identity_id)
    assert answered == ["ada"]


def test_a_live_stream_is_answered_probe_by_probe(start: Start) -> None:
    turn = threading.Semaphore(1)

    def frames() -> Iterator[bytes]:
        for number in range(5):
            # The next frame exists only once the one before was answered.
            turn.acquire()
            yield str(number).encode()

    names = []
    with Client(start(Identifying())) as client:
        for faces in client.identify_stream("staff", frames(), timeout_s=30):
            assert not isinstance(faces, EngineError)
            names.append(faces[0].candidates[0].identity_id)
            turn.release()
    assert names == ["0", "1", "2", "3", "4"]


def test_a_stream_may_be_left_half_way(start: Start) -> None:
    def endless() -> Iterator[EnrollItem]:
        number = 0
        while True:
            yield EnrollItem(f"p{number}")
            number += 1

    with Client(start(Enrolling()), num_channels=1) as client:
        stream = client.enroll_stream("staff", endless(), items_per_message=1)
        assert next(stream)[0] == "p0"
        assert next(stream)[0] == "p1"
        stream.close()  # type: ignore[attr-defined]
        assert client.enroll("staff", "ada").sequence == 7


def test_batches_hold_at_most_so_many_items_and_bytes() -> None:
    small = types_pb2.Picture(data=b"x")
    half = types_pb2.Picture(data=bytes(MESSAGE_ITEMS_SIZE_BYTES_MAX // 2))
    large = types_pb2.Picture(data=bytes(MESSAGE_ITEMS_SIZE_BYTES_MAX + 1))
    assert list(batches([], 3)) == []
    assert [len(batch) for batch in batches([small] * 7, 3)] == [3, 3, 1]
    assert [len(batch) for batch in batches([small] * 6, 3)] == [3, 3]
    assert [len(batch) for batch in batches([half, half, small], 9)] == [1, 2]
    assert [len(batch) for batch in batches([small, large, small], 9)] == [1, 1, 1]


def test_the_retry_policy_is_json_that_grpc_takes() -> None:
    from engine.client.channels import _service_config

    policy = json.loads(_service_config())["methodConfig"][0]["retryPolicy"]
    assert policy["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert policy["initialBackoff"] == "0.1s"
