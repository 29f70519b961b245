"""Faces cut out of videos and pictures: what is kept, what is skipped, and what is never overwritten."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.cli.verbs import main
from engine.embedding.detect import Detector
from engine.embedding.images import decode, encode_png
from engine.embedding.quality import measure_all
from engine.embedding.video import encode_jpeg
from engine.embedding.video import video_frames as raw_frames
from engine.errors import InvalidIdError, InvalidInputError, InvalidPictureError
from engine.types import Box, Rgb
from indexer import capture
from indexer.capture import CaptureSettings, FaceCutter, NamedFrame, cut, folder_frames, safe_stem
from indexer.gate import GateSettings, judge
from indexer.items import Reason

FRAME_RATE = 10
FRAMES_EACH = 20
"""Frames, two seconds of them, that each picture is shown in the video."""


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.set_num_threads(1)
    return Detector()


@pytest.fixture(scope="module")
def pictures(data_folder: Path) -> list[Rgb]:
    """Three people in full view."""
    names = ("Aaron_Eckhart/Aaron_Eckhart_0001", "AJ_Cook/AJ_Cook_0001", "AJ_Lamas/AJ_Lamas_0001")
    return [decode((data_folder / "lfw" / "images" / f"{name}.jpg").read_bytes()) for name in names]


def write_video(
    path: Path, pictures: Sequence[Rgb], frames_each: int = FRAMES_EACH, kind: str = "MJPG"
) -> Path:
    height, width = pictures[0].shape[:2]
    fourcc = cv2.VideoWriter.fourcc(*kind)
    video = cv2.VideoWriter(str(path), fourcc, FRAME_RATE, (width, height))
    assert video.isOpened()
    for picture in pictures:
        for _ in range(frames_each):
            video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    video.release()
    return path


def run(cutter: FaceCutter, frames: Sequence[NamedFrame]) -> list[str]:
    """Take all of them; returns the names of the files written."""
    return [path.name for frame in frames for path in cutter.take(frame)]


@pytest.mark.parametrize(("name", "kind"), [("clip.avi", "MJPG"), ("clip.mp4", "mp4v")])
def test_frames_come_in_order_at_the_step_asked_for(
    tmp_path: Path, rng: np.random.Generator, name: str, kind: str
) -> None:
    shades = [np.full((64, 96, 3), (level, 20, 200), np.uint8) for level in (10, 130, 250)]
    path = write_video(tmp_path / name, shades, kind=kind)
    frames = list(raw_frames(path, 1.0))
    assert [frame.time_ms for frame in frames] == [0, 1000, 2000, 3000, 4000, 5000]
    reds = [float(frame.pixels[:, :, 0].mean()) for frame in frames if frame.pixels is not None]
    assert reds == pytest.approx([10, 10, 130, 130, 250, 250], abs=8)
    assert len(list(raw_frames(path, 0.001))) == 3 * FRAMES_EACH
    assert [frame.time_ms for frame in raw_frames(path, 60)] == [0]
    assert [frame.time_ms for frame in raw_frames(path, 2.5)] == [0, 2500, 5000]


def test_what_is_no_video_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.mp4").write_text("key,identity_id\n" * 100)
    for name in ("missing.avi", "empty.avi", "text.mp4", "."):
        with pytest.raises(InvalidInputError):
            list(raw_frames(tmp_path / name, 1.0))
    assert capfd.readouterr().err == ""


def test_a_video_cut_short_gives_what_it_holds(tmp_path: Path, rng: np.random.Generator) -> None:
    noise = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(3)]
    path = write_video(tmp_path / "clip.avi", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0 < len(list(raw_frames(path, 0.001))) < 3 * FRAMES_EACH


def test_jpeg_is_faithful_and_repeatable() -> None:
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = (250, 30, 90)
    data = encode_jpeg(picture, 95)
    assert data == encode_jpeg(picture, 95)
    assert np.abs(decode(data).astype(int) - picture)[:, [4, 28]].max() < 6
    for wrong in (np.zeros((0, 5, 3), np.uint8), np.zeros((70_000, 1, 3), np.uint8)):
        with pytest.raises(InvalidPictureError):
            encode_jpeg(wrong, 95)


def test_a_cut_keeps_its_margin_inside_the_picture() -> None:
    picture = np.arange(100 * 80 * 3, dtype=np.uint32).astype(np.uint8).reshape(100, 80, 3)
    assert cut(picture, Box(20, 30, 40, 70), 0.5).shape == (81, 41, 3)
    np.testing.assert_array_equal(cut(picture, Box(20, 30, 40, 70), 0.5), picture[10:91, 10:51])
    assert cut(picture, Box(0, 0, 80, 100), 5).shape == picture.shape


@pytest.mark.parametrize(
    ("name", "stem"),
    [("ada.mp4", "ada"), ("Ada Lovelace-2.mp4", "Ada_Lovelace-2~"), ("-rf.avi", "rf~"), ("Ådá.avi", "Ådá")],
)
def test_stems_are_safe(name: str, stem: str) -> None:
    assert safe_stem(Path(name)).startswith(stem)
    assert len(safe_stem(Path(name)).encode()) <= 4 * 50 + 9
    assert len(safe_stem(Path("𝔸" * 60 + ".avi")).encode()) <= 4 * 50 + 9
    assert safe_stem(Path("a b.avi")) != safe_stem(Path("a_b.avi")) != safe_stem(Path("a?b.avi"))


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/b", "/etc", "a\\b", "", "a\x00b", " a"])
def test_identities_that_no_folder_can_be_called(tmp_path: Path, detector: Detector, name: str) -> None:
    with pytest.raises((InvalidInputError, InvalidIdError)):
        FaceCutter(detector, tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
def test_faces_of_a_video_pass_the_gate_again(
    tmp_path: Path, detector: Detector, pictures: list[Rgb]
) -> None:
    video = write_video(tmp_path / "a clip.avi", pictures)
    cutter = FaceCutter(detector, tmp_path / "people", "Ada L.")
    names = run(cutter, list(capture.video_frames(video, 1.0)))
    stem = safe_stem(video)
    # Each picture is looked at twice, and unchanged the second time.
    assert names == [f"{stem}-00000000.jpg", f"{stem}-00002000.jpg", f"{stem}-00004000.jpg"]
    assert (cutter.report.num_frames, cutter.report.num_kept, cutter.report.num_alike) == (6, 3, 3)
    assert cutter.report.refused == {}
    assert sorted(path.name for path in (tmp_path / "people" / "Ada L.").iterdir()) == names
    for name in names:
        picture = decode((cutter.folder / name).read_bytes())
        height, width = picture.shape[:2]
        faces, measures = measure_all(picture, detector.detect([picture])[0])
        assert judge(faces, measures, GateSettings(), width, height).reason is None
        assert faces[0].box.width < width * 0.7


@pytest.mark.data
def test_running_it_again_adds_nothing_and_overwrites_nothing(
    tmp_path: Path, detector: Detector, pictures: list[Rgb]
) -> None:
    frames = [NamedFrame(f"clip-{i}", picture) for i, picture in enumerate(pictures)]
    first = FaceCutter(detector, tmp_path, "ada")
    names = run(first, frames)
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    again = FaceCutter(detector, tmp_path, "ada")
    assert run(again, frames) == names
    assert again.report.num_kept == again.report.num_there_before == 3
    (first.folder / names[0]).write_bytes(b"mine")
    third = FaceCutter(detector, tmp_path, "ada")
    assert run(third, frames) == ["clip-0-2.jpg", *names[1:]]
    after = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    assert after == {**before, names[0]: b"mine", "clip-0-2.jpg": before[names[0]]}


@pytest.mark.data
def test_refused_frames_are_counted_by_reason(
    tmp_path: Path, detector: Detector, pictures: list[Rgb], rng: np.random.Generator
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    blurred = np.asarray(cv2.GaussianBlur(pictures[0], (0, 0), 4), np.uint8)
    (folder / "a.png").write_bytes(encode_png(pictures[0]))
    (folder / "b.PNG").write_bytes(encode_png(blurred))
    (folder / "c.jpg").write_bytes(b"no picture")
    (folder / "d.png").write_bytes(encode_png(rng.integers(0, 256, (60, 60, 3), np.uint8)))
    (folder / "e.jpg").mkdir()
    (folder / "notes.txt").write_text("not looked at")
    cutter = FaceCutter(detector, tmp_path, "ada")
    assert run(cutter, list(folder_frames(folder))) == ["a.jpg"]
    assert cutter.report.num_frames == 5
    assert cutter.report.refused == {
        Reason.BLURRED: 1,
        Reason.NO_FACE: 1,
        Reason.UNDECODABLE: 1,
        Reason.UNREADABLE: 1,
    }


@pytest.mark.data
def test_it_ends_with_the_most_faces_allowed(tmp_path: Path, detector: Detector, pictures: list[Rgb]) -> None:
    cutter = FaceCutter(detector, tmp_path, "ada", CaptureSettings(faces_max=2, min_change=0))
    frames = [NamedFrame(f"clip-{i}", pictures[0]) for i in range(4)]
    assert run(cutter, frames) == ["clip-0.jpg", "clip-1.jpg"]
    assert cutter.is_full
    assert cutter.report.num_alike == 0


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "notes.txt"):
        with pytest.raises(InvalidInputError):
            list(folder_frames(folder))


@pytest.mark.data
def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, detector: Detector, pictures: list[Rgb]
) -> None:
    (tmp_path / "people").write_text("a file")
    cutter = FaceCutter(detector, tmp_path / "people", "ada")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        cutter.take(NamedFrame("clip", pictures[0]))


@pytest.mark.data
def test_the_verb(tmp_path: Path, pictures: list[Rgb], capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "clip.avi", pictures)
    given = ["capture", str(video), str(tmp_path / "people"), "--identity", "ada"]
    assert main([*given, "--faces-max", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_kept"] == 2
    assert report["folder"] == str(tmp_path / "people" / "ada")
    assert main(given) == 0
    assert "3, 2 of them there before" in capsys.readouterr().out
    assert len(list((tmp_path / "people" / "ada").iterdir())) == 3
    assert main(["capture", str(tmp_path / "missing.avi"), str(tmp_path), "--identity", "ada"]) == 1
    assert main([*given, "--camera", "1"]) == 2
    assert main(["capture", "camera", str(tmp_path), "--identity", "ada", "--camera", "99"]) == 1
    assert "camera 99 cannot be opened" in capsys.readouterr().err
