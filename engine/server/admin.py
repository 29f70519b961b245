"""AdminService: what the server holds, and long jobs on it. Translates; knows neither store nor index."""
# ruff: noqa: N802 - rpcs are named as the proto names them

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures

import engine
from engine.errors import GalleryNotFoundError, NotImplementedYetError, UnavailableError
from engine.pb.identiface.v1 import admin_pb2 as pb
from engine.pb.identiface.v1.admin_pb2_grpc import AdminServiceServicer
from engine.server.backend import Backend
from engine.server.call import Call
from engine.types import GalleryInfo
from engine.wire.values import pack_contract

PROGRESS_S = 0.25
"""Time between two messages of progress, seconds."""


class AdminService(AdminServiceServicer):
    """See identiface/v1/admin.proto."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def Status(self, _request: pb.StatusRequest, call: Call) -> pb.StatusResponse:
        """Say what the server is and holds."""
        contract = self._backend.contract
        with call.stage("store"):
            galleries = [status for info in self._backend.infos() if (status := self._status(info))]
        return pb.StatusResponse(
            version=engine.__version__,
            device=self._backend.device,
            contract=None if contract is None else pack_contract(contract),
            galleries=galleries,
        )

    def BuildIndex(self, request: pb.BuildIndexRequest, call: Call) -> Iterator[pb.BuildIndexResponse]:
        """Build a gallery's next generation, with progress."""
        gallery = self._backend.galleries.get(request.gallery_id)
        progress = _Progress()
        with futures.ThreadPoolExecutor(1, thread_name_prefix="build-index") as pool:
            build = pool.submit(gallery.build, progress.note)
            try:
                while not futures.wait([build], PROGRESS_S).done:
                    call.check_stream()
                    yield pb.BuildIndexResponse(num_done=progress.num_done, num_total=progress.num_total)
            finally:
                progress.is_abandoned = True
            generation, sequence = build.result()
        total = progress.num_total
        yield pb.BuildIndexResponse(
            num_done=total, num_total=total, is_done=True, generation=generation, sequence=sequence
        )

    def Backup(self, _request: pb.BackupRequest, _call: Call) -> Iterator[pb.BackupResponse]:
        """Refuse: not in this version."""
        raise NotImplementedYetError("this version cannot back up while it serves")

    def Calibrate(self, _request: pb.CalibrateRequest, _call: Call) -> Iterator[pb.CalibrateResponse]:
        """Refuse: not in this version."""
        raise NotImplementedYetError("this version cannot calibrate a threshold")

    def _status(self, info: GalleryInfo) -> pb.GalleryStatus | None:
        try:
            generation = self._backend.galleries.get(info.gallery_id).generation()
        except GalleryNotFoundError:
            return None  # deleted since it was listed
        return pb.GalleryStatus(
            gallery_id=info.gallery_id,
            num_identities=info.num_identities,
            num_templates=info.num_templates,
            sequence=info.sequence,
            generation=generation,
        )


class _Progress:
    """How far a build is; ends it once nobody waits for it any more."""

    def __init__(self) -> None:
        self.num_done = 0
        self.num_total = 0
        self.is_abandoned = False

    def note(self, num_done: int, num_total: int) -> None:
        """Be told by the build."""
        if self.is_abandoned:
            raise UnavailableError("the caller of this build is gone")
        self.num_done, self.num_total = num_done, num_total
