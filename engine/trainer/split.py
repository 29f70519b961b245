"""People divided among training and judging. Knows nothing of pictures, networks or losses.

A person is on one side only: a network judged by people it was trained on looks better than it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from engine.errors import InvalidInputError, SettingsError
from engine.trainer.crop_set import CropSet, Rows, number_identities


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


def names_of_one(same: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Give every name that stands in a pair all names of its person, through any number of pairs."""
    names: dict[str, frozenset[str]] = {}
    for pair in same:
        joined = frozenset().union(*(names.get(name, {name}) for name in pair))
        names.update(dict.fromkeys(joined, joined))
    return names


def merge_identities(crops: CropSet, same: Iterable[tuple[str, str]]) -> CropSet:
    """Give people who are there under several names one of them, the first in order of the alphabet.

    Else their pictures would be taken for negatives of each other.
    """
    names, present = names_of_one(same), frozenset(crops.identities)
    kept = [min(names.get(name, frozenset([name])) & present) for name in crops.identities]
    labels, identities = number_identities([kept[label] for label in crops.labels.tolist()])
    return CropSet(crops.crops, labels, identities, crops.keys, crops.alignment, crops.row_digests)


def wholly_listed(listed: Iterable[str], same: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Give those of a list who are in it by all of their names.

    Who has another name that is not listed may be judged by under that one, in this run or elsewhere.
    """
    names, every = names_of_one(same), frozenset(listed)
    return frozenset(name for name in every if names.get(name, every) <= every)


def rows_of_others_pictures(crops: CropSet, others: CropSet) -> Rows:
    """Rows int64[n] of the crops that are, to the bit, among the others', whatever name they stand under.

    The same face cut out of the same picture, that is. A picture stored again or scaled is not found.
    """
    assert crops.row_digests is not None
    assert others.row_digests is not None
    known = {digest.tobytes() for digest in others.row_digests}
    is_known = [digest.tobytes() in known for digest in crops.row_digests]
    return np.flatnonzero(np.array(is_known, bool))


def _check_enough(crops: CropSet) -> None:
    if crops.num_identities < 2:
        raise InvalidInputError(
            f"all {len(crops):,} crops are of one identity, {crops.identities[0]!r}: at least two are needed",
            hint="Give a source with a folder for each person.",
        )


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
