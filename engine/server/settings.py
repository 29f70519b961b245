"""What a server can be told: its settings and their limits. Knows none of the parts at work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from engine import config
from engine.assembly import EmbeddingSettings
from engine.config import Settings
from engine.errors import SettingsError
from engine.wire.address import DEFAULT_ADDRESS, PORT_MAX, is_loopback, split_address
from engine.wire.limits import MESSAGE_SIZE_BYTES_MAX

if TYPE_CHECKING:
    from engine.galleries import GalleriesSettings

WORKERS_MAX = 64
CONNECTION_AGE_S = 300.0
"""Where several workers share a port and nothing else is said: connections find a replaced worker in time."""
Count = Annotated[int, msgspec.Meta(ge=1)]
Workers = Annotated[int, msgspec.Meta(ge=1, le=WORKERS_MAX)]
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
    calibrations: tuple[str, ...] = ()
    """Files of `identiface calibrate`. Each goes before the one beside its network's weights, and that before
    the one that comes with the engine."""
    galleries: dict[str, Any] = msgspec.field(default_factory=dict)
    """How galleries are kept: the keys of engine.galleries.GalleriesSettings. Read when the galleries are
    opened, because reading them takes FAISS, which the parent of workers does without."""
    workers: Workers = 1
    """Processes that serve one port and one data folder as equals; 1: all in one process. Connections are
    spread over them: a client needs several to use them all."""
    embed_workers: Workers = 1
    """Processes that embed pictures for several workers; a single process embeds by itself."""
    worker_silence_s: Annotated[float, msgspec.Meta(ge=1)] = 15.0
    """Silence after which a worker counts as hung, and is killed and replaced."""
    threads: Count = 16
    """Unary calls that a process works on at once. More wait in memory for the same cores."""
    unary_queue_max: Annotated[int, msgspec.Meta(ge=0)] = 256
    """Unary calls that may wait for a thread; one more is refused with OVERLOADED."""
    streams_max: Count = 32
    """Streams open at once in a process, idle ones included: each holds two threads. One more is refused as
    OVERLOADED."""
    message_size_bytes_max: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 30)] = MESSAGE_SIZE_BYTES_MAX
    """Size of one message; a larger one is refused by gRPC itself. Clients know the default only."""
    keepalive_s: Annotated[float, msgspec.Meta(ge=10)] = 60.0
    """Silence of a connection after which the server asks whether the other end is still there."""
    max_connection_age_s: Seconds | None = None
    """Age at which clients are asked to connect anew, seconds; 0: never; None: CONNECTION_AGE_S with several
    workers, never with one, which has nobody to hand them to. Calls and streams in progress are not cut."""
    grace_s: Seconds = 10.0
    """Time that work in progress gets when the server is asked to stop."""

    def __post_init__(self) -> None:
        if self.workers == 1 and self.embed_workers > 1:
            raise SettingsError(
                f"embed_workers is {self.embed_workers} and workers is 1: a single process embeds by itself",
                hint="Ask for 2 or more workers, or leave embed_workers out.",
            )

    def connection_age_s(self) -> float:
        """Age at which clients are asked to connect anew, seconds; 0: never."""
        if self.max_connection_age_s is not None:
            return self.max_connection_age_s
        return CONNECTION_AGE_S if self.workers > 1 else 0.0


def read_galleries(settings: ServeSettings) -> GalleriesSettings:
    """Read the table `galleries`. Raises SettingsError."""
    from engine.galleries import GalleriesSettings

    # Read as part of the whole, so that an error names a key as it stands in the file.
    whole = msgspec.defstruct("Whole", [("galleries", GalleriesSettings)], bases=(Settings,), frozen=True)
    read: GalleriesSettings = config.build(whole, {"galleries": settings.galleries}).galleries  # type: ignore
    return read


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
