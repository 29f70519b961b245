"""Judges a network by pairs of pictures, as LFW's View 2 does, through the pipeline that serves.

Knows nothing of how faces are found or embedded, nor of how the error rates are counted.

Reading: pairs -> distinct pictures -> `embed_pictures` -> cosine of each pair -> `judge_pairs` -> report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from engine import metrics
from engine.errors import EngineError, InvalidInputError
from engine.metrics import NO_TEMPLATE, Similarities
from engine.trainer.pairs import Pair, PairSet
from engine.trainer.verification import ComparedPairs
from engine.types import EmbeddedFace, EmbeddingContract, FaceChoice, Vectors

FARS = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3}
"""False accept rates that a report names; 2,400 non-mated pairs say nothing about smaller ones."""
BATCH_PICTURES = 32
"""Pictures handed to the pipeline at once: enough to fill its batches, few enough for a smooth bar."""
NUM_CALLERS = 2
"""Threads that call the pipeline: one reads and decodes while torch works for the other. More would only
wait, since the pipeline runs torch in one thread."""
MIN_FACE_PX = 70
"""Faces of LFW are about 100 pixels wide in pictures of 250; smaller ones in it are passers-by."""
VERSIONS_OF = ("identiface", "torch", "numpy", "facenet-pytorch")


class TemplateMaker(Protocol):
    """What this module needs to know of `engine.embedding.embed.Embedder`."""

    @property
    def contract(self) -> EmbeddingContract:
        """What the templates are comparable with."""

    @property
    def device(self) -> str:
        """Device that the network really runs on."""


class PicturePipeline(Protocol):
    """What this module needs of `engine.embedding.pipeline.Pipeline`."""

    @property
    def embedder(self) -> TemplateMaker:
        """Makes its templates."""

    def embed(
        self, pictures: Sequence[bytes], choice: FaceChoice, min_face_px: int | None
    ) -> list[list[EmbeddedFace] | EngineError]:
        """Give the chosen faces of each picture, or why it could not be used; safe to call from threads."""


@dataclass(frozen=True, slots=True)
class PictureTemplates:
    """One template for each of n pictures."""

    vectors: Vectors
    """float32[n, d], unit length; zero where no face was found."""
    is_detected: NDArray[np.bool_]
    """bool[n], whether the picture gave a template."""

    @property
    def num_not_detected(self) -> int:
        """Pictures without a template."""
        return int((~self.is_detected).sum())


@dataclass(frozen=True, slots=True)
class PairsReport:
    """How well pairs of pictures are told to be of one person or of two."""

    pairs: int
    folds: int
    accuracy_mean: float
    """Over folds, each judged with the threshold that is best on the others."""
    accuracy_std: float
    """Over folds, ddof 1."""
    auc: float
    eer: float
    tar_at_far: Mapping[str, float]
    """By the names in FARS; each FAR on the pairs of all folds together."""
    not_detected: int
    """Distinct pictures without a usable face. Their pairs are wrong in accuracy and accepted by none."""
    threshold: float
    """Mean of the folds' thresholds."""
    per_person_accuracy: float
    """Mean over people of the share of right answers among the pairs that show them: a few people with
    many pictures do not decide it."""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """What was measured: contract, face choice, seconds, versions."""

    def as_json(self) -> dict[str, Any]:
        """Give plain values for JSON; the first eight keys are fixed, others may be added after them."""
        values = dataclasses.asdict(self)
        conditions: dict[str, Any] = values.pop("conditions")
        return {**values, **conditions}


def conditions_of(
    pipeline: PicturePipeline, num_pictures: int, choice: FaceChoice, min_face_px: int, seconds: float
) -> dict[str, Any]:
    """Say in plain values what pictures were embedded with."""
    contract = pipeline.embedder.contract
    return {
        "pictures": num_pictures,
        "min_face_px": min_face_px,
        "face_choice": choice.value,
        "contract": contract.name,
        "contract_digest": contract.digest,
        "mirror": contract.mirror,
        "device": pipeline.embedder.device,
        "seconds": round(seconds, 1),
        "versions": _versions(),
    }


def embed_pictures(
    pipeline: PicturePipeline,
    paths: Sequence[Path],
    *,
    choice: FaceChoice = FaceChoice.CENTRE,
    min_face_px: int = MIN_FACE_PX,
    progress: bool = False,
) -> PictureTemplates:
    """Give one template for each picture, in order.

    A picture that cannot be decoded or shows no face has none. Raises InvalidInputError where a file cannot
    be read, and whatever error of the pipeline is not the picture's own.
    """
    vectors = np.zeros((len(paths), pipeline.embedder.contract.dimension), dtype=np.float32)
    is_detected = np.zeros(len(paths), dtype=np.bool_)
    batches = [paths[i : i + BATCH_PICTURES] for i in range(0, len(paths), BATCH_PICTURES)]

    def embed(batch: Sequence[Path]) -> list[list[EmbeddedFace] | EngineError]:
        return pipeline.embed([_read(path) for path in batch], choice, min_face_px)

    row = 0
    with ThreadPoolExecutor(NUM_CALLERS, thread_name_prefix="evaluate") as pool:
        for answers in _shown(pool.map(embed, batches), len(paths), progress=progress):
            for answer in answers:
                if isinstance(answer, EngineError) and not isinstance(answer, InvalidInputError):
                    raise answer
                if not isinstance(answer, EngineError) and answer:
                    vectors[row], is_detected[row] = answer[0].template, True
                row += 1
    return PictureTemplates(vectors, is_detected)


def pair_similarities(pairs: PairSet, templates: PictureTemplates) -> Similarities:
    """Give the cosine of each pair, float64[n]; NO_TEMPLATE where one of its pictures has no template.

    `templates` are those of `pairs.pictures`, in that order.
    """
    row_of = {path: row for row, path in enumerate(pairs.pictures)}
    first = np.array([row_of[pair.first] for pair in pairs.pairs])
    second = np.array([row_of[pair.second] for pair in pairs.pairs])
    vectors = templates.vectors.astype(np.float64)
    cosine: Similarities = np.einsum("nd,nd->n", vectors[first], vectors[second])
    cosine[~(templates.is_detected[first] & templates.is_detected[second])] = NO_TEMPLATE
    return cosine


def judge_pairs(pairs: PairSet, similarities: Similarities, num_not_detected: int) -> PairsReport:
    """Give the error rates of pairs with known similarities, float64[n] in the order of `pairs.pairs`."""
    is_same = pairs.is_same
    accuracy = metrics.kfold_accuracy(similarities, is_same, pairs.fold_of_pair)
    mated, non_mated = similarities[is_same], similarities[~is_same]
    points = metrics.tar_at_far(mated, non_mated, list(FARS.values()))
    return PairsReport(
        pairs=len(pairs.pairs),
        folds=len(pairs.folds),
        accuracy_mean=accuracy.mean,
        accuracy_std=accuracy.std,
        auc=metrics.auc(mated, non_mated),
        eer=metrics.eer(mated, non_mated),
        tar_at_far={name: point.tar for name, point in zip(FARS, points, strict=True)},
        not_detected=num_not_detected,
        threshold=float(np.mean(accuracy.thresholds)),
        per_person_accuracy=_per_person(pairs.pairs, accuracy.is_correct),
    )


def compared_pairs(pairs: PairSet, similarities: Similarities) -> ComparedPairs:
    """Give pairs with their people, for rates by group and intervals over people."""
    names = [[pair.first.parent.name, pair.second.parent.name] for pair in pairs.pairs]
    people, places = np.unique(names, return_inverse=True)
    # One row a pair: older versions of numpy give the places in one line.
    places = places.reshape(-1, 2)
    return ComparedPairs(similarities, pairs.is_same, people, places[:, 0], places[:, 1])


def _per_person(pairs: Sequence[Pair], is_correct: NDArray[np.bool_]) -> float:
    answers: dict[str, list[bool]] = defaultdict(list)
    for pair, right in zip(pairs, is_correct.tolist(), strict=True):
        for name in pair.people:
            answers[name].append(right)
    return float(np.mean([np.mean(rights) for rights in answers.values()]))


def _versions() -> dict[str, str]:
    versions = {}
    for name in VERSIONS_OF:
        # A checkout that runs without being installed has no version of its own.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"cannot read picture {path}: {error.strerror}") from error


Answers = list[list[EmbeddedFace] | EngineError]


def _shown(batches: Iterator[Answers], num_pictures: int, *, progress: bool) -> Iterator[Answers]:
    """Pass batches on, with a bar on a terminal or where asked for, else with a line at the end."""
    if not (progress or sys.stderr.isatty()):
        start = time.monotonic()
        yield from batches
        seconds = time.monotonic() - start
        sys.stderr.write(f"embedded {num_pictures} pictures in {seconds:.1f} s\n")
        return
    with tqdm(total=num_pictures, unit="picture", desc="embedding", file=sys.stderr) as bar:
        for answers in batches:
            yield answers
            bar.update(len(answers))
