"""A world of people made of numbers, and calibrations measured of it by the engine's own estimator."""

from __future__ import annotations

import functools

import msgspec
import numpy as np

from engine.decision.calibration import CORRECTED, MEAN, PLAIN, Calibration, Curve, Span
from engine.decision.crowding import PEOPLE_MIN, estimate_corrected
from engine.decision.estimator import Estimated, EstimatorSettings, estimate
from engine.types import EmbeddingContract, Vectors

DIMENSION = 16
CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=DIMENSION, threshold=0.5)
QUICK = EstimatorSettings(num_resamples=20)
EXPONENT = 0.7
NUM_CALIBRATED = 700


def people(num: int, seed: int, spread: float = 1.0) -> Vectors:
    """Unit vectors of so many people, some with look-alikes; with less `spread` all are more alike."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((60, DIMENSION)) * 0.8
    vectors = centres[rng.integers(len(centres), size=num)] + spread * rng.standard_normal((num, DIMENSION))
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@functools.cache
def calibration(*, is_crowding_better: bool = False) -> Calibration:
    """Of NUM_CALIBRATED of these people, for CONTRACT, with all curves."""
    vectors = people(NUM_CALIBRATED, 1)
    return calibration_of(vectors, CONTRACT, is_crowding_better=is_crowding_better)


def calibration_of(
    vectors: Vectors, contract: EmbeddingContract, *, is_crowding_better: bool = False
) -> Calibration:
    """Of one vector each of different people; the crowding curve only of enough of them."""
    similarities = vectors @ vectors.T
    plain = _curve(estimate(similarities, QUICK))
    curves = {PLAIN: plain, MEAN: plain}
    if len(vectors) >= PEOPLE_MIN:
        curves[CORRECTED] = _curve(estimate_corrected(similarities, QUICK))
    return Calibration(
        contract_name=contract.name,
        contract_digest=contract.digest,
        people="made of numbers",
        created="2026-11-22",
        num_people=len(vectors),
        num_pictures=len(vectors),
        duplicate_similarity=0.999,
        curves=curves,
        is_crowding_better=is_crowding_better,
    )


def without(calibrated: Calibration, *curves: str) -> Calibration:
    """The same calibration without some of its curves."""
    kept = {name: curve for name, curve in calibrated.curves.items() if name not in curves}
    return msgspec.structs.replace(calibrated, curves=kept)


def _curve(estimated: Estimated) -> Curve:
    return Curve(
        table=estimated.table,
        tail=estimated.tail,
        growth=estimated.growth,
        templates_exponent=Span(EXPONENT, 0.6, 0.8),
        mated=tuple(np.linspace(0.7, 1.0, 101).tolist()),
    )
