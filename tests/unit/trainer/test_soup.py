"""The mean of several networks' weights."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from engine.errors import SettingsError
from engine.trainer.backbones import Backbone, build_backbone
from engine.trainer.soup import mean_of


def moved(backbone: Backbone, by: float) -> Backbone:
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        for values in other.module.parameters():
            values.add_(by)
    return other


def test_the_mean_of_one_is_itself_and_of_several_in_their_middle() -> None:
    start = build_backbone("dlib-resnet", seed=0)
    expected = [values.clone() for values in start.module.parameters()]
    for given in ([start], [moved(start, -0.25), moved(start, 0.0), moved(start, 0.25)]):
        mean = mean_of(given)
        for now, values in zip(mean.module.parameters(), expected, strict=True):
            torch.testing.assert_close(now, values, rtol=0, atol=1e-6)


def test_the_highest_threshold_counts_wherever_it_stands() -> None:
    start = build_backbone("dlib-resnet", seed=0)
    given = [dataclasses.replace(start, threshold=value) for value in (0.5, 0.7, 0.6)]
    assert mean_of(given).threshold == 0.7


def test_networks_of_other_kinds_or_statistics_have_no_mean() -> None:
    small = build_backbone("mobilefacenet", seed=0)
    with pytest.raises(SettingsError, match="these differ in their tensors"):
        mean_of([build_backbone("mobilefacenet", seed=0, dimension=64), small])
    other = copy.deepcopy(small)
    other.module(torch.randn(4, 3, 112, 112))
    with pytest.raises(SettingsError, match="learnt statistics of batch normalisation"):
        mean_of([small, other])
