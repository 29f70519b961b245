"""The list of pairs is read as LFW writes it, or refused by file, line and picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import InvalidInputError
from engine.trainer.pairs import Pair, read_pairs

PEOPLE = {"Ann_Lee": 3, "Bo": 2, "Cy_van_Dam_Jr.": 1}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Empty files stand for pictures: only their names are looked at here."""
    folder = tmp_path / "pictures"
    for name, count in PEOPLE.items():
        (folder / name).mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / name / f"{name}_{number:04d}.jpg").touch()
    return folder


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


GOOD = (
    "2\t1",
    "Ann_Lee\t1\t3",
    "Ann_Lee\t1\tBo\t2",
    "Bo\t1\t2",
    "Cy_van_Dam_Jr.\t1\tAnn_Lee\t2",
)


@pytest.mark.parametrize("divider", ["\t", " ", "   "])
def test_folds_hold_same_and_different_pairs_in_the_order_of_the_file(
    tmp_path: Path, root: Path, divider: str
) -> None:
    pairs = read_pairs(write(tmp_path, *(line.replace("\t", divider) for line in GOOD)), root)

    ann, bo, cy = (root / name for name in PEOPLE)
    assert pairs.folds == (
        (
            Pair(ann / "Ann_Lee_0001.jpg", ann / "Ann_Lee_0003.jpg", is_same=True),
            Pair(ann / "Ann_Lee_0001.jpg", bo / "Bo_0002.jpg", is_same=False),
        ),
        (
            Pair(bo / "Bo_0001.jpg", bo / "Bo_0002.jpg", is_same=True),
            Pair(cy / "Cy_van_Dam_Jr._0001.jpg", ann / "Ann_Lee_0002.jpg", is_same=False),
        ),
    )
    assert pairs.fold_of_pair.tolist() == [0, 0, 1, 1]
    assert pairs.is_same.tolist() == [True, False, True, False]
    assert [path.name for path in pairs.pictures] == [
        "Ann_Lee_0001.jpg",
        "Ann_Lee_0002.jpg",
        "Ann_Lee_0003.jpg",
        "Bo_0001.jpg",
        "Bo_0002.jpg",
        "Cy_van_Dam_Jr._0001.jpg",
    ]
    assert [pair.people for pair in pairs.pairs[:2]] == [("Ann_Lee",), ("Ann_Lee", "Bo")]


@pytest.mark.parametrize("suffix", [".png", ".jpeg"])
def test_pictures_with_other_suffixes_are_found(tmp_path: Path, root: Path, suffix: str) -> None:
    picture = root / "Bo" / "Bo_0002.jpg"
    picture.rename(picture.with_suffix(suffix))

    pairs = read_pairs(write(tmp_path, *GOOD), root)

    assert pairs.folds[1][0].second.name == f"Bo_0002{suffix}"


def test_names_with_blanks_are_read_where_tabs_divide(tmp_path: Path, root: Path) -> None:
    (root / "Bo").rename(root / "Bo Ek")
    for number in (1, 2):
        (root / "Bo Ek" / f"Bo_{number:04d}.jpg").rename(root / "Bo Ek" / f"Bo Ek_{number:04d}.jpg")

    pairs = read_pairs(write(tmp_path, *(line.replace("Bo", "Bo Ek") for line in GOOD)), root)

    assert pairs.folds[1][0].people == ("Bo Ek",)


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (1, "2", "expected folds and pairs"),
        (1, "0\t300", "expected folds and pairs"),
        (1, "two\tone", "expected folds and pairs"),
        (1, "9" * 5000 + "\t1", "expected folds and pairs"),
        (2, "Ann_Lee\t1", "expected 'name i j'"),
        (2, "", "expected 'name i j'"),
        (2, "Ann_Lee\t1\t2\t3\t4", "expected 'name i j'"),
        (2, "Ann_Lee\tone\t2", "'one' is no whole number"),
        (3, "Ann_Lee\t1\tBo\t0", "'0' is no whole number"),
        (3, "Ann_Lee\t1\tBo\t-2", "'-2' is no whole number"),
        (4, "Bo\t2\t2", "paired with itself"),
        (5, "Bo\t1\tBo\t2", "names one person twice"),
        (5, "..\t1\tBo\t2", "no person's name"),
        (5, "../../etc\t1\tBo\t2", "no person's name"),
        (5, "\t1\tBo\t2", "no person's name"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, root: Path, number: int, line: str, message: str) -> None:
    lines = list(GOOD)
    lines[number - 1] = line
    path = write(tmp_path, *lines)

    with pytest.raises(InvalidInputError, match=message) as refusal:
        read_pairs(path, root)

    assert f"{path}, line {number}:" in refusal.value.message


@pytest.mark.parametrize("lines", [GOOD[:-1], (*GOOD, "Bo\t1\t2")])
def test_too_few_or_too_many_lines_are_counted(tmp_path: Path, root: Path, lines: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match=f"are 5 lines, but there are {len(lines)}"):
        read_pairs(write(tmp_path, *lines), root)


def test_a_fold_with_more_of_one_kind_than_the_header_says_is_refused(tmp_path: Path, root: Path) -> None:
    lines = (*GOOD[:2], "Ann_Lee\t1\t2", *GOOD[3:])
    with pytest.raises(InvalidInputError, match="fold 1 holds 2 same pairs, its header says 1"):
        read_pairs(write(tmp_path, *lines), root)


def test_missing_pictures_are_all_counted_and_the_first_named(tmp_path: Path, root: Path) -> None:
    for path in root.glob("*/*"):
        path.unlink()
    with pytest.raises(InvalidInputError, match="6 of 6 pictures") as refusal:
        read_pairs(write(tmp_path, *GOOD), root)
    assert "Ann_Lee_0001" in refusal.value.message
    assert refusal.value.message.endswith("and 1 more")

    (root / "Bo" / "Bo_0001.jpg").touch()
    (root / "Bo" / "Bo_0002.jpg").touch()
    with pytest.raises(InvalidInputError, match=r"4 of 6 pictures .*Ann_Lee_0002$"):
        read_pairs(write(tmp_path, *GOOD), root)


def test_a_file_that_is_no_list_of_pairs_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        read_pairs(tmp_path / "none.txt", root)
    path = tmp_path / "pairs.txt"
    path.write_bytes(b"")
    with pytest.raises(InvalidInputError, match="is empty"):
        read_pairs(path, root)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        read_pairs(path, root)


@pytest.mark.data
def test_the_pairs_of_lfw_are_read_whole(data_folder: Path) -> None:
    folder = data_folder / "lfw"
    pairs = read_pairs(folder / "pairs.txt", folder / "images")

    assert [len(fold) for fold in pairs.folds] == [600] * 8
    assert all([pair.is_same for pair in fold] == [True] * 300 + [False] * 300 for fold in pairs.folds)
