"""Kept crops over the wire, and a served gallery that is moved to another network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from PIL import Image

from engine.cli import main
from engine.client import Client, EnrollItem, Picture
from engine.embedding import nn4_small2
from engine.embedding.align import ALIGNMENTS, align
from engine.embedding.checkpoints import write_safetensors
from engine.embedding.embed import Embedder
from engine.embedding.kept import restore
from engine.embedding.networks import load_network
from engine.errors import ContractMismatchError, InvalidInputError
from engine.pb.identiface.v1 import gallery_pb2
from engine.types import EmbeddedFace, FaceChoice, GallerySettings, StoredTemplate, Template
from tests.e2e.conftest import ServerProcess, Stubs, refusal
from tests.e2e.test_server_pictures import encoded, sample_picture

pytestmark = [pytest.mark.e2e, pytest.mark.model]
KEEPING = GallerySettings(keep_crops=True)
SAME_FACE = 0.999


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    """One woman, 512x512."""
    return sample_picture("skimage", "data/astronaut.png")


@pytest.fixture(scope="module")
def client(picture_server: ServerProcess) -> Iterator[Client]:
    with Client(picture_server.address, timeout_s=60.0) as opened:
        yield opened


def templates_of(client: Client, gallery: str, identity_id: str) -> tuple[StoredTemplate, ...]:
    return client.get_identity(gallery, identity_id, with_vectors=True, with_crops=True).templates


def embedded(client: Client, picture: bytes, choice: FaceChoice, *, with_crops: bool) -> list[EmbeddedFace]:
    (faces,), _ = client.embed([Picture(picture, choice)], with_crops=with_crops)
    assert isinstance(faces, list), faces
    return faces


def test_a_picture_leaves_its_face_where_the_gallery_keeps_it(client: Client, astronaut: Image.Image) -> None:
    made = client.create_gallery("keeping", settings=KEEPING)
    assert made.settings == client.get_gallery("keeping").settings == KEEPING
    client.create_gallery("forgetful")
    picture = encoded(astronaut)
    for gallery in ("keeping", "forgetful"):
        client.enroll(gallery, "ada", [picture])
    (template,) = templates_of(client, "keeping", "ada")
    (plain,) = templates_of(client, "forgetful", "ada")
    assert plain.crop == b""
    assert client.get_identity("keeping", "ada").templates[0].crop == b""
    assert 5_000 < len(template.crop) < 60_000
    assert max(restore(template.crop)[0].shape) <= 256
    network = Embedder(load_network("dlib-resnet", "cpu"))
    again = network.embed(align(*restore(template.crop), ALIGNMENTS["dlib-150"])[None])[0]
    assert float(again @ template.vector) > SAME_FACE


def test_a_vector_brings_the_crop_that_came_with_it(client: Client, astronaut: Image.Image) -> None:
    client.create_gallery("brought", settings=KEEPING)
    picture = encoded(astronaut)
    (face,) = embedded(client, picture, FaceChoice.LARGEST, with_crops=True)
    assert face.crop
    (without,) = embedded(client, picture, FaceChoice.LARGEST, with_crops=False)
    assert without.crop == b""
    items = [EnrollItem("ada", [Template(face.template, 0.9, "a.png", face.crop)])]
    assert [name for name, _ in client.enroll_stream("brought", items)] == ["ada"]
    assert templates_of(client, "brought", "ada")[0].crop == face.crop
    client.create_gallery("unwanted")
    with pytest.raises(InvalidInputError, match=r"samples\[0\]\.crop: a kept crop was given"):
        client.enroll("unwanted", "ada", [Template(face.template, crop=face.crop)])
    with pytest.raises(InvalidInputError, match=r"samples\[0\]\.crop has 300000 bytes"):
        client.enroll("brought", "ada", [Template(face.template, crop=bytes(300_000))])


def test_of_several_faces_none_is_kept(client: Client, astronaut: Image.Image) -> None:
    pair = Image.new("RGB", (1024, 512))
    pair.paste(astronaut, (0, 0))
    pair.paste(astronaut, (512, 0))
    faces = embedded(client, encoded(pair), FaceChoice.ALL, with_crops=True)
    assert len(faces) >= 2
    assert all(face.crop == b"" for face in faces)


def test_what_was_chosen_at_creation_stays(picture_stubs: Stubs, client: Client) -> None:
    client.create_gallery("decided", settings=KEEPING)
    same, other = (
        gallery_pb2.UpdateGalleryRequest(
            gallery_id="decided", settings=gallery_pb2.GallerySettings(keep_crops=keep_crops)
        )
        for keep_crops in (True, False)
    )
    assert picture_stubs.galleries.UpdateGallery(same).gallery.settings.keep_crops
    code, reason, _ = refusal(lambda: picture_stubs.galleries.UpdateGallery(other))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert client.update_gallery("decided", threshold=0.25).settings == GallerySettings(
        16, 0.25, keep_crops=True
    )


def test_a_served_gallery_is_moved_to_another_network(
    client: Client,
    picture_server: ServerProcess,
    astronaut: Image.Image,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "nn4.safetensors"
    write_safetensors(weights, nn4_small2.Nn4Small2(), {"architecture": nn4_small2.NAME})
    client.create_gallery("before", settings=KEEPING)
    client.set_alias("moving", "before")
    pictures = [
        Picture(encoded(astronaut, "JPEG", quality=quality), source=f"{quality}") for quality in (60, 95)
    ]
    client.enroll("before", "ada", pictures, attributes={"name": "Ada"})
    move = ["reembed", "moving", "--to", "after", "--server", picture_server.address, "--model", str(weights)]
    assert main([*move, "--alias", "moving", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["identities"], told["templates"], told["need_new_pictures"]) == (1, 2, [])
    after = client.get_gallery("moving")
    assert (after.gallery_id, after.contract.name) == ("after", nn4_small2.NAME)
    moved = client.get_identity("after", "ada", with_vectors=True, with_crops=True)
    old = templates_of(client, "before", "ada")
    assert moved.attributes == {"name": "Ada"}
    assert [(one.source, one.quality, one.crop) for one in moved.templates] == [
        (one.source, one.quality, one.crop) for one in old
    ]
    # Of one length, and yet they never meet.
    assert len(moved.templates[0].vector) == len(old[0].vector) == 128
    assert abs(float(moved.templates[0].vector @ old[0].vector)) < SAME_FACE
    assert client.identify("after", moved.templates[0].vector)[0].candidates[0].identity_id == "ada"
    with pytest.raises(ContractMismatchError):
        client.enroll(
            "after", "bob", [old[0].vector], contract_digest=client.get_gallery("before").contract.digest
        )
    with pytest.raises(ContractMismatchError):
        client.identify("after", encoded(astronaut))
    assert np.isclose(np.linalg.norm(moved.templates[1].vector), 1)
