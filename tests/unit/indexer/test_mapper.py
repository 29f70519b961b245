"""Pictures to outcomes: one for each item, the same bytes whatever the split."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.assembly import EmbeddingSettings, build_pipeline
from engine.embedding.align import ALIGNMENTS, Alignment
from engine.embedding.embed import Embedder
from engine.embedding.images import encode_png
from engine.errors import EngineError, InvalidInputError, SettingsError
from engine.types import FaceChoice, Vectors
from indexer.gate import GateSettings
from indexer.items import Item, Reason, Refusal
from indexer.mapper import EMBED_CROPS, Outcome, PictureMapper, _Parts

NUM_PICTURES = 20
EMBEDDING = EmbeddingSettings(
    device="cpu", num_threads=1, pipeline={"limits": {"pixels_max": 1_000_000, "bytes_max": 1_000_000}}
)


class Pictures:
    """Pictures held in memory."""

    kind = "memory"

    def __init__(self, pictures: dict[str, bytes | Exception]):
        self.pictures = pictures
        self.reads: list[str] = []

    def items(self) -> Iterator[Item | Refusal]:
        return (Item(key, f"of {key}", attributes={"from": key}) for key in self.pictures)

    def read(self, item: Item) -> bytes:
        self.reads.append(item.key)
        data = self.pictures[item.key]
        if isinstance(data, Exception):
            raise data
        return data


def items_of(source: Pictures) -> list[Item]:
    return [item for item in source.items() if isinstance(item, Item)]


@pytest.fixture(scope="module")
def lfw(data_folder: Path) -> Pictures:
    paths = sorted((data_folder / "lfw" / "images").rglob("*.jpg"))[:: 10_000 // NUM_PICTURES][:NUM_PICTURES]
    return Pictures({path.name: path.read_bytes() for path in paths})


@pytest.fixture(scope="module")
def mapper(lfw: Pictures) -> PictureMapper:
    return PictureMapper(lfw, EMBEDDING, GateSettings(faces="centre"))


@pytest.fixture(scope="module")
def whole(mapper: PictureMapper, lfw: Pictures) -> list[Outcome]:
    """All of them in one call."""
    return mapper(items_of(lfw))


def with_source(mapper: PictureMapper, source: Pictures, gate: GateSettings | None = None) -> PictureMapper:
    """Another mapper with the network that this one has loaded."""
    other = PictureMapper(source, mapper.embedding, gate or mapper.gate)
    other._loaded = mapper._parts
    return other


pytestmark = [pytest.mark.data, pytest.mark.model]


def test_each_item_has_its_outcome_in_order(whole: list[Outcome], lfw: Pictures) -> None:
    assert [outcome.key for outcome in whole] == list(lfw.pictures)
    for outcome, data in zip(whole, lfw.pictures.values(), strict=True):
        assert isinstance(data, bytes)
        assert outcome.reason == ""
        assert outcome.identity_id == f"of {outcome.key}"
        assert outcome.attributes == {"from": outcome.key}
        assert outcome.sha256 == hashlib.sha256(data).digest()
        assert len(outcome.vectors) == len(outcome.qualities) == 1
        assert 0.9 <= outcome.qualities[0] <= 1


def test_templates_are_those_of_the_pipeline(whole: list[Outcome], lfw: Pictures) -> None:
    pictures = [data for data in lfw.pictures.values() if isinstance(data, bytes)]
    with build_pipeline(EMBEDDING) as pipeline:
        expected = pipeline.embed(pictures, FaceChoice.CENTRE)
    for outcome, faces in zip(whole, expected, strict=True):
        assert not isinstance(faces, EngineError)
        vector = np.frombuffer(outcome.vectors[0], "<f4")
        np.testing.assert_allclose(vector, faces[0].template, rtol=0, atol=1e-6)
        assert outcome.qualities == [faces[0].face.confidence]


def test_bytes_do_not_depend_on_what_else_is_in_the_call(
    mapper: PictureMapper, whole: list[Outcome], lfw: Pictures
) -> None:
    items = items_of(lfw)
    assert mapper([]) == []
    assert mapper(items[7:8]) == whole[7:8]
    assert mapper(items[:3] + items[10:]) == whole[:3] + whole[10:]
    assert mapper(items[::-1]) == whole[::-1]
    # More than one full batch, so that both fixed batches and a padded rest were seen.
    assert EMBED_CROPS < NUM_PICTURES < 2 * EMBED_CROPS


def test_what_is_wrong_with_one_item_is_its_own(
    mapper: PictureMapper, whole: list[Outcome], lfw: Pictures, data_folder: Path, rng: np.random.Generator
) -> None:
    good = [(key, data) for key, data in lfw.pictures.items() if isinstance(data, bytes)][:2]
    source = Pictures(
        {
            good[0][0]: good[0][1],
            "gone": FileNotFoundError(2, "No such file or directory", "gone"),
            "huge": InvalidInputError("5000000000 bytes, at most 20971520 are read"),
            "empty": b"",
            "text": b"key,identity_id\n",
            "cut": good[0][1][:2000],
            "wide": encode_png(np.zeros((1000, 1001, 3), np.uint8)),
            "noise": encode_png(rng.integers(0, 256, (90, 90, 3), np.uint8)),
            "tiny": encode_png(np.zeros((1, 1, 3), np.uint8)),
            good[1][0]: good[1][1],
        }
    )
    outcomes = {outcome.key: outcome for outcome in with_source(mapper, source)(items_of(source))}
    reasons = {key: outcome.reason for key, outcome in outcomes.items()}
    assert reasons == {
        good[0][0]: "",
        "gone": Reason.UNREADABLE,
        "huge": Reason.TOO_LARGE,
        "empty": Reason.UNDECODABLE,
        "text": Reason.UNDECODABLE,
        "cut": Reason.UNDECODABLE,
        "wide": Reason.TOO_LARGE,
        "noise": Reason.NO_FACE,
        "tiny": Reason.NO_FACE,
        good[1][0]: "",
    }
    assert [outcomes[key].vectors for key, _ in good] == [outcome.vectors for outcome in whole[:2]]
    assert outcomes["gone"].detail == "No such file or directory"
    assert outcomes["gone"].sha256 == b""
    assert outcomes["cut"].sha256 == hashlib.sha256(good[0][1][:2000]).digest()
    assert all(outcome.detail and not outcome.vectors for outcome in outcomes.values() if outcome.reason)


def test_a_file_known_to_be_too_large_is_not_read(mapper: PictureMapper) -> None:
    source = Pictures({"large": b"", "at the limit": b""})
    sizes = {"large": 1_000_001, "at the limit": 1_000_000}
    items = [Item(key, "ada", size_bytes=size) for key, size in sizes.items()]
    large, other = with_source(mapper, source)(items)
    assert large.reason == Reason.TOO_LARGE
    assert other.reason == Reason.UNDECODABLE
    assert source.reads == ["at the limit"]


def test_faces_too_small_to_look_for_are_too_many_pixels(lfw: Pictures) -> None:
    pipeline = {"detector": {"min_face_px": 12, "pyramid_pixels_max": 50_000}}
    small = PictureMapper(lfw, EmbeddingSettings(device="cpu", num_threads=1, pipeline=pipeline))
    (outcome,) = small(items_of(lfw)[:1])
    assert outcome.reason == Reason.TOO_LARGE
    assert "min_face_px must be at least" in outcome.detail


def test_every_face_of_a_picture_can_be_taken(mapper: PictureMapper, data_folder: Path) -> None:
    source = Pictures({"many": (data_folder / "photos" / "detection" / "multiface.jpg").read_bytes()})
    items = items_of(source)
    gates = {policy: GateSettings(faces=policy, min_sharpness=0) for policy in ("all", "largest", "refuse")}
    (every,), (largest,), (refused,) = (with_source(mapper, source, gate)(items) for gate in gates.values())
    assert len(every.vectors) == len(every.qualities) > 1
    assert largest.vectors == every.vectors[:1]
    assert len(set(every.vectors)) == len(every.vectors)
    assert refused.reason == Reason.SEVERAL_FACES
    assert refused.detail.startswith(f"{len(every.vectors)} faces")


def test_a_mapper_goes_to_another_process_without_its_network(
    mapper: PictureMapper, whole: list[Outcome], lfw: Pictures
) -> None:
    assert mapper.contract.name == "dlib-resnet"
    copied: PictureMapper = pickle.loads(pickle.dumps(mapper))
    assert copied._loaded is None
    assert copied(items_of(lfw)[:1]) == whole[:1]
    assert copied.contract == mapper.contract


def test_a_network_that_cannot_be_loaded_stops_the_job(lfw: Pictures) -> None:
    for model in ("none", "no-such-network"):
        with pytest.raises(SettingsError):
            PictureMapper(lfw, EmbeddingSettings(model=model))(items_of(lfw)[:1])


class DarkBlind:
    """A network that gives nothing for crops darker than most."""

    name = "dark-blind"
    weights_sha256 = "0" * 64
    alignment: Alignment = ALIGNMENTS["arcface-112"]
    dimension = 4
    device = "cpu"
    mirror = False
    threshold = 0.5

    def __init__(self, least_mean: float):
        self.least_mean = least_mean

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
        quarters = crops.reshape(len(crops), 4, -1).astype(np.float64).mean(axis=2)
        quarters[quarters.mean(axis=1) < self.least_mean] = 0
        vectors: Vectors = quarters.astype(np.float32)
        return vectors


def test_a_crop_without_a_template_refuses_its_picture_alone(mapper: PictureMapper, lfw: Pictures) -> None:
    parts = mapper._parts

    def outcomes(least_mean: float) -> list[Outcome]:
        other = with_source(mapper, lfw)
        other._loaded = _Parts(parts.detector, Embedder(DarkBlind(least_mean)), parts.limits)
        return other(items_of(lfw))

    every, some, none = outcomes(0.0), outcomes(110.0), outcomes(256.0)
    assert {outcome.reason for outcome in every} == {""}
    assert {outcome.reason for outcome in some} == {"", Reason.BAD_VECTOR}
    assert {outcome.reason for outcome in none} == {Reason.BAD_VECTOR}
    for one, other in zip(some, every, strict=True):
        assert one.vectors == (other.vectors if not one.reason else [])
