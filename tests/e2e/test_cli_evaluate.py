"""The verbs `evaluate ...` as processes, of vectors with known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import refused, run

pytestmark = [pytest.mark.e2e, pytest.mark.data]


@pytest.fixture(scope="module")
def vectors(data_folder: Path) -> tuple[str | Path, ...]:
    folder = data_folder / "vectors"
    return (
        "--vectors",
        folder / "openface_lfw_vectors.csv",
        "--labels",
        folder / "openface_lfw_labels.csv",
        "--resamples",
        "20",
    )


@pytest.fixture(scope="module")
def expected(data_folder: Path) -> Any:
    return json.loads((data_folder / "vectors" / "expected.json").read_text())


def evaluated(*arguments: str | Path) -> Any:
    done = run(None, "evaluate", *arguments, "--json")
    assert done.code == 0, done.err
    return done.json


def test_the_open_set_of_vectors_is_the_expected_one(
    vectors: tuple[str | Path, ...], expected: Any, tmp_path: Path
) -> None:
    wanted = expected["open_set_even_ids"]
    fpirs = list(wanted["at_fpir"])

    told = evaluated("open-set", *vectors, "--fpir", *fpirs, "--plots", tmp_path / "plots")

    assert (told["num_enrolled"], told["num_mated"]) == (wanted["gallery"], wanted["mated"])
    assert told["num_strangers"] == wanted["non_mated"]
    assert round(1 - told["rank1"], 5) == wanted["rank1_miss"]
    for name, point in wanted["at_fpir"].items():
        assert told["at_fpir"][name]["threshold"] == pytest.approx(point["T"], abs=1e-6)
        assert round(told["at_fpir"][name]["fnir"], 5) == point["FNIR"]
        interval = told["intervals"]["fnir_at_fpir"][name]
        assert interval["low"] <= interval["high"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["cmc.png", "det.png"]


def test_all_pairs_and_the_closed_set_are_the_expected_ones(
    vectors: tuple[str | Path, ...], expected: Any
) -> None:
    told, wanted = evaluated("pairs", *vectors), expected["verification"]
    assert told["num_mated_pairs"] == wanted["positive_pairs"]
    assert told["num_non_mated_pairs"] == wanted["negative_pairs"]
    assert {name: round(rate, 3) for name, rate in told["tar_at_far"].items()} == wanted["tar_at_far"]
    assert round(told["best_balanced_accuracy"], 3) == wanted["best_balanced_accuracy"]

    told, wanted = evaluated("identification", *vectors), expected["identification_all_enrolled"]
    assert (told["num_enrolled"], told["num_mated"]) == (wanted["gallery"], wanted["probes"])
    assert told["rank1"] == wanted["rank1"]
    assert told["at_fpir"] == {}


def test_lists_errata_and_groups_choose_and_divide(
    data_folder: Path, vectors: tuple[str | Path, ...], tmp_path: Path
) -> None:
    (tmp_path / "enrolled").write_text("4\n6\n")
    (tmp_path / "strangers").write_text("1\n2\n")
    (tmp_path / "errata").write_text("name\tname\tkind\n1\t4\tsame\n")
    (tmp_path / "groups.csv").write_text("identity_id,sex\n4,m\n1,m\n2,f\n")
    lists = ("--enrolled", tmp_path / "enrolled", "--strangers", tmp_path / "strangers")
    more = ("--errata", tmp_path / "errata", "--groups", tmp_path / "groups.csv", "--fpir", "0.5")
    done = run(None, "evaluate", "open-set", *vectors, *lists, *more)
    assert done.code == 0, done.err
    assert "N = 2 identities" in done.out
    assert "by group, at the thresholds of all:" in done.out
    said = refused(None, "evaluate", "open-set", *vectors, "--enrolled", tmp_path / "groups.csv")
    assert "have no picture" in said
