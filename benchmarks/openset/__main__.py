"""``python -m benchmarks.openset``: see `benchmarks.openset.simulation`."""

from __future__ import annotations

from benchmarks.openset.simulation import main

main()
