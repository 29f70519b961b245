"""A gallery as a dict of lists, compared in float64: the slow and obvious truth that tests compare with.

Knows no files, no threads and no index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.errors import EngineError, IdentityNotFoundError, InvalidInputError, TemplateLimitError
from engine.limits import ATTRIBUTES_BYTES_MAX
from engine.types import (
    SEARCH_DEFAULTS,
    Enrollment,
    EnrollResult,
    Fusion,
    SearchOptions,
    Template,
    Vector,
    Vectors,
)


def unit_vectors(rng: np.random.Generator, num: int, dimension: int) -> Vectors:
    """Random unit vectors float32[num, dimension]."""
    wide = rng.normal(size=(num, dimension))
    return np.ascontiguousarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


def cosine(one: Vector, other: Vector) -> float:
    """Cosine of two unit vectors, in float64."""
    return max(-1.0, min(1.0, float(one.astype(np.float64) @ other.astype(np.float64))))


@dataclass(frozen=True, eq=False)
class NaiveTemplate:
    """One template."""

    template_id: int
    template: Template

    @property
    def data(self) -> bytes:
        """The vector's bytes."""
        return self.template.vector.tobytes()

    @property
    def quality(self) -> float:
        """As float32 holds it."""
        return float(np.float32(self.template.quality))


@dataclass
class NaiveIdentity:
    """One identity."""

    attributes: dict[str, str] = field(default_factory=dict)
    expire_time: float | None = None
    templates: list[NaiveTemplate] = field(default_factory=list)

    def is_over(self, now: float) -> bool:
        """Whether its time is over."""
        return self.expire_time is not None and self.expire_time <= now


class NaiveGallery:
    """The model: whatever the engine answers must equal what this answers."""

    def __init__(self, templates_max: int = 16):
        self.templates_max = templates_max
        self.identities: dict[str, NaiveIdentity] = {}
        self.template_id_last = 0
        self.sequence = 0

    def copy(self) -> NaiveGallery:
        """A model that changes on its own from here on."""
        other = NaiveGallery(self.templates_max)
        other.sequence, other.template_id_last = self.sequence, self.template_id_last
        for identity_id, one in self.identities.items():
            other.identities[identity_id] = NaiveIdentity(
                dict(one.attributes), one.expire_time, list(one.templates)
            )
        return other

    def living(self, now: float) -> dict[str, NaiveIdentity]:
        """Whoever can be found, in order of the bytes of their ids."""
        ids = sorted(self.identities, key=str.encode)
        return {name: self.identities[name] for name in ids if not self.identities[name].is_over(now)}

    def find(self, identity_id: str, now: float) -> NaiveIdentity | None:
        """One identity, None where it is not enrolled or its time is over."""
        one = self.identities.get(identity_id)
        return None if one is None or one.is_over(now) else one

    def get(self, identity_id: str, now: float) -> NaiveIdentity:
        """One identity. Raises IdentityNotFoundError."""
        one = self.find(identity_id, now)
        if one is None:
            raise IdentityNotFoundError(identity_id)
        return one

    def enroll(self, enrollments: Sequence[Enrollment], now: float) -> list[EnrollResult | EngineError]:
        """Enroll in one sequence, which counts only where something changed."""
        before = self.sequence
        self.sequence += 1
        outcomes: list[EnrollResult | EngineError] = []
        is_changed = False
        for enrollment in enrollments:
            try:
                outcome, changed = self._enroll(enrollment, now)
            except EngineError as error:
                outcomes.append(error)
                continue
            outcomes.append(outcome)
            is_changed |= changed
        if is_changed:
            return outcomes
        self.sequence = before
        return [
            EnrollResult(before, *_fields(outcome)) if isinstance(outcome, EnrollResult) else outcome
            for outcome in outcomes
        ]

    def _enroll(self, enrollment: Enrollment, now: float) -> tuple[EnrollResult, bool]:
        old = self.find(enrollment.identity_id, now)
        base = old or NaiveIdentity()
        given, new = self._given(base.templates, enrollment.templates)
        kept = [one for one in base.templates if not enrollment.replace or one in given]
        pool = kept + new
        num_over = len(pool) - self.templates_max if new else 0
        evicted: list[NaiveTemplate] = []
        if num_over > 0:
            if not enrollment.evict_lowest_quality:
                raise TemplateLimitError("full")
            evicted = sorted(pool, key=lambda one: one.quality)[:num_over]
        attributes = {} if enrollment.replace else dict(base.attributes)
        attributes.update(enrollment.attributes)
        if sum(len(text.encode()) for pair in attributes.items() for text in pair) > ATTRIBUTES_BYTES_MAX:
            raise InvalidInputError("attributes")
        expire_time = enrollment.expire_time
        if expire_time is None and not enrollment.replace:
            expire_time = base.expire_time
        staying = [one for one in pool if one not in evicted]
        numbered = {id(one): one for one in staying}
        for one in staying:
            if one in new:
                self.template_id_last += 1
                numbered[id(one)] = NaiveTemplate(self.template_id_last, one.template)
        after = NaiveIdentity(attributes, expire_time, [numbered[id(one)] for one in staying])
        self.identities[enrollment.identity_id] = after
        result = EnrollResult(
            self.sequence,
            enrollment.identity_id,
            tuple(numbered[id(one)].template_id if one in staying else 0 for one in given),
            sum(one in new for one in staying),
            len(given) - len(new),
            len(evicted),
            old is None,
            len(base.templates) - len(kept),
        )
        return result, old is None or _content(old) != _content(after)

    def _given(
        self, existing: Sequence[NaiveTemplate], templates: Sequence[Template]
    ) -> tuple[list[NaiveTemplate], list[NaiveTemplate]]:
        """For each template given its twin or itself, and those that are new."""
        given: list[NaiveTemplate] = []
        new: list[NaiveTemplate] = []
        for position, template in enumerate(templates):
            data = template.vector.tobytes()
            twin = next((one for one in (*existing, *new) if one.data == data), None)
            if twin is None:
                twin = NaiveTemplate(-1 - position, template)
                new.append(twin)
            given.append(twin)
        return given, new

    def update(self, identity_id: str, now: float, attributes: dict[str, str], remove: Sequence[str]) -> None:
        """Change attributes."""
        one = self.get(identity_id, now)
        merged = {name: value for name, value in one.attributes.items() if name not in remove} | attributes
        if merged != one.attributes:
            one.attributes = merged
            self.sequence += 1

    def set_expire_time(self, identity_id: str, now: float, expire_time: float | None) -> None:
        """Change when an identity's time is over."""
        one = self.get(identity_id, now)
        if one.expire_time != expire_time:
            one.expire_time = expire_time
            self.sequence += 1

    def remove(
        self, identity_ids: Sequence[str], now: float, *, erase: bool = False
    ) -> tuple[list[str], int]:
        """Forget identities; returns who was not there, and the number of templates that went.

        Who has expired is not there, but is still erased.
        """
        missing, num_removed, num_templates = [], 0, 0
        for identity_id in dict.fromkeys(identity_ids):
            if (identity_id in self.identities) if erase else (self.find(identity_id, now) is not None):
                num_templates += len(self.identities.pop(identity_id).templates)
                num_removed += 1
            else:
                missing.append(identity_id)
        self.sequence += num_removed > 0
        return missing, num_templates

    def remove_template(self, identity_id: str, template_id: int, now: float) -> None:
        """Forget one template, which must be there."""
        one = self.get(identity_id, now)
        one.templates = [item for item in one.templates if item.template_id != template_id]
        self.sequence += 1

    def purge(self, now: float) -> None:
        """Forget whose time is over."""
        living = self.living(now)
        self.sequence += len(living) < len(self.identities)
        self.identities = dict(living)

    def identify(
        self, probe: Vector, k: int, now: float, options: SearchOptions = SEARCH_DEFAULTS
    ) -> list[tuple[str, float]]:
        """The k nearest identities that match the filter; ties by the bytes of the ids.

        By their best templates or, with fusion MEAN, by the mean over all of each one's: of everybody where
        exact, else of the 4 x k with the best templates.
        """
        similarities = {
            name: [cosine(probe, item.template.vector) for item in one.templates]
            for name, one in self.living(now).items()
            if one.templates and options.filter.items() <= one.attributes.items()
        }
        best = _ranked({name: max(values) for name, values in similarities.items()})
        if options.fusion is Fusion.MAX:
            return best[:k]
        compared = [name for name, _ in (best if options.exact else best[: 4 * k])]
        return _ranked({name: math.fsum(similarities[name]) / len(similarities[name]) for name in compared})[
            :k
        ]


def _ranked(similarities: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(similarities.items(), key=lambda pair: (-pair[1], pair[0].encode()))


def _content(one: NaiveIdentity) -> tuple[dict[str, str], float | None, list[int]]:
    return one.attributes, one.expire_time, [item.template_id for item in one.templates]


def _fields(result: EnrollResult) -> tuple[str, tuple[int, ...], int, int, int, bool]:
    return (
        result.identity_id,
        result.template_ids,
        result.num_added,
        result.num_ignored,
        result.num_evicted,
        result.is_new_identity,
    )
