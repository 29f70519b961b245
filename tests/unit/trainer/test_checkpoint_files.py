"""Checkpoints: whole or not there, and refused where they are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import WeightsError
from engine.trainer import checkpoint_files


def test_there_is_none_before_one_is_written(tmp_path: Path) -> None:
    assert checkpoint_files.newest(tmp_path) is None
    assert checkpoint_files.newest(tmp_path / "missing") is None


def test_the_newest_is_read_back_to_the_bit_and_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoint_files.save(tmp_path, step, {"step": step, "weights": torch.full((3,), step / 7)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000010.pt", "step-000000015.pt"]
    newest = checkpoint_files.newest(tmp_path)
    assert newest is not None
    state = checkpoint_files.load(newest, "cpu")
    assert state["step"] == 15
    assert torch.equal(state["weights"], torch.full((3,), 15 / 7))


@pytest.mark.parametrize("kept", [0, 10, 31, 32, 200, -1])
def test_one_torn_anywhere_is_refused_by_name_with_the_way_on(tmp_path: Path, kept: int) -> None:
    path = checkpoint_files.save(tmp_path, 5, {"weights": torch.arange(100.0)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"step-000000005\.pt is damaged") as raised:
        checkpoint_files.load(path, "cpu")
    assert "Remove step-000000005.pt" in raised.value.hint


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = checkpoint_files.save(tmp_path, 5, {"weights": torch.arange(100.0)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="is damaged"):
        checkpoint_files.load(path, "cpu")


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    torn = tmp_path / ".step-000000099.pt.123.part"
    torn.write_bytes(b"half")
    checkpoint_files.save(tmp_path, 5, {})
    assert checkpoint_files.newest(tmp_path) == tmp_path / "step-000000005.pt"
    assert not torn.exists()
