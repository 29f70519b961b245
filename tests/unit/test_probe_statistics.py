"""Counting of probes in production: histogram, drift, alarm, metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from engine.logs import LOGGER
from engine.probe_statistics import IDENTITIES_MIN, PROBES_MIN, WINDOW_PROBES, ProbeCounter, ProbeCounters
from engine.server.control import Family, Sample
from engine.server.gathered import Totals
from engine.telemetry import PROBE_GALLERIES_MAX, Telemetry
from engine.types import Candidate, Decision, Identification, ThresholdOrigin

NAME = "Zaphod"


def answer(
    rate: float | None,
    *,
    top: float = 0.9,
    corrected: float | None = None,
    num_identities: int = 100,
    decision: Decision = Decision.NO_MATCH,
) -> Identification:
    return Identification(
        decision,
        (Candidate(NAME, top, 1, corrected),),
        0.93,
        ThresholdOrigin.CALIBRATION,
        7,
        num_identities,
        True,
        num_identities,
        rate,
    )


NOBODY = Identification(Decision.NO_MATCH, (), 0.93, ThresholdOrigin.CONTRACT, 7, 0, True)


def counted(rates: Iterable[float | None], counter: ProbeCounter | None = None) -> ProbeCounter:
    counter = counter or ProbeCounter("staff")
    for rate in rates:
        counter.count(answer(rate))
    return counter


def strangers(num: int, times: float = 1.0, seed: int = 0) -> NDArray[np.float64]:
    """Estimated rates of strangers whose true rates -log(1 - FPIR) are so many times the calibrated ones."""
    lower = np.random.default_rng(seed).random(num) ** (1.0 / times)
    return 1.0 - lower


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Kept()
    LOGGER.addHandler(handler)
    yield records
    LOGGER.removeHandler(handler)


def test_nothing_counted_tells_nothing() -> None:
    report = ProbeCounter("staff").report()
    assert (report.num_probes, report.bins, report.drift, report.is_alarming) == (0, (), None, False)


def test_one_probe_is_one_bin() -> None:
    report = counted([0.7]).report()
    assert report.num_probes == 1
    (only,) = report.bins
    assert (only.low, only.high, only.num_probes) == (0.9, 0.905, 1)


def test_bins_lie_side_by_side_and_hold_plain_similarities() -> None:
    counter = ProbeCounter("staff")
    for top in (-1.0, 0.0, 1.0, 1.0000001):
        counter.count(answer(0.7, top=top))
    counter.count(answer(0.7, top=0.9, corrected=0.102))
    report = counter.report()
    assert len(report.bins) == 400
    assert report.num_probes == sum(each.num_probes for each in report.bins) == 5
    assert all(before.high == after.low for before, after in zip(report.bins, report.bins[1:], strict=False))
    assert [each.low for each in report.bins if each.num_probes] == [-1.0, 0.0, 0.9, 0.995]


def test_decisions_are_counted_with_those_of_nobody() -> None:
    counter = ProbeCounter("staff")
    counter.count(NOBODY)
    counter.count(answer(0.001, decision=Decision.MATCH))
    counter.count(answer(None, decision=Decision.REVIEW))
    assert counter.decisions() == {Decision.MATCH: 1, Decision.REVIEW: 1, Decision.NO_MATCH: 1}
    assert counter.report().num_probes == 2


def test_strangers_as_calibrated_have_no_drift_whatever_share_is_enrolled() -> None:
    rates = strangers(2_000)
    alone = counted(rates).report()
    assert alone.drift is not None
    assert abs(alone.drift) < 0.06
    enrolled = np.full(5_000, 1e-6)
    both = np.random.default_rng(0).permutation(np.concatenate([rates, enrolled]))
    mixed = counted(both).report()
    assert mixed.drift is not None
    assert abs(mixed.drift) < 0.06
    assert mixed.num_probes == 7_000


@pytest.mark.parametrize(("times", "sign"), [(2.5, 1), (0.4, -1)])
def test_drift_has_its_sign_and_the_alarm_begins_and_ends_once(
    times: float, sign: int, lines: list[logging.LogRecord]
) -> None:
    counter = counted(strangers(4_000))
    assert not lines
    counted(strangers(12_000, times), counter)
    report = counter.report()
    assert report.is_alarming
    assert report.drift is not None
    # The largest difference of y and y**r.
    places = np.linspace(0.0, 1.0, 10_001)
    assert report.drift == pytest.approx(sign * np.abs(places - places**times).max(), abs=0.04)
    assert len(lines) == 1
    counted(strangers(8_000), counter)
    assert not counter.report().is_alarming
    begun, ended = lines
    assert begun.levelno == ended.levelno == logging.WARNING
    assert ("false alarms" if sign > 0 else "cameras") in begun.getMessage()
    assert "again" in ended.getMessage()
    told = vars(begun)["fields"]
    assert told["gallery"] == "staff"
    assert told["drift"] * sign > 0.2
    assert PROBES_MIN <= told["num_compared"] <= WINDOW_PROBES


def test_drift_is_the_largest_difference_at_the_edges_of_bins() -> None:
    rng = np.random.default_rng(3)
    for num in (PROBES_MIN, 777, WINDOW_PROBES // 2):
        shares = rng.beta(rng.uniform(0.5, 2.0), rng.uniform(0.5, 2.0), num)
        drift = counted((1.0 - shares * 0.5).tolist()).report().drift
        edges = np.linspace(0.02, 1.0, 50)
        # A share on an edge to the last digit may fall to either side.
        below = np.searchsorted(np.sort(shares), edges) / num
        differences = edges - below
        assert drift == pytest.approx(differences[np.abs(differences).argmax()], abs=2.0 / num)


def test_the_window_forgets_what_is_long_past() -> None:
    counter = counted(strangers(4_000, 3.0))
    before = counter.report().drift
    assert before is not None
    assert before > 0.2
    # All of them are compared; every rate drawn is followed by its counterpart.
    drawn = np.random.default_rng(1).uniform(0.5, 1.0, WINDOW_PROBES)
    counted(np.stack([drawn, 1.5 - drawn], axis=1).ravel(), counter)
    after = counter.report().drift
    assert after is not None
    assert abs(after) < 0.04


def test_too_few_probes_tell_no_drift() -> None:
    counter = counted([0.999] * (PROBES_MIN - 1))
    assert counter.report().drift is None
    counted([0.999], counter)
    assert counter.report().drift == pytest.approx(-0.98)
    assert counter.report().is_alarming


def test_what_chance_may_do_is_no_alarm() -> None:
    # At 500 probes, as of 100 people, chance reaches 0.22; at 1,000 it is the tolerance that counts.
    shares = np.linspace(0.0, 1.0, PROBES_MIN, endpoint=False) * 0.785
    rates = (1.0 - 0.5 * shares).tolist()
    counter = counted(rates)
    report = counter.report()
    assert report.drift is not None
    assert report.drift == pytest.approx(-0.21, abs=0.01)
    assert not report.is_alarming
    counted(rates, counter)
    assert counter.report().drift == pytest.approx(-0.21, abs=0.01)
    assert counter.report().is_alarming


@pytest.mark.parametrize(
    ("rate", "num_identities", "is_size_known"),
    [
        (None, 100, True),
        (0.4999, 100, True),
        (0.9, IDENTITIES_MIN - 1, True),
        (0.9, 100, False),
    ],
)
def test_what_cannot_be_compared_is_counted_all_the_same(
    rate: float | None, num_identities: int, is_size_known: bool
) -> None:
    counter = ProbeCounter("staff")
    for _ in range(2 * PROBES_MIN):
        counter.count(answer(rate, num_identities=num_identities), is_size_known=is_size_known)
    report = counter.report()
    assert report.num_probes == 2 * PROBES_MIN
    assert report.drift is None


def test_nothing_of_a_probe_is_kept() -> None:
    counter = counted(strangers(5_000, 3.0))
    kept = {type(item) for value in vars(counter).values() if isinstance(value, list) for item in value}
    assert kept == {int}
    assert NAME not in repr(vars(counter))
    before = {name: len(value) for name, value in vars(counter).items() if isinstance(value, list)}
    counted(strangers(5_000), counter)
    assert {name: len(vars(counter)[name]) for name in before} == before


def test_counts_of_many_threads_are_all_there() -> None:
    counter = ProbeCounter("staff")
    rates = np.linspace(0.5, 1.0, 2_000).tolist()
    threads = [threading.Thread(target=counted, args=(rates, counter)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.report().num_probes == 16_000
    assert sum(counter.decisions().values()) == 16_000


def test_counting_takes_microseconds() -> None:
    counter = ProbeCounter("staff")
    answers = [answer(rate) for rate in strangers(10_000).tolist()]
    times_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        for each in answers:
            counter.count(each)
        times_s.append((time.perf_counter() - start_s) / len(answers))
    assert min(times_s) < 20e-6


def test_counters_are_made_once_and_forgotten_by_name() -> None:
    counters = ProbeCounters()
    staff = counters.of("staff")
    assert counters.of("staff") is staff
    assert counters.of("guests") is not staff
    assert set(counters.all()) == {"staff", "guests"}
    counters.forget("staff")
    counters.forget("staff")
    assert set(counters.all()) == {"guests"}
    assert counters.of("staff") is not staff


def shown(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Value by the sample's name and its other labels."""
    return {
        (sample.name, ",".join(value for name, value in sample.labels.items() if name != "gallery")): (
            sample.value
        )
        for metric in registry.collect()
        for sample in metric.samples
        if sample.labels.get("gallery") == "staff"
    }


def test_metrics_show_tops_decisions_and_drift() -> None:
    counters = ProbeCounters()
    telemetry = Telemetry()
    telemetry.watch_probes(counters.all)
    assert not shown(telemetry.registry)
    counter = counters.of("staff")
    for top in (-0.3, 0.901, 0.901, 1.0):
        counter.count(answer(0.001, top=top, decision=Decision.MATCH))
    values = shown(telemetry.registry)
    tops = "identiface_probe_top_similarity"
    assert values[tops + "_bucket", "0.0"] == 1
    assert values[tops + "_bucket", "0.9"] == 1
    assert values[tops + "_bucket", "0.92"] == 3
    assert values[tops + "_bucket", "1.0"] == values[tops + "_bucket", "+Inf"] == 4
    assert values[tops + "_count", ""] == 4
    assert values[tops + "_sum", ""] == pytest.approx(0.901 * 2 + 1.0, abs=0.01)
    assert values["identiface_probe_decisions_total", "MATCH"] == 4
    assert values["identiface_probe_decisions_total", "REVIEW"] == 0
    assert ("identiface_probe_drift", "") not in values
    counted([0.999] * PROBES_MIN, counter)
    values = shown(telemetry.registry)
    assert values["identiface_probe_drift", ""] == pytest.approx(-0.98)
    assert values["identiface_probe_drift_alarm", ""] == 1


def test_metrics_of_workers_add_up_but_for_drift() -> None:
    totals = Totals()
    for worker, num in (("0", 600), ("1", 700)):
        counters = ProbeCounters()
        counted([0.999] * num, counters.of("staff"))
        telemetry = Telemetry()
        telemetry.watch_probes(counters.all)
        families = [
            Family(
                each.name,
                each.documentation,
                each.type,
                [Sample(sample.name, dict(sample.labels), sample.value) for sample in each.samples],
            )
            for each in telemetry.registry.collect()
        ]
        totals.note(worker, families)
    samples = [sample for family in totals.families() for sample in family.samples]
    (count,) = (sample for sample in samples if sample.name == "identiface_probe_top_similarity_count")
    assert count.value == 1_300
    assert sum(each.value for each in samples if each.name == "identiface_probe_decisions_total") == 1_300
    drifts = [sample.labels for sample in samples if sample.name == "identiface_probe_drift"]
    assert drifts == [{"gallery": "staff", "worker": "0"}, {"gallery": "staff", "worker": "1"}]


def test_series_are_bounded() -> None:
    counters = ProbeCounters()
    for number in range(PROBE_GALLERIES_MAX + 10):
        counted([0.9], counters.of(f"gallery-{number:03}"))
    telemetry = Telemetry()
    telemetry.watch_probes(counters.all)
    galleries = {
        sample.labels["gallery"]
        for metric in telemetry.registry.collect()
        for sample in metric.samples
        if "gallery" in sample.labels
    }
    assert galleries == {f"gallery-{number:03}" for number in range(PROBE_GALLERIES_MAX)}
