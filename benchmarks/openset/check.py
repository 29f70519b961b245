"""Whether drawn people meet as many look-alikes as real ones do: fitted on half, compared with the rest.

At the thresholds that give real people left out their false positive rates, the drawn ones must have the
same, within FACTOR_MAX, in the mean of several divisions (two halves of real people differ by up to a third
themselves; shown beside). Where that fails, a simulation is a test of indexes, not of accuracy. Says nothing
of galleries larger than half of the people, nor of rates below 0.03.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.openset.generator import Generator, Levels, chosen, fitted
from benchmarks.openset.people import RealPeople
from benchmarks.openset.rates import fnir_at, fpir_at, mated_similarities, similarities_left_out, threshold_at
from engine.types import Vectors

SIZES = (300, 1700)
TARGETS_JUDGED = (0.1, 0.03)
TARGETS = (*TARGETS_JUDGED, 0.01)
FACTOR_MAX = 1.5
NUM_SPLITS = 5
DRAWN_IDENTITIES, DRAWN_STRANGERS = 10_000, 3000
MATED_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class CheckPoint:
    """One size and rate, in means over divisions of the people."""

    size: int
    target: float
    ratio: float
    """FPIR of drawn people at the threshold of real ones, divided by the target."""
    low: float
    high: float
    """Least and largest of the divisions."""
    ratio_real: float
    """The same of the real people that the mixture was fitted to: what chance makes."""
    fnir_real: float
    fnir_drawn: float
    """At that threshold."""


@dataclass(frozen=True)
class Check:
    """All that was compared."""

    num_people: int
    num_splits: int
    mixtures: tuple[Levels, ...]
    """Of each division, chosen from its first half alone."""
    points: tuple[CheckPoint, ...]
    mated_real: tuple[float, ...]
    mated_drawn: tuple[float, ...]
    """Cosines of mated pairs at MATED_QUANTILES."""

    @property
    def is_reproduced(self) -> bool:
        """Whether the rates that are judged were found, all of them, within FACTOR_MAX."""
        judged = [one for one in self.points if one.target in TARGETS_JUDGED]
        is_whole = len(judged) == len(SIZES) * len(TARGETS_JUDGED)
        return is_whole and all(1 / FACTOR_MAX <= one.ratio <= FACTOR_MAX for one in judged)

    def as_json(self) -> dict[str, Any]:
        """Give all as plain values."""
        return {**asdict(self), "is_reproduced": self.is_reproduced}


def checked(people: RealPeople, seed: int, num_splits: int = NUM_SPLITS) -> Check:
    """Divide the people, fit, draw, compare; sizes that half of them cannot fill are left out."""
    half = len(people) // 2
    sizes = [size for size in SIZES if size < len(people) - half]
    keys = [(size, target) for size in sizes for target in TARGETS]
    found = np.empty((num_splits, len(keys), 4))
    mixtures, mated_real, mated_drawn = [], [], []
    for split in range(num_splits):
        rng = np.random.default_rng((seed, split))
        order = rng.permutation(len(people))
        known, rest = people.subset(order[:half]), people.subset(order[half:])
        mixtures.append(chosen(known, seed))
        generator = fitted(known, mixtures[-1], seed)
        found[split], real, drawn = _compared(generator, known.first, rest, keys, rng)
        mated_real.append(real)
        mated_drawn.append(drawn)
    means = found.mean(axis=0)
    points = tuple(
        CheckPoint(
            *key,
            ratio=float(means[place, 0]),
            low=float(found[:, place, 0].min()),
            high=float(found[:, place, 0].max()),
            ratio_real=float(means[place, 1]),
            fnir_real=float(means[place, 2]),
            fnir_drawn=float(means[place, 3]),
        )
        for place, key in enumerate(keys)
    )
    quantiles = [tuple(np.mean(one, axis=0).tolist()) for one in (mated_real, mated_drawn)]
    return Check(len(people), num_splits, tuple(mixtures), points, *quantiles)


def _compared(
    generator: Generator,
    known: Vectors,
    rest: RealPeople,
    keys: list[tuple[int, float]],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per key: ratio of the drawn, ratio of the real fitted to, FNIR real, FNIR drawn; quantiles of both."""
    real, of_known = similarities_left_out(rest.first), similarities_left_out(known)
    identities = generator.people(rng, DRAWN_IDENTITIES)
    strangers = generator.people(rng, DRAWN_STRANGERS) @ identities.T
    mated_real = mated_similarities(rest.others, rest.other_people, rest.first)
    rows = rng.choice(DRAWN_IDENTITIES, DRAWN_STRANGERS, replace=False)
    mated_drawn = mated_similarities(generator.again(rng, identities[rows]), rows, identities)
    values = np.empty((len(keys), 4))
    for place, (size, target) in enumerate(keys):
        threshold = threshold_at(real, target, size, len(real) - 1)
        values[place] = (
            fpir_at(strangers, threshold, size, DRAWN_IDENTITIES) / target,
            fpir_at(of_known, threshold, size, len(known) - 1) / target,
            fnir_at(mated_real, threshold, size),
            fnir_at(mated_drawn, threshold, size),
        )
    return values, np.quantile(mated_real.own, MATED_QUANTILES), np.quantile(mated_drawn.own, MATED_QUANTILES)


def told(check: Check) -> str:
    """The check in Markdown: the verdict, then its numbers."""
    verdict = (
        f"The drawn people reproduce the real ones' false positive rates within {FACTOR_MAX}: the rates below"
        " are of drawn people that are as alike as real ones, as far as real ones go."
        if check.is_reproduced
        else "**The drawn people do not reproduce the real ones' false positive rates: what follows tests"
        " indexes and estimators, and says nothing of accuracy.**"
    )
    lines = [
        verdict,
        "",
        f"{check.num_people:,} real people, {check.num_splits} divisions: fitted on half, compared with the"
        " other half at its own thresholds.",
        "",
        "| N | target FPIR | FPIR drawn / target | least to largest | other real half / target"
        " | FNIR real | FNIR drawn |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.size:,} | {one.target:g} | {one.ratio:.2f} | {one.low:.2f} to {one.high:.2f}"
        f" | {one.ratio_real:.2f} | {one.fnir_real:.3f} | {one.fnir_drawn:.3f} |"
        for one in check.points
    ]
    shares = ", ".join(f"{share:g}" for share in MATED_QUANTILES)
    pairs = [", ".join(f"{value:.3f}" for value in one) for one in (check.mated_real, check.mated_drawn)]
    lines += ["", f"Mated cosines at {shares}: real {pairs[0]}; drawn {pairs[1]}."]
    return "\n".join(lines)
