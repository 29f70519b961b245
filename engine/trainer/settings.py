"""Settings of a training run, all that decides its weights. Knows nothing of how they are obeyed.

A run is repeatable from these, the data and the versions alone: what only decides how fast it goes, where it
writes or when it pauses is not here.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from engine.config import Settings
from engine.errors import SettingsError
from engine.trainer.augment import AugmentSettings
from engine.trainer.objective_settings import HEAD_LOSSES, NUMBER_MAX, ObjectiveSettings, Positive

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0, le=NUMBER_MAX)]


class NetworkSettings(Settings, frozen=True, kw_only=True):
    """What is trained, and where it starts."""

    name: str = "dlib-resnet"
    """dlib-resnet, inception-resnet-v1, nn4-small2, mobilefacenet, timm:NAME, or head:BASE, a map of the
    templates of any network that can be served."""
    dimension: Annotated[int, msgspec.Meta(ge=64, le=1024)] | None = None
    """Template size; None: that of the weights, 128 where there are none."""
    alignment: str | None = None
    """Name of the crop, of timm's networks alone; None: arcface-112."""
    checkpoint: str = ""
    """Weights to start from; empty: the packaged ones where there are any, else seeded ones."""
    num_hidden: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of a head: numbers in its hidden layer; 0: it is linear."""
    is_normalisation_frozen: bool = False
    """Batch normalisation keeps the statistics it starts with; several processes on CPUs need it."""
    is_residual: bool = False
    """Of a head: it learns what to add to the template it is given."""
    is_from_scratch: bool = False
    """Seeded weights also where packaged ones exist."""
    num_trainable_stages: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The last so many stages learn, the others are frozen, normalisation included; 0: all learn. dlib-resnet
    has 16: stem, 14 blocks, head."""


class BatchSettings(Settings, frozen=True, kw_only=True):
    """What one step sees: num_identities x num_pictures + num_singles pictures, by all processes together."""

    num_identities: Annotated[int, msgspec.Meta(ge=2)] = 32
    """P. More make harder negatives and cost memory."""
    num_pictures: Annotated[int, msgspec.Meta(ge=1)] = 4
    """K, of each; 1 is for heads alone, which need no pair of pictures of one person."""
    num_singles: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Further pictures of people with one picture, who serve as negatives; None: a quarter as many as the
    others, or as many as there are."""
    faces: Literal["crop", "template"] = "crop"
    """What a vector is made of: ``crop``, one face as augmentation left it; ``template``, the sum of the
    face's and its mirrored vector, as networks that mirror are served, for twice the time."""


class OptimizerSettings(Settings, frozen=True, kw_only=True):
    """How weights move."""

    kind: Literal["adamw", "sgd"] = "adamw"
    """sgd has momentum 0.9."""
    learning_rate: Positive = 1e-4
    """At its highest. Too high: the loss stays at the margin (collapse) or is no number."""
    weight_decay: NotNegative = 0.0
    """Not of biases and normalisation."""
    warmup_steps: Annotated[int, msgspec.Meta(ge=0)] = 20
    """Linear from zero; afterwards a cosine down to final_share of the rate."""
    final_share: Share = 0.0
    clip_norm: NotNegative = 1.0
    """Largest length of the gradient; 0: no limit."""
    start_share: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.0
    """Share of the weights that training started from in what is validated and shipped: fine-tuned networks
    forget less so (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3); 0: none."""
    ema_decay: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.0
    """What is validated and shipped is the moving average of the weights with this decay, less in the first
    steps; 0: the weights."""


class TrainSettings(Settings, frozen=True, kw_only=True):
    """All that decides the weights of a run, beside the data."""

    network: NetworkSettings = NetworkSettings()
    batch: BatchSettings = BatchSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    augment: AugmentSettings = AugmentSettings()
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    num_steps: Count = 400
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; distances and losses are float32 all the same."""
    is_trunk_cached: bool = False
    """Frozen stages run once over all faces and their mirrors, kept as float16: much faster, and flipping is
    then the only augmentation. For dlib-resnet with num_trainable_stages; a head always has it."""
    validation_share: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.1
    """Of the identities, held out of training by seed; 0: none are."""
    validate_every_steps: Count = 200
    checkpoint_every_steps: Count = 100
    log_every_steps: Count = 10

    def __post_init__(self) -> None:
        if self.optimizer.warmup_steps >= self.num_steps:
            raise SettingsError(
                f"optimizer.warmup_steps is {self.optimizer.warmup_steps}, num_steps {self.num_steps}:"
                " the rate would never be reached",
                hint="Lower the first or raise the second.",
            )
        is_pairless = self.objective.loss in HEAD_LOSSES and not self.objective.global_threshold_weight
        if self.batch.num_pictures == 1 and not is_pairless:
            what = "global threshold" if self.objective.loss in HEAD_LOSSES else f"loss {self.objective.loss}"
            raise SettingsError(
                f"batch.num_pictures is 1, but the {what} learns from two pictures of a person or more",
                hint="Raise batch.num_pictures.",
            )
        if self.is_trunk_cached and not self.network.num_trainable_stages:
            raise SettingsError("is_trunk_cached needs frozen stages: set network.num_trainable_stages")
        is_kept = self.is_trunk_cached or self.network.name.partition(":")[0] == "head"
        if is_kept and self.augment != AugmentSettings():
            raise SettingsError(
                "augment is given, but what frozen stages give is kept, and only mirroring is left",
                hint="Leave augment out, or set is_trunk_cached to false where it is set.",
            )
