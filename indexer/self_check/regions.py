"""Where a gallery is crowded, and what in it is like nobody.

Regions are found by joining crowded identities, most similar first, as long as none grows beyond
REGION_IDENTITIES_MAX: a chain of likenesses would otherwise join half a gallery. So one dense region may be
told as several.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.self_check.compared import Compared
from indexer.self_check.findings import Crowded, Outlier, Region

REGION_IDENTITIES_MIN, REGION_IDENTITIES_MAX = 3, 50
CROWDED_JOINED_MAX = 10_000
"""Identities that regions are made of, the most crowded ones."""


def crowded_places(compared: Compared, level: float) -> NDArray[np.int64]:
    """Which probes are more crowded than the level, the most crowded first."""
    places = np.flatnonzero(compared.crowding > level)
    return places[np.argsort(-compared.crowding[places], kind="stable")]


def crowded(compared: Compared, place: int) -> Crowded:
    """Tell of one identity."""
    templates, near = compared.templates, compared.by_identity
    identity = int(compared.probes[place])
    return Crowded(
        templates.identity_ids[identity],
        float(compared.crowding[place]),
        templates.identity_ids[near.identities[place, 0]],
        float(near.similarities[place, 0]),
        int(templates.sizes[identity]),
    )


def regions(compared: Compared, places: NDArray[np.int64], level: float) -> list[Region]:
    """Groups of these crowded probes that are linked by similarities of at least the level, largest first.

    `places` come most crowded first.
    """
    places = places[:CROWDED_JOINED_MAX]
    members = np.sort(compared.probes[places])
    near = compared.by_identity
    row, column = np.nonzero(near.similarities[places] >= level)
    similarities = near.similarities[places][row, column]
    linked = near.identities[places][row, column]
    is_inside = np.isin(linked, members)
    similarities, linked = similarities[is_inside], linked[is_inside]
    first = np.searchsorted(members, compared.probes[places][row[is_inside]])
    second = np.searchsorted(members, linked)
    order = np.lexsort((second, first, -similarities))
    groups = _Groups(len(members))
    for link in order.tolist():
        groups.join(int(first[link]), int(second[link]), float(similarities[link]))
    crowding = compared.crowding[np.searchsorted(compared.probes, members)]
    ids = compared.templates.identity_ids
    found = [
        Region(tuple(ids[members[one]] for one in group), similarity, float(crowding[group].mean()))
        for group, similarity in groups.told()
    ]
    return sorted(found, key=lambda region: (-len(region.identity_ids), -region.crowding))


def outlier_places(compared: Compared, level: float) -> NDArray[np.int64]:
    """Places of templates that are less like anybody than the level, the least like anybody first."""
    anybody = np.maximum(compared.own, compared.tops)
    places = np.flatnonzero(anybody < level)
    return places[np.argsort(anybody[places], kind="stable")]


def outlier(compared: Compared, place: int) -> Outlier:
    """Tell of one template."""
    own, row = float(compared.own[place]), int(compared.rows[place])
    return Outlier(
        compared.templates.place(row),
        max(own, float(compared.tops[place])),
        own if np.isfinite(own) else None,
        float(compared.templates.qualities[row]),
    )


class _Groups:
    """Members joined into groups of at most REGION_IDENTITIES_MAX."""

    def __init__(self, num_members: int):
        self._group_of = list(range(num_members))
        self._groups: dict[int, list[int]] = {number: [number] for number in range(num_members)}
        self._least: dict[int, float] = {}

    def join(self, first: int, second: int, similarity: float) -> None:
        """Join the groups of two members, unless they would be too large; the most similar ones first."""
        keep, gone = self._group_of[first], self._group_of[second]
        if len(self._groups[keep]) < len(self._groups[gone]):
            keep, gone = gone, keep
        if keep == gone or len(self._groups[keep]) + len(self._groups[gone]) > REGION_IDENTITIES_MAX:
            return
        for member in self._groups.pop(gone):
            self._group_of[member] = keep
            self._groups[keep].append(member)
        self._least[keep] = similarity

    def told(self) -> list[tuple[list[int], float]]:
        """Members, ascending, of each group that is large enough, and the similarity of its last link."""
        return [
            (sorted(members), self._least[number])
            for number, members in self._groups.items()
            if len(members) >= REGION_IDENTITIES_MIN
        ]
