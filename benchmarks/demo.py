"""The main job, seen to work: ``make demo``.

Starts a real server on an empty folder, enrolls a picture that scikit-image ships (the astronaut Eileen
Collins) among 100,000 vectors drawn to the default network's own distribution, identifies an altered copy of
her picture and a stranger (Grace Hopper, from matplotlib), kills the server with kill -9 and asks again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
import skimage
from tqdm import tqdm

from benchmarks.galleries import Distribution
from benchmarks.server import ServerProcess
from engine.client import Client, EnrollItem, FaceIdentification
from engine.embedding.draw import draw_faces
from engine.embedding.images import decode, encode_png
from engine.types import Decision, FaceChoice, GallerySettings, Rgb

FOLDER = Path(".demo")
NUM_FILLERS = 100_000
SEED = 20_261_121
GALLERY = "demo"
THRESHOLD = 0.955
"""Among 100,000, fewer than one in a thousand of LFW's strangers has a candidate at or above it; the default,
0.94, is for about a thousand enrolled people."""
ENROLLED_ID = "eileen-collins"


def enrolled_picture() -> bytes:
    """Eileen Collins, from scikit-image."""
    return (Path(skimage.__file__).parent / "data" / "astronaut.png").read_bytes()


def stranger_picture() -> bytes:
    """Grace Hopper, from matplotlib."""
    return (Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg").read_bytes()


def altered(picture: bytes) -> bytes:
    """The picture turned by 8 degrees, three quarters of the size, brighter, and saved as a poor JPEG."""
    pixels = decode(picture)
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 8.0, 0.75)
    turned: Any = cv2.warpAffine(pixels, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    brighter = np.clip(turned.astype(np.float32) * 1.15 + 8, 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", brighter[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])
    return bytes(data)


def side_by_side(pictures: list[bytes]) -> bytes:
    """One picture of several, all scaled to one height."""
    height = 512
    parts: list[Rgb] = []
    for picture in pictures:
        pixels = decode(picture)
        width = round(pixels.shape[1] * height / pixels.shape[0])
        parts.append(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8))
    return encode_png(np.concatenate(parts, axis=1))


def fillers() -> Iterator[EnrollItem]:
    """People who never were, drawn to the distribution of real ones."""
    for number, vector in enumerate(Distribution.load("dlib-resnet").draw(NUM_FILLERS, SEED)):
        yield EnrollItem(f"filler-{number:06d}", [vector])


def describe(face: FaceIdentification) -> str:
    """One line for a person to read."""
    best = face.candidates[0]
    is_match = face.decision is Decision.MATCH
    verdict = f"MATCH     {best.identity_id}" if is_match else "NO_MATCH  nobody enrolled"
    nearest = "" if is_match else f" (nearest: {best.identity_id})"
    return f"{verdict}  similarity {best.similarity:.3f}, threshold {face.threshold:.3f}{nearest}"


def ask(
    client: Client, title: str, picture: bytes, choice: FaceChoice = FaceChoice.LARGEST
) -> list[FaceIdentification]:
    """Identify, time and print."""
    started = time.perf_counter()
    faces = client.identify(GALLERY, picture, 3, choice=choice)
    elapsed_ms = (time.perf_counter() - started) * 1e3
    for face in faces:
        print(f"  {title:<28}{describe(face)}")
    print(f"  {'':<28}{elapsed_ms:.0f} ms with detection and embedding, {len(faces)} face(s)")
    return faces


def enroll_everybody(client: Client) -> None:
    """100,000 fillers over one stream, and one real face from a picture."""
    client.create_gallery(GALLERY, settings=GallerySettings(threshold=THRESHOLD))
    started = time.perf_counter()
    answers = client.enroll_stream(GALLERY, fillers())
    for _, answer in tqdm(
        answers, total=NUM_FILLERS, desc="enroll", unit=" people", disable=not sys.stderr.isatty()
    ):
        if isinstance(answer, Exception):
            raise answer
    rate = NUM_FILLERS / (time.perf_counter() - started)
    print(f"Enrolled {NUM_FILLERS:,} drawn vectors, each message synced to disk: {rate:,.0f} people/s")
    client.enroll(GALLERY, ENROLLED_ID, [enrolled_picture()])
    print(f"Enrolled {ENROLLED_ID} from one picture")


def time_searches(client: Client, num_searches: int = 300) -> None:
    """Median of searches by vector, over gRPC, client included."""
    probes = Distribution.load("dlib-resnet").draw(num_searches, SEED + 1)
    times_ms = []
    for probe in probes:
        started = time.perf_counter()
        client.identify(GALLERY, probe)
        times_ms.append((time.perf_counter() - started) * 1e3)
    p50, p99 = np.percentile(times_ms, [50, 99])
    print(f"Search by vector among {NUM_FILLERS + 1:,}, over gRPC: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def plot(picture: bytes, faces: list[FaceIdentification], path: Path) -> None:
    """Draw the answers on the picture."""
    labels = []
    for face in faces:
        is_match = face.decision is Decision.MATCH
        name = face.candidates[0].identity_id if is_match else "unknown"
        if face.face is not None:
            labels.append((face.face, f"{name} {face.candidates[0].similarity:.3f}", is_match))
    path.write_bytes(encode_png(draw_faces(decode(picture), labels)))


def main() -> int:
    """Run the demo; returns 0 where every answer was the right one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="working folder, emptied first")
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    server = ServerProcess(folder / "data")
    try:
        with Client(server.address) as client:
            status = client.status()
            name = status.contract.name if status.contract else "none"
            print(f"Server {status.version} on {server.address}, network {name} on {status.device}")
            enroll_everybody(client)
            time_searches(client)
            print("Who is in this picture?")
            known = ask(client, "altered copy of Collins", altered(enrolled_picture()))
            stranger = ask(client, "Hopper, not enrolled", stranger_picture())
        server.kill()
        server = ServerProcess(folder / "data")
        print("Killed the server with kill -9 and started it again")
        together = side_by_side([altered(enrolled_picture()), stranger_picture()])
        with Client(server.address) as client:
            both = ask(client, "both in one picture", together, FaceChoice.ALL)
        plot(together, both, folder / "plot.png")
        print(f"Plot: {folder / 'plot.png'}   Server log: {server.log}")
    finally:
        server.stop()
    matched = [face.decision is Decision.MATCH for face in (*known, *stranger)]
    names = {face.candidates[0].identity_id for face in both if face.decision is Decision.MATCH}
    is_right = matched == [True, False] and names == {ENROLLED_ID}
    print("Every answer was right." if is_right else "An answer was WRONG.")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
