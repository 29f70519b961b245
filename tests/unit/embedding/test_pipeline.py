"""The pipeline with the real detector and a small seeded network."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from engine.config import build
from engine.embedding.align import ALIGNMENTS, Alignment, align
from engine.embedding.batcher import BatcherSettings
from engine.embedding.detect import DEFAULT_SETTINGS, Detector, DetectorSettings
from engine.embedding.embed import Embedder
from engine.embedding.images import ImageLimits, decode, encode_png
from engine.embedding.pipeline import Pipeline, PipelineSettings
from engine.errors import (
    DeadlineError,
    EngineError,
    InvalidInputError,
    OverloadedError,
    PictureTooLargeError,
    SettingsError,
    UnavailableError,
    UndecodablePictureError,
    WeightsError,
)
from engine.types import Box, EmbeddedFace, Face, FaceChoice, Rgb, Vectors


class SmallNetwork:
    """One seeded convolution and a projection to 16 numbers: real, deterministic, and knows no one."""

    name = "small"
    weights_sha256 = "0" * 64
    alignment: Alignment = ALIGNMENTS["arcface-112"]
    dimension = 16
    device = "cpu"
    mirror = True
    threshold = 0.5

    def __init__(self) -> None:
        torch.manual_seed(5)
        self._layers = nn.Sequential(nn.Conv2d(3, 4, 7, stride=5), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16))
        self.num_crops: list[int] = []

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
        self.num_crops.append(len(crops))
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 255
            vectors: Vectors = self._layers(pixels).numpy()
        # A crop of one colour alone gives nothing, as may happen to any network.
        vectors[crops.reshape(len(crops), -1).std(axis=1) == 0] = 0
        return vectors


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector("cpu")


@pytest.fixture
def network() -> SmallNetwork:
    return SmallNetwork()


@pytest.fixture
def pipeline(detector: Detector, network: SmallNetwork) -> Iterator[Pipeline]:
    with Pipeline(detector, Embedder(network)) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def crowd(data_folder: Path) -> bytes:
    return (data_folder / "photos" / "detection" / "multiface.jpg").read_bytes()


@pytest.fixture(scope="module")
def people(data_folder: Path) -> list[bytes]:
    paths = sorted((data_folder / "lfw" / "images").glob("A*/*_0001.jpg"))[:12]
    return [path.read_bytes() for path in paths]


def whole(outcome: list[EmbeddedFace] | EngineError) -> list[EmbeddedFace]:
    assert not isinstance(outcome, EngineError), outcome
    return outcome


BLANK = encode_png(np.full((60, 80, 3), 200, np.uint8))
BLANK_PIXELS = 60 * 80
NOISE = encode_png(np.random.default_rng(3).integers(0, 256, (112, 112, 3), np.uint8))
WAIT_S = 30.0
"""Longest that a test waits for another thread before it fails."""


class Watched(Detector):
    """Finds the faces it is told to in every picture, waits at a gate, and notes what it sees."""

    def __init__(self, settings: DetectorSettings = DEFAULT_SETTINGS, num_faces: int = 1):
        super().__init__("cpu", settings)
        self.face = Face(Box(1, 1, 50, 50), 0.9, ALIGNMENTS["arcface-112"].points)
        self.num_faces = num_faces
        self.num_pictures = 0
        self.pixels_held: list[int] = []
        self.pipeline: Pipeline | None = None
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.opened.set()

    def detect(self, images: Sequence[Rgb], min_face_px: int | None = None) -> list[list[Face]]:
        self.num_pictures += len(images)
        if self.pipeline is not None:
            self.pixels_held.append(self.pipeline._batcher._pixels_held)
        self.entered.release()
        assert self.opened.wait(WAIT_S)
        return [[self.face] * self.num_faces for _ in images]


def test_no_pictures_give_no_answers(pipeline: Pipeline) -> None:
    assert pipeline.detect([]) == []
    assert pipeline.embed([]) == []


def test_pictures_without_faces_give_empty_lists(pipeline: Pipeline, network: SmallNetwork) -> None:
    tiny = encode_png(np.zeros((10, 10, 3), np.uint8))
    assert pipeline.detect([BLANK, tiny]) == [[], []]
    assert pipeline.embed([BLANK, tiny]) == [[], []]
    assert network.num_crops == []


def test_one_bad_picture_never_fails_its_batch(pipeline: Pipeline) -> None:
    blank, undecodable, same = pipeline.embed([BLANK, b"no picture", BLANK])
    assert (blank, same) == ([], [])
    assert isinstance(undecodable, UndecodablePictureError)


def test_limits_are_those_of_the_settings(detector: Detector, network: SmallNetwork) -> None:
    settings = PipelineSettings(limits=ImageLimits(pixels_max=BLANK_PIXELS - 1))
    with Pipeline(detector, Embedder(network), settings) as pipeline:
        (outcome,) = pipeline.detect([BLANK])
    assert isinstance(outcome, PictureTooLargeError)


def test_a_minimum_size_that_cannot_be_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidInputError, match="min_face_px is 3; it must be at least 12"):
        pipeline.detect([BLANK], FaceChoice.ALL, 3)


def test_a_deadline_that_has_passed_is_honoured(pipeline: Pipeline) -> None:
    with pytest.raises(DeadlineError):
        pipeline.embed([BLANK], deadline=time.monotonic() - 1)


def test_a_face_without_a_template_fails_alone(network: SmallNetwork, rng: np.random.Generator) -> None:
    noise = encode_png(rng.integers(0, 256, (112, 112, 3), np.uint8))
    flat = encode_png(np.full((112, 112, 3), 7, np.uint8))
    with Pipeline(Watched(), Embedder(network)) as pipeline:
        first, bad, last = pipeline.embed([noise, flat, noise])
    assert isinstance(bad, WeightsError)
    for outcome in (first, last):
        (one,) = whole(outcome)
        np.testing.assert_allclose(np.linalg.norm(one.template), 1, atol=1e-6)


def test_a_picture_that_asks_for_too_small_faces_is_refused_alone_and_undecoded(
    network: SmallNetwork,
) -> None:
    detector = Watched(DetectorSettings(pyramid_pixels_max=400))
    # Only the header of the large one is there.
    large = encode_png(np.zeros((300, 400, 3), np.uint8))[:100]
    with Pipeline(detector, Embedder(network)) as pipeline:
        refused, small = pipeline.detect([large, BLANK], min_face_px=50)
        assert isinstance(refused, InvalidInputError)
        assert "400x300 pixels: its min_face_px must be at least" in refused.message
        assert not isinstance(small, EngineError)
        least = int(refused.message.rsplit(" ", 1)[1])
        (undecodable,) = pipeline.detect([large], min_face_px=least)
        assert isinstance(undecodable, UndecodablePictureError)


def test_a_call_never_holds_more_pixels_than_a_batch_may_have(network: SmallNetwork) -> None:
    detector = Watched()
    settings = PipelineSettings(batcher=BatcherSettings(batch_pixels_max=2 * BLANK_PIXELS))
    double = encode_png(np.zeros((120, 120, 3), np.uint8))
    with Pipeline(detector, Embedder(network), settings) as pipeline:
        detector.pipeline = pipeline
        outcomes = pipeline.detect([BLANK, BLANK, BLANK, b"", double, BLANK, double, BLANK, BLANK])
    assert [isinstance(one, EngineError) for one in outcomes] == [i == 3 for i in range(9)]
    large, small = 120 * 120, BLANK_PIXELS
    assert detector.pixels_held == [2 * small, 2 * small, small, large, small, large, 2 * small, 2 * small]


def test_pictures_beyond_the_room_of_all_callers_are_refused_before_they_are_decoded(
    network: SmallNetwork,
) -> None:
    detector = Watched()
    settings = PipelineSettings(
        limits=ImageLimits(pixels_max=BLANK_PIXELS),
        batcher=BatcherSettings(queue_pixels_max=2 * BLANK_PIXELS - 1, wait_ms_max=0.0),
    )
    with Pipeline(detector, Embedder(network), settings) as pipeline, ThreadPoolExecutor(1) as pool:
        detector.opened.clear()
        running = pool.submit(pipeline.detect, [BLANK])
        assert detector.entered.acquire(timeout=WAIT_S)
        # Damaged after its header: it would be another error if it were decoded.
        with pytest.raises(OverloadedError, match="pixels") as refusal:
            pipeline.detect([BLANK[:60]])
        assert refusal.value.retry_after_s is not None
        detector.opened.set()
        assert running.result(WAIT_S) == [[detector.face]]
        assert pipeline.detect([BLANK]) == [[detector.face]]


def test_settings_that_would_never_admit_an_allowed_picture_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"limits\.pixels_max is 100.*batcher\.queue_pixels_max is 99"):
        PipelineSettings(limits=ImageLimits(pixels_max=100), batcher=BatcherSettings(queue_pixels_max=99))
    values = {"limits": {"pixels_max": 200_000_000}}
    with pytest.raises(SettingsError, match="queue_pixels_max"):
        build(PipelineSettings, values)
    build(PipelineSettings, {**values, "batcher": {"queue_pixels_max": 200_000_000}})


def test_pictures_of_a_batch_are_not_begun_once_their_deadline_has_passed(network: SmallNetwork) -> None:
    detector = Watched()
    settings = PipelineSettings(batcher=BatcherSettings(wait_ms_max=0.0))
    with Pipeline(detector, Embedder(network), settings) as pipeline, ThreadPoolExecutor(1) as pool:
        detector.opened.clear()
        deadline = time.monotonic() + 0.2
        late = pool.submit(pipeline.embed, [BLANK] * 3, deadline=deadline)
        assert detector.entered.acquire(timeout=WAIT_S)
        # The caller is told at once, although the first picture is still being looked at.
        assert isinstance(late.exception(WAIT_S), DeadlineError)
        detector.opened.set()
        assert whole(pipeline.embed([NOISE])[0])[0].face is detector.face
    assert detector.num_pictures == 2
    # Of the first call nothing was embedded.
    assert network.num_crops == [1, 1]


def test_pictures_are_not_decoded_once_the_deadline_has_passed(
    detector: Detector, network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    decoded: list[Rgb] = []

    def slowly(data: bytes, limits: ImageLimits) -> Rgb:
        nonlocal now
        now += 10
        decoded.append(decode(data, limits))
        return decoded[-1]

    monkeypatch.setattr("engine.embedding.pipeline.decode", slowly)
    with Pipeline(detector, Embedder(network)) as pipeline:
        pipeline._batcher._clock = lambda: now
        with pytest.raises(DeadlineError):
            pipeline.detect([BLANK] * 9, deadline=now + 25)
    assert len(decoded) == 3


def test_deadlines_are_looked_at_between_groups_of_faces(network: SmallNetwork) -> None:
    """Of 5 pictures with 20 faces each no two fit into one group of 32."""
    detector = Watched(num_faces=20)
    clock = time.monotonic()

    class Slow(SmallNetwork):
        mirror = False

        def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
            nonlocal clock
            clock += 10
            return super().__call__(crops)

    slow = Slow()
    with Pipeline(detector, Embedder(slow)) as pipeline:
        pipeline._batcher._clock = lambda: clock
        with pytest.raises(DeadlineError):
            pipeline.embed([NOISE] * 5, FaceChoice.ALL, deadline=clock + 15)
        assert slow.num_crops == [20, 20]
        assert [len(whole(one)) for one in pipeline.embed([NOISE] * 5, FaceChoice.ALL)] == [20] * 5
    assert slow.num_crops[2:] == [20] * 5


def test_warming_up_uses_both_parts(pipeline: Pipeline, network: SmallNetwork) -> None:
    pipeline.warm_up()
    assert sum(network.num_crops) > 0


def test_a_closed_pipeline_is_unavailable(detector: Detector, network: SmallNetwork) -> None:
    pipeline = Pipeline(detector, Embedder(network))
    pipeline.close()
    pipeline.close()
    with pytest.raises(UnavailableError):
        pipeline.detect([BLANK])
    with pytest.raises(UnavailableError):
        pipeline.embed([])


def test_a_call_of_more_pictures_than_the_queue_holds_goes_in_parts(
    detector: Detector, network: SmallNetwork
) -> None:
    settings = PipelineSettings(batcher=BatcherSettings(batch_items_max=4, queue_items_max=3))
    with Pipeline(detector, Embedder(network), settings) as pipeline:
        assert pipeline.detect([BLANK] * 11) == [[]] * 11


def test_overload_refuses_the_call_that_finds_the_queue_full(
    detector: Detector, network: SmallNetwork
) -> None:
    settings = PipelineSettings(
        batcher=BatcherSettings(batch_items_max=1, queue_items_max=1, wait_ms_max=0.0)
    )
    with Pipeline(detector, Embedder(network), settings) as pipeline, ThreadPoolExecutor(16) as pool:

        def attempt(_: int) -> bool:
            try:
                return pipeline.detect([BLANK]) == [[]]
            except OverloadedError as error:
                return error.retry_after_s is not None and error.retry_after_s > 0

        assert all(pool.map(attempt, range(64)))


@pytest.mark.model
@pytest.mark.data
def test_each_face_gets_the_template_of_its_own_crop(pipeline: Pipeline, crowd: bytes) -> None:
    embedded = whole(pipeline.embed([crowd], FaceChoice.ALL)[0])
    assert len(embedded) == 6
    areas = [one.face.box.area for one in embedded]
    assert areas == sorted(areas, reverse=True)
    image = decode(crowd)
    for one in embedded:
        crop = align(image, one.face.keypoints, pipeline.embedder.alignment)
        np.testing.assert_allclose(one.template, pipeline.embedder.embed(crop[None])[0], atol=1e-5)
        assert one.template.base is None


@pytest.mark.model
@pytest.mark.data
def test_choices_agree_between_detect_and_embed(pipeline: Pipeline, crowd: bytes) -> None:
    for choice in FaceChoice:
        faces = pipeline.detect([crowd], choice, 30)[0]
        assert not isinstance(faces, EngineError)
        embedded = whole(pipeline.embed([crowd], choice, 30)[0])
        assert [one.face.box for one in embedded] == [one.box for one in faces]
        assert len(faces) == (6 if choice is FaceChoice.ALL else 1)


@pytest.mark.model
@pytest.mark.data
def test_all_crops_of_a_batch_are_embedded_together(
    pipeline: Pipeline, network: SmallNetwork, people: list[bytes]
) -> None:
    outcomes = pipeline.embed([people[0], b"", people[1], BLANK, people[2]], FaceChoice.LARGEST)
    assert [0 if isinstance(one, EngineError) else len(one) for one in outcomes] == [1, 0, 1, 0, 1]
    assert isinstance(outcomes[1], UndecodablePictureError)
    # Once as they are and once mirrored.
    assert network.num_crops == [3, 3]


@pytest.mark.model
@pytest.mark.data
def test_many_threads_get_what_one_alone_gets(pipeline: Pipeline, people: list[bytes]) -> None:
    alone = [whole(pipeline.embed([one])[0])[0] for one in people]
    sizes = [None, 40, 60]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda i: whole(pipeline.embed([people[i]], min_face_px=sizes[i % 3])[0])[0],
                                 range(len(people))))  # fmt: skip
    for i, (one, other) in enumerate(zip(alone, together, strict=True)):
        if sizes[i % 3] != 60:
            np.testing.assert_allclose(one.template, other.template, atol=1e-3)
        assert float(one.template @ other.template) > 0.9
