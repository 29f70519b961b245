"""What a job knows of itself, in its folder.

::

    JOBS/<id>/lock           held while the job runs
    JOBS/<id>/settings       what was asked; <id> is made from it: the same command finds its job again
    JOBS/<id>/plan/          see `indexer.plan`
    JOBS/<id>/embedded/<n>   outcomes of a shard of pictures, there when it is done; without templates once
                             the gallery has them and was verified
    JOBS/<id>/judged         pictures refused or flagged when all were seen together
    JOBS/<id>/loaded/<n>     a shard is in the gallery
    JOBS/<id>/state          which gallery, and the steps that are done with their seconds
    JOBS/<id>/report/        what was refused and why

Each file appears whole, after what it stands for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine.errors import PreconditionError
from indexer import plan
from indexer.files import make_folder, read_value, write_value
from indexer.gate import GateSettings
from indexer.items import Item, Reason, Refusal
from indexer.mapper import Outcome


class JobSettings(msgspec.Struct, frozen=True):
    """What makes two jobs the same."""

    source: str
    """Absolute path."""
    gallery: str
    target: str
    """Data folder or address of the server."""
    ids: str = ""
    model: str = ""
    """Of pictures; empty for vectors."""
    normalize: bool = False
    replace: bool = False
    """Whether a gallery of that name is replaced, by another that takes over its alias."""
    gate: GateSettings = GateSettings()
    images: str = ""
    """Of an HDF5 file: name of the data set; empty: found by itself, as is the next."""
    labels: str = ""

    @property
    def id(self) -> str:
        """Name of the job's folder."""
        # Without names that are not given: jobs of before there were any keep their folders.
        asked = msgspec.structs.asdict(self)
        told = {name: value for name, value in asked.items() if value or name not in {"images", "labels"}}
        return hashlib.sha256(msgspec.msgpack.encode(told)).hexdigest()[:12]


class State(msgspec.Struct):
    """How far a job is."""

    gallery_id: str = ""
    """The gallery that is filled; empty: not decided yet."""
    create_time: float = 0.0
    """Of that gallery: another one may be made under its name. 0: not known yet."""
    is_new: bool = False
    """Whether the job makes it, and publishes it at the end."""
    before: str = ""
    """The gallery that the name asked for meant when a new one was begun; empty: none."""
    num_plans: int = 0
    """More than one: the source changed, and what was loaded before is there, too."""
    seconds: dict[str, float] = {}
    """Of each step, all runs together."""
    done: list[str] = []
    """Steps after the loading that are done."""
    is_done: bool = False
    has_crops: bool = False
    """Whether outcomes have kept crops, for a gallery that keeps them and has not got all of them yet."""
    is_bare: bool = False
    """Whether outcomes, or some of them, have no templates any more: the gallery has them."""


class Judged(msgspec.Struct, frozen=True):
    """What all pictures together told."""

    refused: list[Refusal] = []
    flagged: list[Refusal] = []
    same: list[int] = []
    """Histogram of the similarity to the nearest of the same identity; empty: not counted."""
    other: list[int] = []


class Loaded(msgspec.Struct, frozen=True):
    """The done-marker of a shard."""

    num_given: int
    """Templates that the gallery was given and did not refuse."""
    num_ignored: int
    """Of these, already there."""
    refused: list[Refusal]
    sha256: bytes = b""
    """Of the rows of vectors and their identities; empty for pictures, whose outcomes have their own."""


class JobFolder:
    """The folder of one job."""

    def __init__(self, jobs: Path, job_id: str):
        self.path = jobs / job_id
        self.job_id = job_id
        state = self.path / "state"
        self.state = read_value(state, State) if state.exists() else State()

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.path / "report"

    @contextlib.contextmanager
    def locked(self, settings: JobSettings) -> Iterator[None]:
        """Hold the job for this process. Raises PreconditionError where another one runs it."""
        make_folder(self.path)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_value(self.path / "settings", settings)
            yield
        except BlockingIOError:
            raise PreconditionError(
                f"job {self.job_id} is being run by another process", hint="Wait until it is done."
            ) from None
        finally:
            os.close(descriptor)

    def settings(self) -> JobSettings:
        """What was asked."""
        return read_value(self.path / "settings", JobSettings)

    def read_plan(self) -> plan.Plan | None:
        """The plan; None where there is none yet."""
        return plan.read_plan(self.path / "plan")

    def forget_plan(self) -> None:
        """Forget the plan and all that was done for it; what is in the gallery stays."""
        # The header goes first: without it nothing of the rest counts.
        for name in ("plan/header", "judged"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("plan", "embedded", "loaded"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.state.is_done = self.state.has_crops = self.state.is_bare = False
        self.state.done = []
        self.save()

    def forget_outcomes(self) -> None:
        """Forget what pictures gave, and what was judged of it; what is planned and loaded stays."""
        (self.path / "judged").unlink(missing_ok=True)
        shutil.rmtree(self.path / "embedded", ignore_errors=True)
        self.state.is_bare = False

    def forget_gallery(self) -> None:
        """Forget the gallery, which is gone or no longer meant; what is planned and embedded stays."""
        # The state goes last: it says of which gallery the markers are.
        shutil.rmtree(self.path / "loaded", ignore_errors=True)
        if self.state.has_crops:
            # The next gallery may keep none, and then nobody would drop them.
            self.forget_outcomes()
        self.state.gallery_id, self.state.create_time, self.state.before = "", 0.0, ""
        # Some outcomes may have given their crops away already.
        self.state.is_new = self.state.is_done = self.state.has_crops = False
        self.state.done = []
        self.save()

    def items(self, number: int) -> list[Item]:
        """Pictures of a shard."""
        return plan.shard(self.path / "plan", number)

    def left(self, step: str, planned: plan.Plan) -> list[int]:
        """Shards of which a step, "embedded" or "loaded", is not done."""
        make_folder(self.path / step)
        there = {path.name for path in (self.path / step).iterdir()}
        return [number for number in range(planned.num_shards) if _name(number) not in there]

    def keep_outcomes(self, number: int, outcomes: list[Outcome]) -> None:
        """Say that a shard is embedded."""
        write_value(self.path / "embedded" / _name(number), outcomes)

    def outcomes(self, number: int) -> list[Outcome]:
        """Outcomes of a shard that is embedded."""
        return read_value(self.path / "embedded" / _name(number), list[Outcome])

    def keep_loaded(self, number: int, loaded: Loaded) -> None:
        """Say that a shard is loaded."""
        write_value(self.path / "loaded" / _name(number), loaded)

    def loaded(self, number: int) -> Loaded:
        """The marker of a shard that is loaded."""
        return read_value(self.path / "loaded" / _name(number), Loaded)

    def keep_judged(self, judged: Judged) -> None:
        """Say that all pictures were judged."""
        write_value(self.path / "judged", judged)

    def judged(self) -> Judged | None:
        """What all pictures together told; None where that is not done."""
        path = self.path / "judged"
        return read_value(path, Judged) if path.exists() else None

    def refusals(self, planned: plan.Plan) -> Iterator[Refusal]:
        """Of all steps, in their order."""
        yield from plan.refusals(self.path / "plan")
        if planned.is_pictures:
            for number in range(planned.num_shards):
                for outcome in self.outcomes(number):
                    if outcome.reason:
                        reason = Reason(outcome.reason)
                        yield Refusal(outcome.key, reason, outcome.identity_id, outcome.detail)
        yield from (self.judged() or Judged()).refused
        for number in range(planned.num_shards):
            yield from self.loaded(number).refused

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time spent inside to a step, also where it is interrupted by an error."""
        start_s = time.monotonic()
        try:
            yield
        finally:
            self.state.seconds[step] = self.state.seconds.get(step, 0.0) + time.monotonic() - start_s
            self.save()

    def save(self) -> None:
        """Keep the state."""
        write_value(self.path / "state", self.state)


def _name(number: int) -> str:
    return f"{number:05d}"
