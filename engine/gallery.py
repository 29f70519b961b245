"""One gallery: enroll, remove, identify, verify; the store and the index together.

A search first reads the store's counters; where a write has been committed since, the index catches up from
the journal. So a write that was answered is in the next search, whoever asks. Knows nothing of pictures or
the wire.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Unpack

from engine import rules
from engine.decision.calibration import Calibration
from engine.errors import EngineError, InvalidInputError, PreconditionError
from engine.gallery_settings import SettingsChanges, SettingsKeywords, merged_settings
from engine.housekeeping import Housekeeping
from engine.identification import Request, identify, population_of, verify
from engine.index.agreement import IndexStatus, measure, store_agreement
from engine.index.generation import read_manifest
from engine.index.search import Snapshot
from engine.index.settings import IndexSettings
from engine.limits import K_DEFAULT, RECALL_PROBES_MAX
from engine.live_index import LiveIndex, report_nothing
from engine.open_set_types import GalleryCalibration, GalleryThresholds
from engine.probe_statistics import ProbeCounters
from engine.store import changes
from engine.store.gallery_store import GalleryStore
from engine.store.tables import Writer
from engine.threshold_reports import calibrate, report
from engine.thresholds import Population, Thresholds
from engine.types import (
    SEARCH_DEFAULTS,
    AnsweredBefore,
    Consistency,
    EmbeddingContract,
    Enrollment,
    EnrollResult,
    GalleryInfo,
    GallerySettings,
    Identification,
    Identity,
    Receipt,
    RemoveResult,
    SearchOptions,
    StoredTemplate,
    Vector,
    Vectors,
    Verification,
)
from engine.vectors import check_units


class Gallery:
    """One open gallery. Thread-safe."""

    def __init__(
        self,
        gallery_id: str,
        store: GalleryStore,
        settings: IndexSettings,
        calibrations: Mapping[str, Calibration],
        counters: ProbeCounters | None = None,
    ):
        """`calibrations` by the digest of their contract; None for `counters`: no probe is counted."""
        self.gallery_id = gallery_id
        self._store = store
        self._counters = counters
        with store.read() as reader:
            self.contract: EmbeddingContract = reader.contract()
            self.keeps_crops = reader.settings().keep_crops
        self._thresholds = Thresholds(gallery_id, self.contract, calibrations.get(self.contract.digest))
        is_auto_off = self._thresholds.is_auto_off
        self._index = LiveIndex(store, self.contract, settings, is_auto_off=is_auto_off)
        self._housekeeping = Housekeeping(store, self._index)

    def info(self) -> GalleryInfo:
        """The gallery as it is now."""
        with self._store.read() as reader:
            return changes.describe_gallery(self.gallery_id, reader)

    def index_status(self) -> IndexStatus:
        """What the index is that this process answers searches from."""
        generation = self._now()[1].generation
        if generation is None:
            return IndexStatus()
        # Anew: another process may have measured it since it was opened.
        manifest = read_manifest(generation.folder)
        return IndexStatus(manifest.number, manifest.kind, manifest.agreement, generation.device)

    def generation(self) -> int:
        """Number of the current generation of the index; 0: none yet."""
        with self._store.read() as reader:
            return reader.state().generation

    def find_receipt(self, receipt: Receipt) -> bytes | None:
        """The first answer to this write, or None. Raises RequestIdReusedError for another body."""
        answer = self._store.find_receipt(receipt)
        if answer is not None:
            # An answer that says "erased" must be true also where a crash came before the erasure.
            self.erase()
        return answer

    def update(self, *, receipt: Receipt | None = None, **given: Unpack[SettingsKeywords]) -> GalleryInfo:
        """Change the settings given; returns the gallery with the sequence of the change.

        Raises InvalidInputError, see `merged_settings`; PreconditionError where a rate is given and there is
        no calibration of the gallery's contract.
        """

        def apply(writer: Writer) -> GalleryInfo:
            old = writer.settings()
            new = merged_settings(old, SettingsChanges(**given))
            self._thresholds.check(new, old)
            changes.update_settings(writer, new)
            return changes.describe_gallery(self.gallery_id, writer)

        return self._store.write(apply, receipt=receipt)

    def enroll(
        self,
        enrollments: Sequence[Enrollment],
        *,
        receipt: Receipt | None = None,
        deadline: float | None = None,
    ) -> list[EnrollResult | EngineError]:
        """Enroll identities in one commit, each with its own outcome, in order.

        Of an item: InvalidIdError, InvalidInputError, InvalidVectorError, TemplateLimitError.
        `receipt.encode` is given (sequence, outcomes). Raises what GalleryStore.write raises.
        """
        now_ms = self._store.now_ms()
        refused = {row: error for row, item in enumerate(enrollments) if (error := self._problem(item))}
        accepted = [item for row, item in enumerate(enrollments) if row not in refused]
        if not accepted and receipt is None:
            return list(refused.values())

        def apply(writer: Writer) -> tuple[int, list[EnrollResult | EngineError]]:
            outcomes = iter(
                changes.enroll(writer, accepted, now_ms, writer.settings().templates_per_identity_max)
            )
            merged = [refused.get(row) or next(outcomes) for row in range(len(enrollments))]
            return writer.state().sequence, merged

        num_records = sum(max(1, len(item.templates)) for item in accepted)
        return self._store.write(apply, num_records=num_records, deadline=deadline, receipt=receipt)[1]

    def get_identity(
        self, identity_id: str, *, with_crops: bool = False
    ) -> tuple[Identity, tuple[StoredTemplate, ...]]:
        """One identity and its templates. Raises IdentityNotFoundError."""
        with self._store.read() as reader:
            record = changes.need_identity(reader, identity_id, self._store.now_ms())
            return changes.describe(reader, identity_id, record, with_crops=with_crops)

    def list_identities(
        self, *, after: str = "", limit: int = 100, with_crops: bool = False
    ) -> list[tuple[Identity, tuple[StoredTemplate, ...]]]:
        """At most `limit` identities with ids after `after`, in order of the bytes of their ids."""
        now_ms = self._store.now_ms()
        listed: list[tuple[Identity, tuple[StoredTemplate, ...]]] = []
        with self._store.read() as reader:
            for identity_id, record in reader.identities(after):
                if 0 < record.expire_ms <= now_ms:
                    continue
                if len(listed) == limit:
                    break
                listed.append(changes.describe(reader, identity_id, record, with_crops=with_crops))
        return listed

    def update_identity(
        self,
        identity_id: str,
        *,
        attributes: dict[str, str],
        remove_attributes: Sequence[str],
        expire_time: float | None,
        clear_expire_time: bool,
        receipt: Receipt | None = None,
        deadline: float | None = None,
    ) -> tuple[int, Identity, tuple[StoredTemplate, ...]]:
        """Change attributes and expiry; returns the sequence and the identity.

        Raises IdentityNotFoundError, InvalidInputError.
        """
        if clear_expire_time and expire_time is not None:
            raise InvalidInputError("expire_time and clear_expire_time were given together; choose one")
        rules.check_expire_time(expire_time)
        now_ms = self._store.now_ms()

        def apply(writer: Writer) -> tuple[int, Identity, tuple[StoredTemplate, ...]]:
            record = changes.need_identity(writer, identity_id, now_ms)
            kept = {name: value for name, value in record.attributes.items() if name not in remove_attributes}
            merged = {**kept, **attributes}
            rules.check_attributes(merged)
            expire_ms = record.expire_ms if expire_time is None else changes.to_ms(expire_time)
            sequence = changes.update(
                writer,
                identity_id,
                now_ms,
                attributes=merged,
                expire_ms=changes.NO_EXPIRY if clear_expire_time else expire_ms,
            )
            identity, templates = changes.describe(
                writer, identity_id, changes.need_identity(writer, identity_id, now_ms)
            )
            return sequence, identity, templates

        return self._store.write(apply, receipt=receipt, deadline=deadline)

    def remove_identities(
        self,
        identity_ids: Sequence[str],
        *,
        erase: bool = False,
        must_exist: bool = False,
        receipt: Receipt | None = None,
        deadline: float | None = None,
    ) -> tuple[RemoveResult, list[str]]:
        """Forget identities in one commit; returns what was removed and the ids that were not enrolled.

        With `must_exist` such an id is IdentityNotFoundError. With `erase` the answer comes after no file of
        the gallery holds vectors any more that were removed, by this call or earlier; then `must_exist` does
        not count, since who was removed before can still be erased.
        """
        removed: list[Vector] = []

        def apply(writer: Writer) -> tuple[RemoveResult, list[str]]:
            if must_exist and not erase:
                for identity_id in identity_ids:
                    changes.need_identity(writer, identity_id, self._store.now_ms())
            result, missing, vectors = changes.remove_identities(
                writer, identity_ids, self._store.now_ms(), erase=erase
            )
            removed[:] = vectors
            return result, missing

        with self._erased_behind(removed, erase=erase):
            return self._store.write(apply, num_records=len(identity_ids), receipt=receipt, deadline=deadline)

    def remove_template(
        self,
        identity_id: str,
        template_id: int,
        *,
        erase: bool = False,
        receipt: Receipt | None = None,
        deadline: float | None = None,
    ) -> RemoveResult:
        """Forget one template. Raises IdentityNotFoundError, TemplateNotFoundError."""
        removed: list[Vector] = []

        def apply(writer: Writer) -> RemoveResult:
            result, vectors = changes.remove_template(
                writer, identity_id, template_id, self._store.now_ms(), erase=erase
            )
            removed[:] = vectors
            return result

        with self._erased_behind(removed, erase=erase):
            return self._store.write(apply, receipt=receipt, deadline=deadline)

    def erase(self, removed: Sequence[Vector] = ()) -> None:
        """Where an erasure was promised and not yet done, do it; see `Housekeeping.erase`."""
        self._housekeeping.erase(removed)

    def identify(
        self,
        probes: Vectors,
        k: int = K_DEFAULT,
        *,
        threshold: float | None = None,
        deadline: float | None = None,
        options: SearchOptions = SEARCH_DEFAULTS,
    ) -> list[Identification]:
        """Search for every probe float32[n, d] of unit length; one answer each, in order.

        Raises InvalidVectorError for probes of another shape or length, InvalidInputError for k, threshold or
        filter out of range, DeadlineError (`deadline` is of time.monotonic, seconds), PreconditionError where
        the gallery has a target_fpir and its contract no calibration, and what `LiveIndex.view` raises.
        """
        rules.check_k(k)
        rules.check_threshold(threshold)
        rules.check_attributes(options.filter, "filter")
        check_units(probes, self.contract.dimension)
        request = Request(k, options, threshold, self._store.now_ms(), deadline)
        with self._index.view(options.consistency) as (reader, snapshot):
            settings = reader.settings()
            answers = identify((reader, snapshot), self._thresholds, settings, probes, request)
        if settings.has_probe_statistics and self._counters is not None:
            counter = self._counters.of(self.gallery_id)
            for answer in answers:
                counter.count(answer, is_size_known=len(options.filter) < 2)
        return answers

    def verify(self, probe: Vector, identity_id: str, *, threshold: float | None = None) -> Verification:
        """Compare a probe with an identity's templates; the best one counts.

        Raises IdentityNotFoundError; PreconditionError where the identity has no templates, or the gallery
        has a target_fmr and its contract no calibration.
        """
        rules.check_threshold(threshold)
        request = Request(1, SEARCH_DEFAULTS, threshold, self._store.now_ms(), None)
        with self._store.read() as reader:
            return verify(reader, self._thresholds, probe, identity_id, request)

    def build(self, progress: Callable[[int, int], None]) -> tuple[int, int]:
        """Build a new generation; see `LiveIndex.build`. GalleryNotFoundError where the gallery is gone."""
        with self._store.unless_deleted():
            return self._index.build(progress)

    def measure_recall(
        self, num_probes: int, seed: int, progress: Callable[[int, int], None] = report_nothing
    ) -> IndexStatus:
        """Measure how often a default search finds what an exact scan finds, and keep it with the index.

        `progress(done, total)` counts probes; what it raises ends the work. Raises InvalidInputError for
        `num_probes` out of range, PreconditionError where there is no generation with templates yet,
        DataFolderError.
        """
        if not 1 <= num_probes <= RECALL_PROBES_MAX:
            raise InvalidInputError(f"num_probes is {num_probes}, it must be 1 to {RECALL_PROBES_MAX}")
        generation = self._now()[1].generation
        if generation is None or not generation.num_rows:
            raise PreconditionError(
                f"gallery {self.gallery_id!r} has no index with templates yet", hint="Build its index first."
            )
        agreement = measure(generation, num_probes, seed, progress)
        manifest = store_agreement(generation.folder, agreement)
        return IndexStatus(manifest.number, manifest.kind, agreement, generation.device)

    def thresholds(self) -> GalleryThresholds:
        """By which thresholds probes are decided now, and what speaks against them."""
        settings, _, population = self._now()
        return report(self._thresholds, settings, population)

    def has_disagreement(self) -> bool:
        """Whether its own people and the calibration disagree on the target rate, beyond both intervals."""
        settings, snapshot, _ = self._now()
        target = settings.target_fpir
        compared = target and self._thresholds.comparison(snapshot.generation, target)
        return bool(compared and compared.is_disagreement)

    def calibrate(
        self, target_fpir: float | None, progress: Callable[[int, int], None] = report_nothing
    ) -> GalleryCalibration:
        """Find the threshold for a target rate, also by the gallery's own people, measured now.

        None: the gallery's target rate. `progress(done, total)` counts people; what it raises ends the work.
        Raises InvalidInputError for a rate that is none, PreconditionError where there is neither a
        calibration nor people enough.
        """
        settings, snapshot, population = self._now()
        return calibrate(self._thresholds, settings, population, snapshot, target_fpir, progress)

    def refresh(self) -> None:
        """Follow what other processes wrote: new generations, epochs and rows of the journal."""
        self._index.refresh()
        settings, snapshot, _ = self._now()
        if self._counters is not None and not settings.has_probe_statistics:
            # Another process may have been told so.
            self._counters.forget(self.gallery_id)
        self._thresholds.prepare(settings, snapshot.generation)

    def maintain(self, progress: Callable[[int, int], None] = report_nothing) -> None:
        """One step of housekeeping; see `Housekeeping.maintain`. Errors as those of `build`."""
        with self._store.unless_deleted():
            self._housekeeping.maintain(progress)

    def close(self) -> None:
        """Finish waiting writes, end a build under way, and close the files."""
        self._index.close()
        self._store.close()
        self._housekeeping.close()

    def _now(self) -> tuple[GallerySettings, Snapshot, Population]:
        with self._store.read() as reader:
            snapshot = self._index.current(reader, Consistency.EVENTUAL)
            return reader.settings(), snapshot, population_of(reader, snapshot)

    @contextlib.contextmanager
    def _erased_behind(self, removed: Sequence[Vector], *, erase: bool) -> Iterator[None]:
        """Around a removal: where asked for, erase before the answer, also a repeated one, is given."""
        try:
            yield
        except AnsweredBefore:
            if erase:
                self.erase()
            raise
        if erase:
            self.erase(removed)

    def _problem(self, enrollment: Enrollment) -> EngineError | None:
        try:
            rules.check_enrollment(enrollment, self.contract.dimension, keeps_crops=self.keeps_crops)
        except EngineError as error:
            return error
        return None
