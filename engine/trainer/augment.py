"""Crops as another camera, another day would have shown them. Knows nothing of labels, files or workers.

In the order in which a camera would do it: mirrored, moved and zoomed, part of the face covered, light and
colour changed, out of focus, far away (made small and large again), stored as JPEG.

What happens to a crop depends on its own seed and nothing else: not on its batch, the number of workers or
threads. Every random number is a hash of (seed, number of the draw). Blur and resampling are matrix products
of integers that float32 holds exactly (also as TF32), so that their sums have one value in any order.

All of it is torch on whatever device the crops are on, but JPEG, which only a CPU can: crops on another
device are left without.

Letters: n crops, s side of a crop in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import Settings
from engine.embedding.degrade import jpeg_round_trip
from engine.errors import InvalidInputError, SettingsError

Seeds = NDArray[np.uint64]
Floats = NDArray[np.float64]

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Quality = Annotated[int, msgspec.Meta(ge=1, le=100)]

WEIGHT_STEPS = 1024
"""Weights of a filter are multiples of 1/1024: 11 bits, times 8 of a pixel, summed, fit into float32's 24."""
DRAWS_MAX = 256
"""Random numbers that one operation may draw for a crop."""
_GOLDEN = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio."""
LUMA = (77, 150, 29)
"""Share of red, green and blue in grey, of 256 (ITU-R BT.601)."""


class AugmentSettings(Settings, frozen=True, kw_only=True):
    """How often each change is made to a crop, and in which range; probability 0 leaves it out."""

    flip: Share = 0.5
    """Probability of a mirror image."""
    jitter: Share = 0.5
    """Probability of a move and a zoom, as of keypoints found a little elsewhere; edges go on."""
    jitter_shift: tuple[float, float] = (-0.04, 0.04)
    """Along each side, of the side."""
    jitter_zoom: tuple[float, float] = (0.94, 1.06)
    """Above 1 the face becomes larger."""
    occlusion: Share = 0.2
    """Probability that a rectangle of one random colour covers a part (random erasing, Zhong et al. 2020)."""
    occlusion_area: tuple[Share, Share] = (0.02, 0.2)
    """Of the crop; more hides who it is."""
    colour: Share = 0.5
    """Probability that brightness, contrast and saturation change together."""
    brightness: tuple[float, float] = (0.7, 1.3)
    """Factor of all pixels."""
    contrast: tuple[float, float] = (0.7, 1.3)
    """Factor of differences from the crop's mean grey."""
    saturation: tuple[float, float] = (0.6, 1.4)
    """Factor of differences from each pixel's own grey."""
    grey: Share = 0.05
    """Probability that all colour goes."""
    blur: Share = 0.1
    """Probability of a Gaussian blur."""
    blur_sigma_px: tuple[float, float] = (0.5, 2.0)
    """Standard deviation."""
    resample: Share = 0.15
    """Probability of being made smaller and large again."""
    resample_scale: tuple[float, float] = (0.25, 0.9)
    """Of the side; 0.25 of 112 px is a face of some 25 px."""
    jpeg: Share = 0.15
    """Probability of being stored as JPEG; only on a CPU."""
    jpeg_quality: tuple[Quality, Quality] = (30, 90)
    """As libjpeg counts."""

    def __post_init__(self) -> None:
        """Raise SettingsError for a range that is none."""
        least = {"blur_sigma_px": 0.05, "resample_scale": 0.02, "jitter_shift": -1.0, "jitter_zoom": 0.1}
        most = {"blur_sigma_px": 20.0, "resample_scale": 1.0, "jitter_shift": 1.0, "brightness": 10.0}
        for name in ("occlusion_area", "brightness", "contrast", "saturation", *RANGES, "jpeg_quality"):
            low, high = getattr(self, name)
            lowest, highest = least.get(name, 0.0), most.get(name, 100.0)
            if not lowest <= low <= high <= highest:
                raise SettingsError(
                    f"augment.{name} is {low}..{high}; it must ascend, from {lowest} to {highest} at most"
                )


RANGES = ("blur_sigma_px", "resample_scale", "jitter_shift", "jitter_zoom")

NO_AUGMENTATION = AugmentSettings(
    flip=0.0, jitter=0.0, occlusion=0.0, colour=0.0, grey=0.0, blur=0.0, resample=0.0, jpeg=0.0
)
"""Crops as they are."""
DEFAULT_SETTINGS = AugmentSettings()


def row_seeds(seed: int, step: int, num: int, first_place: int = 0) -> Seeds:
    """Seeds uint64[num] of the places of a step's batch from `first_place` on: pure, all different."""
    places = np.arange(first_place, first_place + num, dtype=np.uint64)
    start = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(step))
    return _mix(start + places)


def augment(pixels: Tensor, seeds: Seeds, settings: AugmentSettings = DEFAULT_SETTINGS) -> Tensor:
    """Give changed crops uint8[n, s, s, 3] on the device of those given, which stay as they are; n may be 0.

    `seeds` are uint64[n], see `row_seeds`. Raises InvalidInputError where crops and seeds do not fit.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2]:
        raise InvalidInputError(f"crops must be uint8[n, s, s, 3], not {pixels.dtype}{list(pixels.shape)}")
    if seeds.shape != (len(pixels),):
        raise InvalidInputError(f"{len(pixels)} crops need as many seeds, not {list(seeds.shape)}")
    changed = pixels.clone()
    is_cpu = pixels.device.type == "cpu"
    # Else autocast would round pixels to bfloat16.
    with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
        for number, operation in enumerate(_OPERATIONS):
            draws = _Draws(seeds, number)
            probability = getattr(settings, operation.__name__.lstrip("_"))
            hit = np.flatnonzero(draws.uniform(0.0, 1.0) < probability)
            if len(hit) and (is_cpu or operation is not _jpeg):
                places = torch.from_numpy(hit).to(pixels.device)
                changed[places] = operation(changed[places], draws.of(hit), settings)
    return changed


class _Draws:
    """Random numbers of each crop for one operation; each call is the next draw."""

    def __init__(self, seeds: Seeds, operation: int, num_drawn: int = 0):
        self._seeds, self._operation, self._num_drawn = seeds, operation, num_drawn

    def of(self, places: NDArray[np.int64]) -> _Draws:
        return _Draws(self._seeds[places], self._operation, self._num_drawn)

    def uniform(self, low: float, high: float) -> Floats:
        """float64[n], low <= x < high."""
        # A draw's number lies far from the next: their hashes have nothing to do with each other.
        draw = (self._operation * DRAWS_MAX + self._num_drawn) * _GOLDEN % 2**64
        self._num_drawn += 1
        bits = _mix(self._seeds + np.uint64(draw)) >> np.uint64(11)
        shares: Floats = bits.astype(np.float64) / 2.0**53
        return low + shares * (high - low)


def _mix(words: Seeds) -> Seeds:
    """Scramble 64-bit words: the output step of SplitMix64 (Steele et al. 2014, figure 17)."""
    with np.errstate(over="ignore"):
        z = words + np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Seeds = z ^ (z >> np.uint64(31))
    return mixed


def _flip(pixels: Tensor, draws: _Draws, settings: AugmentSettings) -> Tensor:
    del draws, settings
    return pixels.flip(2)


def _jitter(pixels: Tensor, draws: _Draws, settings: AugmentSettings) -> Tensor:
    side = pixels.shape[1]
    zoom = draws.uniform(*settings.jitter_zoom)
    down, across = (draws.uniform(*settings.jitter_shift) * side for _ in range(2))
    return _filter(pixels, _moved(side, zoom, down), _moved(side, zoom, across))


def _occlusion(pixels: Tensor, draws: _Draws, settings: AugmentSettings) -> Tensor:
    side = pixels.shape[1]
    area = draws.uniform(*settings.occlusion_area) * side * side
    # Three times as high as wide, to three times as wide as high.
    aspect = np.exp(draws.uniform(-np.log(3.0), np.log(3.0)))
    heights = np.clip(np.rint(np.sqrt(area * aspect)), 1, side)
    widths = np.clip(np.rint(np.sqrt(area / aspect)), 1, side)
    tops = np.floor(draws.uniform(0.0, 1.0) * (side - heights + 1))
    lefts = np.floor(draws.uniform(0.0, 1.0) * (side - widths + 1))
    colour = np.stack([draws.uniform(0.0, 256.0) for _ in range(3)], 1)
    place = torch.arange(side, device=pixels.device)
    top, bottom, left, right = (
        _column(values, pixels.device) for values in (tops, tops + heights, lefts, lefts + widths)
    )
    is_row, is_column = (place >= top) & (place < bottom), (place >= left) & (place < right)
    is_covered = (is_row[:, :, None] & is_column[:, None, :])[..., None]
    fill = torch.from_numpy(colour.astype(np.uint8)).to(pixels.device)[:, None, None, :]
    return torch.where(is_covered, fill, pixels)


def _colour(pixels: Tensor, draws: _Draws, settings: AugmentSettings) -> Tensor:
    device, side = pixels.device, pixels.shape[1]
    brightness, contrast, saturation = (
        _column(draws.uniform(*limits), device)[:, :, None, None].float()
        for limits in (settings.brightness, settings.contrast, settings.saturation)
    )
    luma = _luma(pixels)
    # Summed as integers, which have one sum in any order.
    mean = luma.sum((1, 2), dtype=torch.int64).double() / (256 * side * side)
    grey = luma.float()[..., None] / 256
    light = (pixels.float() - grey) * saturation + grey
    middle = mean.float()[:, None, None, None]
    return _to_bytes(((light - middle) * contrast + middle) * brightness)


def _grey(pixels: Tensor, draws: _Draws, settings: AugmentSettings) -> Tensor:
    del draws, settings
    grey = ((_luma(pixels) + 128) >> 8).to(torch.uint8)
    return grey[..., None].expand(-1, -1, -1, 3)


def _blur(pixels: Tensor, draws: _Draws, settings: AugmentSettings) -> Tensor:
    side = pixels.shape[1]
    sigma = draws.uniform(*settings.blur_sigma_px)[:, None, None]
    place = np.arange(side)
    weights = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
    return _filter(pixels, weights / weights.sum(2, keepdims=True))


def _resample(pixels: Tensor, draws: _Draws, settings: AugmentSettings) -> Tensor:
    side = pixels.shape[1]
    sides = np.clip(np.rint(draws.uniform(*settings.resample_scale) * side), 1, side).astype(int)
    return _filter(pixels, np.stack([_there_and_back(side, small) for small in sides.tolist()]))


def _jpeg(pixels: Tensor, draws: _Draws, settings: AugmentSettings) -> Tensor:
    low, high = settings.jpeg_quality
    qualities = np.floor(draws.uniform(low, high + 1)).astype(int).clip(low, high)
    stored = [
        jpeg_round_trip(crop, quality)
        for crop, quality in zip(pixels.numpy(), qualities.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(stored))


_OPERATIONS: tuple[Callable[[Tensor, _Draws, AugmentSettings], Tensor], ...] = (
    _flip,
    _jitter,
    _occlusion,
    _colour,
    _grey,
    _blur,
    _resample,
    _jpeg,
)
"""Each named after its probability in the settings."""


def _there_and_back(side: int, small: int) -> Floats:
    """float64[side, side]: means over `small` equal parts of a line, then linear between their centres."""
    edges = np.arange(small + 1) * side / small
    place = np.arange(side)
    covered = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
    down = np.clip(covered, 0.0, None) * small / side
    at = ((place + 0.5) * small / side - 0.5).clip(0, small - 1)
    before = np.floor(at).astype(int)
    after = np.minimum(before + 1, small - 1)
    share = (at - before)[:, None]
    line: Floats = (1 - share) * down[before] + share * down[after]
    return line


def _moved(side: int, zoom: Floats, shift: Floats) -> Floats:
    """float64[n, side, side]: each line enlarged about its middle and moved on, linear between pixels."""
    middle = (side - 1) / 2
    at = (np.arange(side) - middle - shift[:, None]) / zoom[:, None] + middle
    at = at.clip(0, side - 1)
    before = np.floor(at).astype(int)
    share = (at - before)[:, :, None]
    pixel = np.eye(side)
    lines: Floats = (1 - share) * pixel[before] + share * pixel[np.minimum(before + 1, side - 1)]
    return lines


def _filter(pixels: Tensor, weights: Floats, across: Floats | None = None) -> Tensor:
    """Rows of crops uint8[n, s, s, 3] mixed by float64[n, s, s] of sum 1, columns by `across` where given."""
    num, side = pixels.shape[:2]
    down = _matrix(weights, pixels.device)
    rows = torch.bmm(down, pixels.reshape(num, side, side * 3).float()).round_()
    # To rows by columns by colours, columns first.
    turned = rows.reshape(num, side, side, 3).transpose(1, 2).reshape(num, side, side * 3)
    matrix = down if across is None else _matrix(across, pixels.device)
    mixed = torch.bmm(matrix, turned).reshape(num, side, side, 3).transpose(1, 2)
    return _to_bytes(mixed)


def _matrix(weights: Floats, device: torch.device) -> Tensor:
    """Weights as multiples of 1/WEIGHT_STEPS that still have sum 1, float32[n, s, s]."""
    whole = np.rint(weights * WEIGHT_STEPS)
    # What rounding took from a row goes to its largest weight: else flat areas would change.
    largest = whole.argmax(2, keepdims=True)
    error = WEIGHT_STEPS - whole.sum(2, keepdims=True)
    np.put_along_axis(whole, largest, np.take_along_axis(whole, largest, 2) + error, 2)
    return torch.from_numpy((whole / WEIGHT_STEPS).astype(np.float32)).to(device)


def _luma(pixels: Tensor) -> Tensor:
    """256 times the grey of each pixel, int32[n, s, s]."""
    red, green, blue = pixels.to(torch.int32).unbind(3)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _column(values: Floats, device: torch.device) -> Tensor:
    return torch.from_numpy(values[:, None]).to(device)


def _to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp_(0, 255).to(torch.uint8)
