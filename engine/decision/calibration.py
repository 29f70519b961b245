"""A calibration: what was measured of one network on real people, and what follows for a gallery.

A small JSON file. Those of the shipped networks lie in `calibrations/` beside this module; one of a network
given by its path lies beside it. Knows nothing of galleries, indexes or how the numbers were estimated.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec

from engine.decision.rates import SIMILARITY_BOUND, RateTable
from engine.errors import SettingsError

FORMAT_VERSION = 1
SUFFIX = ".calibration.json"
"""Of the file beside a network's weights: `network.safetensors` has `network.calibration.json`."""
PLAIN = "max"
"""Curve of an identity's best template."""
MEAN = "mean"
"""Curve of the mean over an identity's templates."""
CORRECTED = "max corrected"
"""Curve of the best template with the crowding correction."""
SUPPORT_MIN = 10.0
"""Calibration people whose tops must be expected to reach a threshold before the data carries it."""
MATED_SIZES_MAX = 4.0
"""Multiple of the largest size measured up to which mated similarities that depend on the size are known."""
P_VALUE_MIN = 0.01
"""Of a tail's fit, below which what follows from it is called a guess."""
FNIR_WARNED = 0.3
"""Expected share of missed people above which a threshold comes with a warning."""


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A measured number and its interval of 95 %."""

    value: float
    low: float
    high: float


class Tail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Generalised Pareto distribution of what exceeds a high quantile of the tops, and how well it fits."""

    start: float
    """Similarity that the tail begins at."""
    shape: float
    scale: float
    num_exceedances: int
    distance: float
    """Kolmogorov-Smirnov distance of the exceedances from the fit."""
    p_value: float
    """Share of samples drawn from the fit that lie as far from their own fits; small: it does not fit."""


class MatedAt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mated similarities among so many identities."""

    size: float
    quantiles: tuple[float, ...]
    """At even steps from 0 to 1."""


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rates of one way to make an identity's similarity."""

    table: RateTable
    tail: Tail
    growth: Span
    """Exponent b of the size beyond the calibration's people, measured between half of them and all."""
    templates_exponent: Span
    """Exponent beta: an identity with m templates counts as m^beta with one."""
    mated: tuple[float, ...]
    """Quantiles of mated similarities at even steps from 0 to 1, one template each; empty: not known."""

    mated_at: tuple[MatedAt, ...] = ()
    """The same by size, rising, where it depends on the size, as corrected by crowding; then `mated` is
    the last. Empty: it does not."""

    def __post_init__(self) -> None:
        """Refuse a curve of no use, as a file changed by hand may hold. Raises ValueError."""
        if not 0.0 <= self.templates_exponent.value <= 1.0:
            raise ValueError("an exponent of templates must lie from 0 to 1")
        sizes = [one.size for one in self.mated_at]
        if not _is_rising([1.0, *sizes]) or len(set(sizes)) < len(sizes):
            raise ValueError("the sizes of mated similarities must rise, from 1 on")
        quantiles = [self.mated, *(one.quantiles for one in self.mated_at)]
        if not all(_is_rising([-SIMILARITY_BOUND, *one, SIMILARITY_BOUND]) for one in quantiles):
            raise ValueError(f"quantiles must not fall, nor lie beyond {SIMILARITY_BOUND:g}")
        if sizes and ({len(one) for one in quantiles[1:]} != {len(self.mated)} or not self.mated):
            raise ValueError("mated similarities of all sizes must have as many quantiles")

    def expected_fnir(self, threshold: float, size: float | None = None) -> float | None:
        """Share of mated probes below the threshold; those that another identity beats come on top.

        None where it is not known: beyond MATED_SIZES_MAX times the last size of `mated_at`, too.
        """
        mated = self._mated(size)
        if not mated:
            return None
        right = bisect.bisect_left(mated, threshold)
        if right == 0 or right == len(mated):
            return float(right > 0)
        before, after = mated[right - 1], mated[right]
        share = (threshold - before) / (after - before) if after > before else 0.0
        return (right - 1 + share) / (len(mated) - 1)

    def _mated(self, size: float | None) -> Sequence[float]:
        if size is None or len(self.mated_at) < 2:
            return self.mated
        if size > MATED_SIZES_MAX * self.mated_at[-1].size:
            return ()
        sizes = [one.size for one in self.mated_at]
        right = min(max(1, bisect.bisect_left(sizes, size)), len(sizes) - 1)
        start, end = math.log(sizes[right - 1]), math.log(sizes[right])
        share = max(0.0, (math.log(size) - start) / (end - start))
        pairs = zip(self.mated_at[right - 1].quantiles, self.mated_at[right].quantiles, strict=True)
        return sorted(before + share * (after - before) for before, after in pairs)


class LeftOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two names that are probably one person; the second was left out."""

    first: str
    second: str
    similarity: float


class CrowdingFigure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the crowding correction does at one size and rate."""

    size: int
    fpir: float
    fnir_plain: float
    fnir_corrected: float


class GroupFigure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one group of the calibration's people fares at a threshold for all."""

    attribute: str
    group: str
    num_people: int
    target_fpir: float
    fpir: Span
    """Of the group's people as strangers, all others enrolled."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was measured of one contract's templates."""

    format: int = FORMAT_VERSION
    contract_name: str
    contract_digest: str
    people: str
    """Whose strangers these are, in words."""
    created: str
    """Date, as 2026-11-22."""
    num_people: Annotated[int, msgspec.Meta(ge=1)]
    num_pictures: int
    left_out: tuple[LeftOut, ...] = ()
    duplicate_similarity: float | None = None
    """From here on two identities are probably one person; None: not known."""
    curves: dict[str, Curve]
    """By PLAIN, MEAN, CORRECTED; PLAIN is always there."""
    crowding: tuple[CrowdingFigure, ...] = ()
    is_crowding_better: bool = False
    """Whether the correction finds more people, beyond chance."""
    groups: tuple[GroupFigure, ...] = ()

    def support(self, curve: str, threshold: float, size: float | None = None) -> float:
        """How many of the calibration's people had a top at or above this similarity, as the fit has it.

        Among all others, or where similarities depend on the `size` searched, among so many of them.
        """
        among = max(1.0, self.num_people - 1.0)
        if size is not None and self.curves[curve].mated_at:
            among = min(among, size)
        return self.num_people * self.curves[curve].table.fpir(threshold, among)

    def warnings(self, curve: str, target_fpir: float, size: float) -> tuple[str, ...]:
        """Say what speaks against trusting the threshold for this rate and size; empty: nothing known."""
        chosen = self.curves[curve]
        threshold = chosen.table.threshold(target_fpir, size)
        told = []
        carried = self.support(curve, threshold.value, size)
        if carried < SUPPORT_MIN:
            told.append(
                f"a threshold for FPIR {target_fpir:g} among {size:,.0f} lies beyond the calibration's"
                f" {self.num_people:,} people: {carried:.2g} of them are expected to reach it,"
                f" {SUPPORT_MIN:.0f} would carry it. Calibrate on more people, or go by its interval"
            )
            if chosen.tail.p_value < P_VALUE_MIN:
                told.append(
                    "the tail of the calibration does not fit its people"
                    f" (p = {chosen.tail.p_value:.2g}): what lies beyond them is a guess"
                )
        missed = chosen.expected_fnir(threshold.value, size)
        if missed is not None and missed > FNIR_WARNED:
            told.append(
                f"at FPIR {target_fpir:g} among {size:,.0f} this network is expected to miss {missed:.0%} of"
                " the people: use a better one, more templates an identity, or a review_fpir"
            )
        if chosen.mated_at and size > MATED_SIZES_MAX * chosen.mated_at[-1].size:
            told.append(
                f"the crowding correction was measured among {chosen.mated_at[-1].size:,.0f} identities at"
                f" most: what it does among {size:,.0f} is not known. Calibrate on more people, or turn it"
                " off"
            )
        return tuple(told)


def _is_rising(values: Sequence[float]) -> bool:
    return all(before <= after for before, after in itertools.pairwise(values))


def read(path: Path, contract_digest: str | None = None) -> Calibration:
    """Read a calibration; of the contract of this digest, where one is given. Raises SettingsError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot read calibration {path}: {error.strerror}", hint="Check the path of --calibration."
        ) from error
    calibration = _decode(content, str(path))
    if contract_digest is not None and calibration.contract_digest != contract_digest:
        raise SettingsError(
            f"calibration {path} is of contract {calibration.contract_name}"
            f" ({calibration.contract_digest[:12]}), not of {contract_digest[:12]}",
            hint="Thresholds of one network do not hold for another; run `identiface calibrate` for it.",
        )
    return calibration


def encode(calibration: Calibration) -> bytes:
    """Give the bytes of its file."""
    return msgspec.json.encode(calibration) + b"\n"


def shipped() -> dict[str, Calibration]:
    """Read the calibrations that come with the engine, by the digest of their contract."""
    folder = resources.files("engine.decision") / "calibrations"
    files = [file for file in folder.iterdir() if file.name.endswith(".json")] if folder.is_dir() else []
    return by_digest(_decode(file.read_bytes(), file.name) for file in files)


def by_digest(calibrations: Iterable[Calibration]) -> dict[str, Calibration]:
    """Order calibrations by the digest of their contract; of two for one the later counts."""
    return {one.contract_digest: one for one in calibrations}


def beside(weights: Path) -> Path:
    """Where the calibration of a network given by this path lies."""
    return weights.with_suffix(SUFFIX)


def _decode(content: bytes, name: str) -> Calibration:
    try:
        calibration = msgspec.json.decode(content, type=Calibration)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"calibration {name} cannot be read: {error}", hint="Make it anew by `identiface calibrate`."
        ) from error
    if calibration.format != FORMAT_VERSION:
        raise SettingsError(
            f"calibration {name} has format {calibration.format}, this version reads {FORMAT_VERSION}",
            hint="Make it anew by `identiface calibrate` of this version.",
        )
    if PLAIN not in calibration.curves:
        raise SettingsError(f"calibration {name} has no curve {PLAIN!r}", hint="Make it anew.")
    return calibration
