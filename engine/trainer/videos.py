"""Pairs of videos in the layout of YouTube Faces: a video is compared by the mean or the best of its frames.

Layout (Wolf, Hassner and Maoz, "Face Recognition in Unconstrained Videos with Matched Background Similarity",
2011): ``root/PERSON/VIDEO/*.jpg``, frames in order of name (``1.2.jpg`` before ``1.10.jpg``), and a list of
pairs, lines ``split, PERSON/VIDEO, PERSON/VIDEO, is_same`` with is_same 0 or 1; a header line is passed over.

The mean of a video's templates is made unit again. It is for evaluation only: a gallery holds templates of
pictures.

Knows nothing of how faces are found or embedded, nor of how the error rates are counted.
"""

from __future__ import annotations

import csv
import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidInputError
from engine.metrics import NO_TEMPLATE, Similarities
from engine.trainer.evaluate import PictureTemplates
from engine.trainer.lists import read_lines
from engine.trainer.pairs import PICTURE_SUFFIXES, Pair, PairSet

FRAMES_DEFAULT = 16
FRAMES_MAX = 1000
"""Of one video: evenly spaced, the first and the last among them."""
HEADER_CELLS = 4


class VideoRule(enum.StrEnum):
    """What two videos' similarity is."""

    MEAN = "mean"
    """Cosine of their mean templates."""
    BEST = "best"
    """Of their most alike frames."""


@dataclass(frozen=True, slots=True)
class VideoSet:
    """Pairs of videos, and the frames to embed of each."""

    pairs: PairSet
    """Their `first` and `second` are the videos' folders."""
    frames: tuple[tuple[Path, ...], ...]
    """Of each video of `pairs.pictures`, in that order."""

    @property
    def pictures(self) -> tuple[Path, ...]:
        """All frames, video after video."""
        return tuple(frame for video in self.frames for frame in video)


def read_videos(splits_path: Path, root: Path, num_frames: int = FRAMES_DEFAULT) -> VideoSet:
    """Read a list of pairs of videos and choose at most `num_frames` frames of each, evenly spaced.

    Raises InvalidInputError naming file and line where the list is malformed, naming a video without frames,
    and for fewer than two splits.
    """
    if not 1 <= num_frames <= FRAMES_MAX:
        raise InvalidInputError(f"num_frames is {num_frames}: give 1 to {FRAMES_MAX}")
    splits: dict[int, list[Pair]] = {}
    for number, cells in enumerate(csv.reader(read_lines(splits_path), skipinitialspace=True), start=1):
        is_header = number == 1 and len(cells) == HEADER_CELLS and not cells[0].strip().isdigit()
        if cells and not is_header:
            split, pair = _read_pair(cells, root, f"{splits_path}, line {number}")
            splits.setdefault(split, []).append(pair)
    if len(splits) < 2:
        raise InvalidInputError(f"{splits_path} holds {len(splits)} splits: give two or more")
    pairs = PairSet(tuple(tuple(splits[split]) for split in sorted(splits)))
    return VideoSet(pairs, tuple(_frames(video, num_frames) for video in pairs.pictures))


def video_similarities(videos: VideoSet, templates: PictureTemplates, rule: VideoRule) -> Similarities:
    """Give the similarity of each pair of videos, float64[n]; NO_TEMPLATE where one shows no face at all.

    `templates` are those of `videos.pictures`, in that order.
    """
    ends = np.cumsum([len(frames) for frames in videos.frames])[:-1]
    detected = np.split(templates.is_detected, ends)
    of_video = {
        video: rows[is_detected].astype(np.float64)
        for video, rows, is_detected in zip(
            videos.pairs.pictures, np.split(templates.vectors, ends), detected, strict=True
        )
    }
    if rule is VideoRule.MEAN:
        of_video = {video: _mean(rows) for video, rows in of_video.items()}
    return np.array([_best(of_video[pair.first], of_video[pair.second]) for pair in videos.pairs.pairs])


def num_without_face(videos: VideoSet, templates: PictureTemplates) -> int:
    """Count the videos of which no frame gave a template."""
    ends = np.cumsum([len(frames) for frames in videos.frames])[:-1]
    return sum(not part.any() for part in np.split(templates.is_detected, ends))


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of templates, made unit, as one row; no row where there is none."""
    if len(rows) == 0:
        return rows
    mean = rows.mean(axis=0, keepdims=True)
    length = float(np.linalg.norm(mean))
    # Opposite templates cancel out: that is no direction.
    return mean / length if length > 0.0 else rows[:0]


def _best(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float((first @ second.T).max(initial=NO_TEMPLATE))


def _read_pair(cells: Sequence[str], root: Path, place: str) -> tuple[int, Pair]:
    given = [cell.strip() for cell in cells]
    if len(given) != HEADER_CELLS or not given[0].isdigit() or given[3] not in {"0", "1"}:
        raise InvalidInputError(
            f"{place}: expected split, PERSON/VIDEO, PERSON/VIDEO and 0 or 1, not {', '.join(given)!r}"
        )
    first, second = (_video(name, root, place) for name in given[1:3])
    is_same = given[3] == "1"
    if first == second:
        raise InvalidInputError(f"{place}: video {given[1]} is paired with itself")
    if (first.parent == second.parent) != is_same:
        raise InvalidInputError(
            f"{place}: {given[1]} and {given[2]} are marked as {'one person' if is_same else 'two people'}"
        )
    return int(given[0]), Pair(first, second, is_same)


def _video(name: str, root: Path, place: str) -> Path:
    parts = name.split("/")
    if len(parts) != 2 or any(part in {"", ".", ".."} or "\\" in part for part in parts):
        raise InvalidInputError(f"{place}: {name!r} is no video: expected PERSON/VIDEO")
    folder = root / name
    if not folder.is_dir():
        raise InvalidInputError(f"{place}: there is no folder {folder}")
    return folder


def _frames(video: Path, num_frames: int) -> tuple[Path, ...]:
    found = [path for path in video.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
    if not found:
        raise InvalidInputError(f"{video} holds no frame (as {', '.join(PICTURE_SUFFIXES)})")
    found.sort(key=lambda path: (_natural(path.name), path.name))
    places = np.unique(np.linspace(0, len(found) - 1, min(num_frames, len(found))).round().astype(int))
    return tuple(found[place] for place in places)


def _natural(name: str) -> tuple[int, ...]:
    """The numbers in a name: frame 10 comes after frame 9."""
    return tuple(int(number) for number in re.findall(r"\d+", name))
