"""The client that a verb asks with, once its server is ready. Knows no verb."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from engine.client import Client

READY_S = 15.0
"""Time that a server gets to be ready, where --timeout-s does not allow less: twice what it takes from
nothing to a warm network."""


@contextlib.contextmanager
def open_client(arguments: argparse.Namespace) -> Iterator[Client]:
    """Wait until the server of --server is ready, saying so on a terminal; gives the client.

    Raises UnavailableError, DeadlineError as `Client.wait_until_ready`.
    """

    def say() -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"waiting for {arguments.server} ...\n")

    with Client(arguments.server, timeout_s=arguments.timeout_s) as client:
        client.wait_until_ready(min(arguments.timeout_s, READY_S), on_wait=say)
        yield client
