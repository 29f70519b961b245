"""What a run that goes on must have kept: the start's weights, the count of an alarm, dropout's draws."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.errors import PreconditionError, SettingsError, TrainingError
from engine.trainer import alarms
from engine.trainer.backbones import build_backbone
from engine.trainer.crop_set import CropRows
from engine.trainer.export import export_safetensors
from engine.trainer.loop import Data, Options, train
from engine.trainer.objective_settings import ObjectiveSettings
from engine.trainer.run_folder import RunFolder
from engine.trainer.settings import BatchSettings, NetworkSettings, OptimizerSettings, TrainSettings
from tests.unit.trainer.faces import made_up_crops

QUIET = Options(num_workers=0, is_bar_shown=False)
PAUSED = dataclasses.replace(QUIET, stop_after_s=0.0)
BATCH = BatchSettings(num_identities=3, num_pictures=2, num_singles=0)
LEARNT = made_up_crops([2, 2, 2])

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def few_steps(network: NetworkSettings, *, num_steps: int = 3, start_share: float = 0.0) -> TrainSettings:
    return TrainSettings(
        network=network,
        batch=BATCH,
        objective=ObjectiveSettings(margin=0.4),
        optimizer=OptimizerSettings(warmup_steps=0, ema_decay=0.5, start_share=start_share),
        num_steps=num_steps,
        is_trunk_cached=bool(network.num_trainable_stages),
    )


def test_a_network_with_dropout_and_batch_normalisation_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    settings = few_steps(NetworkSettings(name="inception-resnet-v1", is_from_scratch=True))
    data = Data(made_up_crops([2, 2, 2], "facenet-160"))
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    train(whole, settings, data, QUIET)
    assert train(broken, settings, data, PAUSED).step == 1
    # What else draws random numbers in between changes nothing.
    torch.rand(100)
    train(broken, settings, data, QUIET)
    expected, given = load_file(whole.network), load_file(broken.network)
    assert all(torch.equal(values, given[name]) for name, values in expected.items())
    assert any(name.endswith("running_var") for name in expected)


def test_vectors_that_are_one_are_counted_through_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "COLLAPSED_STEPS", 3)
    same = dataclasses.replace(LEARNT, crops=CropRows(np.full((6, 150, 150, 3), 90, np.uint8)))
    settings = few_steps(NetworkSettings(num_trainable_stages=1), num_steps=9)
    run = RunFolder(tmp_path)
    assert train(run, settings, Data(same), PAUSED).step == 1
    with pytest.raises(TrainingError, match=r"all vectors have become one: .* up to step 2"):
        train(run, settings, Data(same), QUIET)


def test_a_run_whose_starting_weights_were_replaced_does_not_go_on(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    export_safetensors(build_backbone("mobilefacenet", seed=0), start)
    settings = few_steps(NetworkSettings(name="mobilefacenet", checkpoint=str(start)))
    data = Data(made_up_crops([2, 2, 2], "arcface-112"))
    assert train(RunFolder(tmp_path / "run"), settings, data, PAUSED).step == 1
    export_safetensors(build_backbone("mobilefacenet", seed=1), start)
    with pytest.raises(PreconditionError, match="the weights to start from differ"):
        train(RunFolder(tmp_path / "run"), settings, data, QUIET)


def test_no_share_of_the_start_where_batch_normalisation_learns(tmp_path: Path) -> None:
    data = Data(made_up_crops([2, 2, 2], "arcface-112"))
    learning = few_steps(NetworkSettings(name="mobilefacenet"), start_share=0.4)
    with pytest.raises(SettingsError, match="mobilefacenet has batch normalisation") as raised:
        train(RunFolder(tmp_path / "run"), learning, data, QUIET)
    assert "network.is_normalisation_frozen" in raised.value.hint
    assert not (tmp_path / "run").exists()
    frozen = NetworkSettings(name="mobilefacenet", is_normalisation_frozen=True)
    assert train(
        RunFolder(tmp_path / "run"), few_steps(frozen, num_steps=1, start_share=0.4), data, QUIET
    ).is_done


def test_memory_that_is_short_where_weights_move_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", short)
    settings = few_steps(NetworkSettings(num_trainable_stages=1))
    with pytest.raises(TrainingError, match="a batch of 6 pictures does not fit"):
        train(RunFolder(tmp_path), settings, Data(LEARNT), QUIET)
