"""Calls of AdminService. Knows nothing of identities."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engine import rules
from engine.client.calls import Calls
from engine.client.values import BuildProgress, RecallProgress, ServerStatus, server_status
from engine.errors import EngineError
from engine.open_set_types import GalleryCalibration
from engine.pb.identiface.v1 import admin_pb2
from engine.wire.answers import unpack_agreement
from engine.wire.open_set import unpack_calibration


def _report_nothing(_share: float) -> None:
    """Takes progress that nobody asked for."""


class AdminCalls(Calls):
    """For operators."""

    def status(self, *, timeout_s: float | None = None) -> ServerStatus:
        """Ask what the server is and holds."""
        with self._pool.lease() as connection:
            answer = connection.admin.Status(admin_pb2.StatusRequest(), timeout=self._seconds(timeout_s))
        return server_status(answer)

    def build_index(self, gallery_id: str, *, timeout_s: float | None = None) -> Iterator[BuildProgress]:
        """Build a new generation of a gallery's index; yields how far it is, lastly with `is_done`.

        Searches go on meanwhile. Without `timeout_s` it may last as long as it likes. Raises
        GalleryNotFoundError, StorageFullError.
        """
        with self._pool.lease() as connection:
            request = admin_pb2.BuildIndexRequest(gallery_id=gallery_id)
            call = connection.admin.BuildIndex(request, timeout=timeout_s)
            try:
                for answer in call:
                    yield BuildProgress(
                        answer.num_done,
                        answer.num_total,
                        answer.is_done,
                        answer.generation,
                        answer.sequence,
                    )
            finally:
                call.cancel()

    def measure_recall(
        self, gallery_id: str, *, num_probes: int = 0, seed: int = 0, timeout_s: float | None = None
    ) -> Iterator[RecallProgress]:
        """Measure how often the default search finds what an exact scan finds; yields how far it is.

        The last has `agreement`, which Status shows from then on. With 0 `num_probes` the server takes 1,000.
        Without `timeout_s` it may last as long as it likes. Raises GalleryNotFoundError, InvalidInputError,
        PreconditionError where no index was built yet.
        """
        with self._pool.lease() as connection:
            request = admin_pb2.MeasureRecallRequest(gallery_id=gallery_id, num_probes=num_probes, seed=seed)
            call = connection.admin.MeasureRecall(request, timeout=timeout_s)
            try:
                for answer in call:
                    yield RecallProgress(
                        answer.num_done,
                        answer.num_total,
                        unpack_agreement(answer.agreement) if answer.is_done else None,
                        answer.generation,
                        answer.kind,
                    )
            finally:
                call.cancel()

    def calibrate_gallery(
        self,
        gallery_id: str,
        target_fpir: float | None = None,
        progress: Callable[[float], None] = _report_nothing,
        *,
        timeout_s: float | None = None,
    ) -> GalleryCalibration:
        """Turn a wished false-positive rate into a threshold for a gallery as it is now; changes nothing.

        `target_fpir` is between 0 and 1; None: the gallery's. `progress(share)` is told how much of the work
        is done, 0 to 1; what it raises ends the work. Without `timeout_s` it may last as long as it likes.
        Raises GalleryNotFoundError, InvalidInputError, PreconditionError where there is nothing to calibrate
        by.
        """
        rules.check_rate(target_fpir, "target_fpir")
        with self._pool.lease() as connection:
            request = admin_pb2.CalibrateRequest(gallery_id=gallery_id, target_fpir=target_fpir or 0.0)
            call = connection.admin.Calibrate(request, timeout=timeout_s)
            try:
                for answer in call:
                    progress(answer.progress)
                    if answer.is_done:
                        return unpack_calibration(answer)
            finally:
                call.cancel()
        raise EngineError(f"the server ended the calibration of {gallery_id} without an answer")
