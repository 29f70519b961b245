"""Where a server is: HOST:PORT, as clients dial it and servers listen on it. Knows nothing of connections."""

from __future__ import annotations

import ipaddress
import re

DEFAULT_ADDRESS = "127.0.0.1:7300"
"""Where servers listen and clients ask unless told otherwise."""
PORT_MAX = 65535
UNIX_PREFIX = "unix:"
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]/\s]+)):(?P<port>[0-9]{1,5})")


def split_address(text: str) -> tuple[str, int] | None:
    """Split HOST:PORT, an IPv6 host in brackets; None where it is something else."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > PORT_MAX:
        return None
    return match["v6"] or match["host"], int(match["port"])


def can_be_dialled(text: str) -> bool:
    """Whether a client can be given this address: HOST:PORT, or unix:PATH of a socket."""
    return split_address(text) is not None or (len(text) > len(UNIX_PREFIX) and text.startswith(UNIX_PREFIX))


def is_local(text: str) -> bool:
    """Whether an address that can be dialled leads nowhere but to this machine."""
    parts = split_address(text)
    return text.startswith(UNIX_PREFIX) if parts is None else is_loopback(parts[0])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name that may mean anything
