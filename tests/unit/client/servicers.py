"""Small real servicers that answer what the client's tests need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from engine.errors import (
    EngineError,
    GalleryNotFoundError,
    UndecodablePictureError,
)
from engine.pb.identiface.v1 import (
    admin_pb2,
    enrollment_pb2,
    gallery_pb2,
    identification_pb2,
    types_pb2,
)
from engine.pb.identiface.v1.admin_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server
from engine.pb.identiface.v1.enrollment_pb2_grpc import (
    EnrollmentServiceServicer,
    add_EnrollmentServiceServicer_to_server,
)
from engine.pb.identiface.v1.gallery_pb2_grpc import (
    GalleryServiceServicer,
    add_GalleryServiceServicer_to_server,
)
from engine.pb.identiface.v1.identification_pb2_grpc import (
    IdentificationServiceServicer,
    add_IdentificationServiceServicer_to_server,
)
from engine.wire.answers import pack_receipt
from engine.wire.errors import to_status

UNIT = np.array([0.6, 0.8], np.float32)
Start = Callable[..., str]


class Blocked(AdminServiceServicer):
    """Answers once it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.peers: list[str] = []

    def Status(self, request: admin_pb2.StatusRequest, context: grpc.ServicerContext) -> Any:
        self.peers.append(context.peer())
        self.entered.release()
        self.let_go.wait(60)
        return admin_pb2.StatusResponse(version="1", device="none")


class Calibrating(AdminServiceServicer):
    """Tells progress, then the calibration given; without one the stream ends."""

    def __init__(self, answer: admin_pb2.CalibrateResponse | None):
        self.answer = answer
        self.requests: list[admin_pb2.CalibrateRequest] = []

    def Calibrate(
        self, request: admin_pb2.CalibrateRequest, context: grpc.ServicerContext
    ) -> Iterator[admin_pb2.CalibrateResponse]:
        self.requests.append(request)
        for progress in (0.0, 0.5):
            yield admin_pb2.CalibrateResponse(progress=progress)
        if self.answer is not None:
            yield self.answer


class Failing(GalleryServiceServicer):
    """Fails with the errors given, in turn, then answers."""

    def __init__(self, *errors: EngineError):
        self.errors = list(errors)
        self.requests: list[Any] = []

    def GetGallery(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self._fail(context)
        return gallery_pb2.GetGalleryResponse(
            gallery=gallery_pb2.Gallery(gallery_id="staff", aliases=["all"])
        )

    def DeleteGallery(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self._fail(context)
        return gallery_pb2.DeleteGalleryResponse()

    def UpdateGallery(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self._fail(context)
        return gallery_pb2.UpdateGalleryResponse(
            gallery=gallery_pb2.Gallery(gallery_id="staff", settings=request.settings)
        )

    def ListGalleries(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request.page_token)
        last = "c" if request.page_token else ""
        ids = ["c"] if last else ["a", "b"]
        galleries = [gallery_pb2.Gallery(gallery_id=gallery_id) for gallery_id in ids]
        return gallery_pb2.ListGalleriesResponse(galleries=galleries, next_page_token="" if last else "page2")

    def _fail(self, context: grpc.ServicerContext) -> None:
        if self.errors:
            context.abort_with_status(rpc_status.to_status(to_status(self.errors.pop(0))))


class Enrolling(EnrollmentServiceServicer):
    """Answers every item with its number of samples; an item named "bad" with an error."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Enroll(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return enrollment_pb2.EnrollResponse(
            receipt=pack_receipt(7), num_added=len(request.enrollment.samples)
        )

    def EnrollStream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for sequence, request in enumerate(requests, start=1):
            self.requests.append(request)
            if request.gallery_id == "gone":
                context.abort_with_status(
                    rpc_status.to_status(to_status(GalleryNotFoundError("no gallery gone")))
                )
            answer = enrollment_pb2.EnrollStreamResponse(receipt=pack_receipt(sequence))
            for item in request.enrollments:
                if item.identity_id == "bad":
                    answer.outcomes.add(error=to_status(UndecodablePictureError("no picture")))
                else:
                    enrolled = enrollment_pb2.EnrollResponse(
                        receipt=pack_receipt(sequence), num_added=len(item.samples)
                    )
                    answer.outcomes.add(enrolled=enrolled)
            yield answer


class Identifying(IdentificationServiceServicer):
    """Answers each probe with one candidate, named after its bytes; remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Identify(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return _identified(request.probe)

    def IdentifyStream(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            self.requests.append(request)
            outcomes = [
                identification_pb2.IdentifyOutcome(identified=_identified(probe)) for probe in request.probes
            ]
            yield identification_pb2.IdentifyStreamResponse(outcomes=outcomes)

    def Verify(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return identification_pb2.VerifyResponse(
            decision=types_pb2.DECISION_NO_MATCH,
            similarity=0.25,
            threshold=0.5,
            threshold_origin=types_pb2.THRESHOLD_ORIGIN_REQUEST,
        )


def _identified(probe: Any) -> Any:
    name = probe.picture.data.decode() if probe.WhichOneof("content") == "picture" else "vector"
    face = identification_pb2.FaceIdentification(
        decision=types_pb2.DECISION_MATCH,
        candidates=[types_pb2.Candidate(identity_id=name, similarity=0.5, template_id=1)],
        threshold_origin=types_pb2.THRESHOLD_ORIGIN_CONTRACT,
    )
    return identification_pb2.IdentifyResponse(faces=[face])


ADDERS: dict[type, Callable[[Any, grpc.Server], None]] = {
    AdminServiceServicer: add_AdminServiceServicer_to_server,
    EnrollmentServiceServicer: add_EnrollmentServiceServicer_to_server,
    GalleryServiceServicer: add_GalleryServiceServicer_to_server,
    health_pb2_grpc.HealthServicer: health_pb2_grpc.add_HealthServicer_to_server,
    IdentificationServiceServicer: add_IdentificationServiceServicer_to_server,
}
