"""How a process ends with the one that started it: the first thing a child does. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2); the signal is sent when the thread that started this process ends."""


def die_with_parent(parent_id: int | None = None) -> None:
    """Have the system kill this process when its parent ends, also in a long call that holds the interpreter.

    On Linux only: whoever starts a process needs a pipe to it besides, which elsewhere ends it. `parent_id`
    is the process id of the parent: where that died before the system was told, this process ends at once.
    None: a pipe tells that, too.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_id is not None and os.getppid() != parent_id:
        os._exit(1)
