"""Calls of AdminService. Knows nothing of identities."""

from __future__ import annotations

from collections.abc import Iterator

from engine.client.calls import Calls
from engine.client.values import BuildProgress, ServerStatus, server_status
from engine.pb.identiface.v1 import admin_pb2


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
