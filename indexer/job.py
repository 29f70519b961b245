"""A bulk job: plan, embed, load, build, verify, publish. Kill it at any moment and run it again.

A shard that is loaded twice changes nothing: its templates are byte-equal to those there. A new gallery is
filled and built under a name of its own, and published at the end by an alias: nobody searches half of it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from engine.errors import EngineError, PreconditionError
from engine.types import EmbeddingContract, GallerySettings
from engine.vectors import units
from indexer import judge, plan
from indexer.check import Sample, verify
from indexer.estimate import estimate, refuse_if_full
from indexer.fault import refuse_fault
from indexer.gallery_choice import GalleryChoice
from indexer.histogram import SimilarityHistogram
from indexer.items import Block, PictureSource, VectorSource
from indexer.load import digest_of, load_block, load_pictures, read_rows
from indexer.mapper import PictureMapper
from indexer.progress import Progress
from indexer.record import JobFolder, JobSettings, Judged, Loaded
from indexer.report import write_report
from indexer.runners import Runner
from indexer.target import Target

PROBES_PER_SHARD = 16
"""Templates of a shard that are searched for when all is loaded."""
SHARDS_SEARCHED_MAX = 125
EXPIRING_S = 3600.0
"""Identities that expire so soon, or have, are not searched for."""


@dataclass(frozen=True)
class Summary:
    """What a job has done."""

    job_id: str
    gallery_id: str
    num_items: int
    num_refused: int
    num_flagged: int
    num_templates: int
    """Of the gallery."""
    seconds: dict[str, float]
    """Of each step."""
    is_unchanged: bool
    """Whether there was nothing to do."""
    report: Path


@dataclass(frozen=True)
class Pictures:
    """A source of pictures and what maps them."""

    source: PictureSource
    mapper: PictureMapper
    runner: Runner
    num_workers: int = 1
    """For the estimate."""

    def is_same(self, folder: JobFolder, number: int) -> bool:
        """Whether the pictures of a shard that is embedded are those that were read then."""
        for item, outcome in zip(folder.items(number), folder.outcomes(number), strict=True):
            try:
                digest = hashlib.sha256(self.source.read(item)).digest()
            except (OSError, EngineError):
                digest = b""
            if outcome.sha256 and digest != outcome.sha256:
                return False
        return True


class Job:
    """One job, to be run while its folder is locked."""

    def __init__(self, folder: JobFolder, settings: JobSettings, target: Target, say: Callable[[str], None]):
        """`say` is given a line for whoever waits, now and then."""
        self._folder, self._settings, self._target, self._say = folder, settings, target, say
        self._choice = GalleryChoice(folder, settings, target, say)

    def run(
        self,
        source: Pictures | VectorSource,
        contract: Callable[[], EmbeddingContract | None],
        gallery_settings: GallerySettings,
        *,
        is_replanned: bool = False,
        is_reread: bool = False,
    ) -> Summary:
        """Do what is left to do.

        `contract` tells that of the templates, None where it is not known; it may take seconds. Raises
        InvalidInputError, PreconditionError, ContractMismatchError, StorageFullError, and what the target
        raises.
        """
        state = self._folder.state
        # Where all is done, or nothing is begun in a gallery that counts, a changed source spoils nothing.
        is_replanned |= state.is_done
        self._choice.look()
        is_replanned |= not state.gallery_id
        planned = self._plan(source, is_replanned=is_replanned, is_reread=is_reread)
        if state.is_done:
            return self._summary(planned, is_unchanged=True)
        num_loaded = planned.num_items - sum(map(planned.items_of, self._folder.left("loaded", planned)))
        keep_crops = self._choice.will_keep_crops(gallery_settings)
        refuse_if_full(planned, self._folder.path, self._target.data, num_loaded, keep_crops=keep_crops)
        self._choice.open(planned, contract(), gallery_settings)
        if isinstance(source, Pictures):
            self._embed(planned, source)
            self._judge(planned)
            self._load(planned, self._load_outcomes)
            if state.has_crops:
                self._leave(planned, "crops")
                state.has_crops = False
                self._folder.save()
            self._finish(planned, self._picture_samples)
        else:
            self._load(planned, lambda number, _refused: self._load_rows(planned, source, number))
            self._finish(planned, lambda number: self._row_samples(planned, source, number))
        return self._summary(planned, is_unchanged=False)

    def _finish(self, planned: plan.Plan, samples: Callable[[int], Iterator[Sample]]) -> None:
        state = self._folder.state
        self._once("build", lambda: self._target.build(state.gallery_id))
        self._once("verify", lambda: self._verify(planned, samples))
        if planned.is_pictures:
            # Said before: what was killed here and has lost its gallery is embedded anew.
            state.is_bare = True
            self._folder.save()
            self._leave(planned, "vectors", "qualities")
        # Before the gallery is published: that is refused where nothing was loaded, and this says why.
        self._report(planned, self._summary(planned, is_unchanged=False))
        self._once("publish", self._choice.publish)
        state.is_done = True
        self._folder.save()

    def _plan(self, source: Pictures | VectorSource, *, is_replanned: bool, is_reread: bool) -> plan.Plan:
        listed = source.source if isinstance(source, Pictures) else source
        planned = self._folder.read_plan()
        if planned is not None:
            is_same = planned.digest == plan.digest_of(listed)
            if is_same and (not is_reread or self._is_content_same(planned, source)):
                return planned
            if not is_replanned:
                raise PreconditionError(
                    f"the source changed since job {self._settings.id} was planned",
                    hint=f"Give --replan: {self._replanned()}.",
                )
            self._say(f"the source has changed: {self._replanned()}")
        with self._folder.timed("plan"):
            self._folder.forget_plan()
            if self._settings.replace:
                # After the plan: a job that is killed in between has none, and comes here again.
                self._folder.forget_gallery()
            planned = plan.make_plan(self._folder.path / "plan", listed)
            self._folder.state.num_plans += 1
        workers = source.num_workers if isinstance(source, Pictures) else 1
        self._say(f"{planned.num_items:,} {planned.unit}: {estimate(planned, workers).line()}")
        return planned

    def _replanned(self) -> str:
        """What becomes of a job whose source has changed."""
        if not self._folder.state.gallery_id:
            return "everything is looked at again"
        stays = "another gallery is filled" if self._settings.replace else "what is loaded stays"
        return f"everything is looked at again, {stays}"

    def _is_content_same(self, planned: plan.Plan, source: Pictures | VectorSource) -> bool:
        """Whether what was read of the source is still in it, byte by byte."""
        step = "embedded" if isinstance(source, Pictures) else "loaded"
        left = set(self._folder.left(step, planned))
        for number in range(planned.num_shards):
            if number in left:
                continue
            if isinstance(source, Pictures):
                is_same = source.is_same(self._folder, number)
            else:
                is_same = self._folder.loaded(number).sha256 == digest_of(_rows(planned, source, number))
            if not is_same:
                return False
        return True

    def _embed(self, planned: plan.Plan, pictures: Pictures) -> None:
        keep_crops, state = self._choice.gallery().settings.keep_crops, self._folder.state
        lacks_crops = keep_crops and not state.has_crops
        if (state.is_bare or lacks_crops) and self._folder.left("loaded", planned):
            # What was embedded so far was for another gallery, or has given away what this one needs.
            self._folder.forget_outcomes()
            state.has_crops = keep_crops
            self._folder.save()
        left = self._folder.left("embedded", planned)
        if not left:
            return
        with self._folder.timed("embed"), self._progress("embed", planned, left) as progress:
            shards = ((number, self._folder.items(number)) for number in left)
            mapper = pictures.mapper.keeping_crops(keep_crops=keep_crops)
            for number, outcomes in pictures.runner.run(mapper, shards):
                if number == 0:
                    refuse_fault(outcomes)
                self._folder.keep_outcomes(number, outcomes)
                progress.add(len(outcomes), sum(bool(outcome.reason) for outcome in outcomes))

    def _judge(self, planned: plan.Plan) -> None:
        if self._folder.judged() is not None:
            return
        gate, gallery = self._settings.gate, self._choice.gallery()
        with self._folder.timed("judge"):
            found = judge.Found()
            for number in range(planned.num_shards):
                for outcome in self._folder.outcomes(number):
                    found.add(outcome)
            histogram = SimilarityHistogram()
            refused = judge.duplicates(found) if gate.duplicates == "refuse" else {}
            found, flagged = found.without(refused), {}
            is_looked_for = gate.near_another_identity != "accept"
            if is_looked_for and len(found.keys) <= judge.NEAR_TEMPLATES_MAX:
                flagged = judge.strangers(found, histogram)
                if gate.near_another_identity == "refuse":
                    refused, found, flagged = {**refused, **flagged}, found.without(flagged), {}
            refused |= judge.beyond_limit(found, gallery.settings.templates_per_identity_max)
            flagged = {key: flag for key, flag in flagged.items() if key not in refused}
            self._folder.keep_judged(
                Judged(
                    list(refused.values()),
                    list(flagged.values()),
                    histogram.same.tolist(),
                    histogram.other.tolist(),
                )
            )

    def _load(self, planned: plan.Plan, load: Callable[[int, set[str]], Loaded]) -> None:
        left = self._folder.left("loaded", planned)
        if not left:
            return
        judged = self._folder.judged() or Judged()
        refused = {refusal.key for refusal in judged.refused}
        with self._folder.timed("load"), self._progress("load", planned, left) as progress:
            for number in left:
                loaded = load(number, refused)
                if number == 0 and not loaded.num_given:
                    refuse_fault(loaded.refused)
                self._folder.keep_loaded(number, loaded)
                progress.add(planned.items_of(number), len(loaded.refused))

    def _load_outcomes(self, number: int, refused: set[str]) -> Loaded:
        outcomes = self._folder.outcomes(number)
        kept = (one for one in outcomes if not one.reason and one.key not in refused)
        state, with_crops = self._folder.state, self._choice.gallery().settings.keep_crops
        return load_pictures(self._target, state.gallery_id, kept, with_crops=with_crops)

    def _leave(self, planned: plan.Plan, *names: str) -> None:
        """Leave the only copy of these parts of outcomes to the gallery, which can remove and erase it."""
        for number in range(planned.num_shards):
            outcomes = self._folder.outcomes(number)
            if any(getattr(one, name) for one in outcomes for name in names):
                bare = [msgspec.structs.replace(one, **{name: [] for name in names}) for one in outcomes]
                self._folder.keep_outcomes(number, bare)

    def _load_rows(self, planned: plan.Plan, source: VectorSource, number: int) -> Loaded:
        block, normalize = _rows(planned, source, number), self._settings.normalize
        return load_block(self._target, self._folder.state.gallery_id, block, normalize=normalize)

    def _picture_samples(self, number: int) -> Iterator[Sample]:
        for outcome in self._folder.outcomes(number):
            for data in outcome.vectors:
                yield Sample(outcome.key, outcome.identity_id, np.frombuffer(data, "<f4"))

    def _row_samples(self, planned: plan.Plan, source: VectorSource, number: int) -> Iterator[Sample]:
        block = _rows(planned, source, number)
        rows, problems = units(block.vectors, np.full(len(block.vectors), self._settings.normalize))
        soon_s = time.time() + EXPIRING_S
        for row in range(len(rows)):
            expire_time = block.expire_times[row] if block.expire_times else None
            if row not in problems and (expire_time is None or expire_time > soon_s):
                yield Sample(block.keys[row], block.identity_ids[row], rows[row])

    def _verify(self, planned: plan.Plan, templates: Callable[[int], Iterator[Sample]]) -> None:
        state = self._folder.state
        refused = {refusal.key for refusal in self._folder.refusals(planned)}
        step = -(-planned.num_shards // SHARDS_SEARCHED_MAX)
        samples = [
            sample
            for number in range(0, planned.num_shards, step)
            for sample in islice(
                (one for one in templates(number) if one.key not in refused), PROBES_PER_SHARD
            )
        ]
        loaded = [self._folder.loaded(number) for number in range(planned.num_shards)]
        is_counted = state.is_new and state.num_plans == 1
        verify(self._target, self._choice.gallery(), samples, loaded, is_counted=is_counted)

    def _once(self, step: str, work: Callable[[], None]) -> None:
        state = self._folder.state
        if step not in state.done:
            with self._folder.timed(step):
                work()
                state.done.append(step)

    def _progress(self, step: str, planned: plan.Plan, left: Sequence[int]) -> Progress:
        num_left = sum(map(planned.items_of, left))
        return Progress(step, planned.num_items, planned.unit, num_done=planned.num_items - num_left)

    def _summary(self, planned: plan.Plan, *, is_unchanged: bool) -> Summary:
        folder, state = self._folder, self._folder.state
        return Summary(
            folder.job_id,
            state.gallery_id,
            planned.num_items,
            sum(1 for _ in folder.refusals(planned)),
            len((folder.judged() or Judged()).flagged),
            self._choice.gallery().num_templates,
            dict(state.seconds),
            is_unchanged,
            folder.report,
        )

    def _report(self, planned: plan.Plan, summary: Summary) -> None:
        judged = self._folder.judged() or Judged()
        has_similarities = any(judged.same) or any(judged.other)
        write_report(
            self._folder.report,
            [*self._folder.refusals(planned), *judged.flagged],
            {"items": planned.num_items, "refused": summary.num_refused, "flagged": summary.num_flagged},
            _told(self._settings, summary),
            SimilarityHistogram(np.array(judged.same), np.array(judged.other)) if has_similarities else None,
        )


def _rows(planned: plan.Plan, source: VectorSource, number: int) -> Block:
    start = number * planned.items_per_shard
    return read_rows(source, start, start + planned.items_of(number))


def _told(settings: JobSettings, summary: Summary) -> dict[str, str | int | float]:
    """The summary as a report shows it."""
    whole_s = sum(summary.seconds.values())
    told: dict[str, str | int | float] = {
        "source": settings.source,
        "gallery": settings.gallery,
        "templates in the gallery": summary.num_templates,
        "time_s": round(whole_s, 1),
    }
    told |= {f"{step}_s": round(seconds, 1) for step, seconds in summary.seconds.items()}
    if "embed" in summary.seconds:
        told["overhead_share"] = round(1 - summary.seconds["embed"] / max(whole_s, 1e-9), 3)
    return told
