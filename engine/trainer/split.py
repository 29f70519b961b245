"""People divided among training and judging. Knows nothing of pictures, networks or losses.

A person is on one side only: a network judged by people it was trained on looks better than it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from engine.errors import InvalidInputError, SettingsError
from engine.trainer.crop_set import CropSet, number_identities


def split_identities(crops: CropSet, share: float, seed: int) -> tuple[CropSet, CropSet]:
    """Hold out about that share of the identities: the set to train on, and the set held out.

    Identities with several pictures and those with one are divided alike. Who is held out depends on the
    seed and on names only, by their sha256: the same people on every machine, and, where people are added,
    nearly the same. At least one identity is on each side.

    Raises SettingsError for a share outside 0..1, exclusive, InvalidInputError for fewer than 2 identities.
    """
    if not 0.0 < share < 1.0:
        raise SettingsError(
            f"share is {share}; of the identities, a share between 0 and 1 is held out",
            hint="Take 0.1 to 0.3.",
        )
    _check_enough(crops)
    is_single = crops.counts == 1
    held: list[str] = []
    for group in (np.flatnonzero(~is_single), np.flatnonzero(is_single)):
        names = sorted((crops.identities[i] for i in group.tolist()), key=lambda name: _rank(name, seed))
        held += names[: round(share * len(names))]
    if not held:
        held = [min(crops.identities, key=lambda name: _rank(name, seed))]
    elif len(held) == crops.num_identities:
        held.remove(max(held, key=lambda name: _rank(name, seed)))
    return hold_out(crops, held)


def hold_out(crops: CropSet, identities: Iterable[str]) -> tuple[CropSet, CropSet]:
    """Hold out those identities: the set without them, and the set of them; both keep the order of rows.

    Names that are not in the set are passed over, so that lists of folds fit any part of a data set. Raises
    InvalidInputError where either side is left empty.
    """
    held = crops.rows_of(frozenset(identities))
    rest = np.setdiff1d(np.arange(len(crops)), held)
    if not len(held) or not len(rest):
        raise InvalidInputError(
            f"of {crops.num_identities} identities {'none' if not len(held) else 'all'} would be held out:"
            " both sides need at least one"
        )
    return crops.subset(rest), crops.subset(held)


def merge_identities(crops: CropSet, same: Iterable[tuple[str, str]]) -> CropSet:
    """Give people who are there under two names one of them, the first in order of the alphabet.

    Pairs that name somebody who is not in the set are passed over. Else their pictures would be taken for
    negatives of each other.
    """
    name_of = {name: name for name in crops.identities}
    for pair in same:
        if pair[0] not in name_of or pair[1] not in name_of:
            continue
        kept, gone = sorted(name_of[name] for name in pair)
        name_of = {name: kept if now == gone else now for name, now in name_of.items()}
    labels, identities = number_identities([name_of[crops.identities[i]] for i in crops.labels.tolist()])
    return CropSet(crops.crops, labels, identities, crops.keys, crops.alignment, crops.row_digests)


def _check_enough(crops: CropSet) -> None:
    if crops.num_identities < 2:
        raise InvalidInputError(
            f"all {len(crops):,} crops are of one identity, {crops.identities[0]!r}: at least two are needed",
            hint="Give a source with a folder for each person.",
        )


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
