"""The training loop, from a run's first step or its newest checkpoint to the network that is served.

::

    batch -> forward, loss, gradients -> alarms -> weights -> (note) -> (checkpoint) -> (validate)

Exact resume: batches, augmentation, learning rate and random numbers are functions of seed and step, and all
else is in the checkpoint; so a killed run ends with the same bits as an unbroken one, where device, versions
and numbers of threads and processes are the same.

Knows nothing of command lines, or of which pictures these are.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from engine.embedding.checkpoints import sha256_of_state
from engine.embedding.embed import Embedder
from engine.errors import InvalidInputError, WeightsError
from engine.trainer import alarms, checkpoint_files, distributed, trunk
from engine.trainer.alarms import Alarms
from engine.trainer.backbones import (
    Backbone,
    as_network,
    backbone_of,
    check_start_share,
    start_digest,
)
from engine.trainer.crop_set import CropSet
from engine.trainer.distributed import ALONE, Ranks
from engine.trainer.export import export_safetensors, with_base_in
from engine.trainer.learner import Faces, Figures, Learner
from engine.trainer.loader import Batch, Loader
from engine.trainer.model_card import write_card
from engine.trainer.objectives import build_objective
from engine.trainer.progress import Progress
from engine.trainer.run_folder import RunFolder
from engine.trainer.sampler import PKSampler
from engine.trainer.settings import BatchSettings, TrainSettings
from engine.trainer.validate import halve, rounded_threshold, validate


class Batches(Protocol):
    """What gives the loop its batches."""

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Batches of steps start_step to stop_step - 1, this process's part of each."""
        ...

    def close(self) -> None:
        """End what works in the background."""
        ...


@dataclass(frozen=True, slots=True)
class Data:
    """What a run learns from and is judged by."""

    training: CropSet
    validation: CropSet | None = None
    """Other people; None: nobody is held out."""

    def described(self) -> dict[str, Any]:
        """Stand in the run's settings: it cannot go on with other data."""
        held = self.validation
        return {
            "training": self.training.digest,
            "num_pictures": len(self.training),
            "num_identities": self.training.num_identities,
            "validation": held.digest if held else "",
            "num_validation_pictures": len(held) if held else 0,
            "num_validation_identities": held.num_identities if held else 0,
        }


@dataclass(frozen=True, slots=True)
class Options:
    """What decides how a run goes, not what it comes to."""

    device: str = "cpu"
    """cpu or cuda."""
    num_threads: int | None = None
    """CPU threads of torch, in this whole process; a resumed run must have as many. None: as they are."""
    num_workers: int = 1
    """Processes that read and augment batches before their turn; 0: this one does it in between."""
    stop_after_s: float | None = None
    """Pause with a checkpoint after so many seconds; None: go to the end."""
    ranks: Ranks = ALONE
    is_bar_shown: bool = True


@dataclass(frozen=True, slots=True)
class Ended:
    """How far a run came."""

    step: int
    is_done: bool
    network: Path | None
    """The weights to be served, once done."""


def train(
    run: RunFolder,
    settings: TrainSettings,
    data: Data,
    options: Options,
    backbone: Backbone | None = None,
) -> Ended:
    """Train from where the run is to its end, or until it is asked to pause; one that is done stays as it is.

    `backbone` is what `backbone_of` makes of these settings, where the caller had to make it already.
    SIGINT, SIGTERM and `stop_after_s` end it after the step in hand, with a checkpoint. Raises TrainingError
    where an alarm, short memory or the end of another process ends it, PreconditionError where the folder
    holds another run, WeightsError for a checkpoint that cannot be used, SettingsError and InvalidInputError
    where settings and data cannot go together.
    """
    ranks = options.ranks
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    backbone = backbone or backbone_of(settings)
    # Before anything is written: what is refused leaves no folder that other settings would not fit.
    _check(backbone, settings, data, ranks)
    try:
        with distributed.naming_who_left(ranks):
            if ranks.is_first:
                run.open(settings, {**data.described(), "start": start_digest(backbone)})
            if not distributed.any_of(ranks.is_first and run.is_finished, ranks, options.device):
                return _train(run, backbone, settings, data, options)
    finally:
        run.close()
    if ranks.is_first:
        sys.stderr.write(f"this run is done: {run.network}\n")
    return Ended(settings.num_steps, is_done=True, network=run.network)


def _train(
    run: RunFolder, backbone: Backbone, settings: TrainSettings, data: Data, options: Options
) -> Ended:
    ranks = options.ranks
    learner, loader = _parts(run, backbone, settings, data, options)
    watch = Alarms()
    step, losses = _resume(run, learner, watch, options)
    if ranks.is_first:
        run.rewind(step)
    progress = Progress(
        run,
        step,
        settings,
        _sampler(settings, data.training, ranks).global_batch_size,
        losses,
        is_first=ranks.is_first,
        is_bar_shown=options.is_bar_shown,
    )
    try:
        if step and _is_judged(step, settings):
            # Else a run killed after this checkpoint would lack the figures of its step.
            _validate(run, learner, backbone, data, step, options)
        with _stop_asked(options.stop_after_s) as is_asked:
            for batch in loader.batches(step, settings.num_steps):
                figures, rate = _step(learner, watch, batch, options)
                step = batch.step + 1
                progress.show(step, figures, rate)
                is_over = distributed.any_of(is_asked(), ranks, options.device)
                is_last = step == settings.num_steps
                if is_over or is_last or step % settings.checkpoint_every_steps == 0:
                    _checkpoint(run, learner, watch, step, progress)
                if _is_judged(step, settings):
                    _validate(run, learner, backbone, data, step, options)
                if is_over:
                    break
    finally:
        loader.close()
        progress.close()
    if step < settings.num_steps:
        return Ended(step, is_done=False, network=None)
    if ranks.is_first:
        _finish(run, learner, backbone, settings, data)
    distributed.wait(ranks)
    return Ended(step, is_done=True, network=run.network)


def _check(backbone: Backbone, settings: TrainSettings, data: Data, ranks: Ranks) -> None:
    """Refuse crops of another alignment, people who are both learnt from and judged by, and too few."""
    for crops in (data.training, data.validation):
        if crops is not None and crops.alignment != backbone.alignment.name:
            raise InvalidInputError(
                f"the crops are {crops.alignment}, {backbone.name} takes {backbone.alignment.name}"
            )
    if data.validation is not None:
        both = sorted(set(data.training.identities) & set(data.validation.identities))
        if both:
            raise InvalidInputError(
                f"{len(both)} people are trained on and validated by, for example {both[0]}",
                hint="Name other people to validate by: figures of people learnt from say nothing.",
            )
        halve(data.validation, settings.seed)
    _sampler(settings, data.training, ranks)
    check_start_share(backbone, settings)


def _num_singles(batch: BatchSettings, crops: CropSet, ranks: Ranks) -> int:
    """How many people with one picture a batch has; where it is left open, a number that ranks can share."""
    if batch.num_singles is not None:
        return batch.num_singles
    wished = min(int((crops.counts == 1).sum()), batch.num_identities * batch.num_pictures // 4)
    return wished - wished % ranks.num_ranks


def _sampler(settings: TrainSettings, crops: CropSet, ranks: Ranks) -> PKSampler:
    batch = settings.batch
    return PKSampler(
        crops.labels,
        batch.num_identities,
        batch.num_pictures,
        settings.seed,
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
        num_singles=_num_singles(batch, crops, ranks),
    )


def _parts(
    run: RunFolder, backbone: Backbone, settings: TrainSettings, data: Data, options: Options
) -> tuple[Learner, Batches]:
    """The learner and what feeds it."""
    ranks, batch, crops = options.ranks, settings.batch, data.training
    sampler = _sampler(settings, crops, ranks)
    objective = build_objective(
        settings.objective, crops.num_identities, backbone.dimension, seed=settings.seed
    )
    is_bfloat16 = settings.precision == "bfloat16"
    if backbone.base is None and not settings.is_trunk_cached:
        is_mirrored = batch.faces == "template"
        faces = Faces(backbone.module, backbone.scaling, is_mirrored=is_mirrored, is_bfloat16=is_bfloat16)
        loader: Batches = Loader(
            crops, sampler, settings.augment, options.num_workers, settings.seed, options.device,
            is_resident=options.device == "cuda",
        )  # fmt: skip
        return Learner(faces, objective, settings, ranks, options.device), loader
    features, module = _features(run, backbone, settings, crops, options)
    faces = Faces(module, None, is_mirrored=False, is_bfloat16=is_bfloat16)
    feeding = trunk.FeatureLoader(features, crops, sampler, settings.seed, faces=batch.faces)
    return Learner(faces, objective, settings, ranks, options.device), feeding


def _features(
    run: RunFolder, backbone: Backbone, settings: TrainSettings, crops: CropSet, options: Options
) -> tuple[trunk.Features, nn.Module]:
    """What the frozen part gives for every crop, and the part that learns."""
    if backbone.base is not None:
        give, weights = trunk.features_of_base(backbone.base), backbone.base.weights_sha256
        module = backbone.module
    else:
        cut = trunk.cut(backbone, settings.network.num_trainable_stages)
        give = trunk.features_of_trunk(backbone, cut.trunk, options.device)
        weights, module = sha256_of_state(cut.trunk.state_dict()), cut.tail
    # The first process makes the file, then all open it.
    if options.ranks.is_first:
        trunk.keep_features(crops, give, weights, run.trunk)
    distributed.wait(options.ranks)
    return trunk.keep_features(crops, give, weights, run.trunk), module


def _resume(run: RunFolder, learner: Learner, watch: Alarms, options: Options) -> tuple[int, Sequence[float]]:
    """Take the newest checkpoint; give its step, 0 where there is none, and the losses not noted yet."""
    path = checkpoint_files.newest(run.checkpoints)
    if path is None:
        return 0, ()
    state = checkpoint_files.load(path, options.device)
    try:
        learner.load(state["learner"])
        watch.num_collapsed = int(state["num_collapsed"])
        step = int(state["step"])
        # Checkpoints of earlier versions have none.
        losses = [float(loss) for loss in state.get("losses", [])]
    except (RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"checkpoint {path} is not of this run: {error}",
            hint="Name a new folder for the run, or remove its checkpoints to begin anew.",
        ) from error
    if options.ranks.is_first:
        sys.stderr.write(f"going on from step {step:,} ({path.name})\n")
    return step, losses


def _checkpoint(run: RunFolder, learner: Learner, watch: Alarms, step: int, progress: Progress) -> None:
    if learner.ranks.is_first:
        state = {"learner": learner.state(), "num_collapsed": watch.num_collapsed, "step": step}
        state["losses"] = progress.losses
        checkpoint_files.save(run.checkpoints, step, state)


def _step(learner: Learner, watch: Alarms, batch: Batch, options: Options) -> tuple[Figures, float]:
    """One step, its loss and gradients looked at before they move anything; with the learning rate used."""
    pixels = batch.pixels.to(options.device, non_blocking=True)
    labels = batch.labels.to(options.device, non_blocking=True)
    try:
        figures = learner.forward_backward(pixels, labels, batch.step)
        watch.check(batch.step, figures.loss, figures.gradient_norm, figures.spread)
        return figures, learner.move(batch.step)
    except (RuntimeError, MemoryError) as error:
        if not alarms.is_out_of_memory(error):
            raise
    # Out of the except clause: its traceback holds the tensors that did not fit.
    raise alarms.out_of_memory(
        len(pixels), lambda num: learner.does_fit(num, pixels), options.device, options.ranks.num_ranks
    )


def _is_judged(step: int, settings: TrainSettings) -> bool:
    """Whether the people held out are asked after so many steps."""
    return step == settings.num_steps or step % settings.validate_every_steps == 0


def _validate(
    run: RunFolder, learner: Learner, backbone: Backbone, data: Data, step: int, options: Options
) -> None:
    """Judge the averaged weights by the people held out, in the first process, once a step."""
    is_noted = options.ranks.is_first and run.is_noted(step, "validation")
    if data.validation is not None and options.ranks.is_first and not is_noted:
        with learner.averaged():
            embedder = Embedder(as_network(backbone, options.device))
            figures = validate(data.validation, embedder.embed, learner.settings.seed)
        run.note(step, figures, "validation")
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        tqdm.write(f"step {step:,}: {told}", file=sys.stderr)
    distributed.wait(options.ranks)


def _finish(
    run: RunFolder, learner: Learner, backbone: Backbone, settings: TrainSettings, data: Data
) -> None:
    """Write the averaged weights as a network that is served by its path, and the card that describes it."""
    judged = run.notes("validation")
    threshold = rounded_threshold(judged[-1]) if judged else None
    # The network comes last: where it is there, the run is finished.
    num_unseen = 0
    if not _num_singles(settings.batch, data.training, learner.ranks):
        num_unseen = int((data.training.counts == 1).sum())
    write_card(run, settings, data.described(), num_unseen)
    with learner.averaged():
        export_safetensors(with_base_in(backbone, run.network), run.network, threshold=threshold)


@contextmanager
def _stop_asked(after_s: float | None) -> Iterator[Any]:
    """Give a function that says whether the run shall pause: by SIGINT or SIGTERM, or after so long."""
    asked = threading.Event()
    start = time.monotonic()

    def note(_number: int, _frame: object) -> None:
        asked.set()

    kept = {}
    if threading.current_thread() is threading.main_thread():
        kept = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked.is_set() or (after_s is not None and time.monotonic() - start >= after_s)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
