"""Everything that one evaluation tells: rates, intervals over people, rates by group, plots.

Joins the parts; knows nothing of how vectors were made, how rates are counted or who prints them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InvalidInputError
from engine.trainer.bootstrap import (
    DEFAULT_SETTINGS,
    BootstrapSettings,
    OpenSetIntervals,
    bootstrap_open_set,
)
from engine.trainer.evaluate import FARS as FARS_OF_FOLDS
from engine.trainer.evaluate import (
    MIN_FACE_PX,
    PairsReport,
    PicturePipeline,
    PictureTemplates,
    compared_pairs,
    conditions_of,
    embed_pictures,
    judge_pairs,
    pair_similarities,
)
from engine.trainer.groups import (
    Groups,
    OpenSetGroup,
    VerificationGroup,
    groups_json,
    judge_open_set_groups,
    judge_verification_groups,
)
from engine.trainer.open_set import (
    FPIRS,
    Labels,
    Name,
    OpenSetReport,
    judge_measured,
    measure_open_set,
)
from engine.trainer.pairs import PairSet
from engine.trainer.plots import plot_identification, plot_verification
from engine.trainer.roles import Roles
from engine.trainer.vectors_file import LabelledVectors
from engine.trainer.verification import FARS as FARS_OF_ALL_PAIRS
from engine.trainer.verification import (
    ComparedPairs,
    VerificationIntervals,
    VerificationReport,
    bootstrap_verification,
    compare_all,
    judge_verification,
)
from engine.types import FaceChoice


@dataclass(frozen=True, slots=True)
class Extras:
    """What is asked beside the rates themselves."""

    name: str = "network"
    """Of the network, in plots."""
    bootstrap: BootstrapSettings = DEFAULT_SETTINGS
    same: Sequence[tuple[str, str]] = ()
    """Labels of one person under two names, as text."""
    groups: Groups = field(default_factory=dict)
    plots: Path | None = None
    """Folder to draw into."""


NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True)
class PairsEvaluation:
    """What pairs tell of a network."""

    folds: PairsReport | None
    """None where all pairs of a set were judged, which are in no folds."""
    rates: VerificationReport
    intervals: VerificationIntervals
    groups: tuple[VerificationGroup, ...]
    plots: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        """Give plain values for JSON; with folds the keys of their report come first."""
        values = self.rates.as_json()
        if self.folds is not None:
            values = {**self.folds.as_json(), "tar_at_far_per_person": values["tar_at_far_per_person"]}
        return {**values, "intervals": self.intervals.as_json(), **_more(self.groups, self.plots)}


@dataclass(frozen=True, slots=True)
class IdentificationEvaluation:
    """What a gallery and its probes tell of a network."""

    report: OpenSetReport
    intervals: OpenSetIntervals
    groups: tuple[OpenSetGroup, ...]
    plots: tuple[Path, ...]
    not_detected: int
    """Pictures without a template."""
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            **self.report.as_json(),
            "not_detected": self.not_detected,
            "intervals": self.intervals.as_json(),
            **_more(self.groups, self.plots),
            **self.conditions,
        }


def evaluate_pairs(
    pipeline: PicturePipeline,
    pairs: PairSet,
    *,
    choice: FaceChoice = FaceChoice.CENTRE,
    min_face_px: int = MIN_FACE_PX,
    progress: bool = False,
    extras: Extras = NO_EXTRAS,
) -> PairsEvaluation:
    """Embed every picture of a list of pairs once and judge the pairs.

    `progress` shows a bar even where standard error is no terminal. Raises InvalidInputError for choice ALL,
    where a picture cannot be read, and where no picture at all gave a template.
    """
    if choice is FaceChoice.ALL:
        raise InvalidInputError("a pair compares one face of each picture: choose centre or largest, not all")
    start = time.monotonic()
    templates = embed_pictures(
        pipeline, pairs.pictures, choice=choice, min_face_px=min_face_px, progress=progress
    )
    seconds = time.monotonic() - start
    conditions = conditions_of(pipeline, len(pairs.pictures), choice, min_face_px, seconds)
    similarities = pair_similarities(pairs, templates)
    return evaluate_folds(pairs, similarities, templates.num_not_detected, conditions, extras)


def evaluate_folds(
    pairs: PairSet,
    similarities: np.ndarray[Any, np.dtype[np.float64]],
    num_not_detected: int,
    conditions: Mapping[str, Any],
    extras: Extras = NO_EXTRAS,
) -> PairsEvaluation:
    """Judge pairs in folds with known similarities, float64[n] in the order of `pairs.pairs`."""
    report = dataclasses.replace(judge_pairs(pairs, similarities, num_not_detected), conditions=conditions)
    return _evaluate_compared(compared_pairs(pairs, similarities), FARS_OF_FOLDS, report, extras)


def evaluate_named_folds(
    pairs: PairSet, labelled: LabelledVectors, conditions: Mapping[str, Any], extras: Extras = NO_EXTRAS
) -> PairsEvaluation:
    """Judge pairs in folds of vectors that are known by their keys: see `pairs.read_named_pairs`.

    Raises InvalidInputError where a picture of the pairs is two vectors'.
    """
    row_of = _rows_by_stem(labelled.keys, {path.name for path in pairs.pictures})
    rows = np.array([row_of[path.name] for path in pairs.pictures])
    vectors = labelled.vectors[rows].astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    is_detected = lengths[:, 0] > 0.0
    units = (vectors / np.where(lengths > 0.0, lengths, 1.0)).astype(np.float32)
    templates = PictureTemplates(units, is_detected)
    similarities = pair_similarities(pairs, templates)
    return evaluate_folds(pairs, similarities, templates.num_not_detected, conditions, extras)


def evaluate_all_pairs(labelled: LabelledVectors, extras: Extras = NO_EXTRAS) -> PairsEvaluation:
    """Judge every pair of a set of labelled vectors.

    Raises as `compare_all` and `judge_verification`, and where no row is a template.
    """
    _check_templates(labelled)
    compared = compare_all(labelled.vectors, labelled.labels, same=_same(labelled, extras))
    return _evaluate_compared(compared, FARS_OF_ALL_PAIRS, None, extras)


def evaluate_roles(
    labelled: LabelledVectors,
    roles: Roles,
    conditions: Mapping[str, Any],
    *,
    fpirs: Sequence[float] = FPIRS,
    extras: Extras = NO_EXTRAS,
) -> IdentificationEvaluation:
    """Judge identification of labelled vectors by the part that each plays.

    Raises as `measure_open_set` and `judge_measured`, where no row is a template, and where groups name
    nobody.
    """
    _check_templates(labelled)
    _check_groups(extras.groups, labelled.labels)
    gallery, mated, strangers = (
        (labelled.vectors[rows], labelled.labels[rows])
        for rows in (roles.gallery, roles.mated, roles.strangers)
    )
    measured = measure_open_set(gallery, mated, strangers, same=_same(labelled, extras))
    report = judge_measured(measured, fpirs)
    return IdentificationEvaluation(
        report=report,
        intervals=bootstrap_open_set(measured, fpirs, extras.bootstrap),
        groups=judge_open_set_groups(measured, report, extras.groups),
        plots=() if extras.plots is None else plot_identification({extras.name: measured}, extras.plots),
        not_detected=labelled.num_not_detected,
        conditions=conditions,
    )


def _evaluate_compared(
    compared: ComparedPairs, fars: Mapping[str, float], folds: PairsReport | None, extras: Extras
) -> PairsEvaluation:
    _check_groups(extras.groups, compared.people)
    rates = judge_verification(compared, fars)
    return PairsEvaluation(
        folds=folds,
        rates=rates,
        intervals=bootstrap_verification(compared, fars, extras.bootstrap),
        groups=judge_verification_groups(compared, rates, extras.groups),
        plots=() if extras.plots is None else plot_verification({extras.name: compared}, extras.plots),
    )


def _check_templates(labelled: LabelledVectors) -> None:
    if labelled.num_not_detected == len(labelled.labels):
        raise InvalidInputError(
            f"none of {len(labelled.labels)} vectors or pictures has a template: give pictures that can be"
            " read and show a face, and vectors that are not all zeros"
        )


def _check_groups(groups: Groups, people: Labels) -> None:
    """Refuse groups that name nobody judged; of a file for many sets some names may be of another."""
    named = {name for values in groups.values() for name in values}
    judged = {str(person) for person in np.unique(people).tolist()}
    if groups and not named & judged:
        raise InvalidInputError(
            f"the groups hold attributes of {len(named)} identities, but of none of the {len(judged)} judged:"
            f" name them as these are named, like {min(judged)}"
        )


def _rows_by_stem(keys: Sequence[str], wanted: Collection[str]) -> dict[str, int]:
    """Look up the row of each wanted picture by its name without folder and suffix."""
    row_of: dict[str, int] = {}
    for row, key in enumerate(keys):
        stem = Path(key).stem
        if stem not in wanted:
            continue
        if stem in row_of:
            raise InvalidInputError(
                f"picture {stem} of the pairs is two vectors': {keys[row_of[stem]]} (row {row_of[stem] + 1})"
                f" and {key} (row {row + 1}); leave one out, or name one otherwise"
            )
        row_of[stem] = row
    return row_of


def _same(labelled: LabelledVectors, extras: Extras) -> list[tuple[Name, Name]]:
    """The names of one person, as the labels have them: numbers where all labels are numbers."""
    if labelled.labels.dtype.kind == "U":
        return list(extras.same)
    known = {str(label): label for label in np.unique(labelled.labels).tolist()}
    return [(known[a], known[b]) for a, b in extras.same if a in known and b in known]


def _more(
    groups: Sequence[OpenSetGroup] | Sequence[VerificationGroup], plots: Sequence[Path]
) -> dict[str, Any]:
    return {"groups": groups_json(groups), "plots": [str(path) for path in plots]}
