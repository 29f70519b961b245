"""The nearest other identities of a generation's templates, found by the generation's own search.

What a build keeps of it (`store_neighbours`):

- the crowding of each template: its mean similarity to its 10 nearest other identities. Where many people
  lie close together a similarity tells less; a correction subtracts half of how close they lie (hubness
  reduction: Conneau et al., "Word Translation Without Parallel Data", ICLR 2018, section 2.3). It takes a
  search for every template, so it is kept up to a size.
- leave-one-out tops of a sample of people: how alike to somebody else those are who are not there.

An identity counts once, by its best template. Where the generation's search is approximate, so is this. Knows
nothing of the store, of thresholds and of what is corrected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.disk import sync
from engine.index.alive import Alive
from engine.index.build import file_entry, histogram_of, replace_manifest, written
from engine.index.generation import Generation, Manifest
from engine.index.population import CROWDING, OWN_PEOPLE, OwnTops
from engine.types import CrowdingCorrection, GallerySettings

CROWDING_NEIGHBOURS = 10
"""Other identities whose mean similarity is the crowding of a template."""
CROWDING_IDENTITIES_MIN = 300
"""Identities from which it is computed unasked: among fewer the 10 nearest are not near."""
OWN_PEOPLE_IDENTITIES_MIN = 1_000
"""Identities from which a gallery's own people tell of strangers."""
OWN_PEOPLE_PROBES_MAX = 4_000
"""People searched for: a share of .01 of them is known within a third."""
BLOCK_PROBES = 512
"""Searched at once, and reported as progress: who ends a build waits for no more."""
_SEED = 20_000_928

Progress = Callable[[int, int], None]
"""Called with probes done and their number; may raise to end the work."""
Similarities = NDArray[np.float32]
Rows = NDArray[np.int64]


def _silent(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


def nearest_others(
    generation: Generation,
    rows: Rows,
    num_identities_wanted: int,
    progress: Progress = _silent,
    *,
    alive: Alive = None,
) -> tuple[Similarities, Rows]:
    """The nearest other identities of rows int64[r], each by its best template, best first.

    Gives similarities float32[r, wanted] and rows int64[r, wanted], -inf and -1 where there are no more; the
    identities are `generation.identity_numbers` of those rows. Only rows in `alive` are found. 12 x r x
    wanted bytes; whoever needs less of them asks for fewer rows at once.
    """
    similarities = np.full((len(rows), num_identities_wanted), -np.inf, np.float32)
    found = np.full(similarities.shape, -1, np.int64)
    for block, near, places in _blocks(generation, rows, num_identities_wanted, alive):
        similarities[block], found[block] = near, places
        progress(block.stop, len(rows))
    return similarities, found


def mean_similarity(similarities: Similarities) -> Similarities:
    """Crowding float32[r] from what `nearest_others` found, float32[r, wanted]: the mean of those there are.

    NaN where there are none.
    """
    is_there = np.isfinite(similarities)
    counts = is_there.sum(axis=1)
    sums = np.where(is_there, similarities, 0.0).sum(axis=1, dtype=np.float64)
    means = np.full(len(similarities), np.nan, np.float32)
    np.divide(sums, counts, out=means, where=counts > 0, casting="same_kind")
    return means


def crowding(generation: Generation, progress: Progress = _silent, *, alive: Alive = None) -> Similarities:
    """Of every row: the mean similarity float32[n] to its CROWDING_NEIGHBOURS nearest other identities.

    The mean of fewer where there are not so many; NaN where nobody else is there.
    """
    return _crowding_and_tops(generation, progress, alive)[0]


def own_tops(generation: Generation, progress: Progress = _silent, *, alive: Alive = None) -> OwnTops:
    """Similarity of each of a sample of identities to the nearest other identity.

    Up to OWN_PEOPLE_PROBES_MAX of them, drawn by a fixed seed, one template each. Of the rows in `alive`.
    """
    rows, num_identities = _sample(generation, alive)
    similarities, _ = nearest_others(generation, rows, 1, progress, alive=alive)
    return _told(similarities[:, 0], num_identities)


def correction_of(settings: GallerySettings, *, is_auto_off: bool) -> CrowdingCorrection:
    """What a build goes by; `is_auto_off` where a calibration says that AUTO corrects nothing."""
    is_off = is_auto_off and settings.crowding is CrowdingCorrection.AUTO
    return CrowdingCorrection.OFF if is_off else settings.crowding


def lacks_neighbours(
    settings: GallerySettings,
    generation: Generation | None,
    num_identities: int,
    num_newer: int,
    crowding_templates_max: int,
    *,
    is_auto_off: bool,
) -> bool:
    """Whether a build would tell thresholds what they do not know of the people of a gallery.

    Where it has a target_fpir, and its `num_identities` are enough, but none were looked at, or `num_newer`
    templates were enrolled since: half as many again as were there, which larger galleries do not wait for.
    """
    if settings.target_fpir is None:
        return False
    correction = correction_of(settings, is_auto_off=is_auto_off)
    if generation is None:
        is_off = correction is CrowdingCorrection.OFF
        return num_identities >= (OWN_PEOPLE_IDENTITIES_MIN if is_off else CROWDING_IDENTITIES_MIN)
    counted, num_rows = sum(generation.manifest.templates_histogram), generation.num_rows
    if num_rows + num_newer <= crowding_templates_max and num_newer > max(
        CROWDING_IDENTITIES_MIN, num_rows // 2
    ):
        return True
    is_uncounted = num_rows > 0 and not counted
    has_crowding = _is_crowding_due(correction, counted, num_rows, crowding_templates_max)
    return (
        is_uncounted
        or (has_crowding and generation.crowding is None)
        or (counted >= OWN_PEOPLE_IDENTITIES_MIN and generation.own_tops is None)
    )


def _is_crowding_due(
    correction: CrowdingCorrection, num_identities: int, num_rows: int, crowding_templates_max: int
) -> bool:
    return correction is CrowdingCorrection.ON or (
        correction is CrowdingCorrection.AUTO
        and num_identities >= CROWDING_IDENTITIES_MIN
        and num_rows <= crowding_templates_max
    )


def store_neighbours(
    generation: Generation,
    correction: CrowdingCorrection,
    crowding_templates_max: int,
    progress: Progress = _silent,
) -> Manifest:
    """Write what is due into the folder of a generation that nobody uses yet; returns its new manifest.

    Crowding is due where the correction is ON, and where it is AUTO for CROWDING_IDENTITIES_MIN identities
    and up to `crowding_templates_max` templates; own people from OWN_PEOPLE_IDENTITIES_MIN identities on.
    The generation given knows nothing of it until it is opened again. Raises StorageFullError,
    DataFolderError, and what `progress` raises.
    """
    num_identities, manifest = sum(generation.manifest.templates_histogram), generation.manifest
    has_crowding = _is_crowding_due(correction, num_identities, generation.num_rows, crowding_templates_max)
    has_own_people = num_identities >= OWN_PEOPLE_IDENTITIES_MIN
    names = [CROWDING] * has_crowding + [OWN_PEOPLE] * has_own_people
    if not names:
        return manifest
    folder = generation.folder
    with written(manifest.number):
        if has_crowding:
            crowded, tops = _crowding_and_tops(generation, progress, None)
            np.save(folder / CROWDING, crowded)
        if has_own_people:
            # Who was searched for already is not searched for again.
            own = _told(tops[_sample(generation, None)[0]], num_identities) if has_crowding else None
            (own or own_tops(generation, progress)).write(folder / OWN_PEOPLE)
        for name in names:
            sync(folder / name)
        files = manifest.files | {name: file_entry(folder / name) for name in names}
        manifest = msgspec.structs.replace(manifest, files=files)
        replace_manifest(folder, manifest)
    return manifest


def _crowding_and_tops(
    generation: Generation, progress: Progress, alive: Alive
) -> tuple[Similarities, Similarities]:
    """Crowding of every row, and its similarity to the nearest other identity."""
    num_rows = generation.num_rows
    crowded, tops = np.empty(num_rows, np.float32), np.empty(num_rows, np.float32)
    for block, near, _ in _blocks(generation, np.arange(num_rows), CROWDING_NEIGHBOURS, alive):
        crowded[block], tops[block] = mean_similarity(near), near[:, 0]
        progress(block.stop, num_rows)
    return crowded, tops


def _told(tops: Similarities, num_identities: int) -> OwnTops:
    return OwnTops(np.sort(tops[np.isfinite(tops)]), num_identities)


def _sample(generation: Generation, alive: Alive) -> tuple[Rows, int]:
    """Rows, ascending, of the identities that are searched for, and how many identities there are."""
    rng = np.random.default_rng(_SEED)
    order = rng.permutation(generation.num_rows)
    if alive is not None:
        order = order[np.unpackbits(alive, count=generation.num_rows, bitorder="little")[order] > 0]
    # In random order the first template of an identity is any of its own.
    numbers, first = np.unique(generation.identity_numbers[order], return_index=True)
    chosen = rng.permutation(len(numbers))[:OWN_PEOPLE_PROBES_MAX]
    return np.sort(order[first[chosen]]), len(numbers)


def _blocks(
    generation: Generation, rows: Rows, wanted: int, alive: Alive
) -> Iterator[tuple[slice, Similarities, Rows]]:
    """What `nearest_others` gives, of one block of the rows after the other."""
    histogram = generation.manifest.templates_histogram or histogram_of(generation.identity_numbers)
    num_identities, templates_max = sum(histogram), len(histogram) - 1
    # So many rows are of `wanted` other identities, whoever's they are.
    enough = min(templates_max * wanted + 1, generation.num_rows)
    first = min(2 * math.ceil((wanted + 1) * generation.num_rows / max(1, num_identities)), enough)
    edges = [*range(0, len(rows), BLOCK_PROBES), len(rows)]
    for start, stop in pairwise(edges):
        yield slice(start, stop), *_nearest(generation, rows[start:stop], wanted, alive, (first, enough))


def _nearest(
    generation: Generation, rows: Rows, wanted: int, alive: Alive, num_fetched: tuple[int, int]
) -> tuple[Similarities, Rows]:
    """Of one block; rows are fetched from the first number on up to the second, twice as many each time."""
    similarities = np.full((len(rows), wanted), -np.inf, np.float32)
    found = np.full((len(rows), wanted), -1, np.int64)
    probes, own = generation.vectors[rows], generation.identity_numbers[rows]
    waiting, (fetched, enough) = np.arange(len(rows)), num_fetched
    while len(waiting):
        near, places = generation.search(probes[waiting], fetched, alive)
        identities = generation.identity_numbers[np.maximum(places, 0)]
        is_kept = (places >= 0) & (identities != own[waiting, None]) & _is_first(identities)
        place = np.cumsum(is_kept, axis=1) - 1
        probe, column = np.nonzero(is_kept & (place < wanted))
        similarities[waiting[probe], place[probe, column]] = near[probe, column]
        found[waiting[probe], place[probe, column]] = places[probe, column]
        if fetched == enough:
            break
        waiting = waiting[(place[:, -1] + 1 < wanted) & (places[:, -1] >= 0)]
        fetched = min(2 * fetched, enough)
    return similarities, found


def _is_first(identities: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether nothing before it in its row is equal, of each of uint64[n, r]."""
    order = np.argsort(identities, axis=1, kind="stable")
    ascending = np.take_along_axis(identities, order, axis=1)
    is_new = np.ones(identities.shape, np.bool_)
    is_new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    is_first = np.empty_like(is_new)
    np.put_along_axis(is_first, order, is_new, axis=1)
    return is_first
