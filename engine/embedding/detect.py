"""Faces in pictures: MTCNN's cascade of three nets. Knows nothing of files, crops for networks or people.

Zhang et al. 2016, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks",
with the nets of facenet-pytorch (MIT) and the arithmetic of its `models/utils/detect_face.py`, so that boxes
agree to float rounding; where two candidates tie in confidence, ours keeps the one that the second net was
surer of, theirs the other. What differs is the work around the nets: pixel windows are averaged by one
integral image instead of one resampling per level and candidate, and the pixels of the pyramid and the
number of candidates are bounded.

Pictures are worked on one after the other. One of p pixels takes 12 * p bytes for its integral image and
some 100 bytes for each pixel of the pyramid's first level, both only until its faces are found.

Dimension letters: n candidates, s side of a net's input in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.config import Settings
from engine.embedding import facenet
from engine.embedding.images import check_rgb
from engine.errors import DeviceError, InvalidInputError
from engine.types import Box, Face, Rgb

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

WINDOW_PX = 12
"""Side of the first net's window, and so the smallest face that can be asked for."""
STRIDE_PX = 2
"""Step of the first net's window."""
REFINEMENT_PX = 24
OUTPUT_PX = 48
NET_CROPS_MAX = 256
"""Crops that a net sees at once; bounds memory (some 60 MiB in the third net)."""
LEVEL_ROWS_PIXELS = 1_000_000
"""Pixels of the picture's width, over as many rows of a level as that makes, shrunk at once. Bounds memory to
some 50 MiB."""
SUPPRESSION_BLOCK = 512
"""Candidates whose overlaps are computed at once; bounds memory to a few MiB."""
SUPPRESSION_SURPLUS = 2
"""Candidates looked at for each that may go on; a face gives about two. Bounds time."""
OVERLAP_IN_LEVEL, OVERLAP_IN_PICTURE = 0.5, 0.7
"""Intersection over union above which the less confident candidate goes (detect_face.py)."""


class DetectorSettings(Settings, frozen=True, kw_only=True):
    """What counts as a face."""

    min_face_px: Annotated[int, msgspec.Meta(ge=WINDOW_PX)] = 40
    """Side of the smallest face looked for. Halving it makes detection about four times slower."""
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    """Confidence that a candidate needs to pass each net; lower finds more faces and more things that are
    none."""
    factor: Annotated[float, msgspec.Meta(ge=0.3, le=0.95)] = 0.709
    """Ratio of one level of the picture pyramid to the next; nearer 1 is slower and finds slightly more."""
    pyramid_pixels_max: Annotated[int, msgspec.Meta(ge=WINDOW_PX**2)] = 6_000_000
    """Pixels of the pyramid's first level: the picture's times (WINDOW_PX / min_face_px) squared, so 4.5
    million for 50 million at the default minimum. Bounds memory, and time: some seconds at most."""
    faces_max: Annotated[int, msgspec.Meta(ge=1)] = 64
    """Faces per picture; the most confident are kept."""
    candidates_max: Annotated[int, msgspec.Meta(ge=1)] = 4096
    """Candidates per level and per picture that go on; the most confident are kept. Bounds the time that a
    picture made to look like thousands of faces can take."""


DEFAULT_SETTINGS = DetectorSettings()


class Detector:
    """Finds faces, their five keypoints and the confidence in each; safe to call from many threads."""

    def __init__(self, device: str = "cpu", settings: DetectorSettings = DEFAULT_SETTINGS):
        self.settings = settings
        try:
            self._device = torch.device(device)
            self._proposal_net = facenet.proposal_net().to(self._device)
            self._refinement_net = facenet.refinement_net().to(self._device)
            self._output_net = facenet.output_net().to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"cannot run the detector on device {device!r}: {error}") from error

    def detect(self, images: Sequence[Rgb], min_face_px: int | None = None) -> list[list[Face]]:
        """Find the faces of each picture, most confident first; none is an empty list.

        `images` are uint8[h, w, 3] of any sizes, `min_face_px` overrides the settings'. Boxes are clipped to
        the picture's frame; keypoints are not. Raises InvalidInputError as `check_size` does, and
        InvalidPictureError for an array that is no picture.
        """
        for image in images:
            check_rgb(image)
            self.check_size(image.shape[1], image.shape[0], min_face_px)
        smallest = self._smallest(min_face_px)
        with torch.inference_mode():
            return [self._detect(image, smallest) for image in images]

    def check_size(self, width: int, height: int, min_face_px: int | None = None) -> None:
        """Raise InvalidInputError where faces of that minimum cannot be looked for in a picture of that size.

        Either the minimum is below WINDOW_PX, or the pyramid would pass the settings' pyramid_pixels_max;
        the message then names the least minimum that does not.
        """
        smallest, most = self._smallest(min_face_px), self.settings.pyramid_pixels_max
        if first_level_pixels(height, width, smallest) <= most:
            return
        # Not far below the answer: levels are rounded up, and a picture smaller than the minimum has none.
        near = min(int(WINDOW_PX * math.sqrt(height * width / most)), min(height, width) + 1)
        least = max(smallest, near)
        while first_level_pixels(height, width, least) > most:
            least += 1
        raise InvalidInputError(
            f"faces of {smallest} px are too small to look for in a picture of {width}x{height} pixels:"
            f" its min_face_px must be at least {least}",
            hint="Raise min_face_px, or scale the picture down before sending it.",
        )

    def _smallest(self, min_face_px: int | None) -> int:
        smallest = self.settings.min_face_px if min_face_px is None else min_face_px
        if smallest < WINDOW_PX:
            raise InvalidInputError(f"min_face_px is {smallest}; it must be at least {WINDOW_PX}")
        return smallest

    def _detect(self, image: Rgb, min_face_px: int) -> list[Face]:
        scales = pyramid(image.shape[0], image.shape[1], min_face_px, self.settings.factor)
        if not scales:
            return []
        sums = _WindowSums(image)
        return self._finish(sums, self._refine(sums, self._propose(sums, scales)))

    def _propose(self, sums: _WindowSums, scales: Sequence[float]) -> Floats:
        """Squares float32[n, 4] in which the first net sees a face, over all levels of the pyramid."""
        candidates = []
        for scale in scales:
            level = sums.level(*_level_size(sums.height, sums.width, scale))
            shifts, faceness = self._proposal_net(self._tensor(level[None]))
            found = _windows(faceness[0, 1].cpu().numpy(), shifts[0].cpu().numpy(), scale, self._threshold(0))
            candidates.append(self._survivors(found, OVERLAP_IN_LEVEL))
        found = self._survivors(np.concatenate(candidates), OVERLAP_IN_PICTURE)
        sides = np.tile(found[:, 2:4] - found[:, 0:2], 2)
        return _squares(found[:, :4] + found[:, 5:9] * sides)

    def _refine(self, sums: _WindowSums, proposals: Floats) -> Floats:
        """Squares float32[n, 4] that pass the second net, moved as it says."""
        boxes, edges = _inside(sums, proposals)
        shifts, faceness = self._run(self._refinement_net, sums, edges, REFINEMENT_PX, (4, 2))
        is_face = faceness[:, 1] > self._threshold(1)
        found = np.column_stack([boxes, faceness[:, 1], shifts])[is_face]
        found = self._survivors(found, OVERLAP_IN_PICTURE)
        return _squares(_moved(found[:, :4], found[:, 5:9]))

    def _finish(self, sums: _WindowSums, refined: Floats) -> list[Face]:
        """The faces that pass the third net."""
        boxes, edges = _inside(sums, refined)
        shifts, points, faceness = self._run(self._output_net, sums, edges, OUTPUT_PX, (4, 10, 2))
        is_face = faceness[:, 1] > self._threshold(2)
        found = np.column_stack([boxes, faceness[:, 1], shifts, points])[is_face]
        squares = found[:, :4]
        sides = squares[:, 2:4] - squares[:, 0:2] + 1
        # The net gives five x, then five y, as shares of the square's sides.
        relative = found[:, 9:19].reshape(-1, 2, 5).transpose(0, 2, 1)
        keypoints = relative * sides[:, None, :] + squares[:, None, 0:2] - 1
        moved = _moved(squares, found[:, 5:9])
        keep = suppress(moved, found[:, 4], OVERLAP_IN_PICTURE, is_share_of_smaller=True)
        kept = [_face(moved[i], found[i, 4], keypoints[i], sums) for i in keep]
        return [face for face in kept if face is not None][: self.settings.faces_max]

    def _survivors(self, found: Floats, overlap_max: float) -> Floats:
        """Rows float32[n, 5 or more] (box, confidence, ...) that go on, most confident first."""
        most = self.settings.candidates_max
        if len(found) > SUPPRESSION_SURPLUS * most:
            order = np.argsort(-found[:, 4], kind="stable")
            found = found[order[: SUPPRESSION_SURPLUS * most]]
        return found[suppress(found[:, :4], found[:, 4], overlap_max)[:most]]

    def _threshold(self, stage: int) -> np.float32:
        return np.float32(self.settings.thresholds[stage])

    def _tensor(self, means: Floats) -> torch.Tensor:
        """Pixels float32[n, h, w, 3] of 0..255 as the nets want them: channels first, about -1..1.

        Only the strides change, so that torch takes its channels-last kernels: twice as fast here.
        """
        pixels = torch.from_numpy((means - np.float32(127.5)) * np.float32(0.0078125))
        return pixels.to(self._device).permute(0, 3, 1, 2)

    def _run(
        self, net: nn.Module, sums: _WindowSums, edges: Ints, side: int, widths: Sequence[int]
    ) -> list[Floats]:
        """Outputs of a net for rectangles int64[n, 4] of a picture: float32[n, width] for each width."""
        chunks = [[np.empty((0, width), np.float32)] for width in widths]
        for start in range(0, len(edges), NET_CROPS_MAX):
            outputs = net(self._tensor(sums.crops(edges[start : start + NET_CROPS_MAX], side)))
            for chunk, output in zip(chunks, outputs, strict=True):
                chunk.append(output.cpu().numpy())
        return [np.concatenate(chunk) for chunk in chunks]


class _WindowSums:
    """Means over pixel windows of one picture, any number of them at the price of four look-ups each.

    The windows are those of torch's area interpolation (adaptive average pooling): cell i of s over a side
    of m pixels covers floor(i * m / s) up to ceil((i + 1) * m / s). Sums are integers modulo 2**32 and their
    differences exact, as no window holds 2**31 / 255 pixels.
    """

    def __init__(self, image: Rgb):
        self.height, self.width = image.shape[:2]
        self._sums = cv2.integral(image)

    def level(self, height: int, width: int) -> Floats:
        """The whole picture shrunk to float32[height, width, 3]."""
        top, bottom = _cells(np.array([0]), np.array([self.height]), height)
        left, right = _cells(np.array([0]), np.array([self.width]), width)
        sums = np.empty((height, width, 3), np.int32)
        num_rows = max(1, LEVEL_ROWS_PIXELS // self.width)
        for start in range(0, height, num_rows):
            part = slice(start, start + num_rows)
            rows = self._sums[bottom[0, part]] - self._sums[top[0, part]]
            sums[part] = rows[:, right[0]] - rows[:, left[0]]
        return _means(sums, (bottom - top)[0, :, None], (right - left)[0, None, :])

    def crops(self, edges: Ints, side: int) -> Floats:
        """Rectangles int64[n, 4] of x1, y1, x2, y2 inside the picture, as float32[n, side, side, 3]."""
        left, right = _cells(edges[:, 0], edges[:, 2], side)
        top, bottom = _cells(edges[:, 1], edges[:, 3], side)
        flat = self._sums.reshape(-1, 3)
        pitch = self.width + 1
        corner = [
            flat.take(rows[:, :, None] * pitch + columns[:, None, :], axis=0)
            for rows, columns in ((bottom, right), (top, right), (bottom, left), (top, left))
        ]
        sums = corner[0] - corner[1] - corner[2] + corner[3]
        return _means(sums, (bottom - top)[:, :, None], (right - left)[:, None, :])


def _means(sums: NDArray[np.int32], heights: Ints, widths: Ints) -> Floats:
    """Sums over windows divided by their height, then by their width: torch's order, to the last bit."""
    means: Floats = sums.astype(np.float32)
    means /= heights[..., None].astype(np.float32)
    means /= widths[..., None].astype(np.float32)
    return means


def _cells(start: Ints, end: Ints, num_cells: int) -> tuple[Ints, Ints]:
    """First and past-the-last pixel, int64[n, num_cells] each, of the cells of sides start..end."""
    length = (end - start)[:, None]
    cell = np.arange(num_cells)
    first = start[:, None] + cell * length // num_cells
    last = start[:, None] - (-(cell + 1) * length // num_cells)
    return first, last


def pyramid(height: int, width: int, min_face_px: int, factor: float) -> list[float]:
    """Scales at which the first net's window covers faces from the minimum up to the picture's short side."""
    scale = WINDOW_PX / min_face_px
    short_side = min(height, width) * scale
    scales = []
    while short_side >= WINDOW_PX:
        scales.append(scale)
        scale *= factor
        short_side *= factor
    return scales


def first_level_pixels(height: int, width: int, min_face_px: int) -> int:
    """Pixels of the pyramid's first and largest level; 0 where the picture is too small for one."""
    if min(height, width) < min_face_px:
        return 0
    rows, columns = _level_size(height, width, WINDOW_PX / min_face_px)
    return rows * columns


def _level_size(height: int, width: int, scale: float) -> tuple[int, int]:
    return int(height * scale + 1), int(width * scale + 1)


def suppress(
    boxes: Floats, confidences: Floats, overlap_max: float, *, is_share_of_smaller: bool = False
) -> Ints:
    """Non-maximum suppression: indices of the boxes kept, most confident first, equals in their order.

    Going down from the most confident of float32[n, 4], a box goes where its overlap with one that stays is
    above `overlap_max`. Overlap is intersection over union; with `is_share_of_smaller` it is intersection
    over the smaller area, edges counted as pixels, which is how MTCNN removes a face inside a face.
    """
    order = np.argsort(-confidences, kind="stable")
    ranked = boxes[order]
    edge = np.float32(1.0 if is_share_of_smaller else 0.0)
    kept = np.empty(0, np.int64)
    for start in range(0, len(order), SUPPRESSION_BLOCK):
        block = np.arange(start, min(start + SUPPRESSION_BLOCK, len(order)))
        for before in range(0, len(kept), SUPPRESSION_BLOCK):
            rivals = ranked[kept[before : before + SUPPRESSION_BLOCK]]
            block = block[~(_overlaps(ranked[block], rivals, edge) > overlap_max).any(axis=1)]
        is_rival = _overlaps(ranked[block], ranked[block], edge) > overlap_max
        is_kept = np.ones(len(block), bool)
        for i in range(len(block)):
            if is_kept[i]:
                is_kept[i + 1 :] &= ~is_rival[i, i + 1 :]
        kept = np.concatenate([kept, block[is_kept]])
    return order[kept]


def _overlaps(some: Floats, others: Floats, edge: np.float32) -> Floats:
    """Overlap of each pair, float32[len(some), len(others)]; over the smaller area where edge is not 0."""
    common: Floats = np.ones((len(some), len(others)), np.float32)
    for axis in (0, 1):
        low = np.maximum.outer(some[:, axis], others[:, axis])
        high = np.minimum.outer(some[:, axis + 2], others[:, axis + 2])
        common *= (high - low + edge).clip(min=0)
    area = (some[:, 2:4] - some[:, :2] + edge).prod(axis=1)[:, None]
    other_area = (others[:, 2:4] - others[:, :2] + edge).prod(axis=1)[None, :]
    whole = np.minimum(area, other_area) if edge else area + other_area - common
    overlaps: Floats = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
    return overlaps


def _windows(faceness: Floats, shifts: Floats, scale: float, threshold: np.float32) -> Floats:
    """Windows above the threshold as float32[n, 9]: box in picture pixels, confidence, four shifts."""
    rows, columns = np.nonzero(faceness >= threshold)
    corner = STRIDE_PX * np.column_stack([columns, rows]).astype(np.float32)
    start = np.floor((corner + 1) / np.float32(scale))
    end = np.floor((corner + WINDOW_PX) / np.float32(scale))
    return np.column_stack([start, end, faceness[rows, columns], shifts[:, rows, columns].T])


def _inside(sums: _WindowSums, candidates: Floats) -> tuple[Floats, Ints]:
    """The candidates that touch the picture, and the pixels int64[n, 4] of it that each covers."""
    # Pixel numbers begin at 1 here, as in the authors' Matlab code.
    edges = np.trunc(candidates).astype(np.int64)
    edges[:, :2] = np.maximum(edges[:, :2], 1) - 1
    edges[:, 2:] = np.minimum(edges[:, 2:], [sums.width, sums.height])
    is_inside = (edges[:, 2:] > edges[:, :2]).all(axis=1)
    return candidates[is_inside], edges[is_inside]


def _squares(boxes: Floats) -> Floats:
    """Boxes grown to squares about their centres."""
    sides = boxes[:, 2:4] - boxes[:, 0:2]
    longest = sides.max(axis=1, keepdims=True, initial=0)
    start = boxes[:, 0:2] + sides * np.float32(0.5) - longest * np.float32(0.5)
    return np.concatenate([start, start + longest], axis=1)


def _moved(boxes: Floats, shifts: Floats) -> Floats:
    """Boxes with each edge moved by its share of the side."""
    return boxes + shifts * np.tile(boxes[:, 2:4] - boxes[:, 0:2] + 1, 2)


def _face(box: Floats, confidence: np.float32, keypoints: Floats, sums: _WindowSums) -> Face | None:
    """The face with its box inside the picture; None where nothing of it is."""
    x1, y1 = np.maximum(box[:2], 0)
    x2, y2 = np.minimum(box[2:], [sums.width, sums.height])
    if x1 >= x2 or y1 >= y2:
        return None
    inside = Box(float(x1), float(y1), float(x2), float(y2))
    return Face(inside, float(confidence), np.ascontiguousarray(keypoints, np.float32))
