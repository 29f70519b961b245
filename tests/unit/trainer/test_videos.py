"""Videos are compared by the mean or the best of their frames, evenly chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import InvalidInputError
from engine.metrics import NO_TEMPLATE
from engine.trainer.evaluate import PictureTemplates, judge_pairs
from engine.trainer.videos import (
    VideoRule,
    VideoSet,
    num_without_face,
    read_videos,
    video_similarities,
)

LINES = ["1, A/0, A/1, 1", "1, A/0, B/0, 0", "2, B/0, B/1, 1", "2, A/1, B/1, 0"]
NUM_FRAMES = {"A/0": 3, "A/1": 12, "B/0": 1, "B/1": 5}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, num in NUM_FRAMES.items():
        (tmp_path / name).mkdir(parents=True)
        for i in range(num):
            (tmp_path / name / f"{name[-1]}.{i}.jpg").touch()
        (tmp_path / name / "notes.txt").touch()
    return tmp_path


def read(root: Path, lines: list[str] = LINES, num_frames: int = 4) -> VideoSet:
    (root / "splits.txt").write_text("\n".join(lines) + "\n")
    return read_videos(root / "splits.txt", root, num_frames)


def test_frames_are_evenly_spaced_in_order_of_their_numbers(root: Path) -> None:
    videos = read(root, ["split number, first name, second name, is same", *LINES])
    of = dict(zip(videos.pairs.pictures, videos.frames, strict=True))
    assert [path.name for path in of[root / "A/0"]] == ["0.0.jpg", "0.1.jpg", "0.2.jpg"]
    # By name alone frame 10 would come before frame 2.
    assert [path.name for path in of[root / "A/1"]] == ["1.0.jpg", "1.4.jpg", "1.7.jpg", "1.11.jpg"]
    assert [len(frames) for frames in videos.frames] == [3, 4, 1, 4]
    assert len(read(root, num_frames=1).pictures) == 4
    assert videos.pairs.fold_of_pair.tolist() == [0, 0, 1, 1]
    assert videos.pairs.is_same.tolist() == [True, False, True, False]


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / lengths


@pytest.mark.parametrize("rule", list(VideoRule))
def test_similarities_are_those_of_a_naive_count(
    root: Path, rng: np.random.Generator, rule: VideoRule
) -> None:
    videos = read(root)
    vectors = unit(rng.normal(size=(len(videos.pictures), 4)))
    is_detected = np.ones(len(vectors), dtype=np.bool_)
    is_detected[4] = False
    templates = PictureTemplates(vectors.astype(np.float32), is_detected)

    found = video_similarities(videos, templates, rule)

    row = {path: i for i, path in enumerate(videos.pictures)}
    frames = {
        video: np.array([vectors[row[path]] for path in paths if is_detected[row[path]]])
        for video, paths in zip(videos.pairs.pictures, videos.frames, strict=True)
    }
    for value, pair in zip(found, videos.pairs.pairs, strict=True):
        first, second = frames[pair.first], frames[pair.second]
        if rule is VideoRule.MEAN:
            wanted = unit(first.mean(axis=0)) @ unit(second.mean(axis=0))
        else:
            wanted = max(a @ b for a in first for b in second)
        assert value == pytest.approx(wanted, abs=1e-6)
    report = judge_pairs(videos.pairs, found, num_without_face(videos, templates))
    assert (report.pairs, report.folds, report.not_detected) == (4, 2, 0)


@pytest.mark.parametrize("rule", list(VideoRule))
def test_a_video_without_a_face_has_no_similarity(root: Path, rule: VideoRule) -> None:
    videos = read(root)
    is_detected = np.array([path.parent != root / "B/0" for path in videos.pictures])
    templates = PictureTemplates(np.eye(len(videos.pictures), dtype=np.float32), is_detected)
    found = video_similarities(videos, templates, rule)
    assert (found == NO_TEMPLATE).tolist() == [False, True, True, False]
    assert num_without_face(videos, templates) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds 0 splits"),
        (LINES[:2], "holds 1 splits"),
        (["1, A/0, A/1, 1", "x, A/0, B/0, 0"], "line 2: expected split"),
        (["1, A/0, A/1"], "line 1: expected split"),
        (["1, A/0, A/1, 2"], "line 1: expected split"),
        (["1, A/0, A/0, 1"], "paired with itself"),
        (["1, A/0, A/1, 0"], "marked as two people"),
        (["1, A/0, B/1, 1"], "marked as one person"),
        (["1, A/0, A/../../x, 1"], "no video"),
        (["1, A/0, A/9, 1"], "there is no folder"),
    ],
)
def test_wrong_lists_are_refused(root: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read(root, lines)


def test_a_video_without_frames_is_refused(root: Path) -> None:
    (root / "B/0/0.0.jpg").unlink()
    with pytest.raises(InvalidInputError, match="holds no frame"):
        read(root)
    with pytest.raises(InvalidInputError, match="num_frames is 0"):
        read(root, num_frames=0)
