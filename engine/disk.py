"""What is written is on the disk, not in memory alone, when this has returned. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Sync a file, or a folder's own entries, so that what was made in it is there after power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
