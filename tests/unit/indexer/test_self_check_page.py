"""The page of a self-check: well-formed, escaped, and its figures tell the numbers."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from engine.types import Identity, StoredTemplate
from indexer.self_check.check import CheckSettings, check
from indexer.self_check.findings import GIVEN, Findings, Histogram, Outlier, Place
from indexer.self_check.page import page
from indexer.self_check.templates import Templates
from tests.contract.naive import unit_vectors

HOSTILE = "<script>\u202e&\"'"
VOID = {"meta", "br"}


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Of 50 people with two templates each, one of them under a hostile name and once more under another."""
    rng = np.random.default_rng(4)
    vectors = np.repeat(unit_vectors(rng, 50, 16), 2, axis=0) + 0.1 * rng.normal(size=(100, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"p{row // 2:02}" for row in range(100)]
    names[2:4] = [HOSTILE] * 2
    vectors[10] = vectors[2]
    held: dict[str, list[StoredTemplate]] = {}
    for row, name in enumerate(names):
        held.setdefault(name, []).append(StoredTemplate(row + 1, vectors[row], 0.5, f"{name}.jpg", 0.0))
    page_of = [(Identity(name, {}, (), 0.0), templates) for name, templates in sorted(held.items())]
    templates = Templates.read([page_of], 16)
    return check("staff", "else & where", templates, CheckSettings(0.9, GIVEN), num_written=3)


class Balanced(HTMLParser):
    """Every tag that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_loads_nothing_and_escapes_names(findings: Findings) -> None:
    text = page(findings).decode()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not {"script", "img", "link", "iframe"} & set(parser.seen)
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert "&lt;script&gt;\\u202e&amp;&quot;&#x27;" in text
    assert "\u202e" not in text
    assert "else &amp; where" in text
    assert page(findings) == page(findings)


def test_the_page_says_what_was_found_and_how_much_of_it(findings: Findings) -> None:
    text = page(findings).decode()
    assert findings.lists.counts.duplicates + findings.lists.counts.near_another > 0
    assert ">everybody<" in text
    assert "from similarity 0.9000 on, as given" in text
    cut = dataclasses.replace(
        findings,
        num_checked_identities=5,
        lists=dataclasses.replace(
            findings.lists,
            counts=dataclasses.replace(findings.lists.counts, outliers=1234, is_duplicates_least=True),
            outliers=(Outlier(Place("ada", 7, ""), 0.25, None, 0.5),),
        ),
        mated=None,
    )
    text = page(cut).decode()
    assert "a random 5 identities, 10.00%; seed 0" in text
    assert "The worst 1 of 1,234." in text
    assert "at least " in text
    assert "Nobody has two templates." in text
    assert '<span class="meaning">template 7</span>' in text


def test_the_bars_are_the_counts_and_the_line_stands_at_its_similarity(findings: Findings) -> None:
    figures = re.findall(r"<svg.*?</svg>", page(findings).decode(), re.DOTALL)
    assert findings.mated is not None
    histograms = (findings.tops, findings.mated, findings.crowding)
    marks = (0.9, 0.9, findings.limits.crowded_from)
    assert len(figures) == 3
    for figure, histogram, mark in zip(figures, histograms, marks, strict=True):
        _check_figure(ET.fromstring(figure), histogram, mark)


def _check_figure(svg: ET.Element, histogram: Histogram, mark: float) -> None:
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    bars = svg.findall("rect")
    told = [int((bar.findtext("title") or "").rpartition(": ")[2].replace(",", "")) for bar in bars]
    assert told == [number for number in histogram.counts if number]
    assert sum(told) == histogram.num
    heights = [float(bar.attrib["height"]) for bar in bars]
    for bar, number, tall in zip(bars, told, heights, strict=True):
        assert 0 <= float(bar.attrib["x"]) <= width - float(bar.attrib["width"])
        assert 0 <= float(bar.attrib["y"]) <= height - tall
        assert tall == pytest.approx(max(1.0, max(heights) * number / max(told)), abs=0.1)
    lines = [line for line in svg.findall("line") if line.attrib["class"] == "mark"]
    assert len(lines) == (histogram.low <= mark <= histogram.high)
    axis = next(line for line in svg.findall("line") if line.attrib["class"] == "axis")
    left, right = float(axis.attrib["x1"]), float(axis.attrib["x2"])
    for line in lines:
        place = (float(line.attrib["x1"]) - left) / (right - left)
        assert histogram.low + place * (histogram.high - histogram.low) == pytest.approx(mark, abs=1e-3)
