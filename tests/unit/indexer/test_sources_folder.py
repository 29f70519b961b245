"""Folders of pictures: what is listed, what is refused, and that nothing outside is read."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.errors import EngineError, InvalidInputError, PictureTooLargeError
from engine.limits import SOURCE_BYTES_MAX
from indexer import plan
from indexer.fault import FAULT_ITEMS
from indexer.items import Item, Reason, Refusal
from indexer.sources.folder import FolderSource
from indexer.sources.names import row_prefix, source_key
from indexer.sources.picture_files import PICTURE_BYTES_MAX

NOBODY = 65534


def put(root: Path, *paths: str) -> None:
    """Write files that hold their own paths."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())


def keys(found: list[Item | Refusal]) -> list[str]:
    return [one.key for one in found]


@contextmanager
def no_privileges() -> Iterator[None]:
    """Run as somebody whom permissions bind."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_pictures_are_listed_in_order_of_their_bytes(tmp_path: Path) -> None:
    put(tmp_path, "b/2.JPG", "b/1.png", "a.b/x.webp", "a/z.bmp", "a/deep/er/y.jpeg", "é/1.jpg", "B/1.jpg")
    put(tmp_path, "a/notes.txt", "a/.hidden.jpg", ".cache/1.jpg")
    found = list(FolderSource(tmp_path).items())
    assert keys(found) == [
        "B/1.jpg",
        "a.b/x.webp",
        "a/deep/er/y.jpeg",
        "a/z.bmp",
        "b/1.png",
        "b/2.JPG",
        "é/1.jpg",
    ]
    assert keys(found) == sorted(keys(found), key=str.encode)
    assert found[2].identity_id == "a"
    assert found == list(FolderSource(tmp_path).items())


def test_an_item_says_size_and_time_and_is_read(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg")
    source = pickle.loads(pickle.dumps(FolderSource(tmp_path)))
    (item,) = source.items()
    status = (tmp_path / "a/1.jpg").stat()
    assert (item.size_bytes, item.mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert source.read(item) == b"a/1.jpg"


def test_a_root_without_pictures_or_that_is_none_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "a/notes.txt")
    with pytest.raises(InvalidInputError, match="no picture"):
        list(FolderSource(tmp_path).items())
    with pytest.raises(InvalidInputError, match="cannot read folder"):
        FolderSource(tmp_path / "gone")


def test_links_that_circle_or_lead_outside_or_nowhere_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "a/1.jpg", "b/2.jpg")
    put(tmp_path, "secret/3.jpg")
    (root / "a/again").symlink_to(root)
    (root / "a/other").symlink_to(root / "b")
    (root / "b/back").symlink_to(root / "a")
    (root / "a/out").symlink_to(tmp_path / "secret")
    (root / "a/out.jpg").symlink_to(tmp_path / "secret/3.jpg")
    (root / "a/self").symlink_to("self")
    (root / "a/nowhere.jpg").symlink_to("gone.jpg")
    (root / "a/same.jpg").symlink_to("1.jpg")
    (root / "stranger").symlink_to(tmp_path / "secret")
    found = list(FolderSource(root).items())
    refused = {one.key: one.reason for one in found if isinstance(one, Refusal)}
    assert refused == dict.fromkeys(
        (
            "a/again",
            "a/other/back",
            "a/out",
            "a/out.jpg",
            "a/self",
            "a/nowhere.jpg",
            "b/back/other",
            "b/back/again",
            "b/back/out",
            "b/back/out.jpg",
            "b/back/self",
            "b/back/nowhere.jpg",
            "stranger",
        ),
        Reason.BAD_PATH,
    )
    items = [one for one in found if isinstance(one, Item)]
    assert [item.key for item in items] == [
        "a/1.jpg",
        "a/other/2.jpg",
        "a/same.jpg",
        "b/2.jpg",
        "b/back/1.jpg",
        "b/back/same.jpg",
    ]
    source = FolderSource(root)
    assert all(b"3" not in source.read(item) for item in items)


def test_a_refused_link_is_called_one_and_what_to_do_is_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "a/1.jpg", "a/deep/2.jpg")
    put(tmp_path, "elsewhere/3.jpg")
    (root / "a/back").symlink_to(root / "a")
    (root / "a/nowhere.jpg").symlink_to("gone.jpg")
    (root / "a/other").symlink_to(root / "a/deep")
    (root / "a/out.jpg").symlink_to(tmp_path / "elsewhere/3.jpg")
    (root / "a/twice").symlink_to(root / "a/deep")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    details = {one.key: one.detail for one in FolderSource(root).items() if isinstance(one, Refusal)}
    outside = "a link that leads outside the source, where nothing is read: put there what it leads to, "
    outside += "or give a SOURCE that holds both"
    assert details == {
        "a/back": "a link that leads back to a folder that it lies in: remove it",
        "a/nowhere.jpg": "a link that cannot be followed (No such file or directory): mend or remove it",
        "a/out.jpg": outside,
        "a/twice": "a link to a folder that another link of this identity led to: remove one of them",
        "b": outside,
    }


@pytest.mark.parametrize("num", [1, FAULT_ITEMS])
def test_where_all_are_links_to_elsewhere_the_error_says_so(tmp_path: Path, num: int) -> None:
    put(tmp_path, "elsewhere/1.jpg")
    (tmp_path / "root").mkdir()
    for number in range(num):
        (tmp_path / "root" / f"{number:03}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match=r"000: (bad_path )?a link that leads outside the source"):
        plan.make_plan(tmp_path / "plan", FolderSource(tmp_path / "root"))


def test_a_web_of_links_is_walked_once(tmp_path: Path) -> None:
    for name in range(12):
        put(tmp_path, f"a/{name}/1.jpg")
        for other in range(12):
            if other != name:
                (tmp_path / f"a/{name}/to{other}").symlink_to(tmp_path / f"a/{other}")
    found = list(FolderSource(tmp_path).items())
    assert sum(isinstance(one, Item) for one in found) == 24
    assert len(found) < 500


def test_an_unreadable_folder_is_refused_and_the_others_go_on() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        put(root, "a/1.jpg", "b/2.jpg", "c/3.jpg")
        (root / "b").chmod(0)
        with no_privileges():
            found = list(FolderSource(root).items())
            root_is_closed = root / "b"
            with pytest.raises(InvalidInputError, match="cannot read folder"):
                FolderSource(root_is_closed)
        (root / "b").chmod(0o755)
    assert keys(found) == ["a/1.jpg", "b/", "c/3.jpg"]
    assert isinstance(found[1], Refusal)
    assert found[1].reason == Reason.UNREADABLE


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg")
    os.mkfifo(tmp_path / "a/2.jpg")
    source = FolderSource(tmp_path)
    _, pipe = source.items()
    assert isinstance(pipe, Refusal)
    assert pipe.reason == Reason.UNREADABLE
    with pytest.raises(OSError, match="not a regular file"):
        source.read(Item("a/2.jpg", "a", file="a/2.jpg"))


@pytest.mark.parametrize("name", [" blank", "new\nline", "e\u0301"])
def test_a_name_that_no_identity_can_have_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"{name}/1.jpg", "good/1.jpg")
    refused = [one for one in FolderSource(tmp_path).items() if isinstance(one, Refusal)]
    assert [one.reason for one in refused] == [Reason.BAD_IDENTITY]
    assert refused[0].detail


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "good/1.jpg")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/good/\xff.jpg"))).write_bytes(b"x")
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfe"))
    bad.mkdir()
    (bad / "1.jpg").write_bytes(b"x")
    _, one, other = FolderSource(tmp_path).items()
    assert isinstance(one, Refusal)
    assert isinstance(other, Refusal)
    assert (one.reason, other.reason) == (Reason.BAD_PATH, Reason.BAD_IDENTITY)
    assert (one.key + one.detail + other.key + other.identity_id + other.detail).encode()


def test_a_picture_in_no_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "a/1.jpg")
    found = list(FolderSource(tmp_path).items())
    assert isinstance(found[0], Refusal)
    assert found[0].reason == Reason.BAD_IDENTITY


def test_a_file_of_gigabytes_is_never_read(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg")
    with (tmp_path / "a/1.jpg").open("r+b") as file:
        file.truncate(4 * 2**30)
    source = FolderSource(tmp_path)
    (item,) = source.items()
    assert isinstance(item, Item)
    assert item.size_bytes == 4 * 2**30 > PICTURE_BYTES_MAX
    with pytest.raises(PictureTooLargeError):
        source.read(item)


@pytest.mark.parametrize(
    "file", ["../secret.jpg", "a/../../secret.jpg", "a/link.jpg", "a/\x00.jpg", "gone.jpg"]
)
def test_a_list_that_was_tampered_with_reads_nothing_outside(tmp_path: Path, file: str) -> None:
    root = tmp_path / "root"
    put(root, "a/1.jpg")
    put(tmp_path, "secret.jpg")
    (root / "a/link.jpg").symlink_to(tmp_path / "secret.jpg")
    source = FolderSource(root)
    with pytest.raises(OSError, match=r"outside|NUL|No such file"):
        source.read(Item("k", "a", file=file))
    with pytest.raises(PermissionError):
        source.read(Item("k", "a", file=str(tmp_path / "secret.jpg")))


def test_folders_deeper_than_the_stack_are_walked(tmp_path: Path) -> None:
    folders = [f"{tmp_path}/a" + "/d" * depth for depth in range(1200)]
    for folder in folders:
        os.mkdir(folder)  # noqa: PTH102 - Path itself recurses
    file = folders[-1] + "/1.jpg"
    try:
        with open(file, "wb"):  # noqa: PTH123
            (item,) = FolderSource(tmp_path).items()
    finally:
        os.remove(file)  # noqa: PTH107
        for folder in reversed(folders):
            os.rmdir(folder)  # noqa: PTH106
    assert isinstance(item, Item)
    assert item.identity_id == "a"
    assert len(item.key.encode()) == SOURCE_BYTES_MAX


def test_ten_thousand_pictures_are_listed_within_a_second(tmp_path: Path) -> None:
    for name in range(100):
        folder = tmp_path / f"p{name}"
        folder.mkdir()
        for number in range(100):
            (folder / f"{number}.jpg").touch()
    source = FolderSource(tmp_path)
    start = time.process_time()
    assert sum(1 for _ in source.items()) == 10_000
    assert time.process_time() - start < 1.0


def test_long_and_unprintable_keys_are_shortened_the_same_way_each_time() -> None:
    one, other = "a/" + "é" * 200 + "1.jpg", "a/" + "é" * 200 + "2.jpg"
    assert source_key(one) == source_key(one) != source_key(other)
    assert len(source_key(one).encode()) <= SOURCE_BYTES_MAX
    assert source_key(one).startswith("a/éé")
    assert source_key("a\n.jpg").startswith("a?.jpg~")
    assert source_key("\udcff").encode()
    assert source_key("x" * SOURCE_BYTES_MAX) == "x" * SOURCE_BYTES_MAX
    assert row_prefix("v.npy") == "v.npy:"
    long = row_prefix("v" * 250 + ".npy")
    assert len(f"{long}{10**19}".encode()) <= SOURCE_BYTES_MAX
    assert long != row_prefix("v" * 250 + "2.npy")
