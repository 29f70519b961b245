"""Several fine-tunings of the same weights made one network: the mean of theirs.

After Wortsman et al. 2022, "Model soups", section 2 (the uniform soup). It costs nothing when it is served,
and depends less than one run on the order in which that saw its pictures. Knows nothing of files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from engine.errors import SettingsError
from engine.trainer.backbones import Backbone


def mean_of(backbones: Sequence[Backbone]) -> Backbone:
    """Give the first with the mean of all weights, and the highest of their thresholds.

    They must have started from the same weights: the mean of others is no network. That of one is itself.
    Raises SettingsError where they are not the same kind of network, or batch normalisation learnt, whose
    statistics would not be those of the mean.
    """
    states = [backbone.module.state_dict() for backbone in backbones]
    shapes = [{name: values.shape for name, values in state.items()} for state in states]
    if any(one != shapes[0] for one in shapes):
        raise SettingsError("the mean is of networks of the same kind: these differ in their tensors")
    for name, values in backbones[0].module.named_buffers():
        if values.is_floating_point() and any(not torch.equal(values, state[name]) for state in states):
            raise SettingsError(
                f"{backbones[0].name} learnt statistics of batch normalisation, which a mean would not have",
                hint="Train with network.is_normalisation_frozen=true.",
            )
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(values.dtype)
        if values.is_floating_point()
        else values
        for name, values in states[0].items()
    }
    backbones[0].module.load_state_dict(mean)
    return dataclasses.replace(backbones[0], threshold=max(one.threshold for one in backbones))
