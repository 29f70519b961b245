"""Who is enrolled, who asks, who is a stranger; and the lists that say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import InvalidInputError
from engine.trainer import lists
from engine.trainer.lists import read_errata, read_names
from engine.trainer.roles import Roles, closed_roles, open_roles

LABELS = np.array(["b", "a", "b", "d", "c", "c", "b", "e", "a"])


def rows(roles: Roles) -> tuple[list[int], list[int], list[int]]:
    return roles.gallery.tolist(), roles.mated.tolist(), roles.strangers.tolist()


def test_everybody_is_enrolled_with_the_first_row() -> None:
    assert rows(closed_roles(LABELS)) == ([0, 1, 3, 4, 7], [2, 5, 6, 8], [])


def test_without_lists_every_second_identity_is_enrolled() -> None:
    assert rows(open_roles(LABELS)) == ([1, 4, 7], [5, 8], [0, 2, 3, 6])


def test_numbers_are_sorted_as_numbers() -> None:
    roles = open_roles(np.array([10, 9, 9, 10, 100, 100]))
    assert rows(roles) == ([1, 4], [2, 5], [0, 3])


def test_lists_choose() -> None:
    assert rows(open_roles(LABELS, enrolled=["b"])) == ([0], [2, 6], [1, 3, 4, 5, 7, 8])
    assert rows(open_roles(LABELS, strangers=["b", "e"])) == ([1, 3, 4], [5, 8], [0, 2, 6, 7])
    assert rows(open_roles(LABELS, ["a"], ["e"])) == ([1], [8], [7])
    assert rows(open_roles(np.array([1, 1, 2]), enrolled=["1"])) == ([0], [1], [2])


def test_a_role_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="1 of 2 names in the list of enrolled have no picture: x"):
        open_roles(LABELS, enrolled=["a", "x"])
    with pytest.raises(InvalidInputError, match="a is both"):
        open_roles(LABELS, ["a", "b"], ["a"])
    with pytest.raises(InvalidInputError, match="nobody is left as a stranger"):
        open_roles(LABELS, enrolled=["a", "b", "c", "d", "e"])
    with pytest.raises(InvalidInputError, match="none has a second picture"):
        open_roles(LABELS, enrolled=["d", "e"])
    with pytest.raises(InvalidInputError, match="none has a second picture"):
        closed_roles(np.array([1, 2, 3]))
    with pytest.raises(InvalidInputError, match="1 identities to be told apart"):
        closed_roles(np.array([1]))


def test_names_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text(" Ann Lee \n\nBob\r\nCarl")
    assert read_names(path) == ("Ann Lee", "Bob", "Carl")
    path.write_text("Ann\nBob\nAnn\n")
    with pytest.raises(InvalidInputError, match="'Ann' twice"):
        read_names(path)
    path.write_text("\n")
    with pytest.raises(InvalidInputError, match="holds no name"):
        read_names(path)


def test_errata_give_who_is_one_person(tmp_path: Path) -> None:
    path = tmp_path / "errata.tsv"
    path.write_text("name\tname\tkind\nA\tB\tsame\nC\tD\trelative\n\nE\tF\tsame\n")
    assert read_errata(path) == (("A", "B"), ("E", "F"))
    for line in ("A\tB", "A\tB\ttwin", "A B same", "\tB\tsame"):
        path.write_text(f"name\tname\tkind\n{line}\n")
        with pytest.raises(InvalidInputError, match="line 2"):
            read_errata(path)
    for text in ("", "A\tB\tsame\n"):
        path.write_text(text)
        with pytest.raises(InvalidInputError, match="line 1: expected the header"):
            read_errata(path)


def test_lists_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="cannot read"):
        read_names(tmp_path / "gone")
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        read_names(path)
    monkeypatch.setattr(lists, "LIST_FILE_BYTES_MAX", 1)
    with pytest.raises(InvalidInputError, match="more than 1"):
        read_names(path)
