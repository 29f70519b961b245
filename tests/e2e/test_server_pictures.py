"""Pictures over the wire, with the default network: good ones, bad ones, many callers at once."""

from __future__ import annotations

import importlib.util
import io
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from engine.pb.identiface.v1 import embedding_pb2, types_pb2
from engine.pb.identiface.v1 import enrollment_pb2 as enrollment
from engine.pb.identiface.v1 import identification_pb2 as identification
from tests.e2e.conftest import Launch, ServerProcess, Stubs, make_gallery, reason_of, refusal

pytestmark = [pytest.mark.e2e, pytest.mark.model]
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NUM_CLIENTS = 8
NUM_ROUNDS = 5
SAME_PICTURE = 0.999


def sample_picture(package: str, path: str) -> Image.Image:
    """A picture of a real face that a pip package carries."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    with Image.open(Path(spec.submodule_search_locations[0]) / path) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    """One woman, 512x512."""
    return sample_picture("skimage", "data/astronaut.png")


@pytest.fixture(scope="module")
def admiral() -> Image.Image:
    """Another woman, 512x606."""
    return sample_picture("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(data: bytes, **fields: Any) -> types_pb2.Picture:
    return types_pb2.Picture(data=data, **fields)


def enroll(stubs: Stubs, gallery_id: str, identity_id: str, *pictures: types_pb2.Picture) -> Any:
    samples = [enrollment.Sample(picture=each) for each in pictures]
    draft = enrollment.Enrollment(identity_id=identity_id, samples=samples)
    return stubs.enrollment.Enroll(enrollment.EnrollRequest(gallery_id=gallery_id, enrollment=draft))


def identify(stubs: Stubs, gallery_id: str, asked: types_pb2.Picture, **options: Any) -> Any:
    request = identification.IdentifyRequest(
        gallery_id=gallery_id,
        probe=identification.Probe(picture=asked),
        options=identification.SearchOptions(**options),
    )
    return stubs.identification.Identify(request)


def bomb() -> bytes:
    """The head of a PNG of 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def unusable(image: Image.Image) -> dict[str, tuple[bytes, str]]:
    """Pictures that cannot be used, and the reason that each is refused for."""
    frames = [image.resize((64, 64)), image.resize((64, 64)).rotate(90)]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 100}
    return {
        "empty": (b"", "UNDECODABLE_PICTURE"),
        "text named .jpg": (b"not a picture at all\n" * 50, "UNDECODABLE_PICTURE"),
        "truncated": (encoded(image, "JPEG")[:9000], "UNDECODABLE_PICTURE"),
        "bomb": (bomb(), "PICTURE_TOO_LARGE"),
        "animated GIF": (encoded(frames[0], "GIF", **moving), "UNDECODABLE_PICTURE"),
        "animated WebP": (encoded(frames[0], "WEBP", **moving), "PICTURE_TOO_LARGE"),
    }


def unusual(image: Image.Image) -> dict[str, bytes]:
    """The same picture in forms that cameras, scanners and web pages make."""
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = np.asarray(image.convert("L"), np.uint16) * 257
    return {
        "RGBA": encoded(image.convert("RGBA")),
        "grey": encoded(image.convert("L")),
        "palette": encoded(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)),
        "16-bit": encoded(Image.fromarray(grey)),
        "CMYK": encoded(image.convert("CMYK"), "JPEG", quality=95),
        "EXIF-rotated": encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif),
        "BMP": encoded(image, "BMP"),
        "WebP": encoded(image, "WEBP", quality=95),
    }


def test_pictures_that_cannot_be_used_are_refused_each_on_its_own(
    picture_stubs: Stubs, picture_gallery_id: str, astronaut: Image.Image
) -> None:
    bad = unusable(astronaut)
    pictures = [picture(data) for data, _ in bad.values()]
    request = embedding_pb2.EmbedFacesRequest(pictures=[*pictures, picture(encoded(astronaut))])
    outcomes = picture_stubs.embedding.EmbedFaces(request).outcomes
    for position, (name, (_, reason)) in enumerate(bad.items()):
        assert reason_of(outcomes[position].error) == reason, name
        assert outcomes[position].error.message.startswith(f"pictures[{position}]: ")
    assert len(outcomes[-1].picture.faces) == 1
    for name, (data, reason) in bad.items():
        calls = (
            lambda data=data: enroll(picture_stubs, picture_gallery_id, "never", picture(data)),
            lambda data=data: identify(picture_stubs, picture_gallery_id, picture(data)),
        )
        for call in calls:
            assert refusal(call)[:2] == (INVALID, reason), name
    listed = enrollment.ListIdentitiesRequest(gallery_id=picture_gallery_id)
    assert list(picture_stubs.enrollment.ListIdentities(listed).identities) == []


def test_unusual_pictures_are_understood(
    picture_stubs: Stubs, picture_gallery_id: str, astronaut: Image.Image
) -> None:
    answer = enroll(picture_stubs, picture_gallery_id, "astronaut", picture(encoded(astronaut)))
    face = answer.templates[0].face
    assert len(face.keypoints) == 5
    get = enrollment.GetIdentityRequest(gallery_id=picture_gallery_id, identity_id="astronaut")
    template = picture_stubs.enrollment.GetIdentity(get).identity.templates[0]
    assert template.quality == pytest.approx(face.confidence)
    for name, data in unusual(astronaut).items():
        (found,) = identify(picture_stubs, picture_gallery_id, picture(data)).faces
        assert found.decision == types_pb2.DECISION_MATCH, name
        assert found.candidates[0].similarity > 0.95, name
        assert abs(found.face.box.x1 - face.box.x1) < 8, name


def test_no_face_is_an_answer_but_nobody_to_enroll(picture_stubs: Stubs, picture_gallery_id: str) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (200, 200, 3), np.uint8)
    tiny = Image.new("RGB", (10, 10), "white")
    for image in (Image.fromarray(noise), tiny, Image.new("RGB", (1, 1))):
        asked = picture(encoded(image))
        assert list(identify(picture_stubs, picture_gallery_id, asked).faces) == []
        code, reason, message = refusal(
            lambda asked=asked: enroll(picture_stubs, picture_gallery_id, "a", asked)  # type: ignore[misc]
        )
        assert (code, reason) == (INVALID, "NO_FACE")
        assert message.startswith("samples[0]: ")


def test_twenty_faces_are_found_and_faces_at_the_border_stay_inside(
    picture_stubs: Stubs, picture_gallery_id: str, astronaut: Image.Image
) -> None:
    head = astronaut.crop((150, 40, 310, 220))
    crowd = Image.new("RGB", (5 * head.width, 4 * head.height))
    for number in range(20):
        crowd.paste(head, (number % 5 * head.width, number // 5 * head.height))
    cut = astronaut.crop((210, 80, 330, 260))
    everyone = types_pb2.FACE_CHOICE_ALL
    request = embedding_pb2.DetectFacesRequest(
        pictures=[picture(encoded(image), face_choice=everyone) for image in (crowd, cut)]
    )
    many, border = picture_stubs.embedding.DetectFaces(request).outcomes
    assert len(many.picture.faces) == 20
    assert len(border.picture.faces) == 1
    for image, outcome in ((crowd, many), (cut, border)):
        for face in outcome.picture.faces:
            box = face.face.box
            assert 0 <= box.x1 < box.x2 <= image.width
            assert 0 <= box.y1 < box.y2 <= image.height
            assert not face.vector
    asked = picture(encoded(crowd), face_choice=everyone)
    code, reason, message = refusal(lambda: enroll(picture_stubs, picture_gallery_id, "crowd", asked))
    assert (code, reason) == (INVALID, "INVALID_INPUT")
    assert "20 faces" in message
    assert len(identify(picture_stubs, picture_gallery_id, asked).faces) == 20
    asked.face_choice = types_pb2.FACE_CHOICE_CENTRE
    assert enroll(picture_stubs, picture_gallery_id, "centre", asked).num_added == 1


def test_work_that_outlasts_the_grace_period_is_left_unfinished(launch: Launch, admiral: Image.Image) -> None:
    server = launch("--device", "cpu", settings="grace_s = 0.1").ready()
    pictures = [picture(encoded(admiral.resize((1600, 1900)), "JPEG"), min_face_px=20)] * 64
    with server.stubs() as stubs:
        call = stubs.embedding.EmbedFaces.future(embedding_pb2.EmbedFacesRequest(pictures=pictures))
        # Answered after the long call was queued, on the same connection.
        refusal(lambda: stubs.embedding.EmbedFaces(embedding_pb2.EmbedFacesRequest()))
        server.stop()
        assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert "left unfinished" in server.output


def test_two_people_are_told_apart(
    picture_stubs: Stubs, picture_gallery_id: str, astronaut: Image.Image, admiral: Image.Image
) -> None:
    one, two = picture(encoded(astronaut)), picture(encoded(admiral))
    one.face_choice = types_pb2.FACE_CHOICE_ALL  # exactly one face: as good as any other choice
    enroll(picture_stubs, picture_gallery_id, "astronaut", one)
    (stranger,) = identify(picture_stubs, picture_gallery_id, two).faces
    assert stranger.decision == types_pb2.DECISION_NO_MATCH
    darker = picture(encoded(ImageEnhance.Brightness(astronaut).enhance(0.7), "JPEG", quality=80))
    verify = identification.VerifyRequest(
        gallery_id=picture_gallery_id,
        probe=identification.Probe(picture=darker),
        identity_id="astronaut",
    )
    answer = picture_stubs.identification.Verify(verify)
    assert answer.decision == types_pb2.DECISION_MATCH
    assert answer.HasField("probe_face")
    for reference, decision in (
        (darker, types_pb2.DECISION_MATCH),
        (two, types_pb2.DECISION_NO_MATCH),
    ):
        pair = identification.VerifyRequest(
            probe=identification.Probe(picture=one), reference=identification.Probe(picture=reference)
        )
        answer = picture_stubs.identification.Verify(pair)
        assert answer.decision == decision
        assert answer.HasField("reference_face")


def test_a_template_is_the_same_by_picture_and_by_vector(
    picture_stubs: Stubs, picture_gallery_id: str, admiral: Image.Image
) -> None:
    asked = picture(encoded(admiral))
    enroll(picture_stubs, picture_gallery_id, "admiral", asked)
    messages = [embedding_pb2.EmbedStreamRequest(pictures=[asked])] * 2
    for answer in picture_stubs.embedding.EmbedStream(iter(messages)):
        vector = types_pb2.Vector(data=answer.outcomes[0].picture.faces[0].vector)
        request = identification.IdentifyRequest(
            gallery_id=picture_gallery_id, probe=identification.Probe(vector=vector)
        )
        (face,) = picture_stubs.identification.Identify(request).faces
        assert face.candidates[0].similarity == pytest.approx(1.0, abs=1e-4)


def test_a_gallery_of_another_contract_takes_no_pictures(
    picture_stubs: Stubs, astronaut: Image.Image
) -> None:
    other = make_gallery(picture_stubs)
    asked = picture(encoded(astronaut))
    mismatch = (grpc.StatusCode.FAILED_PRECONDITION, "CONTRACT_MISMATCH")
    assert refusal(lambda: enroll(picture_stubs, other, "a", asked))[:2] == mismatch
    assert refusal(lambda: identify(picture_stubs, other, asked))[:2] == mismatch


def test_wishes_of_a_picture_that_cannot_be_are_its_own_outcome(
    picture_stubs: Stubs, astronaut: Image.Image
) -> None:
    data = encoded(astronaut.resize((256, 256)))
    pictures = [
        picture(data),
        picture(data, min_face_px=-1),
        picture(data, min_face_px=3),
        picture(data, face_choice=9),
        picture(data, min_face_px=200),
    ]
    request = embedding_pb2.DetectFacesRequest(pictures=pictures)
    outcomes = picture_stubs.embedding.DetectFaces(request).outcomes
    assert [outcome.WhichOneof("outcome") for outcome in outcomes] == [
        "picture", "error", "error", "error", "picture",
    ]  # fmt: skip
    assert [reason_of(outcomes[item].error) for item in (1, 2, 3)] == ["INVALID_INPUT"] * 3
    assert list(outcomes[4].picture.faces) == []
    for count in (0, 65):
        crowd = embedding_pb2.DetectFacesRequest(pictures=[picture(b"")] * count)
        assert refusal(lambda crowd=crowd: picture_stubs.embedding.DetectFaces(crowd))[:2] == (  # type: ignore[misc]
            INVALID,
            "INVALID_INPUT",
        )


def test_who_is_enrolled_from_a_picture_is_found_in_the_very_next_call_under_eight_clients(
    picture_server: ServerProcess, picture_gallery_id: str, astronaut: Image.Image, admiral: Image.Image
) -> None:
    failures: list[str] = []

    def client(number: int) -> None:
        source = (astronaut, admiral)[number % 2]
        with picture_server.stubs() as stubs:
            for turn in range(NUM_ROUNDS):
                bright = ImageEnhance.Brightness(source).enhance(0.7 + 0.05 * number + 0.01 * turn)
                asked = picture(encoded(bright.crop((number, turn, 480, 480)), "JPEG", quality=90))
                identity_id = f"{number}-{turn}"
                sequence = enroll(stubs, picture_gallery_id, identity_id, asked).receipt.sequence
                (face,) = identify(stubs, picture_gallery_id, asked, k=100).faces
                found = {each.identity_id: each.similarity for each in face.candidates}
                if not (face.searched_sequence >= sequence and found.get(identity_id, 0) > SAME_PICTURE):
                    failures.append(f"{identity_id}: {sequence} {face.searched_sequence} {found}")
                done.release()

    done = threading.Semaphore(0)
    clients = [threading.Thread(target=client, args=(number,)) for number in range(NUM_CLIENTS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert failures == []
    assert all(done.acquire(blocking=False) for _ in range(NUM_CLIENTS * NUM_ROUNDS))
