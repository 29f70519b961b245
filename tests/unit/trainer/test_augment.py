"""Crops as another camera would have shown them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import config
from engine.embedding.degrade import encode_jpeg, jpeg_round_trip
from engine.errors import InvalidInputError, InvalidPictureError, SettingsError
from engine.trainer.augment import (
    NO_AUGMENTATION,
    AugmentSettings,
    Seeds,
    augment,
    row_seeds,
)

NAMES = ("flip", "jitter", "occlusion", "colour", "grey", "blur", "resample", "jpeg")
ALL = AugmentSettings(
    flip=0.5, jitter=0.5, occlusion=0.5, colour=0.5, grey=0.5, blur=0.5, resample=0.5, jpeg=0.5
)


def only(name: str, **ranges: object) -> AugmentSettings:
    off = dict.fromkeys(NAMES, 0.0)
    return config.build(AugmentSettings, {**off, name: 1.0, **ranges})


@pytest.fixture
def crops(rng: np.random.Generator) -> Tensor:
    """Smooth pictures with colours, uint8[9, 32, 32, 3]."""
    coarse = rng.integers(0, 256, (9, 4, 4, 3))
    return torch.from_numpy(np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8))


def seeds_of(num: int, step: int = 0) -> Seeds:
    return row_seeds(11, step, num)


def test_no_crops_are_no_crops() -> None:
    assert augment(torch.empty(0, 8, 8, 3, dtype=torch.uint8), seeds_of(0), ALL).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("name", NAMES)
def test_one_crop_of_one_pixel(name: str) -> None:
    crop = torch.full((1, 1, 1, 3), 77, dtype=torch.uint8)
    assert augment(crop, seeds_of(1), only(name)).shape == crop.shape


def test_wrong_crops_and_seeds_are_refused(crops: Tensor) -> None:
    with pytest.raises(InvalidInputError, match="uint8"):
        augment(crops.float(), seeds_of(9))
    with pytest.raises(InvalidInputError, match=r"not .*\[9, 32, 31, 3\]"):
        augment(crops[:, :, 1:], seeds_of(9))
    with pytest.raises(InvalidInputError, match="as many seeds"):
        augment(crops, seeds_of(8))


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("brightness", (1.2, 0.8)),
        ("blur_sigma_px", (0.0, 1.0)),
        ("resample_scale", (0.5, 1.5)),
        ("contrast", (float("nan"), 1.0)),
    ],
)
def test_ranges_that_are_none_are_refused(name: str, limits: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match=f"augment.{name}"):
        only("flip", **{name: limits})


def test_nothing_asked_for_changes_nothing(crops: Tensor) -> None:
    assert torch.equal(augment(crops, seeds_of(9), NO_AUGMENTATION), crops)


@pytest.mark.parametrize("name", NAMES)
def test_each_change_changes_and_leaves_its_input(crops: Tensor, name: str) -> None:
    before = crops.clone()
    changed = augment(crops, seeds_of(9), only(name))
    assert torch.equal(crops, before)
    assert changed.dtype == torch.uint8
    assert changed.shape == crops.shape
    assert all(not torch.equal(a, b) for a, b in zip(changed, crops, strict=True))


def test_a_crop_depends_on_its_own_seed_alone(crops: Tensor) -> None:
    seeds = seeds_of(9, step=3)
    whole = augment(crops, seeds, ALL)
    assert torch.equal(whole, augment(crops, seeds, ALL))
    for row in range(9):
        alone = augment(crops[row : row + 1], seeds[row : row + 1], ALL)
        assert torch.equal(alone[0], whole[row])
    back = augment(crops.flip(0), seeds[::-1].copy(), ALL)
    assert torch.equal(back.flip(0), whole)
    assert not torch.equal(augment(crops, seeds_of(9, step=4), ALL), whole)


def test_threads_and_autocast_change_nothing(crops: Tensor) -> None:
    many = crops.repeat(8, 2, 2, 1)
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = augment(many, seeds_of(72), ALL)
        torch.set_num_threads(2)
        two = augment(many, seeds_of(72), ALL)
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(one, two)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(many, seeds_of(72), ALL), one)


def test_flip_is_a_mirror_for_half_of_the_crops(crops: Tensor) -> None:
    many = crops.repeat(50, 1, 1, 1)
    changed = augment(many, seeds_of(450), only("flip", flip=0.5))
    is_flipped = [torch.equal(a, b.flip(1)) for a, b in zip(changed, many, strict=True)]
    is_same = [torch.equal(a, b) for a, b in zip(changed, many, strict=True)]
    assert all(a != b for a, b in zip(is_flipped, is_same, strict=True))
    assert 180 < sum(is_flipped) < 270


def test_jitter_moves_and_zooms_as_told(crops: Tensor) -> None:
    moved = augment(
        crops,
        seeds_of(9),
        only("jitter", jitter_shift=(0.25, 0.25), jitter_zoom=(1.0, 1.0)),
    )
    step = crops.shape[1] // 4
    assert torch.equal(moved[:, step:, step:], crops[:, :-step, :-step])
    assert torch.equal(moved[:, :step, step:], crops[:, :1, :-step].expand(-1, step, -1, -1))
    zoomed = augment(crops, seeds_of(9), only("jitter", jitter_shift=(0.0, 0.0), jitter_zoom=(2.0, 2.0)))
    half = crops[:, step : crops.shape[1] - step, step : crops.shape[1] - step].float()
    assert (zoomed.float().mean((1, 2)) - half.mean((1, 2))).abs().max() < 12.0


def test_occlusion_covers_the_area_asked_for() -> None:
    black = torch.zeros(200, 40, 40, 3, dtype=torch.uint8)
    changed = augment(black, seeds_of(200), only("occlusion", occlusion_area=(0.1, 0.2)))
    is_covered = (changed != 0).any(3)
    shares = is_covered.float().mean((1, 2))
    assert 0.07 < shares.min() <= shares.max() < 0.23
    for covered in is_covered:
        rows, columns = covered.any(1), covered.any(0)
        # A whole rectangle.
        assert torch.equal(covered, rows[:, None] & columns)


def test_colour_follows_its_formula(crops: Tensor) -> None:
    fixed = only("colour", brightness=(1.2, 1.2), contrast=(0.5, 0.5), saturation=(2.0, 2.0))
    changed = augment(crops, seeds_of(9), fixed)
    pixels = crops.numpy().astype(np.float64)
    grey = pixels @ (np.array([77, 150, 29]) / 256)
    saturated = grey[..., None] + 2.0 * (pixels - grey[..., None])
    mean = grey.mean((1, 2))[:, None, None, None]
    wanted = np.clip(1.2 * (mean + 0.5 * (saturated - mean)), 0, 255)
    assert np.abs(changed.numpy() - wanted).max() < 0.51


def test_grey_has_no_colour(crops: Tensor) -> None:
    red, green, blue = augment(crops, seeds_of(9), only("grey")).unbind(3)
    assert torch.equal(red, green)
    assert torch.equal(green, blue)


@pytest.mark.parametrize("name", ["blur", "resample"])
def test_filters_keep_flat_pictures_and_take_detail(name: str, crops: Tensor) -> None:
    flat = torch.full((5, 30, 30, 3), 201, dtype=torch.uint8)
    assert torch.equal(augment(flat, seeds_of(5), only(name)), flat)
    changed = augment(crops, seeds_of(9), only(name)).float()
    assert (changed.std((1, 2)) < crops.float().std((1, 2))).all()
    assert (changed.mean((1, 2)) - crops.float().mean((1, 2))).abs().max() < 8.0


def test_blur_is_a_gaussian() -> None:
    point = torch.zeros(1, 41, 41, 3, dtype=torch.uint8)
    point[0, 20, 20] = 255
    sigma = 1.0
    changed = augment(point, seeds_of(1), only("blur", blur_sigma_px=(sigma, sigma)))[0, :, :, 1]
    line = np.exp(-0.5 * (np.arange(-20, 21) / sigma) ** 2)
    wanted = 255 * np.outer(line, line) / line.sum() ** 2
    assert np.abs(changed.numpy() - wanted).max() < 1.0


def test_resampling_to_a_single_pixel_leaves_the_mean(crops: Tensor) -> None:
    changed = augment(crops, seeds_of(9), only("resample", resample_scale=(0.03, 0.03))).float()
    assert (changed.amax((1, 2)) == changed.amin((1, 2))).all()
    assert (changed[:, 0, 0] - crops.float().mean((1, 2))).abs().max() < 2.0


def test_jpeg_is_the_round_trip_of_the_embedding(crops: Tensor) -> None:
    changed = augment(crops, seeds_of(9), only("jpeg", jpeg_quality=(60, 60)))
    for before, after in zip(crops.numpy(), changed.numpy(), strict=True):
        assert np.array_equal(after, jpeg_round_trip(before, 60))


def test_jpeg_keeps_red_red_and_refuses_what_cannot_be() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert np.abs(jpeg_round_trip(red, 95).astype(int) - red).max() < 6
    assert len(encode_jpeg(red, 5)) <= len(encode_jpeg(red, 95))
    for quality in (0, 101):
        with pytest.raises(InvalidPictureError, match="quality"):
            encode_jpeg(red, quality)
    with pytest.raises(InvalidPictureError, match="uint8"):
        jpeg_round_trip(red[..., 0], 90)


def test_seeds_of_places_are_pure_and_different() -> None:
    seeds = np.concatenate([row_seeds(seed, step, 64) for seed in range(4) for step in range(50)])
    assert len(np.unique(seeds)) == len(seeds)
    assert np.array_equal(row_seeds(3, 7, 10)[4:], row_seeds(3, 7, 6, first_place=4))
    # Of the bits of neighbours half are different.
    bits = np.unpackbits((seeds[1:] ^ seeds[:-1]).view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.01
