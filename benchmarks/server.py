"""A real server in its own process, for the demo and the measurements."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_S_MAX = 120.0
POLL_S = 0.002


class ServerProcess:
    """A server on a free port of this machine, which serves one data folder."""

    def __init__(self, data: Path, *arguments: str):
        """Start it and wait until it is ready. Raises RuntimeError with its last lines where it stops."""
        data.mkdir(parents=True, exist_ok=True)
        self._port_file = data.parent / f"{data.name}.port"
        self._port_file.unlink(missing_ok=True)
        self.log = data.parent / f"{data.name}.log"
        flags = ["--data", str(data), "--listen", "127.0.0.1:0", "--port-file", str(self._port_file)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.cli", "serve", *flags, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.address = f"127.0.0.1:{self._wait_for_port()}"

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    def stop(self) -> int:
        """Stop it the polite way; returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def kill(self) -> None:
        """Stop it with kill -9."""
        self._process.kill()
        self._process.wait(60)

    def _wait_for_port(self) -> int:
        give_up = time.monotonic() + START_S_MAX
        while time.monotonic() < give_up:
            if self._port_file.is_file():
                return int(self._port_file.read_text())
            if self._process.poll() is not None:
                break
            time.sleep(POLL_S)
        tail = self.log.read_text(errors="replace").splitlines()[-5:]
        raise RuntimeError(f"the server did not start; the end of {self.log}:\n" + "\n".join(tail))


@contextlib.contextmanager
def serving(data: Path, *arguments: str) -> Iterator[ServerProcess]:
    """A server for the time of a with block."""
    server = ServerProcess(data, *arguments)
    try:
        yield server
    finally:
        server.stop()
