"""Callers that leave or come too late: what they asked for is done whole or not at all."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from engine.pb.identiface.v1 import enrollment_pb2 as pb
from tests.e2e.conftest import Launch, Stubs, as_message, make_gallery, unit

pytestmark = pytest.mark.e2e
ANSWER_S = 60.0
NUM_CALLERS = 10
NUM_ITEMS = 256
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS, ACK = 1, 4, 1
VECTOR = as_message(unit(np.random.default_rng(1)))


def drafts(prefix: str) -> list[pb.Enrollment]:
    return [
        pb.Enrollment(identity_id=f"{prefix}-{item}", samples=[pb.Sample(vector=VECTOR)])
        for item in range(NUM_ITEMS)
    ]


def listed(stubs: Stubs, gallery_id: str) -> list[str]:
    names: list[str] = []
    request = pb.ListIdentitiesRequest(gallery_id=gallery_id, page_size=1000)
    while True:
        page = stubs.enrollment.ListIdentities(request)
        names.extend(identity.identity_id for identity in page.identities)
        if not page.next_page_token:
            return names
        request.page_token = page.next_page_token


def test_a_caller_gone_while_its_message_is_applied_leaves_all_of_it_or_nothing(launch: Launch) -> None:
    server = launch("--model", "none").ready()
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs)
        requests = [
            pb.EnrollStreamRequest(
                gallery_id=gallery_id, enrollments=drafts(str(caller)), request_id=f"request {caller}"
            )
            for caller in range(NUM_CALLERS)
        ]
        for caller, request in enumerate(requests):
            gone = server.stubs()
            is_sent = threading.Event()

            def messages(request: Any = request, is_sent: threading.Event = is_sent) -> Iterator[Any]:
                yield request
                # gRPC asks for the next message once this one is on its way: the server is at it now.
                is_sent.set()

            stream = gone.enrollment.EnrollStream(messages())
            assert is_sent.wait(ANSWER_S)
            if caller % 2:
                stream.cancel()
            gone.channel.close()
        # A retry either finds the first answer or makes the write now; both say that all are new.
        for request in requests:
            (answer,) = stubs.enrollment.EnrollStream(iter([request]))
            assert all(outcome.enrolled.is_new_identity for outcome in answer.outcomes)
            assert len(answer.outcomes) == NUM_ITEMS
        names = listed(stubs, gallery_id)
    assert sorted(names) == sorted(f"{caller}-{item}" for caller in range(10) for item in range(NUM_ITEMS))
    server.stop()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name: str, value: str) -> bytes:
    """A header field that is not indexed (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def send_raw(address: str, method: str, timeout: str, message: bytes) -> None:
    """Call a method as a client that does not watch its own deadline; returns when it has its answer."""
    host, port = address.split(":")
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": address,
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": timeout,
    }
    block = b"".join(itertools.starmap(header, fields.items()))
    with (
        socket.create_connection((host, int(port)), ANSWER_S) as connection,
        connection.makefile("rb") as file,
    ):
        connection.sendall(
            PREFACE
            + frame(SETTINGS, 0, 0, b"")
            + frame(HEADERS, END_HEADERS, 1, block)
            + frame(DATA, END_STREAM, 1, struct.pack(">BI", 0, len(message)) + message)
        )
        while head := file.read(9):
            size = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            file.read(size)
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0, b""))
            if stream == 1 and (kind == RST_STREAM or flags & END_STREAM):
                return
    pytest.fail("the server closed the connection without an answer")


@pytest.mark.parametrize("timeout", ["1n", "1u", "100u"])
def test_a_write_whose_deadline_is_past_when_it_arrives_is_not_made(launch: Launch, timeout: str) -> None:
    server = launch("--model", "none").ready()
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs)
        late = pb.EnrollRequest(gallery_id=gallery_id, enrollment=drafts("late")[0])
        method = "/identiface.v1.EnrollmentService/Enroll"
        send_raw(server.address, method, timeout, late.SerializeToString())
        send_raw(server.address, method, f"{ANSWER_S:.0f}S", fresh_request(gallery_id))
        assert listed(stubs, gallery_id) == ["in time"]
    server.stop()
    codes = [line["code"] for line in server.requests if line["rpc"].endswith("/Enroll")]
    # The transport may end the call before the server's own code sees it.
    assert codes[-1] == "OK"
    assert set(codes[:-1]) <= {grpc.StatusCode.DEADLINE_EXCEEDED.name, grpc.StatusCode.CANCELLED.name}


def fresh_request(gallery_id: str) -> bytes:
    enrollment = pb.Enrollment(identity_id="in time", samples=[pb.Sample(vector=VECTOR)])
    return pb.EnrollRequest(gallery_id=gallery_id, enrollment=enrollment).SerializeToString()
