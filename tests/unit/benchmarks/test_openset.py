"""Drawn people against those they were fitted to, a small simulation, and galleries of real people."""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.openset import simulation
from benchmarks.openset.bars import (
    Compared,
    PairTail,
    covers,
    crowded,
    resampled_tops,
)
from benchmarks.openset.check import Check, CheckPoint
from benchmarks.openset.generator import CANDIDATES, Generator, Level, chosen, drawn, fitted
from benchmarks.openset.measure import Asked, exact_tops, fnir, fpir
from benchmarks.openset.people import RealPeople, gathered
from benchmarks.openset.plots import plot_rates
from benchmarks.openset.rates import fpir_at, similarities_left_out, threshold_at
from engine.decision.estimator import EstimatorSettings, estimate
from engine.errors import InvalidInputError
from engine.types import Vectors

DIMENSION = 32


def clustered(num: int, seed: int = 0, num_clusters: int = 25) -> Vectors:
    """Directions in clusters of unequal width: what one normal distribution cannot imitate."""
    rng = np.random.default_rng(seed)
    at = rng.integers(num_clusters, size=num)
    shape = np.random.default_rng(99)
    centres = shape.standard_normal((num_clusters, DIMENSION))
    widths = shape.uniform(0.5, 0.9, num_clusters)
    vectors = centres[at] + widths[at, None] * rng.standard_normal((num, DIMENSION))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def people_of(num: int, num_twice: int = 300) -> RealPeople:
    first = clustered(num)
    noise = 0.06 * np.random.default_rng(5).standard_normal((num_twice, DIMENSION))
    names = [f"p{row:05d}" for row in range(num)]
    folds = {name: row % 9 for row, name in enumerate(names)}
    vectors = np.concatenate([first, first[:num_twice] + noise]).astype(np.float32)
    return gathered(vectors, names + names[:num_twice], folds, [])


@pytest.fixture(scope="module")
def people() -> RealPeople:
    return people_of(1600)


@pytest.fixture(scope="module")
def generator(people: RealPeople) -> Generator:
    return fitted(people, CANDIDATES[0], 1)


def test_strangers_meet_as_many_look_alikes_among_drawn_people_as_among_others(people: RealPeople) -> None:
    local, whole = (Level(64.0, 20.0, 1.0),), (Level(float(len(people)), 0.0, 1.0),)
    assert chosen(people, 1, (whole, local)) == local
    real = similarities_left_out(clustered(1500, seed=8))
    threshold = threshold_at(real, 0.1, 300, 1499)
    ratios = []
    for levels in (local, whole):
        generator, rng = fitted(people, levels, 1), np.random.default_rng(2)
        found = generator.people(rng, 1000) @ generator.people(rng, 4000).T
        ratios.append(fpir_at(found, threshold, 300, 4000) / 0.1)
    assert 1 / 1.5 < ratios[0] < 1.5
    assert ratios[1] < 0.2


def test_drawn_vectors_are_of_unit_length_and_a_smaller_number_begins_a_larger_one(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.openset.generator.BLOCK_ROWS", 64)
    many = drawn(generator, (1, 2), 150)
    np.testing.assert_array_equal(drawn(generator, (1, 2), 70), many[:70])
    assert not np.array_equal(many[:64], many[64:128])
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1.0, atol=1e-5)


def test_other_pictures_are_as_alike_as_real_ones(people: RealPeople, generator: Generator) -> None:
    drawn_people = generator.people(np.random.default_rng(3), 4000)
    again = generator.again(np.random.default_rng(4), drawn_people)
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1.0, atol=1e-4)
    found = np.einsum("nd,nd->n", drawn_people, again)
    real = np.einsum("nd,nd->n", people.first[people.other_people], people.others)
    shares = (0.1, 0.5, 0.9)
    np.testing.assert_allclose(np.quantile(found, shares), np.quantile(real, shares), atol=0.005)


def test_too_few_people_and_nobody_with_two_pictures_are_refused(people: RealPeople) -> None:
    with pytest.raises(InvalidInputError, match="give 200"):
        fitted(people.subset(np.arange(199)), CANDIDATES[0], 1)
    alone = fitted(people.subset(np.arange(1000, 1300)), CANDIDATES[0], 1)
    with pytest.raises(InvalidInputError, match="two pictures"):
        alone.again(np.random.default_rng(0), people.first[:2])


def test_exact_search_is_that_of_a_plain_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.openset.measure.BLOCK_ROWS", 37)
    monkeypatch.setattr("benchmarks.openset.measure.BLOCK_PROBES", 10)
    vectors, probes = clustered(200), clustered(25, seed=1)
    products = probes @ vectors.T
    tops = exact_tops(vectors, probes)
    np.testing.assert_array_equal(tops.rows, products.argmax(axis=1))
    np.testing.assert_allclose(tops.similarities, products.max(axis=1), atol=1e-6)
    own = np.concatenate([np.full(10, -1), tops.rows[10:15], np.full(10, 200)])
    middle = float(np.median(tops.similarities[10:15]))
    assert fnir(tops, own, -1.0) == pytest.approx(10 / 15)
    assert fnir(tops, own, middle) == pytest.approx(12 / 15)
    assert fpir(tops, own, float(np.sort(tops.similarities[:10])[-3])) == pytest.approx(0.3)


def test_a_simulation_is_kept_and_not_measured_again(generator: Generator, tmp_path: Path) -> None:
    asked = Asked(num_calibrated=400, num_probes=300)
    of, found = simulation.run(generator, [600, 200], asked, tmp_path)
    assert [one.size for one in found] == [200, 600]
    for one in found:
        assert one.is_exact
        assert one.top1_agreement == 1.0
        assert [point.loss for point in one.points] == [0.0] * len(one.points)
        point = one.points[0]
        assert 1 / 1.6 < point.fpir_exact / point.target < 1.6
        assert point.low < point.target < point.high
    assert found[0].points[0].threshold < found[1].points[0].threshold
    kept = next((tmp_path / "sizes").glob("*-200.json"))
    kept.write_text(kept.read_text().replace('"size":200', '"size":201'))
    assert simulation.run(generator, [200], asked, tmp_path)[1][0].size == 201
    assert simulation.run(generator, [200], asked, tmp_path, is_forgotten=True)[1][0].size == 200
    assert not list((tmp_path / "scratch").iterdir())
    picture = tmp_path / "rates.png"
    plot_rates(found, picture, is_reproduced=False)
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = simulation.body(_check(0.5), of, found, asked, None)
    assert "says nothing of accuracy" in text
    assert "within 0.0005" in text


def test_the_command_checks_measures_and_reports(
    people: RealPeople, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "REPORTS", tmp_path / "reports")
    names = [f"p{row}" for row in range(700)]
    labels = names + [names[row] for row in people.other_people]
    np.save(tmp_path / "vectors.npy", np.concatenate([people.first[:700], people.others]))
    (tmp_path / "labels.txt").write_text("".join(f"{name}\n" for name in labels))
    where = ["--vectors", str(tmp_path / "vectors.npy"), "--labels", str(tmp_path / "labels.txt")]
    sizes = ["--sizes", "200", "100", "--calibrated", "300", "--probes", "150", "--splits", "1"]
    kept = ["--cache", str(tmp_path / "cache"), "--json", str(tmp_path / "numbers.json"), "--report", "drawn"]
    monkeypatch.setattr(sys, "argv", ["openset", *where, *sizes, *kept])
    runpy.run_module("benchmarks.openset", run_name="__main__")
    told = json.loads((tmp_path / "numbers.json").read_text())
    assert (told["check"]["num_people"], told["check"]["num_splits"]) == (700, 1)
    assert [(one["size"], one["num_strangers"], one["is_exact"]) for one in told["sizes"]] == [
        (100, 150, True),
        (200, 150, True),
    ]
    assert "700 real people, 1 divisions" in capsys.readouterr().out
    plot, report = sorted((tmp_path / "reports").iterdir(), key=lambda path: path.suffix, reverse=True)
    text = report.read_text()
    assert "`python -m benchmarks.openset --vectors FILE --labels FILE --threads 1 --sizes 100 200 " in text
    assert f"]({plot.name})" in text


def _check(ratio: float) -> Check:
    points = [
        CheckPoint(size, target, ratio, ratio, ratio, 1.0, 0.1, 0.1)
        for size in (300, 1700)
        for target in (0.1, 0.03, 0.01)
    ]
    return Check(4000, 1, (CANDIDATES[0],), tuple(points), (0.9,), (0.9,))


def test_the_verdict_follows_the_rates_that_are_judged() -> None:
    good = _check(1.2)
    assert good.is_reproduced
    assert not _check(1.6).is_reproduced
    assert not _check(0.6).is_reproduced
    unjudged = [dataclasses.replace(one, ratio=9.0) if one.target == 0.01 else one for one in good.points]
    assert dataclasses.replace(good, points=tuple(unjudged)).is_reproduced
    assert not dataclasses.replace(good, points=good.points[:3]).is_reproduced, "1,700 was not looked at"
    assert json.loads(json.dumps(good.as_json()))["is_reproduced"] is True


def test_a_tail_of_pairs_gives_its_rate_where_pairs_are_independent() -> None:
    rng = np.random.default_rng(0)
    drawn_pairs = rng.standard_normal((1000, 1000)).astype(np.float32) * 0.1
    pairs = PairTail(np.triu(drawn_pairs) + np.triu(drawn_pairs, 1).T)
    tops = 0.1 * rng.standard_normal((4000, 200)).max(axis=1)
    for target in (0.9, 0.1):
        assert (tops >= pairs.threshold(target, 200)).mean() == pytest.approx(target, rel=0.15)


def test_resampled_tops_lie_about_the_real_ones_but_not_above() -> None:
    similarities = clustered(60, seed=3) @ clustered(100, seed=4).T
    found = resampled_tops(similarities, 50, np.random.default_rng(0))
    assert found.shape == (50, 60)
    assert found.max() <= similarities.max()
    assert np.isin(found.astype(np.float32), similarities).all()
    assert found.mean() == pytest.approx(similarities.max(axis=1).mean(), abs=0.1)


def test_an_interval_covers_what_it_was_made_for_and_not_what_is_far_off() -> None:
    estimated = estimate(clustered(300) @ clustered(300).T, EstimatorSettings(num_resamples=40))
    similarities = clustered(500, seed=6) @ clustered(200, seed=7).T
    resampled = resampled_tops(similarities, 50, np.random.default_rng(0))
    tops = similarities.max(axis=1)
    threshold = estimated.table.threshold(0.1, 200).value
    assert covers(estimated, 200, threshold, tops, resampled)
    assert not covers(estimated, 200, threshold, tops + 0.2, resampled + 0.2)
    assert not covers(estimated, 200, threshold, tops - 0.3, resampled - 0.3)


def test_a_gallery_has_its_people_and_the_others_are_strangers(people: RealPeople) -> None:
    compared = Compared.of(people)
    enrolled = np.array([0, 10, 20])
    gallery = compared.gallery(enrolled, np.arange(30))
    assert gallery.strangers.shape == (27, 3)
    assert gallery.mated.shape == (3, 3)
    np.testing.assert_array_equal(gallery.own, [0, 1, 2])
    measured = gallery.measured()
    assert measured.fnir(-1.0) == 0.0
    assert measured.fnir(1.1) == 1.0
    assert measured.fpir(-1.0) == 1.0
    assert measured.fpir(float(measured.tops.max())) == pytest.approx(1 / 27)
    # 1 of 27 may be above: the threshold lies just above the second best.
    second = float(np.sort(measured.tops)[-2])
    assert measured.fnir_at(0.05) == float((measured.own <= second).mean())


def test_people_without_folds_are_refused(people: RealPeople) -> None:
    with pytest.raises(InvalidInputError, match=r"people\.tsv"):
        Compared.of(dataclasses.replace(people, folds=np.full(len(people), -1)))


def test_crowding_is_measured_at_each_size(people: RealPeople) -> None:
    found = crowded(Compared.of(people), num_draws=2)
    assert sorted({one.size for one in found}) == [100, 300, 1000, len(people) - len(people) // 9 - 1]
    assert all(0.0 <= rate <= 1.0 for one in found for rate in (one.fnir_plain, one.fnir_corrected))
    plain = [one.fnir_plain for one in found if one.size == 1000]
    assert plain == sorted(plain), "a lower false positive rate misses more"
