"""Plain values of the domain. Knows nothing of files, networks, stores or the wire.

Letters of dimensions: n items of a batch, d floats of a template, h, w pixels of a picture, k candidates.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""float32[d], unit length unless said otherwise."""
Vectors = NDArray[np.float32]
"""float32[n, d], C-contiguous."""
Rgb = NDArray[np.uint8]
"""uint8[h, w, 3], red first, rows from the top."""
Keypoints = NDArray[np.float32]
"""float32[5, 2]: x, y in pixels of left eye, right eye, nose, mouth left, mouth right, as one sees them."""

NO_ATTRIBUTES: Mapping[str, str] = {}


class FaceChoice(enum.StrEnum):
    """Which of a picture's faces are meant."""

    LARGEST = "largest"
    """The face with the largest box."""
    CENTRE = "centre"
    """The face whose box centre is nearest the picture's centre (the rule of LFW)."""
    ALL = "all"


class Decision(enum.StrEnum):
    """What an identify or verify answer means for the caller."""

    MATCH = "MATCH"
    REVIEW = "REVIEW"
    NO_MATCH = "NO_MATCH"


class Fusion(enum.StrEnum):
    """How the similarities of an identity's templates become the identity's."""

    MAX = "max"
    """That of its best template."""
    MEAN = "mean"
    """The mean over all of its templates."""


class Consistency(enum.StrEnum):
    """Which writes a search must see."""

    STRONG = "strong"
    """Every write answered before it, on any worker; while a worker is far behind it is UnavailableError."""
    EVENTUAL = "eventual"
    """Those that the worker has; the answer names the sequence."""


class ThresholdOrigin(enum.StrEnum):
    """Where the threshold of an answer came from."""

    CONTRACT = "contract"
    GALLERY = "gallery"
    """The gallery's fixed threshold."""
    REQUEST = "request"
    CALIBRATION = "calibration"
    """The gallery's target rate, by its contract's calibration and the identities searched."""
    OWN_PEOPLE = "own people"
    """The gallery's target rate, by how alike its own people are: stricter than the calibration's."""


class CrowdingCorrection(enum.StrEnum):
    """Whether similarities are corrected by how crowded the neighbourhoods of probe and candidate are."""

    AUTO = "auto"
    """Where the contract's calibration says that it finds more people, and the gallery has a target_fpir."""
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the upright picture; x2 and y2 are exclusive edges."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """Pixels."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Pixels."""
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        """Square pixels."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Face:
    """A detected face."""

    box: Box
    """Inside the picture's frame."""
    confidence: float
    """0..1, of the detector: that this is a face, not whose it is."""
    keypoints: Keypoints


@dataclass(frozen=True, slots=True)
class EmbeddedFace:
    """A detected face and its template."""

    face: Face
    template: Vector
    crop: bytes = b""
    """The kept crop, see engine.embedding.kept; empty where it was not asked for."""


@dataclass(frozen=True, slots=True)
class EmbeddingContract:
    """What must be equal for two templates to be comparable.

    Templates of different contracts never meet: a gallery is bound to one, by its digest.
    """

    name: str
    """Network name, e.g. ``dlib-resnet``."""
    weights_sha256: str
    """Hex digest of the weight file, empty for vectors made elsewhere."""
    alignment: str
    """Name of the crop that the network sees, empty for vectors made elsewhere."""
    mirror: bool
    """Whether a template is unit(raw(crop) + raw(mirrored crop))."""
    dimension: int
    normalisation: str = "l2"
    threshold: float = 0.0
    """Default similarity at or above which two templates are accepted as one person. Not part of the
    digest: moving it does not change what may be compared."""

    @property
    def digest(self) -> str:
        """Hex sha256 over all fields that decide comparability."""
        fields = dataclasses.asdict(self)
        del fields["threshold"]
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Template:
    """One template to enroll."""

    vector: Vector
    quality: float = 0.0
    """0..1, higher is better; the detector's confidence where the template came from a picture."""
    source: str = ""
    """The caller's own key of the picture or record, at most SOURCE_BYTES_MAX bytes of UTF-8."""
    crop: bytes = b""
    """The kept crop that another network can embed one day, see engine.embedding.kept; empty: none."""


@dataclass(frozen=True, slots=True)
class Enrollment:
    """One identity to enroll: its templates are added, its attributes merged."""

    identity_id: str
    templates: tuple[Template, ...] = ()
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    expire_time: float | None = None
    """Unix time, seconds; None: as it was."""
    replace: bool = False
    """Templates, attributes and expiry given replace all that were there."""
    evict_lowest_quality: bool = False
    """Beyond the gallery's most templates the one of lowest quality goes, instead of an error."""


@dataclass(frozen=True)
class Columns:
    """Templates side by side, in ascending order of their ids: what an index is made of."""

    template_ids: NDArray[np.uint64]
    """uint64[n], ascending"""
    identity_numbers: NDArray[np.uint64]
    """uint64[n]"""
    vectors: Vectors
    """float32[n, d]"""

    @classmethod
    def empty(cls, num_rows: int, dimension: int) -> Columns:
        """Memory for so many rows, to be filled."""
        return cls(
            np.empty(num_rows, np.uint64),
            np.empty(num_rows, np.uint64),
            np.empty((num_rows, dimension), np.float32),
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """Makes a retried write safe: the same key with the same body gets the first answer, for 24 h."""

    key: bytes
    """sha256 over caller, rpc and request id."""
    body_sha256: bytes
    """Of the canonical request."""
    encode: Callable[[Any], bytes]
    """Turns the operation's result into the answer to keep; called inside the transaction."""


class AnsweredBefore(Exception):  # noqa: N818 - not an error: a write found its first answer
    """A write's receipt was found: `answer` is what it was answered with the first time."""

    def __init__(self, answer: bytes):
        super().__init__("answered before")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """One template as the store holds it."""

    template_id: int
    vector: Vector
    quality: float
    source: str
    create_time: float
    """Unix time, seconds."""
    crop: bytes = b""
    """Empty: there is none, or it was not asked for."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A person (or thing) enrolled in a gallery."""

    identity_id: str
    attributes: Mapping[str, str]
    template_ids: tuple[int, ...]
    create_time: float
    """Unix time, seconds."""
    expire_time: float | None = None
    """Unix time, seconds, from which on the identity is not found; None: never."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a gallery is searched, beside k and the threshold."""

    exact: bool = False
    """Whether the candidates must be proven to be those of an exact scan; takes longer in a large gallery."""
    fusion: Fusion = Fusion.MAX
    filter: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Attributes that an identity must have, all of them, to be a candidate; empty: everybody may be."""
    consistency: Consistency = Consistency.STRONG


SEARCH_DEFAULTS = SearchOptions()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An enrolled identity that a probe may be of."""

    identity_id: str
    similarity: float
    """Cosine of the probe and the identity's templates, fused as asked for, -1..1."""
    template_id: int
    """The best template."""
    similarity_corrected: float | None = None
    """Similarity less half of how crowded probe and candidate stand; None: no correction was made."""


@dataclass(frozen=True, slots=True)
class Identification:
    """The answer to one probe against a gallery."""

    decision: Decision
    candidates: tuple[Candidate, ...]
    """Best first, by similarity_corrected where that is there; equal similarities in order of identity_id."""
    threshold: float
    """What similarity, or similarity_corrected where that is there, must reach for a MATCH."""
    threshold_origin: ThresholdOrigin
    searched_sequence: int
    """The answer includes every write up to this sequence."""
    num_searched: int
    """Templates that were searched."""
    is_exact: bool
    """Whether the candidates are proven to be those of an exact scan. Similarities always are exact."""
    num_identities: int = 0
    """Identities left to search after filters; with several attributes at most so many."""
    estimated_fpir: float | None = None
    """Share of strangers, 0..1, whose best candidate among as many identities would reach the best one's
    similarity here; None: no candidate, or the contract has no calibration."""
    review_threshold: float | None = None
    """From here on it is REVIEW at least; None: the gallery has no review_fpir."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The answer to one probe against one claimed identity, or to two pictures."""

    decision: Decision
    similarity: float
    threshold: float
    threshold_origin: ThresholdOrigin
    template_id: int | None = None
    """The claimed identity's best template; None between two pictures."""
    searched_sequence: int = 0


@dataclass(frozen=True, slots=True)
class GallerySettings:
    """What a gallery's owner chose at its creation or later."""

    templates_per_identity_max: int = 16
    threshold: float | None = None
    """Fixed similarity threshold; None: the contract's. Not together with target_fpir."""
    keep_crops: bool = False
    """Whether the face of each enrolled picture is kept beside its template. Never changes."""
    target_fpir: float | None = None
    """Wished share of strangers who are a MATCH, between 0 and 1: the threshold follows from it, from the
    contract's calibration and the identities searched."""
    review_fpir: float | None = None
    """Share of strangers who may be a REVIEW or a MATCH, above target_fpir and below 1; None: no review."""
    ambiguity: float = 0.0
    """MATCH is REVIEW where a second identity's similarity is nearer to the best than this, 0 to 2."""
    target_fmr: float | None = None
    """Wished share of impostors that `verify` accepts, between 0 and 1; None: the threshold as without it."""
    crowding: CrowdingCorrection = CrowdingCorrection.AUTO
    has_probe_statistics: bool = False
    """Whether the similarities of probes' best candidates are counted; no biometric data is kept."""


@dataclass(frozen=True, slots=True)
class GalleryInfo:
    """A gallery as listed."""

    gallery_id: str
    contract: EmbeddingContract
    settings: GallerySettings
    num_identities: int
    num_templates: int
    sequence: int
    create_time: float
    """Unix time, seconds."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often a default search found what an exact scan finds."""

    num_probes: int
    top1: float
    """Share of probes with the same nearest template, 0..1."""
    top10: float
    """Share of the ten nearest templates that were among the ten found, 0..1."""


@dataclass(frozen=True, slots=True)
class EnrollResult:
    """The answer to one enrolled identity."""

    sequence: int
    identity_id: str
    template_ids: tuple[int, ...]
    """Ids of the templates given, in their order; an ignored one has the id of its byte-equal twin."""
    num_added: int
    num_ignored: int
    """Byte-equal to one already there."""
    num_evicted: int
    is_new_identity: bool
    num_replaced: int = 0
    """Templates of before that `replace` dropped; evicted ones are not among them."""


@dataclass(frozen=True, slots=True)
class RemoveResult:
    """The answer to a removal."""

    sequence: int
    num_identities: int
    num_templates: int
    is_erased: bool
    """True: no file of the gallery's data folder holds the vectors any more."""
