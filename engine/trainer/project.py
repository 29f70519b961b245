"""Learns a linear map of a network's templates to fewer numbers, and measures what it costs on other people.

Knows nothing of pictures and of the base's architecture: templates and labels in, a map and its price out.

Reading: templates -> people parted by seed -> PCA on one part (`fit_pca`) -> perhaps `refine` by triplets ->
`measure` full and mapped templates on the other part -> `ProjectionReport`.

PCA here is of the second moments of unit templates about zero: that keeps cosines best. Taken about their
mean it keeps differences best, and cosines are then those about another origin; which of the two serves
better is measured on a part of the people that the map is learnt on, never on those it is judged by.

Source: Jolliffe, "Principal Component Analysis", 2002, sections 3.5 (covariance) and 14.2.3 (uncentred).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import ArrayLike, NDArray

from engine import metrics
from engine.config import Settings
from engine.embedding.mapped_network import VectorMap, map_vectors
from engine.errors import InvalidInputError
from engine.limits import DIMENSION_MIN
from engine.trainer.bootstrap import BootstrapSettings, OpenSetIntervals, paired_bootstrap
from engine.trainer.objectives import ObjectiveSettings, build_objective
from engine.trainer.open_set import (
    OpenSetReport,
    OpenSetSimilarities,
    judge_measured,
    measure_open_set,
    unit_rows,
)
from engine.trainer.roles import open_roles
from engine.trainer.sampler import PKSampler
from engine.trainer.verification import ROWS_MAX
from engine.types import Vectors

FPIRS = (0.1, 0.03, 0.01)
CHOOSING_FPIR = 0.1
"""What centred and uncentred PCA are compared at: smaller ones need more strangers than a part has."""
BATCH_IDENTITIES = 32
BATCH_PICTURES = 4
PEOPLE_MIN = 2
"""With two pictures or more, in each part: one to enroll and one to be a stranger."""


class ProjectionSettings(Settings, frozen=True, kw_only=True):
    """How a map is learnt and judged."""

    dimension: Annotated[int, Meta(ge=DIMENSION_MIN)] = 128
    method: Literal["pca", "trained"] = "pca"
    """`trained` refines the map of PCA by triplets."""
    held_out_share: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.3
    """Of the people: the map is judged by them and not learnt on them."""
    seed: Annotated[int, Meta(ge=0)] = 0
    num_steps: Annotated[int, Meta(ge=1)] = 400
    """Of `trained`."""
    rate: Annotated[float, Meta(gt=0.0)] = 1e-4
    """Learning rate of Adam at the start; it falls to zero by a cosine."""
    objective: ObjectiveSettings = ObjectiveSettings()
    """Of `trained`."""
    num_resamples: Annotated[int, Meta(ge=1)] = 1000
    """Of the held-out people, for the intervals."""
    threshold: Annotated[float, Meta(ge=-1.0, le=1.0)] | None = None
    """Of the mapped contract; None: accepts as many non-mated pairs of the people learnt on as the base's."""


@dataclass(frozen=True, slots=True)
class ProjectionReport:
    """What a map costs, on people that it was not learnt on."""

    dimension_from: int
    dimension: int
    method: str
    is_centred: bool
    """Whether PCA took the mean out."""
    kept_share: float
    """Of the second moments of the people learnt on (about the mean, if centred), by PCA."""
    num_people_learnt: int
    num_people_held_out: int
    full: OpenSetReport
    pca: OpenSetReport
    trained: OpenSetReport | None
    cost: OpenSetIntervals
    """The map's rates less those of the full templates, resampled over the held-out people."""
    threshold: float
    """Of the mapped contract, see `ProjectionSettings.threshold`."""

    def as_json(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in {"full", "pca", "trained", "cost"}
        }
        rates = {
            name: None if report is None else report.as_json()
            for name, report in (("full", self.full), ("pca", self.pca), ("trained", self.trained))
        }
        return {**values, "held_out": rates, "cost": self.cost.as_json()}


def learn_projection(
    vectors: ArrayLike,
    labels: ArrayLike,
    threshold: float,
    settings: ProjectionSettings,
    fpirs: Sequence[float] = FPIRS,
) -> tuple[VectorMap, ProjectionReport]:
    """Learn a map on one part of the people and judge it by the other.

    `vectors` are templates float[n, d] with labels [n]; rows of zeros (no template) are left out. `threshold`
    is that of the base's contract. Raises InvalidInputError where the dimension is not below the base's, or
    there are too few people or pictures for it, or the threshold cannot be mapped by them.
    """
    rows, of = unit_rows(vectors, labels, "templates")
    has_template = np.flatnonzero(np.linalg.norm(rows, axis=1))
    rows, of = rows[has_template], of[has_template]
    if not settings.dimension < rows.shape[1]:
        raise InvalidInputError(
            f"the network gives {rows.shape[1]} numbers: a map to {settings.dimension} would save nothing",
            hint="Give a smaller --dimension.",
        )
    held_out = _drawn_people(of, settings.held_out_share, settings.seed)
    learning, judging = (rows[~held_out], of[~held_out]), (rows[held_out], of[held_out])
    if len(learning[0]) < settings.dimension:
        raise InvalidInputError(
            f"{len(learning[0])} pictures to learn on: a map to {settings.dimension} numbers needs as many"
        )
    # Before the work: what cannot be mapped is known from the base's templates.
    far = _far_to_keep(*learning, threshold, settings.seed) if settings.threshold is None else 0.0
    is_centred = _is_centred_better(*learning, settings)
    fitted, kept_share = fit_pca(learning[0], settings.dimension, is_centred=is_centred)
    measured = _measure(judging[0], judging[1], settings.seed)
    of_pca = _measure(project(fitted, judging[0]), judging[1], settings.seed)
    trained = None
    learnt, of_learnt = fitted, of_pca
    if settings.method == "trained":
        learnt = refine(fitted, *learning, settings)
        of_learnt = _measure(project(learnt, judging[0]), judging[1], settings.seed)
        trained = judge_measured(of_learnt, fpirs)
    resampling = BootstrapSettings(num_resamples=settings.num_resamples, seed=settings.seed)
    mapped = settings.threshold
    if mapped is None:
        mapped = _same_far(project(learnt, learning[0]), learning[1], far, settings.seed)
    report = ProjectionReport(
        dimension_from=rows.shape[1],
        dimension=settings.dimension,
        method=settings.method,
        is_centred=is_centred,
        kept_share=kept_share,
        num_people_learnt=len(np.unique(learning[1])),
        num_people_held_out=len(np.unique(judging[1])),
        full=judge_measured(measured, fpirs),
        pca=judge_measured(of_pca, fpirs),
        trained=trained,
        cost=paired_bootstrap(measured, of_learnt, fpirs, resampling),
        threshold=mapped,
    )
    return learnt, report


def fit_pca(templates: NDArray[np.float64], dimension: int, *, is_centred: bool) -> tuple[VectorMap, float]:
    """Give the map onto the strongest directions of templates float64[n, d], and the share they keep."""
    mean = templates.mean(axis=0) if is_centred else np.zeros(templates.shape[1])
    moments = (templates - mean).T @ (templates - mean)
    strengths, directions = np.linalg.eigh(moments)
    chosen = directions[:, ::-1][:, :dimension].T
    # A direction may point either way: the largest number positive, so that each run gives the same.
    largest = np.abs(chosen).argmax(axis=1)
    chosen = chosen * np.sign(chosen[np.arange(dimension), largest])[:, None]
    fitted = VectorMap(templates.shape[1], dimension)
    with torch.no_grad():
        fitted.last.weight.copy_(torch.from_numpy(chosen))
        fitted.last.bias.copy_(torch.from_numpy(-chosen @ mean))
    share = float(strengths[::-1][:dimension].sum() / strengths.sum())
    return fitted, min(1.0, share)


def refine(
    fitted: VectorMap, templates: NDArray[np.float64], labels: ArrayLike, settings: ProjectionSettings
) -> VectorMap:
    """Train a copy of a map by the objective, on batches of P identities with K pictures each."""
    _, places = np.unique(labels, return_inverse=True)
    counts = np.bincount(places)
    sampler = PKSampler(
        places.astype(np.int64),
        min(BATCH_IDENTITIES, int((counts > 1).sum())),
        min(BATCH_PICTURES, int(counts.max())),
        settings.seed,
    )
    learnt = VectorMap(templates.shape[1], settings.dimension)
    learnt.load_state_dict(fitted.state_dict())
    learnt.train()
    objective = build_objective(settings.objective, len(counts), settings.dimension, seed=settings.seed)
    parameters = [*learnt.parameters(), *objective.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=settings.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.num_steps)
    inputs, targets = torch.from_numpy(templates.astype(np.float32)), torch.from_numpy(places)
    for step in range(settings.num_steps):
        rows = torch.from_numpy(sampler.rows(step))
        outcome = objective(learnt(inputs[rows]), targets[rows], step)
        optimiser.zero_grad()
        outcome.loss.backward()
        optimiser.step()
        schedule.step()
    return learnt.eval()


def project(learnt: VectorMap, templates: NDArray[np.float64]) -> Vectors:
    """Give the raw mapped vectors float32[n, dimension], as the network that is shipped gives them."""
    return map_vectors(learnt, templates.astype(np.float32))


def _drawn_people(labels: NDArray[Any], share: float, seed: int) -> NDArray[np.bool_]:
    """Mark the rows of people drawn by seed, the same share of those with one picture and with several.

    Raises InvalidInputError where a part would have too few people with two pictures.
    """
    people, counts = np.unique(labels, return_counts=True)
    rng = np.random.default_rng(seed)
    groups = (people[counts > 1], people[counts == 1])
    drawn = [rng.permutation(group)[: round(share * len(group))] for group in groups]
    num_several = int((counts > 1).sum())
    if not PEOPLE_MIN <= len(drawn[0]) <= num_several - PEOPLE_MIN:
        raise InvalidInputError(
            f"{num_several} people have two pictures with a face or more: a share of {share:g} held out"
            f" must be at least {PEOPLE_MIN} of them and leave at least {PEOPLE_MIN}",
            hint="Give pictures of more people, or another --held-out.",
        )
    return np.isin(labels, np.concatenate(drawn))


def _measure(vectors: ArrayLike, labels: NDArray[Any], seed: int) -> OpenSetSimilarities:
    """Enroll half of the people with several pictures; the others are strangers."""
    rows = np.asarray(vectors)
    people, counts = np.unique(labels, return_counts=True)
    several = np.random.default_rng(seed).permutation(people[counts > 1])
    roles = open_roles(labels, several[: (len(several) + 1) // 2].tolist())
    gallery, mated, strangers = (
        (rows[part], labels[part]) for part in (roles.gallery, roles.mated, roles.strangers)
    )
    return measure_open_set(gallery, mated, strangers)


def _is_centred_better(
    templates: NDArray[np.float64], labels: NDArray[Any], settings: ProjectionSettings
) -> bool:
    """Compare both on a part of the people learnt on; without enough of them, uncentred."""
    try:
        judging = _drawn_people(labels, 0.5, settings.seed)
    except InvalidInputError:
        return False
    if (~judging).sum() < settings.dimension:
        return False
    missed = []
    for is_centred in (False, True):
        fitted, _ = fit_pca(templates[~judging], settings.dimension, is_centred=is_centred)
        measured = _measure(project(fitted, templates[judging]), labels[judging], settings.seed)
        missed.append(judge_measured(measured, [CHOOSING_FPIR]).points[0].fnir)
    return missed[1] < missed[0]


def _far_to_keep(templates: ArrayLike, labels: NDArray[Any], threshold: float, seed: int) -> float:
    """Give the share of non-mated pairs that reach `threshold`.

    Raises InvalidInputError where none or all do: many mapped thresholds would keep that, and none of these
    people can tell which is right.
    """
    similarities = _non_mated(templates, labels, seed)
    share = metrics.fpir(similarities, threshold)
    if 0.0 < share < 1.0:
        return share
    told = "none" if share == 0.0 else "each"
    raise InvalidInputError(
        f"the base's threshold {threshold:.4f} cannot be mapped: {told} of {len(similarities):,} pairs of"
        f" different people reaches it, whose similarities are {similarities.min():.4f} to"
        f" {similarities.max():.4f}",
        hint="Give the map's own by --threshold, a base whose threshold lies among these, or more people.",
    )


def _same_far(mapped: Vectors, labels: NDArray[Any], far: float, seed: int) -> float:
    """Give the mapped threshold that accepts the share `far` of non-mated pairs."""
    similarities = _non_mated(mapped, labels, seed)
    (point,) = metrics.tar_at_far(similarities, similarities, [far])
    return float(np.clip(point.threshold, -1.0, 1.0))


def _non_mated(vectors: ArrayLike, labels: NDArray[Any], seed: int) -> NDArray[np.float64]:
    """Similarities of all pairs of different people among at most ROWS_MAX rows, drawn by seed."""
    units, of = unit_rows(vectors, labels, "templates")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(of))[:ROWS_MAX])
    first, second = np.triu_indices(len(chosen), k=1)
    is_different = np.asarray(of[chosen][first] != of[chosen][second])
    similarities = units[chosen] @ units[chosen].T
    kept: NDArray[np.float64] = similarities[first[is_different], second[is_different]]
    return kept
