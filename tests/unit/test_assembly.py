"""Which calibrations a server knows: files given, then those beside weights, then the shipped."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from engine.assembly import NO_MODEL, read_calibrations, warn_of_calibration
from engine.decision.calibration import Calibration, encode, shipped
from engine.errors import SettingsError
from engine.logs import LOGGER
from tests.calibrations import CONTRACT, calibration


def named(people: str, digest: str = CONTRACT.digest) -> Calibration:
    return msgspec.structs.replace(calibration(), people=people, contract_digest=digest)


def written(path: Path, calibrated: Calibration) -> str:
    path.write_bytes(encode(calibrated))
    return str(path)


def test_the_shipped_ones_are_known_without_being_asked_for() -> None:
    for model in (NO_MODEL, "dlib-resnet", "", "onnx=/nowhere/at.onnx", "."):
        assert read_calibrations((), model) == shipped()


@pytest.mark.parametrize("prefix", ["", "timm=", "dlib-resnet="])
def test_the_one_beside_the_weights_goes_before_the_shipped_one(tmp_path: Path, prefix: str) -> None:
    weights = tmp_path / "net.safetensors"
    weights.touch()
    assert read_calibrations((), f"{prefix}{weights}") == shipped()
    (digest, *_) = shipped()
    written(tmp_path / "net.calibration.json", named("beside", digest))
    assert read_calibrations((), f"{prefix}{weights}")[digest].people == "beside"
    given = written(tmp_path / "given.json", named("given", digest))
    found = read_calibrations((given,), f"{prefix}{weights}")
    assert found[digest].people == "given"
    assert found.keys() == shipped().keys()


def test_one_that_no_gallery_needs_is_fine_and_two_for_one_contract_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = written(tmp_path / "first.json", named("first"))
    second = written(tmp_path / "second.json", named("second"))
    other = written(tmp_path / "other.json", named("other", "ab" * 32))
    with caplog.at_level(logging.INFO, LOGGER.name):
        found = read_calibrations((first, other), NO_MODEL)
    told = [vars(record)["fields"] for record in caplog.records]
    assert [(one["file"], one["digest"]) for one in told] == [(first, CONTRACT.digest), (other, "ab" * 32)]
    assert (found[CONTRACT.digest].people, found["ab" * 32].people) == ("first", "other")
    with pytest.raises(SettingsError, match=r"first\.json and .*second\.json"):
        read_calibrations((first, second), NO_MODEL)


def test_one_beside_the_weights_of_another_network_is_told_and_its_own_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "net.safetensors"
    weights.touch()
    for model in (NO_MODEL, "dlib-resnet", str(weights)):
        warn_of_calibration(model, CONTRACT)
    near = written(tmp_path / "net.calibration.json", named("own"))
    warn_of_calibration(str(weights), CONTRACT)
    assert not caplog.records
    written(tmp_path / "net.calibration.json", named("other", "ab" * 32))
    for model in (str(weights), f"timm={weights}"):
        caplog.clear()
        warn_of_calibration(model, CONTRACT)
        (record,) = caplog.records
        told = vars(record)["fields"]
        assert record.levelno == logging.WARNING
        assert (told["file"], told["digest"], told["network_digest"]) == (near, "ab" * 32, CONTRACT.digest)
        assert "identiface calibrate" in told["hint"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"format": 99}', b"\xff\xfe"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.json"
    with pytest.raises(SettingsError, match=r"broken\.json"):
        read_calibrations((str(broken),), NO_MODEL)
    broken.write_bytes(content)
    with pytest.raises(SettingsError, match=r"broken\.json"):
        read_calibrations((str(broken),), NO_MODEL)
    (tmp_path / "net.onnx").touch()
    (tmp_path / "net.calibration.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"net\.calibration\.json"):
        read_calibrations((), str(tmp_path / "net.onnx"))
