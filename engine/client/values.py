"""What a caller gives to the client and gets from it. Knows nothing of channels and calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from engine.errors import EngineError, InvalidInputError
from engine.open_set_types import GalleryThresholds, ProbeStatistics
from engine.pb.identiface.v1 import admin_pb2, enrollment_pb2, gallery_pb2, identification_pb2, types_pb2
from engine.types import (
    Agreement,
    Consistency,
    EmbeddingContract,
    EnrollResult,
    Face,
    FaceChoice,
    Fusion,
    GalleryInfo,
    Identification,
    Identity,
    RemoveResult,
    StoredTemplate,
    Template,
    Vector,
    Verification,
)
from engine.wire.answers import (
    unpack_agreement,
    unpack_enroll_result,
    unpack_identification,
    unpack_identity,
    unpack_verification,
)
from engine.wire.errors import from_status
from engine.wire.galleries import unpack_gallery
from engine.wire.open_set import unpack_probe_statistics, unpack_thresholds
from engine.wire.values import pack_picture, pack_time, pack_vector, unpack_contract


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file, and which of its faces is meant."""

    data: bytes
    """JPEG, PNG, WebP or BMP."""
    choice: FaceChoice | None = None
    """None: the largest face; where faces are only found or embedded, all."""
    min_face_px: int | None = None
    """Size of face at which the search starts, in pixels of its box's side, 12 or more; None: the server's
    setting. Boxes may come out down to about half of it."""
    source: str = ""
    """The caller's own key of the picture, kept with the template; at most 255 bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class RawVector:
    """A vector of any length, which the server brings to unit length before it is used."""

    vector: Vector
    """float32[d]."""


class SearchKeywords(TypedDict, total=False):
    """How to search, as keywords: the fields of engine.types.SearchOptions."""

    exact: bool
    """Prove the candidates to be those of an exact scan; takes longer in a large gallery."""
    fusion: Fusion
    """Whether an identity is as similar as its best template (MAX, as without this) or as all in the mean."""
    filter: Mapping[str, str]
    """Attributes that an identity must have, all of them, to be a candidate."""
    consistency: Consistency
    """STRONG, as without this: every write answered before is seen; EVENTUAL: what the worker has."""


Probe = bytes | Picture | Vector | RawVector
"""What asks: a picture file, a picture with a choice of face, or a ready-made template float32[d]."""
Sample = bytes | Picture | Vector | RawVector | Template
"""What is enrolled: as a probe, or a template with its quality and source."""


@dataclass(frozen=True, slots=True)
class EnrollOptions:
    """How an identity is enrolled."""

    expire_time: float | None = None
    """Unix seconds, from which on the identity is not found; None: as it was."""
    replace: bool = False
    """Templates, attributes and expiry given replace all that were there."""
    evict_lowest_quality: bool = False
    """Beyond the gallery's most templates the one of lowest quality goes, instead of an error."""


@dataclass(frozen=True, slots=True)
class EnrollItem:
    """One identity of a stream of enrollments."""

    identity_id: str
    samples: Sequence[Sample] = ()
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: EnrollOptions = EnrollOptions()


@dataclass(frozen=True, slots=True)
class FaceEnrollResult(EnrollResult):
    """The answer to one enrolled identity, with the faces that its pictures showed."""

    faces: tuple[Face | None, ...] = ()
    """One for each sample, in order; None for a vector."""


@dataclass(frozen=True, slots=True)
class FaceIdentification(Identification):
    """The answer for one face of a picture, or for a vector."""

    face: Face | None = None
    """None for a vector."""


@dataclass(frozen=True, slots=True)
class FaceVerification(Verification):
    """The answer to a claim, with the faces that were compared."""

    probe_face: Face | None = None
    """None for a vector."""
    reference_face: Face | None = None
    """None for a vector or an enrolled identity."""


@dataclass(frozen=True, slots=True)
class ServedGallery(GalleryInfo):
    """A gallery as the server describes it."""

    aliases: tuple[str, ...] = ()
    """Second names that point to it."""


@dataclass(frozen=True, slots=True)
class EnrolledIdentity(Identity):
    """An identity with its templates."""

    templates: tuple[StoredTemplate, ...] = ()
    """Their vectors are float32[0] where they were not asked for."""
    sequence: int = 0
    """Of the write that this is the answer to; 0 where it was only read."""


@dataclass(frozen=True, slots=True)
class BatchRemoveResult(RemoveResult):
    """The answer to a removal of many identities."""

    not_found_identity_ids: tuple[str, ...] = ()
    """Those that were not enrolled."""


@dataclass(frozen=True, slots=True)
class GalleryStatus:
    """A gallery in a server's status."""

    gallery_id: str
    num_identities: int
    num_templates: int
    sequence: int
    """Number of the last committed write."""
    generation: int
    """Number of the current generation of the index; 0: none yet."""
    kind: str = ""
    """What the generation is, "flat" where its search is exact; empty: none yet."""
    agreement: Agreement | None = None
    """What was last measured of it; None: nothing."""
    search_device: str = "cpu"
    """Where the worker that answered searches the generation: "cpu", or the GPU, with how and in how much of
    its memory. Templates enrolled since are always searched on the CPU."""
    thresholds: GalleryThresholds | None = None
    """By which its probes are decided; None: the server is of before, and does not tell."""
    probe_statistics: ProbeStatistics | None = None
    """What the worker that answered counted of its probes; None: the gallery counts none."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What a server is and holds."""

    version: str
    device: str
    """Where pictures are embedded: "cpu", "cuda" or, without a network, "none"."""
    contract: EmbeddingContract | None
    """Of the server's network; None: it takes vectors only."""
    galleries: tuple[GalleryStatus, ...]
    """In order of gallery_id."""
    num_workers: int = 1
    """Processes that serve the port as equals; a client needs about as many channels to use them all."""


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far the building of an index is."""

    num_done: int
    """Templates written."""
    num_total: int
    """Templates to write."""
    is_done: bool
    """Whether the generation is current now."""
    generation: int
    """Its number, when done."""
    sequence: int
    """The sequence that it covers, when done."""


@dataclass(frozen=True, slots=True)
class RecallProgress:
    """How far a measurement of an index's agreement with exact search is."""

    num_done: int
    """Probes compared."""
    num_total: int
    """Probes to compare."""
    agreement: Agreement | None
    """What was found, when done."""
    generation: int
    """Generation that was measured, when done."""
    kind: str
    """What it is, when done."""


Extended = TypeVar("Extended")


def _extend(kind: type[Extended], value: Any, **more: Any) -> Extended:
    """Make a value of a subclass from one of its parent's and the fields that it adds."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return kind(**fields, **more)


def picture_message(sample: bytes | Picture, choice: FaceChoice | None, min_face_px: int | None) -> Any:
    """Turn a picture into its message; `choice` and `min_face_px` are for bare bytes."""
    if isinstance(sample, Picture):
        return pack_picture(sample.data, sample.choice, sample.min_face_px)
    return pack_picture(bytes(sample), choice, min_face_px)


def probe_message(
    probe: Probe, choice: FaceChoice | None = None, min_face_px: int | None = None
) -> identification_pb2.Probe:
    """Turn a probe into its message; `choice` and `min_face_px` are for bare bytes."""
    if isinstance(probe, bytes | bytearray | memoryview | Picture):
        return identification_pb2.Probe(picture=picture_message(probe, choice, min_face_px))
    return identification_pb2.Probe(vector=_vector_message(probe))


def enrollment_message(item: EnrollItem) -> enrollment_pb2.Enrollment:
    """Turn an identity to enroll into its message.

    Raises InvalidInputError where the samples are one sample instead of a list.
    """
    is_one = isinstance(item.samples, bytes | bytearray | memoryview | str | Picture | Template | RawVector)
    # A matrix is taken: its rows are vectors.
    if is_one or getattr(item.samples, "ndim", 2) < 2:
        raise InvalidInputError(
            f"samples is a single {type(item.samples).__name__}: give a list of samples",
            hint="Write [sample] instead of sample.",
        )
    options = item.options
    lowest, none = enrollment_pb2.EVICT_POLICY_LOWEST_QUALITY, enrollment_pb2.EVICT_POLICY_UNSPECIFIED
    return enrollment_pb2.Enrollment(
        identity_id=item.identity_id,
        samples=[_sample_message(sample) for sample in item.samples],
        attributes=dict(item.attributes),
        expire_time=None if options.expire_time is None else pack_time(options.expire_time),
        replace=options.replace,
        evict=lowest if options.evict_lowest_quality else none,
    )


def _sample_message(sample: Sample) -> enrollment_pb2.Sample:
    if isinstance(sample, Template):
        vector = _vector_message(sample.vector)
        return enrollment_pb2.Sample(
            vector=vector, quality=sample.quality, source=sample.source, crop=sample.crop
        )
    if isinstance(sample, Picture):
        return enrollment_pb2.Sample(picture=picture_message(sample, None, None), source=sample.source)
    if isinstance(sample, bytes | bytearray | memoryview):
        return enrollment_pb2.Sample(picture=pack_picture(bytes(sample)))
    return enrollment_pb2.Sample(vector=_vector_message(sample))


def _vector_message(sample: Any) -> types_pb2.Vector:
    if isinstance(sample, RawVector):
        return pack_vector(sample.vector, normalize=True)
    if not hasattr(sample, "dtype"):
        raise InvalidInputError(
            f"expected a picture as bytes or a vector as numpy array, got {type(sample).__name__}",
            hint="Read a picture file with Path(...).read_bytes(); make a vector with numpy.array(...).",
        )
    return pack_vector(sample)


def served_gallery(message: gallery_pb2.Gallery) -> ServedGallery:
    """Turn a message into a gallery."""
    return _extend(ServedGallery, unpack_gallery(message), aliases=tuple(message.aliases))


def face_identification(message: identification_pb2.FaceIdentification) -> FaceIdentification:
    """Turn a message into the answer for one face."""
    identification, face = unpack_identification(message)
    return _extend(FaceIdentification, identification, face=face)


def identify_outcome(message: identification_pb2.IdentifyOutcome) -> list[FaceIdentification] | EngineError:
    """Turn one outcome of a batch into its answers, or the error that it met."""
    if message.WhichOneof("outcome") == "error":
        return from_status(message.error)
    return [face_identification(face) for face in message.identified.faces]


def face_verification(message: identification_pb2.VerifyResponse) -> FaceVerification:
    """Turn a message into the answer to a claim."""
    verification, probe_face, reference_face = unpack_verification(message)
    return _extend(FaceVerification, verification, probe_face=probe_face, reference_face=reference_face)


def face_enroll_result(message: enrollment_pb2.EnrollResponse, identity_id: str) -> FaceEnrollResult:
    """Turn a message into the answer for one enrolled identity."""
    result, faces = unpack_enroll_result(message, identity_id)
    return _extend(FaceEnrollResult, result, faces=faces)


def enrolled_identity(message: types_pb2.Identity, sequence: int = 0) -> EnrolledIdentity:
    """Turn a message into an identity with its templates."""
    identity, templates = unpack_identity(message)
    return _extend(EnrolledIdentity, identity, templates=templates, sequence=sequence)


def server_status(message: admin_pb2.StatusResponse) -> ServerStatus:
    """Turn a message into a server's status."""
    galleries = tuple(
        GalleryStatus(
            gallery.gallery_id,
            gallery.num_identities,
            gallery.num_templates,
            gallery.sequence,
            gallery.generation,
            gallery.kind,
            unpack_agreement(gallery.agreement) if gallery.HasField("agreement") else None,
            gallery.search_device or "cpu",
            unpack_thresholds(gallery.thresholds) if gallery.HasField("thresholds") else None,
            unpack_probe_statistics(gallery.probe_statistics)
            if gallery.HasField("probe_statistics")
            else None,
        )
        for gallery in message.galleries
    )
    contract = unpack_contract(message.contract) if message.HasField("contract") else None
    # A server of before told neither: it was one process.
    return ServerStatus(message.version, message.device, contract, galleries, message.num_workers or 1)
