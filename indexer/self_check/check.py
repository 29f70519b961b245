"""A gallery looked at by itself: who is likely there twice, what is likely under the wrong name, what is odd.

All is told from similarities alone, so all of it is for a person to look at, and none of it is proven:

- **Duplicates**: two identities of which two templates are at least `duplicate_similarity` alike. Where that
  rests on one template that is unlike its own identity, while all the others of both are as strangers, it
  is a mix-up instead.
- **Mix-ups**: a template nearer to another identity than to its own (`NEAR_ANOTHER`, as a bulk job has it),
  or much less like its own than templates of one identity are here, while the others of it agree
  (`FAR_FROM_OWN`).
- **Crowded**: identities whose mean similarity to their 10 nearest other identities is unusually high. Each
  stranger like one of them is like many. Regions are groups of them, at most REGION_IDENTITIES_MAX large.
- **Outliers**: templates that are unusually unlike anybody, their own identity included: often bad crops.

"Unusually" is SPREADS robust spreads (1.4826 times the median absolute deviation) from the gallery's own
median. Knows no servers and no files. Twins and relatives look like duplicates to a network; it cannot tell.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import PreconditionError
from indexer.self_check import pairs
from indexer.self_check.compared import Compared, beyond, histogram
from indexer.self_check.findings import OWN_TEMPLATES, Counts, Findings, Limits, Lists
from indexer.self_check.pairs import Progress, num_pairs
from indexer.self_check.people import duplicate, duplicate_pairs, has_more_than_seen, mix_up, mix_ups
from indexer.self_check.regions import crowded, crowded_places, outlier, outlier_places, regions
from indexer.self_check.templates import Templates

PAIRS_MAX = 500_000_000_000
"""Pairs compared unasked: 1,000,000 templates with each other. Beyond, a sample of the identities is."""
MATED_MIN = 20
"""Templates that are not alone of their identity, from which the gallery itself tells what is one person."""
SPREADS = 3.0
"""From the median: of a normal distribution 1 in 700 lies as far on one side."""


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """What a check looks for."""

    duplicate_similarity: float | None = None
    """From here on two identities are likely one person; None: as `duplicate_similarity` tells."""
    duplicate_origin: str = OWN_TEMPLATES
    limit: int = 100
    """Entries of each list."""
    num_probes: int | None = None
    """Identities that are compared with all, drawn at random; None: all, as far as PAIRS_MAX allows."""
    seed: int = 0


def choose_probes(templates: Templates, settings: CheckSettings) -> NDArray[np.int64] | None:
    """Identities int64[m], ascending, that are compared with all; None: everybody, which may be no slower."""
    wanted, num_rows = settings.num_probes, len(templates.vectors)
    total = num_pairs(num_rows, None)
    if wanted is None and total <= PAIRS_MAX:
        return None
    order = np.random.default_rng(settings.seed).permutation(templates.num_identities)
    if wanted is None:
        rows = np.cumsum(templates.sizes[order])
        wanted = max(1, int((rows <= PAIRS_MAX // num_rows).sum()))
    chosen = np.sort(order[:wanted])
    return chosen if num_pairs(num_rows, len(templates.rows_of(chosen))) < total else None


def estimate_s(templates: Templates, settings: CheckSettings) -> float:
    """Seconds that the comparison will take, by a short trial on this machine."""
    probes = choose_probes(templates, settings)
    num_probes = None if probes is None else len(templates.rows_of(probes))
    return pairs.estimate_s(templates.vectors, num_probes)


def duplicate_similarity(templates: Templates, gallery_id: str) -> float:
    """Similarity at which two identities are likely one person, by the gallery's own templates.

    The median similarity of those that are not alone of their identity to the nearest of their own: half of
    the people enrolled twice reach it. Raises PreconditionError where there are fewer than MATED_MIN.
    """
    own = templates.own_nearest()
    own = own[np.isfinite(own)]
    if len(own) < MATED_MIN:
        raise PreconditionError(
            f"no calibration says from which similarity on two identities of gallery {gallery_id!r} are one"
            f" person, and only {len(own)} of its templates have another of their own identity: {MATED_MIN}"
            " would tell",
            hint="Say it with --duplicate-similarity, or give a --calibration.",
        )
    return float(np.median(own))


def check(
    gallery_id: str,
    contract_name: str,
    templates: Templates,
    settings: CheckSettings,
    *,
    num_written: int = 0,
    progress: Progress = lambda _done, _total: None,
) -> Findings:
    """Compare, and tell what was found. `progress` gets pairs done and their number.

    `num_written` are writes to the gallery while it was read. Raises PreconditionError where there is nothing
    to compare, or nothing says what a duplicate is.
    """
    templates.require_several(gallery_id)
    level = settings.duplicate_similarity
    if level is None:
        level = duplicate_similarity(templates, gallery_id)
    begin_s = time.monotonic()
    compared = Compared.of(templates, choose_probes(templates, settings), progress)
    compare_s = time.monotonic() - begin_s
    limits = _limits(compared)
    return Findings(
        gallery_id=gallery_id,
        contract_name=contract_name,
        num_identities=templates.num_identities,
        num_without=templates.num_without,
        num_templates=len(templates.vectors),
        num_checked_identities=len(compared.probes),
        num_checked_templates=len(compared.rows),
        num_written=num_written,
        seed=settings.seed,
        compare_s=compare_s,
        duplicate_similarity=level,
        duplicate_origin=settings.duplicate_origin,
        limits=limits,
        lists=_lists(compared, limits, level, settings.limit),
        tops=histogram(compared.tops),
        mated=None if limits.far_below is None else histogram(compared.own[np.isfinite(compared.own)]),
        crowding=histogram(compared.crowding),
    )


def _limits(compared: Compared) -> Limits:
    own = compared.own[np.isfinite(compared.own)]
    return Limits(
        crowded_from=beyond(compared.crowding, SPREADS),
        far_below=beyond(own, -SPREADS) if len(own) else None,
        outlier_below=beyond(np.maximum(compared.own, compared.tops), -SPREADS),
    )


def _lists(compared: Compared, limits: Limits, level: float, num: int) -> Lists:
    pairs = duplicate_pairs(compared, level)
    mixed = mix_ups(compared, pairs, level, limits.far_below)
    dense = crowded_places(compared, limits.crowded_from)
    grouped = regions(compared, dense, limits.crowded_from)
    lone = outlier_places(compared, limits.outlier_below)
    return Lists(
        counts=Counts(
            duplicates=len(pairs),
            is_duplicates_least=has_more_than_seen(compared, level),
            near_another=len(mixed.near),
            near_another_likely=mixed.num_likely,
            near_another_of_duplicates=mixed.num_of_duplicates,
            far_from_own=len(mixed.far),
            crowded=len(dense),
            regions=len(grouped),
            outliers=len(lone),
        ),
        duplicates=tuple(duplicate(compared, first, second) for first, second in pairs[:num].tolist()),
        mix_ups=tuple(mix_up(compared, place) for place in mixed.worst[:num].tolist()),
        crowded=tuple(crowded(compared, place) for place in dense[:num].tolist()),
        regions=tuple(grouped[:num]),
        outliers=tuple(outlier(compared, place) for place in lone[:num].tolist()),
    )
