"""An open set is judged as a naive count judges it, and errata and missing templates are passed over."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import metrics
from engine.errors import InvalidInputError
from engine.metrics import NO_RANK, NO_TEMPLATE
from engine.trainer import open_set
from engine.trainer.open_set import Name, judge_measured, judge_open_set, measure_open_set

DIMENSION = 6
Rows = tuple[NDArray[np.float32], NDArray[np.str_]]


def rows_of(rng: np.random.Generator, people: dict[str, int], noise: float = 0.6) -> Rows:
    """People as noisy directions, so many rows each; a name always has the same direction."""
    vectors, labels = [], []
    for name, num_rows in people.items():
        centre = np.random.default_rng(list(name.encode())).normal(size=DIMENSION)
        vectors += [centre + noise * rng.normal(size=DIMENSION) for _ in range(num_rows)]
        labels += [name] * num_rows
    return np.array(vectors, dtype=np.float32), np.array(labels)


@pytest.fixture
def parts(rng: np.random.Generator) -> tuple[Rows, Rows, Rows]:
    """Gallery with up to two templates each, mated probes, strangers; in no order."""
    enrolled = {f"enrolled-{i}": 1 + i % 2 for i in range(20)}
    shuffled = rng.permutation(list(enrolled))
    gallery = rows_of(rng, {str(name): enrolled[str(name)] for name in shuffled})
    mated = rows_of(rng, {f"enrolled-{i}": i % 4 for i in range(20)})
    return gallery, mated, rows_of(rng, {f"stranger-{i}": 3 for i in range(15)})


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def naive_row(probe: NDArray[np.float32], gallery: Rows) -> dict[str, float]:
    best: dict[str, float] = {}
    for vector, name in zip(*gallery, strict=True):
        best[str(name)] = max(best.get(str(name), -2.0), cosine(probe, vector))
    return best


def test_similarities_and_ranks_are_those_of_a_naive_count(parts: tuple[Rows, Rows, Rows]) -> None:
    gallery, mated, strangers = parts

    measured = measure_open_set(*parts)

    assert measured.num_enrolled == 20
    for i, (probe, name) in enumerate(zip(*mated, strict=True)):
        row = naive_row(probe, gallery)
        assert measured.mated[i] == pytest.approx(row[str(name)])
        assert measured.ranks[i] == sum(value >= row[str(name)] - 1e-12 for value in row.values())
    for i, (probe, _) in enumerate(zip(*strangers, strict=True)):
        assert measured.tops[i] == pytest.approx(max(naive_row(probe, gallery).values()))


def test_blocks_of_one_probe_give_the_same(
    parts: tuple[Rows, Rows, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure_open_set(*parts)
    monkeypatch.setattr(open_set, "BLOCK_BYTES_MAX", 1)
    single = measure_open_set(*parts)
    assert single.mated == pytest.approx(whole.mated, abs=1e-15)
    assert single.tops == pytest.approx(whole.tops, abs=1e-15)
    assert np.array_equal(single.ranks, whole.ranks)


def test_rates_are_those_of_the_metrics_and_per_person_means(parts: tuple[Rows, Rows, Rows]) -> None:
    measured = measure_open_set(*parts)
    report = judge_open_set(*parts, fpirs=[0.5, 0.1])

    assert report == judge_measured(measured, [0.5, 0.1])
    assert report.rank1 == np.mean(measured.ranks == 1)
    assert list(report.cmc) == list(metrics.cmc(measured.ranks, 20))
    wanted = metrics.fnir_at_fpir(measured.mated, measured.ranks, measured.tops, [0.5, 0.1])
    for point, want in zip(report.points, wanted, strict=True):
        assert (point.threshold, point.fpir, point.fnir) == (want.threshold, want.fpir, want.fnir)
        shares = [
            np.mean(
                [
                    rank != 1 or own < point.threshold
                    for rank, own, name in zip(
                        measured.ranks, measured.mated, measured.mated_labels, strict=True
                    )
                    if name == person
                ]
            )
            for person in sorted(set(measured.mated_labels.tolist()))
        ]
        assert point.fnir_per_person == pytest.approx(np.mean(shares))
    assert 0.0 < report.point(0.1).fnir < 1.0
    assert (report.num_mated, report.num_strangers, report.num_stranger_people) == (30, 45, 15)
    assert report.num_mated_people == 15
    assert list(json.loads(json.dumps(report.as_json()))["at_fpir"]) == ["0.5", "0.1"]


def test_an_fpir_not_asked_for_is_refused(parts: tuple[Rows, Rows, Rows]) -> None:
    report = judge_open_set(*parts, fpirs=[0.1])
    with pytest.raises(InvalidInputError, match=r"FPIR 0\.2"):
        report.point(0.2)


def one_hot(*places: int) -> NDArray[np.float32]:
    return np.eye(4, dtype=np.float32)[list(places)]


@pytest.mark.parametrize("pair", [("Ann", "Anne"), ("Anne", "Ann")])
def test_one_person_under_two_names_is_no_non_mated_comparison(pair: tuple[Name, Name]) -> None:
    gallery = (one_hot(0, 1), ["Ann", "Bob"])
    mated = (one_hot(1), ["Bob"])
    strangers = (one_hot(0, 2), ["Anne", "Carl"])
    assert measure_open_set(gallery, mated, strangers).tops.tolist() == [1.0, 0.0]
    measured = measure_open_set(gallery, mated, strangers, same=[pair])
    assert measured.tops.tolist() == [0.0, 0.0]


def test_a_second_name_that_is_enrolled_too_costs_no_rank() -> None:
    gallery = (one_hot(0, 1), ["Ann", "Anne"])
    mated = (one_hot(1), ["Ann"])
    nobody = (np.zeros((0, 4)), np.zeros(0, dtype=np.str_))
    assert measure_open_set(gallery, mated, nobody).ranks.tolist() == [2]
    assert measure_open_set(gallery, mated, nobody, same=[("Ann", "Anne")]).ranks.tolist() == [1]


def test_a_row_of_zeros_has_no_template() -> None:
    zero = np.zeros((1, 4), dtype=np.float32)
    gallery = (np.concatenate([one_hot(0), zero]), [1, 2])
    mated = (np.concatenate([zero, one_hot(0, 1)]), [1, 1, 2])
    measured = measure_open_set(gallery, mated, (zero, [3]))
    assert measured.mated.tolist() == [NO_TEMPLATE, 1.0, NO_TEMPLATE]
    assert measured.ranks.tolist() == [NO_RANK, 1, NO_RANK]
    assert measured.tops.tolist() == [NO_TEMPLATE]
    assert judge_measured(measured, [0.0]).points[0].fnir == pytest.approx(2 / 3)


def test_without_strangers_only_the_closed_set_is_judged() -> None:
    report = judge_open_set((one_hot(0, 1), [0, 1]), (one_hot(0, 0), [0, 1]), (np.zeros((0, 4)), []))
    assert (report.rank1, report.cmc, report.points) == (0.5, (0.5, 1.0), ())


def test_a_subset_keeps_the_gallery(parts: tuple[Rows, Rows, Rows]) -> None:
    measured = measure_open_set(*parts)
    is_mated = measured.mated_labels == "enrolled-3"
    subset = measured.subset(is_mated, np.zeros(len(measured.tops), dtype=np.bool_))
    assert subset.num_enrolled == 20
    assert subset.mated.tolist() == measured.mated[is_mated].tolist()
    assert subset.tops.size == 0


NOBODY = (np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
ONE = (one_hot(0), [0])


@pytest.mark.parametrize(
    ("gallery", "mated", "strangers", "message"),
    [
        (NOBODY, ONE, NOBODY, "0 templates enrolled"),
        (ONE, NOBODY, NOBODY, "0 mated probes"),
        (ONE, (one_hot(0), [5]), NOBODY, "5 has mated probes but is not enrolled"),
        (ONE, ONE, ONE, "0 is among the strangers and enrolled"),
        (ONE, ONE, (np.ones((1, 3)), [9]), "templates of 4 values"),
        (ONE, (one_hot(0), [0, 1]), NOBODY, "mated probes: vectors"),
        (ONE, (one_hot(0), [0.5]), NOBODY, "whole numbers or n names"),
        (ONE, (np.full((1, 4), np.nan), [0]), NOBODY, "not finite"),
    ],
)
def test_wrong_input_is_refused_by_name(gallery: Rows, mated: Rows, strangers: Rows, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        measure_open_set(gallery, mated, strangers)
