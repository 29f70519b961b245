"""What deciding costs in a request, beside the search: ``python -m benchmarks.decision``.

Beside a fixed threshold: the threshold of a target rate with its estimated rate, and the crowding correction.
The search is made once; what is timed is all that makes answers of what it found, one probe a request. Takes
some seconds. Prints a table and, with ``--json FILE``, writes the rows. Does not tell what finding 32
identities instead of 10 costs: that is a column of its own, timed with the whole of `identify`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.candidates import Answer, Question, best_identities
from engine.decision.calibration import Calibration, shipped
from engine.decision.crowding import CANDIDATES
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.identification import Judge, Request, population_of
from engine.live_index import report_nothing
from engine.thresholds import Thresholds
from engine.types import (
    SEARCH_DEFAULTS,
    CrowdingCorrection,
    EmbeddingContract,
    Enrollment,
    GallerySettings,
    Template,
    Vectors,
)

K = 10
DIMENSION = 128
ENROLLED_AT_ONCE = 250
SEED = 20_000_928
OFF, ON = CrowdingCorrection.OFF, CrowdingCorrection.ON
FIXED, RATED = "fixed threshold", "target rate"
WAYS: dict[str, tuple[GallerySettings, bool]] = {
    "fixed threshold, no calibration": (GallerySettings(threshold=0.9), False),
    FIXED: (GallerySettings(threshold=0.9), True),
    RATED: (GallerySettings(target_fpir=0.01, review_fpir=0.05, ambiguity=0.01, crowding=OFF), True),
    "target rate, crowding": (
        GallerySettings(target_fpir=0.01, review_fpir=0.05, ambiguity=0.01, crowding=ON),
        True,
    ),
}
"""Settings, and whether there is a calibration."""


def measure(data: Path, num_identities: int, num_probes: int, num_repeats: int) -> list[dict[str, Any]]:
    """Each way, its answers side by side with the others', microseconds."""
    calibration = next(one for one in shipped().values() if one.contract_name == "dlib-resnet")
    contract = EmbeddingContract("drawn", "", "", mirror=False, dimension=DIMENSION, threshold=0.9)
    settings = GalleriesSettings(maintenance_s=0)
    galleries = Galleries.open(data, settings, calibrations={contract.digest: calibration})
    try:
        gallery = filled(galleries, contract, num_identities)
        probes = drawn(num_probes, SEED + 1)
        decisions = {name: decider(gallery, probes, *way, calibration) for name, way in WAYS.items()}
        decided = timed(decisions, num_probes, num_repeats)
        whole = {name: identifier(gallery, probes, way[0]) for name, way in WAYS.items() if way[1]}
        asked = timed(whole, num_probes, num_repeats)
        return [{"way": name, "decision_us": decided[name], "identify_us": asked.get(name)} for name in WAYS]
    finally:
        galleries.close()


def drawn(num: int, seed: int) -> Vectors:
    """Unit vectors float32[num, d] around some centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(SEED).standard_normal((50, DIMENSION))
    vectors = centres[rng.integers(50, size=num)] + rng.standard_normal((num, DIMENSION))
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def filled(galleries: Galleries, contract: EmbeddingContract, num_identities: int) -> Gallery:
    """A gallery with an index that knows how crowded its templates lie."""
    galleries.create("people", contract, GallerySettings(target_fpir=0.01, crowding=ON))
    gallery = galleries.get("people")
    people = [Enrollment(f"p{row}", (Template(one),)) for row, one in enumerate(drawn(num_identities, SEED))]
    for start in range(0, num_identities, ENROLLED_AT_ONCE):
        gallery.enroll(people[start : start + ENROLLED_AT_ONCE])
    gallery.build(report_nothing)
    return gallery


def decider(
    gallery: Gallery,
    probes: Vectors,
    settings: GallerySettings,
    has_calibration: bool,
    calibration: Calibration,
) -> Callable[[int], object]:
    """Make answers of what a search found for a probe, again and again."""
    thresholds = Thresholds("people", gallery.contract, calibration if has_calibration else None)
    with gallery._index.view() as (reader, snapshot):
        population = population_of(reader, snapshot)
        is_corrected = thresholds.is_corrected(settings, population)
        question = Question(CANDIDATES if is_corrected else K, 1)
        answers: list[Answer] = best_identities(reader, snapshot, probes, question)
    request = Request(K, SEARCH_DEFAULTS, None, 1, None)

    def decide(probe: int) -> object:
        is_in_effect = thresholds.is_corrected(settings, population)
        judge = Judge(thresholds, settings, population, request, is_corrected=is_in_effect)
        return judge.identification(answers[probe], snapshot, is_one_state=True)

    return decide


def settle(gallery: Gallery, settings: GallerySettings) -> None:
    """Give a gallery the settings of a way."""
    gallery.update(
        threshold=settings.threshold,
        target_fpir=settings.target_fpir,
        review_fpir=settings.review_fpir,
        ambiguity=settings.ambiguity,
        crowding=settings.crowding,
    )


def identifier(gallery: Gallery, probes: Vectors, settings: GallerySettings) -> Callable[[int], object]:
    """Ask the gallery itself, set so."""

    def ask(probe: int) -> object:
        if gallery.info().settings != settings:
            settle(gallery, settings)
        start_s = time.perf_counter()
        gallery.identify(probes[probe : probe + 1], K)
        return time.perf_counter() - start_s

    return ask


def timed(ways: dict[str, Callable[[int], object]], num_probes: int, num_repeats: int) -> dict[str, float]:
    """Median microseconds of each way, in turns; a way that gives seconds is taken at its word."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(num_repeats + 1):
        for name, way in ways.items():
            for probe in range(num_probes):
                start_s = time.perf_counter()
                told = way(probe)
                elapsed_s = time.perf_counter() - start_s
                if turn:  # the first turn fills what is kept at hand
                    taken[name].append(told if isinstance(told, float) else elapsed_s)
    return {name: float(np.median(values)) * 1e6 for name, values in taken.items()}


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decision", description=__doc__)
    parser.add_argument("--identities", type=int, default=2_000, help="enrolled (default: 2000)")
    parser.add_argument("--probes", type=int, default=64, help="asked in turns (default: 64)")
    parser.add_argument("--repeats", type=int, default=40, help="of all turns (default: 40)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, too")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.identities, arguments.probes, arguments.repeats)
    print(f"{'':34}{'decision':>12}{'identify':>12}   median, microseconds")
    for row in rows:
        whole = "" if row["identify_us"] is None else f"{row['identify_us']:.1f}"
        print(f"{row['way']:34}{row['decision_us']:12.1f}{whole:>12}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
