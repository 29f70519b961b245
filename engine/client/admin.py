"""Calls of AdminService. Knows nothing of identities."""

from __future__ import annotations

from collections.abc import Iterator

from engine.client.calls import Calls
from engine.client.values import BuildProgress, RecallProgress, ServerStatus, server_status
from engine.pb.identiface.v1 import admin_pb2
from engine.wire.answers import unpack_agreement


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
