"""The port of a server: free or not, held for its workers, told in a file. Knows no gRPC."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from engine.errors import SettingsError
from engine.server.settings import ServeSettings, read_address, refuse_unprotected


def listen_address(settings: ServeSettings) -> tuple[str, int]:
    """Read where to listen. Raises SettingsError for what cannot be, or is not protected."""
    host, port = read_address(settings.listen, "listen")
    refuse_unprotected(host, "listen", insecure=settings.insecure)
    return host, port


def metrics_address(settings: ServeSettings) -> tuple[str, int] | None:
    """Read where metrics are to be shown; None: nowhere. They name galleries: the rule of `listen` holds."""
    if not settings.metrics_listen:
        return None
    host, port = read_address(settings.metrics_listen, "metrics_listen")
    refuse_unprotected(host, "metrics_listen", insecure=settings.insecure)
    return host, port


def dial(host: str, port: int) -> str:
    """Write an address as gRPC takes it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_free(host: str, port: int) -> None:
    """Raise SettingsError saying why nobody can listen there; gRPC says no more than that, and on stderr."""
    with _refused(host, port), _bound(host, port):
        pass


@contextlib.contextmanager
def held(host: str, port: int) -> Iterator[int]:
    """Hold a port for the workers, which share it by SO_REUSEPORT; yields the port, port 0 takes a free one.

    Nobody else has it at that moment, and nobody but processes of the same owner that set SO_REUSEPORT, too,
    can take it meanwhile. The socket does not listen: it is given no connections. Raises SettingsError.
    """
    with contextlib.ExitStack() as parts:
        with _refused(host, port):
            holder = parts.enter_context(_bound(host, port))
            # Bound alone, and only then open to the workers: between the two there is no gap.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield holder.getsockname()[1]


def taken_error(host: str, port: int, error: OSError | None = None) -> SettingsError:
    """Say that nobody can listen there, and why."""
    why = "" if error is None else f": {error.strerror or error}"
    return SettingsError(
        f"listen: cannot listen on {dial(host, port)}{why}",
        hint="Stop what listens there, or choose another port with --listen; port 0 takes a free one."
        if error is not None and error.errno == errno.EADDRINUSE
        else None,
    )


@contextlib.contextmanager
def _refused(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise taken_error(host, port, error) from error


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as bound:
        # Connections of a server just ended must not keep the next one from its port.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        yield bound


class PortFile:
    """A file that holds the port in decimal while a server is ready; with an empty path there is none."""

    def __init__(self, path: str):
        """Raise SettingsError for a path that cannot become a file, before anything is started."""
        self._path = Path(path) if path else None
        if self._path is None:
            return
        if self._path.is_dir():
            raise SettingsError(f"port_file: {path} is a folder", hint="Name a file in it.")
        if not self._path.parent.is_dir():
            raise SettingsError(f"port_file: there is no folder {self._path.parent}", hint="Make it first.")

    def remove_old(self) -> None:
        """Remove what an earlier server left. Raises SettingsError."""
        try:
            if self._path is not None:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(f"port_file: cannot remove the old {self._path}: {error.strerror}") from error

    def write(self, port: int) -> None:
        """Write the port so that a reader sees all of it or nothing. Raises SettingsError."""
        if self._path is None:
            return
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            unfinished.write_text(f"{port}\n")
            unfinished.replace(self._path)
        except OSError as error:
            raise SettingsError(f"port_file: cannot write {self._path}: {error.strerror}") from error

    def remove(self) -> None:
        """Remove it; whatever somebody did to it meanwhile must not keep the server from stopping."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
