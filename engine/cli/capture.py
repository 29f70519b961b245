"""The verb `capture`: faces out of videos, a camera or pictures, as one's own data set, without a server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.arguments import UsageError, Verbs, add_json_option, face_px, identity_name, seconds, whole
from engine.cli.layout import print_json, print_lines, table
from engine.wire.limits import FACE_PX_MIN

if TYPE_CHECKING:
    from indexer.capture import CaptureReport, NamedFrame

CAMERA = "camera"
"""The source that is no path."""
CAMERA_MAX = 99
FACES_MAX = 1_000_000

_CAPTURE = """\
SOURCE is a video file, a folder of pictures, or the word `camera`. Faces are written to OUT/NAME, each with a
margin around it; no file is ever overwritten, and running it again adds nothing. Views that did not change
are skipped, and faces too small, blurred or turned away are refused and counted. Ctrl-C ends a camera; what
was written stays.

examples:
  identiface capture ada.mp4 people --identity ada
  identiface capture camera people --identity ada --every-s 0.5 --faces-max 20
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb `capture`."""
    capture = verbs.add_parser(
        "capture",
        help="cut faces out of a video, a camera or pictures",
        description="Cut a person's faces out of a video, a camera or pictures into a folder of that name.",
        epilog=_CAPTURE,
    )
    capture.add_argument("source", metavar="SOURCE", help="video file, folder of pictures, or `camera`")
    capture.add_argument("out", metavar="OUT", type=Path, help="folder that holds a folder for each identity")
    capture.add_argument(
        "--identity", metavar="NAME", type=identity_name, required=True, help="who is to be seen"
    )
    capture.add_argument(
        "--every-s",
        metavar="SECONDS",
        type=seconds,
        default=1.0,
        help="time from one frame looked at to the next, in seconds (default: 1)",
    )
    capture.add_argument(
        "--faces-max",
        metavar="N",
        type=lambda text: whole(text, 1, FACES_MAX),
        default=1000,
        help="end after so many faces (default: 1000)",
    )
    capture.add_argument(
        "--camera",
        metavar="N",
        type=lambda text: whole(text, 0, CAMERA_MAX),
        help="which camera, counted from 0 (default: 0); SOURCE must be `camera`",
    )
    capture.add_argument(
        "--face",
        choices=("largest", "centre", "refuse"),
        default="largest",
        help="which of a frame's faces is meant; refuse: none of several (default: largest)",
    )
    capture.add_argument(
        "--min-face-px",
        metavar="PIXELS",
        type=face_px,
        default=40,
        help=f"shorter side of a face's box, in pixels, {FACE_PX_MIN} or more (default: 40)",
    )
    add_json_option(capture)
    capture.set_defaults(run=_capture)


def _capture(arguments: argparse.Namespace) -> None:
    if arguments.camera is not None and arguments.source != CAMERA:
        raise UsageError(f"--camera needs the word `{CAMERA}` as SOURCE, not {arguments.source!r}")
    # Imported here: torch takes seconds that other verbs need not wait for.
    from engine.embedding.detect import Detector, DetectorSettings
    from engine.embedding.networks import resolve_device
    from indexer.capture import CaptureSettings, FaceCutter
    from indexer.gate import GateSettings

    smallest = arguments.min_face_px
    cutter = FaceCutter(
        Detector(resolve_device("auto"), DetectorSettings(min_face_px=smallest)),
        arguments.out,
        arguments.identity,
        CaptureSettings(every_s=arguments.every_s, faces_max=arguments.faces_max),
        GateSettings(faces=arguments.face, min_face_px=smallest),
    )
    try:
        for frame in _frames(arguments):
            cutter.take(frame)
            _show(cutter.report)
            if cutter.is_full:
                break
    finally:
        # Also after Ctrl-C, which is how a camera is ended.
        _show(None)
        if cutter.report.num_frames:
            _print(cutter.report, cutter.folder, is_json=arguments.json)


def _frames(arguments: argparse.Namespace) -> Iterator[NamedFrame]:
    from indexer.capture import camera_frames, folder_frames, video_frames

    if arguments.source == CAMERA:
        return camera_frames(arguments.camera or 0, arguments.every_s)
    path = Path(arguments.source)
    return folder_frames(path) if path.is_dir() else video_frames(path, arguments.every_s)


def _show(report: CaptureReport | None) -> None:
    """Show how far it is, on a terminal alone; None wipes it away."""
    if sys.stderr.isatty():
        text = "" if report is None else f"{report.num_frames} frames, {report.num_kept} faces kept"
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()


def _print(report: CaptureReport, folder: Path, *, is_json: bool) -> None:
    if is_json:
        import msgspec

        print_json({**msgspec.to_builtins(report), "folder": str(folder)})
    else:
        print_lines(report_lines(report, folder))


def report_lines(report: CaptureReport, folder: Path) -> list[str]:
    """Say what was kept, skipped and refused."""
    there = f", {report.num_there_before} of them there before" if report.num_there_before else ""
    rows = [
        ("folder", str(folder)),
        ("frames", f"{report.num_frames:,}"),
        ("faces kept", f"{report.num_kept:,}{there}"),
        ("unchanged, skipped", f"{report.num_alike:,}"),
        *((f"refused, {reason}", f"{number:,}") for reason, number in report.refused.items()),
    ]
    return table(("", ""), rows)
