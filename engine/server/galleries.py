"""GalleryService: which galleries there are. Translates; knows nothing of what they hold."""
# ruff: noqa: N802 - rpcs are named as the proto names them

from __future__ import annotations

from collections import defaultdict

from engine.errors import InvalidInputError, NoEmbedderError
from engine.pb.identiface.v1 import gallery_pb2 as pb
from engine.pb.identiface.v1.gallery_pb2_grpc import GalleryServiceServicer
from engine.server.backend import Backend
from engine.server.call import Call
from engine.server.pages import page_of
from engine.server.receipts import store_once
from engine.types import EmbeddingContract
from engine.wire.answers import pack_receipt
from engine.wire.galleries import pack_gallery, unpack_gallery_settings, unpack_settings_changes
from engine.wire.values import unpack_contract


class GalleryService(GalleryServiceServicer):
    """See identiface/v1/gallery.proto."""

    def __init__(self, backend: Backend):
        self._backend = backend
        self._galleries = backend.galleries

    def CreateGallery(self, request: pb.CreateGalleryRequest, call: Call) -> pb.CreateGalleryResponse:
        """Make an empty gallery."""
        contract = self._contract(request)
        settings = unpack_gallery_settings(request.settings)
        return store_once(
            call,
            request,
            pb.CreateGalleryResponse,
            find=self._galleries.find_receipt,
            write=lambda receipt: self._galleries.create(
                request.gallery_id, contract, settings, receipt=receipt
            ),
            pack=lambda info: pb.CreateGalleryResponse(gallery=pack_gallery(info)),
        )

    def GetGallery(self, request: pb.GetGalleryRequest, call: Call) -> pb.GetGalleryResponse:
        """Describe a gallery."""
        with call.stage("store"):
            info = self._galleries.get(request.gallery_id).info()
            names = self._names()
        return pb.GetGalleryResponse(gallery=pack_gallery(info, names[info.gallery_id]))

    def ListGalleries(self, request: pb.ListGalleriesRequest, call: Call) -> pb.ListGalleriesResponse:
        """List one page of galleries."""
        with call.stage("store"):
            page, token = page_of(
                lambda after, limit: self._galleries.infos(after=after, limit=limit),
                lambda info: info.gallery_id,
                request.page_size,
                request.page_token,
            )
            names = self._names()
        return pb.ListGalleriesResponse(
            galleries=[pack_gallery(info, names[info.gallery_id]) for info in page],
            next_page_token=token,
        )

    def UpdateGallery(self, request: pb.UpdateGalleryRequest, call: Call) -> pb.UpdateGalleryResponse:
        """Change a gallery's settings."""
        gallery = self._galleries.get(request.gallery_id)
        settings = request.settings
        if settings.HasField("keep_crops") and settings.keep_crops != gallery.keeps_crops:
            raise InvalidInputError(
                f"settings.keep_crops of gallery {gallery.gallery_id!r} was chosen at its creation and stays"
                f" {gallery.keeps_crops}",
                hint="Create another gallery, and enroll the pictures there.",
            )
        changes = unpack_settings_changes(request)
        return store_once(
            call,
            request,
            pb.UpdateGalleryResponse,
            find=gallery.find_receipt,
            write=lambda receipt: gallery.update(receipt=receipt, **changes),
            pack=lambda info: pb.UpdateGalleryResponse(
                gallery=pack_gallery(info, self._names()[info.gallery_id]),
                receipt=pack_receipt(info.sequence),
            ),
        )

    def DeleteGallery(self, request: pb.DeleteGalleryRequest, call: Call) -> pb.DeleteGalleryResponse:
        """Remove a gallery and its files."""
        return store_once(
            call,
            request,
            pb.DeleteGalleryResponse,
            find=self._galleries.find_receipt,
            write=lambda receipt: self._galleries.delete(request.gallery_id, receipt=receipt),
            pack=lambda _: pb.DeleteGalleryResponse(),
        )

    def SetAlias(self, request: pb.SetAliasRequest, call: Call) -> pb.SetAliasResponse:
        """Make an alias or move it."""
        return store_once(
            call,
            request,
            pb.SetAliasResponse,
            find=self._galleries.find_receipt,
            write=lambda receipt: self._galleries.set_alias(
                request.alias, request.gallery_id, receipt=receipt
            ),
            pack=lambda previous: pb.SetAliasResponse(previous_gallery_id=previous),
        )

    def DeleteAlias(self, request: pb.DeleteAliasRequest, call: Call) -> pb.DeleteAliasResponse:
        """Forget an alias."""
        return store_once(
            call,
            request,
            pb.DeleteAliasResponse,
            find=self._galleries.find_receipt,
            write=lambda receipt: self._galleries.delete_alias(request.alias, receipt=receipt),
            pack=lambda _: pb.DeleteAliasResponse(),
        )

    def _contract(self, request: pb.CreateGalleryRequest) -> EmbeddingContract:
        if request.HasField("contract"):
            return unpack_contract(request.contract)
        if self._backend.contract is None:
            raise NoEmbedderError(
                "no contract given, and this server has no network whose contract it could take",
                hint="Give the contract of your vectors, or start the server with --model.",
            )
        return self._backend.contract

    def _names(self) -> defaultdict[str, list[str]]:
        """Aliases by the gallery that they name."""
        names: defaultdict[str, list[str]] = defaultdict(list)
        for alias, gallery_id in self._galleries.aliases().items():
            names[gallery_id].append(alias)
        return names
