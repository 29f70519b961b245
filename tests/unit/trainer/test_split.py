"""People divided among training and judging."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidInputError, SettingsError
from engine.trainer.crop_set import CropRows, CropSet, number_identities
from engine.trainer.split import (
    hold_out,
    merge_identities,
    names_of_one,
    rows_of_others_pictures,
    split_identities,
    wholly_listed,
)


def crops_of(names: list[str]) -> CropSet:
    labels, identities = number_identities(names)
    pixels = np.arange(len(names) * 12, dtype=np.uint8).reshape(-1, 2, 2, 3)
    return CropSet(CropRows(pixels), labels, identities, tuple(map(str, range(len(names)))), "arcface-112")


def people(num: int, num_pictures: int = 2) -> list[str]:
    return [f"p{i}" for i in range(num) for _ in range(num_pictures)]


def test_one_identity_cannot_be_split() -> None:
    with pytest.raises(InvalidInputError, match="all 2 crops are of one identity, 'p0'"):
        split_identities(crops_of(people(1)), 0.5, 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_leaves_a_side_empty_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match="share"):
        split_identities(crops_of(people(4)), share, 0)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_two_identities_are_one_on_each_side(share: float) -> None:
    train, held = split_identities(crops_of(people(2)), share, 3)
    assert (train.num_identities, held.num_identities) == (1, 1)


def test_nobody_is_on_both_sides_and_no_crop_is_lost() -> None:
    crops = crops_of(people(20) + [f"single{i}" for i in range(10)])
    train, held = split_identities(crops, 0.3, 7)
    assert not set(train.identities) & set(held.identities)
    assert sorted(train.keys + held.keys) == sorted(crops.keys)
    # Both kinds are divided alike.
    assert sorted(held.counts.tolist()) == [1] * 3 + [2] * 6
    for part in (train, held):
        for row, key in enumerate(part.keys):
            assert part.identities[part.labels[row]] == crops.identities[crops.labels[int(key)]]
            assert np.array_equal(part.crops[row], crops.crops[int(key)])


def test_the_seed_decides_who_and_new_people_move_few() -> None:
    crops = crops_of(people(200, 1))
    held = [set(split_identities(crops, 0.25, seed)[1].identities) for seed in (1, 1, 2)]
    assert held[0] == held[1] != held[2]
    more = set(split_identities(crops_of(people(220, 1)), 0.25, 1)[1].identities)
    assert len(held[0] - more) < 10


def test_holding_out_by_name() -> None:
    crops = crops_of(["b", "a", "c", "a"])
    train, held = hold_out(crops, ["a", "nobody"])
    assert train.keys == ("0", "2")
    assert held.keys == ("1", "3")
    assert train.identities == ("b", "c")
    assert train.labels.tolist() == [0, 1]
    for names in ([], ["a", "b", "c"]):
        with pytest.raises(InvalidInputError, match="would be held out"):
            hold_out(crops, names)


def test_one_person_under_several_names_becomes_one() -> None:
    crops = crops_of(["d", "a", "c", "b", "e"])
    merged = merge_identities(crops, [("d", "c"), ("b", "c"), ("e", "elsewhere")])
    assert merged.identities == ("a", "b", "e")
    assert [merged.identities[i] for i in merged.labels] == ["b", "a", "b", "b", "e"]
    assert merged.keys == crops.keys
    assert merged.digest != crops.digest
    assert merge_identities(crops, []).digest == crops.digest


def test_names_are_one_persons_through_any_number_of_pairs() -> None:
    names = names_of_one([("b", "a"), ("d", "c"), ("c", "b"), ("x", "y")])
    assert names == {name: frozenset("abcd") for name in "abcd"} | {name: frozenset("xy") for name in "xy"}
    # Through a name that is not there, too.
    crops = crops_of(["a", "d", "x"])
    assert merge_identities(crops, [("a", "b"), ("b", "d")]).identities == ("a", "x")


def test_who_has_a_name_that_is_not_listed_is_not_wholly_listed() -> None:
    same = [("adam", "zed"), ("bea", "bee")]
    assert wholly_listed(["adam", "bea", "bee", "cleo"], same) == {"bea", "bee", "cleo"}
    assert wholly_listed(["zed"], same) == frozenset()
    assert wholly_listed([], same) == frozenset()


def test_pictures_that_others_have_too_are_found_under_any_name() -> None:
    crops = crops_of(["b", "a", "c", "a"])
    pixels = np.concatenate([crops.crops[2:3], 255 - crops.crops[:1], crops.crops[:1]])
    others = CropSet(CropRows(pixels), np.array([1, 0, 0]), ("x", "y"), ("u", "v", "w"), "arcface-112")
    assert rows_of_others_pictures(crops, others).tolist() == [0, 2]
    assert rows_of_others_pictures(others, crops).tolist() == [0, 2]
    assert rows_of_others_pictures(crops, others.subset(np.array([1]))).tolist() == []
