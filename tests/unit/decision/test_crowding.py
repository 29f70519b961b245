"""The crowding correction against plain loops, and its rates against galleries that were really drawn."""

from __future__ import annotations

import numpy as np
import pytest

from engine.decision import crowding
from engine.decision.estimator import Estimated, EstimatorSettings
from engine.errors import InvalidInputError

FEW = EstimatorSettings(num_resamples=20, seed=3)


def people(num: int, rng: np.random.Generator, dimension: int = 24) -> np.ndarray:
    """Unit vectors of people who come in crowds of unequal density."""
    centres = rng.standard_normal((12, dimension)) * 0.9
    spread = rng.uniform(0.5, 1.3, 12)
    of = rng.integers(0, 12, num)
    vectors = centres[of] + spread[of][:, None] * rng.standard_normal((num, dimension))
    units: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


@pytest.fixture(scope="module")
def similarities() -> np.ndarray:
    """Of 2,400 people."""
    vectors = people(2400, np.random.default_rng(5))
    similarities: np.ndarray = vectors @ vectors.T
    return similarities


@pytest.fixture(scope="module")
def estimated(similarities: np.ndarray) -> Estimated:
    """Of the first 1,000 of them."""
    return crowding.estimate_corrected(similarities[:1000, :1000], FEW)


def naive_search(probe: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plain and corrected similarities [n] of one probe [n] to a gallery [n, n]; -inf for no candidate."""
    order = sorted(range(len(probe)), key=lambda column: -probe[column])
    of_probe = np.mean([probe[column] for column in order[1:11]])
    corrected = np.full(len(probe), -np.inf)
    for column in order[:32]:
        others = sorted(
            (gallery[column, other] for other in range(len(probe)) if other != column), reverse=True
        )
        corrected[column] = probe[column] - (of_probe + np.mean(others[:10])) / 2
    return probe, corrected


def test_a_search_is_that_of_plain_loops(similarities: np.ndarray) -> None:
    gallery, probes = similarities[:60, :60], similarities[60:75, :60]
    found = crowding.search(probes, crowding.crowding_of(gallery))
    own = np.arange(15)
    plain_own, corrected_own = found.own(own)
    for row, probe in enumerate(probes):
        plain, corrected = naive_search(probe, gallery)
        assert found.tops[row] == pytest.approx(plain.max(), abs=1e-6)
        assert found.tops_corrected[row] == pytest.approx(corrected.max(), abs=1e-6)
        assert found.corrected_of(own)[row] == pytest.approx(corrected[row], abs=1e-6)
        assert np.isinf(plain_own[row]) == (plain.argmax() != row)
        assert np.isinf(corrected_own[row]) == (corrected.argmax() != row)


def test_leaving_one_out_is_a_gallery_without_that_person(similarities: np.ndarray) -> None:
    found = crowding.leave_one_out(similarities[:50, :50])
    for person in range(50):
        others = [other for other in range(50) if other != person]
        plain, corrected = naive_search(similarities[person, others], similarities[np.ix_(others, others)])
        assert found.tops[person] == pytest.approx(plain.max(), abs=1e-6)
        assert found.tops_corrected[person] == pytest.approx(corrected.max(), abs=1e-6)


def test_leaving_one_out_does_not_look_at_the_diagonal(similarities: np.ndarray) -> None:
    other = similarities[:40, :40].copy()
    np.fill_diagonal(other, np.nan)
    expected = crowding.leave_one_out(similarities[:40, :40])
    assert np.array_equal(crowding.leave_one_out(other).corrected, expected.corrected)


def test_no_probe_finds_nobody(similarities: np.ndarray) -> None:
    assert crowding.search(similarities[:0, :40], np.zeros(40)).tops.shape == (0,)


@pytest.mark.parametrize("size", [300, 700, 1300])
def test_thresholds_hold_in_galleries_of_other_people(
    similarities: np.ndarray, estimated: Estimated, size: int
) -> None:
    """1,300 is beyond the 1,000 calibrated on, where rates go on falling."""
    rng = np.random.default_rng(size)
    shares: dict[float, list[float]] = {0.1: [], 0.03: []}
    for _ in range(6):
        order = rng.permutation(np.arange(1000, 2400))
        enrolled, strangers = order[:size], order[size:]
        crowds = crowding.crowding_of(similarities[np.ix_(enrolled, enrolled)])
        tops = crowding.search(similarities[np.ix_(strangers, enrolled)], crowds).tops_corrected
        for fpir, found in shares.items():
            found.append(float((tops >= estimated.table.threshold(fpir, size).value).mean()))
    assert 1 / 1.5 < np.mean(shares[0.1]) / 0.1 < 1.5
    assert 1 / 1.7 < np.mean(shares[0.03]) / 0.03 < 1.7


def test_the_table_is_by_size_and_its_intervals_hold_its_values(estimated: Estimated) -> None:
    assert estimated.table.sizes[0] == 300
    assert estimated.table.sizes[4:6] == (499, 999)
    for size in (300, 500, 999, 5000):
        threshold = estimated.table.threshold(0.03, size)
        assert threshold.low < threshold.value < threshold.high


def test_the_seed_decides(similarities: np.ndarray) -> None:
    some = similarities[:640, :640]
    first, again = (crowding.estimate_corrected(some, FEW) for _ in range(2))
    other = crowding.estimate_corrected(some, EstimatorSettings(num_resamples=20, seed=4))
    assert first == again
    assert first.table != other.table


def test_too_few_people_are_refused(similarities: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="601 people"):
        crowding.estimate_corrected(similarities[:600, :600], FEW)
    with pytest.raises(InvalidInputError, match="more than 10 others"):
        crowding.leave_one_out(similarities[:11, :11])
    with pytest.raises(InvalidInputError, match="more than 10 others"):
        crowding.search(similarities[:3, :10], np.zeros(10))
    with pytest.raises(InvalidInputError, match="shape"):
        crowding.estimate_corrected(similarities[:700, :701], FEW)
