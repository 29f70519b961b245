"""Weight files of torch networks."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.embedding.checkpoints import (
    Checkpoint,
    check_dimension,
    load_strictly,
    mirror_of,
    name_of,
    read_checkpoint,
    sha256_of_state,
    threshold_of,
    write_safetensors,
)
from engine.embedding.weight_files import sha256_of
from engine.errors import WeightsError
from engine.trainer import checkpoint_files


def small_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def assert_equal_states(a: nn.Module, b: nn.Module) -> None:
    for name, values in a.state_dict().items():
        torch.testing.assert_close(values, b.state_dict()[name], rtol=0, atol=0)


def test_safetensors_give_back_tensors_metadata_and_the_files_digest(tmp_path: Path) -> None:
    net, path = small_net(), tmp_path / "net.safetensors"
    write_safetensors(path, net, {"architecture": "small", "threshold": "0.5"})
    checkpoint = read_checkpoint(path)
    other = small_net(seed=1)
    load_strictly(other, checkpoint.state, "net")
    assert_equal_states(net, other)
    assert checkpoint.metadata == {"architecture": "small", "threshold": "0.5"}
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of(path)


def test_a_bare_state_dict_in_a_torch_file_is_read(tmp_path: Path) -> None:
    net, path = small_net(), tmp_path / "net.pt"
    torch.save(net.state_dict(), path)
    checkpoint = read_checkpoint(path)
    other = small_net(seed=1)
    load_strictly(other, checkpoint.state, "net")
    assert_equal_states(net, other)
    assert checkpoint.metadata == {}


def test_a_state_dict_beside_its_metadata_in_a_torch_file_is_read(tmp_path: Path) -> None:
    net, path = small_net(), tmp_path / "net.pth"
    torch.save({"architecture": "small", "step": 3, "state_dict": net.state_dict()}, path)
    checkpoint = read_checkpoint(path)
    load_strictly(small_net(seed=1), checkpoint.state, "net")
    assert checkpoint.metadata == {"architecture": "small"}


class _Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code of the file ran",)


def test_a_torch_file_with_code_inside_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.pt"
    torch.save({"weight": _Dangerous()}, path)
    with pytest.raises(WeightsError, match="tensors alone"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(_Dangerous(), protocol=2))
    with pytest.raises(WeightsError, match="tensors alone"):
        read_checkpoint(path)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(4096)])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"net.{kind}"
    if kind == "pt":
        torch.save(small_net().state_dict(), path)
    else:
        write_safetensors(path, small_net(), {})
    whole = path.read_bytes()
    for length in (1, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_checkpoint(path)


def test_a_torch_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save([1, 2, 3], path)
    with pytest.raises(WeightsError, match="no state dict"):
        read_checkpoint(path)


def test_a_missing_file_and_an_unknown_suffix_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pt"):
        read_checkpoint(tmp_path / "gone.pt")
    path = tmp_path / "net.h5"
    path.write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"net\.h5"):
        read_checkpoint(path)


def test_missing_extra_misshapen_and_not_finite_tensors_are_all_named() -> None:
    state = small_net().state_dict()
    del state["0.bias"]
    state["3.weight"] = torch.zeros(1)
    state["2.weight"] = torch.zeros(2, 4, 3, 3)
    state["1.bias"][0] = float("nan")
    with pytest.raises(WeightsError) as caught:
        load_strictly(small_net(), state, "x.pt")
    message = caught.value.message
    assert message.startswith("x.pt is not of this network")
    assert "missing: 0.bias" in message
    assert "extra: 3.weight" in message
    assert "misshapen: 2.weight [2, 4, 3, 3] instead of [2, 4, 1, 1]" in message
    assert "not finite: 1.bias" in message


def test_an_empty_state_names_few_tensors_and_counts_the_rest() -> None:
    net = nn.Sequential(*[nn.Linear(1, 1) for _ in range(20)])
    with pytest.raises(WeightsError, match=r"0\.weight.* and 32 more"):
        load_strictly(net, {}, "x.pt")


def test_batch_counters_may_be_there_or_not() -> None:
    state = small_net().state_dict()
    load_strictly(small_net(1), state, "with")
    del state["1.num_batches_tracked"]
    load_strictly(small_net(1), state, "without")


def test_the_digest_of_a_state_follows_names_shapes_and_values() -> None:
    state = {"a": torch.arange(6.0), "b": torch.ones(2, 2)}
    digest = sha256_of_state(state)
    assert digest == sha256_of_state(dict(reversed(state.items())))
    assert digest != sha256_of_state({**state, "a": torch.arange(6.0).reshape(2, 3)})
    assert digest != sha256_of_state({**state, "b": torch.zeros(2, 2)})
    assert digest != sha256_of_state({"a": state["a"], "c": state["b"]})


@pytest.mark.parametrize("dimension", [-1, 0, 63, 1025])
def test_dimensions_that_no_template_has_are_refused(dimension: int) -> None:
    with pytest.raises(WeightsError, match=f"vectors of {dimension} numbers"):
        check_dimension(dimension, "x.onnx")


@pytest.mark.parametrize("dimension", [64, 128, 512, 1024])
def test_dimensions_of_templates_pass(dimension: int) -> None:
    check_dimension(dimension, "x.onnx")


def test_a_checkpoint_of_a_run_is_called_so(tmp_path: Path) -> None:
    path = checkpoint_files.save(tmp_path, 7, {"learner": small_net().state_dict(), "step": 7})
    with pytest.raises(
        WeightsError, match=r"step-000000007\.pt is a checkpoint of a run, not a network$"
    ) as caught:
        read_checkpoint(path)
    assert "RUN/network.safetensors" in caught.value.hint


def test_of_what_torch_says_only_the_beginning_is_told(tmp_path: Path) -> None:
    """The rest is long, and advises to run the code that a file may hold."""
    path = tmp_path / "net.pt"
    torch.save(Path("x"), path)
    with pytest.raises(WeightsError, match=r"is no torch file of tensors alone: Weights only load failed$"):
        read_checkpoint(path)
    # No tensors, as a memo without what it refers to, and a tuple of nothing.
    for content in (b"", b"h0.", b"\x87."):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"alone: it is damaged$"):
            read_checkpoint(path)


def checkpoint_with(**metadata: str) -> Checkpoint:
    return Checkpoint(Path("x.safetensors"), {}, metadata, "")


def test_metadata_override_threshold_and_mirror_and_wrong_ones_are_refused() -> None:
    assert threshold_of(checkpoint_with(), 0.4) == 0.4
    assert threshold_of(checkpoint_with(threshold="0.25"), 0.4) == 0.25
    assert mirror_of(checkpoint_with(), default=True)
    assert not mirror_of(checkpoint_with(mirror="false"), default=True)
    assert mirror_of(checkpoint_with(mirror="true"), default=False)
    for text in ("high", "nan", "1.5", ""):
        with pytest.raises(WeightsError, match="threshold"):
            threshold_of(checkpoint_with(threshold=text), 0.4)
    with pytest.raises(WeightsError, match="mirror"):
        mirror_of(checkpoint_with(mirror="yes"), default=True)


def test_metadata_may_name_the_contract() -> None:
    assert name_of(checkpoint_with(), "net") == "net"
    assert name_of(checkpoint_with(contract_name="mine"), "net") == "mine"
    for text in ("", "n" * 101, "a\nb"):
        with pytest.raises(WeightsError, match="metadata contract_name must be 1 to 100 printable"):
            name_of(checkpoint_with(contract_name=text), "net")


def test_the_same_weights_are_written_as_the_same_bytes(tmp_path: Path) -> None:
    """Else each export would have a contract of its own."""
    net = small_net()
    metadata = {f"key {number}": f"value {number} ä" for number in range(20)}
    written = set()
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        write_safetensors(path, net, metadata)
        written.add(path.read_bytes())
        assert read_checkpoint(path).metadata == metadata
        assert all(torch.equal(t, net.state_dict()[name]) for name, t in read_checkpoint(path).state.items())
    assert len(written) == 1
