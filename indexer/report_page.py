"""The page of a report: self-contained HTML, legible in light and dark, all text escaped. Pure."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.histogram import EDGES, NUM_BINS, SimilarityHistogram
from indexer.items import Reason

OVERHEAD, THRESHOLD = "overhead_share", "threshold"
"""Keys of a summary that are shown in a way of their own."""

_MEANINGS = {
    Reason.NO_FACE: "No face was found.",
    Reason.SEVERAL_FACES: "More than one face was found.",
    Reason.FACE_TOO_SMALL: "The face is smaller than the limit.",
    Reason.LOW_CONFIDENCE: "The detector is not sure that it is a face.",
    Reason.BLURRED: "The face is blurred.",
    Reason.EXTREME_POSE: "The face is turned too far away.",
    Reason.UNDECODABLE: "Not a picture, or a damaged one.",
    Reason.TOO_LARGE: "More bytes or pixels than the limit.",
    Reason.DUPLICATE_OF: "The same bytes under another key.",
    Reason.NEAR_ANOTHER_IDENTITY: "Nearer to another identity than to its own: look at it.",
    Reason.UNREADABLE: "Named by the source, but it cannot be read.",
    Reason.WORKER_KILLED: "The process that worked on it was killed.",
    Reason.BAD_ROW: "A row of the manifest that is wrong in itself.",
    Reason.BAD_VECTOR: "Not finite, zero, or not of unit length.",
    Reason.BAD_IDENTITY: "A name that no identity can have.",
    Reason.BAD_PATH: "A path or a link that leads outside the source, back, or nowhere.",
    Reason.TEMPLATE_LIMIT: "The identity has as many better templates as one may have.",
}
_REFUSED_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of all text after them."""

_BAR_PX, _LEFT_PX, _TOP_PX, _HEIGHT_PX = 6, 64, 10, 120
_WIDTH_PX = NUM_BINS * _BAR_PX
STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--soft:#57606a;--line:#d0d7de;--same:#2563a8;
--other:#b4540a;--mark:#8a2be2}
@media(prefers-color-scheme:dark){:root{--back:#14171b;--text:#e6e9ec;--soft:#a3acb5;--line:#3a424b;
--same:#7ab4f0;--other:#f0a060;--mark:#c9a0ff}}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:56rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin:2rem 0 .5rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}
caption{text-align:left;color:var(--soft);padding-bottom:.4rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line)}
th{font-weight:600}.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.meaning{display:block;font-weight:400;color:var(--soft)}
ul{margin:0;padding:0;list-style:none}code{font-size:.9em;overflow-wrap:anywhere}
figure{margin:1rem 0}figcaption{color:var(--soft)}
svg{max-width:100%;height:auto}svg text{fill:var(--soft);font-size:13px}
.axis{stroke:var(--line)}.mark{stroke:var(--mark);stroke-width:2;stroke-dasharray:5 4}
.same{fill:var(--same)}.other{fill:var(--other)}
.meter{stroke:var(--line);fill:none}
summary{cursor:pointer}
"""


@dataclass(frozen=True, slots=True)
class Examples:
    """A reason, how many items had it, and some of their keys."""

    reason: Reason
    num_items: int
    keys: tuple[str, ...]


def page(
    refused: Sequence[Examples],
    others: Mapping[str, int],
    summary: Mapping[str, str | int | float],
    similarities: SimilarityHistogram | None,
) -> bytes:
    """Compose the page, UTF-8. The same values make the same bytes: no time of its making is in it."""
    threshold = summary.get(THRESHOLD)
    mark = float(threshold) if isinstance(threshold, int | float) else None
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n',
        # Whatever slipped through: nothing is loaded, no script runs.
        '<meta http-equiv="Content-Security-Policy"',
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
        f"<title>Indexing report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        "<h1>Indexing report</h1>\n",
        _summary_table({**summary, **others}),
        _refused_table(refused),
        "" if similarities is None else _similarities(similarities, mark),
        "</main>\n</body>\n</html>\n",
    ]
    return "".join(parts).encode()


def shown(text: str) -> str:
    """Escape text for HTML; control characters and those that turn its direction become visible."""
    visible = "".join(
        ascii(char)[1:-1] if unicodedata.category(char) in _REFUSED_CATEGORIES or char in _TURNING else char
        for char in text
    )
    return html.escape(visible)


def _summary_table(summary: Mapping[str, str | int | float]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{shown(_label(key))}</th><td>{_value(key, value)}</td></tr>\n'
        for key, value in summary.items()
    )
    return (
        '<h2>Summary</h2>\n<div class="wide"><table>\n<caption>What the job did</caption>\n<thead><tr>'
        f'<th scope="col">What</th><th scope="col">Value</th></tr></thead>\n<tbody>\n{rows}</tbody>\n'
        "</table></div>\n"
    )


def _label(key: str) -> str:
    for unit in ("_s", "_bytes", "_share"):
        key = key.removesuffix(unit)
    if key == "overhead":
        return "overhead, share of the job's time"
    return key.removeprefix("num_").replace("_", " ")


def _value(key: str, value: str | float) -> str:
    if isinstance(value, str):
        return f"<bdi>{shown(value)}</bdi>"
    if key.endswith("_share"):
        return f"{value:.1%}" + (_meter(float(value)) if key == OVERHEAD else "")
    if key.endswith("_bytes"):
        return f"{value / 2**20:,.1f} MiB"
    if key.endswith("_s"):
        return f"{value:,.1f} s"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _meter(share: float) -> str:
    width = 160 * min(max(share, 0.0), 1.0)
    return (
        f' <svg width="162" height="12" role="img" aria-label="overhead {share:.1%}">'
        f'<rect class="same" x="1" y="1" width="{width:.1f}" height="10"/>'
        '<rect class="meter" x="0.5" y="0.5" width="161" height="11"/></svg>'
    )


def _refused_table(refused: Sequence[Examples]) -> str:
    if not refused:
        return "<h2>Refused or flagged</h2>\n<p>Nothing was refused or flagged.</p>\n"
    total = sum(item.num_items for item in refused)
    rows = "".join(
        f'<tr><th scope="row">{shown(item.reason.replace("_", " "))}'
        f'<span class="meaning">{shown(_MEANINGS.get(item.reason, ""))}</span></th>'
        f'<td class="number">{item.num_items:,}</td><td class="number">{item.num_items / total:.1%}</td>'
        f"<td>{_key_list(item)}</td></tr>\n"
        for item in refused
    )
    return (
        f'<h2>Refused or flagged</h2>\n<div class="wide"><table>\n<caption>{total:,} in all; every one is in'
        ' report.csv and report.parquet</caption>\n<thead><tr><th scope="col">Reason</th>'
        '<th scope="col" class="number">Items</th><th scope="col" class="number">Share</th>'
        f'<th scope="col">Examples</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n'
    )


def _key_list(item: Examples) -> str:
    keys = "".join(f"<li><code><bdi>{shown(key)}</bdi></code></li>" for key in item.keys)
    num_more = item.num_items - len(item.keys)
    more = f"<li>and {num_more:,} more</li>" if item.keys and num_more > 0 else ""
    return f"<ul>{keys}{more}</ul>" if keys else ""


def _similarities(similarities: SimilarityHistogram, threshold: float | None) -> str:
    figures = _figure("same", "same identity", similarities.same, threshold)
    figures += _figure("other", "nearest other identity", similarities.other, threshold)
    rows = "".join(
        f'<tr><th scope="row">{EDGES[place]:.2f} to {EDGES[place + 1]:.2f}</th>'
        f'<td class="number">{similarities.same[place]:,}</td>'
        f'<td class="number">{similarities.other[place]:,}</td></tr>\n'
        for place in np.flatnonzero(similarities.same + similarities.other)
    )
    return (
        "<h2>Similarity</h2>\n<p>Far apart is good: templates of one identity to the right, of others to the"
        f" left.</p>\n{figures}<details><summary>The same as a table</summary>\n<table>\n<caption>Pairs by"
        ' similarity</caption>\n<thead><tr><th scope="col">Similarity</th>'
        '<th scope="col" class="number">Same identity</th>'
        '<th scope="col" class="number">Nearest other identity</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></details>\n"
    )


def _figure(name: str, title: str, counts: NDArray[np.int64], threshold: float | None) -> str:
    total, highest = int(counts.sum()), int(counts.max())
    if not total:
        return f"<p>No pairs with the {title}.</p>\n"
    middle = int(np.searchsorted(np.cumsum(counts), total / 2))
    pairs = "1 pair" if total == 1 else f"{total:,} pairs"
    said = f"{pairs} with the {title}, median about {EDGES[middle : middle + 2].mean():.2f}"
    bottom = _TOP_PX + _HEIGHT_PX
    bars = "".join(
        f'<rect class="{name}" x="{_LEFT_PX + _BAR_PX * place}" y="{bottom - height:.1f}"'
        f' width="{_BAR_PX - 1}" height="{height:.1f}"><title>{EDGES[place]:.2f} to'
        f" {EDGES[place + 1]:.2f}: {counts[place]:,}</title></rect>\n"
        for place in np.flatnonzero(counts).tolist()
        # One pair among a million is still to be seen.
        for height in [max(1.0, _HEIGHT_PX * int(counts[place]) / highest)]
    )
    ticks = "".join(
        f'<text x="{_x(value):.0f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>\n'
        for value in (-1.0, -0.5, 0.0, 0.5, 1.0)
    )
    mark = ""
    if threshold is not None and -1.0 <= threshold <= 1.0:
        said += f"; the broken line is the threshold, {threshold:.4f}"
        x = _x(threshold)
        mark = f'<line class="mark" x1="{x:.1f}" y1="{_TOP_PX}" x2="{x:.1f}" y2="{bottom}"/>\n'
    width, height_px = _LEFT_PX + _WIDTH_PX + 16, bottom + 26
    return (
        f'<figure><svg viewBox="0 0 {width} {height_px}" width="{width}" height="{height_px}" role="img"'
        f' aria-label="Histogram of similarity: {said}">\n'
        f'<line class="axis" x1="{_LEFT_PX}" y1="{bottom}" x2="{_LEFT_PX + _WIDTH_PX}" y2="{bottom}"/>\n'
        f'<text x="{_LEFT_PX - 8}" y="{_TOP_PX + 8}" text-anchor="end">{highest:,}</text>\n'
        f'<text x="{_LEFT_PX - 8}" y="{bottom}" text-anchor="end">0</text>\n'
        f"{bars}{mark}{ticks}</svg>\n<figcaption>{said}</figcaption></figure>\n"
    )


def _x(similarity: float) -> float:
    return _LEFT_PX + (similarity + 1.0) / 2.0 * _WIDTH_PX
