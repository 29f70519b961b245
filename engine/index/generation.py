"""One immutable built index on disk, a cache of the store up to a sequence: its files, manifest and checks.

::

    index/<n>/manifest.json   what it covers and the checksum of every file, its own included
    index/<n>/vectors.faiss   FAISS flat index, inner product of unit vectors
    index/<n>/template_ids.npy, identity_numbers.npy   uint64 of each row; template ids ascend
    index/<n>/codes.*, sample.faiss, fine.codes, axes.npz
                              what the default search scans, see `engine.index.codes`
    index/<n>/bound.*         what exact search scans, see `engine.index.exact`
    index/<n>/crowding.npy, own_people.npz   see `engine.index.population`

A generation of kind flat has neither codes nor bound; which have the last two `engine.index.neighbours` says.

A folder whose name is not a plain number is a build that did not finish. Knows nothing of LMDB.
"""

from __future__ import annotations

import hashlib
import weakref
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import CorruptDataError, NewerFormatError
from engine.index import huge_pages
from engine.index.alive import Alive, selector
from engine.index.codes import Codes
from engine.index.exact import TABLES as BOUND_TABLES
from engine.index.exact import BoundCode
from engine.index.exact_frame import gamma
from engine.index.faiss_library import library
from engine.index.gpu import GpuSearcher
from engine.index.parameters import CodeParameters
from engine.index.places import places
from engine.index.population import CROWDING, OWN_PEOPLE, read_crowding, read_own_tops
from engine.index.read_ahead import ReadAhead
from engine.types import Agreement, Columns, Vector, Vectors

FORMAT_VERSION = 3
"""1: flat only, and without parameters and agreement. 2: coded more coarsely, without fine codes."""
FLAT = "flat"
CODED = "codes"
MANIFEST = "manifest.json"
VECTORS = "vectors.faiss"
TEMPLATE_IDS = "template_ids.npy"
IDENTITY_NUMBERS = "identity_numbers.npy"
_BLOCK_BYTES = 4 << 20


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a generation."""

    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation is and covers."""

    format: int = FORMAT_VERSION
    number: int
    sequence: int
    """Every write up to this one is covered."""
    num_templates: int
    dimension: int
    contract_digest: str
    kind: str = FLAT
    """FLAT or CODED."""
    faiss_version: str
    files: dict[str, FileEntry]
    checksum: str = ""
    """sha256 of this manifest with an empty checksum."""
    parameters: CodeParameters | None = None
    """Of the codes."""
    agreement: Agreement | None = None
    """Of the default search with an exact one, where it was measured."""
    templates_histogram: tuple[int, ...] = ()
    """How many identities have 0, 1, ... templates; empty where it was built before this was counted."""


def seal(manifest: Manifest) -> bytes:
    """Manifest to JSON, with its checksum."""
    unsealed = msgspec.structs.replace(manifest, checksum="")
    checksum = hashlib.sha256(msgspec.json.encode(unsealed)).hexdigest()
    return msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, checksum=checksum)))


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(huge_pages.mapped(path).data).hexdigest()


class Generation:
    """An opened generation. Read-only and thread-safe; its files may be unlinked while it is open."""

    def __init__(self, folder: Path, contract_digest: str):
        """Open the generation in `folder`; all is verified but the vectors, see `verify_vectors`.

        Raises CorruptDataError naming what does not hold: a missing file, a checksum, another contract.
        """
        self.folder = folder
        self.manifest = manifest = read_manifest(folder)
        if manifest.contract_digest != contract_digest:
            raise CorruptDataError(f"generation {folder} was built for another embedding contract")
        for name, entry in manifest.files.items():
            _verify(folder / name, entry, has_content=name != VECTORS)
        self._index = _read_vectors(folder / VECTORS, manifest)
        self.vectors: Vectors = _mapped(self._index)
        """float32[n, d], mapped and read-only, as long as somebody has it. Only copies notice that it is not
        aligned."""
        self._head = _head(folder / VECTORS, manifest)
        # As plain arrays: each access to a memmap costs microseconds.
        self.template_ids: NDArray[np.uint64] = np.asarray(np.load(folder / TEMPLATE_IDS, mmap_mode="r"))
        self.identity_numbers: NDArray[np.uint64] = np.asarray(
            np.load(folder / IDENTITY_NUMBERS, mmap_mode="r")
        )
        files, parameters = manifest.files, manifest.parameters
        self.crowding = read_crowding(folder / CROWDING, self.num_rows) if CROWDING in files else None
        """float32[n], of each row, see `engine.index.neighbours`; None: it was not computed."""
        self.own_tops = read_own_tops(folder / OWN_PEOPLE) if OWN_PEOPLE in files else None
        """Of a sample of its people; None: there are too few, or it was built before this was kept."""
        self.codes = Codes(folder, parameters, self.vectors, self._similarities) if parameters else None
        self._on_device: GpuSearcher | None = None
        self._bound = BoundCode.open(folder, self.vectors) if BOUND_TABLES in files else None

    @property
    def num_rows(self) -> int:
        """Templates in the generation, removed ones included."""
        return self.manifest.num_templates

    @property
    def is_exact(self) -> bool:
        """Whether `search` is an exact scan."""
        return self.codes is None or self._on_device is not None

    @property
    def device(self) -> str:
        """Device and library that `search` really uses."""
        if self._on_device:
            return self._on_device.name
        return "cpu" if self.codes is None or self.codes.kernel else "cpu, without kernel"

    def verify_vectors(self) -> None:
        """Read all vectors; raises CorruptDataError where they do not fit their checksum.

        Other threads run meanwhile. Reads the very memory that is searched, so that it is there afterwards.
        """
        entry, digest = self.manifest.files[VECTORS], hashlib.sha256()
        content = self.vectors.reshape(-1).view(np.uint8)
        digest.update(self._head)
        with ReadAhead(self.folder / VECTORS) as file:
            for start in range(0, len(content), _BLOCK_BYTES):
                file.will_need(len(self._head) + start + _BLOCK_BYTES, _BLOCK_BYTES)
                digest.update(content[start : start + _BLOCK_BYTES].data)
        if digest.hexdigest() != entry.sha256:
            raise CorruptDataError(f"generation file {self.folder / VECTORS} is damaged")

    def use_device(self, device: str) -> None:
        """Search on a device from now on, exactly, with a copy of the vectors there; see `engine.index.gpu`.

        Call it once, before the first search. The copy lasts as long as the generation. Raises DeviceError.
        """
        self._on_device = GpuSearcher(self.vectors, device)
        weakref.finalize(self, self._on_device.close)

    def rows_of(self, template_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row int64[n] of each template uint64[n]; -1 where it is not covered."""
        return places(self.template_ids, template_ids)

    def rows_of_identities(self, identity_numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows int64[r] of these identities uint64[m], each once."""
        order = self._identity_order
        first = np.searchsorted(self.identity_numbers, identity_numbers, side="left", sorter=order)
        end = np.searchsorted(self.identity_numbers, identity_numbers, side="right", sorter=order)
        places = _ranges(first, end)
        return places if order is None else order[places].astype(np.int64)

    def columns_of(self, rows: NDArray[np.int64]) -> Columns:
        """A copy of these rows."""
        return Columns(self.template_ids[rows], self.identity_numbers[rows], self.vectors[rows])

    def search(
        self, probes: Vectors, num_rows: int, alive: Alive
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarities and rows float32[n, r], int64[n, r], best first; -inf and -1 where there are no more.

        `alive` is a bitmap of the rows that may be found, lowest bit first; None: all. Similarities are exact
        inner products in float32; which rows are found is exact where `is_exact`, and nearly so elsewhere.
        """
        similarities, rows, _ = self.search_within(probes, num_rows, alive)
        return similarities, rows

    def search_within(
        self, probes: Vectors, num_rows: int, alive: Alive
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], float | None]:
        """As `search`, and the radius by the codes within which a single probe's rows were found, if any."""
        if self._on_device is not None:
            return *self._on_device.search(probes, num_rows, alive), None
        if self.codes is None:
            return *self.scan(probes, num_rows, alive), None
        return self.codes.search(probes, num_rows, alive)

    def scan(
        self, probes: Vectors, num_rows: int, alive: Alive
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As `search`, exactly."""
        similarities, rows = self._index.search(probes, num_rows, params=_parameters(alive))
        similarities[rows < 0] = -np.inf
        return similarities, rows

    def at_least(
        self, probe: Vector, floor: float, alive: Alive
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Every living row with a cosine of at least `floor` to probe float32[d]: float32[r], int64[r].

        In no order. Rows below it by no more than the rounding of float32 may be there, too.
        """
        if self._bound is not None:
            return self._bound.at_least(probe, floor, alive)
        # Unit vectors; FAISS gives what is above the radius.
        radius = np.nextafter(np.float32(floor - 1.01 * gamma(len(probe))), np.float32(-np.inf))
        _, similarities, rows = self._index.range_search(
            probe[None], float(radius), params=_parameters(alive)
        )
        return similarities, rows

    @cached_property
    def _identity_order(self) -> NDArray[np.uint32] | None:
        """Rows uint32[n] in order of their identities; None: they are in order as they are."""
        numbers = self.identity_numbers
        if (numbers[1:] >= numbers[:-1]).all():
            return None
        return np.argsort(numbers, kind="stable").astype(np.uint32)

    def _similarities(self, probes: Vectors, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Inner products float32[n, r] of probes with their rows; -inf for row -1."""
        faiss = library()
        probes = np.ascontiguousarray(probes, np.float32)
        rows = np.ascontiguousarray(rows)
        similarities = np.empty(rows.shape, np.float32)
        self._index.compute_distance_subset(
            len(probes),
            faiss.swig_ptr(probes),
            rows.shape[1],
            faiss.swig_ptr(similarities),
            faiss.swig_ptr(rows),
        )
        return similarities


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a generation. Raises CorruptDataError, NewerFormatError."""
    try:
        content = (folder / MANIFEST).read_bytes()
        fields = msgspec.json.decode(content, type=dict[str, Any])
        manifest = msgspec.json.decode(content, type=Manifest)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDataError(f"generation {folder} has no readable manifest: {error}") from error
    if manifest.format > FORMAT_VERSION:
        raise NewerFormatError(
            f"generation {folder} has format {manifest.format}, this version reads {FORMAT_VERSION}"
        )
    # Of the fields as they were written: older formats have fewer.
    unsealed = msgspec.json.encode(fields | {"checksum": ""})
    if hashlib.sha256(unsealed).hexdigest() != manifest.checksum:
        raise CorruptDataError(f"the checksum of {folder / MANIFEST} does not hold")
    if manifest.kind != (CODED if manifest.parameters else FLAT):
        raise CorruptDataError(f"generation {folder} is of an unknown kind, {manifest.kind}")
    if missing := {VECTORS, TEMPLATE_IDS, IDENTITY_NUMBERS} - manifest.files.keys():
        raise CorruptDataError(f"the manifest of generation {folder} does not list {min(missing)}")
    return manifest


def _verify(path: Path, entry: FileEntry, *, has_content: bool) -> None:
    try:
        is_whole = path.is_file() and path.stat().st_size == entry.size_bytes
        is_whole = is_whole and (not has_content or sha256(path) == entry.sha256)
        with path.open("rb"):
            pass
    except OSError as error:
        raise CorruptDataError(f"generation file {path} cannot be read: {error.strerror}") from error
    if not is_whole:
        raise CorruptDataError(f"generation file {path} is damaged")


def _read_vectors(path: Path, manifest: Manifest) -> Any:
    faiss = library()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CorruptDataError(f"generation file {path} is damaged") from error
    found = (type(index), index.metric_type, index.d, index.ntotal)
    if found != (faiss.IndexFlatIP, faiss.METRIC_INNER_PRODUCT, manifest.dimension, manifest.num_templates):
        raise CorruptDataError(f"generation file {path} is damaged")
    return index


class _Floats:
    """The vectors of a FAISS flat index, which stays as long as an array of them."""

    def __init__(self, index: Any):
        self._index = index
        flat = library().rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
        shape = (index.ntotal, index.d)
        self.__array_interface__ = flat.__array_interface__ | {
            "shape": shape,
            "data": (flat.ctypes.data, True),
        }


def _mapped(index: Any) -> Vectors:
    return np.asarray(_Floats(index)) if index.ntotal else np.empty((0, index.d), np.float32)


def _head(path: Path, manifest: Manifest) -> bytes:
    """What is in the file before the vectors."""
    num_bytes = path.stat().st_size - manifest.num_templates * manifest.dimension * 4
    with path.open("rb") as file:
        return file.read(num_bytes)


def _parameters(alive: Alive) -> Any:
    return None if alive is None else library().SearchParameters(sel=selector(alive))


def _ranges(first: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """first[0], ..., end[0] - 1, first[1], ..."""
    sizes = end - first
    shifts = first - (np.cumsum(sizes) - sizes)
    places: NDArray[np.int64] = np.arange(int(sizes.sum())) + np.repeat(shifts, sizes)
    return places
