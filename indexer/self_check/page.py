"""The page of a self-check: self-contained HTML with histograms, legible in light and dark.

All text is escaped. Pure. Holds ids and source keys of people who are enrolled, no pictures and no
vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from indexer.report_page import STYLE, shown
from indexer.self_check.findings import (
    CALIBRATION,
    FAR_FROM_OWN,
    GIVEN,
    OWN_TEMPLATES,
    Findings,
    Histogram,
    Place,
)

ORIGINS = {
    GIVEN: "as given",
    CALIBRATION: "of the calibration",
    OWN_TEMPLATES: "median within this gallery's identities",
}
REGION_IDS_SHOWN = 10
_LEFT_PX, _TOP_PX, _HEIGHT_PX, _BAR_PX = 64, 10, 120, 10
_NUM_TICKS = 5


def page(findings: Findings) -> bytes:
    """Compose the page, UTF-8. The same findings make the same bytes."""
    name = shown(findings.gallery_id)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n',
        # Whatever slipped through: nothing is loaded, no script runs.
        '<meta http-equiv="Content-Security-Policy"',
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
        f"<title>Check of {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        f"<h1>Check of <bdi>{name}</bdi></h1>\n",
        "<p>All is told from similarities alone, for a person to look at: twins, relatives and bad pictures"
        " look like errors, too.</p>\n",
        _summary(findings),
        _duplicates(findings),
        _mix_ups(findings),
        _crowded(findings),
        _regions(findings),
        _outliers(findings),
        _histograms(findings),
        "</main>\n</body>\n</html>\n",
    ]
    return "".join(parts).encode()


def compared_with_all(findings: Findings) -> str:
    """Say who was."""
    if not findings.is_sample:
        return "everybody"
    share = findings.num_checked_identities / findings.num_identities
    return f"a random {findings.num_checked_identities:,} identities, {share:.2%}; seed {findings.seed}"


def _summary(findings: Findings) -> str:
    counts = findings.lists.counts
    least = "at least " if counts.is_duplicates_least else ""
    rows = [
        ("contract", f"<bdi>{shown(findings.contract_name)}</bdi>"),
        ("identities", f"{findings.num_identities:,}, and {findings.num_without:,} without templates"),
        ("templates", f"{findings.num_templates:,}"),
        ("compared with all", compared_with_all(findings)),
        ("writes meanwhile", f"{findings.num_written:,}"),
        (
            "likely one person",
            f"from similarity {findings.duplicate_similarity:.4f} on, {ORIGINS[findings.duplicate_origin]}",
        ),
        ("likely duplicates", f"{least}{counts.duplicates:,}"),
        (
            "templates nearer to another identity",
            f"{counts.near_another:,}, of which {counts.near_another_likely:,} are as like it as one person",
        ),
        ("left out: nearer to a likely duplicate", f"{counts.near_another_of_duplicates:,}"),
        ("templates far from their own", f"{counts.far_from_own:,}"),
        ("crowded identities", f"{counts.crowded:,}; regions of them: {counts.regions:,}"),
        ("outliers", f"{counts.outliers:,}"),
    ]
    body = "".join(f'<tr><th scope="row">{label}</th><td>{value}</td></tr>\n' for label, value in rows)
    return f'<h2>Summary</h2>\n<div class="wide"><table>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def _duplicates(findings: Findings) -> str:
    rows = [
        (_place(pair.first), _place(pair.second), f"{pair.similarity:.4f}")
        for pair in findings.lists.duplicates
    ]
    return _table(
        "Likely duplicates",
        "Two identities that are likely one person, by their most similar templates.",
        ("Identity", "Identity", "Similarity"),
        rows,
        findings.lists.counts.duplicates,
    )


def _mix_ups(findings: Findings) -> str:
    rows = [
        (
            _place(mixed.template)
            + ("<br>far from its own" if mixed.reason == FAR_FROM_OWN else "<br>nearer to another identity"),
            _place(mixed.nearest),
            f"{mixed.similarity:.4f}",
            f"{mixed.own_similarity:.4f}",
        )
        for mixed in findings.lists.mix_ups
    ]
    counts = findings.lists.counts
    return _table(
        "Likely mix-ups",
        "Templates that are likely of somebody else than their identity. The further down, the more it is"
        " the network that errs.",
        ("Template", "Nearest of another identity", "Similarity", "To its own"),
        rows,
        counts.near_another + counts.far_from_own,
    )


def _crowded(findings: Findings) -> str:
    rows = [
        (
            _code(one.identity_id),
            f"{one.crowding:.4f}",
            _code(one.nearest_identity_id),
            f"{one.nearest_similarity:.4f}",
            f"{one.num_templates:,}",
        )
        for one in findings.lists.crowded
    ]
    return _table(
        "Crowded identities",
        f"Mean similarity to their 10 nearest others above {findings.limits.crowded_from:.4f}, where it is"
        " unusual here. A stranger who is like one of them is like many.",
        ("Identity", "Crowding", "Nearest", "Similarity", "Templates"),
        rows,
        findings.lists.counts.crowded,
    )


def _regions(findings: Findings) -> str:
    if not findings.lists.regions:
        return ""
    rows = []
    for region in findings.lists.regions:
        ids = region.identity_ids
        more = f", and {len(ids) - REGION_IDS_SHOWN:,} more" if len(ids) > REGION_IDS_SHOWN else ""
        named = ", ".join(_code(name) for name in ids[:REGION_IDS_SHOWN])
        rows.append((named + more, f"{len(ids):,}", f"{region.similarity:.4f}", f"{region.crowding:.4f}"))
    return _table(
        "Crowded regions",
        "Groups of crowded identities that are like each other, at most 50 in one.",
        ("Identities", "Number", "Linked from", "Mean crowding"),
        rows,
        findings.lists.counts.regions,
    )


def _outliers(findings: Findings) -> str:
    rows = [
        (
            _place(lone.template),
            f"{lone.similarity:.4f}",
            "alone" if lone.own_similarity is None else f"{lone.own_similarity:.4f}",
            f"{lone.quality:.3f}",
        )
        for lone in findings.lists.outliers
    ]
    return _table(
        "Outliers",
        f"Templates whose nearest of all, their own included, is below {findings.limits.outlier_below:.4f}:"
        " often bad crops.",
        ("Template", "Nearest", "To its own", "Quality"),
        rows,
        findings.lists.counts.outliers,
    )


def _table(
    title: str, meaning: str, header: Sequence[str], rows: Sequence[Sequence[str]], num_all: int
) -> str:
    if not rows:
        return f"<h2>{title}</h2>\n<p>None.</p>\n"
    caption = f"{meaning} The worst {len(rows):,} of {num_all:,}." if len(rows) < num_all else meaning
    heads = '<th scope="col">#</th>' + "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(f"<tr>{_cells((f'{rank:,}', *row))}</tr>\n" for rank, row in enumerate(rows, 1))
    return (
        f'<h2>{title}</h2>\n<div class="wide"><table>\n<caption>{caption}</caption>\n<thead><tr>{heads}</tr>'
        f"</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _cells(row: Iterable[str]) -> str:
    return "".join(
        f'<td class="number">{cell}</td>' if _is_number(cell) else f"<td>{cell}</td>" for cell in row
    )


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "", 1).lstrip("-").isdigit()


def _place(place: Place) -> str:
    source = f" from {_code(place.source)}" if place.source else ""
    return f'{_code(place.identity_id)}<span class="meaning">template {place.template_id}{source}</span>'


def _code(text: str) -> str:
    return f"<code><bdi>{shown(text)}</bdi></code>"


def _histograms(findings: Findings) -> str:
    limits, level = findings.limits, findings.duplicate_similarity
    figures = _figure("other", "templates by similarity to the nearest other identity", findings.tops, level)
    if findings.mated is None:
        figures += "<p>Nobody has two templates.</p>\n"
    else:
        title = "templates by similarity to the nearest of their own identity"
        figures += _figure("same", title, findings.mated, level)
    title = "identities by crowding, the mean similarity to their 10 nearest others"
    figures += _figure("other", title, findings.crowding, limits.crowded_from)
    return (
        "<h2>Similarity</h2>\n<p>Far apart is good: the nearest of others to the left, those of one identity"
        " to the right. The broken line is where likely duplicates begin, in the last where an identity is"
        f" counted as crowded.</p>\n{figures}"
    )


def _figure(name: str, title: str, histogram: Histogram, mark: float) -> str:
    highest, num_bins = max(histogram.counts), len(histogram.counts)
    width, bottom = num_bins * _BAR_PX, _TOP_PX + _HEIGHT_PX
    said = f"{histogram.num:,} {title}, median {histogram.median:.3f}"

    def x(value: float) -> float:
        return _LEFT_PX + (value - histogram.low) / (histogram.high - histogram.low) * width

    bars = "".join(
        f'<rect class="{name}" x="{_LEFT_PX + _BAR_PX * place}" y="{bottom - height:.1f}"'
        f' width="{_BAR_PX - 1}" height="{height:.1f}"><title>{histogram.edge(place):.3f} to'
        f" {histogram.edge(place + 1):.3f}: {number:,}</title></rect>\n"
        for place, number in enumerate(histogram.counts)
        if number
        # One among a million is still to be seen.
        for height in [max(1.0, _HEIGHT_PX * number / highest)]
    )
    step = (histogram.high - histogram.low) / (_NUM_TICKS - 1)
    values = [histogram.low + place * step for place in range(_NUM_TICKS)]
    ticks = "".join(
        f'<text x="{x(value):.0f}" y="{bottom + 18}" text-anchor="middle">{value:.3g}</text>\n'
        for value in values
    )
    line = ""
    if histogram.low <= mark <= histogram.high:
        line = f'<line class="mark" x1="{x(mark):.1f}" y1="{_TOP_PX}" x2="{x(mark):.1f}" y2="{bottom}"/>\n'
    size = (_LEFT_PX + width + 24, bottom + 26)
    return (
        f'<figure><svg viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" height="{size[1]}" role="img"'
        f' aria-label="Histogram: {said}">\n'
        f'<line class="axis" x1="{_LEFT_PX}" y1="{bottom}" x2="{_LEFT_PX + width}" y2="{bottom}"/>\n'
        f'<text x="{_LEFT_PX - 8}" y="{_TOP_PX + 8}" text-anchor="end">{highest:,}</text>\n'
        f'<text x="{_LEFT_PX - 8}" y="{bottom}" text-anchor="end">0</text>\n'
        f"{bars}{line}{ticks}</svg>\n<figcaption>{said}</figcaption></figure>\n"
    )
