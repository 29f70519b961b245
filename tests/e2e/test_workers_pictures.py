"""Pictures on a server of several workers: embedded by a process of its own, whichever worker is asked."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from PIL import Image

from engine.embedding.kept import KEPT_PX_MAX, restore
from engine.pb.identiface.v1 import admin_pb2, embedding_pb2, enrollment_pb2, gallery_pb2, types_pb2
from tests.e2e.conftest import ServerProcess, Stubs, make_gallery, reason_of, unit
from tests.e2e.test_server_pictures import (
    SAME_PICTURE,
    encoded,
    enroll,
    identify,
    picture,
    sample_picture,
    unusable,
)
from tests.e2e.workers import ANSWER_S, best_of, each_worker, enrollment, question

pytestmark = [pytest.mark.e2e, pytest.mark.model]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two workers and one embed worker, shared by this module."""
    flags = ("--device", "cpu", "--workers", "2", "--embed-workers", "1")
    started = ServerProcess(tmp_path_factory.mktemp("workers"), *flags)
    try:
        yield started.ready()
        started.stop()
    finally:
        started.process.kill()


@pytest.fixture(scope="module")
def workers(server: ServerProcess) -> Iterator[dict[str, Stubs]]:
    """A connection to each worker."""
    with each_worker(server, 2) as reached:
        yield reached


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    """One woman, 512x512."""
    return sample_picture("skimage", "data/astronaut.png")


def pids_of(server: ServerProcess) -> dict[str, int]:
    """Process id of each worker that was ready last."""
    found = re.findall(r'"event":"worker ready","worker":"([\w-]+)","pid":(\d+)', server.output)
    return {name: int(pid) for name, pid in found}


def test_a_picture_enrolled_by_one_worker_is_identified_by_all(
    server: ServerProcess, workers: dict[str, Stubs], astronaut: Image.Image
) -> None:
    gallery_id = make_picture_gallery(workers["0"], "astronauts")
    asked = picture(encoded(astronaut))
    answer = enroll(workers["0"], gallery_id, "eileen", asked)
    assert answer.templates[0].face.confidence > 0.9
    for stubs in workers.values():
        (face,) = identify(stubs, gallery_id, asked).faces
        assert face.candidates[0].identity_id == "eileen"
        assert face.candidates[0].similarity > SAME_PICTURE
        assert face.decision == types_pb2.DECISION_MATCH
        assert face.face.box.x2 > face.face.box.x1


def test_a_face_is_kept_also_where_another_process_embedded_it(
    workers: dict[str, Stubs], astronaut: Image.Image
) -> None:
    settings = gallery_pb2.GallerySettings(keep_crops=True)
    request = gallery_pb2.CreateGalleryRequest(gallery_id="faces-kept", settings=settings)
    assert workers["0"].galleries.CreateGallery(request).gallery.settings.keep_crops
    enroll(workers["0"], "faces-kept", "eileen", picture(encoded(astronaut)))
    for stubs in workers.values():
        answers = [
            stubs.enrollment.GetIdentity(
                enrollment_pb2.GetIdentityRequest(
                    gallery_id="faces-kept", identity_id="eileen", with_crops=with_crops
                )
            )
            for with_crops in (True, False)
        ]
        kept, plain = (answer.identity.templates[0].crop for answer in answers)
        assert max(restore(kept)[0].shape) <= KEPT_PX_MAX
        assert plain == b""


def test_the_network_is_known_to_workers_that_do_not_load_it(
    server: ServerProcess, workers: dict[str, Stubs]
) -> None:
    for stubs in workers.values():
        status = stubs.admin.Status(admin_pb2.StatusRequest())
        assert (status.device, status.contract.name) == ("cpu", "dlib-resnet")
        assert len(status.contract.digest) == 64
    pids = pids_of(server)
    assert is_mapped(pids["embed-0"], "libtorch")
    assert not is_mapped(pids["0"], "libtorch")
    assert not is_mapped(pids["1"], "libtorch")
    assert not is_mapped(server.process.pid, "libfaiss")
    assert not is_mapped(server.process.pid, "libtorch")


def test_pictures_that_cannot_be_used_are_refused_as_by_a_single_process(
    workers: dict[str, Stubs], astronaut: Image.Image
) -> None:
    bad = unusable(astronaut)
    request = embedding_pb2.EmbedFacesRequest(
        pictures=[picture(encoded(astronaut)), *(picture(data) for data, _ in bad.values())]
    )
    outcomes = workers["1"].embedding.EmbedFaces(request).outcomes
    assert len(outcomes[0].picture.faces) == 1
    for position, (outcome, (_, reason)) in enumerate(zip(outcomes[1:], bad.values(), strict=True), 1):
        assert reason_of(outcome.error) == reason
        # Named once, although two processes handled it.
        assert outcome.error.message.count("pictures[") == 1
        assert outcome.error.message.startswith(f"pictures[{position}]: ")
    detected = workers["0"].embedding.DetectFaces(
        embedding_pb2.DetectFacesRequest(pictures=request.pictures[:1])
    )
    assert len(detected.outcomes[0].picture.faces) == 1


def test_a_deadline_is_passed_on(workers: dict[str, Stubs], astronaut: Image.Image) -> None:
    data = encoded(astronaut)
    request = embedding_pb2.EmbedFacesRequest(pictures=[picture(data)] * 32)
    with pytest.raises(grpc.RpcError) as caught:
        workers["0"].embedding.EmbedFaces(request, timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_without_its_embed_worker_vectors_go_on_and_pictures_are_told_when(
    server: ServerProcess, workers: dict[str, Stubs], astronaut: Image.Image
) -> None:
    stubs = workers["0"]
    gallery_id = make_gallery(stubs)
    vector = unit(np.random.default_rng(0))
    stubs.enrollment.Enroll(enrollment(gallery_id, "ada", [vector]))
    request = embedding_pb2.EmbedFacesRequest(pictures=[picture(encoded(astronaut))])
    os.kill(pids_of(server)["embed-0"], signal.SIGKILL)
    assert server.wait_for("worker died")["worker"] == "embed-0"
    with pytest.raises(grpc.RpcError) as caught:
        stubs.embedding.EmbedFaces(request, timeout=ANSWER_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert retry_after_s(caught.value) > 0
    assert best_of(stubs.identification.Identify(question(gallery_id, vector))) == "ada"
    while server.wait_for("worker ready")["worker"] != "embed-0":
        pass
    for each in workers.values():
        assert len(until_answered(each, request).outcomes[0].picture.faces) == 1


def until_answered(stubs: Stubs, request: embedding_pb2.EmbedFacesRequest) -> Any:
    """The answer, asked for anew while the worker has not reached the new embed worker."""
    while True:
        with contextlib.suppress(Unavailable):
            return ask(stubs, request)


class Unavailable(Exception):  # noqa: N818 - what a test waits for
    """Pictures cannot be embedded yet."""


def ask(stubs: Stubs, request: embedding_pb2.EmbedFacesRequest) -> Any:
    try:
        return stubs.embedding.EmbedFaces(request, timeout=ANSWER_S)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise Unavailable from error
        raise


def make_picture_gallery(stubs: Stubs, gallery_id: str) -> str:
    request = gallery_pb2.CreateGalleryRequest(gallery_id=gallery_id)
    return str(stubs.galleries.CreateGallery(request).gallery.gallery_id)


def retry_after_s(error: Any) -> float:
    status = rpc_status.from_call(error)
    delays: list[float] = []
    for detail in status.details:
        retry = RetryInfo()
        if detail.Unpack(retry):
            delays.append(retry.retry_delay.ToNanoseconds() / 1e9)
    (delay_s,) = delays
    return delay_s


def is_mapped(pid: int, library: str) -> bool:
    return library in Path(f"/proc/{pid}/maps").read_text()
