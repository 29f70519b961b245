"""Streams: bounded messages, answers in order, errors where they belong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from engine.client import Client, EnrollItem, FaceEnrollResult
from engine.client.channels import _RETRIED
from engine.client.streams import MESSAGE_ITEMS_SIZE_BYTES_MAX, batches
from engine.errors import (
    EngineError,
    GalleryNotFoundError,
    InvalidVectorError,
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
from tests.unit.client.servicers import UNIT, Enrolling, Identifying, Start


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
    assert [len(batch) for batch in batches([small] * 130, 256)] == [64, 64, 2]
    counts = iter([60, 4, 1, 100, 0, 5])
    assert [len(batch) for batch in batches([small] * 6, 256, lambda _: next(counts))] == [2, 1, 1, 2]


def test_messages_of_streams_hold_at_most_64_pictures(start: Start) -> None:
    enrolling, identifying = Enrolling(), Identifying()
    with Client(start(enrolling, identifying)) as client:
        items = [
            EnrollItem(str(number), [b"jpeg"] * 16 if number < 10 else [UNIT] * 16) for number in range(20)
        ]
        list(client.enroll_stream("staff", items))
        list(client.identify_stream("staff", [b"jpeg"] * 70 + [UNIT] * 100, probes_per_message=256))
    assert [len(request.enrollments) for request in enrolling.requests] == [4, 4, 12]
    assert [len(request.probes) for request in identifying.requests] == [64, 106]
