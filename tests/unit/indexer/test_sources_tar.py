"""Tar shards: samples and their labels, hostile members, tars cut short and damaged."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from engine.errors import InvalidInputError, PictureTooLargeError
from indexer.items import Item, Reason, Refusal
from indexer.sources.picture_files import PICTURE_BYTES_MAX
from indexer.sources.tar import TarSource


def write_tar(path: Path, members: dict[str, bytes], tar_format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def listed(path: Path) -> list[Item | Refusal]:
    return list(TarSource(path).items())


def told(found: list[Item | Refusal]) -> list[tuple[str, str]]:
    """Key, and identity or reason."""
    return [(one.key, one.reason if isinstance(one, Refusal) else one.identity_id) for one in found]


def test_labels_say_whose_a_sample_is(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        {
            "000.jpg": b"0",
            "000.cls": b"12\n",
            "001.txt": "José".encode(),
            "001.PNG": b"1",
            "sub/002.json": b'{"identity_id": "cleo", "city": "Rome", "age": 3}',
            "sub/002.txt": b"a caption",
            "sub/002.webp": b"2",
            "./dan/003.a.jpg": b"3",
            "dan/003.b.bmp": b"33",
            "dan/._003.jpg": b"hidden",
            "dan/004.json": b'{"identity_id": 7}',
            "dan/004.jpeg": b"4",
            "notes.md": b"",
        },
    )
    source = pickle.loads(pickle.dumps(TarSource(path)))
    found = list(source.items())
    assert told(found) == [
        ("a.tar/000.jpg", "12"),
        ("a.tar/001.PNG", "José"),
        ("a.tar/sub/002.webp", "cleo"),
        ("a.tar/dan/003.a.jpg", "dan"),
        ("a.tar/dan/003.b.bmp", "dan"),
        ("a.tar/dan/004.jpeg", "7"),
    ]
    assert found[2].attributes == {"city": "Rome"}
    assert [source.read(item) for item in found] == [b"0", b"1", b"2", b"3", b"33", b"4"]
    assert found[0].mtime_ns == path.stat().st_mtime_ns
    assert found == list(source.items())


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_read(tmp_path: Path, tar_format: int) -> None:
    name = "ann/" + "é" * 120 + ".jpg"
    (item,) = listed(write_tar(tmp_path / "a.tar", {name: b"x"}, tar_format))
    assert isinstance(item, Item)
    assert (item.identity_id, TarSource(tmp_path / "a.tar").read(item)) == ("ann", b"x")


def test_all_tars_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "C"):
        write_tar(tmp_path / f"{name}.tar", {"x/1.jpg": name.encode()})
    (tmp_path / "other.txt").touch()
    source = TarSource(tmp_path)
    found = [one for one in source.items() if isinstance(one, Item)]
    assert [item.key for item in found] == ["C.tar/x/1.jpg", "a.tar/x/1.jpg", "b.tar/x/1.jpg"]
    assert [source.read(item) for item in found] == [b"C", b"a", b"b"]


def test_a_tar_may_be_named_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.tar").symlink_to(write_tar(tmp_path / "elsewhere/a.tar", {"x/1.jpg": b"x"}))
    source = TarSource(tmp_path / "link.tar")
    (item,) = source.items()
    assert isinstance(item, Item)
    assert (item.key, source.read(item)) == ("a.tar/x/1.jpg", b"x")


def test_tars_that_are_not_named_in_utf8_are_an_error(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.tar")).touch()
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        TarSource(tmp_path)


def test_nothing_to_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no \.tar file"):
        TarSource(tmp_path)
    path = write_tar(tmp_path / "a.tar", {"a/notes.txt": b"x"})
    with pytest.raises(InvalidInputError, match="no picture"):
        listed(path)
    with pytest.raises(InvalidInputError, match="no picture"):
        listed(write_tar(path, {}))


def test_labels_that_cannot_be_used_refuse_their_sample(tmp_path: Path) -> None:
    found = listed(
        write_tar(
            tmp_path / "a.tar",
            {
                "0.jpg": b"x",
                "1.jpg": b"x",
                "1.cls": b"\xff",
                "2.jpg": b"x",
                "2.json": b"[1]",
                "3.jpg": b"x",
                "3.json": b"[" * 100_000,
                "4.jpg": b"x",
                "4.cls": b"two\nlines",
                "5.jpg": b"x",
                "5.txt": b" ",
                "6.jpg": b"x",
                "6.cls": b"6" * (2 << 20),
                "7.jpg": b"x",
                "7.json": b'{"identity_id": "ann", "note": "%s"}' % (b"x" * 2000),
                "8.jpg": b"x",
                "8.json": b'{"identity_id": null}',
                "9.jpg": b"x",
                "9.cls": b"ann",
            },
        )
    )
    bad_id, bad_row = Reason.BAD_IDENTITY, Reason.BAD_ROW
    assert [reason for _, reason in told(found)] == [
        bad_id,
        bad_row,
        bad_row,
        bad_row,
        bad_id,
        bad_id,
        bad_row,
        bad_row,
        bad_id,
        "ann",
    ]


def test_hostile_members_are_refused_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("/etc/1.jpg", tarfile.REGTYPE),
            ("a/../../2.jpg", tarfile.REGTYPE),
            ("a/3.jpg", tarfile.SYMTYPE),
            ("a/4.jpg", tarfile.LNKTYPE),
            ("a/5.jpg", tarfile.CHRTYPE),
            ("a/6.jpg", tarfile.FIFOTYPE),
            ("a", tarfile.DIRTYPE),
            ("a/7.jpg", tarfile.REGTYPE),
            ("a/7.jpg", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert [reason for _, reason in told(listed(path))] == [Reason.BAD_PATH] * 6 + ["a", Reason.BAD_ROW]


@pytest.mark.parametrize("num_bytes", [1, 511, 512, 513, 700, 1024, 1500, 1536, 2048, 2100, 2560])
def test_what_is_whole_of_a_tar_cut_short_is_used(tmp_path: Path, num_bytes: int) -> None:
    path = write_tar(tmp_path / "a.tar", {"a/1.jpg": b"x" * 100, "a/2.jpg": b"y" * 600})
    whole = path.read_bytes()
    path.write_bytes(whole[:num_bytes])
    found = listed(path)
    items = [one for one in found if isinstance(one, Item)]
    assert len(items) == (num_bytes >= 612) + (num_bytes >= 1536 + 600)
    assert isinstance(found[-1], Refusal)
    assert (found[-1].reason, len(found)) == (Reason.UNREADABLE, len(items) + 1)
    assert all(len(TarSource(path).read(item)) == item.size_bytes for item in items)


def test_a_damaged_header_is_told_and_what_is_before_it_used(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"a/{number}.jpg": b"x" for number in range(4)})
    data = bytearray(path.read_bytes())
    data[2048 + 10 : 2048 + 60] = b"\x81" * 50
    path.write_bytes(data)
    found = told(listed(path))
    assert found == [("a.tar/a/0.jpg", "a"), ("a.tar/a/1.jpg", "a"), ("a.tar/", Reason.UNREADABLE)]


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b" + b"x" * 2000])
def test_a_tar_that_is_none_does_not_stop_the_others(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    write_tar(tmp_path / "b.tar", {"x/1.jpg": b"x"})
    (tmp_path / "c.tar").symlink_to("/dev/null")
    (tmp_path / "d.tar").mkdir()
    assert told(listed(tmp_path)) == [
        ("a.tar/", Reason.UNREADABLE),
        ("b.tar/x/1.jpg", "x"),
        ("c.tar/", Reason.UNREADABLE),
        ("d.tar/", Reason.UNREADABLE),
    ]


def test_headers_that_claim_gigabytes_or_lead_back_end_the_tar(tmp_path: Path) -> None:
    for name, kind, size in (("a.tar", tarfile.XHDTYPE, 3 * 2**30), ("b.tar", tarfile.REGTYPE, -1536)):
        member = tarfile.TarInfo("x/2.jpg")
        member.type, member.size = kind, size
        path = write_tar(tmp_path / name, {"x/1.jpg": b"x"})
        with path.open("r+b") as file:
            file.seek(1024)
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.truncate(4 * 2**30)
        assert told(listed(path)) == [(f"{name}/x/1.jpg", "x"), (f"{name}/", Reason.UNREADABLE)]


def test_a_member_of_gigabytes_is_listed_and_never_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    member = tarfile.TarInfo("x/1.jpg")
    member.size = 4 * 2**30
    with path.open("wb") as file:
        file.write(member.tobuf())
        file.truncate(512 + member.size + 1024)
    (item,) = listed(path)
    assert isinstance(item, Item)
    assert item.size_bytes > PICTURE_BYTES_MAX
    with pytest.raises(PictureTooLargeError):
        TarSource(path).read(item)


def test_a_list_that_was_tampered_with_reads_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    path = write_tar(root / "a.tar", {"x/1.jpg": b"x"})
    source = TarSource(path)
    for item in (
        Item("k", "x", file="../secret.jpg", size_bytes=6),
        Item("k", "x", file=str(tmp_path / "secret.jpg"), size_bytes=6),
        Item("k", "x", file="a.tar", offset=-1, size_bytes=6),
        Item("k", "x", file="a.tar", offset=path.stat().st_size, size_bytes=6),
    ):
        with pytest.raises(OSError, match=r"no tar|no picture can|too early"):
            source.read(item)
