"""What callers may name things."""

from __future__ import annotations

import dataclasses
import math

import pytest

from engine import rules
from engine.errors import InvalidIdError, InvalidInputError
from engine.types import EmbeddingContract, GallerySettings

CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=128)


@pytest.mark.parametrize("gallery_id", ["a", "0", "a-b_c", "9" * 63])
def test_a_gallery_id_of_the_pattern_is_accepted(gallery_id: str) -> None:
    rules.check_gallery_id(gallery_id)


@pytest.mark.parametrize(
    "gallery_id", ["", "-a", "_a", "A", "a b", "a/b", "a\n", "ä", "..", "9" * 64, "9" * 9999]
)
def test_any_other_gallery_id_is_refused_by_its_name(gallery_id: str) -> None:
    with pytest.raises(InvalidIdError, match="alias") as caught:
        rules.check_gallery_id(gallery_id, "alias")
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("identity_id", ["a", "0", "A b", "o'Neill/7", "Zoë", "中文", "🙂", "é" * 127])
def test_an_identity_id_may_be_any_printable_text(identity_id: str) -> None:
    rules.check_identity_id(identity_id)


@pytest.mark.parametrize(
    ("identity_id", "problem"),
    [
        ("", "empty"),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        ("é\x85", "control"),
        ("é\u2028", "line separator"),
        ("é\u2029", "paragraph separator"),
        ("é\ud800", "surrogate"),
        (" a", "blank"),
        ("a ", "blank"),
        ("a\u00a0", "blank"),
        ("x" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("Zoe\u0308", "NFC"),
    ],
)
def test_any_other_identity_id_is_refused_with_the_reason(identity_id: str, problem: str) -> None:
    with pytest.raises(InvalidIdError, match=problem):
        rules.check_identity_id(identity_id)


@pytest.mark.parametrize("attributes", [{}, {"a": ""}, {"Zoë": "multi\nline\tvalue"}, {"k": "v" * 1023}])
def test_attributes_within_the_limit_are_accepted(attributes: dict[str, str]) -> None:
    rules.check_attributes(attributes)


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"": "v"}, "key is empty"),
        ({"a": "\x00"}, "NUL"),
        ({"a\x00": ""}, "NUL"),
        ({"a": "\ud800"}, "surrogate"),
        ({"k": "v" * 1024}, "1025 bytes"),
        ({"é": "é" * 512}, "1026 bytes"),
    ],
)
def test_other_attributes_are_refused(attributes: dict[str, str], problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        rules.check_attributes(attributes)


def test_a_source_is_short_printable_text() -> None:
    for source in ("", "file.jpg", "x" * 255):
        rules.check_source(source)
    for source in ("x" * 256, "a\nb", "é\ud800"):
        with pytest.raises(InvalidInputError, match="source"):
            rules.check_source(source)


def test_k_is_one_to_a_hundred() -> None:
    for k in (1, 100):
        rules.check_k(k)
    for k in (-1, 0, 101):
        with pytest.raises(InvalidInputError, match=f"k is {k}"):
            rules.check_k(k)


def test_a_threshold_is_a_similarity_or_none() -> None:
    for threshold in (None, -1.0, 0.0, 1.0):
        rules.check_threshold(threshold)
    for threshold in (-1.01, 1.01, math.nan, math.inf):
        with pytest.raises(InvalidInputError, match="threshold"):
            rules.check_threshold(threshold)


def test_an_expiry_is_a_time_that_a_clock_can_reach() -> None:
    for time_s in (None, 0.001, 2e9, 253402300799.0):
        rules.check_expire_time(time_s)
    for time_s in (0.0, -1.0, 253402300800.0, math.nan, math.inf):
        with pytest.raises(InvalidInputError, match="expire_time"):
            rules.check_expire_time(time_s)


@pytest.mark.parametrize(
    ("field", "fine", "wrong"),
    [
        ("name", ["a", "x" * 100], ["", "x" * 101, "a\n"]),
        ("weights_sha256", ["", "0" * 64], ["0" * 63, "0" * 65, "A" * 64, "0" * 63 + "\n"]),
        ("alignment", ["", "dlib-150", "x" * 100], ["x" * 101, "a\nb"]),
        ("dimension", [2, 1024], [-1, 0, 1, 1025]),
        ("normalisation", ["l2"], ["", "none"]),
        ("threshold", [-1.0, 1.0], [1.5, math.nan]),
    ],
)
def test_a_contract_is_checked_field_by_field(field: str, fine: list[object], wrong: list[object]) -> None:
    for value in fine:
        rules.check_contract(dataclasses.replace(CONTRACT, **{field: value}))  # type: ignore[arg-type]
    for value in wrong:
        with pytest.raises(
            InvalidInputError, match="threshold" if field == "threshold" else f"contract.{field}"
        ):
            rules.check_contract(dataclasses.replace(CONTRACT, **{field: value}))  # type: ignore[arg-type]


def test_gallery_settings_are_checked() -> None:
    for templates_max in (1, 16):
        rules.check_settings(GallerySettings(templates_per_identity_max=templates_max))
    for templates_max in (-1, 0, 17):
        with pytest.raises(InvalidInputError, match="templates_per_identity_max"):
            rules.check_settings(GallerySettings(templates_per_identity_max=templates_max))
    with pytest.raises(InvalidInputError, match="threshold"):
        rules.check_settings(GallerySettings(threshold=2.0))


@pytest.mark.parametrize("name", ["target_fpir", "review_fpir", "target_fmr"])
@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf, -math.inf])
def test_a_rate_is_a_share_between_nobody_and_everybody(name: str, wrong: float) -> None:
    with pytest.raises(InvalidInputError, match=f"^{name} is {wrong}, it must be more than 0") as caught:
        rules.check_settings(dataclasses.replace(GallerySettings(), **{name: wrong}))  # type: ignore[arg-type]
    assert "one stranger in a thousand" in caught.value.hint


def test_rates_just_inside_are_accepted() -> None:
    rules.check_settings(GallerySettings(target_fpir=5e-324, review_fpir=math.nextafter(1.0, 0.0)))
    rules.check_settings(GallerySettings(target_fmr=1e-6, threshold=0.5))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (GallerySettings(threshold=0.5, target_fpir=0.01), "threshold and target_fpir exclude each other"),
        (GallerySettings(review_fpir=0.01), "review_fpir needs target_fpir"),
        (GallerySettings(target_fpir=0.01, review_fpir=0.01), "review_fpir is 0.01, it must be more than"),
        (GallerySettings(target_fpir=0.01, review_fpir=0.001), "more than target_fpir, 0.01"),
        (GallerySettings(ambiguity=-0.001), "ambiguity is -0.001"),
        (GallerySettings(ambiguity=2.001), "ambiguity is 2.001"),
        (GallerySettings(ambiguity=math.nan), "ambiguity is nan"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: GallerySettings, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        rules.check_settings(settings)


def test_an_ambiguity_may_be_any_difference_of_similarities() -> None:
    for ambiguity in (0.0, 0.02, 2.0):
        rules.check_settings(GallerySettings(ambiguity=ambiguity))
