"""Two templates compared with each other (1:1), nobody enrolled among them. Knows no pictures and no wire.

One template against an enrolled identity is `Gallery.verify`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.decision.calibration import Calibration
from engine.decision.policy import decide
from engine.errors import InvalidInputError
from engine.thresholds import Thresholds
from engine.types import EmbeddingContract, GalleryInfo, GallerySettings, Vector, Verification
from engine.vectors import similarity


@dataclass(frozen=True, slots=True)
class Terms:
    """What two probes are read and judged by."""

    contract: EmbeddingContract
    settings: GallerySettings = field(default_factory=GallerySettings)


def choose_terms(
    gallery: GalleryInfo | None,
    network: EmbeddingContract | None,
    dimension: int | None,
    threshold: float | None,
) -> Terms:
    """Choose the terms of a comparison: the gallery's where one is named, else the server's network's.

    `dimension` is that of two vectors; None: a picture is among the probes, which only the network reads. Two
    vectors that are not the network's can be compared all the same, at a `threshold` that is given. Raises
    InvalidInputError where nothing brings a threshold.
    """
    if gallery is not None:
        return Terms(gallery.contract, gallery.settings)
    if network is not None and (dimension in {None, network.dimension} or threshold is None):
        return Terms(network)
    if dimension is not None and threshold is not None:
        return Terms(EmbeddingContract("", "", "", mirror=False, dimension=dimension))
    raise InvalidInputError("threshold: needed where neither a gallery nor a network brings one")


def compare(
    terms: Terms,
    probe: Vector,
    reference: Vector,
    threshold: float | None,
    calibration: Calibration | None = None,
) -> Verification:
    """Compare two unit vectors float32[d] at `threshold` or, where it is None, at that of the terms.

    `calibration` is of the terms' contract. Raises PreconditionError where the terms have a target_fmr and
    there is none.
    """
    value = similarity(probe, reference)
    used, origin = Thresholds("", terms.contract, calibration).judge_verification(
        terms.settings, 1, threshold
    )
    return Verification(decide(value, used), value, used, origin)
