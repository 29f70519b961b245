"""A finished run as files that are served."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.embedding.embed import Embedder
from engine.embedding.networks import load_network
from engine.errors import PreconditionError, SettingsError, WeightsError
from engine.trainer.backbones import build_backbone
from engine.trainer.export import export_safetensors
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
    whole = ship([dlib_run], tmp_path / "mine.safetensors", threshold=0.9)
    small = ship([dlib_run], tmp_path / "mine", threshold=0.9)
    default = Embedder(load_network("dlib-resnet", "cpu"))
    assert len({whole.digest, small.digest, default.contract.digest}) == 3
    assert (whole.threshold, small.threshold) == (0.9, 0.9)
    assert (whole.name, small.name) == ("mine", "mine")
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
    (tmp_path / "b").mkdir()
    first = ship([dlib_run], tmp_path / "a.safetensors", mirror=False)
    second = ship([dlib_run], tmp_path / "b" / "a.safetensors", mirror=False)
    assert first == second
    assert not first.mirror
    # Its name is part of a contract.
    assert ship([dlib_run], tmp_path / "c.safetensors", mirror=False).digest != first.digest


def test_a_name_that_no_contract_may_have_is_refused_before_the_work(tmp_path: Path) -> None:
    for name in (f"{'n' * 101}.safetensors", "a\nb"):
        with pytest.raises(SettingsError, match="which is its contract's too, must be 1 to 100"):
            ship([RunFolder(tmp_path / "none")], tmp_path / name)


def test_training_goes_on_from_what_was_shipped_as_what_it_is(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    settings = settings_of(NetworkSettings(name="mobilefacenet"), is_trunk_cached=False)
    crops = made_up_crops([3, 2, 3, 4], "arcface-112")
    train(run, settings, Data(crops), Options(num_workers=0, is_bar_shown=False))
    for name in ("small", "small.safetensors"):
        assert ship([run], tmp_path / name).name == "small"
        again = build_backbone("mobilefacenet", seed=0, checkpoint=tmp_path / name)
        assert again.name == "mobilefacenet"
        export_safetensors(again, tmp_path / f"again-{name}.safetensors")
        assert load_network(str(tmp_path / f"again-{name}.safetensors"), "cpu").name == "mobilefacenet"


def head_run(folder: Path, name: str) -> RunFolder:
    run = RunFolder(folder)
    settings = settings_of(NetworkSettings(name=name, is_residual=True), is_trunk_cached=False)
    crops = CROPS if name == "head" else made_up_crops([3, 2, 3, 4], "arcface-112")
    train(run, settings, Data(crops), Options(num_workers=0, is_bar_shown=False))
    return run


def test_a_head_over_a_named_network_is_a_file_or_a_folder(tmp_path: Path) -> None:
    run = head_run(tmp_path / "run", "head")
    assert load_network(str(run.network), "cpu").name == "mapped:dlib-resnet"
    for name in ("mine", "mine.safetensors"):
        shipped = ship([run], tmp_path / "to" / name)
        assert (shipped.dimension, shipped.name) == (128, "mine")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["mine", "mine.safetensors"]


def test_a_head_is_shipped_with_its_base_wherever_that_was(tmp_path: Path) -> None:
    base = tmp_path / "before" / "b.safetensors"
    base.parent.mkdir()
    export_safetensors(build_backbone("mobilefacenet", seed=1), base)
    run = head_run(tmp_path / "run", f"head:{base}")
    base.parent.rename(tmp_path / "moved")
    own = ship([run], run.path / "h.safetensors")
    other = ship([run], tmp_path / "h.safetensors")
    folder = ship([run], tmp_path / "h")
    assert own == other
    assert own.digest != folder.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base-b.safetensors",
        "h",
        "h.safetensors",
        "moved",
        "run",
    ]
    crops = made_up_crops([1, 1], "arcface-112", seed=3).crops[:]
    served = Embedder(load_network(str(tmp_path / "h.safetensors"), "cpu")).embed(crops)
    trained = Embedder(load_network(str(run.network), "cpu")).embed(crops)
    np.testing.assert_array_equal(served, trained)


@pytest.mark.parametrize("name", ["d", "d.safetensors", "d.onnx"])
def test_a_place_where_nothing_can_be_written_is_named_in_a_line(
    dlib_run: RunFolder, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for folder in (tmp_path / "file", Path("/proc/nope")):
        to, onnx = folder / name, None
        if name == "d.onnx":
            to, onnx = tmp_path / f"{folder.name}.safetensors", folder / name
        with pytest.raises(WeightsError, match=f"cannot write {folder / name}: ") as caught:
            ship([dlib_run], to, onnx=onnx)
        assert "\n" not in caught.value.message
        assert "bug" not in caught.value.hint


def test_a_wrong_suffix_and_a_folder_that_is_there_are_refused(dlib_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.safetensors"):
        ship([dlib_run], tmp_path / "mine.pt")
    with pytest.raises(SettingsError, match=r"\.onnx"):
        ship([dlib_run], tmp_path / "mine.safetensors", onnx=tmp_path / "mine.bin")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken").mkdir()
    with pytest.raises(SettingsError, match="taken"):
        ship([dlib_run], tmp_path / "taken")


@pytest.mark.parametrize("taken", ["net.safetensors", "net", "net.onnx", "net.onnx.json"])
def test_what_is_there_is_not_replaced_and_nothing_else_is_written(
    dlib_run: RunFolder, tmp_path: Path, taken: str
) -> None:
    (tmp_path / taken).write_bytes(b"another's")
    target = tmp_path / ("net" if taken == "net" else "net.safetensors")
    with pytest.raises(SettingsError, match=f"{taken} is there already") as caught:
        ship([dlib_run], target, onnx=tmp_path / "net.onnx")
    assert "another name" in caught.value.hint
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {taken: b"another's"}


@pytest.mark.parametrize("name", ["net", "net.safetensors"])
def test_without_the_library_of_onnx_nothing_is_left_behind(
    dlib_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SettingsError, match="writing ONNX needs onnx"):
        ship([dlib_run], tmp_path / name, onnx=tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_the_weights_the_onnx_is_not_left_behind(tmp_path: Path) -> None:
    run = head_run(tmp_path / "run", "head")
    (tmp_path / "to").mkdir()
    with pytest.raises(WeightsError, match="cannot write") as caught:
        ship([run], tmp_path / "nowhere" / "net.safetensors", onnx=tmp_path / "to" / "net.onnx")
    assert "has room" in caught.value.hint
    assert list((tmp_path / "to").iterdir()) == []


def test_what_is_not_finished_is_not_shipped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.open(TrainSettings(), {})
    run.close()
    with pytest.raises(PreconditionError, match="is not finished"):
        ship([run], tmp_path / "mine.safetensors")


def test_several_runs_are_shipped_as_the_mean_of_their_weights(dlib_run: RunFolder, tmp_path: Path) -> None:
    settings = settings_of(NetworkSettings(num_trainable_stages=2), is_trunk_cached=True)
    other = RunFolder(tmp_path / "other")
    seeded = msgspec.structs.replace(settings, seed=1, validation_share=0.0)
    train(other, seeded, Data(CROPS), Options(num_workers=0, is_bar_shown=False))
    ship([dlib_run, other], tmp_path / "mean.safetensors", threshold=0.9)
    mean, first, second = (
        load_file(path) for path in (tmp_path / "mean.safetensors", dlib_run.network, other.network)
    )
    assert any(not torch.equal(values, second[name]) for name, values in first.items())
    for name, values in mean.items():
        torch.testing.assert_close(values, (first[name] + second[name]) / 2, rtol=0, atol=1e-7)
    folder = ship([dlib_run, other], tmp_path / "mean")
    assert folder.name == "mean"
    assert "the mean of 2 runs', with the seeds 0, 1" in (tmp_path / "mean" / "model-card.md").read_text()


def test_runs_that_did_not_start_from_the_same_weights_have_no_mean(
    dlib_run: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="did not start from the same weights"):
        ship([dlib_run, head_run(tmp_path / "head", "head")], tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_a_folder_by_the_name_of_a_shipped_network_is_itself(dlib_run: RunFolder, tmp_path: Path) -> None:
    contract = ship([dlib_run], tmp_path / "dlib-resnet-ft1")
    with contextlib.chdir(tmp_path):
        assert ship([dlib_run], Path("other")).name == "other"
        (tmp_path / "dlib-resnet-ft1").rename("kept")
        assert ship([dlib_run], Path("dlib-resnet-ft1")) == contract
    assert contract != Embedder(load_network("dlib-resnet-ft1", "cpu")).contract
