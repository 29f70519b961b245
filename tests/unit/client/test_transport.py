"""Connections, retries and what the transport refuses, against real gRPC servers."""

from __future__ import annotations

import json
import re
import traceback
from concurrent import futures

import grpc
import pytest

from engine.client import Client
from engine.client.channels import ATTEMPTS_MAX, ChannelPool
from engine.errors import (
    DeadlineError,
    ExhaustedError,
    GalleryNotFoundError,
    InvalidInputError,
    NotImplementedYetError,
    UnavailableError,
)
from engine.wire.limits import MESSAGE_SIZE_BYTES_MAX
from tests.unit.client.servicers import Blocked, Failing, Identifying, Start


def test_an_error_of_the_server_is_raised_as_the_same_class(start: Start) -> None:
    address = start(Failing(GalleryNotFoundError("no gallery x", hint="look again")))
    with Client(address) as client, pytest.raises(GalleryNotFoundError) as raised:
        client.get_gallery("x")
    assert (raised.value.message, raised.value.hint) == ("no gallery x", "look again")
    shown = "".join(traceback.format_exception(raised.value))
    assert shown.count("Traceback") == 1
    assert shown.endswith(": no gallery x\nlook again\n")


def test_an_unavailable_server_is_asked_again_with_the_same_request_id(start: Start) -> None:
    failing = Failing(UnavailableError("starting"), UnavailableError("starting"))
    with Client(start(failing)) as client:
        client.delete_gallery("staff")
        client.delete_gallery("staff")
    ids = [request.request_id for request in failing.requests]
    assert len(ids) == 4
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in ids)


class Cancelling(Failing):
    """Cancels its first call, as a server does that is just stopping."""

    def _fail(self, context: grpc.ServicerContext) -> None:
        if len(self.requests) == 1:
            context.abort(grpc.StatusCode.CANCELLED, "stopping")


def test_a_call_that_the_server_cancels_is_made_again(start: Start) -> None:
    cancelling = Cancelling()
    with Client(start(cancelling)) as client:
        client.delete_gallery("staff")
    assert len(cancelling.requests) == 2
    assert cancelling.requests[0] == cancelling.requests[1]


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


def test_the_retry_policy_is_json_that_grpc_takes() -> None:
    from engine.client.channels import _service_config

    policy = json.loads(_service_config())["methodConfig"][0]["retryPolicy"]
    assert policy["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    assert policy["initialBackoff"] == "0.1s"
