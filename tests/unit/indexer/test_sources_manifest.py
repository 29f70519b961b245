"""Manifests of pictures in CSV, TSV and Parquet: good rows, bad rows, wrong tables."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InvalidInputError
from indexer.items import Item, Reason, Refusal
from indexer.sources.manifest import ManifestSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three pictures, and one beside it."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "sub/3.jpg"):
        (root / name).write_bytes(name.encode())
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return root


def read_csv(folder: Path, data: bytes, name: str = "m.csv") -> list[Item | Refusal]:
    path = folder / name
    path.write_bytes(data)
    return list(ManifestSource(path).items())


def reasons(found: list[Item | Refusal]) -> list[Reason | None]:
    return [one.reason if isinstance(one, Refusal) else None for one in found]


def test_rows_become_items_in_their_order(folder: Path) -> None:
    found = read_csv(folder, b"path,identity_id,key,city\r\n2.jpg,ann,k2,Rome\r\nsub/3.jpg,bob,,\r\n\r\n")
    status = (folder / "2.jpg").stat()
    assert found[0] == Item(
        "k2",
        "ann",
        file="2.jpg",
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        attributes={"city": "Rome"},
    )
    assert (found[1].key, len(found)) == ("sub/3.jpg", 2)
    source = pickle.loads(pickle.dumps(ManifestSource(folder / "m.csv")))
    assert [source.read(item) for item in source.items()] == [b"2.jpg", b"sub/3.jpg"]


def test_tabs_and_a_byte_order_mark_are_understood(folder: Path) -> None:
    found = read_csv(folder, "\ufeffpath\tidentity_id\n1.jpg\tJosé, Ann\n".encode(), "m.tsv")
    assert found[0].identity_id == "José, Ann"


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (b"", "its columns: none"),
        (b"file,person\n", "'file', 'person'"),
        (b"path;identity_id\n", "'path;identity_id'"),
        (b"path,name\n", "lacks the column identity_id"),
        (b"path,identity_id,a,a\n", "two columns"),
        (b",path,identity_id\n", "without a name"),
        (b"path,identity_id,\xff\n", "not printable"),
        ("path,identity_id\n".encode("utf-16"), "lacks"),
    ],
)
def test_wrong_columns_are_an_error_that_names_them(folder: Path, head: bytes, match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        read_csv(folder, head)


def test_a_manifest_without_rows_or_that_is_gone_is_an_error(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="no rows"):
        read_csv(folder, b"path,identity_id\n")
    with pytest.raises(InvalidInputError, match="cannot read"):
        ManifestSource(folder / "gone" / "m.csv")


def test_bad_rows_are_refused_by_number_and_the_others_go_on(folder: Path) -> None:
    found = read_csv(
        folder,
        b"path,identity_id,note\n"
        b"1.jpg,\xff\xfe,\n"
        b"1.jpg,ann,\n"
        b"2.jpg,bob\n"
        b",bob,\n"
        b"2.jpg,,\n"
        b"1.jpg,ann,\n"
        b"2.jpg, bob,\n"
        b"sub/3.jpg,bob," + b"x" * 2000 + b"\n"
        b"gone.jpg,bob,\n"
        b"sub,bob,\n"
        b'sub/../1.jpg,"' + b"y" * 200_000 + b"\n"
        b"sub/3.jpg,cleo,\n",
    )
    row, path = Reason.BAD_ROW, Reason.BAD_PATH
    assert reasons(found) == [
        row,
        None,
        row,
        row,
        row,
        row,
        Reason.BAD_IDENTITY,
        row,
        path,
        path,
        row,
        row,
    ]
    assert "row 2:" in found[0].detail  # type: ignore[union-attr]
    assert found[0].key == "m.csv:2"
    assert "earlier row" in found[5].detail  # type: ignore[union-attr]
    assert len({one.key for one in found}) == len(found)


def test_rows_after_one_that_is_not_csv_go_on(folder: Path) -> None:
    found = read_csv(folder, b'path,identity_id\n1.jpg,"' + b"y" * 200_000 + b'"\n2.jpg,bob\n')
    assert found[0] == Refusal(
        "m.csv:2", Reason.BAD_ROW, detail="row 2: not CSV: field larger than field limit (131072)"
    )
    assert found[1].key == "2.jpg"


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "sub/../../secret.jpg", "{}/secret.jpg", "link.jpg", "out/secret.jpg"]
)
def test_paths_that_lead_outside_are_refused(folder: Path, path: str) -> None:
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "out").symlink_to(folder.parent)
    path = path.format(folder.parent)
    (found,) = read_csv(folder, f"path,identity_id\n{path},ann\n".encode())
    assert isinstance(found, Refusal)
    assert found.reason == Reason.BAD_PATH
    with pytest.raises(PermissionError):
        ManifestSource(folder / "m.csv").read(Item("k", "ann", file=path))


def test_a_link_inside_is_followed(folder: Path) -> None:
    (folder / "sub/link.jpg").symlink_to("../1.jpg")
    (found,) = read_csv(folder, b"path,identity_id\nsub/link.jpg,ann\n")
    assert isinstance(found, Item)
    assert ManifestSource(folder / "m.csv").read(found) == b"1.jpg"


@pytest.mark.parametrize("cell", ["=1+2", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0"])
def test_formulas_are_kept_as_text(folder: Path, cell: str) -> None:
    (found,) = read_csv(folder, f"path,identity_id,key,note\n1.jpg,{cell},{cell},{cell}\n".encode())
    assert isinstance(found, Item)
    assert (found.identity_id, found.key, found.attributes) == (cell, cell, {"note": cell})


def test_parquet_is_read_as_csv_is(folder: Path) -> None:
    table = pa.table(
        {
            "path": ["1.jpg", "2.jpg", None, "../secret.jpg", "1.jpg"],
            "identity_id": pa.array([7, 8, 9, 10, 11]),
            "age": pa.array([30, None, 1, 1, 1]),
            "attributes": pa.array([[("city", "Rome")], None, [], [], []], pa.map_(pa.string(), pa.string())),
        }
    )
    pq.write_table(table, folder / "m.parquet")
    found = list(ManifestSource(folder / "m.parquet").items())
    assert reasons(found) == [None, None, Reason.BAD_ROW, Reason.BAD_PATH, Reason.BAD_ROW]
    assert isinstance(found[0], Item)
    assert (found[0].identity_id, found[0].attributes) == ("7", {"city": "Rome", "age": "30"})
    assert found[1] == Item(
        "2.jpg", "8", file="2.jpg", size_bytes=5, mtime_ns=(folder / "2.jpg").stat().st_mtime_ns
    )
    assert "row 3:" in found[2].detail  # type: ignore[union-attr]


def test_text_that_is_not_utf8_in_parquet_is_a_bad_row(folder: Path) -> None:
    names = pa.array([b"\xff\xfe", b"ann"]).view(pa.string())
    pq.write_table(pa.table({"path": ["1.jpg", "2.jpg"], "identity_id": names}), folder / "m.parquet")
    assert reasons(list(ManifestSource(folder / "m.parquet").items())) == [Reason.BAD_ROW, None]


def test_wrong_parquet_is_an_error(folder: Path) -> None:
    path = folder / "m.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(InvalidInputError, match="cannot read"):
        ManifestSource(path)
    pq.write_table(pa.table({"path": ["a"], "who": ["b"]}), path)
    with pytest.raises(InvalidInputError, match="'path', 'who'"):
        ManifestSource(path)
    pq.write_table(pa.table({"path": ["a"], "identity_id": ["b"], "x": [[1]]}), path)
    with pytest.raises(InvalidInputError, match="'x' is of type list"):
        ManifestSource(path)
    pq.write_table(pa.table({"path": ["a"], "identity_id": [1.5]}), path)
    with pytest.raises(InvalidInputError, match="'identity_id' is of type double"):
        ManifestSource(path)


def test_damage_in_the_middle_of_parquet_is_one_refusal(folder: Path) -> None:
    path = folder / "m.parquet"
    table = pa.table({"path": ["1.jpg", "2.jpg"], "identity_id": ["ann", "bob"]})
    pq.write_table(table, path, row_group_size=1, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    place = column.dictionary_page_offset
    data[place : place + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    found = list(ManifestSource(path).items())
    assert reasons(found) == [None, Reason.UNREADABLE]
