"""Error rates of face verification and identification, as pure functions of similarities and ranks.

Knows nothing of pictures, networks, galleries or indexes.

Conventions of every function here:

* a similarity is higher for more alike, and is accepted when ``similarity >= threshold``;
* arithmetic is float64, whatever the input;
* NO_TEMPLATE (minus infinity) in place of a similarity says that no template could be made, for example
  because no face was found: no threshold accepts it, and it is a wrong answer wherever one is counted;
* NaN and plus infinity are nobody's similarity and raise InvalidInputError, as do empty inputs.

Sources: NIST FRTE 1:N, section "Metrics", for FPIR, FNIR and CMC; ISO/IEC 19795-1 for FAR, TAR and EER;
Huang et al., "Labeled Faces in the Wild", 2007, for View 2's accuracy over folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import InvalidInputError

Similarities = NDArray[np.float64]
Ranks = NDArray[np.int64]

NO_TEMPLATE = -math.inf
"""In place of a similarity: no template could be made of a picture."""
NO_RANK = 0
"""In place of a rank: the mated identity was not among the candidates."""
SHARE_ROUNDING = 1e-9
"""How much of one item a product such as 0.29 * 100 may fall short of the whole number that is meant."""


@dataclass(frozen=True, slots=True)
class Roc:
    """All operating points of 1:1 verification, from the strictest threshold to the most lenient."""

    thresholds: Similarities
    """float64[p], strictly falling; the first accepts nothing, the last (minus infinity) everything."""
    far: Similarities
    """float64[p], share of non-mated pairs at or above the threshold, rising from 0 to 1."""
    tar: Similarities
    """float64[p], share of mated pairs at or above the threshold, rising from 0 to 1."""


@dataclass(frozen=True, slots=True)
class VerificationPoint:
    """What one threshold gives in 1:1 verification."""

    far_target: float
    threshold: float
    far: float
    """At most the target."""
    tar: float


@dataclass(frozen=True, slots=True)
class IdentificationPoint:
    """What one threshold gives in open-set identification."""

    fpir_target: float
    threshold: float
    fpir: float
    """At most the target."""
    fnir: float


@dataclass(frozen=True, slots=True)
class BalancedAccuracy:
    """The best mean of TAR and 1 - FAR over all thresholds."""

    accuracy: float
    threshold: float


@dataclass(frozen=True, slots=True)
class FoldAccuracy:
    """Accuracy of pairs by cross-validation, each fold judged with a threshold of the other folds."""

    mean: float
    """Over folds."""
    std: float
    """Over folds, ddof 1."""
    per_fold: tuple[float, ...]
    """In rising order of the fold numbers."""
    thresholds: tuple[float, ...]
    """The threshold that each fold was judged with."""
    is_correct: NDArray[np.bool_]
    """bool[n], by pair."""


def roc(mated: ArrayLike, non_mated: ArrayLike) -> Roc:
    """Give FAR and TAR at every threshold that makes a difference; equal similarities are one step."""
    same = _similarities(mated, "mated")
    different = _similarities(non_mated, "non_mated")
    values = np.unique(np.concatenate([same, different]))[::-1]
    # The first point must accept nothing, the last also what has no template: the curve spans 0 to 1.
    finite = values[np.isfinite(values)]
    thresholds = np.concatenate([[_above(float(values[0]))], finite, [NO_TEMPLATE]])
    return Roc(thresholds, _shares(np.sort(different), thresholds), _shares(np.sort(same), thresholds))


def auc(mated: ArrayLike, non_mated: ArrayLike) -> float:
    """Give the area under the ROC: how often a mated pair is above a non-mated one, ties counting half.

    The Mann-Whitney statistic, which the trapezoids under `roc` equal.
    """
    same = _similarities(mated, "mated")
    different = np.sort(_similarities(non_mated, "non_mated"))
    below = np.searchsorted(different, same, side="left")
    not_above = np.searchsorted(different, same, side="right")
    return float((below + not_above).sum() / (2.0 * same.size * different.size))


def eer(mated: ArrayLike, non_mated: ArrayLike) -> float:
    """Give the equal error rate: FAR where it equals 1 - TAR, on straight lines between ROC points."""
    curve = roc(mated, non_mated)
    return float(np.interp(0.0, curve.far + curve.tar - 1.0, curve.far))


def tar_at_far(
    mated: ArrayLike, non_mated: ArrayLike, fars: Sequence[float]
) -> tuple[VerificationPoint, ...]:
    """Give TAR at each FAR of `fars`, with the threshold.

    The threshold is the smallest float above the (floor(far * n) + 1)-th largest of the n non-mated
    similarities, so that never more than floor(far * n) of them are accepted; equal similarities at the
    border are all rejected. With far = 1 it is minus infinity. A FAR below 1/n is judged by the largest
    non-mated similarity alone: too few pairs to say more.
    """
    same = np.sort(_similarities(mated, "mated"))
    different = np.sort(_similarities(non_mated, "non_mated"))
    points = []
    for target in fars:
        edge = _threshold_for(different, target, "fars")
        rates = _share_at(different, edge), _share_at(same, edge)
        points.append(VerificationPoint(float(target), edge, *rates))
    return tuple(points)


def best_balanced_accuracy(mated: ArrayLike, non_mated: ArrayLike) -> BalancedAccuracy:
    """Give the best (TAR + 1 - FAR) / 2 and the strictest threshold of the sample that reaches it."""
    curve = roc(mated, non_mated)
    accuracies = (curve.tar + 1.0 - curve.far) / 2.0
    best = int(np.argmax(accuracies))
    return BalancedAccuracy(float(accuracies[best]), float(curve.thresholds[best]))


def best_threshold(similarities: ArrayLike, is_same: ArrayLike) -> float:
    """Give the threshold that answers most pairs rightly.

    Candidates are the middles between neighbouring distinct similarities, and the two ends (accept all,
    accept none). Of several equally good ones the median is taken (the lower of two). Pairs without a
    template are wrong at every threshold and have no say.
    """
    values = _similarities(similarities, "similarities")
    same = _truths(is_same, values.size)
    has_template = np.isfinite(values)
    if not has_template.any():
        raise InvalidInputError("no pair has a similarity: no threshold can be chosen")
    distinct, places = np.unique(values[has_template], return_inverse=True)
    votes = np.where(same[has_template], 1, -1)
    # Number of right answers, up to a constant, when exactly the distinct values from i on are accepted.
    gains = np.bincount(places, weights=votes, minlength=distinct.size)
    right = np.append(np.cumsum(gains[::-1])[::-1], 0.0)
    best = np.flatnonzero(right == right.max())
    cut = int(best[(best.size - 1) // 2])
    if cut == 0:
        return float(distinct[0])
    if cut == distinct.size:
        return _above(float(distinct[-1]))
    lower, upper = float(distinct[cut - 1]), float(distinct[cut])
    middle = lower + (upper - lower) / 2.0
    return middle if middle > lower else upper


def kfold_accuracy(similarities: ArrayLike, is_same: ArrayLike, folds: ArrayLike) -> FoldAccuracy:
    """Give the accuracy of each fold at the `best_threshold` of all other folds (LFW View 2).

    `folds` is int[n], the fold of each pair; two folds at least. A pair with NO_TEMPLATE is a wrong answer
    whether it is of one person or of two.
    """
    values = _similarities(similarities, "similarities")
    same = _truths(is_same, values.size)
    fold_of = np.asarray(folds)
    if fold_of.shape != values.shape:
        raise InvalidInputError(f"folds has shape {fold_of.shape}: give one for each of {values.size} pairs")
    numbers = np.unique(fold_of)
    if numbers.size < 2:
        raise InvalidInputError("one fold only: give two or more, so that a threshold has other folds")
    is_correct, thresholds, accuracies = np.zeros(values.size, dtype=np.bool_), [], []
    for number in numbers:
        inside = fold_of == number
        threshold = best_threshold(values[~inside], same[~inside])
        is_correct[inside] = ((values >= threshold) == same)[inside] & np.isfinite(values[inside])
        thresholds.append(threshold)
        accuracies.append(float(is_correct[inside].mean()))
    mean, std = float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))
    return FoldAccuracy(mean, std, tuple(accuracies), tuple(thresholds), is_correct)


def rank_of_mated(similarities: ArrayLike, mated_columns: ArrayLike) -> Ranks:
    """Give each probe's rank of its own identity, 1 for the best; int64[n].

    `similarities` is float[n, N] of n mated probes to N identities, `mated_columns` int[n] the column of
    each probe's identity. An equal similarity of another identity counts as better, so that a network that
    gives everyone the same vector is last, not first. A probe without template has NO_RANK.
    """
    table = _check(np.asarray(similarities, dtype=np.float64), "similarities", dimensions=2)
    columns = np.asarray(mated_columns)
    if columns.shape != (table.shape[0],) or columns.dtype.kind not in "iu":
        raise InvalidInputError(f"mated_columns must be {table.shape[0]} integers, one for each probe")
    if columns.min() < 0 or columns.max() >= table.shape[1]:
        raise InvalidInputError(f"mated_columns must lie in 0..{table.shape[1] - 1}")
    own = table[np.arange(columns.size), columns]
    ranks: Ranks = (table >= own[:, None]).sum(axis=1, dtype=np.int64)
    ranks[~np.isfinite(own)] = NO_RANK
    return ranks


def cmc(ranks: ArrayLike, num_ranks: int) -> Similarities:
    """Give the cumulative match characteristic: share of mated probes within ranks 1..num_ranks.

    float64[num_ranks]; its first value is the rank-1 rate. NO_RANK is a miss at every rank.
    """
    found = _ranks(ranks)
    if num_ranks < 1:
        raise InvalidInputError(f"num_ranks is {num_ranks}: ask for at least 1")
    counts = np.bincount(found[found <= num_ranks], minlength=num_ranks + 1)[NO_RANK + 1 :]
    shares: Similarities = np.cumsum(counts) / float(found.size)
    return shares


def fpir(non_mated_tops: ArrayLike, threshold: float) -> float:
    """Give FPIR(N, T): share of non-mated probes whose top similarity is at or above the threshold."""
    return _share_at(np.sort(_similarities(non_mated_tops, "non_mated_tops")), threshold)


def fnir(mated_similarities: ArrayLike, mated_ranks: ArrayLike, threshold: float, rank_max: int = 1) -> float:
    """Give FNIR(N, R, T): share of mated probes whose identity is not within rank R at or above T.

    `mated_similarities` is float[n], each probe's similarity to its own identity, `mated_ranks` int[n]. A
    probe without template (NO_TEMPLATE or NO_RANK) is a miss.
    """
    values = _similarities(mated_similarities, "mated_similarities")
    found = _ranks(mated_ranks)
    if found.shape != values.shape:
        raise InvalidInputError(f"{found.size} mated_ranks, {values.size} mated_similarities: give as many")
    if rank_max < 1:
        raise InvalidInputError(f"rank_max is {rank_max}: give at least 1")
    is_hit = (found != NO_RANK) & (found <= rank_max) & (values >= threshold) & np.isfinite(values)
    return float((~is_hit).mean())


def fnir_at_fpir(
    mated_similarities: ArrayLike,
    mated_ranks: ArrayLike,
    non_mated_tops: ArrayLike,
    fpirs: Sequence[float],
    *,
    rank_max: int = 1,
) -> tuple[IdentificationPoint, ...]:
    """Give FNIR(N, R, T) at each FPIR of `fpirs`, with the threshold T.

    T is the smallest float above the (floor(fpir * n) + 1)-th largest top similarity of the n non-mated
    probes, so that never more than floor(fpir * n) of them raise an alarm. A non-mated probe without
    template (NO_TEMPLATE) raises none.
    """
    tops = np.sort(_similarities(non_mated_tops, "non_mated_tops"))
    points = []
    for target in fpirs:
        edge = _threshold_for(tops, target, "fpirs")
        missed = fnir(mated_similarities, mated_ranks, edge, rank_max)
        points.append(IdentificationPoint(float(target), edge, _share_at(tops, edge), missed))
    return tuple(points)


def recall_at_k(
    found_ids: ArrayLike,
    true_ids: ArrayLike,
    *,
    found_similarities: ArrayLike | None = None,
    true_similarities: ArrayLike | None = None,
    tolerance: float = 0.0,
) -> float:
    """Give the share of the true nearest items that an index found, over all rows.

    `found_ids` is int[n, k], `true_ids` int[n, k'], filled up with -1 where there were fewer; a repeated id
    counts once. With similarities given (of the same shapes; those found recomputed exactly, not the
    index's own word), a found item also counts when it is as near as the row's last true item within
    `tolerance`: among equals it does not matter which are taken. Raises InvalidInputError where there is no
    true item at all.
    """
    found = _table(found_ids, "found_ids")
    true = _table(true_ids, "true_ids")
    if found.shape[0] != true.shape[0]:
        raise InvalidInputError(f"{found.shape[0]} rows found, {true.shape[0]} rows true: give the same rows")
    near = _near_enough(found, true, found_similarities, true_similarities, tolerance)
    num_true = num_found = 0
    for found_row, true_row, near_row in zip(found, true, near, strict=True):
        wanted = np.unique(true_row[true_row >= 0])
        is_right = (near_row | np.isin(found_row, wanted)) & (found_row >= 0)
        num_true += wanted.size
        num_found += min(np.unique(found_row[is_right]).size, wanted.size)
    if num_true == 0:
        raise InvalidInputError("true_ids names no item: recall of nothing is not defined")
    return num_found / num_true


def _near_enough(
    found: NDArray[np.int64],
    true: NDArray[np.int64],
    found_similarities: ArrayLike | None,
    true_similarities: ArrayLike | None,
    tolerance: float,
) -> NDArray[np.bool_]:
    """Mark found items that are as near as their row's last true item; bool of found's shape."""
    if (found_similarities is None) != (true_similarities is None):
        raise InvalidInputError("give both found_similarities and true_similarities, or neither")
    if found_similarities is None or true_similarities is None:
        return np.zeros(found.shape, dtype=np.bool_)
    of_found = np.asarray(found_similarities, dtype=np.float64)
    of_true = np.asarray(true_similarities, dtype=np.float64)
    if of_found.shape != found.shape or of_true.shape != true.shape:
        raise InvalidInputError("similarities must have the shapes of their ids")
    # Fillers carry any similarity, NaN included: only those of real ids are judged.
    if np.isnan(of_found[found >= 0]).any() or np.isnan(of_true[true >= 0]).any():
        raise InvalidInputError("a similarity of a real id is NaN")
    last = np.where(true >= 0, of_true, math.inf).min(axis=1, initial=math.inf)
    near: NDArray[np.bool_] = of_found >= last[:, None] - tolerance
    return near


def _threshold_for(sorted_values: Similarities, share: float, name: str) -> float:
    """Smallest float above the (floor(share * n) + 1)-th largest of values sorted upwards."""
    if not 0.0 <= share <= 1.0:
        raise InvalidInputError(f"{name} holds {share}: give shares from 0 to 1")
    num_allowed = math.floor(share * sorted_values.size + SHARE_ROUNDING)
    if num_allowed >= sorted_values.size:
        return NO_TEMPLATE
    return _above(float(sorted_values[sorted_values.size - 1 - num_allowed]))


def _above(value: float) -> float:
    return math.nextafter(value, math.inf)


def _share_at(sorted_values: Similarities, threshold: float) -> float:
    """Share of values sorted upwards at or above one threshold; NO_TEMPLATE is never accepted."""
    return float(_shares(sorted_values, max(threshold, -np.finfo(np.float64).max)))


def _shares(sorted_values: Similarities, thresholds: ArrayLike) -> Similarities:
    """Share of values sorted upwards at or above each threshold, where minus infinity accepts all."""
    num_accepted = sorted_values.size - np.searchsorted(sorted_values, thresholds, side="left")
    return np.asarray(num_accepted / float(sorted_values.size))


def _similarities(values: ArrayLike, name: str) -> Similarities:
    return _check(np.asarray(values, dtype=np.float64), name, dimensions=1)


def _check(values: Similarities, name: str, *, dimensions: int) -> Similarities:
    if values.ndim != dimensions:
        raise InvalidInputError(f"{name} has {values.ndim} dimensions: give {dimensions}")
    if values.size == 0:
        raise InvalidInputError(f"{name} is empty: give at least one similarity")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise InvalidInputError(f"{name} holds NaN or +inf: give -inf (NO_TEMPLATE) where no template is")
    return values


def _truths(is_same: ArrayLike, size: int) -> NDArray[np.bool_]:
    truths = np.asarray(is_same)
    if truths.dtype != np.bool_ or truths.shape != (size,):
        raise InvalidInputError(f"is_same must be {size} booleans, one for each similarity")
    return truths


def _ranks(ranks: ArrayLike) -> Ranks:
    found = np.asarray(ranks)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "iu":
        raise InvalidInputError("ranks must be a non-empty list of integers, one for each mated probe")
    if found.min() < 0:
        raise InvalidInputError("ranks count from 1; 0 (NO_RANK) says not found; none is negative")
    return found.astype(np.int64)


def _table(ids: ArrayLike, name: str) -> NDArray[np.int64]:
    table = np.asarray(ids)
    if table.ndim != 2 or table.dtype.kind not in "iu":
        raise InvalidInputError(f"{name} must be a table of integers, one row for each probe")
    return table.astype(np.int64)
