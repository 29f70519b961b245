"""HOST:PORT as servers and clients read it."""

from __future__ import annotations

import pytest

from engine.wire.address import DEFAULT_ADDRESS, can_be_dialled, is_local, is_loopback, split_address


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (DEFAULT_ADDRESS, ("127.0.0.1", 7300)),
        ("[::1]:0", ("::1", 0)),
        ("faces.example:65535", ("faces.example", 65535)),
    ],
)
def test_an_address_is_split(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts
    assert can_be_dialled(text)


@pytest.mark.parametrize(
    "text", ["", "7300", ":7300", "host", "host:", "host:65536", "::1:7300", "a b:1", "unix:"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert split_address(text) is None
    assert not can_be_dialled(text)


def test_a_socket_can_be_dialled_but_is_no_host_and_port() -> None:
    assert can_be_dialled("unix:/run/identiface.sock")
    assert split_address("unix:/run/identiface.sock") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_this_machine(host: str) -> None:
    assert is_loopback(host)
    assert is_local(f"[{host}]:1" if ":" in host else f"{host}:1")
    assert is_local("unix:/run/identiface.sock")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "faces.example"])
def test_what_other_machines_reach_is_not_local(host: str) -> None:
    assert not is_loopback(host)
    assert not is_local(f"[{host}]:1" if ":" in host else f"{host}:1")
