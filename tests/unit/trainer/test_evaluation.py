"""One evaluation joins rates, intervals, groups and plots, of pictures and of vectors alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.cli.output_evaluate import identification_lines, pairs_lines
from engine.errors import InvalidInputError
from engine.trainer.bootstrap import BootstrapSettings, bootstrap_open_set
from engine.trainer.evaluation import (
    Extras,
    evaluate_all_pairs,
    evaluate_named_folds,
    evaluate_pairs,
    evaluate_roles,
)
from engine.trainer.groups import Groups
from engine.trainer.open_set import judge_open_set, measure_open_set
from engine.trainer.pairs import read_named_pairs, read_pairs
from engine.trainer.people import embed_people, find_pictures
from engine.trainer.roles import closed_roles, open_roles
from engine.trainer.vectors_file import LabelledVectors
from engine.trainer.verification import compare_all, judge_verification
from engine.types import FaceChoice
from tests.unit.trainer.test_evaluate import DIMENSION, WrittenVectors

SETTINGS = BootstrapSettings(num_resamples=30)


@pytest.fixture
def root(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Ten people with one to four pictures, as the vectors written in them; one shows nobody."""
    folder = tmp_path / "people"
    for person in range(10):
        name = f"Person_{person}"
        (folder / name).mkdir(parents=True)
        centre = rng.normal(size=DIMENSION)
        for number in range(1 + person % 4):
            vector = (centre + 0.7 * rng.normal(size=DIMENSION)).astype(np.float32)
            (folder / name / f"{name}_{number + 1:04d}.jpg").write_bytes(vector.tobytes())
    (folder / "Person_3" / "Person_3_0002.jpg").write_bytes(b"nobody")
    (folder / "Person_3" / "notes.txt").write_text("no picture")
    (folder / "README.txt").write_text("no person")
    (folder / "Nobody").mkdir()
    return folder


def test_people_are_folders_and_pictures_without_a_face_are_zeros(root: Path) -> None:
    pipeline = WrittenVectors()
    labelled = embed_people(pipeline, root, choice=FaceChoice.LARGEST, min_face_px=40)
    paths = find_pictures(root)
    assert labelled.keys == tuple(str(path.relative_to(root)) for path in paths)
    assert labelled.labels.tolist() == [path.parent.name for path in paths]
    assert list(paths) == sorted(paths)
    assert len(paths) == 23
    assert labelled.num_not_detected == 1
    assert not labelled.vectors[labelled.keys.index("Person_3/Person_3_0002.jpg")].any()
    assert pipeline.settings == {(FaceChoice.LARGEST, 40)}


def test_a_folder_of_fewer_than_two_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="pictures of 0 people"):
        find_pictures(tmp_path)
    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann" / "1.jpg").touch()
    with pytest.raises(InvalidInputError, match="pictures of 1 people"):
        find_pictures(tmp_path)
    with pytest.raises(InvalidInputError, match="cannot read folder"):
        find_pictures(tmp_path / "gone")
    with pytest.raises(InvalidInputError, match="not all"):
        embed_people(WrittenVectors(), tmp_path, choice=FaceChoice.ALL)


def test_an_open_set_of_pictures_has_all_that_its_parts_say(root: Path, tmp_path: Path) -> None:
    labelled = embed_people(WrittenVectors(), root)
    roles = open_roles(labelled.labels)
    groups = {"kind": {"Person_2": "even", "Person_1": "odd", "Person_3": "odd"}}
    extras = Extras(bootstrap=SETTINGS, groups=groups, plots=tmp_path / "plots")

    evaluation = evaluate_roles(labelled, roles, {"vectors": "v"}, fpirs=[0.1], extras=extras)

    parts = [
        (labelled.vectors[rows], labelled.labels[rows])
        for rows in (roles.gallery, roles.mated, roles.strangers)
    ]
    assert evaluation.report == judge_open_set(parts[0], parts[1], parts[2], [0.1])
    assert evaluation.intervals == bootstrap_open_set(measure_open_set(*parts), [0.1], SETTINGS)
    values = json.loads(json.dumps(evaluation.as_json()))
    assert values["num_enrolled"] == 5
    assert values["not_detected"] == 1
    assert values["at_fpir"]["0.1"]["fpir"] <= 0.1
    assert [(group["attribute"], group["value"]) for group in values["groups"]] == [
        ("kind", "even"),
        ("kind", "odd"),
    ]
    assert values["plots"] == [str(tmp_path / "plots" / name) for name in ("cmc.png", "det.png")]
    text = "\n".join(identification_lines(evaluation))
    for said in (
        "N = 5 identities",
        "FNIR at FPIR 0.1",
        "mean of people",
        "by group",
        "1 without a template",
        "det.png",
    ):
        assert said in text


def test_all_pairs_of_pictures_are_those_of_the_vectors(root: Path) -> None:
    labelled = embed_people(WrittenVectors(), root)
    groups = {"kind": {"Person_2": "even", "Person_3": "odd"}}
    same = (("Person_1", "Person_2"),)
    evaluation = evaluate_all_pairs(labelled, Extras(bootstrap=SETTINGS, groups=groups, same=same))
    compared = compare_all(labelled.vectors, labelled.labels, same=same)
    assert evaluation.folds is None
    assert evaluation.rates == judge_verification(compared)
    assert evaluation.rates.num_non_mated_pairs == 23 * 22 // 2 - 21 - 2 * 3
    text = "\n".join(pairs_lines(evaluation, {"vectors": "v"}, 1))
    for said in (
        "TAR at FAR 1e-4",
        "balanced accuracy",
        "mean of people",
        "by group",
        "1 without a template",
    ):
        assert said in text
    json.dumps(evaluation.as_json())


def test_vectors_with_keys_are_judged_as_their_pictures(tmp_path: Path, rng: np.random.Generator) -> None:
    """The same pairs through the pipeline, and from vectors of any length in any order."""
    root, pairs_path = tmp_path / "pictures", tmp_path / "pairs.txt"
    keys, vectors, lines = [], [], ["2\t4"]
    for fold in range(2):
        names = [f"P_{fold}_{i}" for i in range(4)]
        for name in names:
            (root / name).mkdir(parents=True)
            centre = rng.normal(size=DIMENSION)
            for number in (1, 2):
                vector = (centre + 0.9 * rng.normal(size=DIMENSION)).astype(np.float32)
                (root / name / f"{name}_{number:04d}.jpg").write_bytes(vector.tobytes())
                keys.append(f"elsewhere/{name}/{name}_{number:04d}.png")
                vectors.append(vector * 3.0)
        lines += [f"{name}\t1\t2" for name in names]
        lines += [f"{name}\t1\t{names[i - 1]}\t2" for i, name in enumerate(names)]
    pairs_path.write_text("\n".join(lines))
    order = rng.permutation(len(keys))
    labelled = LabelledVectors(
        np.array(vectors)[order], np.arange(len(keys)), tuple(keys[place] for place in order)
    )
    extras = Extras(bootstrap=SETTINGS)
    wanted = evaluate_pairs(WrittenVectors(), read_pairs(pairs_path, root), extras=extras)

    pairs = read_named_pairs(pairs_path, labelled.keys)
    evaluation = evaluate_named_folds(pairs, labelled, {}, extras)

    values, of_pictures = evaluation.as_json(), wanted.as_json()
    for key in ("pairs", "folds", "accuracy_mean", "accuracy_std", "not_detected", "per_person_accuracy"):
        assert values[key] == of_pictures[key]
    assert values["auc"] == pytest.approx(of_pictures["auc"])
    assert list(values)[:8] == list(of_pictures)[:8]
    with pytest.raises(
        InvalidInputError, match=r"16 pictures of the pairs are no vector's: P_0_0/P_0_0_0001"
    ):
        read_named_pairs(pairs_path, ["", "other.jpg"])


def test_a_picture_of_the_pairs_that_two_vectors_claim_is_refused(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    pairs_path = tmp_path / "pairs.txt"
    pairs_path.write_text("2\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\nAnn\t1\t3\nAnn\t2\tBob\t1\n")
    keys = [f"a/{name}.jpg" for name in ("Ann_0001", "Ann_0002", "Ann_0003", "Bob_0001", "Cid_0001")]
    # What no pair needs may come twice, as may vectors without any key.
    keys += ["b/Cid_0001.jpg", "", "", "b/Ann_0001.png"]
    labelled = LabelledVectors(rng.normal(size=(9, 4)), np.arange(9), tuple(keys))
    pairs = read_named_pairs(pairs_path, labelled.keys)
    with pytest.raises(InvalidInputError, match=r"a/Ann_0001\.jpg \(row 1\) and b/Ann_0001\.png \(row 9\)"):
        evaluate_named_folds(pairs, labelled, {}, Extras(bootstrap=SETTINGS))
    once = labelled.only(range(8))
    assert evaluate_named_folds(pairs, once, {}, Extras(bootstrap=SETTINGS)).rates.num_mated_pairs == 2


def test_where_nothing_is_a_template_or_groups_name_nobody_it_is_said(rng: np.random.Generator) -> None:
    labels = np.array([1, 1, 2, 2])
    blind = LabelledVectors(np.zeros((4, 3)), labels, ("",) * 4)
    seen = LabelledVectors(rng.normal(size=(4, 3)), labels, ("",) * 4)
    unknown: tuple[Groups, ...] = ({"sex": {"7": "f", "8": "m"}}, {"sex": {}})
    for groups in unknown:
        extras = Extras(bootstrap=SETTINGS, groups=groups)
        with pytest.raises(InvalidInputError, match=r"none of the 2 judged.*like 1"):
            evaluate_all_pairs(seen, extras)
        with pytest.raises(InvalidInputError, match=r"none of the 2 judged.*like 1"):
            evaluate_roles(seen, closed_roles(labels), {}, extras=extras)
    some = Extras(bootstrap=SETTINGS, groups={"sex": {"7": "f", "1": "m"}})
    assert [group.value for group in evaluate_all_pairs(seen, some).groups] == ["m"]
    with pytest.raises(InvalidInputError, match="none of 4 vectors or pictures has a template"):
        evaluate_all_pairs(blind)
    with pytest.raises(InvalidInputError, match="none of 4 vectors or pictures has a template"):
        evaluate_roles(blind, closed_roles(labels), {})


def test_errata_of_numbered_people_are_numbers(rng: np.random.Generator) -> None:
    labels = np.array([1, 1, 2, 2, 3, 3])
    labelled = LabelledVectors(rng.normal(size=(6, 4)), labels, ("",) * 6)
    extras = Extras(bootstrap=SETTINGS, same=(("1", "3"), ("2", "77")))
    assert evaluate_all_pairs(labelled, extras).rates.num_non_mated_pairs == 3 * 4 - 4
    left = evaluate_roles(labelled, open_roles(labels, ["1", "2"]), {}, extras=extras)
    of_two = labels == 2
    alone = measure_open_set(
        (labelled.vectors[of_two][:1], [2]),
        (labelled.vectors[of_two][1:], [2]),
        (labelled.vectors[labels == 3], [3, 3]),
    )
    # Of the strangers' comparisons only those with 2 are left: 1 is their own person.
    assert left.report.point(0.3).threshold == np.nextafter(alone.tops.max(), np.inf)
