"""A process ends with the one that started it, also where that ended first."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

NOBODY = 1
"""No parent of a test's process."""
LONGEST_S = 60.0
_CHILD = "import os, sys; from engine.processes import die_with_parent; "
_WAITING = _CHILD + "die_with_parent(int(sys.argv[1]) or None); os.write(1, b'r'); os.read(0, 1)"
_PARENT = (
    "import os, subprocess, sys;"
    " child = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(int(sys.argv[2]) and os.getpid())]);"
    " child.wait()"
)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe ends the process")
@pytest.mark.parametrize("is_told_its_parent", [True, False])
def test_a_process_that_waits_for_something_else_ends_with_its_parent(*, is_told_its_parent: bool) -> None:
    held, never = os.pipe()  # kept open here: what the child reads has no end
    command = [sys.executable, "-c", _PARENT, _WAITING, str(int(is_told_its_parent))]
    with subprocess.Popen(command, stdin=held, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        output = parent.stdout.fileno()
        assert os.read(output, 1) == b"r"
        parent.send_signal(signal.SIGKILL)
        # The child, too, holds the pipe open, so that it ends with the last of them.
        assert select.select([output], [], [], LONGEST_S)[0]
        assert os.read(output, 1) == b""
    os.close(held)
    os.close(never)


@pytest.mark.parametrize(("parent_id", "code"), [(str(NOBODY), 1), ("None", 0), ("os.getppid()", 0)])
def test_a_process_whose_parent_is_gone_ends_at_once(parent_id: str, code: int) -> None:
    ended = subprocess.run([sys.executable, "-c", f"{_CHILD}die_with_parent({parent_id})"], check=False)
    assert ended.returncode == code
