"""Other libraries behind one interface, each with the one setting that trades time for agreement.

Every one runs on one thread. A library that is not installed says so and is reported, never left out. Knows
nothing of the engine but the door to FAISS.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from abc import ABC, abstractmethod
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache import is_kept, kept
from benchmarks.probe_sets import SEED, ProbeSet
from benchmarks.truth import Rows
from engine.index.faiss_library import library
from engine.types import Vectors

LINKS = 32
"""Links of a graph's node, twice as many on its lowest level; the same for all graphs."""
BUILD_WIDTH = 100
"""Candidates looked at for each node while a graph is built; the same for all graphs."""

BUILD_FILE = "build.json"


class Rival(ABC):
    """One library over one gallery."""

    name = ""
    package = ""
    distribution = ""
    """Name on PyPI."""
    files_of = ""
    """Name of the rival whose files it reads; empty: its own."""
    settings: tuple[int, ...] = ()
    """Values of the setting, from the quickest to the one that agrees best; empty: it is exact."""
    setting_name = ""
    reorders: tuple[int, ...] = ()
    """Values of a second setting, rows compared exactly at the end, where it has one."""
    slow_build = False
    """Whether building takes minutes at a few hundred thousand, hours at a million."""

    @classmethod
    def is_installed(cls) -> bool:
        """Whether the library can be imported."""
        return find_spec(cls.package) is not None

    @abstractmethod
    def build(self, vectors: Vectors, folder: Path) -> None:
        """Build from float32[n, d] and write what `load` needs."""

    @abstractmethod
    def load(self, vectors: Vectors, folder: Path) -> None:
        """Make ready to search what `build` wrote; `vectors` are the gallery's."""

    @abstractmethod
    def search(self, probes: Vectors, k: int) -> Rows:
        """Rows int64[n, k], best first."""

    @abstractmethod
    def index_bytes(self, folder: Path) -> int:
        """Bytes that searching holds, vectors included."""

    def set(self, value: int, reorder: int) -> None:  # noqa: B027 - exact rivals have nothing to choose
        """Choose the setting, and the second one where there is one (else 0)."""


def _file_bytes(folder: Path) -> int:
    return sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != BUILD_FILE
    )


class FaissFlat(Rival):
    """FAISS's exact scan with the settings that our own door to it makes."""

    name = "faiss-flat-tuned"
    package = "faiss"
    distribution = "faiss-cpu"

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Add."""
        index = library().IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        library().write_index(index, str(folder / "index.faiss"))

    def load(self, vectors: Vectors, folder: Path) -> None:  # noqa: ARG002 - it keeps its own
        """Read."""
        self._index: Any = library().read_index(str(folder / "index.faiss"))

    def search(self, probes: Vectors, k: int) -> Rows:
        """Scan."""
        rows: Rows = library().IndexFlatIP.search(self._index, probes, k)[1]
        return rows

    def index_bytes(self, folder: Path) -> int:
        """Size of its file."""
        return _file_bytes(folder)


class FaissFlatPlain(FaissFlat):
    """The same as it comes: batches below its own threshold are scanned probe by probe."""

    name = "faiss-flat"
    files_of = FaissFlat.name
    _blas_from_floats = 128_000
    """FAISS 1.15's own value of distance_compute_blas_threshold."""

    def search(self, probes: Vectors, k: int) -> Rows:
        """Scan with FAISS's own threshold, and put ours back."""
        variables = library().cvar
        ours = variables.distance_compute_blas_threshold
        variables.distance_compute_blas_threshold = self._blas_from_floats
        try:
            return super().search(probes, k)
        finally:
            variables.distance_compute_blas_threshold = ours


class FaissHnsw(Rival):
    """FAISS's HNSW graph over float32, L2 of unit vectors: the order of cosine."""

    name = "faiss-hnsw"
    package = "faiss"
    distribution = "faiss-cpu"
    settings = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
    setting_name = "efSearch"
    slow_build = True

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Insert one by one."""
        faiss = library()
        index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS)
        index.hnsw.efConstruction = BUILD_WIDTH
        index.add(vectors)
        faiss.write_index(index, str(folder / "index.faiss"))

    def load(self, vectors: Vectors, folder: Path) -> None:  # noqa: ARG002 - it keeps its own
        """Read."""
        self._index: Any = library().read_index(str(folder / "index.faiss"))

    def search(self, probes: Vectors, k: int) -> Rows:
        """Walk the graph."""
        library()
        rows: Rows = self._index.search(probes, k)[1]
        return rows

    def index_bytes(self, folder: Path) -> int:
        """Size of its file."""
        return _file_bytes(folder)

    def set(self, value: int, reorder: int) -> None:  # noqa: ARG002 - it has one setting
        """Candidates kept while walking."""
        self._index.hnsw.efSearch = value


class Scann(Rival):
    """ScaNN: partitions, anisotropic 4-bit codes, exact re-ranking."""

    name = "scann"
    package = "scann"
    distribution = "scann"
    settings = (25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1000)
    setting_name = "leaves"
    reorders = (100, 200, 400)

    def build(self, vectors: Vectors, folder: Path) -> None:
        """About sqrt(n) partitions, as its documentation advises."""
        scann = import_module("scann")
        leaves = max(10, round(np.sqrt(len(vectors))))
        builder = scann.scann_ops_pybind.builder(vectors, 10, "dot_product")
        builder = builder.tree(leaves, leaves // 2, training_sample_size=min(len(vectors), 250_000))
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(self.reorders[0])
        builder.set_n_training_threads(1).build().serialize(str(folder), relative_path=True)

    def load(self, vectors: Vectors, folder: Path) -> None:  # noqa: ARG002 - it keeps its own
        """Read."""
        scann = import_module("scann")
        self._index: Any = scann.scann_ops_pybind.load_searcher(str(folder))
        self._index.set_num_threads(1)
        self.set(self.settings[0], self.reorders[0])

    def search(self, probes: Vectors, k: int) -> Rows:
        """One call for one probe, its batch call without threads for more."""
        options = {
            "final_num_neighbors": k,
            "leaves_to_search": self._leaves,
            "pre_reorder_num_neighbors": self._reorder,
        }
        if len(probes) == 1:
            return np.asarray(self._index.search(probes[0], **options)[0], np.int64)[None]
        return np.asarray(self._index.search_batched(probes, **options)[0], np.int64)

    def index_bytes(self, folder: Path) -> int:
        """Size of its files."""
        return _file_bytes(folder)

    def set(self, value: int, reorder: int) -> None:
        """Partitions looked into, rows compared exactly."""
        self._leaves, self._reorder = value, reorder


class Hnswlib(Rival):
    """hnswlib's graph, inner product of unit vectors as cosine."""

    name = "hnswlib"
    package = "hnswlib"
    distribution = "hnswlib"
    settings = FaissHnsw.settings
    setting_name = "ef"
    slow_build = True

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Insert one by one."""
        hnswlib = import_module("hnswlib")
        index = hnswlib.Index(space="l2", dim=vectors.shape[1])
        index.init_index(len(vectors), M=LINKS, ef_construction=BUILD_WIDTH, random_seed=100)
        index.set_num_threads(1)
        index.add_items(vectors, num_threads=1)
        index.save_index(str(folder / "index.bin"))

    def load(self, vectors: Vectors, folder: Path) -> None:
        """Read."""
        hnswlib = import_module("hnswlib")
        self._index: Any = hnswlib.Index(space="l2", dim=vectors.shape[1])
        self._index.load_index(str(folder / "index.bin"), max_elements=len(vectors))
        self._index.set_num_threads(1)

    def search(self, probes: Vectors, k: int) -> Rows:
        """Walk the graph."""
        return np.asarray(self._index.knn_query(probes, k=k, num_threads=1)[0], np.int64)

    def index_bytes(self, folder: Path) -> int:
        """Size of its file."""
        return _file_bytes(folder)

    def set(self, value: int, reorder: int) -> None:  # noqa: ARG002 - it has one setting
        """Candidates kept while walking."""
        self._index.set_ef(value)


class Usearch(Rival):
    """usearch's graph in float32."""

    name = "usearch"
    package = "usearch"
    distribution = "usearch"
    settings = FaissHnsw.settings
    setting_name = "expansion"
    slow_build = True

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Insert one by one."""
        index = self._empty(vectors.shape[1])
        index.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=1)
        index.save(str(folder / "index.usearch"))

    def load(self, vectors: Vectors, folder: Path) -> None:
        """Read."""
        self._index: Any = self._empty(vectors.shape[1])
        self._index.load(str(folder / "index.usearch"))

    def search(self, probes: Vectors, k: int) -> Rows:
        """Walk the graph."""
        found = self._index.search(probes, k, threads=1)
        return np.asarray(found.keys, np.int64).reshape(len(probes), -1)

    def index_bytes(self, folder: Path) -> int:
        """Size of its file."""
        return _file_bytes(folder)

    def set(self, value: int, reorder: int) -> None:  # noqa: ARG002 - it has one setting
        """Candidates kept while walking."""
        self._index.expansion_search = value

    @staticmethod
    def _empty(dimension: int) -> Any:
        return import_module("usearch.index").Index(
            ndim=dimension, metric="ip", dtype="f32", connectivity=LINKS, expansion_add=BUILD_WIDTH
        )


class Numpy(Rival):
    """What anybody would write first."""

    name = "numpy"
    package = "numpy"
    distribution = "numpy"

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Nothing to build."""

    def load(self, vectors: Vectors, folder: Path) -> None:  # noqa: ARG002 - there is nothing to read
        """Nothing to load."""
        self._vectors = vectors

    def search(self, probes: Vectors, k: int) -> Rows:
        """Multiply, take the k largest, order them."""
        products = probes @ self._vectors.T
        top = np.argpartition(-products, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(products, top, axis=1), axis=1)
        rows: Rows = np.take_along_axis(top, order, axis=1)
        return rows

    def index_bytes(self, folder: Path) -> int:  # noqa: ARG002 - there are no files
        """The vectors."""
        return int(self._vectors.nbytes)


RIVALS: tuple[type[Rival], ...] = (
    FaissFlat,
    FaissFlatPlain,
    FaissHnsw,
    Scann,
    Hnswlib,
    Usearch,
    Numpy,
)


def built(cache: Path, kind: type[Rival], probe_set: ProbeSet) -> tuple[Path, float]:
    """Folder of a rival's index over a gallery, and the seconds that building it took, once.

    Those that build quickly are kept, too: then every run loads from files.
    """

    def make(target: Path) -> None:
        start_s = time.perf_counter()
        kind().build(probe_set.vectors, target)
        seconds = time.perf_counter() - start_s
        (target / BUILD_FILE).write_text(json.dumps({"build_s": seconds}))

    folder = kept(cache, _key(kind, probe_set), make)
    return folder, float(json.loads((folder / BUILD_FILE).read_text())["build_s"])


def is_built(cache: Path, kind: type[Rival], probe_set: ProbeSet) -> bool:
    """Whether a rival's index over a gallery is kept."""
    return is_kept(cache, _key(kind, probe_set))


def _key(kind: type[Rival], probe_set: ProbeSet) -> str:
    version = importlib.metadata.version(kind.distribution)
    name = kind.files_of or kind.name
    return f"rivals/{probe_set.kind}-{probe_set.size}-{SEED}/{name}-{version}"
