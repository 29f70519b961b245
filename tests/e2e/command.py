"""Runs of the command as processes of their own, and the pictures that packages carry."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import PROGRAM, ServerProcess

RUN_S = 120.0


@dataclass(frozen=True)
class Run:
    """What one run of the command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one object."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def jsons(self) -> list[Any]:
        """Its objects, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def run(server: ServerProcess | None, *arguments: str | Path, stdin: bytes = b"") -> Run:
    """Run a verb to its end."""
    where = [] if server is None else ["--server", server.address]
    command = [str(PROGRAM), *map(str, arguments), *where]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=RUN_S, check=False)
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


def answered(server: ServerProcess | None, *arguments: str | Path, stdin: bytes = b"") -> Run:
    """Run a verb that must be answered without a word on stderr."""
    done = run(server, *arguments, stdin=stdin)
    assert (done.code, done.err) == (0, "")
    return done


def refused(server: ServerProcess | None, *arguments: str | Path) -> str:
    """Run a verb that must fail with 1 and one line on stderr; returns the line."""
    done = run(server, *arguments)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert done.err.startswith("identiface: ")
    assert "Traceback" not in done.err
    return done.err


def sample(package: str, path: str) -> Path:
    """A picture that a package carries."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed: pip install identiface[demo]")
    return Path(found.origin).parent / path
