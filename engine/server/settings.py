"""What a server can be told: its settings and their limits. Knows none of the parts at work."""

from __future__ import annotations

from typing import Annotated

import msgspec

from engine.assembly import EmbeddingSettings
from engine.config import Settings
from engine.errors import SettingsError
from engine.galleries import GalleriesSettings
from engine.wire import MESSAGE_SIZE_BYTES_MAX
from engine.wire.address import DEFAULT_ADDRESS, PORT_MAX, is_loopback, split_address

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class ServeSettings(Settings, frozen=True, kw_only=True):
    """What `identiface serve` can be told."""

    data: str
    """Folder of all galleries, on a local disk; made where it is missing."""
    listen: str = DEFAULT_ADDRESS
    """HOST:PORT; port 0 takes a free one, see `port_file`."""
    port_file: str = ""
    """File that holds the port in decimal while the server is ready; empty: none. An old one is removed at
    the start."""
    insecure: bool = False
    """Whether other machines may reach `listen` and `metrics_listen`, although nothing is encrypted and
    anybody may ask."""
    metrics_listen: str = ""
    """HOST:PORT for Prometheus over HTTP; empty: none. It tells the names and sizes of all galleries."""
    embedding: EmbeddingSettings = EmbeddingSettings()
    """Network and device."""
    galleries: GalleriesSettings = GalleriesSettings()
    """How galleries are kept."""
    threads: Count = 16
    """Unary calls worked on at once. More wait in memory for the same cores."""
    unary_queue_max: Annotated[int, msgspec.Meta(ge=0)] = 256
    """Unary calls that may wait for a thread; one more is refused with OVERLOADED."""
    streams_max: Count = 32
    """Streams open at once, idle ones included: each holds two threads. One more is refused as OVERLOADED."""
    message_size_bytes_max: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 30)] = MESSAGE_SIZE_BYTES_MAX
    """Size of one message; a larger one is refused by gRPC itself. Clients know the default only."""
    keepalive_s: Annotated[float, msgspec.Meta(ge=10)] = 60.0
    """Silence of a connection after which the server asks whether the other end is still there."""
    max_connection_age_s: Seconds = 0.0
    """Age at which clients are asked to connect anew, seconds; 0: never. A single process has nobody to hand
    them to, and ending connections would end long streams."""
    grace_s: Seconds = 10.0
    """Time that work in progress gets when the server is asked to stop."""


def read_address(text: str, key: str) -> tuple[str, int]:
    """Split HOST:PORT, an IPv6 host in brackets. Raises SettingsError naming the key."""
    parts = split_address(text)
    if parts is None:
        raise SettingsError(
            f"{key} is {text!r}; it must be HOST:PORT with a port up to {PORT_MAX}, as {DEFAULT_ADDRESS} or"
            " [::1]:7300"
        )
    return parts


def refuse_unprotected(host: str, key: str, *, insecure: bool) -> None:
    """Raise SettingsError naming the key for an address that other machines reach, unless allowed to."""
    if insecure or is_loopback(host):
        return
    raise SettingsError(
        f"{key}: other machines can reach {host}, and this version neither encrypts nor asks who calls",
        hint="Listen on 127.0.0.1, or give --insecure where the network itself is protected.",
    )
