"""A run from its first step to the network that is served, broken off and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.errors import InvalidInputError, PreconditionError, SettingsError, TrainingError, WeightsError
from engine.trainer import checkpoint_files
from engine.trainer.augment import NO_AUGMENTATION
from engine.trainer.backbones import build_backbone
from engine.trainer.export import export_safetensors
from engine.trainer.learner import Learner
from engine.trainer.loop import Data, Options, train
from engine.trainer.objective_settings import ObjectiveSettings
from engine.trainer.run_folder import RunFolder
from engine.trainer.settings import BatchSettings, NetworkSettings, OptimizerSettings, TrainSettings
from engine.trainer.shipping import ship
from tests.unit.trainer.faces import made_up_crops

QUIET = Options(num_workers=0, is_bar_shown=False)
LEARNT, HELD = made_up_crops([3, 2, 3, 4, 1]), made_up_crops([3, 2, 1, 2], seed=1)
DATA = Data(LEARNT, HELD)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def settings_of(**changed: Any) -> TrainSettings:
    """The last stage of dlib's network, in a few steps."""
    values: dict[str, Any] = {
        "network": NetworkSettings(num_trainable_stages=2),
        "batch": BatchSettings(num_identities=3, num_pictures=2, num_singles=0),
        "objective": ObjectiveSettings(margin=0.4, global_threshold_weight=0.5, memory_size=16),
        "optimizer": OptimizerSettings(warmup_steps=2, ema_decay=0.5),
        "num_steps": 6,
        "is_trunk_cached": True,
        "validate_every_steps": 3,
        "checkpoint_every_steps": 2,
        "log_every_steps": 2,
    }
    return TrainSettings(**{**values, **changed})


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.network)


def test_a_run_ends_with_a_network_a_card_and_its_figures(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    ended = train(run, settings_of(), DATA, QUIET)
    assert (ended.step, ended.is_done, ended.network) == (6, True, run.network)
    assert [note["step"] for note in run.notes("train")] == [2, 4, 6]
    assert [note["step"] for note in run.notes("validation")] == [3, 6]
    card = run.card.read_text()
    assert "Judged by 8 pictures of 4 other people" in card
    assert "Learnt from 12 pictures of 4 people (digest " in card
    assert "; 1 more with one picture were never drawn" in card
    for fpir, least in (("0.1", 10), ("0.01", 100)):
        told = "too few strangers: judged by 3 pictures of them, as of FPIR 0"
        assert f"\n\nFNIR at FPIR {fpir}: {told}; fewer than {least} cannot tell it.\n" in card
    assert f"| {6} | {run.notes('validation')[-1]['rank1']:.4g} |" in card
    network = load_network(str(run.network), "cpu")
    # It is shipped with the threshold that the people held out ask for, not with that of the start.
    measured = run.notes("validation")[-1]["threshold_at_fpir_0.1"]
    assert network.threshold == pytest.approx(measured, abs=1e-4)
    assert network.threshold >= measured
    templates = Embedder(network).embed(HELD.crops[:])
    assert templates.shape == (8, 128)
    before = Embedder(load_network("dlib-resnet", "cpu"))
    assert network.weights_sha256 != before.contract.weights_sha256
    assert np.abs(templates - before.embed(HELD.crops[:])).max() > 1e-3


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"network": NetworkSettings(name="head", is_residual=True), "is_trunk_cached": False},
        {
            "network": NetworkSettings(num_trainable_stages=2),
            "is_trunk_cached": False,
            "precision": "bfloat16",
        },
    ],
    ids=["trunk", "head", "augmented-bfloat16"],
)
def test_a_run_broken_off_and_gone_on_with_ends_with_the_same_bits(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    settings = settings_of(**changed)
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    train(whole, settings, DATA, QUIET)
    paused = train(broken, settings, DATA, Options(num_workers=0, is_bar_shown=False, stop_after_s=0.0))
    assert (paused.step, paused.is_done, paused.network) == (1, False, None)
    assert train(broken, settings, DATA, QUIET).is_done
    expected, given = weights(whole), weights(broken)
    assert expected.keys() == given.keys()
    assert all(torch.equal(expected[name], given[name]) for name in expected)
    for kind in ("train", "validation"):
        # The pause lay between two notes: the mean loss is over the steps before it too.
        first, second = (
            [{**note, "pictures_per_s": 0.0} for note in run.notes(kind)] for run in (whole, broken)
        )
        assert first == second


def on_disk(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """When each file and folder was last changed, and what is in it."""
    places = [folder, *folder.rglob("*")]
    return {one: (one.stat().st_mtime_ns, one.read_bytes() if one.is_file() else b"") for one in places}


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path)
    ended = train(run, settings_of(), DATA, QUIET)
    before = on_disk(tmp_path)
    assert "this run is done" not in capsys.readouterr().err
    assert train(run, settings_of(), DATA, QUIET) == ended
    assert on_disk(tmp_path) == before
    assert f"this run is done: {run.network}" in capsys.readouterr().err
    with pytest.raises(PreconditionError, match=r"settings\.seed was 0, now 1"):
        train(run, settings_of(seed=1), DATA, QUIET)
    assert on_disk(tmp_path) == before


@pytest.mark.parametrize("name", ["network.safetensors", "model-card.md"])
def test_a_finished_run_that_lacks_what_it_came_to_writes_it_again(tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path)
    train(run, settings_of(), DATA, QUIET)
    data, notes = (tmp_path / name).read_bytes(), run.notes("train")
    (tmp_path / name).unlink()
    assert train(run, settings_of(), DATA, QUIET).is_done
    assert (tmp_path / name).read_bytes() == data
    assert run.notes("train") == notes


def test_a_torn_checkpoint_is_refused_and_the_one_before_it_serves(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    train(run, settings_of(), DATA, QUIET)
    expected = weights(run)
    newest = checkpoint_files.newest(run.checkpoints)
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[:1000])
    run.network.unlink()
    with pytest.raises(WeightsError, match="is damaged"):
        train(run, settings_of(), DATA, QUIET)
    newest.unlink()
    assert train(run, settings_of(), DATA, QUIET).is_done
    assert all(torch.equal(values, expected[name]) for name, values in weights(run).items())


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    train(run, settings_of(), DATA, Options(num_workers=0, is_bar_shown=False, stop_after_s=0.0))
    other = {"network": {"weight": torch.zeros(3)}, "objective": {}, "optimizer": {}, "average": []}
    checkpoint_files.save(run.checkpoints, 4, {"learner": other, "num_collapsed": 0, "step": 4})
    with pytest.raises(WeightsError, match="is not of this run"):
        train(run, settings_of(), DATA, QUIET)


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.open(settings_of(seed=1), DATA.described())
    run.close()
    with pytest.raises(PreconditionError, match=r"settings\.seed was 1, now 0"):
        train(run, settings_of(), DATA, QUIET)


def test_people_on_both_sides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="5 people are trained on and validated by"):
        train(RunFolder(tmp_path), settings_of(), Data(LEARNT, LEARNT), QUIET)


def test_crops_of_another_alignment_are_refused(tmp_path: Path) -> None:
    data = Data(made_up_crops([2, 2, 2], "arcface-112"))
    with pytest.raises(InvalidInputError, match="arcface-112, dlib-resnet takes dlib-150"):
        train(RunFolder(tmp_path), settings_of(), data, QUIET)


def test_more_people_in_a_batch_than_there_are_is_refused(tmp_path: Path) -> None:
    settings = settings_of(batch=BatchSettings(num_identities=50, num_pictures=2))
    with pytest.raises(SettingsError, match="50"):
        train(RunFolder(tmp_path), settings, DATA, QUIET)


def test_a_loss_that_is_no_number_ends_the_run_before_the_weights_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    # The rate is what ruins a real run; one so high is not finite within a few steps.
    settings = settings_of(
        optimizer=OptimizerSettings(kind="sgd", learning_rate=1e30, warmup_steps=0, clip_norm=0.0)
    )
    with pytest.raises(TrainingError, match="is not finite") as raised:
        train(run, settings, Data(LEARNT), QUIET)
    assert "optimizer.learning_rate" in raised.value.hint
    assert not run.network.exists()


def test_short_memory_says_which_batch_would_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Learner.forward_backward

    def short(self: Learner, pixels: torch.Tensor, labels: torch.Tensor, step: int) -> Any:
        torch.empty(1 << 60, dtype=torch.uint8)
        return forward(self, pixels, labels, step)

    monkeypatch.setattr(Learner, "forward_backward", short)
    with pytest.raises(TrainingError, match=r"a batch of 6 pictures does not fit .* 3 pictures would fit"):
        train(RunFolder(tmp_path), settings_of(), DATA, QUIET)


def test_people_with_one_picture_are_negatives_unless_told_otherwise(tmp_path: Path) -> None:
    few = {"num_steps": 3, "log_every_steps": 1}
    alone, beside = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "beside")
    train(alone, settings_of(**few), Data(LEARNT), QUIET)
    batch = BatchSettings(num_identities=3, num_pictures=2)
    train(beside, settings_of(**few, batch=batch), Data(LEARNT), QUIET)
    memories = [[note["num_memory"] for note in run.notes("train")] for run in (alone, beside)]
    assert memories == [[0, 6, 12], [0, 7, 14]]


def test_nobody_held_out_is_said_in_the_card(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    train(run, settings_of(num_steps=3), Data(LEARNT), QUIET)
    assert "nothing is known of how well it does" in run.card.read_text()
    assert json.loads((tmp_path / "settings.json").read_text())["data"]["validation"] == ""


def test_augmentation_is_what_the_settings_say(tmp_path: Path) -> None:
    plain, changed = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "changed")
    few = {"num_steps": 3, "is_trunk_cached": False}
    train(plain, settings_of(**few, augment=NO_AUGMENTATION), Data(LEARNT), QUIET)
    train(changed, settings_of(**few), Data(LEARNT), QUIET)
    assert plain.notes("train")[0]["loss"] != changed.notes("train")[0]["loss"]


def test_a_run_killed_before_it_was_judged_is_judged_when_it_goes_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    train(run, settings_of(), DATA, QUIET)
    run.network.unlink()
    expected, metrics = run.notes("validation"), tmp_path / "metrics.jsonl"
    kept = [
        line for line in metrics.read_text().splitlines() if "validation" not in line or '"step": 3' in line
    ]
    metrics.write_text("".join(f"{line}\n" for line in kept))
    assert train(run, settings_of(), DATA, QUIET).is_done
    assert run.notes("validation") == expected
    assert f"| {expected[-1]['step']} |" in run.card.read_text()


def test_what_is_refused_leaves_no_run_behind(tmp_path: Path) -> None:
    few = Data(LEARNT, made_up_crops([3, 1, 1], seed=1))
    with pytest.raises(InvalidInputError, match="1 of 3 people held out"):
        train(RunFolder(tmp_path), settings_of(), few, QUIET)
    large = settings_of(batch=BatchSettings(num_identities=50, num_pictures=2))
    with pytest.raises(SettingsError, match="P, identities in a batch, is 50"):
        train(RunFolder(tmp_path), large, DATA, QUIET)
    assert train(RunFolder(tmp_path), settings_of(), DATA, QUIET).is_done


def test_the_environment_tells_the_threads_that_were_asked_for(tmp_path: Path) -> None:
    options = Options(num_threads=2, num_workers=0, is_bar_shown=False, stop_after_s=0.0)
    train(RunFolder(tmp_path), settings_of(), DATA, options)
    assert json.loads((tmp_path / "environment.json").read_text())["num_threads"] == 2


def test_a_head_over_weights_of_another_place_is_finished_and_can_be_loaded(tmp_path: Path) -> None:
    base = tmp_path / "elsewhere" / "network.safetensors"
    base.parent.mkdir()
    export_safetensors(build_backbone("dlib-resnet", seed=0), base)
    run = RunFolder(tmp_path / "run")
    network = NetworkSettings(name=f"head:{base}", is_residual=True)
    train(run, settings_of(network=network, is_trunk_cached=False, num_steps=3), DATA, QUIET)
    assert Embedder(load_network(str(run.network), "cpu")).embed(HELD.crops[:]).shape == (8, 128)
    # Again: what is there already is no other run.
    assert train(run, settings_of(network=network, is_trunk_cached=False, num_steps=3), DATA, QUIET).is_done
    contract = ship([run], base.with_name("shipped.safetensors"))
    assert contract.dimension == 128
