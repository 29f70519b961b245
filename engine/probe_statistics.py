"""What a gallery's probes look like in production: top similarities, and whether the calibration still holds.

A calibration says of each top which share of strangers reaches it (`Identification.estimated_fpir`). Where
it holds, these shares are spread evenly among strangers, whatever the gallery's size or filter was, so
answers given while the gallery grew can be judged together. Probes of enrolled people are not told from
strangers here. So only tops below what half of the strangers reach are compared: of the enrolled hardly
anybody's is (2 % of one network's with 1,000 enrolled from LFW, fewer in smaller galleries). Drift is the
largest difference of the two distribution functions there: the statistic of Kolmogorov and Smirnov, see
Massey, "The Kolmogorov-Smirnov Test for Goodness of Fit", JASA 46 (1951).

What is kept are numbers of probes in bins: no template, no identity, no time, nothing of a single probe.

Does not know who a probe was of. So it is blind where nearly every top lies above the middle of strangers'
tops: all probes may be of enrolled people, or similarities far too high. And where nine of ten probes are of
enrolled people, those enrolled badly may look like strangers more alike than calibrated. Each process counts
what it answered itself, in memory: a restart forgets it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from itertools import accumulate

from engine.logs import LOGGER
from engine.open_set_types import ProbeStatistics, SimilarityBin
from engine.types import Decision, Identification

NUM_BINS = 400
"""Of similarity from -1 to 1."""
FPIR_COMPARED_MIN = 0.5
"""Estimated FPIR from which on tops are compared. Those below it may be of enrolled people."""
NUM_RATE_BINS = 50
"""Of the compared shares. Binning hides at most one part in so many of the drift."""
IDENTITIES_MIN = 30
"""In fewer, it is the people who happen to be enrolled that decide how high tops are: not compared."""
WINDOW_PROBES = 2_000
"""Compared probes that drift is about, the latest; at least half as many once there were more."""
PROBES_MIN = 500
"""Compared probes below which nothing is said of drift."""
PROBES_A_PERSON = 5
"""Probes of one person are alike, and count as one where chance is weighed. An assumption."""
CHANCE_MAX = 1e-4
"""Probability of an alarm by chance. So low because drift is looked at again and again."""
DRIFT_MAX = 0.2
"""Drift that is tolerated: that of strangers' rates 1.7 times as high as calibrated, or as low (the largest
difference of y and y**1.7 is 0.2). With the right calibration and two networks, drift in galleries of 30 to
1,000 people of LFW stayed within 0.1 where up to half of the probes were of enrolled people; where nine of
ten were, there was an alarm in 4 of 120 trials."""
DRIFT_ENDED = 0.15
"""An alarm ends below it: it does not come and go around DRIFT_MAX."""
JUDGED_EVERY_PROBES = 50
"""Compared probes between two looks at drift."""


class ProbeCounter:
    """Counts the answers to one gallery's probes. Thread-safe; microseconds for each answer."""

    def __init__(self, gallery_id: str):
        self._gallery_id = gallery_id
        self._lock = threading.Lock()
        self._is_alarming = False
        self._tops = [0] * NUM_BINS
        self._decisions = dict.fromkeys(Decision, 0)
        # Two halves of the window: the older is dropped whole when the newer is full.
        self._older = [0] * NUM_RATE_BINS
        self._newer = [0] * NUM_RATE_BINS
        self._num_older = self._num_newer = 0

    def count(self, answer: Identification, *, is_size_known: bool = True) -> None:
        """Take in one answer.

        By its plain similarity: with filters a gallery decides now by that, now by the corrected one.
        `is_size_known` is False where `num_identities` is only a bound: the top counts, and is not compared.
        """
        rate = answer.estimated_fpir
        is_compared = (
            is_size_known
            and rate is not None
            and rate >= FPIR_COMPARED_MIN
            and answer.num_identities >= IDENTITIES_MIN
        )
        with self._lock:
            self._decisions[answer.decision] += 1
            if answer.candidates:
                # Plainly the best, which the correction may have put behind others.
                top = max(one.similarity for one in answer.candidates)
                self._tops[_bin_of((top + 1.0) / 2.0, NUM_BINS)] += 1
            if not is_compared:
                return
            assert rate is not None
            self._compare((1.0 - rate) / (1.0 - FPIR_COMPARED_MIN))

    def report(self) -> ProbeStatistics:
        """Tell what was counted, without the empty bins at both ends."""
        with self._lock:
            tops = list(self._tops)
            drift = self._drift()
            is_alarming = self._is_alarming
        filled = [number for number, count in enumerate(tops) if count]
        span = range(filled[0], filled[-1] + 1) if filled else range(0)
        return ProbeStatistics(
            num_probes=sum(tops),
            bins=tuple(SimilarityBin(_edge(number), _edge(number + 1), tops[number]) for number in span),
            drift=drift,
            is_alarming=is_alarming,
        )

    def decisions(self) -> Mapping[Decision, int]:
        """Answers by decision, those without a candidate among them."""
        with self._lock:
            return dict(self._decisions)

    def _compare(self, share: float) -> None:
        """Take in which share of the compared strangers has a lower top, 0..1, by the calibration."""
        if self._num_newer == WINDOW_PROBES // 2:
            self._older, self._num_older = self._newer, self._num_newer
            self._newer, self._num_newer = [0] * NUM_RATE_BINS, 0
        self._newer[_bin_of(share, NUM_RATE_BINS)] += 1
        self._num_newer += 1
        if self._num_newer % JUDGED_EVERY_PROBES == 0:
            self._judge()

    def _drift(self) -> float | None:
        """Largest difference of the distribution functions, positive where tops are higher; None: too few."""
        num = self._num_older + self._num_newer
        if num < PROBES_MIN:
            return None
        counts = (older + newer for older, newer in zip(self._older, self._newer, strict=True))
        differences = (
            number / NUM_RATE_BINS - below / num for number, below in enumerate(accumulate(counts), 1)
        )
        return max(differences, key=abs)

    def _judge(self) -> None:
        drift = self._drift()
        if drift is None:
            return
        num_people = (self._num_older + self._num_newer) / PROBES_A_PERSON
        # Of so many independent ones, chance alone exceeds this with CHANCE_MAX at most.
        by_chance = math.sqrt(math.log(2.0 / CHANCE_MAX) / (2.0 * num_people))
        if abs(drift) > max(DRIFT_MAX, by_chance):
            self._tell(drift, is_alarming=True)
        elif abs(drift) < DRIFT_ENDED:
            self._tell(drift, is_alarming=False)

    def _tell(self, drift: float, *, is_alarming: bool) -> None:
        """Note whether there is an alarm, and log where this is new."""
        if is_alarming == self._is_alarming:
            return
        self._is_alarming = is_alarming
        if not is_alarming:
            told = "probes are as calibrated again"
        elif drift > 0:
            told = (
                "probes are more alike to the enrolled than calibrated: expect more false alarms than wished"
            )
        else:
            told = "probes are less alike to the enrolled than calibrated: look at cameras and light"
        fields = {
            "gallery": self._gallery_id,
            "drift": round(drift, 3),
            "num_compared": self._num_older + self._num_newer,
        }
        LOGGER.warning(told, extra={"fields": fields})


class ProbeCounters:
    """The counters of all galleries that want one; they outlive a gallery that is closed and opened again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, ProbeCounter] = {}

    def of(self, gallery_id: str) -> ProbeCounter:
        """The gallery's counter, made where there is none."""
        counter = self._counters.get(gallery_id)
        if counter is not None:
            return counter
        with self._lock:
            return self._counters.setdefault(gallery_id, ProbeCounter(gallery_id))

    def forget(self, gallery_id: str) -> None:
        """Drop the counter of a gallery that is deleted or wants none any more."""
        with self._lock:
            self._counters.pop(gallery_id, None)

    def all(self) -> Mapping[str, ProbeCounter]:
        """All counters by the ids of their galleries."""
        with self._lock:
            return dict(self._counters)


def _bin_of(share: float, num_bins: int) -> int:
    """Number of the bin, those of rounding beyond 0..1 in the outermost."""
    return min(max(int(share * num_bins), 0), num_bins - 1)


def _edge(number: int) -> float:
    return round(-1.0 + number * 2.0 / NUM_BINS, 6)
