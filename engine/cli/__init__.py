"""The command `identiface`. Knows nothing of its verbs, so that Ctrl-C while they load is quiet, too."""

from __future__ import annotations

from collections.abc import Sequence

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code. Raises SystemExit with 2 for wrong usage and 0 after --help."""
    try:
        # Loading them takes half a second.
        from engine.cli import verbs

        return verbs.main(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
