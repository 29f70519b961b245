"""Calls of GalleryService. Knows nothing of identities."""

from __future__ import annotations

from typing import Unpack

from engine.client.calls import Calls, fresh
from engine.client.values import ServedGallery, served_gallery
from engine.gallery_settings import SettingsChanges, SettingsKeywords
from engine.limits import PAGE_ITEMS_MAX
from engine.pb.identiface.v1 import gallery_pb2
from engine.types import EmbeddingContract, GallerySettings
from engine.wire.galleries import pack_gallery_settings, pack_settings_changes
from engine.wire.values import pack_contract

DEFAULT_SETTINGS = GallerySettings()


class GalleryCalls(Calls):
    """Galleries and their aliases."""

    def create_gallery(
        self,
        gallery_id: str,
        contract: EmbeddingContract | None = None,
        settings: GallerySettings = DEFAULT_SETTINGS,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> ServedGallery:
        """Make an empty gallery; without a contract, it is bound to that of the server's network.

        Raises InvalidIdError, InvalidInputError, AlreadyExistsError, NoEmbedderError.
        """
        with self._pool.lease() as connection:
            request = gallery_pb2.CreateGalleryRequest(
                gallery_id=gallery_id,
                contract=None if contract is None else pack_contract(contract),
                settings=pack_gallery_settings(settings),
                request_id=fresh(request_id),
            )
            answer = connection.galleries.CreateGallery(request, timeout=self._seconds(timeout_s))
        return served_gallery(answer.gallery)

    def get_gallery(self, gallery_id: str, *, timeout_s: float | None = None) -> ServedGallery:
        """Describe a gallery, by name or alias. Raises GalleryNotFoundError."""
        with self._pool.lease() as connection:
            request = gallery_pb2.GetGalleryRequest(gallery_id=gallery_id)
            answer = connection.galleries.GetGallery(request, timeout=self._seconds(timeout_s))
        return served_gallery(answer.gallery)

    def list_galleries(self, *, timeout_s: float | None = None) -> list[ServedGallery]:
        """List all galleries in order of their ids; the time allowed is that of each page."""
        galleries: list[ServedGallery] = []
        page_token = ""
        while True:
            with self._pool.lease() as connection:
                request = gallery_pb2.ListGalleriesRequest(page_size=PAGE_ITEMS_MAX, page_token=page_token)
                answer = connection.galleries.ListGalleries(request, timeout=self._seconds(timeout_s))
            galleries.extend(served_gallery(gallery) for gallery in answer.galleries)
            if not answer.next_page_token:
                return galleries
            page_token = answer.next_page_token

    def update_gallery(
        self,
        gallery_id: str,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **changes: Unpack[SettingsKeywords],
    ) -> ServedGallery:
        """Change a gallery's settings, given as keywords: see engine.gallery_settings.SettingsChanges.

        What is not given, or None, stays as it was. A fixed threshold and a target_fpir exclude each other:
        setting one clears the other. Raises GalleryNotFoundError, InvalidInputError.
        """
        with self._pool.lease() as connection:
            request = pack_settings_changes(gallery_id, SettingsChanges(**changes), fresh(request_id))
            answer = connection.galleries.UpdateGallery(request, timeout=self._seconds(timeout_s))
        return served_gallery(answer.gallery)

    def delete_gallery(
        self, gallery_id: str, *, request_id: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Remove a gallery and all its files; an alias does not do here.

        Raises GalleryNotFoundError, PreconditionError while an alias points to it.
        """
        with self._pool.lease() as connection:
            request = gallery_pb2.DeleteGalleryRequest(gallery_id=gallery_id, request_id=fresh(request_id))
            connection.galleries.DeleteGallery(request, timeout=self._seconds(timeout_s))

    def set_alias(
        self, alias: str, gallery_id: str, *, request_id: str | None = None, timeout_s: float | None = None
    ) -> str:
        """Make an alias or move it, atomically; returns the gallery it named before, empty if it is new.

        Raises InvalidIdError, GalleryNotFoundError, AlreadyExistsError where a gallery has that name.
        """
        with self._pool.lease() as connection:
            request = gallery_pb2.SetAliasRequest(
                alias=alias, gallery_id=gallery_id, request_id=fresh(request_id)
            )
            answer = connection.galleries.SetAlias(request, timeout=self._seconds(timeout_s))
        return str(answer.previous_gallery_id)

    def delete_alias(
        self, alias: str, *, request_id: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Forget an alias; its gallery stays. Raises GalleryNotFoundError where there is no such alias."""
        with self._pool.lease() as connection:
            request = gallery_pb2.DeleteAliasRequest(alias=alias, request_id=fresh(request_id))
            connection.galleries.DeleteAlias(request, timeout=self._seconds(timeout_s))
