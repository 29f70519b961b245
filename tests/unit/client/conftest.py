"""Servers on port 0 for the client's tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from engine.wire.limits import MESSAGE_SIZE_BYTES_MAX
from tests.unit.client.servicers import ADDERS, Start


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers of the given servicers; returns the address."""
    servers: list[grpc.Server] = []

    def start(*servicers: Any, concurrent_max: int | None = None, port: int = 0) -> str:
        server = grpc.server(
            futures.ThreadPoolExecutor(8),
            maximum_concurrent_rpcs=concurrent_max,
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_SIZE_BYTES_MAX)],
        )
        for servicer in servicers:
            for kind, add in ADDERS.items():
                if isinstance(servicer, kind):
                    add(servicer, server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()
