"""Groups are judged at the thresholds of all, and counted as a naive count counts them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.errors import InvalidInputError
from engine.trainer import groups
from engine.trainer.groups import groups_json, judge_open_set_groups, judge_verification_groups, read_groups
from engine.trainer.open_set import OpenSetSimilarities, judge_measured
from engine.trainer.verification import compare_all, judge_verification

GROUPS = {"sex": {"0": "f", "1": "m", "2": "f", "3": "m", "10": "f"}, "age": {"2": "old", "99": "young"}}


@pytest.fixture
def measured(rng: np.random.Generator) -> OpenSetSimilarities:
    return OpenSetSimilarities(
        num_enrolled=9,
        mated=rng.uniform(0, 1, 40),
        ranks=rng.integers(1, 3, 40),
        mated_labels=rng.integers(0, 4, 40),
        tops=rng.uniform(0, 1, 30),
        top_labels=rng.integers(10, 13, 30),
    )


def test_open_set_groups_are_a_naive_count(measured: OpenSetSimilarities) -> None:
    report = judge_measured(measured, [0.1, 0.3])

    found = judge_open_set_groups(measured, report, GROUPS)

    # "young" is nobody's here; "old" is one mated person and no stranger.
    assert [(group.attribute, group.value) for group in found] == [("sex", "f"), ("sex", "m"), ("age", "old")]
    for group, (mated_people, strangers) in zip(
        found, [({0, 2}, {10}), ({1, 3}, set()), ({2}, set())], strict=True
    ):
        mated = [i for i, label in enumerate(measured.mated_labels) if label in mated_people]
        tops = [i for i, label in enumerate(measured.top_labels) if label in strangers]
        assert (group.num_mated, group.num_strangers) == (len(mated), len(tops))
        assert group.num_enrolled_people == len(mated_people)
        assert group.rank1 == pytest.approx(np.mean([measured.ranks[i] == 1 for i in mated]))
        for name, target in (("0.1", 0.1), ("0.3", 0.3)):
            edge = report.point(target).threshold
            misses = [measured.ranks[i] != 1 or measured.mated[i] < edge for i in mated]
            assert group.fnir[name] == pytest.approx(np.mean(misses))
            alarms = [measured.tops[i] >= edge for i in tops]
            assert group.fpir[name] == (pytest.approx(np.mean(alarms)) if tops else None)
    json.dumps(groups_json(found))


def test_pair_groups_hold_pairs_inside_the_group(rng: np.random.Generator) -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 10])
    compared = compare_all(rng.normal(size=(8, 3)), labels)
    report = judge_verification(compared, {"half": 0.5})
    edge = report.thresholds["half"]

    found = judge_verification_groups(compared, report, GROUPS)

    assert [(group.attribute, group.value) for group in found] == [("sex", "f"), ("sex", "m"), ("age", "old")]
    women = found[0]
    inside = [
        (same, value)
        for value, same, first, second in zip(
            compared.similarities, compared.is_same, compared.first, compared.second, strict=True
        )
        if {first, second} <= {0, 2, 10}
    ]
    assert (women.num_people, women.num_mated_pairs, women.num_non_mated_pairs) == (3, 2, 8)
    assert women.tar["half"] == pytest.approx(np.mean([value >= edge for same, value in inside if same]))
    assert women.far["half"] == pytest.approx(np.mean([value >= edge for same, value in inside if not same]))
    assert (found[2].num_mated_pairs, found[2].far["half"]) == (1, None)


def test_attributes_are_read_by_column(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text('identity_id,sex,"age, years"\nAnn,f,30-40\n"Lee, Bob",m,\n\n')
    assert read_groups(path) == {"sex": {"Ann": "f", "Lee, Bob": "m"}, "age, years": {"Ann": "30-40"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected identity_id"),
        ("name,sex\nAnn,f\n", "line 1: expected identity_id"),
        ("identity_id\nAnn\n", "line 1: expected identity_id"),
        ("identity_id,sex,sex\n", "named twice"),
        ("identity_id,sex\nAnn\n", "line 2: expected 2 cells"),
        ("identity_id,sex\nAnn,f\nAnn,m\n", "line 3: Ann is there twice"),
        ("identity_id,age\nAnn,1\nBob,2\nCarl,3\n", "age has 3 values, more than 2"),
    ],
)
def test_wrong_files_are_refused(
    tmp_path: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "VALUES_MAX", 2)
    path = tmp_path / "groups.csv"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_groups(path)
