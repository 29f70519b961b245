"""A finished run as files that are served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.errors import PreconditionError, SettingsError
from engine.trainer.loop import Data, Options, train
from engine.trainer.run_folder import RunFolder
from engine.trainer.settings import BatchSettings, NetworkSettings, OptimizerSettings, TrainSettings
from engine.trainer.shipping import ship
from tests.unit.trainer.faces import made_up_crops

CROPS = made_up_crops([3, 2, 3, 4])


def settings_of(network: NetworkSettings, *, is_trunk_cached: bool) -> TrainSettings:
    return TrainSettings(
        network=network,
        batch=BatchSettings(num_identities=3, num_pictures=2),
        optimizer=OptimizerSettings(warmup_steps=0, learning_rate=1e-3),
        num_steps=2,
        is_trunk_cached=is_trunk_cached,
    )


@pytest.fixture(scope="module")
def dlib_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("runs") / "dlib")
    settings = settings_of(NetworkSettings(num_trainable_stages=2), is_trunk_cached=True)
    train(run, settings, Data(CROPS), Options(num_workers=0, is_bar_shown=False))
    return run


def test_weights_and_delta_give_the_same_templates_under_contracts_of_their_own(
    dlib_run: RunFolder, tmp_path: Path
) -> None:
    whole = ship(dlib_run, tmp_path / "mine.safetensors", threshold=0.9)
    small = ship(dlib_run, tmp_path / "mine", threshold=0.9)
    default = Embedder(load_network("dlib-resnet", "cpu"))
    assert len({whole.digest, small.digest, default.contract.digest}) == 3
    assert (whole.threshold, small.threshold, small.name) == (0.9, 0.9, "mine")
    assert whole.mirror
    assert small.mirror
    expected = Embedder(load_network(str(tmp_path / "mine.safetensors"), "cpu")).embed(CROPS.crops[:])
    given = Embedder(load_network(str(tmp_path / "mine"), "cpu")).embed(CROPS.crops[:])
    assert np.einsum("nd,nd->n", expected, given).min() > 0.99999
    assert np.abs(expected - default.embed(CROPS.crops[:])).max() > 1e-4
    assert (tmp_path / "mine" / "model-card.md").read_text() == dlib_run.card.read_text()


def test_the_same_run_has_the_same_contract_each_time_it_is_shipped(
    dlib_run: RunFolder, tmp_path: Path
) -> None:
    first = ship(dlib_run, tmp_path / "a.safetensors", mirror=False)
    second = ship(dlib_run, tmp_path / "b.safetensors", mirror=False)
    assert first == second
    assert not first.mirror


def test_a_head_is_no_delta(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    settings = settings_of(NetworkSettings(name="head", is_residual=True), is_trunk_cached=False)
    train(run, settings, Data(CROPS), Options(num_workers=0, is_bar_shown=False))
    with pytest.raises(SettingsError, match="dlib-resnet's weights alone"):
        ship(run, tmp_path / "mine")
    assert ship(run, tmp_path / "mine.safetensors").dimension == 128


def test_a_wrong_suffix_and_a_folder_that_is_there_are_refused(dlib_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.safetensors"):
        ship(dlib_run, tmp_path / "mine.pt")
    (tmp_path / "taken").mkdir()
    with pytest.raises(SettingsError, match="taken"):
        ship(dlib_run, tmp_path / "taken")


def test_what_is_not_finished_is_not_shipped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.open(TrainSettings(), {})
    run.close()
    with pytest.raises(PreconditionError, match="is not finished"):
        ship(run, tmp_path / "mine.safetensors")
