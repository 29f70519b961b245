"""Calibrations: files that survive a round trip, are refused where they do not fit, and say their limits."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.decision.calibration import (
    PLAIN,
    Calibration,
    Curve,
    MatedAt,
    Span,
    beside,
    by_digest,
    encode,
    read,
    shipped,
)
from engine.decision.estimator import EstimatorSettings, estimate
from engine.errors import SettingsError


@functools.cache
def calibration() -> Calibration:
    """Of 300 people whose similarities are those of random unit vectors, and mated ones around 0.8."""
    vectors = np.random.default_rng(0).standard_normal((300, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    estimated = estimate(vectors @ vectors.T, EstimatorSettings(num_resamples=20))
    curve = Curve(
        table=estimated.table,
        tail=estimated.tail,
        growth=estimated.growth,
        templates_exponent=Span(0.7, 0.6, 0.8),
        mated=tuple(np.linspace(0.6, 1.0, 101).tolist()),
    )
    return Calibration(
        contract_name="random",
        contract_digest="ab" * 32,
        people="nobody's",
        created="2026-11-22",
        num_people=300,
        num_pictures=300,
        curves={PLAIN: curve},
    )


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(encode(calibration()))
    assert read(path) == calibration()
    assert read(path, "ab" * 32) == calibration()


def test_a_calibration_of_another_contract_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(encode(calibration()))
    with pytest.raises(SettingsError, match=r"of contract random \(abababababab\), not of cdcdcdcdcdcd"):
        read(path, "cd" * 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 9}, "format 9"),
        ({"curves": {}}, "no curve 'max'"),
        ({"num_people": "many"}, "Expected `int`"),
        ({"num_people": 0}, ">= 1"),
        ({"nonsense": 1}, "unknown field"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(calibration()), **change}))
    with pytest.raises(SettingsError, match=rf"odd\.json.*{words}"):
        read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"templates_exponent": Span(1e6, 0.0, 1.0)}, "exponent"),
        ({"templates_exponent": Span(-0.1, 0.0, 1.0)}, "exponent"),
        ({"mated": (0.5, 0.4)}, "must not fall"),
        ({"mated": (0.5, 1e308)}, "beyond 2"),
        ({"mated": (0.5, 0.6), "mated_at": (MatedAt(2.0, (0.5,)), MatedAt(3.0, (0.5, 0.6)))}, "as many"),
        ({"mated": (0.5,), "mated_at": (MatedAt(2.0, (0.5,)), MatedAt(2.0, (0.5,)))}, "rise"),
        ({"mated": (0.5,), "mated_at": (MatedAt(-2.0, (0.5,)), MatedAt(2.0, (0.5,)))}, "rise"),
    ],
)
def test_a_curve_of_no_use_is_refused_when_it_is_read(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "odd.json"
    told = msgspec.to_builtins(calibration())
    told["curves"][PLAIN].update(msgspec.to_builtins(change))
    path.write_bytes(msgspec.json.encode(told))
    with pytest.raises(SettingsError, match=rf"odd\.json.*{words}"):
        read(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(encode(calibration()).replace(b"random", b"rand\xffm"))
    with pytest.raises(SettingsError, match=r"odd\.json cannot be read"):
        read(path)


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_torn_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "torn.json"
    path.write_bytes(encode(calibration())[:size])
    with pytest.raises(SettingsError, match="cannot be read"):
        read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.json"):
        read(tmp_path / "none.json")


def test_expected_misses_are_the_share_of_mated_similarities_below() -> None:
    curve = calibration().curves[PLAIN]
    for threshold, expected in ((0.5, 0.0), (0.6, 0.0), (0.7, 0.25), (0.8, 0.5), (1.0, 1.0), (1.1, 1.0)):
        assert curve.expected_fnir(threshold) == pytest.approx(expected, abs=1e-9)
    assert msgspec.structs.replace(curve, mated=()).expected_fnir(0.7) is None


def test_what_the_data_carries_comes_without_a_word_and_what_it_does_not_with_one() -> None:
    assert calibration().warnings(PLAIN, 0.1, 100) == ()
    (told,) = calibration().warnings(PLAIN, 0.001, 100)
    assert "beyond the calibration's 300 people" in told
    curve = calibration().curves[PLAIN]
    unfit = msgspec.structs.replace(curve, tail=msgspec.structs.replace(curve.tail, p_value=0.004))
    badly = msgspec.structs.replace(calibration(), curves={PLAIN: unfit})
    assert badly.warnings(PLAIN, 0.1, 100) == ()
    assert "does not fit its people (p = 0.004)" in badly.warnings(PLAIN, 0.001, 100)[1]
    assert calibration().support(PLAIN, 0.99) < 1 < calibration().support(PLAIN, 0.2)


def test_a_network_that_would_miss_many_is_told_of() -> None:
    curve = msgspec.structs.replace(calibration().curves[PLAIN], mated=(0.0, 0.5, 0.9))
    weak = msgspec.structs.replace(calibration(), curves={PLAIN: curve})
    (told,) = weak.warnings(PLAIN, 0.1, 200)
    assert "expected to miss" in told
    assert "review_fpir" in told


def test_calibrations_are_found_by_contract_and_beside_weights() -> None:
    newer = msgspec.structs.replace(calibration(), created="2026-12-01")
    assert by_digest([calibration(), newer]) == {"ab" * 32: newer}
    assert beside(Path("a/network.safetensors")) == Path("a/network.calibration.json")


def test_what_is_shipped_can_be_read_and_is_small() -> None:
    for digest, one in shipped().items():
        assert one.contract_digest == digest
        assert one.people
        assert len(encode(one)) < 150_000
