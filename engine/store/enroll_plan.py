"""What enrolling one identity will change, decided before anything is written. Changes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.errors import TemplateLimitError
from engine.store.records import IdentityRecord, TemplateRecord
from engine.store.tables import Reader
from engine.types import Enrollment, Template, Vector

TWIN_DIFFERENCE_MAX = 1e-6
"""Most by which an element of one picture's template differs from batch to batch."""


@dataclass
class Plan:
    """Of one identity."""

    given: list[int | Template] = field(default_factory=list)
    """For each template given: the id of its twin, or itself."""
    kept: list[int] = field(default_factory=list)
    evicted: list[int | Template] = field(default_factory=list)


def make_plan(
    reader: Reader, record: IdentityRecord | None, enrollment: Enrollment, templates_max: int
) -> Plan:
    """Decide; `record` is the identity as it is, None where it is new. Raises TemplateLimitError."""
    existing: dict[int, TemplateRecord] = {}
    for template_id in record.template_ids if record else ():
        stored = reader.template(template_id)
        if stored is not None:
            existing[template_id] = stored
    twins: list[tuple[Vector, int | Template]] = [
        (stored.vector, template_id) for template_id, stored in existing.items()
    ]
    plan = Plan()
    for template in enrollment.templates:
        twin = next((item for vector, item in twins if is_twin(vector, template.vector)), template)
        if twin is template:
            twins.append((template.vector, template))
        plan.given.append(twin)
    if enrollment.replace:
        plan.kept = [template_id for template_id in existing if template_id in plan.given]
    else:
        plan.kept = list(existing)
    new = [item for item in distinct(plan.given) if isinstance(item, Template)]
    num_over = len(plan.kept) + len(new) - templates_max
    # Without new templates nothing is over the limit that was not before, when the limit was higher.
    if new and num_over > 0:
        if not enrollment.evict_lowest_quality:
            raise TemplateLimitError(
                f"identity {enrollment.identity_id[:80]!r} would have {len(plan.kept) + len(new)} templates, "
                f"the gallery allows {templates_max}"
            )
        # Of equal quality the oldest goes first: sorting is stable, and old ones come first.
        ranked: list[tuple[float, int | Template]] = [(existing[kept].quality, kept) for kept in plan.kept]
        # As the store will hold it, or equal qualities would not be equal.
        ranked += [(float(np.float32(template.quality)), template) for template in new]
        ranked.sort(key=lambda pair: pair[0])
        plan.evicted = [item for _, item in ranked[:num_over]]
        plan.kept = [kept for kept in plan.kept if not holds(plan.evicted, kept)]
    return plan


def is_twin(one: Vector, other: Vector) -> bool:
    """Whether two templates are one: equal but for the rounding of the batch that they were embedded in."""
    return bool(np.abs(one - other).max(initial=0.0) <= TWIN_DIFFERENCE_MAX)


def holds(items: Sequence[int | Template], wanted: int | Template) -> bool:
    """Whether `wanted` is one of the items."""
    # By identity: comparing templates by value would compare arrays.
    return any(item is wanted or (isinstance(item, int) and item == wanted) for item in items)


def distinct(items: Sequence[int | Template]) -> list[int | Template]:
    """The items without repetitions, in order."""
    seen: dict[int, int | Template] = {}
    for position, item in enumerate(items):
        seen.setdefault(id(item) if isinstance(item, Template) else -position - 1, item)
    return list(seen.values())
