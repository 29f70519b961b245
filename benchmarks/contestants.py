"""Who is measured in `benchmarks.index`: ours over a real data folder, and rivals at the setting that agrees.

Agreement of a rival's built index at a setting never changes: it is kept beside the index.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.enrolled import row_of
from benchmarks.measuring import K, Rounds, Search, alternate, found_by, smallest_that
from benchmarks.probe_sets import ProbeSet
from benchmarks.rivals import Rival, built
from benchmarks.truth import Rows, recall, top1_agreement
from engine.gallery import Gallery
from engine.types import SearchOptions, Vectors

AGREEMENT_FILE = "agreement.json"
FEW_PROBES, FEW_TOLERANCE = 300, 0.02
"""Four standard deviations of a share of .99 among 300."""
CHOOSING_ROUNDS = 3


@dataclass(frozen=True)
class Agreement:
    """How well a searcher agrees with the exact scan."""

    top1_mated: float
    top1_nonmated: float
    recall_at_10: float
    """Over mated and non-mated probes together."""

    def reaches(self, other: Agreement, tolerance: float) -> bool:
        """Whether it finds the first as often, but for `tolerance`, of mated and of non-mated probes."""
        return (
            self.top1_mated >= other.top1_mated - tolerance
            and self.top1_nonmated >= other.top1_nonmated - tolerance
        )


@dataclass(frozen=True)
class Setting:
    """What a rival is told: its setting, and a second one where it has one (else 0)."""

    value: int
    reorder: int = 0


@dataclass(frozen=True)
class Contestant:
    """One searcher, ready, and what is known of it before it is timed."""

    name: str
    search: Search
    agreement: Agreement
    build_s: float
    load_s: float
    bytes_per_template: float
    note: str = ""
    sweep: tuple[tuple[Setting, Agreement], ...] = ()
    """Settings for the plot, and how they agree; the one chosen is the last."""
    rival: Rival | None = None


def our_search(gallery: Gallery, options: SearchOptions) -> Search:
    """`Gallery.identify` as a searcher of rows: store, index, names and decisions included."""

    def search(probes: Vectors, k: int) -> Rows:
        answers = gallery.identify(probes, k, options=options)
        return np.array([[row_of(one.identity_id) for one in answer.candidates] for answer in answers])

    return search


def measured_agreement(search: Search, probe_set: ProbeSet, num: int | None = None) -> Agreement:
    """Of a searcher, over all probes of a set, or the first `num` mated and as many non-mated ones."""
    mated, nonmated = found_by(search, probe_set.mated[:num]), found_by(search, probe_set.nonmated[:num])
    truth_mated, truth_nonmated = probe_set.truth_mated[:num], probe_set.truth_nonmated[:num]
    return Agreement(
        top1_agreement(mated, truth_mated),
        top1_agreement(nonmated, truth_nonmated),
        recall(np.concatenate([mated, nonmated]), np.concatenate([truth_mated, truth_nonmated])),
    )


def rival_contestant(cache: Path, kind: type[Rival], probe_set: ProbeSet, ours: Agreement) -> Contestant:
    """Build or take from the cache, load, and choose the quickest setting that agrees as well as ours.

    "As well" allows for one probe of each kind more: two settings differ by such luck.
    """
    folder, build_s = built(cache, kind, probe_set)
    rival = kind()
    start_s = time.perf_counter()
    rival.load(probe_set.vectors, folder)
    rival.search(probe_set.mated[:1], K)
    load_s = time.perf_counter() - start_s
    known = _Known(rival, probe_set, folder)
    name, note = kind.name, ""
    sweep: tuple[tuple[Setting, Agreement], ...] = ()
    if kind.settings:
        chosen, is_reached = _chosen(rival, known, probe_set, ours)
        sweep = known.sweep(_tried(kind, chosen))
        name = f"{kind.name} {kind.setting_name}={chosen.value}"
        name += f" reorder={chosen.reorder}" if chosen.reorder else ""
        note = "" if is_reached else "does not reach our agreement"
        rival.set(chosen.value, chosen.reorder)
        agreement = known.at(chosen)
    else:
        agreement = known.at(None)
    per_template = rival.index_bytes(folder) / probe_set.size
    return Contestant(name, rival.search, agreement, build_s, load_s, per_template, note, sweep, rival)


def _chosen(rival: Rival, known: _Known, probe_set: ProbeSet, ours: Agreement) -> tuple[Setting, bool]:
    """The quickest of the smallest settings that reach, one for each second setting; else the last one."""
    reorders = rival.reorders or (0,)
    found = []
    for reorder in reorders:
        smallest = smallest_that(
            rival.settings,
            lambda value, reorder=reorder: known.is_as_good(Setting(value, reorder), ours),  # type: ignore[misc]
        )
        if smallest is not None:
            found.append(Setting(smallest, reorder))
    if not found:
        return Setting(rival.settings[-1], reorders[-1]), False
    if len(found) == 1:
        return found[0], True
    times_ms: dict[Setting, list[float]] = {setting: [] for setting in found}
    for _ in range(CHOOSING_ROUNDS):
        for setting, taken in times_ms.items():
            rival.set(setting.value, setting.reorder)
            timings = alternate({"": rival.search}, probe_set.nonmated, Rounds(1, 30, 0.5))
            taken.append(timings[""].p_ms(50))
    return min(found, key=lambda setting: float(np.median(times_ms[setting]))), True


def _tried(kind: type[Rival], chosen: Setting) -> list[Setting]:
    """For the plot: every second setting up to the one chosen."""
    values = [value for value in kind.settings if value <= chosen.value]
    return [Setting(value, chosen.reorder) for value in values[::-2][::-1]]


class _Known:
    """Agreement by setting, measured once."""

    def __init__(self, rival: Rival, probe_set: ProbeSet, folder: Path):
        self._rival, self._probe_set = rival, probe_set
        self._path = folder / f"{rival.name}-{len(probe_set.mated)}-{AGREEMENT_FILE}"
        self._known: dict[str, dict[str, float]] = (
            json.loads(self._path.read_text()) if self._path.is_file() else {}
        )

    def at(self, setting: Setting | None, num: int | None = None) -> Agreement:
        """At a setting (None: the rival has none), over all probes or the first `num` of each kind."""
        key = "None" if setting is None else f"{setting.value}"
        key += f"/{setting.reorder}" if setting is not None and setting.reorder else ""
        key += f" of {num}" if num is not None else ""
        if key not in self._known:
            if setting is not None:
                self._rival.set(setting.value, setting.reorder)
            agreement = measured_agreement(self._rival.search, self._probe_set, num)
            self._known[key] = dataclasses.asdict(agreement)
            self._path.write_text(json.dumps(self._known))
        return Agreement(**self._known[key])

    def is_as_good(self, setting: Setting, ours: Agreement) -> bool:
        """Whether it reaches ours; far below it on a few probes, not all are asked."""
        if not self.at(setting, FEW_PROBES).reaches(ours, FEW_TOLERANCE):
            return False
        return self.at(setting).reaches(ours, 1 / len(self._probe_set.mated) + 1e-9)

    def sweep(self, settings: Sequence[Setting]) -> tuple[tuple[Setting, Agreement], ...]:
        """At several, by a few probes each."""
        return tuple((setting, self.at(setting, FEW_PROBES)) for setting in settings)
