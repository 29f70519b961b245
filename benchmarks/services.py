"""What one would run instead, behind one interface: a server process each, asked over its own client.

pgvector in a real PostgreSQL (package ``pgserver``), Milvus Lite, and Identiface's own server. A service that
is not installed is named with the packages it lacks, never left out. Each is set up as its documents say;
what was changed from the defaults is in its `describe`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.server import serving
from engine.client import Client, EnrollItem
from engine.types import EmbeddingContract, Vector, Vectors

K = 10
_START_S_MAX = 60.0
_MILVUS_ROWS = 5_000
"""Rows of one insert: its messages hold 64 MB at most."""


class Service(ABC):
    """One service over one gallery; row r of the vectors is item r."""

    name = ""
    packages: tuple[str, ...] = ()
    """Names on PyPI."""
    settings: tuple[int, ...] = ()
    """Values of the approximate search's setting, from the quickest to the most thorough."""
    default = 0
    """The one that is used where nobody says otherwise."""
    exact_needs_index = False
    """Whether exact search has an index of its own, which `build` builds, too."""

    @classmethod
    def missing(cls) -> list[str]:
        """Packages that are not installed."""
        return [name for name in cls.packages if not _is_installed(name)]

    @abstractmethod
    def describe(self) -> str:
        """Versions, and settings that are not the defaults."""

    @abstractmethod
    def serve(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """Run it, with its data in `folder`, and a client connected to it."""

    @abstractmethod
    def load(self, vectors: Vectors) -> None:
        """Store vectors float32[n, d], durably, ready to be searched exactly."""

    @abstractmethod
    def build(self) -> None:
        """Build its index."""

    @abstractmethod
    def use(self, setting: int | None) -> str:
        """Search by this setting from now on, None: exactly; returns what to call that."""

    @abstractmethod
    def search(self, probe: Vector) -> list[int]:
        """The K nearest rows, best first."""

    @abstractmethod
    def search_many(self, probes: Vectors) -> list[list[int]]:
        """The same for several at once, the quickest way that one client has."""


class Identiface(Service):
    """Our own server, one worker, without a network."""

    name = "Identiface"
    packages = ("identiface",)
    settings = (0,)
    """It has none to set."""
    exact_needs_index = True

    def __init__(self) -> None:
        self._client: Any = None
        self._is_exact = True

    def describe(self) -> str:
        """Version."""
        return f"identiface {importlib.metadata.version('identiface')}, all defaults"

    @contextlib.contextmanager
    def serve(self, folder: Path) -> Iterator[None]:
        """One process, one gallery."""
        contract = EmbeddingContract("drawn", "", "", False, 128, "l2", 0.94)
        with serving(folder / "data", "--model", "none") as server, Client(server.address) as self._client:
            self._client.create_gallery("bench", contract)
            yield

    def load(self, vectors: Vectors) -> None:
        """Over one stream; each message of 256 is synced before it is answered."""
        items = (EnrollItem(f"{row:08d}", [vector]) for row, vector in enumerate(vectors))
        for _, answer in self._client.enroll_stream("bench", items):
            if isinstance(answer, Exception):
                raise answer

    def build(self) -> None:
        """Build a generation."""
        for _ in self._client.build_index("bench"):
            pass

    def use(self, setting: int | None) -> str:
        """By default or exactly."""
        self._is_exact = setting is None
        return "exact" if setting is None else "default"

    def search(self, probe: Vector) -> list[int]:
        """Identify."""
        return _rows(self._client.identify("bench", probe, K, exact=self._is_exact))

    def search_many(self, probes: Vectors) -> list[list[int]]:
        """Identify, in one request."""
        answers = self._client.batch_identify("bench", list(probes), K, exact=self._is_exact)
        return [_rows(faces) for faces in answers]


def _rows(faces: Any) -> list[int]:
    return [int(candidate.identity_id) for candidate in faces[0].candidates]


class Pgvector(Service):
    """PostgreSQL with the extension pgvector, over a Unix socket."""

    name = "pgvector"
    packages = ("pgserver", "psycopg", "pgvector")
    settings = (10, 20, 40, 80, 160, 320, 640, 1000)
    """hnsw.ef_search; 1000 is the most that it takes."""
    default = 40
    _QUERY = f"SELECT row FROM templates ORDER BY vector <#> %s LIMIT {K}"

    def __init__(self) -> None:
        self._connection: Any = None

    def describe(self) -> str:
        """Versions and settings."""
        postgres, extension = self._connection.execute(
            "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
        return (
            f"PostgreSQL {postgres} with pgvector {extension}; maintenance_work_mem 1 GB; HNSW with its "
            "defaults (m 16, ef_construction 64), enable_seqscan off; binary protocol, prepared statements"
        )

    @contextlib.contextmanager
    def serve(self, folder: Path) -> Iterator[None]:
        """PostgreSQL of its own, listening on a socket in its folder."""
        import psycopg
        from pgserver.postgres_server import get_server
        from pgvector.psycopg import register_vector

        server = get_server(folder / "postgres")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as self._connection:
                self._connection.execute("CREATE EXTENSION vector")
                register_vector(self._connection)
                yield
        finally:
            server.cleanup()

    def load(self, vectors: Vectors) -> None:
        """By COPY, in binary; committed and synced at its end."""
        dimension = vectors.shape[1]
        self._connection.execute(
            f"CREATE TABLE templates (row bigint PRIMARY KEY, vector vector({dimension}))"
        )
        with (
            self._connection.cursor() as cursor,
            cursor.copy("COPY templates (row, vector) FROM STDIN WITH (FORMAT BINARY)") as copy,
        ):
            copy.set_types(["int8", "vector"])
            for row, vector in enumerate(vectors):
                copy.write_row([row, vector])
        self._connection.execute("VACUUM ANALYZE templates")

    def build(self) -> None:
        """Build an HNSW index."""
        self._connection.execute("SET maintenance_work_mem = '1GB'")
        self._connection.execute("CREATE INDEX ON templates USING hnsw (vector vector_ip_ops)")

    def use(self, setting: int | None) -> str:
        """Set ef_search; before there is an index every search is exact."""
        if setting is None:
            return "exact, no index"
        # The planner would rather scan the table from some ef_search on.
        self._connection.execute("SET enable_seqscan = off")
        self._connection.execute(f"SET hnsw.ef_search = {setting}")
        return f"HNSW, ef_search {setting}"

    def search(self, probe: Vector) -> list[int]:
        """One statement."""
        return [row for (row,) in self._connection.execute(self._QUERY, (probe,), binary=True)]

    def search_many(self, probes: Vectors) -> list[list[int]]:
        """One statement each, sent in one pipeline."""
        with self._connection.pipeline():
            cursors = [self._connection.execute(self._QUERY, (probe,), binary=True) for probe in probes]
        return [[row for (row,) in cursor] for cursor in cursors]


class MilvusLite(Service):
    """Milvus Lite in a process of its own, over gRPC."""

    name = "Milvus Lite"
    packages = ("milvus-lite", "pymilvus")
    settings = (16, 32, 64, 128, 256, 512, 1024, 2048)
    """ef"""
    default = 64
    _COLLECTION = "templates"

    def __init__(self) -> None:
        self._client: Any = None
        self._parameters: dict[str, int] = {}

    def describe(self) -> str:
        """Versions and settings."""
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)
        return f"{versions}; metric IP; HNSW with its defaults (M 16, efConstruction 200)"

    @contextlib.contextmanager
    def serve(self, folder: Path) -> Iterator[None]:
        """The server of its package."""
        from pymilvus import MilvusClient

        port = _free_port()
        flags = ["--data-dir", str(folder / "milvus"), "--host", "127.0.0.1", "--port", str(port)]
        with (folder / "milvus.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "milvus_lite", "server", *flags], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            _wait_for_port(port, process)
            self._client = MilvusClient(f"http://127.0.0.1:{port}", timeout=_START_S_MAX)
            yield
            self._client.close()
        finally:
            process.terminate()
            process.wait(60)

    def load(self, vectors: Vectors) -> None:
        """By inserts and one flush."""
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        self._client.create_collection(self._COLLECTION, schema=schema)
        for start in range(0, len(vectors), _MILVUS_ROWS):
            block = vectors[start : start + _MILVUS_ROWS]
            items = [{"row": row, "vector": vector} for row, vector in enumerate(block, start)]
            self._client.insert(self._COLLECTION, items)
        self._client.flush(self._COLLECTION)
        self._index("FLAT")

    def build(self) -> None:
        """Replace the flat index by HNSW."""
        self._client.release_collection(self._COLLECTION)
        self._client.drop_index(self._COLLECTION, "vector")
        self._index("HNSW")

    def _index(self, kind: str) -> None:
        parameters = self._client.prepare_index_params()
        parameters.add_index("vector", index_type=kind, metric_type="IP")
        self._client.create_index(self._COLLECTION, parameters, timeout=3600)
        self._client.load_collection(self._COLLECTION, timeout=3600)

    def use(self, setting: int | None) -> str:
        """Set ef."""
        self._parameters = {} if setting is None else {"ef": setting}
        return "exact, FLAT" if setting is None else f"HNSW, ef {setting}"

    def search(self, probe: Vector) -> list[int]:
        """One request."""
        return self.search_many(probe[None])[0]

    def search_many(self, probes: Vectors) -> list[list[int]]:
        """One request for all."""
        found = self._client.search(
            self._COLLECTION, data=list(probes), limit=K, search_params={"params": self._parameters}
        )
        return [[item["row"] for item in one] for one in found]


SERVICES: Sequence[type[Service]] = (Identiface, Pgvector, MilvusLite)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + _START_S_MAX
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not start")
