"""How groups of people fare as strangers at the threshold for all.

A threshold of its own for each group would hide that strangers of one group are taken for somebody more often
than those of another. Knows nothing of pictures or networks. Does not know what a group's own gallery would
give: everybody of all groups is enrolled, as in the calibration.

Source of the interval: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from engine.decision.calibration import GroupFigure, Span
from engine.decision.rates import RateTable
from engine.trainer.calibration_people import Floats
from engine.trainer.groups import Groups

FPIRS = (0.1, 0.01)
PEOPLE_MIN = 30
"""Fewer say nothing, not even at FPIR 0.1."""
_NORMAL = 1.959964
"""Of an interval of 95 %."""


def measure_groups(
    names: Sequence[str], tops: Floats, table: RateTable, groups: Groups
) -> tuple[GroupFigure, ...]:
    """Count for each group whose top float64[n] among all others reaches the thresholds of `table`.

    Groups of fewer than PEOPLE_MIN of the people `names` are passed over.
    """
    num = len(names)
    thresholds = [(fpir, table.threshold(fpir, num - 1).value) for fpir in FPIRS]
    found = []
    for attribute, value_of in groups.items():
        values = np.array([value_of.get(name, "") for name in names])
        for value in sorted(set(values.tolist()) - {""}):
            own = tops[values == value]
            if len(own) < PEOPLE_MIN:
                continue
            found += [
                GroupFigure(
                    attribute=attribute,
                    group=value,
                    num_people=len(own),
                    target_fpir=fpir,
                    fpir=_share(int((own >= threshold).sum()), len(own)),
                )
                for fpir, threshold in thresholds
            ]
    return tuple(found)


def _share(num_reached: int, num: int) -> Span:
    """A share and its interval: each person is one independent stranger at a fixed threshold."""
    share, square = num_reached / num, _NORMAL**2
    middle = (share + square / (2 * num)) / (1 + square / num)
    half = _NORMAL / (1 + square / num) * math.sqrt(share * (1 - share) / num + square / (4 * num**2))
    low = max(0.0, middle - half) if num_reached else 0.0
    high = min(1.0, middle + half) if num_reached < num else 1.0
    return Span(round(share, 5), round(low, 5), round(high, 5))
