"""A calibration of people: who counts, what is measured of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.decision import calibration as files
from engine.decision.calibration import CORRECTED, MEAN, PLAIN
from engine.decision.estimator import EstimatorSettings
from engine.errors import InvalidInputError
from engine.trainer.calibrate import Calibrated, Choices, Source, calibrate, pairwise_baseline
from engine.trainer.calibration_exponents import SAFE_FALLING, templates_exponents
from engine.trainer.calibration_groups import measure_groups
from engine.trainer.calibration_people import (
    find_duplicates,
    find_known,
    gather,
    mated_similarities,
    quantiles,
)
from engine.trainer.lists import read_errata
from engine.trainer.people import embed_people
from engine.trainer.vectors_file import LabelledVectors
from engine.types import EmbeddingContract

DIMENSION = 24
CONTRACT = EmbeddingContract("made-up", "", "", False, DIMENSION)
SOURCE = Source(CONTRACT, "people who do not exist")
FEW = EstimatorSettings(num_resamples=20)


def made_up(num: int, num_with_two: int, seed: int = 1, noise: float = 0.35) -> LabelledVectors:
    """People in crowds; the first ones have three pictures, the others one. Each name is five digits."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, DIMENSION)) * 0.8
    faces = centres[rng.integers(0, 12, num)] + rng.standard_normal((num, DIMENSION))
    rows = np.repeat(np.arange(num), np.where(np.arange(num) < num_with_two, 3, 1))
    vectors = faces[rows] + noise * rng.standard_normal((len(rows), DIMENSION))
    return LabelledVectors(vectors, np.array([f"p{row:05}" for row in rows]), ())


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    """700 people, two of whom are there under two names, one without a template, in two groups."""
    labelled = made_up(700, 200)
    labels, vectors = labelled.labels.copy(), labelled.vectors.copy()
    # The last ones are earlier ones once more.
    vectors[-1], vectors[-2] = vectors[0] + 0.01, vectors[-6] * 2.0
    vectors[-3] = 0.0
    groups = {"half": {f"p{row:05}": "ab"[row % 2] for row in range(690)} | {"p00695": "few"}}
    choices = Choices(groups=groups)
    return calibrate(LabelledVectors(vectors, labels, ()), SOURCE, FEW, choices)


def test_people_are_counted_once_and_doubles_left_out(calibrated: Calibrated) -> None:
    found = calibrated.calibration
    assert {(one.first, one.second) for one in found.left_out} == {("p00000", "p00699"), ("p00694", "p00698")}
    assert calibrated.without_template == ("p00697",)
    assert (found.num_people, found.num_pictures) == (697, 697 + 2 * 200)
    assert found.duplicate_similarity is not None
    assert found.left_out[0].similarity > found.left_out[1].similarity - 1e-6 > found.duplicate_similarity
    assert (found.people, found.contract_digest) == (SOURCE.people, CONTRACT.digest)
    assert calibrated.notes == ()


def test_all_that_a_server_needs_is_there_and_comes_back_from_its_file(
    calibrated: Calibrated, tmp_path: Path
) -> None:
    found = calibrated.calibration
    assert set(found.curves) == {PLAIN, MEAN, CORRECTED}
    assert found.curves[PLAIN].table == found.curves[MEAN].table
    assert [len(curve.mated) for curve in found.curves.values()] == [101] * 3
    sizes = [one.size for one in found.curves[CORRECTED].mated_at]
    assert (len(sizes), sizes[0], sizes[-2:]) == (6, 300, [348, 696])
    assert {one.size for one in found.crowding} == {100, 300, 696}
    path = tmp_path / "made-up.calibration.json"
    path.write_bytes(files.encode(found))
    assert path.stat().st_size < 120_000
    assert files.read(path, CONTRACT.digest) == found


def test_more_templates_never_lower_a_corrected_threshold(calibrated: Calibrated) -> None:
    curves = calibrated.calibration.curves
    curve = curves[CORRECTED]
    is_falling = curve.growth.value < 0.0
    assert curve.templates_exponent == (SAFE_FALLING if is_falling else curves[PLAIN].templates_exponent)


def test_the_expected_fnir_is_what_mated_probes_meet(calibrated: Calibrated) -> None:
    curve = calibrated.calibration.curves[PLAIN]
    values, weights = mated_similarities(gather(made_up(700, 200))[0])
    for threshold in (0.7, 0.9, 0.95):
        expected = float(weights @ (values < threshold)) / float(weights.sum())
        assert curve.expected_fnir(threshold) == pytest.approx(expected, abs=0.02)


def test_the_fnir_expected_of_corrected_similarities_is_that_measured_at_each_size(
    calibrated: Calibrated,
) -> None:
    """Those whom another identity beats come on top of it."""
    curve = calibrated.calibration.curves[CORRECTED]
    for one in calibrated.calibration.crowding:
        if one.size >= 300:
            threshold = curve.table.threshold(one.fpir, one.size).value
            expected = curve.expected_fnir(threshold, one.size)
            assert expected is not None
            assert expected == pytest.approx(one.fnir_corrected, abs=0.06)
    assert curve.expected_fnir(0.1, 1e6) is None


def test_groups_are_judged_at_the_threshold_for_all(calibrated: Calibrated) -> None:
    groups = calibrated.calibration.groups
    assert {(one.group, one.num_people, one.target_fpir) for one in groups} == {
        ("a", 345, 0.1),
        ("b", 345, 0.1),
        ("a", 345, 0.01),
        ("b", 345, 0.01),
    }
    of_tenth = [one.fpir for one in groups if one.target_fpir == 0.1]
    assert np.mean([one.value for one in of_tenth]) == pytest.approx(0.1, abs=0.015)
    assert all(one.low < one.value < one.high for one in of_tenth)


def test_an_interval_of_a_group_without_an_alarm_reaches_upwards(calibrated: Calibrated) -> None:
    names = [f"n{i}" for i in range(30)]
    table = calibrated.calibration.curves[PLAIN].table
    groups = {"x": dict.fromkeys(names, "y")}
    found = measure_groups(names, np.full(30, -1.0), table, groups)
    # Wilson's upper bound of 0 of 30 is z^2 / (30 + z^2).
    assert [one.fpir for one in found] == [files.Span(0.0, 0.0, 0.11351)] * 2
    assert measure_groups(names[:29], np.zeros(29), table, groups) == ()


def test_names_known_to_be_one_person_go_in_any_case_and_likely_ones_may_stay() -> None:
    labelled = made_up(150, 60)
    labelled.vectors[-1] = labelled.vectors[0]
    same = (("p00005", "p00140"), ("p00001", "nobody"))
    kept = calibrate(labelled, SOURCE, FEW, Choices(same=same, has_likely_duplicates=True))
    assert [(one.first, one.second) for one in kept.calibration.left_out] == [("p00005", "p00140")]
    assert [(one.first, one.second) for one in kept.kept] == [("p00000", "p00149")]
    assert kept.calibration.num_people == 149
    both = calibrate(labelled, SOURCE, FEW, Choices(same=same))
    assert [one.second for one in both.calibration.left_out] == ["p00140", "p00149"]
    assert both.kept == ()
    two = calibrate(labelled, SOURCE, FEW, Choices(different=(("p00149", "p00000"),)))
    assert two.calibration.left_out == ()


def test_several_slips_among_few_people_are_found_and_named() -> None:
    labelled = made_up(124, 60)
    for place in (1, 2, 3):
        labelled.vectors[-place] = labelled.vectors[2 * (place - 1)]
    left_out = calibrate(labelled, SOURCE, FEW).calibration.left_out
    assert {one.second for one in left_out} == {"p00121", "p00122", "p00123"}


def test_a_network_that_cannot_tell_leaves_nobody_out() -> None:
    people, _ = gather(made_up(400, 100, noise=3.0))
    found = find_duplicates(people)
    assert (found.similarity, found.found) == (None, ())
    assert "cannot be told by this network" in found.note


def test_few_pictures_are_said_to_leave_open_what_they_leave_open() -> None:
    found = calibrate(made_up(120, 20), SOURCE, FEW)
    assert found.calibration.duplicate_similarity is None
    assert set(found.calibration.curves) == {PLAIN, MEAN}
    assert found.calibration.curves[PLAIN].mated == ()
    assert found.calibration.curves[PLAIN].templates_exponent == files.Span(1.0, 1.0, 1.0)
    assert found.calibration.curves[MEAN].templates_exponent == files.Span(0.0, 0.0, 0.0)
    assert len(found.notes) == 4


def test_templates_of_one_look_count_once_and_of_as_many_looks_each() -> None:
    """A second template that is the first adds nothing; one of somebody else is an identity more."""
    rng = np.random.default_rng(2)
    faces = rng.standard_normal((4500, 2, 8))
    labels = np.repeat([f"p{row:04}" for row in range(4500)], 2)
    only_one = np.repeat(np.arange(4500) >= 500, 2) & np.tile([False, True], 4500)
    for second, expected in ((faces[:, 0], 0.0), (faces[:, 1], 1.0)):
        vectors = np.stack([faces[:, 0], second], axis=1).reshape(-1, 8)
        labelled = LabelledVectors(vectors[~only_one], labels[~only_one], ())
        found = templates_exponents(gather(labelled)[0], FEW)
        assert found.best.value == pytest.approx(expected, abs=0.2)
        assert found.best.low <= found.best.value <= found.best.high
        assert found.mean.value == 0.0


def test_single_pairs_promise_too_much_where_look_alikes_crowd(calibrated: Calibrated) -> None:
    """Where pairs are independent they are right: 8 dimensions have no crowds, our people have."""
    vectors = np.random.default_rng(3).standard_normal((900, 64))
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    labels = np.array([f"p{row:04}" for row in range(900)])
    source = Source(EmbeddingContract("other", "", "", False, 64), "nobody")
    found = calibrate(LabelledVectors(units, labels, ()), source, FEW)
    assert found.baseline[0.1] == pytest.approx(1.0, abs=0.12)
    assert calibrated.baseline[0.1] < 0.9
    few = pairwise_baseline(units[:100] @ units[:100].T, found.calibration.curves[PLAIN].table)
    assert few == {}


def test_quantiles_weigh_people_and_not_pictures() -> None:
    values, weights = np.array([0.1, 0.9, 0.9, 0.9]), np.array([1.0, 1 / 3, 1 / 3, 1 / 3])
    found = quantiles(values, weights)
    assert len(found) == 101
    assert (found[0], found[25], found[75], found[100]) == pytest.approx((0.1, 0.1, 0.9, 0.9))
    assert quantiles(np.empty(0), np.empty(0)).size == 0


def test_people_without_a_name_of_the_other_are_no_known_pair() -> None:
    people, _ = gather(made_up(4, 0))
    assert find_known(people, [("p00001", "p00001"), ("p00001", "x")]) == ()
    assert find_known(people, [("p00003", "p00001")])[0].second == "p00001"


@pytest.mark.parametrize(
    ("labelled", "choices", "said"),
    [
        (made_up(99, 40), Choices(), "99 people to calibrate on: at least 120"),
        (made_up(1, 0), Choices(), "1 people to calibrate on"),
        (made_up(150, 0), Choices(target_fpirs=(0.1, 0.001)), "at least 1,000 are needed for FPIR 0.001"),
        (LabelledVectors(np.zeros((3, DIMENSION)), np.arange(3), ()), Choices(), "no picture gave"),
        (
            LabelledVectors(np.ones((150, DIMENSION)), np.arange(150), ()),
            Choices(),
            "all templates are equal",
        ),
        (
            LabelledVectors(np.ones((150, 7)), np.arange(150), ()),
            Choices(),
            "have 7 numbers, contract made-up",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(labelled: LabelledVectors, choices: Choices, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        calibrate(labelled, SOURCE, FEW, choices)


@pytest.mark.model
@pytest.mark.data
def test_most_people_whom_lfw_has_under_two_names_are_found(data_folder: Path, tmp_path: Path) -> None:
    """Among 30 others with two pictures each; relatives alike are two people."""
    from engine.assembly import EmbeddingSettings, build_pipeline

    torch.set_num_threads(1)
    lfw = data_folder / "lfw"
    same = [
        pair
        for pair in read_errata(lfw / "errata.tsv")
        if all((lfw / "images" / name).is_dir() for name in pair)
    ]
    listed = {name for pair in same for name in pair}
    others = [one for one in sorted((lfw / "images").iterdir()) if len(list(one.iterdir())) == 2][:30]
    (tmp_path / "images").mkdir()
    for folder in {lfw / "images" / name for name in listed} | set(others):
        copy = tmp_path / "images" / folder.name
        copy.mkdir()
        for picture in sorted(folder.iterdir())[:2]:
            (copy / picture.name).symlink_to(picture)
    with build_pipeline(EmbeddingSettings(device="cpu", num_threads=1)) as pipeline:
        people, missing = gather(embed_people(pipeline, tmp_path / "images"))
    assert missing == ()
    # Of so few people one may go; the rule of all is what leaves the others out.
    pairs = {(one.first, one.second) for one in find_duplicates(people, share_max=0.5).found}
    known = {tuple(sorted(pair)) for pair in same}
    assert len(pairs & known) >= 0.7 * len(known)
    assert len(pairs - known) <= 2
