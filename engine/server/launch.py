"""What a process of several does first: see to it that it ends with its parent. Imports nothing heavy.

A worker takes a second or more to load its libraries. If its parent were killed meanwhile, it would hold the
data folder's lock until it noticed, and the next server could not start.
"""

from __future__ import annotations

import os
import sys

from engine.processes import die_with_parent


def main() -> int:
    """Become a worker; returns the exit code.

    The command line holds the descriptor of the line to the parent, and the parent's process id.
    """
    descriptor, parent_id = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    # Also where it hangs; where the system cannot, the line does it.
    die_with_parent(parent_id)
    from engine.server import worker

    return worker.main(descriptor)
