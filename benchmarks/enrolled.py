"""Data folders with a gallery enrolled in them, kept between runs; row r of the vectors is one identity.

Knows nothing of probes and rivals.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.cache import copied, kept
from benchmarks.probe_sets import SEED, ProbeSet
from engine.disk import sync
from engine.errors import UnavailableError
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.index import huge_pages
from engine.index.settings import IndexSettings
from engine.limits import ENROLL_ITEMS_MAX, REMOVE_ITEMS_MAX
from engine.live_index import report_nothing
from engine.store.environment import StoreSettings
from engine.store.records import FORMAT_VERSION
from engine.types import EmbeddingContract, Enrollment, EnrollResult, Template, Vectors

GALLERY = "bench"
CONTRACT = EmbeddingContract("drawn", "", "", False, 128, "l2", 0.94)
NUM_THREADS = 8
_LOADING = StoreSettings(commit_records_max=8192, commit_ms_max=1000.0, commit_pause_ms=0.0)
"""A bulk load alone on its folder: fewer, larger commits."""
_NEVER = IndexSettings(delta_rows_max=1 << 40, dead_share_max=1.0, journal_rows_max=1 << 40, build_threads=2)
"""Built when the measurement says so, not in the middle of it, and with nobody searching meanwhile."""


def identity_id(row: int) -> str:
    """Name of the identity that a row became."""
    return f"id-{row:08d}"


def row_of(name: str) -> int:
    """Row that an identity was made from."""
    return int(name.removeprefix("id-"))


@contextlib.contextmanager
def opened(data: Path) -> Iterator[Gallery]:
    """The gallery of a data folder, without housekeeping."""
    settings = GalleriesSettings(store=_LOADING, index=_NEVER, maintenance_s=0.0)
    with contextlib.closing(Galleries.open(data, settings)) as galleries:
        yield galleries.get(GALLERY)


def enrolled(cache: Path, probe_set: ProbeSet) -> Path:
    """Data folder with all templates of a set enrolled and the index built."""
    return enrolled_vectors(cache, f"{probe_set.kind}-{probe_set.size}", probe_set.vectors)


def enrolled_vectors(cache: Path, name: str, vectors: Vectors) -> Path:
    """Data folder, kept under `name`, with these templates enrolled and the index built."""

    def make(target: Path) -> None:
        settings = GalleriesSettings(store=_LOADING, index=_NEVER, maintenance_s=0.0)
        with contextlib.closing(Galleries.open(target, settings)) as galleries:
            galleries.create(GALLERY, CONTRACT)
            gallery = galleries.get(GALLERY)
            enroll(gallery, vectors)
            gallery.build(report_nothing)

    return kept(cache, f"data/{name}-{SEED}-format-{FORMAT_VERSION}", make)


def enroll(gallery: Gallery, vectors: Vectors, first_row: int = 0) -> None:
    """Enroll each vector as an identity of its own, from `first_row` on. Raises what refused one."""

    def write(start: int) -> None:
        items = [
            Enrollment(identity_id(first_row + row), (Template(vectors[row]),))
            for row in range(start, min(start + ENROLL_ITEMS_MAX, len(vectors)))
        ]
        for outcome in gallery.enroll(items):
            if not isinstance(outcome, EnrollResult):
                raise outcome

    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="enroll") as pool:
        for _ in pool.map(write, range(0, len(vectors), ENROLL_ITEMS_MAX)):
            pass


def rebuilt(data: Path) -> Path:
    """The same folder with the index built anew: the one kept may be of other code or parameters."""
    with opened(data) as gallery:
        gallery.build(report_nothing)
    return data


def catch_up(gallery: Gallery) -> None:
    """Search until the index has caught up with what was written: a search does only so much of it."""
    anybody = np.eye(1, gallery.contract.dimension, dtype=np.float32)
    while True:
        try:
            gallery.identify(anybody, 1)
        except UnavailableError as error:
            time.sleep(error.retry_after_s or 0.1)
        else:
            return


def remove(gallery: Gallery, rows: Sequence[int]) -> None:
    """Remove the identities of these rows."""
    for start in range(0, len(rows), REMOVE_ITEMS_MAX):
        gallery.remove_identities([identity_id(row) for row in rows[start : start + REMOVE_ITEMS_MAX]])


@contextlib.contextmanager
def scratch_copy(cache: Path, data: Path) -> Iterator[Path]:
    """A copy of a data folder to write to, removed at the end; on the cache's own disk."""
    folder = cache.expanduser() / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        target = copied(data, Path(temporary) / "data")
        # As a build leaves them: what is mapped next is read anew, by large pages where the kernel has them.
        for path in (path for path in target.glob("galleries/*/index/*/*") if path.is_file()):
            sync(path)
            huge_pages.forget(path)
        yield target


def index_bytes(data: Path) -> int:
    """Bytes of the current generation of the one gallery in a data folder."""
    (index,) = (data / "galleries").glob("*/index")
    current = max((path for path in index.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    return sum(path.stat().st_size for path in current.iterdir())
