"""The detector's arithmetic against naive oracles; what it finds in real pictures is tests/model's matter."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from engine.config import build
from engine.embedding import detect, facenet
from engine.embedding.detect import (
    WINDOW_PX,
    Detector,
    DetectorSettings,
    Floats,
    Ints,
    _WindowSums,
    first_level_pixels,
    pyramid,
    suppress,
)
from engine.errors import DeviceError, InvalidInputError, InvalidPictureError, SettingsError


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector("cpu")


@cache
def one_detector() -> Detector:
    """For a test of many examples, which may change its settings."""
    return Detector("cpu")


def naive_suppress(boxes: Floats, confidences: Floats, overlap_max: float, *, is_smaller: bool) -> list[int]:
    kept: list[int] = []
    edge = 1.0 if is_smaller else 0.0
    for i in sorted(range(len(boxes)), key=lambda i: -confidences[i]):
        x1, y1, x2, y2 = boxes[i].tolist()
        area = (x2 - x1 + edge) * (y2 - y1 + edge)
        for j in kept:
            a1, b1, a2, b2 = boxes[j].tolist()
            other = (a2 - a1 + edge) * (b2 - b1 + edge)
            common = max(0.0, min(x2, a2) - max(x1, a1) + edge) * max(0.0, min(y2, b2) - max(y1, b1) + edge)
            if common / (min(area, other) if is_smaller else area + other - common) > overlap_max:
                break
        else:
            kept.append(i)
    return kept


def random_boxes(rng: np.random.Generator, num: int) -> tuple[Floats, Floats]:
    # Whole numbers and few confidences: overlaps are exact in float32, and ties are common.
    start = rng.integers(0, 60, (num, 2))
    boxes = np.column_stack([start, start + rng.integers(1, 40, (num, 2))]).astype(np.float32)
    return boxes, (rng.integers(0, 20, num) / 20).astype(np.float32)


@pytest.mark.parametrize("num", [0, 1, 2, 40, 511, 512, 513, 1500])
@pytest.mark.parametrize("is_smaller", [False, True])
def test_suppression_equals_the_naive_one(rng: np.random.Generator, num: int, is_smaller: bool) -> None:
    boxes, confidences = random_boxes(rng, num)
    for overlap_max in (0.33, 0.71):
        ours = suppress(boxes, confidences, overlap_max, is_share_of_smaller=is_smaller)
        assert ours.tolist() == naive_suppress(boxes, confidences, overlap_max, is_smaller=is_smaller)


@pytest.mark.parametrize("num", [0, 1, 50, 300])
def test_the_operator_for_torchvision_equals_the_naive_one(rng: np.random.Generator, num: int) -> None:
    boxes, confidences = random_boxes(rng, num)
    kept = facenet.suppress(torch.from_numpy(boxes), torch.from_numpy(confidences), 0.42)
    assert kept.tolist() == naive_suppress(boxes, confidences, 0.42, is_smaller=False)


def test_torchvision_as_imported_suppresses_rightly_group_by_group(rng: np.random.Generator) -> None:
    from torchvision.ops import batched_nms, nms

    # Different confidences: torchvision promises no order among equal ones. 1500 boxes take its other way.
    for num in (0, 60, 1500):
        boxes, _ = random_boxes(rng, num)
        confidences = rng.permutation(num).astype(np.float32)
        groups = rng.integers(0, 4, num)
        tensors = torch.from_numpy(boxes), torch.from_numpy(confidences)
        assert nms(*tensors, 0.42).tolist() == naive_suppress(boxes, confidences, 0.42, is_smaller=False)
        kept = batched_nms(*tensors, torch.from_numpy(groups), 0.42)
        expected = [
            int(members[i])
            for members in (np.flatnonzero(groups == group) for group in range(4))
            for i in naive_suppress(boxes[members], confidences[members], 0.42, is_smaller=False)
        ]
        assert sorted(kept.tolist()) == sorted(expected)


def test_the_operator_is_defined_only_where_torchvisions_own_does_not_load() -> None:
    code = (
        "import engine.embedding.facenet as f, torch; from pathlib import Path; import torchvision\n"
        "library = next(Path(torchvision.__file__).parent.glob('_C.*'))\n"
        "try: torch.ops.load_library(str(library)); loads = True\n"
        "except OSError: loads = False\n"
        "assert (f._LIBRARY is None) == loads"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (12, 12), (37, 50), (250, 251)])
def test_levels_equal_torchs_area_interpolation(rng: np.random.Generator, height: int, width: int) -> None:
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for size in ((1, 1), (12, 13), (max(1, height // 2), max(1, width // 3)), (height, width)):
        expected = interpolate(tensor, size=size, mode="area")[0].permute(1, 2, 0).numpy()
        # Torch adds up a single window in another order than several.
        np.testing.assert_allclose(_WindowSums(image).level(*size), expected, rtol=2e-7)


def test_a_level_made_by_parts_equals_one_made_at_once(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    sums = _WindowSums(rng.integers(0, 256, (120, 90, 3), np.uint8))
    at_once = sums.level(37, 28)
    for num_pixels in (1, 90, 500, 90 * 36, 90 * 37):
        monkeypatch.setattr(detect, "LEVEL_ROWS_PIXELS", num_pixels)
        np.testing.assert_array_equal(sums.level(37, 28), at_once)


def test_crops_equal_torchs_area_interpolation_smaller_and_larger(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (90, 120, 3), np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    edges: Ints = np.array([[0, 0, 120, 90], [5, 7, 6, 8], [10, 20, 33, 44], [100, 60, 120, 90]])
    crops = _WindowSums(image).crops(edges, 24)
    for crop, (x1, y1, x2, y2) in zip(crops, edges, strict=True):
        expected = interpolate(tensor[:, :, y1:y2, x1:x2], size=(24, 24), mode="area")
        np.testing.assert_array_equal(crop, expected[0].permute(1, 2, 0).numpy())
    assert _WindowSums(image).crops(edges[:0], 24).shape == (0, 24, 24, 3)


def test_sums_beyond_32_bits_are_still_exact() -> None:
    image = np.full((3000, 3000, 3), 255, np.uint8)
    image[2000:, 2000:] = 100
    sums = _WindowSums(image)
    crop = sums.crops(np.array([[2000, 2000, 3000, 3000], [0, 0, 3000, 3000]]), 3)
    assert (crop[0] == 100).all()
    assert (crop[1, :2, :2] == 255).all()
    assert (crop[1, 2, 2] == 100).all()


def test_pyramid_ends_where_the_window_no_longer_fits() -> None:
    assert pyramid(39, 39, 40, 0.709) == []
    assert pyramid(40, 4000, 40, 0.709) == [WINDOW_PX / 40]
    assert pyramid(0, 10, 40, 0.709) == []
    scales = pyramid(480, 640, 40, 0.709)
    assert scales[0] == WINDOW_PX / 40
    assert 480 * scales[-1] >= WINDOW_PX > 480 * scales[-1] * 0.709
    np.testing.assert_allclose(np.array(scales[1:]) / scales[:-1], 0.709)


@given(height=st.integers(1, 400), width=st.integers(1, 400), minimum=st.integers(12, 90))
def test_the_first_level_has_the_pixels_said(height: int, width: int, minimum: int) -> None:
    scales = pyramid(height, width, minimum, 0.709)
    said = first_level_pixels(height, width, minimum)
    if not scales:
        # Twelve over the minimum is not always exact: a picture just as small may be given a level or not.
        assert said == 0 or min(height, width) == minimum
    else:
        assert said == int(height * scales[0] + 1) * int(width * scales[0] + 1)


@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    minimum=st.integers(12, 60),
    most=st.integers(144, 20_000),
)
def test_pictures_with_too_large_a_pyramid_are_refused_with_the_least_minimum_that_works(
    height: int, width: int, minimum: int, most: int
) -> None:
    small = one_detector()
    small.settings = DetectorSettings(pyramid_pixels_max=most)
    try:
        small.check_size(width, height, minimum)
    except InvalidInputError as error:
        least = int(error.message.rsplit(" ", 1)[1])
        assert least > minimum
        assert first_level_pixels(height, width, least - 1) > most
        small.check_size(width, height, least)
    else:
        assert first_level_pixels(height, width, minimum) <= most


def test_fifty_megapixels_are_searched_at_the_default_minimum_and_not_far_below(detector: Detector) -> None:
    detector.check_size(10_000, 5_000)
    detector.check_size(32_000, 1_562)
    detector.check_size(32_000, 20, 21)
    with pytest.raises(InvalidInputError, match=r"7071x7071 pixels: its min_face_px must be at least 35$"):
        detector.check_size(7071, 7071, 12)


def test_a_picture_with_too_large_a_pyramid_is_refused_before_any_work() -> None:
    small = Detector("cpu", DetectorSettings(pyramid_pixels_max=400))
    assert small.detect([np.zeros((40, 50, 3), np.uint8)], 40) == [[]]
    with pytest.raises(InvalidInputError, match="must be at least 28"):
        small.detect([np.zeros((40, 50, 3), np.uint8)], 20)


def test_no_pictures_give_no_answers(detector: Detector) -> None:
    assert detector.detect([]) == []


@pytest.mark.parametrize("size", [(1, 1), (10, 10), (11, 300), (39, 39), (40, 40)])
def test_pictures_too_small_for_a_face_give_none(detector: Detector, size: tuple[int, int]) -> None:
    assert detector.detect([np.full((*size, 3), 128, np.uint8)]) == [[]]


def test_flat_and_noisy_pictures_hold_no_face(detector: Detector, rng: np.random.Generator) -> None:
    images = [np.zeros((100, 80, 3), np.uint8), rng.integers(0, 256, (120, 200, 3), np.uint8)]
    assert detector.detect(images) == [[], []]


@pytest.mark.parametrize("minimum", [-1, 0, 11])
def test_a_minimum_below_the_window_is_refused(detector: Detector, minimum: int) -> None:
    with pytest.raises(InvalidInputError, match="at least 12"):
        detector.detect([], minimum)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((50, 50), np.uint8),
        np.zeros((50, 50, 4), np.uint8),
        np.zeros((50, 50, 3), np.float32),
        np.zeros((0, 0, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(detector: Detector, bad: Floats) -> None:
    with pytest.raises(InvalidPictureError, match="expected pixels uint8"):
        detector.detect([bad])  # type: ignore[list-item]


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="abacus"):
        Detector("abacus")


@pytest.mark.parametrize(
    ("key", "value"), [("min_face_px", 5), ("factor", 1.0), ("faces_max", 0), ("thresholds", [0.5])]
)
def test_settings_that_cannot_be_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=key):
        build(DetectorSettings, {key: value})
