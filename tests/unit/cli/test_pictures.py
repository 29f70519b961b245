"""PICTURE arguments: what is found, how much is read at once, and whose error is whose."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.cli import pictures
from engine.cli.arguments import UsageError
from engine.cli.pictures import (
    CHUNK_PICTURES,
    Asked,
    PictureFile,
    ask_each,
    find_pictures,
    name_items,
    total_failure,
)
from engine.errors import EngineError, GalleryNotFoundError, InvalidInputError, UndecodablePictureError


def test_a_folder_stands_for_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.webp", "d.bmp", "e.jpeg", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub.jpg").mkdir()
    found = find_pictures([str(tmp_path)])
    assert [Path(file.name).name for file in found] == ["a.png", "b.JPG", "c.webp", "d.bmp", "e.jpeg"]


def test_files_keep_their_order_and_may_be_called_anything(tmp_path: Path) -> None:
    odd = tmp_path / "no-suffix"
    odd.write_bytes(b"x")
    names = ["-", str(odd), "missing.jpg"]
    assert [file.name for file in find_pictures(names)] == names


def test_an_empty_folder_and_standard_input_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds no pictures"):
        find_pictures([str(tmp_path)])
    with pytest.raises(UsageError):
        find_pictures(["-", "-"])


def test_of_a_folder_of_folders_it_is_said_that_they_are_not_searched(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"holds no pictures$"):
        find_pictures([str(tmp_path)])
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.jpg").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match="its subfolders are not searched"):
        find_pictures([str(tmp_path)])


def test_a_folder_that_cannot_be_read_is_named() -> None:
    # The system lists no descriptors of a process that is gone, to nobody at all.
    process = subprocess.Popen([sys.executable, "-c", ""])
    folder = f"/proc/{process.pid}/fdinfo"
    process.wait()
    with pytest.raises(InvalidInputError, match="cannot read folder"):
        pictures._pictures_of(folder)


def test_standard_input_is_read_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xd8jpeg")))
    assert PictureFile("-").read() == b"\xff\xd8jpeg"


def test_a_file_that_cannot_be_read_or_sent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot read picture nothing\.jpg: No such file"):
        PictureFile("nothing.jpg").read()
    monkeypatch.setattr(pictures, "MESSAGE_SIZE_BYTES_MAX", pictures.OVERHEAD_BYTES + 10)
    small, large = tmp_path / "small.jpg", tmp_path / "large.jpg"
    small.write_bytes(bytes(10))
    large.write_bytes(bytes(11))
    assert len(PictureFile(str(small)).read()) == 10
    with pytest.raises(InvalidInputError, match=r"large\.jpg is over the limit"):
        PictureFile(str(large)).read()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("photos/ada.jpg", "ada.jpg"),
        ("a\nb\udcff.jpg", "a?b?.jpg"),
        ("é" * 200 + ".jpg", "é" * 127),
        ("-", "-"),
    ],
)
def test_a_source_is_the_files_own_name_within_what_a_source_may_hold(name: str, source: str) -> None:
    assert PictureFile(name).source == source


def test_pictures_are_asked_about_a_few_at_a_time_in_order(tmp_path: Path) -> None:
    num_pictures = 2 * CHUNK_PICTURES + 1
    for number in range(num_pictures):
        (tmp_path / f"{number:03}.jpg").write_bytes(str(number).encode())
    sizes = []

    def ask(batch: list[bytes]) -> Sequence[int]:
        sizes.append(len(batch))
        return [int(data) for data in batch]

    asked = list(ask_each(find_pictures([str(tmp_path)]), ask))
    assert [each.outcome for each in asked] == list(range(num_pictures))
    assert [each.data for each in asked[:2]] == [b"0", b"1"]
    assert sizes == [CHUNK_PICTURES, CHUNK_PICTURES, 1]


def test_large_pictures_go_in_calls_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "CHUNK_SIZE_BYTES_MAX", 10)
    for number, size in enumerate((4, 6, 1, 20)):
        (tmp_path / f"{number}.jpg").write_bytes(bytes(size))
    batches = []

    def ask(batch: list[bytes]) -> Sequence[int]:
        batches.append([len(data) for data in batch])
        return [0] * len(batch)

    list(ask_each(find_pictures([str(tmp_path)]), ask))
    assert batches == [[4, 6], [1], [20]]


def test_one_pictures_error_is_its_own_and_names_the_file(tmp_path: Path) -> None:
    for name in ("a.jpg", "c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    files = [PictureFile(str(tmp_path / name)) for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")]

    def ask(batch: list[bytes]) -> list[str | EngineError]:
        return [
            UndecodablePictureError(f"probes[{row}]: damaged JPEG") if data == b"c.jpg" else data.decode()
            for row, data in enumerate(batch)
        ]

    outcomes = [each.outcome for each in ask_each(files, ask)]
    assert outcomes[0] == "a.jpg"
    assert isinstance(outcomes[1], InvalidInputError)
    assert "b.jpg" in outcomes[1].message
    assert isinstance(outcomes[2], UndecodablePictureError)
    assert outcomes[2].message == f"{tmp_path / 'c.jpg'}: damaged JPEG"
    assert outcomes[3] == "d.jpg"


def test_nothing_is_asked_where_nothing_could_be_read() -> None:
    def ask(batch: list[bytes]) -> list[str]:
        raise AssertionError(batch)

    asked: Asked[str] = next(ask_each([PictureFile("missing.jpg")], ask))
    assert isinstance(asked.outcome, InvalidInputError)
    assert list(ask_each([], ask)) == []


def test_an_error_of_the_whole_call_is_raised(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")

    def ask(batch: list[bytes]) -> list[str]:
        raise GalleryNotFoundError("no gallery")

    with pytest.raises(GalleryNotFoundError):
        list(ask_each(find_pictures([str(tmp_path)]), ask))


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("samples[1]: no face", "b.jpg: no face"),
        ("samples[1].quality is 2", "b.jpg.quality is 2"),
        ("probe: no face", "a.jpg: no face"),
        ("reference: no face", "b.jpg: no face"),
        ("pictures[7]: no face", "pictures[7]: no face"),
        ("damaged JPEG picture: x", "damaged JPEG picture: x"),
        ("identity 'probe: x' is not enrolled", "identity 'probe: x' is not enrolled"),
    ],
)
def test_items_of_a_request_are_called_by_their_files(message: str, named: str) -> None:
    error = name_items(UndecodablePictureError(message, hint="h", retry_after_s=1.0), ["a.jpg", "b.jpg"])
    assert (error.message, error.hint, error.retry_after_s) == (named, "h", 1.0)
    assert type(error) is UndecodablePictureError


def test_several_failures_make_one_sentence() -> None:
    first, second = UndecodablePictureError("a.jpg: no bytes"), InvalidInputError("other")
    assert total_failure([("a.jpg", first)], 1).message == "a.jpg: no bytes"
    assert total_failure([("b.jpg", second)], 1).message == "b.jpg: other"
    several = total_failure([("a.jpg", first), ("b.jpg", second)], 5)
    assert several.message == "2 of 5 pictures could not be used, first a.jpg: no bytes"
    assert type(several) is UndecodablePictureError
