"""A step of the trainer and of the bare network: what each does, and what is told of their times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import machine, train_step
from benchmarks.train_step import SEED, bare_step, crops_of, learner_of, main, trainer_step
from engine.trainer.alarms import Alarms
from engine.trainer.backbones import build_backbone
from engine.trainer.loader import Loader
from engine.trainer.sampler import PKSampler
from engine.trainer.settings import TrainSettings

NETWORK = "mobilefacenet"


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(autouse=True)
def few_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "NUM_PEOPLE", 6)


def test_times_are_told_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "REPORTS", tmp_path / "reports")
    given = ("--people", "2", "--pictures", "3", "--rounds", "1", "--workers", "0", "--device", "cpu")
    main([*given, "--network", NETWORK, "--stages", "1", "--json", str(tmp_path / "row.json")])
    row = json.loads((tmp_path / "row.json").read_text())
    assert (row["network"], row["stages"], row["pictures"], row["rounds"]) == (NETWORK, 1, 6, 1)
    # Of one round the medians are its times.
    assert row["ratio"] == pytest.approx(row["trainer_ms"] / row["bare_ms"], rel=0.1)
    assert row["pictures_per_s"] == pytest.approx(6000 / row["trainer_ms"], rel=0.1)
    *told, path = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == list(row)
    text = Path(path).read_text()
    assert "\n".join(told) in text
    assert f"--network {NETWORK} --stages 1 --people 2 --pictures 3 " in text
    assert str(tmp_path) not in text


def test_the_trainer_moves_weights_and_the_bare_network_only_makes_gradients() -> None:
    backbone = build_backbone(NETWORK, seed=SEED)
    crops = crops_of(backbone)
    assert np.bincount(crops.labels).tolist() == [train_step.NUM_PICTURES] * 6
    settings = TrainSettings(num_steps=30)
    learner = learner_of(backbone, settings, crops, "cpu")

    def weights() -> torch.Tensor:
        return torch.cat([one.detach().flatten() for one in backbone.module.parameters()])

    before = weights()
    with Loader(crops, PKSampler(crops.labels, 2, 3, SEED), settings.augment, 0, SEED, "cpu") as loader:
        batches = loader.batches(0, 30)
        batch = next(batches)
        assert batch.pixels.shape == (6, 112, 112, 3)
        assert bare_step(learner, batch, "cpu") > 0
        assert torch.equal(weights(), before)
        gradients = [one.grad for one in backbone.module.parameters() if one.grad is not None]
        assert any(bool(one.abs().sum() > 0) for one in gradients)
        assert trainer_step(learner, Alarms(), batches, "cpu") > 0
    assert (weights() != before).float().mean() > 0.5
