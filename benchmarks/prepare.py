"""Make what is slow before it is needed: galleries, exact answers and rivals' indexes, into the cache.

``nice -n 19 python -m benchmarks.prepare --size 1000000`` takes hours at a million on one thread, since a
graph is built node by node; it goes on where it was stopped. `benchmarks.index` makes what is missing, too.
"""

from __future__ import annotations

import argparse
import time

import engine.index.faiss_library  # noqa: F401 - one BLAS thread, as everywhere
from benchmarks.cache import add_option
from benchmarks.probe_sets import KINDS, load_set
from benchmarks.rivals import RIVALS, built


def main() -> None:
    """Make it, one after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs="+", default=[200_000], help="templates in a gallery")
    parser.add_argument("--set", nargs="+", choices=KINDS, default=KINDS, help="kinds of galleries")
    names = [kind.name for kind in RIVALS]
    parser.add_argument("--rival", nargs="+", choices=names, default=names, help="libraries")
    add_option(parser)
    arguments = parser.parse_args()
    for name in arguments.rival:
        for size in arguments.size:
            for kind in arguments.set:
                rival = next(one for one in RIVALS if one.name == name)
                if rival.is_installed():
                    start_s = time.monotonic()
                    _, build_s = built(arguments.cache, rival, load_set(arguments.cache, kind, size))
                    waited_s = time.monotonic() - start_s
                    print(
                        f"{name} {kind} {size:,}: build {build_s:.1f} s, waited {waited_s:.1f} s", flush=True
                    )


if __name__ == "__main__":
    main()
