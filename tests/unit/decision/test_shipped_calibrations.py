"""The calibrations that come with the engine: of the shipped networks, small, and plausible."""

from __future__ import annotations

from importlib import resources

import pytest

from engine.decision import calibration
from engine.decision.calibration import CORRECTED, MEAN, PLAIN, Calibration

FILE_BYTES_MAX = 120_000
PEOPLE = {"dlib-resnet": 4356, "dlib-resnet-ft1": 1863}


@pytest.fixture(params=PEOPLE)
def shipped(request: pytest.FixtureRequest) -> Calibration:
    """One of them."""
    found = {one.contract_name: one for one in calibration.shipped().values()}
    assert set(found) == set(PEOPLE)
    return found[request.param]


def test_they_are_small_and_say_whose_strangers_they_are(shipped: Calibration) -> None:
    file = resources.files("engine.decision") / "calibrations" / f"{shipped.contract_name}.json"
    assert len(file.read_bytes()) < FILE_BYTES_MAX
    assert shipped.people.startswith("LFW, folds 0")
    assert shipped.num_people == PEOPLE[shipped.contract_name]
    assert set(shipped.curves) == {PLAIN, MEAN, CORRECTED}


def test_thresholds_rise_with_the_size_and_the_wish(shipped: Calibration) -> None:
    table = shipped.curves[PLAIN].table
    by_size = [table.threshold(0.01, size).value for size in (10, 100, 1000, 10_000, 1_000_000)]
    by_wish = [table.threshold(fpir, 1000).value for fpir in (0.3, 0.1, 0.03, 0.01, 0.001)]
    assert by_size == sorted(by_size)
    assert by_wish == sorted(by_wish)
    assert by_wish[0] < by_wish[-1] < 1.0


def test_corrected_thresholds_do_not_fall_with_the_number_of_templates(shipped: Calibration) -> None:
    curve = shipped.curves[CORRECTED]
    assert curve.growth.value < 0.0
    assert curve.templates_exponent.value == 0.0
    assert shipped.curves[PLAIN].templates_exponent.value > 0.5


def test_the_correction_was_better_among_a_thousand_and_worse_among_a_hundred(shipped: Calibration) -> None:
    # Of the fine-tuned network the gain is within chance.
    assert shipped.is_crowding_better == (shipped.contract_name == "dlib-resnet")
    gains = {(one.size, one.fpir): one.fnir_plain - one.fnir_corrected for one in shipped.crowding}
    assert gains[1000, 0.01] > 0.02
    assert gains[100, 0.01] < 0.0


def test_what_they_expect_to_miss_is_what_was_missed(shipped: Calibration) -> None:
    """But for those whom another identity beats."""
    for name in (PLAIN, CORRECTED):
        curve = shipped.curves[name]
        for one in shipped.crowding:
            if one.size >= 300:
                threshold = curve.table.threshold(one.fpir, one.size).value
                expected = curve.expected_fnir(threshold, one.size)
                measured = one.fnir_plain if name == PLAIN else one.fnir_corrected
                assert expected == pytest.approx(measured, abs=0.05)


@pytest.mark.model
def test_they_are_of_the_networks_that_are_shipped(shipped: Calibration) -> None:
    from engine.embedding.embed import Embedder
    from engine.embedding.networks import load_network

    contract = Embedder(load_network(shipped.contract_name, "cpu")).contract
    assert calibration.shipped()[contract.digest] == shipped
