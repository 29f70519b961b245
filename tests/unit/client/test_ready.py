"""Waiting for a server that is starting, against real gRPC servers."""

from __future__ import annotations

import socket
import threading

import pytest
from grpc_health.v1 import health, health_pb2

from engine.client import Client
from engine.errors import DeadlineError, InvalidInputError, NotImplementedYetError, UnavailableError
from tests.unit.client.servicers import Failing, Start

WAIT_S = 30.0
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


def test_a_server_that_serves_is_not_waited_for(start: Start) -> None:
    told: list[int] = []
    with Client(start(health.HealthServicer(), Failing())) as client:
        client.wait_until_ready(WAIT_S, on_wait=lambda: told.append(1))
        assert client.get_gallery("staff").gallery_id == "staff"
    assert told == []


def test_a_server_that_is_starting_is_waited_for_and_that_is_said_once(start: Start) -> None:
    servicer = health.HealthServicer()
    servicer.set(health.OVERALL_HEALTH, NOT_SERVING)
    told: list[int] = []

    def serve() -> None:
        told.append(1)
        # Later than the next look, so that waiting goes on after it was said.
        threading.Timer(0.25, lambda: servicer.set(health.OVERALL_HEALTH, SERVING)).start()

    with Client(start(servicer)) as client:
        client.wait_until_ready(WAIT_S, on_wait=serve)
    assert told == [1]


def test_a_server_that_does_not_listen_yet_is_waited_for(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    def listen() -> None:
        start(health.HealthServicer(), port=port)

    with Client(f"127.0.0.1:{port}") as client:
        client.wait_until_ready(WAIT_S, on_wait=listen)


def test_a_server_that_never_serves_is_unavailable_when_the_time_is_over(start: Start) -> None:
    servicer = health.HealthServicer()
    servicer.set(health.OVERALL_HEALTH, NOT_SERVING)
    with Client(start(servicer)) as client, pytest.raises(UnavailableError, match="starting or stopping"):
        client.wait_until_ready(0.3)
    with Client("127.0.0.1:1") as client, pytest.raises(UnavailableError, match="no server answers"):
        client.wait_until_ready(0.3)


def test_a_server_that_is_silent_is_a_deadline_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(address) as client, pytest.raises((DeadlineError, UnavailableError)):
            client.wait_until_ready(0.3)


def test_a_server_of_another_kind_is_not_waited_for(start: Start) -> None:
    with Client(start(Failing())) as client, pytest.raises(NotImplementedYetError):
        client.wait_until_ready(WAIT_S)


def test_no_time_at_all_is_refused() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidInputError, match="timeout_s"):
        client.wait_until_ready(0)
