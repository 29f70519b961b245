"""A gallery moved to another network: a new gallery, made from the kept crops of the old one.

::

    pages of OLD -> who is not whole in NEW yet -> crops -> align -> embed -> NEW -> build

Nothing of the old gallery changes. Kill it at any moment and run it again: an identity is enrolled in one
commit, and who is in the new gallery already is passed over. Who has no kept crop is moved without templates,
with attributes and expiry, and told: only a new picture makes a template of another network. Knows nothing of
how galleries hold their crops.
"""

from __future__ import annotations

import csv
import dataclasses
import enum
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import (
    AlreadyExistsError,
    ContractMismatchError,
    EngineError,
    GalleryNotFoundError,
    InvalidInputError,
    InvalidPictureError,
    PreconditionError,
    WeightsError,
)
from engine.outputs import whole_file
from engine.types import (
    EmbeddingContract,
    Enrollment,
    GalleryInfo,
    GallerySettings,
    Identity,
    Rgb,
    StoredTemplate,
    Template,
    Vector,
)
from indexer.mapper import EMBED_CROPS
from indexer.pages import Page
from indexer.progress import Progress
from indexer.report import safe_cell
from indexer.target import Target

if TYPE_CHECKING:
    from engine.embedding.embed import Embedder

COLUMNS = ("identity_id", "templates", "moved", "reason")
"""Of the report."""


class Loss(enum.StrEnum):
    """Why a template could not be moved."""

    NO_CROP = "no_crop"
    """None was kept: it was enrolled as a vector, or the gallery keeps none."""
    DAMAGED_CROP = "damaged_crop"
    BAD_VECTOR = "bad_vector"
    """The network makes no template of this crop."""
    OVER_LIMIT = "over_limit"
    """More than the gallery allows, since before its limit was lowered: those of lowest quality."""
    REFUSED = "refused"
    """By the new gallery."""


@dataclass(frozen=True)
class Loser:
    """An identity of which templates could not be moved."""

    identity_id: str
    num_templates: int
    """In the old gallery."""
    num_moved: int
    """In the new gallery."""
    reason: Loss
    """Of the first that was lost."""


@dataclass(frozen=True)
class Moved:
    """What was moved, by this run and those before it."""

    gallery_id: str
    """The new gallery; empty: none was made, since the old one keeps no crops."""
    num_identities: int
    """Of the old gallery."""
    num_templates: int
    """Of the new gallery."""
    num_others: int
    """Identities of the new gallery that are not in the old one: removed there since, or enrolled here."""
    losers: list[Loser]

    @property
    def in_need(self) -> list[str]:
        """Identities that had templates and have none now: they need new pictures."""
        return [one.identity_id for one in self.losers if not one.num_moved]


class CropEmbedder:
    """Templates of kept crops under one contract."""

    def __init__(self, embedder: Embedder):
        self._embedder = embedder
        self.contract: EmbeddingContract = embedder.contract

    def __call__(self, crops: Sequence[bytes]) -> list[Vector | Loss]:
        """A template float32[d] of each kept crop, or why there is none."""
        aligned = [self._aligned(crop) for crop in crops]
        pixels = [one for one in aligned if not isinstance(one, Loss)]
        vectors = (
            vector
            for start in range(0, len(pixels), EMBED_CROPS)
            for vector in self._embed(pixels[start : start + EMBED_CROPS])
        )
        return [one if isinstance(one, Loss) else next(vectors) for one in aligned]

    def _aligned(self, crop: bytes) -> Rgb | Loss:
        from engine.embedding.align import align
        from engine.embedding.kept import restore

        if not crop:
            return Loss.NO_CROP
        try:
            image, keypoints = restore(crop)
            return align(image, keypoints, self._embedder.alignment)
        except InvalidPictureError:
            return Loss.DAMAGED_CROP

    def _embed(self, pixels: Sequence[Rgb]) -> list[Vector | Loss]:
        # Always as many at once: a network's last bits depend on their number.
        padded = np.stack([*pixels, *[pixels[0]] * (EMBED_CROPS - len(pixels))])
        try:
            return list(self._embedder.embed(padded)[: len(pixels)])
        except WeightsError:
            if len(pixels) == 1:
                return [Loss.BAD_VECTOR]
            return [vector for one in pixels for vector in self._embed([one])]


def find_old(target: Target, gallery: str) -> GalleryInfo:
    """The gallery to move, by name or alias. Raises GalleryNotFoundError."""
    old = target.find(gallery)
    if old is None:
        raise GalleryNotFoundError(f"no gallery or alias is named {gallery!r}")
    return old


def reembed(
    target: Target, old: GalleryInfo, to: str, embed: CropEmbedder, *, threshold: float | None = None
) -> Moved:
    """Fill gallery `to`, which is made where it is missing, with all identities of gallery `old`.

    `threshold` is the new gallery's own; None: its contract's, or by the old gallery's target_fpir. The old
    one's belongs to the old network.
    Raises PreconditionError where the gallery is of this contract already; ContractMismatchError,
    InvalidInputError where `to` cannot be filled; and what the target raises.
    """
    if old.contract.digest == embed.contract.digest:
        raise PreconditionError(
            f"gallery {old.gallery_id!r} holds templates of this very network, {embed.contract.name!r}",
            hint="Give the --model that it shall be moved to. Where an alias has moved already, all is done.",
        )
    if not old.settings.keep_crops:
        return Moved("", old.num_identities, 0, 0, _all_lost(target.pages(old.gallery_id)))
    new = _opened(target, old, to, embed.contract, threshold)
    there = target.sizes(new.gallery_id)
    losers: list[Loser] = []
    with Progress("reembed", old.num_identities, "identities") as progress:
        for page in target.pages(old.gallery_id):
            lost = list(_move(target, new, page, there, embed))
            losers += lost
            for identity, _ in page:
                there.pop(identity.identity_id, None)
            progress.add(len(page), len(lost))
    target.build(new.gallery_id)
    filled = target.find(new.gallery_id)
    num_templates = filled.num_templates if filled else 0
    return Moved(new.gallery_id, old.num_identities, num_templates, len(there), losers)


def check_alias(target: Target, alias: str) -> None:
    """Raise AlreadyExistsError where a gallery has that name: no alias can have it."""
    there = target.find(alias)
    if there is not None and there.gallery_id == alias:
        raise AlreadyExistsError(
            f"{alias!r} is the own name of a gallery, not an alias", hint="Choose another --alias."
        )


def write_report(path: Path, moved: Moved) -> None:
    """Write whose templates could not be moved, as CSV for people and spreadsheets.

    Raises InvalidInputError, StorageFullError.
    """
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", newline="", write_through=True)
        cells = csv.writer(text)
        cells.writerow(COLUMNS)
        for one in moved.losers:
            cells.writerow([safe_cell(one.identity_id), one.num_templates, one.num_moved, one.reason.value])
        text.detach()


def settings_for(old: GallerySettings, threshold: float | None) -> GallerySettings:
    """Settings of a gallery that moves to another network.

    Wished rates stay, since they are of any network, unless there is a `threshold` in their place, which
    needs no calibration of the new one.
    """
    if threshold is None:
        return dataclasses.replace(old, threshold=None, keep_crops=True)
    return GallerySettings(
        old.templates_per_identity_max,
        threshold,
        keep_crops=True,
        ambiguity=old.ambiguity,
        has_probe_statistics=old.has_probe_statistics,
    )


def _opened(
    target: Target, old: GalleryInfo, to: str, contract: EmbeddingContract, threshold: float | None
) -> GalleryInfo:
    new = target.find(to)
    if new is None:
        target.create(to, contract, settings_for(old.settings, threshold))
        new = target.find(to)
        assert new is not None, "it was made just now"
    if new.gallery_id != to or new.gallery_id == old.gallery_id:
        raise InvalidInputError(
            f"{to!r} means gallery {new.gallery_id!r}: the new gallery needs a name of its own",
            hint="Choose another --to, and move an alias to it by --alias.",
        )
    if new.contract.digest != contract.digest:
        raise ContractMismatchError(
            f"gallery {to!r} holds templates of {new.contract.name!r} with {new.contract.dimension} numbers, "
            f"these are of {contract.name!r} with {contract.dimension}",
            hint="Choose another --to.",
        )
    return new


def _move(
    target: Target, new: GalleryInfo, page: Page, there: dict[str, int], embed: CropEmbedder
) -> Iterator[Loser]:
    """Enroll those of a page who are not in the new gallery with all their crops; yields the losers."""
    todo = [
        (identity, templates)
        for identity, templates in page
        if there.get(identity.identity_id, -1) < sum(bool(template.crop) for template in templates)
    ]
    vectors = iter(embed([template.crop for _, templates in todo for template in templates]))
    limit = new.settings.templates_per_identity_max
    made = {
        identity.identity_id: _within(limit, templates, [next(vectors) for _ in templates])
        for identity, templates in todo
    }
    enrollments = [
        _enrollment(identity, templates, made[identity.identity_id], with_crops=new.settings.keep_crops)
        for identity, templates in todo
    ]
    answers = zip(enrollments, target.enroll(new.gallery_id, enrollments), strict=True)
    outcomes = {one.identity_id: (len(one.templates), outcome) for one, outcome in answers}
    for identity, templates in page:
        num_there = there.get(identity.identity_id, 0)
        num_given, outcome = outcomes.get(identity.identity_id, (0, None))
        losses = [one for one in made.get(identity.identity_id, ()) if isinstance(one, Loss)]
        if identity.identity_id not in made:
            losses = [Loss.NO_CROP for template in templates if not template.crop]
        if isinstance(outcome, EngineError):
            yield Loser(identity.identity_id, len(templates), num_there, Loss.REFUSED)
        elif losses:
            yield Loser(identity.identity_id, len(templates), max(num_there, num_given), losses[0])


def _within(
    limit: int, templates: Sequence[StoredTemplate], made: Sequence[Vector | Loss]
) -> list[Vector | Loss]:
    """The same with all but the `limit` best lost: one too many, and a gallery refuses all of them."""
    places = [place for place, one in enumerate(made) if not isinstance(one, Loss)]
    # Of equal quality the oldest goes first, as where a gallery evicts: sorting is stable.
    places.sort(key=lambda place: templates[place].quality)
    lost = set(places[: max(0, len(places) - limit)])
    return [Loss.OVER_LIMIT if place in lost else one for place, one in enumerate(made)]


def _enrollment(
    identity: Identity,
    templates: Sequence[StoredTemplate],
    made: Sequence[Vector | Loss],
    *,
    with_crops: bool,
) -> Enrollment:
    return Enrollment(
        identity.identity_id,
        tuple(
            Template(vector, old.quality, old.source, old.crop if with_crops else b"")
            for old, vector in zip(templates, made, strict=True)
            if not isinstance(vector, Loss)
        ),
        identity.attributes,
        identity.expire_time,
    )


def _all_lost(pages: Iterable[Page]) -> list[Loser]:
    return [
        Loser(identity.identity_id, len(templates), 0, Loss.NO_CROP)
        for page in pages
        for identity, templates in page
        if templates
    ]
