"""The folder of a run: one run a folder, and what it noted."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.config import build
from engine.errors import InvalidInputError, PreconditionError, SettingsError
from engine.trainer.run_folder import RunFolder
from engine.trainer.settings import NetworkSettings, TrainSettings

DATA = {"training": "abc", "num_pictures": 5}


def open_run(path: Path, settings: TrainSettings, data: Mapping[str, object] = DATA) -> None:
    with contextlib.closing(RunFolder(path)) as run:
        run.open(settings, data)


def test_a_run_is_gone_on_with_by_the_same_settings_and_data(tmp_path: Path) -> None:
    settings = TrainSettings(seed=3)
    for _ in range(2):
        open_run(tmp_path / "run", settings)
    assert RunFolder(tmp_path / "run").settings() == (settings, DATA)
    told = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert told["num_threads"] >= 1
    assert "torch" in told["versions"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e300])
@pytest.mark.parametrize(
    "key",
    [
        "optimizer.learning_rate",
        "optimizer.weight_decay",
        "optimizer.clip_norm",
        "objective.margin",
        "objective.scale",
        "objective.global_threshold_weight",
    ],
)
def test_a_number_that_no_network_can_learn_with_is_no_setting(key: str, value: float) -> None:
    table, _, name = key.partition(".")
    with pytest.raises(SettingsError, match=rf"`float` .* at `\$\.{table}\.{name}`"):
        build(TrainSettings, {table: {name: value}})


def test_another_setting_is_refused_by_name_with_both_values(tmp_path: Path) -> None:
    open_run(tmp_path, TrainSettings(seed=3))
    other = TrainSettings(seed=3, network=NetworkSettings(name="mobilefacenet"))
    with pytest.raises(
        PreconditionError, match=r"settings\.network\.name was 'dlib-resnet', now 'mobilefacenet'"
    ):
        open_run(tmp_path, other)


def test_other_data_are_refused_in_words(tmp_path: Path) -> None:
    open_run(tmp_path, TrainSettings())
    others = {"training": "def", "num_pictures": 6, "validation": "ghi", "start": "jkl"}
    with pytest.raises(PreconditionError) as raised:
        open_run(tmp_path, TrainSettings(seed=1), others)
    assert raised.value.message == (
        f"{tmp_path} holds another run: settings.seed was 0, now 1; the people to learn from differ;"
        " the people to judge by differ; the weights to start from differ"
    )


def test_of_many_differences_the_first_are_told_and_the_others_counted(tmp_path: Path) -> None:
    open_run(tmp_path, TrainSettings())
    other = TrainSettings(
        network=NetworkSettings(name="mobilefacenet", dimension=256, is_from_scratch=True),
        seed=1,
        num_steps=50,
        validation_share=0.3,
    )
    with pytest.raises(PreconditionError) as raised:
        open_run(tmp_path, other, {**DATA, "training": "def"})
    told = raised.value.message.partition(": ")[2].split("; ")
    assert told[0] == "settings.network.name was 'dlib-resnet', now 'mobilefacenet'"
    assert (len(told), told[5]) == (6, "and 2 more")


def test_a_place_that_can_hold_no_run_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InvalidInputError, match="cannot be written: Not a directory"):
            RunFolder(path).check()
    with pytest.raises(PreconditionError, match="not empty and holds no run"):
        RunFolder(tmp_path).check()


def test_a_place_for_a_run_is_left_as_it_is(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new" / "run").check()
    RunFolder(tmp_path).check()
    assert not list(tmp_path.iterdir())
    open_run(tmp_path / "run", TrainSettings())
    before = sorted((tmp_path / "run").iterdir())
    RunFolder(tmp_path / "run").check()
    assert sorted((tmp_path / "run").iterdir()) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"picture")
    with pytest.raises(PreconditionError, match="not empty and holds no run"):
        open_run(tmp_path, TrainSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_folder_without_a_run_has_no_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no run"):
        RunFolder(tmp_path).settings()


def test_what_was_noted_after_the_checkpoint_goes_and_half_a_line_with_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.open(TrainSettings(), DATA)
    run.rewind(0)
    for step in (10, 20, 30):
        run.note(step, {"loss": step / 10})
    run.note(20, {"rank1": 0.5}, "validation")
    run.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "ki')
    again = RunFolder(tmp_path)
    again.rewind(20)
    again.close()
    assert [note["loss"] for note in again.notes("train")] == [1.0, 2.0]
    assert [note["rank1"] for note in again.notes("validation")] == [0.5]


def test_a_run_killed_at_its_very_beginning_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / ".settings.json.17.part").write_text('{"form')
    open_run(tmp_path, TrainSettings())
    assert RunFolder(tmp_path).settings() == (TrainSettings(), DATA)
    assert "torch" in json.loads((tmp_path / "environment.json").read_text())["versions"]


def test_tensorboard_drops_what_a_run_without_a_checkpoint_noted(tmp_path: Path) -> None:
    for _ in range(2):
        run = RunFolder(tmp_path)
        run.rewind(0)
        run.note(1, {"loss": 0.5})
        run.close()
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1]


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.open(TrainSettings(), DATA)
    other = RunFolder(tmp_path / "run")
    with pytest.raises(PreconditionError, match="another process trains in"):
        other.open(TrainSettings(), DATA)
    run.close()
    other.open(TrainSettings(), DATA)
    other.close()


@pytest.mark.parametrize("written", ["{}", "[]", '{"settings": {"seed": "x"}, "data": {}}', "no json"])
def test_settings_that_no_run_wrote_are_named(tmp_path: Path, written: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(written)
    with pytest.raises(SettingsError, match=r"settings\.json is not what a run writes"):
        RunFolder(tmp_path).settings()
    assert file.read_text() == written


def test_notes_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InvalidInputError, match=r"metrics\.jsonl cannot be written"):
        RunFolder(tmp_path).note(1, {"loss": 0.5})
