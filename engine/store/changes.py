"""What a write changes: enroll, update, remove, as functions of an open transaction.

Each function makes one sequence, or none where nothing changes. Knows nothing of threads, files or search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine import rules
from engine.errors import EngineError, IdentityNotFoundError, TemplateNotFoundError
from engine.store.enroll_plan import Plan, distinct, holds, make_plan
from engine.store.records import IdentityRecord, Journal, State, TemplateRecord, format_of
from engine.store.tables import Reader, Writer
from engine.types import (
    Enrollment,
    EnrollResult,
    GalleryInfo,
    GallerySettings,
    Identity,
    RemoveResult,
    StoredTemplate,
    Template,
    Vector,
)

NO_EXPIRY = 0
EVICTED = 0
"""Id given for a template that was evicted by the very enrollment that brought it."""


@dataclass
class _Change:
    """One sequence in the making."""

    writer: Writer
    now_ms: int
    state: State
    added: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    is_erase: bool = False

    @property
    def sequence(self) -> int:
        return self.state.sequence + 1

    def add_template(self, identity_number: int, template: Template) -> int:
        self.state.template_id_last += 1
        self.state.num_templates += 1
        template_id = self.state.template_id_last
        record = TemplateRecord(
            identity_number, self.now_ms, template.quality, template.source, template.vector
        )
        self.writer.put_template(template_id, record)
        if template.crop:
            self.writer.put_crop(template_id, template.crop)
        self.added.append(template_id)
        return template_id

    def remove_template(self, template_id: int) -> None:
        self.writer.delete_template(template_id)
        self.state.num_templates -= 1
        self.removed.append(template_id)

    def remove_identity(self, identity_id: str, record: IdentityRecord) -> None:
        for template_id in record.template_ids:
            self.remove_template(template_id)
        self.writer.delete_identity(identity_id, record)
        self.state.num_identities -= 1

    def finish(self) -> int:
        """Write journal and counters; returns the new sequence."""
        self.state.sequence += 1
        if self.is_erase:
            self.state.erase_sequence = self.state.sequence
        self.writer.put_journal(self.state.sequence, Journal(self.added, self.removed))
        self.writer.put_state(self.state)
        return self.state.sequence


def live_identity(reader: Reader, identity_id: str, now_ms: int) -> IdentityRecord | None:
    """The identity's record; None where it is not enrolled or its time is over."""
    record = reader.identity(identity_id)
    if record is None or 0 < record.expire_ms <= now_ms:
        return None
    return record


def need_identity(reader: Reader, identity_id: str, now_ms: int) -> IdentityRecord:
    """As `live_identity`. Raises IdentityNotFoundError."""
    record = live_identity(reader, identity_id, now_ms)
    if record is None:
        raise IdentityNotFoundError(f"identity {identity_id[:80]!r} is not enrolled")
    return record


def describe(
    reader: Reader, identity_id: str, record: IdentityRecord, *, with_crops: bool = False
) -> tuple[Identity, tuple[StoredTemplate, ...]]:
    """An identity and its templates as plain values."""
    templates = []
    for template_id in record.template_ids:
        stored = reader.template(template_id)
        if stored is not None:
            create_time = stored.create_ms / 1e3
            crop = reader.crop(template_id) if with_crops else b""
            templates.append(
                StoredTemplate(template_id, stored.vector, stored.quality, stored.source, create_time, crop)
            )
    expire_time = record.expire_ms / 1e3 if record.expire_ms else None
    identity = Identity(
        identity_id, record.attributes, tuple(record.template_ids), record.create_ms / 1e3, expire_time
    )
    return identity, tuple(templates)


def describe_gallery(gallery_id: str, reader: Reader) -> GalleryInfo:
    """A gallery as its store says it is."""
    state = reader.state()
    return GalleryInfo(
        gallery_id,
        reader.contract(),
        reader.settings(),
        state.num_identities,
        state.num_templates,
        state.sequence,
        reader.create_time(),
    )


def enroll(
    writer: Writer, enrollments: Sequence[Enrollment], now_ms: int, templates_max: int
) -> list[EnrollResult | EngineError]:
    """Enroll identities, each with its own outcome, in one sequence.

    Of an item: TemplateLimitError, InvalidInputError where its attributes become too many. Raises
    StorageFullError.
    """
    writer.need_room()
    change = _Change(writer, now_ms, writer.state())
    changes_before = writer.num_changes
    outcomes: list[EnrollResult | EngineError] = []
    for enrollment in enrollments:
        changes_then = writer.num_changes
        try:
            outcomes.append(_enroll_one(change, enrollment, templates_max))
        except EngineError as error:
            if writer.num_changes != changes_then:
                raise  # half of it is written: only without the whole transaction is nothing of it left
            outcomes.append(error)
    if writer.num_changes == changes_before:
        # Nothing but errors and repetitions: the answers name the sequence that already shows it all.
        return [_at(outcome, change.state.sequence) for outcome in outcomes]
    change.finish()
    return outcomes


def _at(outcome: EnrollResult | EngineError, sequence: int) -> EnrollResult | EngineError:
    return dataclasses.replace(outcome, sequence=sequence) if isinstance(outcome, EnrollResult) else outcome


def _enroll_one(change: _Change, enrollment: Enrollment, templates_max: int) -> EnrollResult:
    writer = change.writer
    stored = writer.identity(enrollment.identity_id)
    expired = stored if stored and 0 < stored.expire_ms <= change.now_ms else None
    record = None if expired else stored
    plan = make_plan(writer, record, enrollment, templates_max)
    if record and not enrollment.replace:
        rules.check_attributes({**record.attributes, **enrollment.attributes})
    if expired:
        change.remove_identity(enrollment.identity_id, expired)
    if record is None:
        change.state.identity_number_last += 1
        change.state.num_identities += 1
        base = IdentityRecord(change.state.identity_number_last, change.now_ms, NO_EXPIRY, [], {})
    else:
        base = record
    added: dict[int, int] = {}
    for template in plan.given:
        if isinstance(template, Template) and not holds(plan.evicted, template) and id(template) not in added:
            added[id(template)] = change.add_template(base.number, template)
    dropped = [template_id for template_id in base.template_ids if template_id not in plan.kept]
    for template_id in dropped:
        change.remove_template(template_id)
    _put_missing_crops(writer, plan, enrollment)
    _put_merged(change, enrollment, record, base, plan.kept + list(added.values()))
    ids = tuple(
        (item if item in plan.kept else EVICTED) if isinstance(item, int) else added.get(id(item), EVICTED)
        for item in plan.given
    )
    num_twins = len(plan.given) - sum(isinstance(item, Template) for item in distinct(plan.given))
    return EnrollResult(
        change.sequence,
        enrollment.identity_id,
        ids,
        len(added),
        num_twins,
        len(plan.evicted),
        record is None,
        sum(not holds(plan.evicted, template_id) for template_id in dropped),
    )


def _put_missing_crops(writer: Writer, plan: Plan, enrollment: Enrollment) -> None:
    """Keep the crops of templates that were there already without one: they were enrolled as vectors."""
    for twin, template in zip(plan.given, enrollment.templates, strict=True):
        if template.crop and isinstance(twin, int) and twin in plan.kept and not writer.crop(twin):
            writer.put_crop(twin, template.crop)


def _put_merged(
    change: _Change,
    enrollment: Enrollment,
    record: IdentityRecord | None,
    base: IdentityRecord,
    template_ids: list[int],
) -> None:
    attributes = dict(enrollment.attributes)
    expire_ms = to_ms(enrollment.expire_time)
    if not enrollment.replace:
        attributes = {**base.attributes, **attributes}
        expire_ms = expire_ms or base.expire_ms
    merged = IdentityRecord(base.number, base.create_ms, expire_ms, template_ids, attributes)
    if merged != record:
        change.writer.put_identity(enrollment.identity_id, merged, record)


def update(
    writer: Writer,
    identity_id: str,
    now_ms: int,
    *,
    attributes: dict[str, str],
    expire_ms: int,
) -> int:
    """Set an identity's attributes and expiry; returns the sequence. Raises IdentityNotFoundError."""
    record = need_identity(writer, identity_id, now_ms)
    changed = IdentityRecord(record.number, record.create_ms, expire_ms, record.template_ids, attributes)
    change = _Change(writer, now_ms, writer.state())
    if changed == record:
        return change.state.sequence
    writer.put_identity(identity_id, changed, record)
    return change.finish()


def update_settings(writer: Writer, settings: GallerySettings) -> int:
    """Change a gallery's settings; returns the sequence."""
    state = writer.state()
    if writer.settings() == settings:
        return state.sequence
    writer.put_settings(settings)
    state.format = format_of(settings)
    return _Change(writer, 0, state).finish()


def remove_identities(
    writer: Writer, identity_ids: Sequence[str], now_ms: int, *, erase: bool
) -> tuple[RemoveResult, list[str], list[Vector]]:
    """Forget identities; returns what was removed, which ids were not enrolled, and the vectors removed.

    `erase` notes in the same transaction that an erasure must follow: of these, and of all that was removed
    or has expired before.
    """
    change = _Change(writer, now_ms, writer.state(), is_erase=erase)
    missing: list[str] = []
    vectors: list[Vector] = []
    num_removed = 0
    for identity_id in dict.fromkeys(identity_ids):
        record = writer.identity(identity_id) if erase else live_identity(writer, identity_id, now_ms)
        if record is None:
            missing.append(identity_id)
            continue
        _, templates = describe(writer, identity_id, record)
        vectors.extend(template.vector for template in templates)
        change.remove_identity(identity_id, record)
        num_removed += 1
    sequence = change.finish() if num_removed else change.state.sequence
    if erase and not num_removed and sequence:
        change.state.erase_sequence = sequence
        writer.put_state(change.state)
    return RemoveResult(sequence, num_removed, len(change.removed), is_erased=erase), missing, vectors


def remove_template(
    writer: Writer, identity_id: str, template_id: int, now_ms: int, *, erase: bool
) -> tuple[RemoveResult, list[Vector]]:
    """Forget one template; returns what was removed, and its vector.

    Raises IdentityNotFoundError, TemplateNotFoundError.
    """
    record = need_identity(writer, identity_id, now_ms)
    stored = writer.template(template_id)
    if template_id not in record.template_ids or stored is None:
        raise TemplateNotFoundError(f"identity {identity_id[:80]!r} has no template {template_id}")
    change = _Change(writer, now_ms, writer.state(), is_erase=erase)
    change.remove_template(template_id)
    rest = [other for other in record.template_ids if other != template_id]
    changed = IdentityRecord(record.number, record.create_ms, record.expire_ms, rest, record.attributes)
    writer.put_identity(identity_id, changed, record)
    sequence = change.finish()
    return RemoveResult(sequence, 0, 1, is_erased=erase), [stored.vector]


def remove_expired(writer: Writer, now_ms: int, limit: int) -> int:
    """Forget at most `limit` identities whose time is over; returns how many."""
    change = _Change(writer, now_ms, writer.state())
    num_removed = 0
    for identity_number in writer.expired(now_ms, limit):
        identity_id = writer.identity_id(identity_number)
        record = writer.identity(identity_id) if identity_id else None
        if identity_id and record:
            change.remove_identity(identity_id, record)
            num_removed += 1
    if num_removed:
        change.finish()
    return num_removed


def make_current(writer: Writer, generation: int, sequence: int) -> bool:
    """Make a built generation current and trim the journal that it covers; False where a newer one is."""
    state = writer.state()
    if sequence < state.generation_sequence or generation <= state.generation:
        return False
    state.generation, state.generation_sequence = generation, sequence
    writer.trim_journal(sequence)
    writer.put_state(state)
    return True


def next_generation(writer: Writer) -> int:
    """A number for a new generation, never given before."""
    state = writer.state()
    state.generation_last += 1
    writer.put_state(state)
    return state.generation_last


def to_ms(time_s: float | None) -> int:
    """Unix seconds to the milliseconds of records; None is NO_EXPIRY."""
    return NO_EXPIRY if time_s is None else max(1, round(time_s * 1e3))
