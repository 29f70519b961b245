"""The networks that can be trained: made from a seed or a weight file, and frozen in part.

Knows which stages a network has and which of its layers are its head; knows nothing of losses, data or steps.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from engine.embedding import delta, dlib_resnet, mapped_network, mobilefacenet, networks, nn4_small2
from engine.embedding.align import ALIGNMENTS, Alignment
from engine.embedding.checkpoints import sha256_of_state
from engine.embedding.mapped_network import MappedNetwork, VectorMap
from engine.embedding.networks import INCEPTION_RESNET, Network
from engine.embedding.torch_network import Scaling, TorchNetwork
from engine.errors import SettingsError, WeightsError
from engine.trainer.settings import TrainSettings

DIMENSION = 128
"""Template size of what starts from a seed, unless asked otherwise."""
HEAD = "head"
TIMM_PREFIX = "timm:"
NAMES = (
    dlib_resnet.NAME,
    INCEPTION_RESNET,
    nn4_small2.NAME,
    mobilefacenet.NAME,
    f"{TIMM_PREFIX}NAME",
    HEAD,
    f"{HEAD}:BASE",
)
"""What `build_backbone` takes; beside these, every delta that ships with this package."""

_HEADS = {
    INCEPTION_RESNET: ("last_linear.", "last_bn."),
    mobilefacenet.NAME: ("head.",),
}
"""Tensors of the layers that give a network its template size; those of the others are fixed at 128."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network to train, in training mode and with nothing frozen when it is made."""

    name: str
    """Its architecture, as weight files name it: ``mobilefacenet``, ``timm:resnet18``, ``mapped``."""
    module: nn.Module
    """Scaled float32[n, 3, s, s] to raw float32[n, dimension]; where `base` is there, the base's templates
    float32[n, base.dimension] to raw float32[n, dimension]."""
    alignment: Alignment
    scaling: Scaling
    dimension: int
    mirror: bool
    """Whether templates are unit(raw(crop) + raw(mirrored crop)); a setting of the network that is served."""
    threshold: float
    """Default similarity of the contract: of the weights that training starts from, until it is measured."""
    stages: tuple[nn.Module, ...]
    """From the input to the output; together they hold every parameter, each one once."""
    base: Network | None = None
    """The frozen network whose templates a head maps; None where `module` takes pixels."""
    base_spec: str | None = None
    """What loads the base."""


def build_backbone(
    spec: str,
    *,
    seed: int,
    dimension: int | None = None,
    checkpoint: Path | None = None,
    alignment: str | None = None,
    is_from_scratch: bool = False,
    num_hidden: int = 0,
    is_residual: bool = False,
) -> Backbone:
    """Make the network named `spec`, one of NAMES or a delta, for training.

    It starts from the weights in `checkpoint`, of any kind that `load_network` reads (of timm also timm's
    own files); without one, networks that come with their weights start from these unless
    `is_from_scratch`, and all others from weights drawn from `seed`. `dimension` None: that of the weights,
    else DIMENSION; another than the weights' gives a fresh head drawn from `seed`, with all else kept.
    `alignment`, by name, is a choice for timm's networks alone.
    `num_hidden` and `is_residual` are those of `VectorMap`, for heads. ``head:BASE`` maps the templates of
    any network that `load_network` loads, ``head`` those of dlib-resnet.

    Raises SettingsError for a spec or options that cannot be; WeightsError naming the tensors of a
    checkpoint that is of another network, or torn.
    """
    if is_from_scratch and checkpoint is not None:
        raise SettingsError(f"{spec} cannot start from scratch and from {checkpoint}: give one of them")
    is_head = spec == HEAD or spec.startswith(f"{HEAD}:")
    if not is_head and (num_hidden or is_residual):
        raise SettingsError(f"num_hidden and is_residual are of heads; {spec} is none")
    if alignment is not None and (is_head or not spec.startswith(TIMM_PREFIX)):
        raise SettingsError(f"{spec} has its own alignment; only timm's networks leave the choice")
    if is_head:
        base_spec = spec.partition(":")[2] or networks.DEFAULT_NETWORK
        return _head(base_spec, seed, dimension or DIMENSION, checkpoint, num_hidden, is_residual)
    if spec.startswith(TIMM_PREFIX):
        network = _timm(spec.removeprefix(TIMM_PREFIX), seed, dimension, checkpoint, alignment)
    elif checkpoint is None and (is_from_scratch or not _has_weights(spec)):
        network = _seeded(spec, seed, dimension or DIMENSION)
    else:
        network = _loaded(spec, checkpoint)
        if dimension not in {None, network.dimension}:
            network = _with_fresh_head(spec, network, seed, dimension or DIMENSION)
    return _backbone(network, spec)


def freeze(backbone: Backbone, num_trainable_stages: int) -> None:
    """Leave the last `num_trainable_stages` stages to be trained, and hold all before them still.

    A frozen stage gets no gradients and stays in evaluation mode whatever `train` is called with, so that
    its batch normalisation keeps its statistics and its dropout lets all through. May be called again with
    another number. Raises SettingsError for a number that is not 1 to the number of stages.
    """
    num_stages = len(backbone.stages)
    if not 1 <= num_trainable_stages <= num_stages:
        raise SettingsError(
            f"num_trainable_stages is {num_trainable_stages}; {backbone.name} has 1 to {num_stages}"
        )
    for number, stage in enumerate(backbone.stages):
        is_frozen = number < num_stages - num_trainable_stages
        stage.requires_grad_(requires_grad=not is_frozen)
        for module in stage.modules():
            vars(module).pop("train", None)
            module.train(backbone.module.training and not is_frozen)
            if is_frozen:
                # A bound method: a deep copy of the module binds it to itself.
                vars(module)["train"] = types.MethodType(_stay, module)


def freeze_normalisation(backbone: Backbone) -> None:
    """Hold the statistics of batch normalisation as they are, in all stages; its scale and shift still learn.

    For batches too small for statistics, and for several processes without a GPU, that cannot share them.
    """
    for module in backbone.module.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            vars(module)["train"] = types.MethodType(_stay, module)


def backbone_of(settings: TrainSettings, weights: Path | None = None) -> Backbone:
    """Make the network that a run trains, with the weights it starts from, or with those given."""
    network = settings.network
    start = Path(network.checkpoint) if network.checkpoint else None
    backbone = build_backbone(
        network.name,
        dimension=network.dimension,
        seed=settings.seed,
        checkpoint=weights or start,
        alignment=network.alignment,
        is_from_scratch=network.is_from_scratch and weights is None,
        num_hidden=network.num_hidden,
        is_residual=network.is_residual,
    )
    if network.num_trainable_stages:
        freeze(backbone, network.num_trainable_stages)
    if network.is_normalisation_frozen:
        freeze_normalisation(backbone)
    return backbone


def start_digest(backbone: Backbone) -> str:
    """Digest of the weights that training starts from, those below a head with them."""
    base = backbone.base.weights_sha256 if backbone.base else ""
    return sha256_of_state(backbone.module.state_dict()) + base


def check_start_share(backbone: Backbone, settings: TrainSettings) -> None:
    """Refuse a share of the starting weights where batch normalisation learns.

    Its statistics are those of the weights that they were taken with, not of weights in between. Raises
    SettingsError.
    """
    is_learning = any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training
        for part in backbone.module.modules()
    )
    if settings.optimizer.start_share and is_learning:
        raise SettingsError(
            f"optimizer.start_share is {settings.optimizer.start_share:g}, but {backbone.name} has batch"
            " normalisation, whose statistics would not be those of the weights in between",
            hint="Set network.is_normalisation_frozen=true, or optimizer.start_share=0.",
        )


def as_network(backbone: Backbone, device: str = "cpu") -> Network:
    """Make a copy of the backbone as it is now, to embed with: later steps of training do not change it.

    Its digest is that of its tensors; a file made of it has another.
    """
    module = copy.deepcopy(backbone.module)
    sha256 = sha256_of_state(module.state_dict())
    if backbone.base is not None:
        if not isinstance(module, VectorMap):
            raise SettingsError(f"{backbone.name} has a base, but is no map of its vectors")
        return mapped_network.over(backbone.base, module, sha256, backbone.threshold)
    return TorchNetwork(
        name=backbone.name,
        alignment=backbone.alignment,
        dimension=backbone.dimension,
        weights_sha256=sha256,
        device=device,
        mirror=backbone.mirror,
        threshold=backbone.threshold,
        module=module,
        scaling=backbone.scaling,
    )


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001 (as nn.Module.train)
    """Do nothing where `train` would go into training mode."""
    return module


def _has_weights(spec: str) -> bool:
    return spec == dlib_resnet.NAME or spec in networks.CONTRACTS


def _seeded(spec: str, seed: int, dimension: int) -> TorchNetwork:
    if spec == INCEPTION_RESNET:
        # Imported here: facenet_pytorch and torchvision take a second that other networks need not wait for.
        from engine.embedding import inception_resnet

        return inception_resnet.seeded(seed, dimension)
    if spec == mobilefacenet.NAME:
        return mobilefacenet.seeded(seed, dimension)
    makers: dict[str, Callable[[int], TorchNetwork]] = {
        dlib_resnet.NAME: dlib_resnet.seeded,
        nn4_small2.NAME: nn4_small2.seeded,
    }
    if spec not in makers:
        raise SettingsError(f"no network {spec!r} can be trained; there are {', '.join(NAMES)}")
    network = makers[spec](seed)
    if network.dimension != dimension:
        raise SettingsError(f"{spec} gives {network.dimension} numbers, not {dimension}; choose another")
    return network


def _loaded(spec: str, checkpoint: Path | None) -> TorchNetwork:
    """The network of weights that exist."""
    if not _has_weights(spec) and spec not in {nn4_small2.NAME, INCEPTION_RESNET, mobilefacenet.NAME}:
        raise SettingsError(f"no network {spec!r} can be trained; there are {', '.join(NAMES)}")
    if checkpoint is None:
        network = networks.load_network(spec, "cpu")
    elif spec in networks.CONTRACTS and not delta.is_delta(checkpoint):
        # What was trained on from a delta is whole.
        network = networks.load_network(f"{dlib_resnet.NAME}={checkpoint}", "cpu")
    elif (spec == dlib_resnet.NAME or spec in networks.CONTRACTS) and delta.is_delta(checkpoint):
        network = delta.load(checkpoint, "cpu")
    else:
        network = networks.load_network(f"{spec}={checkpoint}", "cpu")
    if not isinstance(network, TorchNetwork):
        raise WeightsError(f"{checkpoint or spec} is no network that torch runs: it cannot be trained")
    return network


def _with_fresh_head(spec: str, network: TorchNetwork, seed: int, dimension: int) -> TorchNetwork:
    """The same weights under a head of another template size."""
    fresh = _seeded(spec, seed, dimension)
    kept = {
        name: values
        for name, values in network.module.state_dict().items()
        if not name.startswith(_HEADS[spec])
    }
    fresh.module.load_state_dict({**fresh.module.state_dict(), **kept})
    return fresh


def _timm(
    name: str, seed: int, dimension: int | None, checkpoint: Path | None, alignment: str | None
) -> TorchNetwork:
    # Imported here: timm takes seconds, and is an extra.
    from engine.embedding import timm_network

    crop = ALIGNMENTS.get(alignment or timm_network.ALIGNMENT)
    if crop is None:
        raise SettingsError(f"alignment {alignment!r} is unknown; there are {', '.join(ALIGNMENTS)}")
    if checkpoint is None:
        return timm_network.seeded(name, seed, dimension or DIMENSION, crop)
    if not timm_network.has_head(checkpoint):
        return timm_network.load_original(name, checkpoint, seed, dimension or DIMENSION, crop)
    network = timm_network.load(checkpoint, "cpu", name)
    if alignment not in {None, network.alignment.name}:
        raise SettingsError(f"{checkpoint} was trained on {network.alignment.name}, not on {alignment}")
    if dimension in {None, network.dimension}:
        return network
    fresh = timm_network.seeded(name, seed, dimension or DIMENSION, network.alignment)
    kept = {key: t for key, t in network.module.state_dict().items() if key.startswith("backbone.")}
    fresh.module.load_state_dict({**fresh.module.state_dict(), **kept})
    return fresh


def _head(
    base_spec: str,
    seed: int,
    dimension: int,
    checkpoint: Path | None,
    num_hidden: int,
    is_residual: bool,
) -> Backbone:
    base = networks.load_network(base_spec, "cpu")
    threshold = base.threshold
    if isinstance(base, MappedNetwork):
        raise SettingsError(f"{base_spec} is a head already: go on from it by checkpoint={base_spec}")
    if checkpoint is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = VectorMap(base.dimension, dimension, num_hidden, is_residual=is_residual)
    else:
        before = mapped_network.load(checkpoint, "cpu")
        module, threshold = before.module.train(), before.threshold
        if before.base.weights_sha256 != base.weights_sha256:
            raise WeightsError(
                f"{checkpoint} maps {before.base.name} of sha256 {before.base.weights_sha256}, "
                f"not {base_spec} of {base.weights_sha256}"
            )
    return Backbone(
        name=mapped_network.NAME,
        module=module,
        alignment=base.alignment,
        scaling=Scaling((0.0, 0.0, 0.0), 1.0),
        dimension=module.last.out_features,
        mirror=False,
        threshold=threshold,
        stages=tuple(module.children()),
        base=base,
        base_spec=base_spec,
    )


def _backbone(network: TorchNetwork, spec: str) -> Backbone:
    module = network.module.train()
    is_dlib = isinstance(module, dlib_resnet.DlibResNet)
    return Backbone(
        # A delta goes on as what it is a delta of; the network's own name may be one that a user gave it.
        name=dlib_resnet.NAME if is_dlib else spec,
        module=module,
        alignment=network.alignment,
        scaling=network.scaling,
        dimension=network.dimension,
        mirror=network.mirror,
        threshold=network.threshold,
        stages=_stages(module),
    )


def _stages(module: nn.Module) -> tuple[nn.Module, ...]:
    """The parts of a network from its input to its output, those without parameters left out."""
    if isinstance(module, dlib_resnet.DlibResNet):
        return (module.stem, *module.blocks, module.head)
    if isinstance(module, nn4_small2.Nn4Small2):
        return _grouped((_nn4_part(name), child) for name, child in module.named_children())
    backbone = getattr(module, "backbone", module)
    parts = [part for name, child in backbone.named_children() for part in _opened(name, child)]
    if backbone is not module:
        parts.append((HEAD, module.get_submodule(HEAD)))
    stages = _grouped(("last" if name in {"last_linear", "last_bn"} else name, part) for name, part in parts)
    # A vision transformer holds its tokens and places itself, in none of its children.
    own = list(backbone.parameters(recurse=False))
    return (nn.ParameterList(own), *stages) if own else stages


def _opened(name: str, child: nn.Module) -> Sequence[tuple[str, nn.Module]]:
    """The parts of a list of blocks; any other module is one part."""
    if isinstance(child, nn.Sequential | nn.ModuleList):
        return [(f"{name}.{key}", part) for key, part in child.named_children()]
    return [(name, child)]


def _nn4_part(name: str) -> str:
    """Name of the block, or number of the convolution, that a layer of nn4-small2 belongs to."""
    if name.startswith("inception_"):
        return "_".join(name.split("_")[:2])
    return name.removeprefix("conv").removeprefix("bn")


def _grouped(parts: Iterable[tuple[str, nn.Module]]) -> tuple[nn.Module, ...]:
    """Parts of one name together, in the order of the first of each."""
    groups: dict[str, list[nn.Module]] = {}
    for name, part in parts:
        if next(part.parameters(), None) is not None:
            groups.setdefault(name, []).append(part)
    return tuple(group[0] if len(group) == 1 else nn.ModuleList(group) for group in groups.values())
