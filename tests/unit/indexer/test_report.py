"""A job's report: exact for programs, safe for spreadsheets, a page that anybody can read."""

from __future__ import annotations

import csv
import html.parser
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import InvalidInputError
from indexer.histogram import EDGES, NUM_BINS, SimilarityHistogram
from indexer.items import Reason, Refusal
from indexer.report import BATCH_ROWS, COLUMNS, EXAMPLES_MAX, write_report
from indexer.report_page import _MEANINGS

VOID = {"meta"}
"""Elements without an end, of those that the page uses; those of SVG end themselves or have one."""
NASTY = '<script>alert(1)</script> & "quoted" \''


class Page(html.parser.HTMLParser):
    """What a page holds, and whether its elements are nested as they should be."""

    def __init__(self, folder: Path):
        super().__init__()
        self.source = (folder / "report.html").read_text()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    def of(self, name: str) -> list[str]:
        """Values of an attribute."""
        return [value or "" for key, value in self.attributes if key == name]


def cells(folder: Path) -> list[list[str]]:
    with (folder / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def refusal(key: str, reason: Reason = Reason.NO_FACE, identity_id: str = "ada", detail: str = "") -> Refusal:
    return Refusal(key, reason, identity_id, detail)


def test_zero_refusals_make_whole_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    write_report(folder, [], {"enrolled": 3}, {"source": "photos"}, None)
    table = pq.read_table(folder / "report.parquet")
    assert (table.num_rows, table.column_names) == (0, list(COLUMNS))
    assert cells(folder) == [list(COLUMNS)]
    page = Page(folder)
    assert "Nothing was refused or flagged." in page.texts
    assert ("enrolled" in page.texts, "3" in page.texts, "photos" in page.texts) == (True, True, True)
    assert "svg" not in page.tags
    assert sorted(path.name for path in folder.iterdir()) == ["report.csv", "report.html", "report.parquet"]


def test_every_refusal_is_in_both_tables_in_the_order_given(tmp_path: Path) -> None:
    given = [
        refusal("b/山田.jpg", Reason.BLURRED, "山田", "sharpness 3.1, at least 20"),
        refusal("a/1.jpg", Reason.DUPLICATE_OF, "ada", 'a/"0", old.jpg'),
        refusal("row 7", Reason.BAD_ROW, "", "line one\nline two"),
    ]
    write_report(tmp_path, given, {}, {}, None)
    expected = [[item.key, item.identity_id, item.reason.value, item.detail] for item in given]
    assert [list(row.values()) for row in pq.read_table(tmp_path / "report.parquet").to_pylist()] == expected
    assert cells(tmp_path) == [list(COLUMNS), *expected]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_of_the_csv_is_a_formula_and_parquet_is_exact(tmp_path: Path, start: str) -> None:
    formula = f'{start}HYPERLINK("http://x";"y")'
    write_report(tmp_path, [refusal(formula, Reason.BAD_ROW, formula, formula)], {}, {}, None)
    assert cells(tmp_path)[1] == [f"'{formula}", f"'{formula}", "bad_row", f"'{formula}"]
    (row,) = pq.read_table(tmp_path / "report.parquet").to_pylist()
    assert (row["key"], row["identity_id"], row["detail"]) == (formula, formula, formula)


def test_a_harmless_cell_stays_as_it_is(tmp_path: Path) -> None:
    write_report(tmp_path, [refusal("a=b", detail="1 - 2")], {}, {}, None)
    assert cells(tmp_path)[1] == ["a=b", "ada", "no_face", "1 - 2"]


def test_names_that_are_no_text_are_shown_by_their_bytes(tmp_path: Path) -> None:
    write_report(tmp_path, [refusal("caf\udce9.jpg", Reason.BAD_IDENTITY, "\udcff")], {}, {}, None)
    (row,) = pq.read_table(tmp_path / "report.parquet").to_pylist()
    assert (row["key"], row["identity_id"]) == ("caf\\udce9.jpg", "\\udcff")
    assert cells(tmp_path)[1][:2] == ["caf\\udce9.jpg", "\\udcff"]
    assert "caf\\udce9.jpg" in Page(tmp_path).texts


def test_nothing_of_a_name_is_markup(tmp_path: Path) -> None:
    summary = {NASTY: NASTY, "gallery": "\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}x"}
    write_report(tmp_path, [refusal(NASTY)], {NASTY + "2": 1}, summary, SimilarityHistogram())
    page = Page(tmp_path)
    assert "script" not in page.tags
    assert page.texts.count(NASTY) == 3
    assert "\\x1b[31m\\u202ex" in page.texts
    assert not set(page.source) & {"\x1b", "\N{RIGHT-TO-LEFT OVERRIDE}"}


def test_the_page_counts_by_reason_and_shows_ten_keys_of_each(tmp_path: Path) -> None:
    given = [refusal(f"key {row}") for row in range(25)]
    given += [refusal("odd", Reason.UNDECODABLE)]
    counts = {"enrolled": 74, "no_face": 25, "too_large": 1_000, "blurred": 0}
    write_report(
        tmp_path, given, counts, {"num_items": 1_100, "overhead_share": 0.071, "time_s": 62.25}, None
    )
    page = Page(tmp_path)
    assert [text for text in page.texts if text.startswith("key ")] == [
        f"key {row}" for row in range(EXAMPLES_MAX)
    ]
    assert "and 15 more" in page.texts
    names = [text for text in page.texts if text in {"no face", "undecodable", "too large", "blurred"}]
    assert names == ["too large", "no face", "undecodable"]
    # One that is not counted by the job is counted from the refusals; the share is of all of them.
    assert page.texts[page.texts.index("undecodable") + 2 :][:2] == ["1", "0.1%"]
    assert "1,026 in all; every one is in report.csv and report.parquet" in page.texts
    for said in ("1,100", "7.1%", "62.2 s", "74"):
        assert said in page.texts
    assert "overhead 7.1%" in page.of("aria-label")


def test_the_page_is_self_contained_and_accessible(tmp_path: Path) -> None:
    similarities = SimilarityHistogram()
    similarities.add(np.array([0.91, 0.93, 0.95]), "same")
    similarities.add(np.array([0.11]), "other")
    write_report(tmp_path, [refusal("a")], {}, {"threshold": 0.6}, similarities)
    page = Page(tmp_path)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "http" not in page.source.replace("http-equiv", "")
    assert "url(" not in page.source
    assert "prefers-color-scheme:dark" in page.source
    assert page.of("lang") == ["en"]
    assert "Indexing report" in page.texts
    assert page.tags.count("table") == page.tags.count("caption") == page.tags.count("thead") == 3
    assert page.tags.count("th") == len(page.of("scope"))
    assert page.tags.count("svg") == page.of("role").count("img") == len(page.of("aria-label"))
    same, other = page.of("aria-label")
    assert same.startswith("Histogram of similarity: 3 pairs with the same identity, median about 0.93")
    assert other.startswith("Histogram of similarity: 1 pair with the nearest other identity")
    assert same.endswith("the broken line is the threshold, 0.6000")
    assert page.of("class").count("mark") == 2
    assert {"0.92 to 0.94: 1", "0.10 to 0.12: 1"} <= set(page.texts)


def test_a_histogram_without_pairs_says_so(tmp_path: Path) -> None:
    write_report(tmp_path, [], {}, {}, SimilarityHistogram())
    assert "No pairs with the nearest other identity." in Page(tmp_path).texts


def test_the_same_job_makes_the_same_bytes_over_an_old_report(tmp_path: Path) -> None:
    def write(folder: Path) -> list[bytes]:
        similarities = SimilarityHistogram()
        similarities.add(np.linspace(-1, 1, 999), "same")
        write_report(folder, [refusal("a"), refusal("b")], {"enrolled": 1}, {"items": 3}, similarities)
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "report.csv").write_text("old")
    assert write(tmp_path / "one") == write(tmp_path / "two")


def test_more_refusals_than_a_batch_are_all_written(tmp_path: Path) -> None:
    num = BATCH_ROWS + 3
    write_report(tmp_path, (refusal(f"{row:06}") for row in range(num)), {}, {}, None)
    file = pq.ParquetFile(tmp_path / "report.parquet")
    assert (file.metadata.num_rows, file.metadata.num_row_groups) == (num, 2)
    keys = [row[0] for row in cells(tmp_path)[1:]]
    assert keys == [f"{row:06}" for row in range(num)] == file.read()["key"].to_pylist()
    assert f"and {num - EXAMPLES_MAX:,} more" in Page(tmp_path).texts


def test_where_refusals_fail_the_old_report_stays(tmp_path: Path) -> None:
    write_report(tmp_path, [refusal("old")], {}, {}, None)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing() -> Iterator[Refusal]:
        yield refusal("new")
        raise InvalidInputError("as any error of the job")

    with pytest.raises(InvalidInputError, match="as any"):
        write_report(tmp_path, failing(), {}, {}, None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        write_report(tmp_path / "file", [], {}, {}, None)


def test_every_reason_is_explained() -> None:
    assert set(_MEANINGS) == set(Reason)


def test_edges_belong_to_the_bin_above_and_rounding_to_the_last() -> None:
    histogram = SimilarityHistogram()
    histogram.add(EDGES, "same")
    assert histogram.same.tolist() == [1] * (NUM_BINS - 1) + [2]
    histogram.add(np.array([1.0000001, -1.0000001, -0.99], np.float32), "other")
    assert (histogram.other[0], histogram.other[-1], histogram.other.sum()) == (2, 1, 3)
    assert histogram.same.sum() == NUM_BINS + 1


def test_histograms_add_up_and_travel() -> None:
    rng = np.random.default_rng(3)
    values = rng.uniform(-1, 1, 500).astype(np.float32)
    whole, parts = SimilarityHistogram(), SimilarityHistogram()
    whole.add(values, "other")
    for part in (values[:0], values[:200], values[200:]):
        one = SimilarityHistogram()
        one.add(part, "other")
        parts.merge(pickle.loads(pickle.dumps(one)))
    assert np.array_equal(whole.other, parts.other)
    assert whole.other.dtype == np.int64
    assert not parts.same.any()
    expected, _ = np.histogram(values.astype(np.float64), bins=EDGES)
    assert np.array_equal(whole.other, expected)


def test_what_is_no_similarity_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="not a number"):
        SimilarityHistogram().add(np.array([0.5, np.nan]), "same")
    with pytest.raises(InvalidInputError, match="'mated'"):
        SimilarityHistogram().add(np.array([0.5]), "mated")
