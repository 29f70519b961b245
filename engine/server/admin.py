"""AdminService: what the server holds, and long jobs on it. Translates; knows neither store nor index."""
# ruff: noqa: N802 - rpcs are named as the proto names them

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Generic, TypeVar

import engine
from engine import rules
from engine.errors import (
    GalleryNotFoundError,
    NotImplementedYetError,
    UnavailableError,
)
from engine.limits import RECALL_PROBES_DEFAULT
from engine.pb.identiface.v1 import admin_pb2 as pb
from engine.pb.identiface.v1.admin_pb2_grpc import AdminServiceServicer
from engine.server.backend import Backend
from engine.server.call import Call
from engine.types import GalleryInfo
from engine.wire.answers import pack_agreement
from engine.wire.open_set import pack_calibration, pack_probe_statistics, pack_thresholds
from engine.wire.values import pack_contract

T = TypeVar("T")
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
            num_workers=self._backend.num_workers,
        )

    def BuildIndex(self, request: pb.BuildIndexRequest, call: Call) -> Iterator[pb.BuildIndexResponse]:
        """Build a gallery's next generation, with progress."""
        gallery = self._backend.galleries.get(request.gallery_id)
        building = _Job(gallery.build)
        for num_done, num_total in building.progress(call):
            yield pb.BuildIndexResponse(num_done=num_done, num_total=num_total)
        generation, sequence = building.result()
        total = building.num_total
        yield pb.BuildIndexResponse(
            num_done=total, num_total=total, is_done=True, generation=generation, sequence=sequence
        )

    def MeasureRecall(
        self, request: pb.MeasureRecallRequest, call: Call
    ) -> Iterator[pb.MeasureRecallResponse]:
        """Measure how often the default search finds what an exact scan finds, with progress."""
        num_probes = request.num_probes or RECALL_PROBES_DEFAULT
        gallery = self._backend.galleries.get(request.gallery_id)
        measuring = _Job(lambda note: gallery.measure_recall(num_probes, request.seed, note))
        for num_done, num_total in measuring.progress(call):
            yield pb.MeasureRecallResponse(num_done=num_done, num_total=num_total)
        measured = measuring.result()
        yield pb.MeasureRecallResponse(
            num_done=measuring.num_total,
            num_total=measuring.num_total,
            is_done=True,
            agreement=pack_agreement(measured.agreement),
            generation=measured.generation,
            kind=measured.kind,
        )

    def Backup(self, _request: pb.BackupRequest, _call: Call) -> Iterator[pb.BackupResponse]:
        """Refuse: not in this version."""
        raise NotImplementedYetError("this version cannot back up while it serves")

    def Calibrate(self, request: pb.CalibrateRequest, call: Call) -> Iterator[pb.CalibrateResponse]:
        """Find a gallery's threshold for a target rate, with progress."""
        gallery = self._backend.galleries.get(request.gallery_id)
        # NaN is true: it is refused.
        target_fpir = request.target_fpir or None
        rules.check_rate(target_fpir, "target_fpir")
        calibrating = _Job(lambda note: gallery.calibrate(target_fpir, note))
        for num_done, num_total in calibrating.progress(call):
            yield pb.CalibrateResponse(progress=num_done / max(1, num_total))
        yield pack_calibration(calibrating.result())

    def _status(self, info: GalleryInfo) -> pb.GalleryStatus | None:
        try:
            gallery = self._backend.galleries.get(info.gallery_id)
            index, thresholds = gallery.index_status(), gallery.thresholds()
        except GalleryNotFoundError:
            return None  # deleted since it was listed
        counters = self._backend.galleries.probe_counters
        return pb.GalleryStatus(
            gallery_id=info.gallery_id,
            num_identities=info.num_identities,
            num_templates=info.num_templates,
            sequence=info.sequence,
            generation=index.generation,
            kind=index.kind,
            agreement=pack_agreement(index.agreement),
            search_device=index.search_device,
            thresholds=pack_thresholds(thresholds),
            probe_statistics=pack_probe_statistics(
                counters.of(info.gallery_id).report() if info.settings.has_probe_statistics else None
            ),
        )


class _Job(Generic[T]):
    """Long work on a thread of its own, which ends once nobody waits for it any more."""

    def __init__(self, work: Callable[[Callable[[int, int], None]], T]):
        """`work` is given what it must tell its progress to, and raises what that raises."""
        self._work = work
        self._done: futures.Future[T] | None = None
        self._is_abandoned = False
        self.num_done = 0
        self.num_total = 0

    def progress(self, call: Call) -> Iterator[tuple[int, int]]:
        """Work, and say every PROGRESS_S how far it is."""
        with futures.ThreadPoolExecutor(1, thread_name_prefix="admin-job") as pool:
            self._done = pool.submit(self._work, self._note)
            try:
                while not futures.wait([self._done], PROGRESS_S).done:
                    call.check_stream()
                    yield self.num_done, self.num_total
            finally:
                self._is_abandoned = True

    def result(self) -> T:
        """What the work gave, after `progress` has ended. Raises what it raised."""
        assert self._done is not None
        return self._done.result()

    def _note(self, num_done: int, num_total: int) -> None:
        if self._is_abandoned:
            raise UnavailableError("the caller of this work is gone")
        self.num_done, self.num_total = num_done, num_total
