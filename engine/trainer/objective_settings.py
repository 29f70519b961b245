"""What can be said about the objective, which words go together, and what each loss takes by itself.

Knows nothing of how losses are computed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.config import Settings
from engine.errors import SettingsError

LossName = Literal["triplet", "soft-triplet", "contrastive", "pair-hinge", "arcface", "cosface"]
MinerName = Literal["semihard", "semihard-window", "hard", "distance-weighted", "all"]
DistanceName = Literal["squared-l2", "l2", "angular"]

MEMORY_SIZE_MAX = 2**20
"""Vectors; each step compares the batch with all of them."""
MARGINS: dict[LossName, float] = {
    "triplet": 0.2,
    "soft-triplet": 0.2,
    "contrastive": 1.0,
    "pair-hinge": 0.04,
    "arcface": 0.5,
    "cosface": 0.35,
}
"""Where none is given: Schroff et al. 2015; the same for a window beside soft margins; Hadsell et al. 2006 on
unit vectors; dlib's loss_metric_; Deng et al. 2019, radians; Wang et al. 2018."""
TRIPLET_LOSSES = ("triplet", "soft-triplet")
PAIR_LOSSES = ("contrastive", "pair-hinge")
HEAD_LOSSES = ("arcface", "cosface")

Count = Annotated[int, Meta(ge=0)]
NUMBER_MAX = 1e6
"""Of settings without a limit of their own: keeps out what is not finite, in float32 too."""
Positive = Annotated[float, Meta(gt=0.0, le=NUMBER_MAX)]


class ObjectiveSettings(Settings, frozen=True, kw_only=True):
    """What a network is trained for. Keys that are None take what their loss is known with."""

    loss: LossName = "triplet"
    """triplet, soft-triplet: negatives farther than positives, by pairs of one anchor; contrastive,
    pair-hinge: one distance for everybody; arcface, cosface: a head, for pre-training."""
    miner: MinerName | None = None
    """Of the triplet losses; None: semihard. `hard` may collapse at the start; `all` and `semihard-window`
    list up to 16 million triplets a step."""
    distance: DistanceName | None = None
    """Of the triplet losses; None: squared-l2. The pair losses take l2, whose unit their margins have."""
    is_unit: bool | None = None
    """Whether vectors are brought to unit length first; None: yes, but for pair-hinge, which is dlib's."""
    margin: Positive | None = None
    """In the unit of the distance, radians for arcface, a cosine for cosface; None: see MARGINS. Too small:
    the loss is soon zero; too large: it collapses. soft-triplet has none; semihard-window looks this far."""
    margin_warmup_steps: Count = 0
    """Steps in which the margin grows from 0; 0: it is whole from the start. The window of semihard-window
    does not grow."""
    average: Literal["mined", "active"] = "mined"
    """What a triplet loss is averaged over: all mined triplets, or those that pay. With `all` most do not,
    and `active` keeps the gradient from fading."""
    negative_pairs: Literal["all", "hardest"] | None = None
    """Of the pair losses; None: hardest for pair-hinge, as many as there are positive pairs, else all."""
    threshold: Positive | None = None
    """Of pair-hinge: positives belong within threshold - margin, negatives beyond threshold + margin, in L2;
    None: 0.6."""
    scale: Positive | None = None
    """Of heads: what cosines are multiplied by before the softmax; None: 64."""
    memory_size: Annotated[int, Meta(ge=0, le=MEMORY_SIZE_MAX)] = 0
    """Vectors of earlier batches that a batch is compared with too; 0: none. Useful once weights move
    slowly."""
    memory_start_step: Count = 0
    """Step from which on vectors are remembered: those of a network that still moves fast mislead."""
    global_threshold_weight: Annotated[float, Meta(ge=0.0, le=NUMBER_MAX)] = 0.0
    """Weight of a further term for which one threshold must serve all identities; 0: none."""
    global_threshold_share: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.05
    """Share of strangers that may pass it, in a gallery of the batch and the memory. Shares much below 1 over
    the batch's rows learn from few rows a step."""
    global_threshold_softness: Positive = 0.02
    """Similarity over which a mated pair's price for being below it sets in."""

    def __post_init__(self) -> None:
        self._refuse("miner", self.miner is not None, TRIPLET_LOSSES)
        self._refuse("distance", self.distance is not None, TRIPLET_LOSSES)
        self._refuse("average", self.average != "mined", TRIPLET_LOSSES)
        self._refuse("negative_pairs", self.negative_pairs is not None, PAIR_LOSSES)
        self._refuse("threshold", self.threshold is not None, ("pair-hinge",))
        self._refuse("scale", self.scale is not None, HEAD_LOSSES)
        self._refuse("is_unit", self.is_unit is False, (*TRIPLET_LOSSES, *PAIR_LOSSES))
        self._refuse_soft_margin()
        if self.loss == "pair-hinge" and self.main_margin >= self.hinge_threshold:
            raise SettingsError(
                f"objective.margin {self.main_margin} is not below objective.threshold "
                f"{self.hinge_threshold}: no positive could be near enough",
                hint="Lower objective.margin, or raise objective.threshold.",
            )
        has_memory_use = self.loss not in HEAD_LOSSES or self.global_threshold_weight > 0
        if self.memory_size and not has_memory_use:
            raise SettingsError(
                f"objective.memory_size is {self.memory_size}, but {self.loss} compares with no vectors",
                hint="Leave objective.memory_size out, or give objective.global_threshold_weight.",
            )
        if self.memory_start_step and not self.memory_size:
            raise SettingsError(
                "objective.memory_start_step is given, but objective.memory_size is 0",
                hint="Give objective.memory_size, or leave objective.memory_start_step out.",
            )

    def _refuse(self, key: str, is_given: bool, of_losses: tuple[str, ...]) -> None:
        if is_given and self.loss not in of_losses:
            raise SettingsError(
                f"objective.{key} is {getattr(self, key)!r}, but loss {self.loss} takes none",
                hint=f"Leave objective.{key} out, or choose loss {' or '.join(of_losses)}.",
            )

    def _refuse_soft_margin(self) -> None:
        if self.loss != "soft-triplet":
            return
        if self.margin is not None and self.miner != "semihard-window":
            raise SettingsError(
                f"objective.margin is {self.margin}, but soft-triplet has no margin",
                hint="Leave objective.margin out, or choose loss triplet.",
            )
        if self.margin_warmup_steps:
            raise SettingsError(
                f"objective.margin_warmup_steps is {self.margin_warmup_steps}; soft-triplet has no margin",
                hint="Leave objective.margin_warmup_steps out, or choose loss triplet.",
            )

    @property
    def main_margin(self) -> float:
        """The margin, or what the loss is known with."""
        return MARGINS[self.loss] if self.margin is None else self.margin

    @property
    def triplet_miner(self) -> MinerName:
        """How triplets are chosen."""
        return self.miner or "semihard"

    @property
    def triplet_distance(self) -> DistanceName:
        """What triplets are measured by."""
        return self.distance or "squared-l2"

    @property
    def has_unit_vectors(self) -> bool:
        """Whether vectors are brought to unit length."""
        return self.loss != "pair-hinge" if self.is_unit is None else self.is_unit

    @property
    def negatives_kept(self) -> Literal["all", "hardest"]:
        """Which negative pairs pay."""
        return self.negative_pairs or ("hardest" if self.loss == "pair-hinge" else "all")

    @property
    def hinge_threshold(self) -> float:
        """The distance between positives and negatives, L2."""
        return 0.6 if self.threshold is None else self.threshold

    @property
    def head_scale(self) -> float:
        """What a head's cosines are multiplied by."""
        return 64.0 if self.scale is None else self.scale
