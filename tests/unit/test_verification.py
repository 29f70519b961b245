"""Two probes compared with each other: which terms hold, and what the answer is."""

from __future__ import annotations

import numpy as np
import pytest

from engine.decision.calibration import PLAIN
from engine.errors import InvalidInputError, PreconditionError
from engine.types import Decision, EmbeddingContract, GalleryInfo, GallerySettings, ThresholdOrigin
from engine.verification import Terms, choose_terms, compare
from tests.calibrations import CONTRACT, DIMENSION, calibration

NETWORK = EmbeddingContract("net", "", "", mirror=True, dimension=128, threshold=0.9)
ELSEWHERE = EmbeddingContract("elsewhere", "", "", mirror=False, dimension=64, threshold=0.5)
GALLERY = GalleryInfo("staff", ELSEWHERE, GallerySettings(threshold=0.7), 0, 0, 0, 0.0)


@pytest.mark.parametrize("network", [None, NETWORK])
@pytest.mark.parametrize("dimension", [None, 64, 128])
@pytest.mark.parametrize("threshold", [None, 0.1])
def test_a_gallery_that_is_named_brings_the_terms(
    network: EmbeddingContract | None, dimension: int | None, threshold: float | None
) -> None:
    assert choose_terms(GALLERY, network, dimension, threshold) == Terms(ELSEWHERE, GALLERY.settings)


@pytest.mark.parametrize(("dimension", "threshold"), [(None, None), (None, 0.1), (128, 0.1), (64, None)])
def test_without_a_gallery_the_networks_terms_hold(dimension: int | None, threshold: float | None) -> None:
    assert choose_terms(None, NETWORK, dimension, threshold) == Terms(NETWORK)


@pytest.mark.parametrize("network", [None, NETWORK])
def test_vectors_of_no_known_network_are_compared_at_a_threshold_that_is_given(
    network: EmbeddingContract | None,
) -> None:
    terms = choose_terms(None, network, 64, 0.1)
    assert (terms.contract.dimension, terms.contract.name, terms.settings) == (64, "", GallerySettings())


@pytest.mark.parametrize(("dimension", "threshold"), [(64, None), (None, None), (None, 0.1)])
def test_without_gallery_and_network_a_threshold_must_be_given(
    dimension: int | None, threshold: float | None
) -> None:
    with pytest.raises(InvalidInputError, match="threshold"):
        choose_terms(None, None, dimension, threshold)


@pytest.mark.parametrize(
    ("terms", "requested", "used", "origin"),
    [
        (Terms(NETWORK), None, 0.9, ThresholdOrigin.CONTRACT),
        (Terms(NETWORK, GallerySettings(threshold=0.7)), None, 0.7, ThresholdOrigin.GALLERY),
        (Terms(NETWORK, GallerySettings(threshold=0.7)), 0.6, 0.6, ThresholdOrigin.REQUEST),
    ],
)
def test_the_answer_is_the_cosine_at_the_threshold_that_holds(
    terms: Terms, requested: float | None, used: float, origin: ThresholdOrigin
) -> None:
    probe, reference = np.array([1.0, 0.0], np.float32), np.array([0.8, 0.6], np.float32)
    answer = compare(terms, probe, reference, requested)
    expected = float(np.float32(0.8))
    assert (answer.similarity, answer.threshold, answer.threshold_origin) == (expected, used, origin)
    assert answer.decision is (Decision.MATCH if expected >= used else Decision.NO_MATCH)
    assert (answer.template_id, answer.searched_sequence) == (None, 0)


def test_a_target_fmr_brings_the_threshold_of_the_calibration() -> None:
    probe = np.eye(DIMENSION, dtype=np.float32)[0]
    terms = Terms(CONTRACT, GallerySettings(target_fmr=0.01))
    answer = compare(terms, probe, probe, None, calibration())
    expected = calibration().curves[PLAIN].table.threshold(0.01, 1).value
    assert (answer.threshold, answer.threshold_origin) == (expected, ThresholdOrigin.CALIBRATION)
    assert answer.decision is Decision.MATCH
    with pytest.raises(PreconditionError, match="target_fmr"):
        compare(terms, probe, probe, None)
    assert compare(terms, probe, probe, 0.7).threshold == 0.7
