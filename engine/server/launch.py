"""What a process of several does first: see to it that it ends with its parent. Imports nothing heavy.

A worker takes a second or more to load its libraries. If its parent were killed meanwhile, it would hold the
data folder's lock until it noticed, and the next server could not start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Become a worker; returns the exit code.

    The command line holds the descriptor of the line to the parent, and the parent's process id.
    """
    descriptor, parent_id = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    _die_with(parent_id)
    from engine.server import worker

    return worker.main(descriptor)


def _die_with(parent_id: int) -> None:
    """Have the system end this process with its parent, also while it hangs; elsewhere the line does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_id:
        # It died before the system was told.
        os._exit(1)
