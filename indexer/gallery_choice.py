"""Which gallery a job fills: the one that is there, or a new one that is published when it is done."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from engine.errors import (
    AlreadyExistsError,
    ContractMismatchError,
    InvalidInputError,
    PreconditionError,
    UnavailableError,
)
from engine.types import EmbeddingContract, GalleryInfo, GallerySettings
from indexer.plan import Plan
from indexer.record import JobFolder, JobSettings
from indexer.target import Target

GALLERY_CHARACTERS_MAX = 45
"""Of the name asked for, in the name of a new gallery."""


class GalleryChoice:
    """Of one job; what was decided stands in the job's state."""

    def __init__(self, folder: JobFolder, settings: JobSettings, target: Target, say: Callable[[str], None]):
        self._folder, self._settings, self._target, self._say = folder, settings, target, say

    def look(self) -> None:
        """See whether the gallery of earlier runs is still there and still meant; forget it where not."""
        name, state, target = self._settings.gallery, self._folder.state, self._target
        if not state.gallery_id:
            return
        mine, meant = target.find(state.gallery_id), target.find(name)
        if mine is None or state.create_time not in {0.0, mine.create_time}:
            self._folder.forget_gallery()
        elif meant is None or meant.gallery_id != mine.gallery_id:
            if not state.is_done and state.is_new:
                return  # it is not published yet
            if meant is None or self._settings.replace:
                state.is_done = False
                state.before = meant.gallery_id if meant else ""
                # Not saved yet: until something else is, the next run looks and finds the same.
                state.done = [step for step in state.done if step != "publish"]
                state.is_new = True
            else:
                self._folder.forget_gallery()

    def will_keep_crops(self, settings: GallerySettings) -> bool:
        """Whether the gallery that `open` will decide on keeps crops."""
        there = self._target.find(self._folder.state.gallery_id or self._settings.gallery)
        is_there = there is not None and (bool(self._folder.state.gallery_id) or not self._settings.replace)
        return there.settings.keep_crops if there is not None and is_there else settings.keep_crops

    def open(self, planned: Plan, contract: EmbeddingContract | None, settings: GallerySettings) -> None:
        """Decide on the gallery, once: the one there, or a new one under a name of its own.

        Raises AlreadyExistsError, ContractMismatchError, InvalidInputError.
        """
        name, state, target = self._settings.gallery, self._folder.state, self._target
        there = target.find(state.gallery_id or name)
        is_begun = bool(state.gallery_id)
        is_new = not is_begun and (there is None or self._settings.replace)
        contract = contract or (there.contract if there else None)
        if there is not None and not is_new:
            self._check(planned, contract, there)
            if settings.keep_crops and not there.settings.keep_crops:
                raise InvalidInputError(
                    f"gallery {name!r} keeps no crops, and that cannot be changed",
                    hint="Leave --keep-crops out, choose another --gallery, or --replace it.",
                )
            state.gallery_id, state.create_time = there.gallery_id, there.create_time
            self._folder.save()
            return
        if there is not None and there.gallery_id == name:
            raise AlreadyExistsError(
                f"gallery {name!r} cannot be replaced: {name!r} is its own name, not an alias",
                hint="Choose another --gallery, or leave --replace out to add to this one.",
            )
        if contract is None:
            raise InvalidInputError(
                f"there is no gallery {name!r}, and nothing says what made the vectors of the source",
                hint="Give --contract NAME and --threshold SIMILARITY, or create the gallery first.",
            )
        self._check_dimension(planned, contract)
        # Where this is ended meanwhile, the next run finds an empty gallery, or none.
        state.before = there.gallery_id if there else ""
        state.gallery_id, state.create_time = self._free_name(), 0.0
        state.is_new = True
        self._folder.save()
        target.create(state.gallery_id, contract, settings)
        made = target.find(state.gallery_id)
        assert made is not None, "it was made just now"
        state.create_time = made.create_time
        self._folder.save()

    def _free_name(self) -> str:
        base = f"{self._settings.gallery[:GALLERY_CHARACTERS_MAX]}-{self._settings.id}"
        names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        return next(name for name in names if self._target.find(name) is None)

    def _check(self, planned: Plan, contract: EmbeddingContract | None, there: GalleryInfo) -> None:
        name = self._settings.gallery
        if contract is not None and contract.digest != there.contract.digest:
            raise ContractMismatchError(
                f"gallery {name!r} holds templates of {_told(there.contract)}, "
                f"these are of {_told(contract)}",
                hint="Choose another --gallery, or --replace it.",
            )
        self._check_dimension(planned, there.contract)
        if contract is not None and contract.threshold != there.contract.threshold:
            self._say(f"gallery {name!r} keeps its threshold, {there.contract.threshold:g}")

    def _check_dimension(self, planned: Plan, contract: EmbeddingContract) -> None:
        if planned.dimension not in {0, contract.dimension}:
            raise ContractMismatchError(
                f"the vectors have dimension {planned.dimension}, gallery {self._settings.gallery!r} holds "
                f"{contract.dimension}"
            )

    def publish(self) -> None:
        """Let the name asked for mean the new gallery.

        Raises PreconditionError where it is empty, or the name was given away meanwhile.
        """
        name, state = self._settings.gallery, self._folder.state
        if not state.is_new:
            return
        if not self.gallery().num_templates:
            raise PreconditionError(
                f"nothing of the source was loaded, so {name!r} is not published",
                hint="Look at the report of what was refused: identiface index report.",
            )
        meant = self._target.find(name)
        if meant is not None and meant.gallery_id not in {state.before, state.gallery_id}:
            raise PreconditionError(
                f"{name!r} means gallery {meant.gallery_id!r} since this job began to fill "
                f"{state.gallery_id!r}, which is not published",
                hint=f"To publish it all the same: identiface gallery alias {name} {state.gallery_id}.",
            )
        self._target.set_alias(name, state.gallery_id)

    def gallery(self) -> GalleryInfo:
        """The gallery as it is now. Raises UnavailableError where it is gone."""
        gallery = self._target.find(self._folder.state.gallery_id)
        if gallery is None:
            raise UnavailableError(
                f"gallery {self._folder.state.gallery_id!r} was deleted while the job ran",
                hint="Run it again: it begins with another.",
            )
        return gallery


def _told(contract: EmbeddingContract) -> str:
    return f"{contract.name!r} with {contract.dimension} numbers"
