"""The folder of the local sockets over which workers ask for pictures to be embedded."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engine.errors import SettingsError
from engine.store.folders import hold, hold_alone

PREFIX = "identiface-embed-"
PATH_BYTES_MAX = 107
"""Of a local socket's path; more does not fit in the system's sockaddr_un."""


@contextlib.contextmanager
def socket_paths(num_sockets: int) -> Iterator[list[str]]:
    """Paths for so many sockets, in a folder that is removed in the end.

    Removes what servers that were killed left. Raises SettingsError where there is no place for them.
    """
    with contextlib.ExitStack() as parts:
        try:
            folder = parts.enter_context(_folder())
        except OSError as error:
            raise SettingsError(
                f"no folder can be made for local sockets: {error.strerror or error}",
                hint="Set TMPDIR to a folder that can be written.",
            ) from error
        paths = [f"{folder}/{number}" for number in range(num_sockets)]
        if len(os.fsencode(paths[-1])) > PATH_BYTES_MAX:
            raise SettingsError(
                f"the path of a local socket, {paths[-1]}, is longer than {PATH_BYTES_MAX} bytes",
                hint="Set TMPDIR to a folder with a shorter path.",
            )
        yield paths


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    _remove_abandoned()
    while True:
        # Its owner's alone (0700): whoever can open the sockets can have pictures embedded.
        with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
            # None: another server that starts took it for abandoned just now.
            if (held := hold(Path(folder))) is None:
                continue
            try:
                yield folder
            finally:
                os.close(held)
            return


def _remove_abandoned() -> None:
    """Remove folders whose server is gone: nobody holds them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if (held := hold_alone(folder)) is None:
                continue
            try:
                for path in folder.iterdir():
                    if path.is_socket():
                        path.unlink()
                folder.rmdir()
            finally:
                os.close(held)
